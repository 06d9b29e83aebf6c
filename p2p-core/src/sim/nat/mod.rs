//! A NAT or a stateful firewall with every option, the same for simulated hosts and for real kernels.
//!
//! A [`Nat`] sees headers only. Packets from inside go to [`Nat::outbound`], and packets from outside to
//! [`Nat::inbound`]. It rewrites the header in place and returns the treatment of the packet. It leaves the TTL
//! alone, which is the router's task. A NAT that answers late (RFC 5382, REQ-4) has a timer: see [`Nat::next_answer`]
//! and [`Nat::poll_answer`].

mod bucket;
mod config;
mod inbound;
mod late;
mod open;
mod outbound;
mod ports;
mod presets;
mod table;
mod track;
mod verdict;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bucket::Bucket;
pub use config::{
    Ending, Fallback, FlowConfig, Hairpin, NatConfig, NatConfigError, Policy, Pooling, PortChoice, StepScope,
    TcpConfig, UdpConfig, Unsolicited,
};
use late::LateAnswers;
use ports::Ports;
use table::{SessionKey, Table};
pub use verdict::{Counters, DropReason, Verdict};

use super::packet::{Header, Protocol};
use crate::Seed;
use crate::nat::{Mapping, PortRange};

/// A view of one mapping, for tests and tools that look into a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappingView {
    /// The protocol of the mapping.
    pub protocol: Protocol,
    /// The inside endpoint.
    pub local: SocketAddr,
    /// The external endpoint.
    pub external: SocketAddr,
}

impl fmt::Display for MappingView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} = {}", self.protocol, self.local, self.external)
    }
}

/// A NAT or a stateful firewall.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    table: Table,
    ports: Ports,
    late: LateAnswers,
    bucket: Bucket,
    counters: Counters,
}

impl Nat {
    /// Makes a NAT with an empty table.
    ///
    /// # Errors
    /// [`NatConfigError`] when the configuration is impossible.
    pub fn new(config: NatConfig, seed: Seed) -> Result<Self, NatConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            table: Table::default(),
            ports: Ports::new(seed),
            late: LateAnswers::default(),
            bucket: Bucket::default(),
            counters: Counters::default(),
        })
    }

    /// Returns the configuration of this NAT.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Returns the numbers of packets by their treatment.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the mappings, including expired ones that were not removed yet.
    pub fn mappings(&self) -> impl Iterator<Item = MappingView> {
        self.table.mappings().map(|binding| MappingView {
            protocol: binding.key.0,
            local: binding.local(),
            external: binding.external,
        })
    }

    /// Returns the block of ports that an inside host was given, on a NAT that hands out blocks.
    pub fn block(&self, protocol: Protocol, external: IpAddr, host: IpAddr) -> Option<PortRange> {
        self.ports.block(protocol, external, host)
    }

    /// Switches the NAT off and on, so all mappings are gone.
    pub fn reboot(&mut self) {
        self.table.clear();
        self.ports.clear();
        self.late.clear();
        self.bucket = Bucket::default();
    }

    /// Changes the external addresses, as a provider does, so all mappings are gone.
    ///
    /// # Errors
    /// [`NatConfigError`] when no NAT can have these addresses; then nothing has changed.
    pub fn renumber(&mut self, external: Vec<IpAddr>) -> Result<(), NatConfigError> {
        let config = NatConfig { external, ..self.config.clone() };
        config.validate()?;
        self.config = config;
        self.table.clear();
        self.late.clear();
        Ok(())
    }

    /// Takes a packet from inside, and returns its treatment.
    pub fn outbound(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let verdict = self.route_out(header, now);
        self.count(verdict)
    }

    /// Takes a packet from outside, and returns its treatment.
    pub fn inbound(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let verdict = self.translate_in(header, now);
        self.count(verdict)
    }

    /// Returns the time at which the next late answer is due.
    pub fn next_answer(&self) -> Option<Instant> {
        self.late.next()
    }

    /// Returns the next late answer that is due, to be sent outside. It must be called until it returns `None`.
    pub fn poll_answer(&mut self, now: Instant) -> Option<Header> {
        let (key, answer) = self.late.pop(now)?;
        self.hold(key, now);
        self.counters.answered += 1;
        Some(answer)
    }

    fn count(&mut self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Forward => self.counters.forwarded += 1,
            Verdict::Hairpin => self.counters.hairpinned += 1,
            Verdict::Leak(_) => self.counters.leaked += 1,
            Verdict::Drop(why) => *self.counters.dropped.entry(why).or_default() += 1,
            Verdict::Answer(_, why) => {
                self.counters.answered += 1;
                *self.counters.dropped.entry(why).or_default() += 1;
            }
        }
        verdict
    }

    fn is_wrong_family(&self, header: &Header) -> bool {
        let ours = self.config.external.first();
        ours.is_some_and(|ip| ip.is_ipv4() != header.src.is_ipv4())
            || header.src.is_ipv4() != header.dst.is_ipv4()
    }

    /// Tells whether flows of this protocol pass without a table.
    fn is_open(&self, protocol: Protocol) -> bool {
        self.config.flow(protocol).policy == Policy::Open
    }

    fn mapping(&self, protocol: Protocol) -> Mapping {
        if self.config.is_translating() {
            self.config.flow(protocol).mapping
        } else {
            Mapping::EndpointIndependent
        }
    }

    /// Keeps a 4-tuple busy for which the NAT itself has answered, if it is configured so.
    fn hold(&mut self, key: SessionKey, now: Instant) {
        let span = self.config.flow(key.0).answer_holds;
        if !span.is_zero() {
            let most = self.config.most_mappings as usize;
            self.table.hold(key, now + span, most);
        }
    }
}

#[cfg(test)]
mod tests;
