//! The reasons why a server is of no use.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::frame::FrameError;
use crate::stun::transaction::Fault;
use crate::stun::wire::WireError;
use crate::text::ForeignText;

/// A reason why there is no allocation, or no connection through one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The server gave no answer, a refusal, or an answer that cannot be understood.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The server answered 401 to a request that was signed for its own challenge.
    #[error("the TURN server does not accept the user name and password, or they have expired")]
    WrongCredentials,
    /// A challenge lacks realm or nonce.
    #[error("the TURN server wants credentials and does not say for which realm or nonce")]
    NoChallenge,
    /// The realm is another than before. Somebody between us can say so; see [`turn`](crate::turn).
    #[error("the TURN server's realm was {from:?} and is {to:?} now")]
    RealmChanged {
        /// The realm as it was.
        from: ForeignText,
        /// The realm as it is said to be.
        to: ForeignText,
    },
    /// The server's nonce promises password algorithms, but there are none, none we know, or fewer than before.
    /// Somebody may have struck them out (RFC 8489, section 9.2.1).
    #[error("the TURN server offers no password algorithm we can use, or somebody took it out")]
    SteppedDown,
    /// The server sent challenge after challenge.
    #[error("the TURN server called every nonce stale, even its newest")]
    StaleForEver,
    /// The server answered 300, which sends us to another server.
    #[error("the TURN server sends us to {to}")]
    Redirected {
        /// The address of that server.
        to: SocketAddr,
        /// The name in its certificate, when it is another.
        domain: Option<String>,
    },
    /// The server named an address that nobody can have, or that is somebody else's.
    #[error("the TURN server says {address}, which cannot be: {why}")]
    Absurd {
        /// The address that was named.
        address: SocketAddr,
        /// The fault of the address.
        why: &'static str,
    },
    /// A success lacks a relayed address of a family that was asked for, or a lifetime.
    #[error("the TURN server says yes and gives no {0}")]
    Missing(&'static str),
    /// The allocation ended: the server forgot it, was not heard until its end, or did not give another.
    #[error("the allocation ended: {0}")]
    Lapsed(&'static str),
    /// The connection to the server was not established in time.
    #[error("no connection to the TURN server within {0:?}")]
    NoConnection(Duration),
    /// The connection to the server could not be made or broke.
    #[error("the connection to the TURN server failed{}", .0.map(|why| format!(": {why}")).unwrap_or_default())]
    Closed(Option<io::ErrorKind>),
    /// The server speaks another protocol.
    #[error(transparent)]
    Garbage(#[from] FrameError),
    /// The realm, nonce and user name together are longer than a message may be.
    #[error("a request with this challenge cannot be written: {0}")]
    Unwritable(#[from] WireError),
    /// Another server was faster, or the user has gone.
    #[error("not needed any more")]
    Spared,
    /// There were too many redirections, or they led in a circle.
    #[error("the TURN servers send us in a circle, or too far: not following to {0}")]
    Circle(SocketAddr),
}

impl Failure {
    /// Returns the number of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Fault(Fault::Refused { code, .. }) => Some(*code),
            _ => None,
        }
    }

    /// Tells whether the server itself said so, with proof.
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, Self::Fault(Fault::Refused { is_signed: true, .. }))
    }

    /// Tells whether the server was not heard at all, provably.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Fault(Fault::Silent | Fault::Unsigned | Fault::Unreachable(_)))
    }
}
