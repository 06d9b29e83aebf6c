//! The machine that finds out what the network in front of one address is.
//!
//! For each transport it asks all servers at once from one local port: that gives the external address after
//! one round trip over UDP and two over TCP, and shows whether the mapping depends on the destination. The
//! servers that answered, and that others do not contradict, are then asked the rest without waiting for one
//! answer after the other: a run of new local ports in strict order for the delta, changed addresses for the
//! filtering, a few more ports later for what others do. Over TCP a helper outside may dial a throw-away
//! port of ours meanwhile.

mod ask;
mod config;
mod hairpin;
mod lane;
mod output;
mod plan;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ask::{Ask, State, Use};
pub use config::{MOST_HELPERS, ProbeConfig};
use hairpin::Hairpin;
use lane::{Lane, Phase};
pub use output::{Act, Event};
use plan::{AGAIN_PACKETS, Alive, Ports, Step, TCP_PACKETS};

use super::observe::{
    Evidence, FilterOutcome, FilterTest, HairpinTest, Purpose, Seen, Stranger, SynOutcome, SynProbe,
};
use super::report::NatReport;
use super::vote::Vote;
use crate::stun::frame::Framer;
use crate::stun::query::{Failure, MOST_SERVERS, TooManyServers, seen_as};
use crate::stun::transaction::{Counters, Event as Outcome, Fault, Request, Transaction, is_same};
use crate::stun::wire::Header;
use crate::stun::{Attribute, Class, Message, Transport};
use crate::{Deadline, Family, Local, Machine, Mapped, Output, Seed};

/// Local ports tried before a lane gives up because all are in use.
const MOST_RETRIES: u8 = 3;
/// A port that helpers dial.
#[derive(Clone, Copy, Debug)]
struct Bait {
    mapped: Mapped,
    server: IpAddr,
    until: Instant,
}

/// Finds out what the network in front of one address of ours is.
///
/// | method | when |
/// |---|---|
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
    evidence: Evidence,
    others: BTreeMap<SocketAddr, SocketAddr>,
    failures: BTreeMap<(SocketAddr, Transport), Failure>,
    packets: BTreeMap<(SocketAddr, Transport), u32>,
    hairpins: BTreeMap<Transport, Hairpin>,
    bait: Option<Bait>,
    /// Helpers that have been asked and have not said anything.
    awaited: BTreeSet<IpAddr>,
    udp_ports: BTreeSet<Local>,
    listening: BTreeSet<Local>,
    counters: Counters,
    is_over: bool,
    out: VecDeque<Output<Act, Event>>,
}

impl Probe {
    /// Begins to ask at once. Without servers it is done at once.
    ///
    /// # Errors
    /// When there are more than [`MOST_SERVERS`].
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
            config,
            seed,
            lanes: lanes.into(),
            asks: Vec::new(),
            evidence: Evidence::default(),
            others: BTreeMap::new(),
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

