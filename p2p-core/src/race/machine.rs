//! The machine that runs a race.

mod punching;
mod relaying;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dial::{DialAct, DialEvent};
use super::punches::Punches;
use super::record::Records;
use super::relaying::Relaying;
use super::reverse::ReverseAct;
use super::{
    Act, Candidate, Dialler, Event, Filter, HostView, Lane, LaneFailure, RaceReport, Reverse, Trust, Way,
    WayFailure, candidates, path_to,
};
use crate::attempt::{AttemptId, RefusalReason};
use crate::peer::PeerAddr;
use crate::proof::ProofError;
use crate::punch::Setup;
use crate::signal::{Body, Delivery, DialMe, Signal};
use crate::{Deadline, Machine, Output};

pub use relaying::{RELAY_AFTER, RELAY_PATIENCE};

/// How long the direct way runs alone before the peer is asked to dial us. On the path where it works it
/// mostly wins within this, and no third party is troubled.
pub const HEAD_START: Duration = Duration::from_millis(30);
/// No span in a configuration counts for more than this: time must not overflow because somebody said "for ever".
const MOST_SPAN: Duration = Duration::from_secs(86_400);
/// How long after the start the peer is asked for its current address, if dialling has not worked by then.
const ASK_ADDR_AFTER: Duration = Duration::from_millis(300);
/// How long we wait for the answer when nothing else is left.
const ADDR_WITHIN: Duration = Duration::from_secs(3);
/// How many connections of the peer we prove for one attempt. It dials each of our addresses once.
const MOST_ARRIVALS: usize = super::MOST_CANDIDATES;

/// What a race is run with.
#[derive(Clone, Debug)]
pub struct RaceConfig {
    /// Whom we want, and what they published.
    pub peer: PeerAddr,
    /// Names the attempt at both ends.
    pub attempt: AttemptId,
    /// Where we are.
    pub ours: HostView,
    /// The ways to go, in the order they start.
    pub ways: Vec<Way>,
    /// Families and paths that may be used.
    pub filter: Filter,
    /// Whether the user asked for the bare TCP connection.
    pub plain: bool,
    /// Whether there is any broker through which the peer may be reached.
    pub can_signal: bool,
    /// Whether we listen anywhere.
    pub listens: bool,
    /// What it takes to punch; `None` when this node does not.
    pub punch: Option<Setup>,
    /// How much later than the first way the others begin. Default [`HEAD_START`].
    pub head_start: Duration,
    /// The pause between two dials. Default [`DIAL_DELAY`](super::DIAL_DELAY).
    pub dial_delay: Duration,
    /// When to give up altogether; a day at most.
    pub within: Duration,
}

/// Whether the peer's current address was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddrQuestion {
    NotAsked,
    Asked { until: Instant },
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Racing,
    Keeping(Lane),
    Over,
}

/// A caller's attempt: every allowed way at once, one winner, a reason for every loser.
#[derive(Clone, Debug)]
pub struct Race {
    config: RaceConfig,
    began: Instant,
    state: State,
    dialler: Option<Dialler>,
    reverse: Option<Reverse>,
    punches: Punches,
    relaying: Relaying,
    /// Every broker of the peer's has said that it is not there.
    is_offline: bool,
    question: AddrQuestion,
    records: Records,
    arrivals: usize,
    /// It has told of another address since we began.
    has_moved: bool,
    /// Nothing but a punch can work, as far as is known.
    must_punch: bool,
    /// The peer was asked to dial us and may be at it.
    asked: bool,
    ended: Option<Instant>,
    output: VecDeque<Output<Act, Event>>,
}

impl Race {
    /// Starts the first way at once.
    pub fn new(mut config: RaceConfig, now: Instant) -> Self {
        let mut seen = BTreeSet::new();
        config.ways.retain(|way| seen.insert(*way));
        for span in [&mut config.within, &mut config.head_start, &mut config.dial_delay] {
            *span = (*span).min(MOST_SPAN);
        }
        let records = Records::new(&config.ways, now);
        let must_punch = config.must_punch();
        let mut race = Self {
            config,
            began: now,
            state: State::Racing,
            dialler: None,
            reverse: None,
            punches: Punches::default(),
            relaying: Relaying::default(),
            is_offline: false,
            question: AddrQuestion::NotAsked,
            records,
            arrivals: 0,
            has_moved: false,
            must_punch,
            asked: false,
            ended: None,
            output: VecDeque::new(),
        };
        race.step(now);
        race
    }

