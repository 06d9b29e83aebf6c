//! A machine that finds out the properties of the network in front of one address.
//!
//! For each transport it asks all servers at once from one local port. That gives the external address after one
//! round trip over UDP and two over TCP, and shows whether the mapping depends on the destination. The servers that
//! answered, and that others do not contradict, are then asked the rest, without waiting for one answer after the
//! other. A run of new local ports in strict order shows the delta. Changed addresses show the filtering. A few more
//! ports later show what others do. Over TCP, a helper outside may dial a throw-away port of ours meanwhile.

mod ask;
mod config;
mod hairpin;
mod lane;
mod output;
mod plan;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ask::{Ask, State, Use};
pub use config::{MOST_HELPERS, ProbeConfig};
use hairpin::Hairpin;
use lane::{Lane, Phase};
pub use output::{Act, Event};
use plan::{Alive, Ports, Step};

use super::observe::{Evidence, HairpinTest, Purpose, Stranger, SynProbe};
use super::report::{NatReport, Unresolved};
use super::vote::Vote;
use crate::addr::is_same_address;
use crate::stun::dial_back::SynOutcome;
use crate::stun::query::{Failure, MOST_SERVERS, Server, TooManyServers};
use crate::stun::transaction::{Counters, Fault};
use crate::stun::wire::Header;
use crate::stun::{Class, Transport};
use crate::{Deadline, Family, Local, Machine, Mapped, Output, Seed};

/// The most local ports that a lane tries before it gives up because all are in use.
const MOST_RETRIES: u8 = 3;
/// A port that helpers dial.
#[derive(Clone, Copy, Debug)]
struct Bait {
    mapped: Mapped,
    server: IpAddr,
    until: Instant,
}

/// A machine that finds out the properties of the network in front of one address of ours.
///
/// | method | input |
/// |---|---|
/// | [`handle_resolved`](Self::handle_resolved), [`handle_unresolved`](Self::handle_unresolved) | on a server's name |
/// | [`handle_datagram`](Self::handle_datagram), [`handle_unreachable`](Self::handle_unreachable) | on a UDP port |
/// | [`handle_tcp_open`](Self::handle_tcp_open), `_data`, `_closed` | on a connection to a server |
/// | [`handle_syn_probe`](Self::handle_syn_probe) | a helper has dialled, or cannot |
/// | [`close`](Self::close) | the answer is of no interest any more |
///
/// A port that cannot be bound is told by `handle_unreachable` or `handle_tcp_closed` with
/// [`io::ErrorKind::AddrInUse`].
#[derive(Debug)]
pub struct Probe {
    config: ProbeConfig,
    seed: Seed,
    lanes: Vec<Lane>,
    asks: Vec<Ask>,
    /// The number of names that are being resolved, and the time until which they are waited for.
    names: usize,
    names_until: Instant,
    unresolved: Vec<Unresolved>,
    evidence: Evidence,
    others: BTreeMap<SocketAddr, SocketAddr>,
    /// The servers that offered to dial back.
    diallers: BTreeSet<SocketAddr>,
    failures: BTreeMap<(SocketAddr, Transport), Failure>,
    packets: BTreeMap<(SocketAddr, Transport), u32>,
    hairpins: BTreeMap<Transport, Hairpin>,
    bait: Option<Bait>,
    /// The helpers that have been asked and have not answered.
    awaited: BTreeSet<IpAddr>,
    udp_ports: BTreeSet<Local>,
    listening: BTreeSet<Local>,
    counters: Counters,
    is_over: bool,
    out: VecDeque<Output<Act, Event>>,
}

