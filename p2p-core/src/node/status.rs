//! The state of a node, as whoever runs it sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::interface::NetworkView;
use super::router::BrokerState;
use super::server::NtpServer;
use crate::clock::ntp::{Measured, ServerReport};
use crate::peer::PeerAddr;
use crate::proof::ProofError;

/// The state of a node.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// The address published now.
    pub address: Option<PeerAddr>,
    /// Tells that every interface listens.
    pub listening: bool,
    /// A listener that could not be opened, and the reason.
    pub refused: Option<(SocketAddr, String)>,
    /// The brokers of its configuration, by URL.
    pub brokers: BTreeMap<String, BrokerState>,
    /// Tells that the external addresses are known, or known to be unknowable for now.
    pub placed: bool,
    /// Tells that the networks in front of all interfaces are probed, as far as they can be.
    pub surveyed: bool,
    /// Each interface by its name, and what is known of each of its addresses.
    pub networks: Vec<(String, Vec<NetworkView>)>,
    /// The word of the NTP servers on the time. Nobody waits for them.
    pub ntp: NtpStatus,
}

impl Status {
    /// Tells whether the node can be used to the full: it listens, one of its brokers is up, one of its STUN servers
    /// answered. A server that is not configured is not waited for, and one that has failed everywhere neither.
    pub fn is_ready(&self) -> bool {
        let settled = |state: &BrokerState| *state != BrokerState::Connecting;
        let signals = self.brokers.is_empty()
            || self.brokers.values().any(|state| *state == BrokerState::Up)
            || self.brokers.values().all(settled);
        self.address.is_some() && self.listening && signals && self.placed
    }
}

/// The word of NTP servers, all together and each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NtpStatus {
    /// The time by which the true time is ahead of the clock this node dates its signals by, as most servers say. `None`
    /// while they are being asked, after that clock was set, and when no majority agrees.
    pub measured: Option<Measured>,
    /// Each server of the configuration, with its answer or the reason why there is none.
    pub servers: Vec<(NtpServer, ServerReport)>,
}

/// Counts since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections that arrived at a listener.
    pub arrived: u64,
    /// Connections that did not speak our protocol: scanners, crawlers, broken ones.
    pub garbled: u64,
    /// Connections from somebody who does not know our key, or is not the peer we dialled.
    pub strangers: u64,
    /// Connections that led back to ourselves.
    pub ourselves: u64,
    /// Connections that fell silent, or were too slow, before the proof was over.
    pub silent: u64,
    /// Connections closed by the other end during the proof.
    pub lost: u64,
    /// Claims we refused: not allowed, busy, unknown attempt.
    pub refused: u64,
    /// Connections pushed out by newer ones before they were proven.
    pub evicted: u64,
    /// Connections accepted and handed on.
    pub accepted: u64,
    /// Attempts of ours.
    pub attempts: u64,
    /// Attempts of peers that we answered.
    pub answers: u64,
}

impl Counters {
    /// Counts a connection that came to us and failed its proof.
    pub(super) fn count_failure(&mut self, error: ProofError) {
        *match error {
            ProofError::Stranger => &mut self.strangers,
            ProofError::Ourselves => &mut self.ourselves,
            ProofError::TimedOut => &mut self.silent,
            ProofError::Lost => &mut self.lost,
            ProofError::Refused(_) | ProofError::Declined(_) => &mut self.refused,
            _ => &mut self.garbled,
        } += 1;
    }
}