    /// TCP is up on this lane, the proof begins.
    pub fn handle_connected(&mut self, lane: Lane, now: Instant) {
        if let Some(record) = self.records.lane(lane) {
            record.connected.get_or_insert(now);
        }
    }

    /// The peer is proven on this lane. The first one is kept.
    pub fn handle_proven(&mut self, lane: Lane, now: Instant) {
        let Some(record) = self.records.lane(lane) else { return };
        if record.failure.is_some() {
            return;
        }
        record.proven.get_or_insert(now);
        if self.state == State::Racing && !self.must_wait(lane, now) {
            self.keep(lane);
        }
    }

    /// The word Go is out on this lane.
    pub fn handle_kept(&mut self, lane: Lane, now: Instant) {
        if self.state == State::Keeping(lane) {
            self.over(Some(lane), now);
            self.output.push_back(Output::Event(Event::Won(lane)));
        }
    }

    /// This lane failed, in TCP, in its proof, or in the last moment.
    pub fn handle_failed(&mut self, lane: Lane, failure: LaneFailure, now: Instant) {
        let Some(record) = self.records.lane(lane).filter(|record| record.failure.is_none()) else {
            return;
        };
        record.failure = Some(failure.clone());
        if let LaneFailure::Proof(ProofError::Refused(reason)) = failure
            && reason != RefusalReason::Unsupported
            && self.state == State::Racing
        {
            // The peer is there, is itself, and said no: other ways would only ask again. Unless it only does not
            // want this way: then another may be welcome.
            return self.lose(&WayFailure::Refused(reason), now);
        }
        match (lane.way(), &mut self.dialler) {
            (Way::Direct, Some(dialler)) => dialler.handle_failed(lane.index(), failure, now),
            (Way::Punch, _) => self.punches.handle_lane_failed(lane, &failure, now),
            (Way::Relay, _) => self.on_relayed_failed(lane, &failure, now),
            _ => {}
        }
        self.lost_while_keeping(lane);
        self.step(now);
    }

    /// If this was the one to be kept, another one is.
    fn lost_while_keeping(&mut self, lane: Lane) {
        if self.state == State::Keeping(lane) {
            self.state = State::Racing;
            if let Some(next) = self.records.proven() {
                self.keep(next);
            }
        }
    }

    /// The peer dialled us for this attempt. `None` when it is too late or too often: close the connection.
    pub fn handle_arrival(&mut self, remote: SocketAddr, now: Instant) -> Option<Lane> {
        if self.state == State::Over || self.arrivals >= MOST_ARRIVALS || self.reverse.is_none() {
            return None;
        }
        let lane = Lane::arrived(self.arrivals);
        self.arrivals += 1;
        let path = path_to(&self.config.ours, Some(&self.config.peer), remote.ip());
        let candidate = Candidate { path, target: remote, from: None };
        if !self.config.filter.paths.contains(&path) {
            return None;
        }
        self.records.open(lane, candidate, now);
        self.handle_connected(lane, now);
        Some(lane)
    }

    /// What became of a signal we sent.
    pub fn handle_delivery(&mut self, body: &Body, delivery: Delivery, now: Instant) {
        self.is_offline |= delivery == Delivery::Offline;
        match body {
            Body::DialMe(_) => {
                if let Some(reverse) = &mut self.reverse {
                    reverse.handle_delivery(delivery, now);
                }
            }
            Body::Punch(_) => match delivery {
                Delivery::Offline => self.end_punch(WayFailure::Offline, now),
                Delivery::NoBroker(troubles) => self.end_punch(WayFailure::NoBroker(troubles), now),
                Delivery::Told | Delivery::Unknown => {}
            },
            Body::Relay(_) => self.on_relay_delivery(delivery, now),
            Body::AskAddr if matches!(delivery, Delivery::Offline | Delivery::NoBroker(_)) => {
                self.question = AddrQuestion::Closed;
            }
            _ => {}
        }
        self.step(now);
    }

