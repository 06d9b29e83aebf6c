//! The configuration of a client.

use std::net::SocketAddr;
use std::time::Duration;

use super::output::Place;
use crate::stun::transaction::TransactionConfig;
use crate::turn::{AllocationConfig, Carrier, Credentials, Families, Relaying};

/// A server, and our login there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The address of the server and the transport to it.
    pub place: Place,
    /// The user name and password.
    pub credentials: Credentials,
}

impl Server {
    /// Makes a server of its address alone.
    pub fn new(address: SocketAddr, carrier: Carrier, credentials: Credentials) -> Self {
        Self { place: Place { address, carrier, host: None }, credentials }
    }
}

/// The servers of a client, and what to ask them for.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The servers, best first; those beyond [`MOST_SERVERS`](super::MOST_SERVERS) are left out. UDP is tried before
    /// TCP before TLS.
    pub servers: Vec<Server>,
    /// The families of the relayed addresses. Default IPv4.
    pub families: Families,
    /// The transport to be relayed. Default UDP.
    pub relaying: Relaying,
    /// The time for which one server is asked alone before the next is asked as well. Default 300 ms. After a failure
    /// the next is asked at once. An allocation takes two round trips.
    pub head_start: Duration,
    /// The most time for a connection to a server, with TLS. Default 5 s.
    pub patience: Duration,
    /// The keep-alive of [`AllocationConfig::keep_alive`].
    pub keep_alive: Duration,
    /// The waits of [`AllocationConfig::transaction`].
    pub transaction: TransactionConfig,
}

impl ClientConfig {
    /// Returns the defaults.
    pub fn new(servers: Vec<Server>) -> Self {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let any = Credentials::new("-", "").expect("one byte is a user name");
        let AllocationConfig { families, relaying, keep_alive, transaction, .. } =
            AllocationConfig::new(nobody, Carrier::Udp, any);
        let (head_start, patience) = (Duration::from_millis(300), Duration::from_secs(5));
        Self { servers, families, relaying, head_start, patience, keep_alive, transaction }
    }
}
