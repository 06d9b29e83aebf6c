//! One TCP connection of an attempt, and what operating systems say when it fails.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use p2p_core::attempt::DialError;
use p2p_core::candidate::Candidate;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::carrier::CarrierStream;
use crate::interface::bind;

/// How long one dial may take. Linux would go on for over two minutes.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// Dials one candidate.
pub(crate) async fn dial(candidate: Candidate) -> Result<CarrierStream, DialError> {
    let dialled = async {
        match candidate.from {
            Some(from) => bind::dial(from.0, candidate.target, None).await,
            // Unbound, the system chooses address and port, and can use a port for several targets.
            None => TcpStream::connect(candidate.target).await,
        }
    };
    let stream = match timeout(DIAL_WITHIN, dialled).await {
        Ok(dialled) => dialled.map_err(|error| failure(&error))?,
        Err(_) => return Err(DialError::TimedOut),
    };
    // A socket that dials its own port from its own address connects to itself.
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(remote)) if local == remote => Err(DialError::Refused),
        (Ok(_), Ok(_)) => Ok(CarrierStream::tcp(stream)),
        (Err(error), _) | (_, Err(error)) => Err(failure(&error)),
    }
}

/// Whose fault a failed dial is.
pub(super) fn failure(error: &Error) -> DialError {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => DialError::Refused,
        ErrorKind::TimedOut => DialError::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            DialError::Unreachable(error.to_string())
        }
        _ => DialError::Local(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_culprit() {
        let of = |kind: ErrorKind| failure(&Error::from(kind));
        assert_eq!(of(ErrorKind::ConnectionRefused), DialError::Refused);
        assert_eq!(of(ErrorKind::TimedOut), DialError::TimedOut);
        assert!(matches!(of(ErrorKind::NetworkUnreachable), DialError::Unreachable(_)));
        assert!(matches!(of(ErrorKind::AddrNotAvailable), DialError::Local(_)));
    }
}
