//! The configuration of an allocation.

use std::net::SocketAddr;
use std::time::Duration;

use crate::stun::transaction::TransactionConfig;
use crate::turn::errand::Line;
use crate::turn::{Carrier, Credentials, Families, Relaying};

/// The server of an allocation, and what to ask it for.
#[derive(Clone, Debug)]
pub struct AllocationConfig {
    /// The address of the server.
    pub server: SocketAddr,
    /// The transport to the server.
    pub carrier: Carrier,
    /// The login at the server.
    pub credentials: Credentials,
    /// The families of the relayed addresses. Default IPv4.
    pub families: Families,
    /// The transport to be relayed. Default UDP.
    pub relaying: Relaying,
    /// The longest silence towards the server over UDP, after which a keep-alive is sent. Default 20 s, range 1 s … 5
    /// min. A NAT may forget us after 30 s (RFC 4787, REQ-5, wants two minutes; many do less).
    pub keep_alive: Duration,
    /// The waits for one request. Default: over UDP 5 sendings with a first pause of 500 ms, given up after 9.5 s;
    /// over a stream 9.5 s. RFC 8489 would wait 39.5 s, longer than anybody waits for a pipe.
    pub transaction: TransactionConfig,
}

impl AllocationConfig {
    /// Returns the defaults.
    pub fn new(server: SocketAddr, carrier: Carrier, credentials: Credentials) -> Self {
        let transaction = TransactionConfig {
            rto: Duration::from_millis(500),
            sends: 5,
            last_wait: 4,
            tcp_wait: Duration::from_millis(9_500),
        };
        let (families, relaying) = (Families::default(), Relaying::default());
        let keep_alive = Duration::from_secs(20);
        Self { server, carrier, credentials, families, relaying, keep_alive, transaction }
    }

    pub(super) fn line(&self) -> Line {
        Line { server: self.server, carrier: self.carrier, transaction: self.transaction }
    }
}
