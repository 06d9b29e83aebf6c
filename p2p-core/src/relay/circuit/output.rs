//! What a circuit wants done, and what it tells.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::relay::RelayOffer;
use crate::transport::TransportError;
use crate::turn::client::{Conn, Place};
use crate::turn::{Packet, Relaying};

/// A way to a TURN server: a datagram socket or a connection. Never used twice by one circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// What the server relays on it.
    pub relaying: Relaying,
    pub(super) conn: Conn,
}

/// Where a datagram is to be sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// A UDP socket of our own, to this address. One socket for each family, made when it is first needed, which stays
    /// until the end; what comes to it belongs into [`handle_bare`](super::Circuit::handle_bare).
    Bare(SocketAddr),
    /// This way to a server.
    Server(Way),
}

/// What to do. Acts on one [`Way`] are done in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open a way to a server; see [`turn::client::Act::Open`](crate::turn::client::Act::Open).
    Open {
        /// What it is called from now on.
        way: Way,
        /// Where to.
        place: Place,
    },
    /// Send this on it: one datagram, or a piece of the stream.
    Transmit {
        /// On which.
        way: Way,
        /// What.
        packet: Packet,
    },
    /// Close it, or stop opening it.
    Close {
        /// Which.
        way: Way,
    },
    /// Send this datagram. On a stream it is already filled up to four bytes.
    Datagram {
        /// From where.
        via: Via,
        /// What.
        bytes: Bytes,
    },
    /// Send this to the peer by sealed signal.
    Signal(RelayOffer),
    /// Dial this address, which a TURN server lends the peer for connections, and tell by
    /// [`handle_dialled`](super::Circuit::handle_dialled).
    Dial(SocketAddr),
}

/// What a circuit tells.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// Datagrams come through: the stream can be used. Told once.
    Up,
    /// A peer's connection through our server. It belongs to whoever hears this, with what was said already; it ends
    /// when the circuit does.
    Arrived {
        /// Which.
        way: Way,
        /// Whose: anybody at an address that was let through.
        peer: SocketAddr,
        /// What came on it.
        early: Bytes,
    },
    /// There is something to read; see [`Stream`](crate::transport::Stream).
    Readable,
    /// There is room to write.
    Writable,
    /// The stream is over, well or not.
    Ended(Option<TransportError>),
    /// Nothing came through, and why. The last word but `Closed`.
    Failed(CircuitFailure),
    /// Everything was given back. The last word.
    Closed,
}

/// Payload belongs into no log.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("Up"),
            Self::Arrived { way, peer, early } => {
                write!(f, "Arrived({way:?}, {peer}, {} bytes)", early.len())
            }
            Self::Readable => f.write_str("Readable"),
            Self::Writable => f.write_str("Writable"),
            Self::Ended(error) => f.debug_tuple("Ended").field(error).finish(),
            Self::Failed(failure) => write!(f, "Failed({failure})"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

/// Why nothing came through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CircuitFailure {
    /// Neither end has a TURN server.
    #[error("no TURN server is configured here, and the peer has none either")]
    NoServer,
    /// Our servers give nothing, and the peer has nothing that we could use.
    #[error("no relayed address: {0}; and the peer has none either")]
    NoAddress(String),
    /// The peer was told and said nothing.
    #[error("the peer was told of the relay and did not answer")]
    Silent,
    /// Both ends know of each other, and no datagram came through.
    #[error("nothing came through any relay{}", if .0.is_empty() { String::new() } else { format!(": {}", .0) })]
    Blocked(String),
}

codes!(CircuitFailure {
    Self::NoServer => "no_turn_server",
    Self::NoAddress(_) => "no_relayed_address",
    Self::Silent => "silent",
    Self::Blocked(_) => "relay_blocked",
});
