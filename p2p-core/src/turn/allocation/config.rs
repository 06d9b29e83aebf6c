//! What to ask for, and whom.

use std::net::SocketAddr;
use std::time::Duration;

use crate::stun::transaction::TransactionConfig;
use crate::turn::errand::Line;
use crate::turn::{Carrier, Credentials, Families, Relaying};

/// What to ask for, and whom.
#[derive(Clone, Debug)]
pub struct AllocationConfig {
    /// The server.
    pub server: SocketAddr,
    /// How it is reached.
    pub carrier: Carrier,
    /// Who we are to it.
    pub credentials: Credentials,
    /// Which addresses are wanted. Default IPv4.
    pub families: Families,
    /// What is to be relayed. Default UDP.
    pub relaying: Relaying,
    /// How often to speak to the server over UDP though there is nothing to say: a NAT may forget us after 30 s
    /// (RFC 4787, REQ-5 wants two minutes; many do less). 1 s … 5 min. Default 20 s.
    pub keep_alive: Duration,
    /// Patience with one request. Default: over UDP 5 sendings with a first pause of 500 ms, given up after
    /// 9.5 s; over a stream 9.5 s. RFC 8489 would wait 39.5 s, longer than anybody waits for a pipe.
    pub transaction: TransactionConfig,
}

impl AllocationConfig {
    /// The defaults.
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
