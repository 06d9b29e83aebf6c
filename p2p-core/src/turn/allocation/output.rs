//! What an allocation tells, and how it says no.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::stun::transaction;
use crate::text::ForeignText;
use crate::turn::{Failure, Packet};
use crate::{Family, Mapped, Output, Relayed};

/// What stands for us on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The relayed addresses: one, or one of each family.
    pub relayed: Vec<Relayed>,
    /// How the server sees us.
    pub mapped: Option<Mapped>,
    /// How long the server keeps it without being asked again.
    pub lifetime: Duration,
    /// The family that was asked for as well and is not there, with the server's code: 440 or 508.
    pub missing: Option<(Family, u16)>,
    /// What the server calls itself (SOFTWARE; RFC 8489, section 14.14).
    pub software: Option<ForeignText>,
}

/// Names one connection of a peer on a server (RFC 6062, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// What an allocation tells.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// It stands.
    Allocated(Lease),
    /// The server had forgotten it; another stands in its place, and its permissions and channels are being
    /// renewed. **The relayed addresses are others now**: tell the peers.
    Moved(Lease),
    /// A peer at this address may send to us, and we to it.
    Permitted(IpAddr),
    /// The server does not let this peer through: 403, 443. It is forgotten.
    Refused(IpAddr, Failure),
    /// Data for this peer goes by a channel now.
    Bound(SocketAddr),
    /// A peer sent this.
    Data {
        /// Who.
        peer: SocketAddr,
        /// What.
        data: Bytes,
    },
    /// A permitted peer has dialled our relayed address (RFC 6062): take it within 30 s by a
    /// [`DataConnection`](crate::turn::data::DataConnection), or it is gone.
    Attempt {
        /// Who.
        peer: SocketAddr,
        /// Which.
        connection: ConnectionId,
    },
    /// The server has dialled the peer (RFC 6062): take it as an `Attempt`.
    Connected {
        /// Whom.
        peer: SocketAddr,
        /// Which.
        connection: ConnectionId,
    },
    /// The server could not dial the peer: 403, 446, 447 and others.
    NotConnected {
        /// Whom.
        peer: SocketAddr,
        /// Why not.
        failure: Failure,
    },
    /// The server does not answer, or refuses to renew without proof that the refusal is its own. The allocation
    /// may still work and is tried to be kept to its end. Told once until `Recovered`.
    Trouble(Failure),
    /// The server answers again.
    Recovered,
    /// There is no allocation, or not any more. The last word.
    Failed(Failure),
    /// It was given back after `close`, as far as that can be known. The last word.
    Closed,
}

/// Payload belongs into no log.
impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allocated(lease) => f.debug_tuple("Allocated").field(lease).finish(),
            Self::Moved(lease) => f.debug_tuple("Moved").field(lease).finish(),
            Self::Permitted(peer) => write!(f, "Permitted({peer})"),
            Self::Refused(peer, why) => write!(f, "Refused({peer}, {why})"),
            Self::Bound(peer) => write!(f, "Bound({peer})"),
            Self::Data { peer, data } => write!(f, "Data({peer}, {} bytes)", data.len()),
            Self::Attempt { peer, connection } => write!(f, "Attempt({peer}, {connection:?})"),
            Self::Connected { peer, connection } => write!(f, "Connected({peer}, {connection:?})"),
            Self::NotConnected { peer, failure } => write!(f, "NotConnected({peer}, {failure})"),
            Self::Trouble(why) => write!(f, "Trouble({why})"),
            Self::Recovered => f.write_str("Recovered"),
            Self::Failed(why) => write!(f, "Failed({why})"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

/// An output of an allocation: packets for the server, events for the owner.
pub type AllocationOutput = Output<Packet, Event>;

/// What cannot be asked for: the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// More than [`MOST_PEERS`](super::MOST_PEERS).
    #[error("more than {} peers on one allocation", super::MOST_PEERS)]
    TooManyPeers,
    /// Unspecified, multicast, port 0.
    #[error("no peer can be at this address")]
    Nowhere,
    /// There is no relayed address of the peer's family, and none was asked for.
    #[error("no relayed address of {0} was asked for")]
    Family(Family),
    /// Data and channels on an allocation for TCP, or connections on one for UDP.
    #[error("the allocation relays another transport")]
    Transport,
    /// Not there yet, failed or closed.
    #[error("there is no allocation")]
    NoAllocation,
    /// No `Permitted` so far.
    #[error("the server does not let this peer through yet")]
    NotPermitted,
    /// Above what the way to this peer takes: 65,535 bytes by a channel; before there is one, what fits in one
    /// message with its headers, which for 1,200 bytes is always the case.
    #[error("{0} bytes are too many for one datagram to this peer")]
    TooLarge(usize),
    /// More connections under way than the machine keeps.
    #[error("too many connections under way")]
    TooManyConnections,
}

/// What came and was dropped, and what was sent to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of requests and their answers.
    pub requests: transaction::Counters,
    /// Neither STUN nor ChannelData, or broken.
    pub garbage: u64,
    /// Answers to nothing we asked.
    pub foreign: u64,
    /// Data or connections of peers that were not permitted, and channels that were not bound.
    pub strangers: u64,
    /// STUN messages too large to be read.
    pub oversize: u64,
}
