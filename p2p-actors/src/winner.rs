//! What an attempt ends with.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::proof::Session;
use p2p_core::race::{Path, RaceReport, Way};

use crate::carrier::Carrier;
use crate::pipes::PipeSeat;

/// A proven connection: plain state, free to go to any thread and runtime.
#[derive(Debug)]
pub struct Winner {
    /// The connection. Not one byte of the user's has been read from it.
    pub carrier: Carrier,
    /// Who is at the other end, and the keys of the pipe.
    pub session: Session,
    /// How it came to be.
    pub how: How,
    /// Its place among the pipes of its peer, if that asked for it. To be kept for as long as the connection.
    pub seat: Option<PipeSeat>,
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
    /// Our end's address, the one that what we send comes from: our socket's; behind a relay of ours, the one
    /// that the relay lends us.
    pub local: SocketAddr,
    /// The other end's address, the one that our end sends to: that of the peer's socket or of the NAT before
    /// it; behind a relay of the peer's, the one that the relay lends it.
    pub remote: SocketAddr,
    /// From the call, or from the first this end heard of it, to the proven connection.
    pub took: Duration,
    /// The whole story; only the caller has one.
    pub report: Option<RaceReport>,
}
