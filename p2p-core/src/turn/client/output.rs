//! What a client wants done, and what it tells.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::turn::allocation::Lease;
use crate::turn::{Carrier, Failure, Packet};

/// Names a way to a server, or a connection through one. Never used twice by one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u32);

/// A server, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where it listens.
    pub address: SocketAddr,
    /// Over what.
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

/// What to do. Acts on one [`Conn`] are done in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open a way to the server: over UDP a socket of its own, at once; over TCP dial; over TLS dial and shake hands.
    /// Tell by [`handle_opened`](super::Client::handle_opened) or [`handle_closed`](super::Client::handle_closed).
    Open {
        /// What it is called from now on.
        conn: Conn,
        /// Where to.
        place: Place,
    },
    /// Send this: one datagram, or a piece of the stream.
    Transmit {
        /// On which.
        conn: Conn,
        /// What.
        packet: Packet,
    },
    /// Close it, or stop opening it.
    Close {
        /// Which.
        conn: Conn,
    },
}

/// What a client tells.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// There is an allocation.
    Ready {
        /// On which server.
        place: Place,
        /// By which way: what [`Client::header`](super::Client::header) is for.
        conn: Conn,
        /// What stands.
        lease: Lease,
    },
    /// The allocation was lost or in trouble, and another stands in its place, on the same server or another.
    /// Permissions and channels are being renewed. **Tell the peers the new addresses.**
    Moved {
        /// On which server.
        place: Place,
        /// By which way.
        conn: Conn,
        /// What stands.
        lease: Lease,
    },
    /// A peer at this address may send to us, and we to it.
    Permitted(IpAddr),
    /// The server does not let this peer through. It is forgotten.
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
    /// This connection is the peer's from now on (RFC 6062): every byte that comes on it is from the peer, every
    /// byte sent goes there, after those in `early`. The client knows it no more and will not close it.
    Stream {
        /// Which.
        conn: Conn,
        /// Whose.
        peer: SocketAddr,
        /// What the peer has said already.
        early: Bytes,
    },
    /// The connection with this peer did not come about.
    NotConnected {
        /// Whose.
        peer: SocketAddr,
        /// Why not.
        failure: Failure,
    },
    /// The allocation does not answer, or is gone. All servers are being asked for another.
    Trouble(Failure),
    /// The allocation answers again; it is the same.
    Recovered,
    /// There is no allocation, and no server gives one. The last word.
    Failed(Report),
    /// All was given back after `close`, as far as that can be known. The last word.
    Closed,
}

/// Payload belongs into no log.
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

/// Who said what, in the order of hearing: the last [`MOST_REFUSALS`](super::MOST_REFUSALS).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Servers and why they were of no use.
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