impl Probe {
    /// Makes a probe that begins to ask at once. Without servers it is done at once.
    ///
    /// # Errors
    /// [`TooManyServers`] when there are more than [`MOST_SERVERS`].
    pub fn new(config: ProbeConfig, mut seed: Seed, now: Instant) -> Result<Self, TooManyServers> {
        if config.servers.len() > MOST_SERVERS {
            return Err(TooManyServers(config.servers.len()));
        }
        let config = config.into_bounds();
        let until = now + config.give_up;
        let lanes = [Transport::Udp, Transport::Tcp].map(|transport| {
            let ports = Ports::new(config.local, config.ports, &mut seed.fork("ports"));
            Lane::new(transport, ports, until)
        });
        let mut probe = Self {
            names: config.names,
            names_until: now + config.names_within,
            config,
            seed,
            lanes: lanes.into(),
            asks: Vec::new(),
            unresolved: Vec::new(),
            evidence: Evidence::default(),
            others: BTreeMap::new(),
            diallers: BTreeSet::new(),
            failures: BTreeMap::new(),
            packets: BTreeMap::new(),
            hairpins: BTreeMap::new(),
            bait: None,
            awaited: BTreeSet::new(),
            udp_ports: BTreeSet::new(),
            listening: BTreeSet::new(),
            counters: Counters::default(),
            is_over: false,
            out: VecDeque::new(),
        };
        for lane in 0..probe.lanes.len() {
            probe.begin(lane, now);
        }
        probe.settle(now);
        Ok(probe)
    }

