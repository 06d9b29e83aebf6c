//! Why a server is of no use to us.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::frame::FrameError;
use crate::stun::transaction::Fault;
use crate::stun::wire::WireError;
use crate::text::ForeignText;

/// Why there is no allocation, or no connection through one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No answer, a refusal, or one that cannot be understood.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// 401 to a request that was signed for the server's own challenge.
    #[error("the TURN server does not accept the user name and password, or they have expired")]
    WrongCredentials,
    /// A challenge without realm or nonce.
    #[error("the TURN server wants credentials and does not say for which realm or nonce")]
    NoChallenge,
    /// The realm is another than before. Somebody between us can say so; see the documentation of the room.
    #[error("the TURN server's realm was {from:?} and is {to:?} now")]
    RealmChanged {
        /// As it was.
        from: ForeignText,
        /// As it is said to be.
        to: ForeignText,
    },
    /// The server's nonce promises password algorithms and there are none, or none we know, or fewer than
    /// before: somebody may have struck them out (RFC 8489, section 9.2.1).
    #[error("the TURN server offers no password algorithm we can use, or somebody took it out")]
    SteppedDown,
    /// Challenge after challenge.
    #[error("the TURN server called every nonce stale, even its newest")]
    StaleForEver,
    /// 300: go there instead.
    #[error("the TURN server sends us to {to}")]
    Redirected {
        /// Where.
        to: SocketAddr,
        /// The name in its certificate, when it is another.
        domain: Option<String>,
    },
    /// An address nobody can have, or one that is somebody else's.
    #[error("the TURN server says {address}, which cannot be: {why}")]
    Absurd {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A success without a relayed address of a family that was asked for, or without lifetime.
    #[error("the TURN server says yes and gives no {0}")]
    Missing(&'static str),
    /// The server has forgotten it, was not heard of until its end, or did not give another.
    #[error("the allocation ended: {0}")]
    Lapsed(&'static str),
    /// The connection to the server was not there in time.
    #[error("no connection to the TURN server within {0:?}")]
    NoConnection(Duration),
    /// The connection to the server could not be made or broke.
    #[error("the connection to the TURN server failed{}", .0.map(|why| format!(": {why}")).unwrap_or_default())]
    Closed(Option<io::ErrorKind>),
    /// The server speaks something else.
    #[error(transparent)]
    Garbage(#[from] FrameError),
    /// Realm, nonce and user name together are longer than a message may be.
    #[error("a request with this challenge cannot be written: {0}")]
    Unwritable(#[from] WireError),
    /// Another server was faster, or the user is gone.
    #[error("not needed any more")]
    Spared,
    /// Too many redirections, or in a circle.
    #[error("the TURN servers send us in a circle, or too far: not following to {0}")]
    Circle(SocketAddr),
}

impl Failure {
    /// The number of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Fault(Fault::Refused { code, .. }) => Some(*code),
            _ => None,
        }
    }

    /// Whether the server itself said so, provably.
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, Self::Fault(Fault::Refused { is_signed: true, .. }))
    }

    /// Whether the server was not heard at all, provably.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Fault(Fault::Silent | Fault::Unsigned | Fault::Unreachable(_)))
    }
}
