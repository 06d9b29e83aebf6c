//! The effects a node wants, and what it has to tell.
//!
//! What is only read, such as [`ConnectionInfo`], is `#[non_exhaustive]`, so that it can grow. Acts never are: a new one
//! has to be done, and the compiler then names every driver that does not do it yet.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::error::ConnectError;
use super::io::{ConnectionId, Owner, SocketAct};
use super::nic::NicId;
use super::router::RouterAct;
use super::server::StunServer;
use crate::attempt::{AttemptId, Path, Role, Way};
use crate::connect::AttemptReport;
use crate::proof::Session;
use crate::relay::circuit::{CircuitFailure, RelayKind};
use crate::relay::{CircuitConfig, RelayOffer};
use crate::{Clock, Seed};

/// Asks for one effect.
#[derive(Debug)]
pub enum Act {
    /// An owner of sockets is needed: start it. Acts for it follow.
    Begin(Owner),
    /// An owner is not needed any more. Whatever it still has, save what was handed over, is closed.
    End(Owner),
    /// Do this with a socket.
    Socket(Owner, SocketAct),
    /// Do this with a channel to a broker.
    Channel(RouterAct),
    /// Do this with the circuit of an attempt.
    Circuit(AttemptId, CircuitAct),
    /// Look up the addresses of a STUN server. Answered by [`Node::handle_resolved`](super::Node::handle_resolved).
    Resolve(NicId, StunServer),
    /// Look up the addresses of all TURN servers of the configuration. Answered by
    /// [`Node::handle_turn_servers`](super::Node::handle_turn_servers).
    ResolveTurn,
    /// Read the interfaces of this machine. Answered by [`Node::handle_nics`](super::Node::handle_nics).
    ReadNics,
    /// Read the system's clock. Answered by [`Node::handle_clock`](super::Node::handle_clock).
    ReadClock,
    /// Ask the NTP servers about this clock, and forget what they said of any other. Answered by
    /// [`Node::handle_ntp`](super::Node::handle_ntp).
    MeasureTime(Clock),
}

/// Asks for one effect on the circuit of an attempt, which is turned by its driver.
#[derive(Debug)]
pub enum CircuitAct {
    /// Make one: it outlives the attempt where it carries the connection that is kept.
    Begin(Box<(CircuitConfig, Seed)>),
    /// Give it this word of the peer, who may come from these addresses.
    Hear(RelayOffer, Vec<IpAddr>),
    /// Tell it whether the dial it wanted led anywhere.
    Dialled {
        /// The target of the dial.
        to: SocketAddr,
        /// Tells that it did.
        is_up: bool,
    },
    /// Tell it that a connection it brought was not the one.
    ConnectionFailed,
    /// Let it live for as long as the connection that is kept.
    Keep(RelayKind),
    /// End it.
    End,
}

/// Tells a node what a circuit wants or has brought.
#[derive(Clone, Debug)]
pub enum CircuitEvent {
    /// The stream over datagrams is up.
    Up {
        /// An odd number that was not used before.
        connection: ConnectionId,
        /// The end here.
        local: SocketAddr,
        /// The end there.
        remote: SocketAddr,
    },
    /// A relayed TCP connection has arrived.
    Arrived {
        /// An odd number that was not used before.
        connection: ConnectionId,
        /// The end here.
        local: SocketAddr,
        /// The end there.
        remote: SocketAddr,
    },
    /// This address, relayed for the peer, is to be dialled.
    Dial(SocketAddr),
    /// This is to be said to the peer.
    Say(RelayOffer),
    /// Nothing came through.
    Failed(CircuitFailure),
    /// The circuit is gone.
    Gone,
}

/// Tells of a decision.
#[derive(Debug)]
pub enum Event {
    /// A call led to this connection, which leaves the node.
    Connected {
        /// The attempt.
        attempt: AttemptId,
        /// The owner of the connection.
        owner: Owner,
        /// The connection.
        established: Box<Established>,
    },
    /// A call led to none.
    Failed {
        /// The attempt.
        attempt: AttemptId,
        /// The reason.
        error: ConnectError,
    },
    /// A peer's call led to this connection, which leaves the node and counts against the backlog.
    Accepted {
        /// The owner of the connection.
        owner: Owner,
        /// The connection.
        established: Box<Established>,
    },
    /// [`Node::status`](super::Node::status) is another now.
    Status,
    /// Everything was said and given back. The last word.
    Closed,
}

/// A connection that both ends keep.
#[derive(Debug)]
pub struct Established {
    /// The connection. No byte of the user's has been read from it.
    pub connection: ConnectionId,
    /// The other end, and the keys of the pipe.
    pub session: Session,
    /// The story of the connection.
    pub info: ConnectionInfo,
}

/// Tells how a connection came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The way.
    pub way: Way,
    /// The distance, as far as this end can tell.
    pub path: Path,
    /// This end's role: the caller asked for the connection.
    pub role: Role,
    /// Our end's address, the one that our packets come from: our socket's; behind a relay of ours, the relayed one.
    pub local: SocketAddr,
    /// The other end's address, the one that our packets go to: that of the peer's socket or of the NAT before it;
    /// behind a relay of the peer's, the relayed one.
    pub remote: SocketAddr,
    /// The time from the call, or from the first this end heard of it, to the proven connection.
    pub took: Duration,
    /// The whole story; only the caller has one.
    pub report: Option<AttemptReport>,
}

impl ConnectionInfo {
    /// Returns what is told of a connection between these addresses that took no time and has no story.
    pub fn new(way: Way, path: Path, role: Role, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { way, path, role, local, remote, took: Duration::ZERO, report: None }
    }
}
