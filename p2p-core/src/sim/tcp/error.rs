//! What goes wrong with sockets.

use thiserror::Error;

use crate::sim::packet::IcmpKind;

/// Why a call failed at once: the caller's fault, or the local state's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SocketError {
    /// EADDRINUSE: another socket has the port, and they do not agree to share it.
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
    /// ENETUNREACH: no interface for this destination.
    #[error("network unreachable: no interface has an address of this family")]
    NoRoute,
    /// EISCONN and the like: the socket is past this.
    #[error("the socket is already connected, connecting or listening")]
    AlreadyUsed,
    /// ENOTCONN.
    #[error("the socket is not connected")]
    NotConnected,
    /// A kernel would bind it to some port; here that is a mistake.
    #[error("bind the socket before it listens")]
    NotBound,
    /// EBADF.
    #[error("there is no such socket")]
    NoSuchSocket,
    /// EMFILE.
    #[error("too many sockets")]
    TooMany,
    /// EMSGSIZE.
    #[error("the datagram is too long")]
    TooLong,
}

/// How a connection, or the attempt at one, ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Failure {
    /// ECONNREFUSED: a RST against our SYN.
    #[error("refused by a RST")]
    Refused,
    /// ECONNRESET.
    #[error("reset by a RST")]
    Reset,
    /// An ICMP error aborted the attempt.
    #[error("aborted by ICMP: {0}")]
    Unreachable(IcmpKind),
    /// ETIMEDOUT.
    #[error("timed out")]
    TimedOut,
}
