//! One question under way, from the decision to ask until its answer or its timeout.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::lane::Phase;
use super::plan::{AGAIN_PACKETS, Step, TCP_PACKETS};
use super::{Act, Bait, Event, MOST_RETRIES, Probe};
use crate::addr::is_same_address;
use crate::nat::observe::{FilterOutcome, FilterTest, Observation, Purpose, Seen, Stranger, SynProbe};
use crate::stun::dial_back::SynOutcome;
use crate::stun::frame::Framer;
use crate::stun::query::{Failure, seen_as};
use crate::stun::transaction::{Event as Outcome, Fault, Request, Transaction};
use crate::stun::{Attribute, Message, TransactionId, Transport};
use crate::{Deadline, Local, Machine, Mapped, Output};

/// The time after which a system first repeats a SYN (RFC 6298, section 2).
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// The use of an answer beyond the observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// There is no other use.
    Plain,
    /// The question is one of the first, all from one local port, so its connection is held.
    First,
    /// A stranger is to answer from `from`.
    Filter { stranger: Stranger, from: SocketAddr },
    /// Helpers are to dial the port that it is asked from.
    Bait,
    /// The server is to dial the port that it is asked from.
    Dial,
}

#[derive(Debug)]
pub(super) enum State {
    Connecting { until: Instant },
    Asked(Box<(Transaction, Framer)>),
    Over,
}

/// One question under way, and its TCP connection.
#[derive(Debug)]
pub(super) struct Ask {
    /// The number of its observation.
    pub(super) index: usize,
    pub(super) transport: Transport,
    pub(super) local: Local,
    pub(super) server: SocketAddr,
    pub(super) sent: Instant,
    pub(super) purpose: Use,
    pub(super) state: State,
    /// True while there is a TCP connection of its own, or will be one unless it is closed.
    pub(super) is_open: bool,
}

impl Ask {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub(super) fn is_of(&self, id: TransactionId) -> bool {
        matches!(&self.state, State::Asked(asked) if asked.0.id() == id)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Connecting { until } => Some(Deadline::new(*until, "TCP connection to a STUN server")),
            State::Asked(asked) => asked.0.deadline(),
            State::Over => None,
        }
    }
}

impl Probe {
    /// Returns the number of packets that may still go to a server.
    fn room(&self, transport: Transport, server: SocketAddr) -> u32 {
        let same =
            self.packets.iter().filter(|((known, over), _)| known.ip() == server.ip() && *over == transport);
        let spent: u32 = same.map(|(_, count)| *count).sum();
        self.config.budget(transport).saturating_sub(spent)
    }

    /// Tells whether `count` more packets may go to a server. If so, they are counted.
    fn spend(&mut self, transport: Transport, server: SocketAddr, count: u32) -> bool {
        let may = count <= self.room(transport, server);
        if may {
            *self.packets.entry((server, transport)).or_default() += count;
        }
        may
    }

    /// Takes back the packets that a failed connection did not cost. It cost its SYN only, and its repetitions by the
    /// system, one a second.
    fn take_back(&mut self, ask: usize, now: Instant) {
        let Ask { transport, server, sent, is_open, .. } = self.asks[ask];
        if let (State::Connecting { .. }, true) = (&self.asks[ask].state, is_open) {
            let repeated = u32::try_from(now.saturating_duration_since(sent).as_secs()).unwrap_or(u32::MAX);
            let unspent = TCP_PACKETS.saturating_sub(repeated.saturating_add(1));
            let count = self.packets.entry((server, transport)).or_default();
            *count = count.saturating_sub(unspent);
        }
    }