    /// The peer sent a signal for this attempt. Its current address, which every signal carries, is tried
    /// too.
    pub fn handle_signal(&mut self, signal: &Signal, now: Instant) {
        if signal.from != self.config.peer.id() || self.state == State::Over {
            return;
        }
        self.is_offline = false;
        if signal.sender.issued() > self.config.peer.issued() {
            self.config.peer = signal.sender.clone();
            let more = self.candidates();
            if let Some(dialler) = &mut self.dialler {
                dialler.handle_more(more, now);
            }
            self.has_moved = true;
        }
        match &signal.body {
            Body::Refuse(refusal) => {
                self.question = AddrQuestion::Closed;
                if let Some(reverse) = &mut self.reverse {
                    reverse.handle_refused(refusal.reason, now);
                }
                // These are about one way, and not this one.
                if !matches!(refusal.reason, RefusalReason::NoRoute | RefusalReason::Unsupported) {
                    self.end_punch(WayFailure::Refused(refusal.reason), now);
                    self.end_relay(WayFailure::Refused(refusal.reason), now);
                }
            }
            Body::Punch(message) => {
                self.follow(now);
                self.punches.handle_message(message, now);
                self.follow(now);
            }
            Body::Relay(offer) => self.on_relay_offer(offer, &signal.sender, now),
            Body::TellAddr => {
                self.question = AddrQuestion::Closed;
                self.follow(now);
            }
            _ => {}
        }
        self.step(now);
    }

    /// Gives up: the user does not want the connection any more.
    pub fn close(&mut self, now: Instant) {
        if self.state != State::Over {
            self.records.end_all(&WayFailure::Cancelled, now);
            self.over(None, now);
        }
    }

    /// Whether it is over, won or lost.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The candidate behind a lane.
    pub fn candidate(&self, lane: Lane) -> Option<Candidate> {
        self.records.candidate(lane)
    }

    /// What happened so far.
    pub fn report(&self, now: Instant) -> RaceReport {
        let now = self.ended.unwrap_or(now);
        self.records.report(self.config.peer.id(), self.config.attempt, self.punches.reports(), now)
    }

    fn candidates(&self) -> Vec<Candidate> {
        candidates(&self.config.ours, &self.config.peer, &self.config.filter, Trust::Known)
    }

    fn keep(&mut self, lane: Lane) {
        self.state = State::Keeping(lane);
        self.output.push_back(Output::Act(Act::Keep(lane)));
    }

    /// Starts what is due, drains the children, ends what cannot go on.
    fn step(&mut self, now: Instant) {
        if self.state == State::Over {
            return;
        }
        self.start_due(now);
        self.ask_address(now);
        self.drain(now);
        self.end_direct(now);
        // A way that failed gives its head start to the next.
        if self.start_due(now) {
            self.drain(now);
            self.end_direct(now);
        }
        self.keep_waiting(now);
        let idle = self.records.is_idle();
        if idle && self.state == State::Racing {
            self.over(None, now);
            self.output.push_back(Output::Event(Event::Lost));
        }
    }

    fn start_due(&mut self, now: Instant) -> bool {
        let mut started = false;
        let head_start_over = now >= self.began + self.config.head_start;
        let must_punch = self.must_punch;
        let relay_due = now >= self.relay_due();
        let is_due = |way| match way {
            Way::Relay => relay_due,
            Way::Punch => head_start_over || must_punch,
            _ => head_start_over,
        };
        while self.state == State::Racing
            && let Some(way) = self.records.start_next(is_due, now)
        {
            self.start(way, now);
            started = true;
        }
        started
    }

