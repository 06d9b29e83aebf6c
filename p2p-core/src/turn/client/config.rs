//! Whom to ask for what.

use std::net::SocketAddr;
use std::time::Duration;

use super::output::Place;
use crate::stun::transaction::TransactionConfig;
use crate::turn::{AllocationConfig, Carrier, Credentials, Families, Relaying};

/// A server, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where and how.
    pub place: Place,
    /// User name and password.
    pub credentials: Credentials,
}

impl Server {
    /// A server by its address alone.
    pub fn new(address: SocketAddr, carrier: Carrier, credentials: Credentials) -> Self {
        Self { place: Place { address, carrier, host: None }, credentials }
    }
}

/// Whom to ask for what.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The servers, best first; those beyond [`MOST_SERVERS`](super::MOST_SERVERS) are left out. UDP is tried before TCP before TLS.
    pub servers: Vec<Server>,
    /// Which addresses are wanted. Default IPv4.
    pub families: Families,
    /// What is to be relayed. Default UDP.
    pub relaying: Relaying,
    /// How long one server is asked alone before the next is asked as well; a failure does so at once. An
    /// allocation takes two round trips. Default 300 ms.
    pub head_start: Duration,
    /// How long a connection to a server may take, with TLS. Default 5 s.
    pub patience: Duration,
    /// See [`AllocationConfig::keep_alive`].
    pub keep_alive: Duration,
    /// See [`AllocationConfig::transaction`].
    pub transaction: TransactionConfig,
}

impl ClientConfig {
    /// The defaults.
    pub fn new(servers: Vec<Server>) -> Self {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let any = Credentials::new("-", "").expect("one byte is a user name");
        let AllocationConfig { families, relaying, keep_alive, transaction, .. } =
            AllocationConfig::new(nobody, Carrier::Udp, any);
        let (head_start, patience) = (Duration::from_millis(300), Duration::from_secs(5));
        Self { servers, families, relaying, head_start, patience, keep_alive, transaction }
    }
}
