//! A NAT with every knob, or a stateful firewall: the same for simulated hosts and for real kernels.
//!
//! A [`Nat`] sees headers only. Feed it what comes from inside with [`Nat::outbound`] and what comes from
//! outside with [`Nat::inbound`]; it rewrites the header in place and says what to do with the packet. It
//! leaves the TTL alone: that is the router's business. A NAT that answers late (RFC 5382, REQ-4) has a
//! timer: see [`Nat::next_answer`] and [`Nat::poll_answer`].

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

/// One mapping, for those who look into the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappingView {
    /// The protocol.
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
    /// A NAT with an empty table.
    ///
    /// # Errors
    /// When the configuration is impossible.
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

    /// How this NAT was configured.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// What became of the packets so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The mappings, those that have expired but were not missed yet included.
    pub fn mappings(&self) -> impl Iterator<Item = MappingView> {
        self.table.mappings().map(|binding| MappingView {
            protocol: binding.key.0,
            local: binding.local(),
            external: binding.external,
        })
    }

    /// The block of ports an inside host was given, on a NAT that hands out blocks.
    pub fn block(&self, protocol: Protocol, external: IpAddr, host: IpAddr) -> Option<PortRange> {
        self.ports.block(protocol, external, host)
    }

    /// Power off and on: all mappings are gone.
    pub fn reboot(&mut self) {
        self.table.clear();
        self.ports.clear();
        self.late.clear();
        self.bucket = Bucket::default();
    }

    /// The provider gives other addresses: all mappings are gone.
    ///
    /// # Errors
    /// When no NAT can have these addresses; then nothing has changed.
    pub fn renumber(&mut self, external: Vec<IpAddr>) -> Result<(), NatConfigError> {
        let config = NatConfig { external, ..self.config.clone() };
        config.validate()?;
        self.config = config;
        self.table.clear();
        self.late.clear();
        Ok(())
    }

    /// A packet from inside.
    pub fn outbound(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let verdict = self.route_out(header, now);
        self.count(verdict)
    }

    /// A packet from outside.
    pub fn inbound(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let verdict = self.translate_in(header, now);
        self.count(verdict)
    }

    /// When the next late answer is due.
    pub fn next_answer(&self) -> Option<Instant> {
        self.late.next()
    }

    /// The next late answer that is due, to be sent outside. Call until it is `None`.
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

    /// Whether flows of this protocol pass without anybody keeping a table.
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

    /// The NAT has answered for this 4-tuple and may now be in its own way.
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