    fn start(&mut self, way: Way, now: Instant) {
        match way {
            Way::Direct => self.dialler = Some(Dialler::new(self.candidates(), self.config.dial_delay, now)),
            Way::Reverse if !self.config.can_signal => self.records.end(way, WayFailure::NoSignalling, now),
            Way::Reverse if !self.config.listens => self.records.end(way, WayFailure::NotListening, now),
            Way::Reverse => self.reverse = Some(Reverse::new(now)),
            Way::Punch if !self.config.can_signal => self.records.end(way, WayFailure::NoSignalling, now),
            Way::Punch => self.start_punches(now),
            Way::Relay => self.start_relay(now),
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.dialler.as_mut().map(Machine::poll_output) {
            match output {
                Output::Act(DialAct::Dial(index, candidate)) => {
                    let lane = Lane::dialled(index);
                    self.records.open(lane, candidate, now);
                    self.output.push_back(Output::Act(Act::Dial(lane, candidate)));
                }
                Output::Act(DialAct::Drop(index)) => {
                    self.output.push_back(Output::Act(Act::Drop(Lane::dialled(index))));
                }
                Output::Event(DialEvent::Exhausted) => {}
                Output::Wait(_) => break,
            }
        }
        while let Some(output) = self.reverse.as_mut().map(Machine::poll_output) {
            match output {
                Output::Act(ReverseAct::Ask) => {
                    self.asked = true;
                    let body = Body::DialMe(DialMe { plain: self.config.plain });
                    self.output.push_back(Output::Act(Act::Signal(body)));
                }
                Output::Event(failure) => self.records.end(Way::Reverse, failure, now),
                Output::Wait(_) => break,
            }
        }
        self.drain_punches(now);
    }

    fn may_ask(&self) -> bool {
        self.config.can_signal && self.state == State::Racing
    }

    /// What the peer published may be old. If dialling does not work at once, ask.
    fn ask_address(&mut self, now: Instant) {
        let Some(dialler) = &self.dialler else { return };
        let wanted = dialler.is_exhausted() || now >= self.began + ASK_ADDR_AFTER;
        if matches!(self.question, AddrQuestion::Asked { until } if now >= until) {
            self.question = AddrQuestion::Closed;
        }
        if self.question == AddrQuestion::NotAsked && wanted && self.may_ask() {
            self.question = AddrQuestion::Asked { until: now + ADDR_WITHIN };
            self.output.push_back(Output::Act(Act::Signal(Body::AskAddr)));
        }
    }

    /// The direct way is over when nothing is left to dial and no news of the peer's address is expected.
    fn end_direct(&mut self, now: Instant) {
        let expecting = match self.question {
            AddrQuestion::NotAsked => self.config.can_signal,
            AddrQuestion::Asked { .. } => true,
            AddrQuestion::Closed => false,
        };
        if let Some(dialler) = &self.dialler
            && dialler.is_exhausted()
            && !expecting
        {
            let failure =
                if dialler.lines().count() == 0 { WayFailure::NoCandidates } else { WayFailure::AllFailed };
            self.records.end(Way::Direct, failure, now);
        }
    }

    /// It is over for one reason for all that still runs.
    fn lose(&mut self, failure: &WayFailure, now: Instant) {
        self.records.end_all(failure, now);
        self.over(None, now);
        self.output.push_back(Output::Event(Event::Lost));
    }

    /// Drops every lane but the winner and puts the children to rest.
    fn over(&mut self, winner: Option<Lane>, now: Instant) {
        self.state = State::Over;
        self.ended = Some(now);
        self.dialler = None;
        self.reverse = None;
        let has_offered = self.punches.have_offered() || self.relaying.is_running();
        let act = self.relaying.end(winner);
        self.relay(act);
        self.punches.close(winner, now);
        self.drain_punches(now);
        for dropped in self.records.settle(winner, now) {
            self.output.push_back(Output::Act(Act::Drop(dropped)));
        }
        let is_known_there = winner.is_some_and(|lane| lane.way() != Way::Direct);
        if (self.asked || has_offered) && !is_known_there {
            self.output.push_back(Output::Act(Act::Signal(Body::Bye)));
        }
    }
}

impl Machine for Race {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Over {
            return;
        }
        if now >= self.began + self.config.within {
            return self.lose(&WayFailure::TimedOut, now);
        }
        if let Some(dialler) = &mut self.dialler {
            dialler.handle_timeout(now);
        }
        if let Some(reverse) = &mut self.reverse {
            reverse.handle_timeout(now);
        }
        self.punches.handle_timeout(now);
        self.step(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(output) = self.output.pop_front() {
            return output;
        }
        if self.state == State::Over {
            return Output::Wait(None);
        }
        let waits = |is_it: fn(Way) -> bool| self.state == State::Racing && self.records.has_waiting(is_it);
        let (waiting, relay) = (waits(|way| way != Way::Relay), waits(|way| way == Way::Relay));
        let asks = self.question == AddrQuestion::NotAsked && self.dialler.is_some() && self.may_ask();
        let answered = match self.question {
            AddrQuestion::Asked { until } => Some(until),
            AddrQuestion::NotAsked | AddrQuestion::Closed => None,
        };
        Output::Wait(Deadline::earliest([
            Some(Deadline::new(self.began + self.config.within, "the attempt is out of time")),
            waiting.then(|| Deadline::new(self.began + self.config.head_start, "start the other ways")),
            relay.then(|| Deadline::new(self.relay_due(), "ask for a relay")),
            self.waiting_deadline(),
            asks.then(|| Deadline::new(self.began + ASK_ADDR_AFTER, "ask for the peer's current address")),
            answered.map(|at| Deadline::new(at, "the peer should have told its address by now")),
            self.dialler.as_ref().and_then(Dialler::deadline),
            self.reverse.as_ref().and_then(Reverse::deadline),
            self.punches.deadline(),
        ]))
    }
}
