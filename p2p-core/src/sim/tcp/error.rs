//! The errors of sockets, and the bad ends of connections.

use thiserror::Error;

use crate::sim::packet::IcmpKind;

/// A reason why a call failed at once, by the fault of the caller or of the local state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SocketError {
    /// EADDRINUSE: another socket has the port, and the two do not agree to share it.
    #[error(
        "address in use: set SO_REUSEADDR, and SO_REUSEPORT beside a listener, on all sockets of the port"
    )]
    AddressInUse,
    /// EADDRNOTAVAIL: the 4-tuple is in use, or the address is not one of the host's.
    #[error("address not available: the 4-tuple is in use, or the address is not ours")]
    AddressNotAvailable,
    /// All ephemeral ports are taken.
    #[error("no ephemeral port left")]
    NoPort,
    /// ENETUNREACH: no interface has an address for this destination.
    #[error("network unreachable: no interface has an address of this family")]
    NoRoute,
    /// EISCONN and the like: the socket is already in use.
    #[error("the socket is already connected, connecting or listening")]
    AlreadyUsed,
    /// ENOTCONN: the socket has no connection.
    #[error("the socket is not connected")]
    NotConnected,
    /// The socket is not bound. A kernel would bind it to some port, but here that is a mistake.
    #[error("bind the socket before it listens")]
    NotBound,
    /// EBADF: the socket does not exist.
    #[error("there is no such socket")]
    NoSuchSocket,
    /// EMFILE: the host has as many sockets as it may.
    #[error("too many sockets")]
    TooMany,
    /// EMSGSIZE: the datagram is longer than IPv4 carries.
    #[error("the datagram is too long")]
    TooLong,
}

/// The way in which a connection or a dial ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Failure {
    /// ECONNREFUSED: a RST came against our SYN.
    #[error("refused by a RST")]
    Refused,
    /// ECONNRESET: a RST came on a connection.
    #[error("reset by a RST")]
    Reset,
    /// An ICMP error aborted the dial.
    #[error("aborted by ICMP: {0}")]
    Unreachable(IcmpKind),
    /// ETIMEDOUT: there was no answer in time.
    #[error("timed out")]
    TimedOut,
}
