//! A NAT with every knob, or a stateful firewall: the same for simulated hosts and for real kernels.
//!
//! A [`Nat`] sees headers only. Feed it what comes from inside with [`Nat::outbound`] and what comes from
//! outside with [`Nat::inbound`]; it rewrites the header in place and says what to do with the packet. It
//! leaves the TTL alone: that is the router's business. A NAT that answers late (RFC 5382, REQ-4) has a
//! timer: see [`Nat::next_answer`] and [`Nat::poll_answer`].

mod config;
mod late;
mod ports;
mod presets;
mod table;
mod track;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thiserror::Error;

pub use config::{
    Ending, Fallback, FlowConfig, Hairpin, NatConfig, NatConfigError, Policy, Pooling, PortChoice, StepScope,
    TcpConfig, UdpConfig, Unsolicited,
};
use late::LateAnswers;
use ports::{Asker, Ports};
use table::{Flow, Session, SessionKey, Table, mapping_key};
use track::{Direction, Step, Track};

use super::packet::{Body, Flags, Header, IcmpKind, Protocol};
use crate::Seed;
use crate::nat::{Filtering, Mapping, PortRange};

/// Most sessions, for each mapping there may be: strangers whom the filter lets in make sessions too.
const SESSIONS_PER_MAPPING: usize = 16;

/// Why a NAT did not let a packet through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum DropReason {
    /// Configured so.
    #[error("all of this protocol is blocked")]
    Blocked,
    /// The address family of the packet is not that of the NAT.
    #[error("wrong address family")]
    WrongFamily,
    /// The destination is not one of the external addresses.
    #[error("not for this NAT")]
    NotForUs,
    /// Nobody inside uses the external port.
    #[error("no mapping")]
    NoMapping,
    /// There is a mapping, but not for this sender.
    #[error("filtered ({0:?})")]
    Filtered(Filtering),
    /// A TCP segment of an unknown connection that does not open one.
    #[error("no session, and no SYN")]
    NoSession,
    /// A TCP segment that cannot come now.
    #[error("invalid in this state of the connection")]
    OutOfState,
    /// A SYN with another sequence number on a 4-tuple where a SYN has come the other way.
    #[error("invalid: new sequence number after SYNs crossed")]
    NewIsn,
    /// A SYN against our own, where the NAT does not support that.
    #[error("simultaneous open not supported")]
    NoSimultaneousOpen,
    /// The connection is over.
    #[error("the session is closed")]
    Closed,
    /// All external ports are taken.
    #[error("no external port left")]
    NoPort,
    /// The table holds as many mappings as it may.
    #[error("mapping table full")]
    TableFull,
    /// The inside host has as many mappings as it may.
    #[error("mapping quota of the host used up")]
    HostFull,
    /// Too many new mappings in a short time.
    #[error("too many new mappings a second")]
    TooFast,
    /// From inside for an external address, without hairpinning.
    #[error("no hairpinning")]
    NoHairpin,
    /// An ICMP error about a flow that is not known.
    #[error("ICMP error about an unknown flow")]
    UnknownQuote,
    /// An echo reply that nobody asked for.
    #[error("echo reply without request")]
    NoRequest,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it on, with the header as it is now.
    Forward,
    /// It came from inside and goes back inside, with the header as it is now.
    Hairpin,
    /// Send it on though it was not translated: invalid for the NAT, but not stopped by it.
    Leak(DropReason),
    /// Drop it.
    Drop(DropReason),
    /// Drop it, and send this back the way it came.
    Answer(Header, DropReason),
}

/// What became of the packets so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent on.
    pub forwarded: u64,
    /// Sent back inside.
    pub hairpinned: u64,
    /// Sent on untranslated.
    pub leaked: u64,
    /// Answered with a RST or an ICMP error, late ones included.
    pub answered: u64,
    /// Dropped, answered or not, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

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

