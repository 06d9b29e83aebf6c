//! The acts and events of a client.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::turn::allocation::Lease;
use crate::turn::{Carrier, Failure, Packet};

/// The name of a connection to a server, or of a connection of a peer through one. One client never uses it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u32);

/// A server, and the transport to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The transport to it.
    pub carrier: Carrier,
    /// The name in its certificate. Over TLS without a name, the address must be in it.
    pub host: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host} ({}) over {}", self.address, self.carrier),
            None => write!(f, "{} over {}", self.address, self.carrier),
        }
    }
}

/// An effect for the driver to perform. Acts on one [`Conn`] are performed in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Opens a connection to the server. Over UDP that is a socket of its own, at once. Over TCP it is a dial, and
    /// over TLS a dial and a handshake. The outcome is told by [`handle_opened`](super::Client::handle_opened) or
    /// [`handle_closed`](super::Client::handle_closed).
    Open {
        /// The name that it has from now on.
        conn: Conn,
        /// The server to reach.
        place: Place,
    },
    /// Sends a packet: one datagram, or a piece of the stream.
    Transmit {
        /// The connection to send on.
        conn: Conn,
        /// The packet to send.
        packet: Packet,
    },
    /// Closes a connection, or stops opening it.
    Close {
        /// The connection to close.
        conn: Conn,
    },
}

/// An event of a client.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// There is an allocation.
    Ready {
        /// The server that made it.
        place: Place,
        /// The connection to it, which [`Client::header`](super::Client::header) is for.
        conn: Conn,
        /// The allocated addresses.
        lease: Lease,
    },
    /// The allocation was lost or in trouble, and another stands in its place, on the same server or another.
    /// Permissions and channels are being renewed. **The peers must be told the new addresses.**
    Moved {
        /// The server that made it.
        place: Place,
        /// The connection to it.
        conn: Conn,
        /// The allocated addresses.
        lease: Lease,
    },
    /// A peer at this address may send to us, and we to it.
    Permitted(IpAddr),
    /// The server does not let this peer through. The peer is forgotten.
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
    /// A connection is the peer's from now on (RFC 6062). Every byte that comes on it is from the peer, after those
    /// in `early`, and every byte sent goes there. The client knows it no more and will not close it.
    Stream {
        /// The connection that is handed over.
        conn: Conn,
        /// The address of the peer.
        peer: SocketAddr,
        /// The bytes that the peer has sent already.
        early: Bytes,
    },
    /// The connection with this peer could not be made.
    NotConnected {
        /// The address of the peer.
        peer: SocketAddr,
        /// The reason why not.
        failure: Failure,
    },
    /// The allocation does not answer, or is gone. All servers are being asked for another.
    Trouble(Failure),
    /// The allocation answers again, and is the same.
    Recovered,
    /// There is no allocation, and no server gives one. It is the last event.
    Failed(Report),
    /// Everything was given back after `close`, as far as that can be known. It is the last event.
    Closed,
}

/// Shows events without payload, which belongs into no log.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { place, conn, lease } => write!(f, "Ready({place}, {conn:?}, {lease:?})"),
            Self::Moved { place, conn, lease } => write!(f, "Moved({place}, {conn:?}, {lease:?})"),
            Self::Permitted(peer) => write!(f, "Permitted({peer})"),
            Self::Refused(peer, why) => write!(f, "Refused({peer}, {why})"),
            Self::Bound(peer) => write!(f, "Bound({peer})"),
            Self::Data { peer, data } => write!(f, "Data({peer}, {} bytes)", data.len()),
            Self::Stream { conn, peer, early } => {
                write!(f, "Stream({conn:?}, {peer}, {} bytes)", early.len())
            }
            Self::NotConnected { peer, failure } => write!(f, "NotConnected({peer}, {failure})"),
            Self::Trouble(why) => write!(f, "Trouble({why})"),
            Self::Recovered => f.write_str("Recovered"),
            Self::Failed(report) => write!(f, "Failed({report})"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

/// The refusals of servers, in the order of hearing: the last [`MOST_REFUSALS`](super::MOST_REFUSALS).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The servers, with the reasons why they were of no use.
    pub refusals: Vec<(Place, Failure)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.refusals.is_empty() {
            return f.write_str("no TURN server to ask");
        }
        for (index, (place, failure)) in self.refusals.iter().enumerate() {
            write!(f, "{}{place}: {failure}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}