    /// Asks from another pair of neighbouring ports, once, beginning with this server. Returns true when it does.
    ///
    /// Neighbouring ports show how ports follow each other only if the questions from both are answered. So it is
    /// done where a lost answer leaves no such pair, and the budget has room.
    pub(super) fn repeat_run(&mut self, lane: usize, server: SocketAddr, now: Instant) -> bool {
        let transport = self.lanes[lane].transport;
        let run: Vec<_> =
            self.evidence.over(transport).filter(|seen| seen.purpose == Purpose::Consecutive).collect();
        let is_lost = |seen: &&Observation| seen.sends > 0 && seen.seen.is_none();
        let shows = |pair: &[&Observation]| !pair.iter().any(is_lost);
        if !run.iter().any(is_lost) || run.windows(2).any(shows) || self.lanes[lane].is_repeated {
            return false;
        }
        // The system would repeat the SYN after a second, when other mappings have come between.
        for ask in 0..self.asks.len() {
            let Ask { index, .. } = self.asks[ask];
            let is_of_run = self.evidence.observations()[index].purpose == Purpose::Consecutive;
            if self.asks[ask].transport == transport && is_of_run && !self.asks[ask].is_over() {
                self.fail(ask, Failure::NoConnection, now);
            }
        }
        let cost = if transport == Transport::Tcp { TCP_PACKETS } else { 1 };
        let has_room = |other: SocketAddr| {
            let wanted = if other.ip() == server.ip() { 2 * cost } else { cost };
            self.room(transport, other) >= wanted
        };
        let mut alive = self.alive(transport).into_iter().map(|alive| alive.address);
        let Some(other) = alive.find(|other| has_room(*other)) else { return false };
        let gap = self.config.gap;
        let lane = &mut self.lanes[lane];
        lane.is_repeated = true;
        let [one, two] = lane.ports.again();
        let ask = |local, server| Step::Ask { purpose: Purpose::Consecutive, local, server };
        lane.queue.push_front((now + gap, ask(two, other)));
        lane.queue.push_front((now, ask(one, server)));
        true
    }

    /// Sends one question.
    pub(super) fn start(
        &mut self,
        lane: usize,
        why: Purpose,
        purpose: Use,
        local: Local,
        server: SocketAddr,
        now: Instant,
    ) {
        let transport = self.lanes[lane].transport;
        // Over TCP, a question that is asked again uses the connection that was held.
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

    /// Sends the request of a question.
    pub(super) fn ask(&mut self, ask: usize, now: Instant) {
        let Ask { transport, server, purpose, index, .. } = self.asks[ask];
        let why = self.evidence.observations()[index].purpose;
        let mut message = Message::binding(&mut self.seed);
        let mut also_from = None;
        if let Use::Filter { stranger, from } = purpose {
            let ip = stranger == Stranger::OtherAddress;
            message = message.with(Attribute::ChangeRequest { ip, port: true });
            also_from = Some(from);
        }
        let mut patience = self.lane(transport).patience(why);
        if purpose == Use::Dial {
            let wait = self.lane(transport).dial_patience();
            message = message.with(Attribute::DialBack(u16::try_from(wait.as_millis()).unwrap_or(u16::MAX)));
            patience.tcp_wait += wait;
        }
        let request = Request { also_from, ..Request::new(server, transport, message) };
        let transaction = Transaction::new(patience, request, now)
            .expect("a Binding request with at most a CHANGE-REQUEST can be written");
        self.asks[ask].state = State::Asked(Box::new((transaction, Framer::default())));
        self.drain(ask, None, now);
    }

    pub(super) fn feed(&mut self, ask: usize, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let State::Asked(asked) = &mut self.asks[ask].state {
            asked.0.handle_message(from, bytes, now);
            self.drain(ask, Some(from), now);
        }
    }

    /// Performs the outputs of a transaction. `from` is the address that was heard last.
    pub(super) fn drain(&mut self, ask: usize, from: Option<SocketAddr>, now: Instant) {
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
            if message.dial_back().is_some() && transport == Transport::Tcp {
                self.diallers.insert(server);
            }
            if let Some(other) = message.other_address().filter(|other| other.port() != 0) {
                self.others.insert(server, other);
            }
            if !std::mem::replace(&mut self.lane(transport).is_announced, true) {
                self.out.push_back(Output::Event(Event::External { transport, local, mapped }));
            }
        }
        if let Use::Filter { stranger, from: expected } = purpose {
            let is_stranger =
                from.is_some_and(|from| is_same_address(from, expected) && !is_same_address(from, server));
            let outcome = if is_stranger { FilterOutcome::Passed } else { FilterOutcome::Unsupported };
            self.evidence.filter_tests.push(FilterTest { server, stranger, outcome });
        }
        if purpose == Use::Bait {
            self.on_bait(mapped, server, now);
        }
        if purpose == Use::Dial {
            self.on_dialled(server, message.dialled_back());
        }
        self.finish(ask, matches!(purpose, Use::First | Use::Bait));
        if purpose == Use::Bait && self.diallers.contains(&server) {
            let lane = usize::from(transport == Transport::Tcp);
            self.start(lane, Purpose::Again, Use::Dial, local, server, now);
        }
        if purpose == Use::First {
            self.hurry(transport, now);
        }
    }