    /// What was sent, and what was dropped because it was no answer to anything.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        for ask in &self.asks {
            if let State::Asked(asked) = &ask.state {
                counters.add(asked.0.counters());
            }
        }
        counters
    }

    /// A datagram came to a UDP port of ours.
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

    /// The system says that datagrams from `at` cannot reach `to`, or that `at` cannot be bound.
    pub fn handle_unreachable(&mut self, at: Local, to: SocketAddr, why: io::ErrorKind, now: Instant) {
        let found = self.asks.iter().position(|ask| {
            ask.transport == Transport::Udp && ask.local == at && !ask.is_over() && is_same(ask.server, to)
        });
        if let Some(index) = found {
            self.fail(index, Fault::Unreachable(why).into(), now);
            self.settle(now);
        }
    }

    /// The connection asked for by [`Act::OpenTcp`] stands.
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

    /// Bytes came on a connection.
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

    /// A connection could not be made (`Some(why)`), broke, or was closed by the other end.
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
        let of_connection =
            |ask: &Ask| ask.transport == Transport::Tcp && ask.local == from && is_same(ask.server, to);
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

    /// A helper has dialled a throw-away port of ours, or says that it cannot. Unasked answers are dropped.
    pub fn handle_syn_probe(&mut self, helper: IpAddr, outcome: SynOutcome, now: Instant) {
        let Some(bait) = self.bait.filter(|_| self.awaited.remove(&helper)) else { return };
        let stranger = if helper == bait.server { Stranger::OtherPort } else { Stranger::OtherAddress };
        self.evidence.syn_probes.push(SynProbe { helper, stranger, outcome });
        self.settle(now);
    }

    /// Stops asking and closes every socket. There is no report any more.
    pub fn close(&mut self, _now: Instant) {
        if !self.is_over {
            self.out.clear();
            self.end();
        }
    }

    fn lane(&mut self, transport: Transport) -> &mut Lane {
        &mut self.lanes[usize::from(transport == Transport::Tcp)]
    }

    /// The question on a connection that is not answered; otherwise the connection's first one.
    fn connection(&self, from: Local, to: SocketAddr) -> Option<usize> {
        self.asks.iter().position(|ask| {
            ask.transport == Transport::Tcp && ask.local == from && !ask.is_over() && is_same(ask.server, to)
        })
    }

    /// Asks all servers from one local port.
    fn begin(&mut self, lane: usize, now: Instant) {
        let (transport, local) = (self.lanes[lane].transport, self.lanes[lane].first);
        let family = Family::of(self.config.local);
        let servers = self
            .config
            .servers
            .iter()
            .filter(|server| server.transport == transport && Family::of(server.address.ip()) == family);
        let list = plan::shortlist(servers.map(|server| server.address), self.config.at_once.max(1));
        for server in list {
            self.start(lane, Purpose::Mapping, Use::First, local, server, now);
        }
    }

    /// Whether so many more packets may go to a server; if so, they are counted.
    fn spend(&mut self, transport: Transport, server: SocketAddr, count: u32) -> bool {
        let same =
            self.packets.iter().filter(|((known, over), _)| known.ip() == server.ip() && *over == transport);
        let spent: u32 = same.map(|(_, count)| *count).sum();
        if spent + count > self.config.budget(transport) {
            return false;
        }
        *self.packets.entry((server, transport)).or_default() += count;
        true
    }

    /// Puts one question on the wire.
    fn start(
        &mut self,
        lane: usize,
        why: Purpose,
        purpose: Use,
        local: Local,
        server: SocketAddr,
        now: Instant,
    ) {
        let transport = self.lanes[lane].transport;
        // Over TCP, asking again uses the connection that was held.
        let is_held = why == Purpose::Again && transport == Transport::Tcp;
        let held = self.asks.iter().any(|ask| {
            ask.transport == transport && ask.local == local && ask.server == server && ask.is_open
        });
        let cost = match (transport, is_held) {
            (Transport::Udp, _) => 0,
            (Transport::Tcp, true) => AGAIN_PACKETS,
            (Transport::Tcp, false) => TCP_PACKETS,
        };
        if is_held && !held || !self.spend(transport, server, cost) {
            return;
        }
        let Some(index) = self.evidence.asked(transport, why, local, server, now) else { return };
        let until = now + self.lanes[lane].connect_patience(self.config.give_up);
        let is_open = transport == Transport::Tcp && !is_held;
        let state = State::Connecting { until };
        self.asks.push(Ask { index, transport, local, server, sent: now, purpose, state, is_open });
        let ask = self.asks.len() - 1;
        if is_open {
            if purpose == Use::Bait {
                self.listening.insert(local);
                self.out.push_back(Output::Act(Act::Listen { at: local }));
            }
            self.out.push_back(Output::Act(Act::OpenTcp { from: local, to: server }));
        } else {
            self.ask(ask, now);
        }
    }

    /// Sends the request.
    fn ask(&mut self, ask: usize, now: Instant) {
        let Ask { transport, server, purpose, index, .. } = self.asks[ask];
        let why = self.evidence.observations()[index].purpose;
        let mut message = Message::binding(&mut self.seed);
        let mut also_from = None;
        if let Use::Filter { stranger, from } = purpose {
            let ip = stranger == Stranger::OtherAddress;
            message = message.with(Attribute::ChangeRequest { ip, port: true });
            also_from = Some(from);
        }
        let request = Request { also_from, ..Request::new(server, transport, message) };
        let patience = self.lane(transport).patience(why);
        let transaction = Transaction::new(patience, request, now)
            .expect("a Binding request with at most a CHANGE-REQUEST can be written");
        self.asks[ask].state = State::Asked(Box::new((transaction, Framer::default())));
        self.drain(ask, None, now);
    }

    fn feed(&mut self, ask: usize, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let State::Asked(asked) = &mut self.asks[ask].state {
            asked.0.handle_message(from, bytes, now);
            self.drain(ask, Some(from), now);
        }
    }

    /// Does what a transaction wants; `from` is who was heard last.
    fn drain(&mut self, ask: usize, from: Option<SocketAddr>, now: Instant) {
        let Ask { transport, local, server, index, .. } = self.asks[ask];
        while let State::Asked(asked) = &mut self.asks[ask].state {
            let is_first = asked.0.counters().sent <= 1;
            match asked.0.poll_output() {
                Output::Act(bytes) if transport == Transport::Udp => {
                    if !self.spend(transport, server, 1) {
                        if is_first {
                            self.evidence.unsent(index);
                        }
                        continue;
                    }
                    if !is_first {
                        self.evidence.repeated(index);
                    }
                    self.udp_ports.insert(local);
                    self.out.push_back(Output::Act(Act::SendUdp { from: local, to: server, bytes }));
                }
                Output::Act(bytes) => {
                    self.out.push_back(Output::Act(Act::SendTcp { from: local, to: server, bytes }));
                }
                Output::Event(Outcome::Answered { message, rtt }) => {
                    self.on_answer(ask, from, &message, rtt, now);
                }
                Output::Event(Outcome::Failed(fault)) => self.fail(ask, fault.into(), now),
                Output::Wait(_) => break,
            }
        }
    }

    fn on_answer(
        &mut self,
        ask: usize,
        from: Option<SocketAddr>,
        message: &Message,
        rtt: Duration,
        now: Instant,
    ) {
        let Ask { transport, local, server, purpose, index, .. } = self.asks[ask];
        let mapped = match seen_as(message, server) {
            Ok(mapped) => mapped,
            Err(failure) => return self.fail(ask, failure, now),
        };
        self.evidence.answered(index, Seen { at: now, mapped });
        if transport == Transport::Udp && self.evidence.observations()[index].sends == 1 {
            self.lane(transport).on_rtt(rtt);
        }
        if purpose == Use::First {
            if let Some(other) = message.other_address().filter(|other| other.port() != 0) {
                self.others.insert(server, other);
            }
            if !std::mem::replace(&mut self.lane(transport).is_announced, true) {
                self.out.push_back(Output::Event(Event::External { transport, local, mapped }));
            }
        }
        if let Use::Filter { stranger, from: expected } = purpose {
            let is_stranger = from.is_some_and(|from| is_same(from, expected) && !is_same(from, server));
            let outcome = if is_stranger { FilterOutcome::Passed } else { FilterOutcome::Unsupported };
            self.evidence.filter_tests.push(FilterTest { server, stranger, outcome });
        }
        if purpose == Use::Bait {
            self.on_bait(mapped, server, now);
        }
        self.finish(ask, matches!(purpose, Use::First | Use::Bait));
        if purpose == Use::First {
            self.hurry(transport, now);
        }
    }

    /// The more have answered, the less the others are waited for.
    fn hurry(&mut self, transport: Transport, now: Instant) {
        let seen = self.evidence.over(transport).filter(|seen| seen.seen.is_some());
        let answered = seen.map(|seen| seen.server.ip()).collect::<BTreeSet<_>>().len();
        let patience = self.config.patience;
        let lane = self.lane(transport);
        let wait = match answered {
            0 | 1 => patience * 2 + lane.rtt() * 2,
            2 => patience.max(lane.rtt() / 2),
            _ => lane.rtt() / 2,
        };
        if let Phase::First { until } = &mut lane.phase {
            *until = (*until).min(now + wait);
        }
    }

    fn on_bait(&mut self, mapped: Mapped, server: SocketAddr, now: Instant) {
        let wait = (self.lane(Transport::Tcp).rtt() * 4).max(Duration::from_millis(200));
        self.bait = Some(Bait { mapped, server: server.ip(), until: now + wait });
        for helper in self.config.helpers.clone() {
            if self.awaited.insert(helper) {
                self.out.push_back(Output::Act(Act::AskSynProbe { helper, target: mapped }));
            }
        }
    }

    fn fail(&mut self, ask: usize, failure: Failure, now: Instant) {
        let Ask { transport, server, purpose, index, local, .. } = self.asks[ask];
        tracing::debug!(%server, %transport, %failure, "a question about the network was not answered");
        if let Use::Filter { stranger, .. } = purpose {
            let outcome = match &failure {
                Failure::Fault(Fault::Silent | Fault::Unreachable(_)) => FilterOutcome::Silence,
                _ => FilterOutcome::Unsupported,
            };
            self.evidence.filter_tests.push(FilterTest { server, stranger, outcome });
        }
        let is_in_use = failure == Failure::Fault(Fault::Unreachable(io::ErrorKind::AddrInUse));
        self.finish(ask, false);
        if is_in_use {
            self.evidence.unsent(index);
            let lane = self.lane(transport);
            if purpose == Use::First && lane.first == local && lane.retries < MOST_RETRIES {
                lane.retries += 1;
                lane.first = lane.ports.first();
                let lane = usize::from(transport == Transport::Tcp);
                self.begin(lane, now);
            }
        } else if !matches!(purpose, Use::Filter { .. }) {
            self.failures.entry((server, transport)).or_insert(failure);
        }
    }

    fn finish(&mut self, ask: usize, hold: bool) {
        let asking = &mut self.asks[ask];
        if let State::Asked(asked) = &asking.state {
            self.counters.add(asked.0.counters());
        }
        asking.state = State::Over;
        if !hold && std::mem::take(&mut asking.is_open) {
            let act = Act::CloseTcp { from: asking.local, to: asking.server };
            self.out.push_back(Output::Act(act));
        }
    }

    /// The servers that answered and are not contradicted, the fastest first.
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
        };
        seen.into_iter().take(4).map(alive).collect()
    }

    /// The first answers are in: asks the rest.
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

    fn take(&mut self, lane: usize, step: Step, now: Instant) {
        match step {
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
            let report = NatReport::new(self.config.local, evidence, &self.failures, &self.packets);
            self.out.push_back(Output::Event(Event::Done(Box::new(report))));
        }
    }

    fn settle_lane(&mut self, lane: usize, now: Instant) {
        let transport = self.lanes[lane].transport;
        let is_answered =
            |asks: &[Ask]| asks.iter().filter(|ask| ask.transport == transport).all(Ask::is_over);
        if let Phase::First { until } = self.lanes[lane].phase
            && (until <= now || is_answered(&self.asks))
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

    /// Closes everything.
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

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
