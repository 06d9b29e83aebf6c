//! The test whether our external address works from the inside (RFC 4787, section 6; RFC 5382, section 7.1).

use std::net::SocketAddr;
use std::time::Instant;

use super::{Act, Probe};
use crate::nat::observe::HairpinTest;
use crate::stun::{Message, TransactionId, Transport};
use crate::{Local, Output};

/// A hairpin test under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hairpin {
    Waiting { id: TransactionId, until: Instant },
    Dialling { from: Local, to: SocketAddr, until: Instant },
}

impl Hairpin {
    pub(super) fn until(self) -> Instant {
        match self {
            Self::Waiting { until, .. } | Self::Dialling { until, .. } => until,
        }
    }
}

impl Probe {
    /// Sends a datagram or a SYN to our own external address.
    pub(super) fn begin_hairpin(&mut self, lane: usize, local: Local, now: Instant) {
        let transport = self.lanes[lane].transport;
        let until = now + self.lanes[lane].rtt().mul_f64(1.5);
        match transport {
            Transport::Udp => {
                let first = self.lanes[lane].first;
                let mapped =
                    self.evidence.over(transport).find(|seen| seen.local == first && seen.seen.is_some());
                let Some(target) = mapped.and_then(|seen| seen.seen).map(|seen| seen.mapped.0) else {
                    return;
                };
                if target.ip() == self.config.local.to_canonical() {
                    return;
                }
                let message = Message::binding(&mut self.seed);
                let id = message.transaction;
                let Ok(bytes) = message.encode(Transport::Udp) else { return };
                self.udp_ports.insert(local);
                self.out.push_back(Output::Act(Act::SendUdp { from: local, to: target, bytes }));
                self.hairpins.insert(transport, Hairpin::Waiting { id, until });
            }
            Transport::Tcp => {
                let Some(bait) =
                    self.bait.filter(|bait| bait.mapped.0.ip() != self.config.local.to_canonical())
                else {
                    return;
                };
                let to = bait.mapped.0;
                self.out.push_back(Output::Act(Act::OpenTcp { from: local, to }));
                self.hairpins.insert(transport, Hairpin::Dialling { from: local, to, until });
            }
        }
    }

    pub(super) fn on_hairpin(&mut self, transport: Transport, passed: bool) {
        if let Some(Hairpin::Dialling { from, to, .. }) = self.hairpins.remove(&transport) {
            self.out.push_back(Output::Act(Act::CloseTcp { from, to }));
        }
        self.evidence.hairpins.push(HairpinTest { transport, passed });
    }

    /// Tells whether this connection is the hairpin test's.
    pub(super) fn is_hairpin(&self, from: Local, to: SocketAddr) -> bool {
        matches!(self.hairpins.get(&Transport::Tcp),
            Some(Hairpin::Dialling { from: ours, to: target, .. }) if (*ours, *target) == (from, to))
    }

    /// Ends the tests whose time is up, as failed.
    pub(super) fn settle_hairpins(&mut self, now: Instant) {
        for transport in [Transport::Udp, Transport::Tcp] {
            if self.hairpins.get(&transport).is_some_and(|hairpin| hairpin.until() <= now) {
                self.on_hairpin(transport, false);
            }
        }
    }

    pub(super) fn end_hairpins(&mut self) {
        for hairpin in std::mem::take(&mut self.hairpins).into_values() {
            if let Hairpin::Dialling { from, to, .. } = hairpin {
                self.out.push_back(Output::Act(Act::CloseTcp { from, to }));
            }
        }
    }
}