    /// Shortens the wait for the other servers, the more the more have answered.
    fn hurry(&mut self, transport: Transport, now: Instant) {
        let answered = self.answered(transport).len();
        let patience = self.config.patience;
        let lane = &mut self.lanes[usize::from(transport == Transport::Tcp)];
        let rtt = lane.rtt();
        let wait = match answered {
            0 | 1 => patience * 2 + rtt * 2,
            2 => patience.max(rtt / 2),
            _ => rtt / 2,
        };
        let Phase::First { until } = &mut lane.phase else { return };
        *until = (*until).min(now + wait);
        if answered > 1 || transport == Transport::Udp {
            return;
        }
        // Two servers say much more than one. So a lost SYN is waited for until the system repeats it.
        for ask in self.asks.iter_mut().filter(|ask| ask.transport == transport) {
            if let State::Connecting { until: patience } = &mut ask.state {
                *patience = ask.sent + SYN_AGAIN + rtt.mul_f64(2.5);
                *until = (*until).max(*patience);
            }
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

    /// Notes that a server has dialled back, or says that it cannot.
    fn on_dialled(&mut self, server: SocketAddr, outcomes: Option<(SynOutcome, SynOutcome)>) {
        let Some((near, far)) = outcomes else { return };
        self.evidence.syn_probes.push(SynProbe {
            helper: server.ip(),
            stranger: Stranger::OtherPort,
            outcome: near,
        });
        let other = self.others.get(&server).map(|other| other.ip()).filter(|other| *other != server.ip());
        if let Some(helper) = other {
            self.evidence.syn_probes.push(SynProbe {
                helper,
                stranger: Stranger::OtherAddress,
                outcome: far,
            });
        }
    }

    pub(super) fn fail(&mut self, ask: usize, failure: Failure, now: Instant) {
        let Ask { transport, server, purpose, index, local, .. } = self.asks[ask];
        tracing::debug!(%server, %transport, %failure, "a question about the network was not answered");
        if let Use::Filter { stranger, .. } = purpose {
            let outcome = match &failure {
                Failure::Fault(Fault::Silent | Fault::Unreachable(_)) => FilterOutcome::Silence,
                _ => FilterOutcome::Unsupported,
            };
            self.evidence.filter_tests.push(FilterTest { server, stranger, outcome });
        }
        let is_in_use = failure == Failure::Fault(Fault::Unreachable(std::io::ErrorKind::AddrInUse));
        self.take_back(ask, now);
        self.finish(ask, false);
        if is_in_use {
            self.evidence.unsent(index);
            let lane = self.lane(transport);
            let is_retried = lane.is_first() && lane.first == local && lane.retries < MOST_RETRIES;
            if purpose == Use::First && is_retried {
                lane.retries += 1;
                lane.first = lane.ports.first();
                let lane = usize::from(transport == Transport::Tcp);
                self.begin(lane, now);
            }
        } else if !matches!(purpose, Use::Filter { .. } | Use::Dial) {
            self.failures.entry((server, transport)).or_insert(failure);
        }
    }

    pub(super) fn finish(&mut self, ask: usize, hold: bool) {
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
}
