//! The connection that an attempt ends with.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::attempt::{Path, Role, Way};
use p2p_core::connect::AttemptReport;
use p2p_core::proof::Session;

use crate::carrier::Carrier;

/// A proven connection: plain state, free to go to any thread and runtime.
#[derive(Debug)]
pub struct Established {
    /// The connection. Not one byte of the user's has been read from it.
    pub carrier: Carrier,
    /// Who is at the other end, and the keys of the pipe.
    pub session: Session,
    /// The story of how it came to be.
    pub info: ConnectionInfo,
}

/// The ends of a connection, and how it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The way.
    pub way: Way,
    /// What lies between, as far as this end can tell.
    pub path: Path,
    /// The role of this end in the attempt.
    pub role: Role,
    /// Our end's address, the one that what we send comes from: our socket's; behind a relay of ours, the one
    /// that the relay lends us.
    pub local: SocketAddr,
    /// The other end's address, the one that our end sends to: that of the peer's socket or of the NAT before
    /// it; behind a relay of the peer's, the one that the relay lends it.
    pub remote: SocketAddr,
    /// From the call, or from the first this end heard of it, to the proven connection.
    pub took: Duration,
    /// The whole story; only the caller has one.
    pub report: Option<AttemptReport>,
}