/// A token bucket of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        self.level = passed.map_or(rate, |passed| (self.level + passed.as_secs_f64() * rate).min(rate));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let enough = self.level >= 1.0;
        if enough {
            self.level -= 1.0;
        }
        enough
    }
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

    fn route_out(&mut self, header: &mut Header, now: Instant) -> Verdict {
        if self.is_wrong_family(header) {
            return Verdict::Drop(DropReason::WrongFamily);
        }
        if !self.config.external.contains(&header.dst.ip()) {
            return self.translate_out(header, now);
        }
        match self.config.hairpin {
            Hairpin::None => Verdict::Drop(DropReason::NoHairpin),
            Hairpin::InternalSource => self.turn_round(header, now),
            Hairpin::ExternalSource => match self.translate_out(header, now) {
                Verdict::Forward => self.turn_round(header, now),
                other => other,
            },
        }
    }

    /// The second half of hairpinning: in again, at the outside.
    fn turn_round(&mut self, header: &mut Header, now: Instant) -> Verdict {
        match self.translate_in(header, now) {
            Verdict::Forward => Verdict::Hairpin,
            Verdict::Answer(mut answer, why) => {
                // The answer is addressed to the mapped source; whoever it is, he is inside.
                if self.config.external.contains(&answer.dst.ip())
                    && self.translate_in(&mut answer, now) != Verdict::Forward
                {
                    return Verdict::Drop(why);
                }
                Verdict::Answer(answer, why)
            }
            other => other,
        }
    }

    fn translate_out(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let Some(protocol) = header.protocol() else {
            return self.icmp_out(header, now);
        };
        if self.config.flow(protocol).policy == Policy::Blocked {
            return Verdict::Drop(DropReason::Blocked);
        }
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let (local, remote) = (header.src, header.dst);
        let key = mapping_key(protocol, local, remote, self.mapping(protocol));
        if let Some((_, external)) = self.table.find(key) {
            let session_key = (protocol, external, remote);
            if let Some(session) = self.table.session(session_key, now) {
                let step = advance(session, header, Direction::Out, &self.config, now);
                return match step {
                    Step::Pass => {
                        header.src = external;
                        Verdict::Forward
                    }
                    Step::PassAndDelete => {
                        header.src = external;
                        self.table.remove(session_key);
                        Verdict::Forward
                    }
                    Step::Unsolicited(why) | Step::Invalid(why) => self.invalid_out(why),
                };
            }
        }
        if let Err(why) = self.may_open(header) {
            return self.invalid_out(why);
        }
        match self.open_out(protocol, local, remote, header, now) {
            Ok(external) => {
                self.late.cancel((protocol, external, remote));
                header.src = external;
                Verdict::Forward
            }
            Err(why) => Verdict::Drop(why),
        }
    }

    fn mapping(&self, protocol: Protocol) -> Mapping {
        if self.config.is_translating() {
            self.config.flow(protocol).mapping
        } else {
            Mapping::EndpointIndependent
        }
    }

    fn invalid_out(&self, why: DropReason) -> Verdict {
        let leaks = self.config.tcp.leak_invalid && why != DropReason::NoRequest;
        if leaks { Verdict::Leak(why) } else { Verdict::Drop(why) }
    }

    /// Whether a packet without a session may begin one.
    fn may_open(&self, header: &Header) -> Result<(), DropReason> {
        match header.body {
            Body::Tcp(tcp) if tcp.flags.is_syn() => Ok(()),
            Body::Tcp(tcp) => {
                let inside = !tcp.flags.has(Flags::SYN) && !tcp.flags.has(Flags::RST);
                let picks_up = self.config.tcp.loose && inside;
                picks_up.then_some(()).ok_or(DropReason::NoSession)
            }
            Body::Echo { reply: true, .. } => Err(DropReason::NoRequest),
            _ => Ok(()),
        }
    }

    /// A new session from inside, in a new mapping if need be.
    fn open_out(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
        header: &Header,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        self.table.sweep(now);
        let key = mapping_key(protocol, local, remote, self.mapping(protocol));
        let (id, external) = match self.table.find_live(key, now) {
            Some((id, external)) => {
                let taken = self.table.session((protocol, external, remote), now).is_some();
                if taken {
                    // Overloading: another inside host talks to this remote end through the same port.
                    return Err(DropReason::NoPort);
                }
                self.has_room(now)?;
                (id, external)
            }
            None => {
                self.admit_new(local.ip(), now)?;
                let external = self.external_for(protocol, local, remote, now)?;
                (self.table.bind(key, external), external)
            }
        };
        self.open(id, (protocol, external, remote), header, Direction::Out, now);
        Ok(external)
    }

    fn open(&mut self, binding: u32, key: SessionKey, header: &Header, direction: Direction, now: Instant) {
        let flow = match header.body {
            Body::Tcp(tcp) => Flow::Tcp(Track::new(tcp, direction)),
            _ => Flow::Datagrams { out: direction == Direction::Out, inbound: direction == Direction::In },
        };
        let expires = now + timeout(&flow, &self.config);
        let session = Session { binding, flow, expires };
        self.table.insert(key, session);
    }

    /// Whether an existing mapping may have one more session.
    fn has_room(&mut self, now: Instant) -> Result<(), DropReason> {
        let most = (self.config.most_mappings as usize).saturating_mul(SESSIONS_PER_MAPPING);
        if self.table.session_count() >= most {
            self.table.sweep_full(now);
        }
        let room = self.table.session_count() < most;
        room.then_some(()).ok_or(DropReason::TableFull)
    }

    /// The limits at the door.
    fn admit_new(&mut self, host: IpAddr, now: Instant) -> Result<(), DropReason> {
        let most = self.config.most_mappings as usize;
        if self.table.mapping_count() >= most {
            self.table.sweep_full(now);
        }
        if self.table.mapping_count() >= most {
            return Err(DropReason::TableFull);
        }
        if self.table.mapping_count_of(host) >= self.config.most_mappings_per_host {
            self.table.sweep_full(now);
            if self.table.mapping_count_of(host) >= self.config.most_mappings_per_host {
                return Err(DropReason::HostFull);
            }
        }
        match self.config.most_new_per_second {
            Some(rate) if !self.bucket.take(rate, now) => Err(DropReason::TooFast),
            _ => Ok(()),
        }
    }

    /// The external endpoint of a new mapping.
    fn external_for(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        let pool = &self.config.external;
        if pool.is_empty() {
            return Ok(local);
        }
        let ip = match self.config.pooling {
            Pooling::Paired => {
                let number = match local.ip() {
                    IpAddr::V4(ip) => u128::from(u32::from(ip)),
                    IpAddr::V6(ip) => u128::from(ip),
                };
                Some(pool[(number % pool.len() as u128) as usize])
            }
            Pooling::Arbitrary => self.ports.pick(pool),
        };
        let ip = ip.ok_or(DropReason::NoPort)?;
        let flow = self.config.flow(protocol);
        let asker = Asker { protocol, local, remote, external: ip, flow, block: self.config.block, now };
        let table = &mut self.table;
        let free = |port| table.is_free(protocol, SocketAddr::new(ip, port), remote, flow.overload, now);
        let port = self.ports.choose(&asker, free).ok_or(DropReason::NoPort)?;
        Ok(SocketAddr::new(ip, port))
    }

    fn translate_in(&mut self, header: &mut Header, now: Instant) -> Verdict {
        if self.is_wrong_family(header) {
            return Verdict::Drop(DropReason::WrongFamily);
        }
        let Some(protocol) = header.protocol() else {
            return self.icmp_in(header, now);
        };
        if self.config.flow(protocol).policy == Policy::Blocked {
            return Verdict::Drop(DropReason::Blocked);
        }
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let (external, remote) = (header.dst, header.src);
        if self.config.is_translating() && !self.config.external.contains(&external.ip()) {
            return Verdict::Drop(DropReason::NotForUs);
        }
        let key = (protocol, external, remote);
        if let Some(session) = self.table.session(key, now) {
            let step = advance(session, header, Direction::In, &self.config, now);
            let binding = session.binding;
            return match step {
                Step::Pass => self.deliver(binding, header),
                Step::PassAndDelete => {
                    let verdict = self.deliver(binding, header);
                    self.table.remove(key);
                    verdict
                }
                Step::Unsolicited(why) => self.refuse(header, why, now),
                Step::Invalid(why) => Verdict::Drop(why),
            };
        }
        let filtering = self.config.flow(protocol).filtering;
        let (admitted, mapped) = self.table.admit(protocol, external, remote, filtering, now);
        let Some(id) = admitted else {
            let why = if mapped { DropReason::Filtered(filtering) } else { DropReason::NoMapping };
            return self.refuse(header, why, now);
        };
        if let Err(why) = self.may_open(header).and_then(|()| self.has_room(now)) {
            return Verdict::Drop(why);
        }
        self.open(id, key, header, Direction::In, now);
        self.deliver(id, header)
    }

    fn deliver(&self, binding: u32, header: &mut Header) -> Verdict {
        match self.table.binding(binding) {
            Some(binding) => {
                header.dst = binding.local();
                Verdict::Forward
            }
            None => Verdict::Drop(DropReason::NoMapping),
        }
    }

    /// What an unsolicited packet gets.
    fn refuse(&mut self, header: &Header, why: DropReason, now: Instant) -> Verdict {
        let icmp = |kind| header.icmp_error(header.dst.ip(), kind);
        let (answer, after) = match header.body {
            Body::Tcp(tcp) if tcp.flags.is_syn() => match self.config.tcp.unsolicited {
                Unsolicited::Silence => (None, Duration::ZERO),
                Unsolicited::Reset => (header.reset(), Duration::ZERO),
                Unsolicited::ResetAfter { after } => (header.reset(), after),
                Unsolicited::Icmp(kind) => (icmp(kind), Duration::ZERO),
                Unsolicited::IcmpAfter { kind, after } => (icmp(kind), after),
            },
            Body::Tcp(_) => return Verdict::Drop(DropReason::NoSession),
            Body::Udp { .. } => (self.config.udp.unsolicited.and_then(icmp), Duration::ZERO),
            Body::Echo { .. } | Body::Icmp { .. } => (None, Duration::ZERO),
        };
        let (Some(answer), Some(protocol)) = (answer, header.protocol()) else {
            return Verdict::Drop(why);
        };
        let key = (protocol, header.dst, header.src);
        if after.is_zero() {
            self.hold(key, now);
            return Verdict::Answer(answer, why);
        }
        self.late.push(now + after, key, answer);
        Verdict::Drop(why)
    }

    /// The NAT has answered for this 4-tuple and may now be in its own way.
    fn hold(&mut self, key: SessionKey, now: Instant) {
        let span = self.config.flow(key.0).answer_holds;
        if !span.is_zero() {
            let most = self.config.most_mappings as usize;
            self.table.hold(key, now + span, most);
        }
    }

    fn icmp_in(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let Body::Icmp { kind, quoted } = &mut header.body else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        let protocol = quoted.protocol;
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let key = (protocol, quoted.src, quoted.dst);
        let binding = self.table.session(key, now).map(|session| session.binding);
        let Some(local) = binding.and_then(|id| self.table.binding(id)).map(|binding| binding.local()) else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        quoted.src = local;
        header.dst = SocketAddr::new(local.ip(), 0);
        let soft = matches!(kind, IcmpKind::TooBig);
        if protocol == Protocol::Tcp && self.config.tcp.icmp_deletes && !soft {
            self.table.remove(key);
        }
        Verdict::Forward
    }

    fn icmp_out(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let Body::Icmp { quoted, .. } = &mut header.body else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        let protocol = quoted.protocol;
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let mapping = if self.config.is_translating() {
            self.config.flow(protocol).mapping
        } else {
            Mapping::EndpointIndependent
        };
        let key = mapping_key(protocol, quoted.dst, quoted.src, mapping);
        let external = self.table.find(key).map(|(_, external)| external);
        let external =
            external.filter(|external| self.table.session((protocol, *external, quoted.src), now).is_some());
        let Some(external) = external else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        quoted.dst = external;
        if self.config.is_translating() {
            header.src = SocketAddr::new(external.ip(), 0);
        }
        Verdict::Forward
    }
}

/// Takes a packet into account in its session.
fn advance(
    session: &mut Session,
    header: &Header,
    direction: Direction,
    config: &NatConfig,
    now: Instant,
) -> Step {
    match (&mut session.flow, header.body) {
        (Flow::Tcp(track), Body::Tcp(tcp)) => {
            let step = track.step(tcp, direction, &config.tcp);
            if step == Step::Pass {
                session.expires = now + track.timeout(&config.tcp);
            }
            step
        }
        (Flow::Datagrams { out, inbound }, _) => {
            match direction {
                Direction::Out => *out = true,
                Direction::In => *inbound = true,
            }
            if direction == Direction::Out || config.udp.inbound_refreshes {
                session.expires = now + timeout(&session.flow, config);
            }
            Step::Pass
        }
        (Flow::Tcp(_), _) => Step::Invalid(DropReason::OutOfState),
    }
}

fn timeout(flow: &Flow, config: &NatConfig) -> Duration {
    match flow {
        Flow::Tcp(track) => track.timeout(&config.tcp),
        Flow::Datagrams { out: true, inbound: true } => config.udp.timeout_both_ways,
        Flow::Datagrams { .. } => config.udp.timeout,
    }
}

#[cfg(test)]
mod tests;
