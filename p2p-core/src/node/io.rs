//! The words between a node and whoever owns its sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::nic::NicId;
use crate::attempt::{AttemptId, DialError};

/// Names a connection that a proof runs on, or will. The node numbers those it dials from 0 in steps of two; whoever
/// drives it numbers those that arrive from 1 in steps of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names the actor that owns a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The actor of an interface.
    Nic(NicId),
    /// The actor of an attempt.
    Attempt(AttemptId),
}

/// Asks the owner of sockets for one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAct {
    /// Listen for TCP connections at this address, with port 0 at any free port. Answered by
    /// [`SocketEvent::Listening`], unless it is a throw-away listener.
    Listen {
        /// The address to bind, shared with dials (`SO_REUSEADDR`, `SO_REUSEPORT`).
        at: SocketAddr,
        /// Tells that whoever connects is to be sent away at once, by a RST.
        is_throwaway: bool,
    },
    /// Stop listening there.
    Unlisten {
        /// The address that was bound.
        at: SocketAddr,
    },
    /// Dial. The SYN leaves before the next act is performed. Answered by [`SocketEvent::Connected`] or
    /// [`SocketEvent::DialFailed`].
    Dial {
        /// The connection to be.
        connection: ConnectionId,
        /// The address and port to bind, if the system is not to choose.
        from: Option<SocketAddr>,
        /// The target.
        to: SocketAddr,
        /// The time to live of its SYNs, in hops, if not the system's. Raised again once it is up.
        ttl: Option<u8>,
    },
    /// Read from a connection once, this many bytes at most. Answered by [`SocketEvent::Bytes`] or
    /// [`SocketEvent::Lost`].
    Read {
        /// The connection.
        connection: ConnectionId,
        /// The bytes that may be read: those that follow are the user's.
        at_most: usize,
    },
    /// Write all of it to a connection.
    Write {
        /// The connection.
        connection: ConnectionId,
        /// A frame of a few hundred bytes.
        bytes: Bytes,
    },
    /// Close a connection, or stop dialling it. What was written before is sent as far as there is room for it.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// Connect to a STUN server from this port. The SYN leaves before the next act is performed. Answered by
    /// [`SocketEvent::LinkUp`] or [`SocketEvent::LinkDown`].
    OpenLink {
        /// Both ends.
        link: StunLink,
    },
    /// Write a request to a STUN server.
    WriteLink {
        /// Both ends.
        link: StunLink,
        /// The request.
        bytes: Vec<u8>,
    },
    /// Close the connection to a STUN server by a RST (`SO_LINGER` 0), so that its port can be dialled from again.
    CloseLink {
        /// Both ends.
        link: StunLink,
    },
    /// Send a datagram from this port, which is bound first if it is not. Datagrams leave in the order of acts.
    SendDatagram {
        /// The port here.
        from: SocketAddr,
        /// The receiver.
        to: SocketAddr,
        /// The payload.
        bytes: Vec<u8>,
    },
    /// Close a port for datagrams.
    CloseDatagrams {
        /// The port.
        from: SocketAddr,
    },
    /// Dial with a time to live that ends on the way, from any port. Answered by [`SocketEvent::SynExpired`],
    /// [`SocketEvent::SynAnswered`] or [`SocketEvent::SynUnsent`].
    DialHop {
        /// The number of the SYN, from 0, for each family.
        syn: u8,
        /// The address to bind, with port 0.
        from: SocketAddr,
        /// The target.
        to: SocketAddr,
        /// The time to live of its SYNs, in hops.
        ttl: u8,
    },
    /// Close the socket of such a dial.
    DropHop {
        /// The number of the SYN.
        syn: u8,
        /// The address that was bound.
        from: SocketAddr,
    },
}

/// Names a TCP connection to a STUN server by its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StunLink {
    /// The end here.
    pub from: SocketAddr,
    /// The server.
    pub to: SocketAddr,
}

/// Tells a node of one thing that happened to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// A listener stands, or cannot.
    Listening {
        /// The address of the [`SocketAct::Listen`].
        at: SocketAddr,
        /// The address bound, or the reason.
        outcome: Result<SocketAddr, ListenError>,
    },
    /// Somebody connected to a listener that is not a throw-away one.
    Accepted {
        /// An odd number that was not used before.
        connection: ConnectionId,
        /// The listener's address.
        at: SocketAddr,
        /// The address of the other end.
        remote: SocketAddr,
    },
    /// A dial led to a connection.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Its end here.
        local: SocketAddr,
        /// Its end there.
        remote: SocketAddr,
    },
    /// A dial led to nothing.
    DialFailed {
        /// The connection that is not to be.
        connection: ConnectionId,
        /// The reason.
        error: DialError,
    },
    /// A read brought bytes.
    Bytes {
        /// The connection.
        connection: ConnectionId,
        /// Never more than were asked for.
        bytes: Bytes,
    },
    /// A connection ended, or broke.
    Lost {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection to a STUN server stands.
    LinkUp {
        /// Both ends.
        link: StunLink,
        /// The time at which its SYN left.
        since: Instant,
    },
    /// A STUN server wrote.
    LinkBytes {
        /// Both ends.
        link: StunLink,
        /// Part of an answer.
        bytes: Bytes,
    },
    /// A connection to a STUN server could not be made (`Some`), broke (`Some`), or was closed by the server.
    LinkDown {
        /// Both ends.
        link: StunLink,
        /// The reason.
        why: Option<io::ErrorKind>,
    },
    /// A datagram came.
    Datagram {
        /// The port here.
        at: SocketAddr,
        /// The sender.
        from: SocketAddr,
        /// The payload.
        bytes: Bytes,
    },
    /// Datagrams cannot be sent.
    Unreachable {
        /// The port here.
        at: SocketAddr,
        /// The receiver that was meant.
        to: SocketAddr,
        /// The reason; [`io::ErrorKind::AddrInUse`] where the port cannot be bound.
        why: io::ErrorKind,
    },
    /// A router says that the SYN of a [`SocketAct::DialHop`] died there.
    SynExpired {
        /// The number of the SYN.
        syn: u8,
        /// The address that was bound.
        from: SocketAddr,
        /// The router.
        by: IpAddr,
    },
    /// The SYN of a [`SocketAct::DialHop`] was answered by anything else.
    SynAnswered {
        /// The number of the SYN.
        syn: u8,
        /// The address that was bound.
        from: SocketAddr,
    },
    /// The SYN of a [`SocketAct::DialHop`] could not be sent.
    SynUnsent {
        /// The number of the SYN.
        syn: u8,
        /// The address that was bound.
        from: SocketAddr,
    },
}

/// Says why a port cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ListenError {
    /// The kind of error, as the system has it.
    pub kind: io::ErrorKind,
    /// The error in the system's words.
    pub reason: String,
    /// Tells that the system, or this process, has nothing left to listen with, which says nothing of the port.
    pub is_exhausted: bool,
}
