//! What an attempt ends with.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use p2p_core::proof::Session;
use p2p_core::race::{Path, RaceReport, Way};

/// A proven connection: an operating-system socket and plain state, free to go to any thread and runtime.
///
/// The socket is non-blocking and unregistered: register it with the runtime that will use it.
#[derive(Debug)]
pub struct Winner {
    /// The connection. Not one byte of the user's has been read from it.
    pub stream: TcpStream,
    /// Who is at the other end, and the keys of the pipe.
    pub session: Session,
    /// How it came to be.
    pub how: How,
}

/// How a connection came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct How {
    /// The way.
    pub way: Way,
    /// What lies between, as far as this end can tell.
    pub path: Path,
    /// Whether this end asked for the connection.
    pub caller: bool,
    /// Our end's address.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// From the call, or from the first this end heard of it, to the proven connection.
    pub took: Duration,
    /// The whole story; only the caller has one.
    pub report: Option<RaceReport>,
}