    /// Returns the counts of packets sent, and of those dropped because they answered nothing.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        for ask in &self.asks {
            if let State::Asked(asked) = &ask.state {
                counters.add(asked.0.counters());
            }
        }
        counters
    }

    /// Takes the servers that one of [`ProbeConfig::names`] stands for. A name without servers of our family is as
    /// good as one without any. Servers that come after the first answers were weighed are too late for this probe.
    ///
    /// # Errors
    /// [`TooManyServers`] when there would be more than [`MOST_SERVERS`]; then none of these is asked.
    pub fn handle_resolved(&mut self, servers: &[Server], now: Instant) -> Result<(), TooManyServers> {
        if self.is_over {
            return Ok(());
        }
        self.names = self.names.saturating_sub(1);
        let count = self.config.servers.len() + servers.len();
        let room = if count <= MOST_SERVERS { Ok(()) } else { Err(TooManyServers(count)) };
        if room.is_ok() {
            self.config.servers.extend_from_slice(servers);
            for lane in 0..self.lanes.len() {
                if self.lanes[lane].is_first() {
                    self.begin(lane, now);
                }
            }
        }
        self.settle(now);
        room
    }

    /// Notes that one of [`ProbeConfig::names`] has no address, which the report will say.
    pub fn handle_unresolved(&mut self, name: String, why: String, now: Instant) {
        self.names = self.names.saturating_sub(1);
        if !self.is_over && self.unresolved.len() < MOST_SERVERS {
            self.unresolved.push(Unresolved { name, why });
        }
        self.settle(now);
    }

    /// Takes a datagram that came to a UDP port of ours.
    pub fn handle_datagram(&mut self, at: Local, from: SocketAddr, bytes: &[u8], now: Instant) {
        if self.is_over {
            return;
        }
        let Ok(header) = Header::decode(bytes) else {
            self.counters.garbage = self.counters.garbage.saturating_add(1);
            return;
        };
        let id = header.transaction;
        let found = self
            .asks
            .iter()
            .position(|ask| ask.transport == Transport::Udp && ask.local == at && ask.is_of(id));
        if let Some(index) = found {
            self.feed(index, from, bytes, now);
        } else if let Some(Hairpin::Waiting { id: ours, .. }) = self.hairpins.get(&Transport::Udp)
            && *ours == id
            && header.class == Class::Request
        {
            self.on_hairpin(Transport::Udp, true);
        } else {
            self.counters.foreign = self.counters.foreign.saturating_add(1);
        }
        self.settle(now);
    }

    /// Notes that the system says that datagrams from `at` cannot reach `to`, or that `at` cannot be bound.
    pub fn handle_unreachable(&mut self, at: Local, to: SocketAddr, why: io::ErrorKind, now: Instant) {
        let found = self.asks.iter().position(|ask| {
            ask.transport == Transport::Udp
                && ask.local == at
                && !ask.is_over()
                && is_same_address(ask.server, to)
        });
        if let Some(index) = found {
            self.fail(index, Fault::Unreachable(why).into(), now);
            self.settle(now);
        }
    }

    /// Notes that the connection asked for by [`Act::OpenTcp`] is established.
    pub fn handle_tcp_open(&mut self, from: Local, to: SocketAddr, now: Instant) {
        if self.is_hairpin(from, to) {
            self.on_hairpin(Transport::Tcp, true);
        } else if let Some(index) = self.connection(from, to)
            && let State::Connecting { .. } = self.asks[index].state
        {
            let rtt = now.saturating_duration_since(self.asks[index].sent);
            self.lane(Transport::Tcp).on_rtt(rtt);
            self.ask(index, now);
        }
        self.settle(now);
    }

    /// Takes bytes that came on a connection.
    pub fn handle_tcp_data(&mut self, from: Local, to: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(index) = self.connection(from, to) else { return };
        let mut rest = bytes;
        while let State::Asked(asked) = &mut self.asks[index].state {
            match asked.1.feed(&mut rest) {
                Ok(Some(message)) => self.feed(index, to, &message, now),
                Ok(None) => break,
                Err(error) => self.fail(index, Failure::Garbage(error), now),
            }
        }
        self.settle(now);
    }

    /// Notes that a connection could not be made (`Some(why)`), broke, or was closed by the other end.
    pub fn handle_tcp_closed(
        &mut self,
        from: Local,
        to: SocketAddr,
        why: Option<io::ErrorKind>,
        now: Instant,
    ) {
        if self.is_hairpin(from, to) {
            self.hairpins.remove(&Transport::Tcp);
            // A port in use says nothing about the NAT.
            if why != Some(io::ErrorKind::AddrInUse) {
                self.evidence.hairpins.push(HairpinTest { transport: Transport::Tcp, passed: false });
            }
        }
        let of_connection = |ask: &Ask| {
            ask.transport == Transport::Tcp && ask.local == from && is_same_address(ask.server, to)
        };
        for index in 0..self.asks.len() {
            if of_connection(&self.asks[index]) {
                self.asks[index].is_open = false;
                if !self.asks[index].is_over() {
                    let failure = why.map_or(Failure::Closed, |why| Fault::Unreachable(why).into());
                    self.fail(index, failure, now);
                }
            }
        }
        self.settle(now);
    }

    /// Takes the outcome of a helper that dialled a throw-away port of ours, or that says it cannot. Outcomes that
    /// were not asked for are dropped.
    pub fn handle_syn_probe(&mut self, helper: IpAddr, outcome: SynOutcome, now: Instant) {
        let Some(bait) = self.bait.filter(|_| self.awaited.remove(&helper)) else { return };
        let stranger = if helper == bait.server { Stranger::OtherPort } else { Stranger::OtherAddress };
        self.evidence.syn_probes.push(SynProbe { helper, stranger, outcome });
        self.settle(now);
    }

    /// Stops asking and closes every socket. No report follows.
    pub fn close(&mut self, _now: Instant) {
        if !self.is_over {
            self.out.clear();
            self.end();
        }
    }

    fn lane(&mut self, transport: Transport) -> &mut Lane {
        &mut self.lanes[usize::from(transport == Transport::Tcp)]
    }

    /// Returns the unanswered question on a connection, or otherwise the connection's first question.
    fn connection(&self, from: Local, to: SocketAddr) -> Option<usize> {
        self.asks.iter().position(|ask| {
            ask.transport == Transport::Tcp
                && ask.local == from
                && !ask.is_over()
                && is_same_address(ask.server, to)
        })
    }

    /// Asks the next servers from the first local port, as many as may be asked at once. Returns true when there were
    /// any.
    fn begin(&mut self, lane: usize, now: Instant) -> bool {
        let (transport, local) = (self.lanes[lane].transport, self.lanes[lane].first);
        let family = Family::of(self.config.local);
        let of_lane = |ask: &&Ask| ask.transport == transport && ask.local == local;
        let asked: BTreeSet<_> = self.asks.iter().filter(of_lane).map(|ask| ask.server).collect();
        let waiting: BTreeSet<_> = self
            .asks
            .iter()
            .filter(of_lane)
            .filter(|ask| !ask.is_over())
            .map(|ask| ask.server.ip())
            .collect();
        let answered = self.answered(transport);
        let servers = self
            .config
            .servers
            .iter()
            .filter(|server| server.transport == transport && Family::of(server.address.ip()) == family)
            .filter(|server| !asked.contains(&server.address))
            // Each address has one vote, whatever its ports. But one port may be dead and another not.
            .filter(|server| {
                !waiting.contains(&server.address.ip()) && !answered.contains(&server.address.ip())
            });
        let most = self.config.at_once.max(1).saturating_sub(waiting.len() + answered.len());
        let list = plan::shortlist(servers.map(|server| server.address), most);
        let before = self.asks.len();
        for server in list {
            self.start(lane, Purpose::Mapping, Use::First, local, server, now);
        }
        let is_any = self.asks.len() > before;
        if is_any && answered.is_empty() {
            self.lanes[lane].phase = Phase::First { until: now + self.config.give_up };
        }
        is_any
    }

    /// Returns the servers that have answered over this transport.
    fn answered(&self, transport: Transport) -> BTreeSet<IpAddr> {
        let seen = self.evidence.over(transport).filter(|seen| seen.seen.is_some());
        seen.map(|seen| seen.server.ip()).collect()
    }

    /// Returns the servers that answered and are not contradicted, the fastest first.
    fn alive(&self, transport: Transport) -> Vec<Alive> {
        let vote = Vote::new(&self.evidence);
        let mut seen: Vec<_> = self
            .evidence
            .over(transport)
            .filter(|seen| seen.purpose == Purpose::Mapping && vote.is_trusted(seen.server))
            .filter_map(|seen| Some((seen.span()?, seen.server)))
            .collect();
        seen.sort();
        let alive = |(_, server): (_, SocketAddr)| Alive {
            address: server,
            other: self.others.get(&server).copied(),
            dials_back: self.diallers.contains(&server),
        };
        seen.into_iter().take(4).map(alive).collect()
    }

    /// Ends the first phase of a lane and asks the rest.
    fn on_first_over(&mut self, lane: usize, now: Instant) {
        let transport = self.lanes[lane].transport;
        for index in 0..self.asks.len() {
            if self.asks[index].transport == transport && !self.asks[index].is_over() {
                self.fail(index, Failure::Spared, now);
            }
        }
        let alive = self.alive(transport);
        if alive.is_empty() {
            self.lanes[lane].phase = Phase::Over;
            return;
        }
        let budget = self.config.budget(transport);
        let gap = self.config.gap;
        let lane = &mut self.lanes[lane];
        let (first, rtt) = (lane.first, lane.rtt());
        let helpers = &self.config.helpers;
        let steps = plan::rest(transport, &alive, budget, helpers, first, &mut lane.ports, (gap, rtt));
        lane.queue = steps.into_iter().map(|(after, step)| (now + after, step)).collect();
        lane.phase = Phase::Rest;
    }

    /// Tells whether a first answer may still come, from servers that have not been asked or names that are being
    /// resolved.
    fn asks_others(&mut self, lane: usize, now: Instant) -> bool {
        if !self.answered(self.lanes[lane].transport).is_empty() {
            return false;
        }
        let is_waiting = self.names > 0 && now < self.names_until;
        if is_waiting {
            self.lanes[lane].phase = Phase::First { until: self.names_until };
        }
        self.begin(lane, now) || is_waiting
    }

    fn take(&mut self, lane: usize, step: Step, now: Instant) {
        match step {
            Step::Ask { purpose: Purpose::Late, server, .. } if self.repeat_run(lane, server, now) => {}
            Step::Ask { purpose, local, server } => {
                self.start(lane, purpose, Use::Plain, local, server, now);
            }
            Step::Filter { stranger, local, server, from } => {
                let purpose = Use::Filter { stranger, from };
                self.start(lane, Purpose::Filtering, purpose, local, server, now);
            }
            Step::Bait { local, server } => {
                self.start(lane, Purpose::Fresh, Use::Bait, local, server, now);
            }
            Step::Hairpin { local } => self.begin_hairpin(lane, local, now),
        }
    }

    /// Does what is due, and reports when nothing is left.
    fn settle(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        for lane in 0..self.lanes.len() {
            self.settle_lane(lane, now);
        }
        if self.bait.is_some_and(|bait| bait.until <= now) {
            for helper in std::mem::take(&mut self.awaited) {
                tracing::debug!(%helper, "a helper did not say what became of its SYN");
            }
        }
        self.settle_hairpins(now);
        let is_done = self.lanes.iter().all(|lane| lane.phase == Phase::Over)
            && self.awaited.is_empty()
            && self.hairpins.is_empty();
        if is_done {
            self.end();
            let evidence = std::mem::take(&mut self.evidence);
            let mut report = NatReport::new(self.config.local, evidence, &self.failures, &self.packets);
            report.unresolved = std::mem::take(&mut self.unresolved);
            self.out.push_back(Output::Event(Event::Done(Box::new(report))));
        }
    }

    fn settle_lane(&mut self, lane: usize, now: Instant) {
        let transport = self.lanes[lane].transport;
        let is_answered =
            |asks: &[Ask]| asks.iter().filter(|ask| ask.transport == transport).all(Ask::is_over);
        if let Phase::First { until } = self.lanes[lane].phase
            && (until <= now || (self.names == 0 && is_answered(&self.asks)))
            && !self.asks_others(lane, now)
        {
            self.on_first_over(lane, now);
        }
        while let Some((_, step)) = self.lanes[lane].queue.pop_front_if(|(at, _)| *at <= now) {
            self.take(lane, step, now);
        }
        let lane = &mut self.lanes[lane];
        if lane.phase == Phase::Rest && lane.queue.is_empty() && is_answered(&self.asks) {
            lane.phase = Phase::Over;
        }
    }

    /// Closes every socket.
    fn end(&mut self) {
        self.is_over = true;
        for index in 0..self.asks.len() {
            self.finish(index, false);
        }
        self.end_hairpins();
        for at in std::mem::take(&mut self.listening) {
            self.out.push_back(Output::Act(Act::Unlisten { at }));
        }
        for from in std::mem::take(&mut self.udp_ports) {
            self.out.push_back(Output::Act(Act::CloseUdp { from }));
        }
        self.awaited.clear();
    }

    fn deadline(&self) -> Option<Deadline> {
        if self.is_over {
            return None;
        }
        let asks = self.asks.iter().map(Ask::deadline);
        let lanes = self.lanes.iter().map(Lane::deadline);
        let hairpins = self.hairpins.values().map(|hairpin| Some(Deadline::new(hairpin.until(), "hairpin")));
        let bait = self.bait.filter(|_| !self.awaited.is_empty());
        let helpers = bait.map(|bait| Deadline::new(bait.until, "helper's SYN"));
        Deadline::earliest(asks.chain(lanes).chain(hairpins).chain([helpers]))
    }
}

impl Machine for Probe {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        for index in 0..self.asks.len() {
            match &mut self.asks[index].state {
                State::Connecting { until } if *until <= now => {
                    self.fail(index, Failure::NoConnection, now);
                }
                State::Asked(asked) => {
                    asked.0.handle_timeout(now);
                    self.drain(index, None, now);
                }
                State::Connecting { .. } | State::Over => {}
            }
        }
        self.settle(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "probe_subject.rs"]
pub mod subject;

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "probe_losses_tests.rs"]
mod losses_tests;
