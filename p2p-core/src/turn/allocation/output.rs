//! The events of an allocation, and its refusals.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::stun::transaction;
use crate::text::ForeignText;
use crate::turn::data::ConnectionId;
use crate::turn::{Failure, Packet};
use crate::{Family, Mapped, Output, Relayed};

/// The addresses that stand for us on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The relayed addresses: one, or one of each family.
    pub relayed: Vec<Relayed>,
    /// The address from which the server sees us come.
    pub mapped: Option<Mapped>,
    /// The time that the server keeps it without being asked again.
    pub lifetime: Duration,
    /// The family that was asked for as well and is not there, with the server's code: 440 or 508.
    pub missing: Option<(Family, u16)>,
    /// The name that the server gives itself (SOFTWARE; RFC 8489, section 14.14).
    pub software: Option<ForeignText>,
}

/// An event of an allocation.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// The server has made the allocation.
    Allocated(Lease),
    /// The server had forgotten the allocation, and another stands in its place. Its permissions and channels are
    /// being renewed. **The relayed addresses are others now**, which the peers must be told.
    Moved(Lease),
    /// A peer at this address may send to us, and we to it.
    Permitted(IpAddr),
    /// The server does not let this peer through (403, 443). The peer is forgotten.
    Refused(IpAddr, Failure),
    /// Data for this peer goes by a channel now.
    Bound(SocketAddr),
    /// A peer sent data.
    Data {
        /// The address of the peer.
        peer: SocketAddr,
        /// The bytes it sent.
        data: Bytes,
    },
    /// A permitted peer has dialled our relayed address (RFC 6062). It must be taken within 30 s by a
    /// [`DataConnection`](crate::turn::data::DataConnection), or it is gone.
    Attempt {
        /// The address of the peer.
        peer: SocketAddr,
        /// The number of the connection.
        connection: ConnectionId,
    },
    /// The server has dialled the peer (RFC 6062). It must be taken as an `Attempt`.
    Connected {
        /// The address of the peer.
        peer: SocketAddr,
        /// The number of the connection.
        connection: ConnectionId,
    },
    /// The server could not dial the peer: 403, 446, 447 and others.
    NotConnected {
        /// The address of the peer.
        peer: SocketAddr,
        /// The reason why not.
        failure: Failure,
    },
    /// The server does not answer, or refuses to renew without proof that the refusal is its own. The allocation may
    /// still work, and we try to keep it to its end. It is told once until `Recovered`.
    Trouble(Failure),
    /// The server answers again.
    Recovered,
    /// There is no allocation, or not any more. It is the last event.
    Failed(Failure),
    /// The allocation was given back after `close`, as far as that can be known. It is the last event.
    Closed,
}

/// Shows events without payload, which belongs into no log.
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

/// A request that is impossible, which is the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// There would be more than [`MOST_PEERS`](super::MOST_PEERS) peers.
    #[error("more than {} peers on one allocation", super::MOST_PEERS)]
    TooManyPeers,
    /// The address is unspecified or multicast, or has port 0.
    #[error("no peer can be at this address")]
    Nowhere,
    /// There is no relayed address of the peer's family, and none was asked for.
    #[error("no relayed address of {0} was asked for")]
    Family(Family),
    /// Data and channels were asked for on an allocation for TCP, or connections on one for UDP.
    #[error("the allocation relays another transport")]
    Transport,
    /// The allocation is not there yet, has failed or is closed.
    #[error("there is no allocation")]
    NoAllocation,
    /// There was no `Permitted` so far.
    #[error("the server does not let this peer through yet")]
    NotPermitted,
    /// The data is larger than the route to this peer takes. A channel takes 65,535 bytes. Before there is one, it is
    /// what fits in one message with its headers, and 1,200 bytes always fit.
    #[error("{0} bytes are too many for one datagram to this peer")]
    TooLarge(usize),
    /// There would be more connections under way than the machine keeps.
    #[error("too many connections under way")]
    TooManyConnections,
}

/// Counts of what was sent and answered, and of what came and was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The counts of requests and their answers.
    pub requests: transaction::Counters,
    /// The packets that are neither STUN nor ChannelData, or broken.
    pub garbage: u64,
    /// The answers to nothing we asked.
    pub foreign: u64,
    /// The data or connections of peers that were not permitted, and of channels that were not bound.
    pub strangers: u64,
    /// The STUN messages that were too large to be read.
    pub oversize: u64,
}
