//! The machine that runs a race.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dial::{DialAct, DialEvent};
use super::reverse::ReverseAct;
use super::{
    Act, Candidate, Dialler, Event, Filter, Lane, LaneFailure, LaneReport, Motive, OurPlace, RaceReport,
    Reverse, Way, WayFailure, WayOutcome, WayReport, candidates, path_to,
};
use crate::peer::PeerAddr;
use crate::signal::{AttemptId, Body, Delivery, DialMe, Signal};
use crate::{Deadline, Machine, Output};

/// How long the direct way runs alone before the peer is asked to dial us. On the path where it works it
/// mostly wins within this, and no third party is troubled.
pub const HEAD_START: Duration = Duration::from_millis(30);
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
    pub ours: OurPlace,
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
    /// How much later than the first way the others begin. Default [`HEAD_START`].
    pub head_start: Duration,
    /// The pause between two dials. Default [`DIAL_DELAY`](super::DIAL_DELAY).
    pub dial_delay: Duration,
    /// When to give up altogether.
    pub within: Duration,
}

/// How far one way is.
#[derive(Clone, Debug)]
enum Progress {
    Waiting,
    Running { since: Instant },
    Ended { since: Option<Instant>, at: Instant, outcome: WayOutcome },
}

#[derive(Clone, Debug)]
struct Runner {
    way: Way,
    progress: Progress,
}

/// What is known of one connection.
#[derive(Clone, Debug)]
struct LaneRecord {
    lane: Lane,
    candidate: Candidate,
    began: Instant,
    connected: Option<Instant>,
    proven: Option<Instant>,
    failure: Option<LaneFailure>,
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
    runners: Vec<Runner>,
    dialler: Option<Dialler>,
    reverse: Option<Reverse>,
    question: AddrQuestion,
    lanes: Vec<LaneRecord>,
    arrivals: usize,
    ended: Option<Instant>,
    output: VecDeque<Output<Act, Event>>,
}

impl Race {
    /// Starts the first way at once.
    pub fn new(config: RaceConfig, now: Instant) -> Self {
        let runners = config.ways.iter().map(|&way| Runner { way, progress: Progress::Waiting }).collect();
        let mut race = Self {
            config,
            began: now,
            state: State::Racing,
            runners,
            dialler: None,
            reverse: None,
            question: AddrQuestion::NotAsked,
            lanes: Vec::new(),
            arrivals: 0,
            ended: None,
            output: VecDeque::new(),
        };
        race.step(now);
        race
    }

    /// TCP is up on this lane, the proof begins.
    pub fn handle_connected(&mut self, lane: Lane, now: Instant) {
        if let Some(record) = self.record(lane) {
            record.connected.get_or_insert(now);
        }
    }

    /// The peer is proven on this lane. The first one is kept.
    pub fn handle_proven(&mut self, lane: Lane, now: Instant) {
        let Some(record) = self.record(lane) else { return };
        if record.failure.is_some() {
            return;
        }
        record.proven.get_or_insert(now);
        if self.state == State::Racing {
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
        let Some(record) = self.record(lane).filter(|record| record.failure.is_none()) else {
            return;
        };
        record.failure = Some(failure.clone());
        if lane.way() == Way::Direct
            && let Some(dialler) = &mut self.dialler
        {
            dialler.handle_failed(lane.index(), failure, now);
        }
        if self.state == State::Keeping(lane) {
            self.state = State::Racing;
            let next = self.lanes.iter().find(|record| record.proven.is_some() && record.failure.is_none());
            if let Some(next) = next.map(|record| record.lane) {
                self.keep(next);
            }
        }
        self.step(now);
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
        self.lanes.push(LaneRecord {
            lane,
            candidate,
            began: now,
            connected: Some(now),
            proven: None,
            failure: None,
        });
        Some(lane)
    }

    /// What became of a signal we sent.
    pub fn handle_delivery(&mut self, body: &Body, delivery: Delivery, now: Instant) {
        match body {
            Body::DialMe(_) => {
                if let Some(reverse) = &mut self.reverse {
                    reverse.handle_delivery(delivery, now);
                }
            }
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
        if signal.sender.issued() > self.config.peer.issued() {
            self.config.peer = signal.sender.clone();
            let more = self.candidates();
            if let Some(dialler) = &mut self.dialler {
                dialler.handle_more(more, now);
            }
        }
        match &signal.body {
            Body::Refuse(refusal) => {
                if let Some(reverse) = &mut self.reverse {
                    reverse.handle_refused(refusal.reason, now);
                }
            }
            Body::TellAddr => self.question = AddrQuestion::Closed,
            _ => {}
        }
        self.step(now);
    }

    /// Gives up: the user does not want the connection any more.
    pub fn close(&mut self, now: Instant) {
        if self.state != State::Over {
            self.end_all(&WayFailure::Cancelled, now);
            self.over(None, now);
        }
    }

    /// Whether it is over, won or lost.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The candidate behind a lane.
    pub fn candidate(&self, lane: Lane) -> Option<Candidate> {
        self.lanes.iter().find(|record| record.lane == lane).map(|record| record.candidate)
    }

    /// What happened so far.
    pub fn report(&self, now: Instant) -> RaceReport {
        let now = self.ended.unwrap_or(now);
        let since = |at: Instant| at.saturating_duration_since(self.began);
        let ways = self.runners.iter().map(|runner| {
            let (began, ended, outcome) = match &runner.progress {
                Progress::Waiting => (None, now, WayOutcome::Overtaken),
                Progress::Running { since } => (Some(*since), now, WayOutcome::Overtaken),
                Progress::Ended { since, at, outcome } => (*since, *at, outcome.clone()),
            };
            let lanes =
                self.lanes.iter().filter(|record| record.lane.way() == runner.way).map(|record| LaneReport {
                    path: record.candidate.path,
                    remote: record.candidate.target,
                    began: Some(since(record.began)),
                    connected: record.connected.map(since),
                    proven: record.proven.map(since),
                    failure: record.failure.clone(),
                });
            WayReport {
                way: runner.way,
                began: began.map(since),
                ended: since(ended),
                outcome,
                lanes: lanes.collect(),
            }
        });
        RaceReport {
            peer: self.config.peer.id(),
            attempt: self.config.attempt,
            took: since(now),
            ways: ways.collect(),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        candidates(&self.config.ours, &self.config.peer, &self.config.filter, Motive::OurWish)
    }

    fn record(&mut self, lane: Lane) -> Option<&mut LaneRecord> {
        self.lanes.iter_mut().find(|record| record.lane == lane)
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
        let idle = self.runners.iter().all(|runner| matches!(runner.progress, Progress::Ended { .. }))
            && self.lanes.iter().all(|record| record.failure.is_some());
        if idle && self.state == State::Racing {
            self.over(None, now);
            self.output.push_back(Output::Event(Event::Lost));
        }
    }

    fn start_due(&mut self, now: Instant) -> bool {
        let mut started = false;
        for index in 0..self.runners.len() {
            let nobody_runs =
                !self.runners.iter().any(|runner| matches!(runner.progress, Progress::Running { .. }));
            let due = index == 0 || nobody_runs || now >= self.began + self.config.head_start;
            if due && matches!(self.runners[index].progress, Progress::Waiting) && self.state == State::Racing
            {
                self.runners[index].progress = Progress::Running { since: now };
                self.start(self.runners[index].way, now);
                started = true;
            }
        }
        started
    }

    fn start(&mut self, way: Way, now: Instant) {
        match way {
            Way::Direct => self.dialler = Some(Dialler::new(self.candidates(), self.config.dial_delay, now)),
            Way::Reverse if !self.config.can_signal => self.end(way, WayFailure::NoSignalling, now),
            Way::Reverse if !self.config.listens => self.end(way, WayFailure::NotListening, now),
            Way::Reverse => self.reverse = Some(Reverse::new(now)),
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.dialler.as_mut().map(Machine::poll_output) {
            match output {
                Output::Act(DialAct::Dial(index, candidate)) => {
                    let lane = Lane::dialled(index);
                    self.lanes.push(LaneRecord {
                        lane,
                        candidate,
                        began: now,
                        connected: None,
                        proven: None,
                        failure: None,
                    });
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
                    let body = Body::DialMe(DialMe { plain: self.config.plain });
                    self.output.push_back(Output::Act(Act::Signal(body)));
                }
                Output::Event(failure) => self.end(Way::Reverse, failure, now),
                Output::Wait(_) => break,
            }
        }
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
            self.end(Way::Direct, failure, now);
        }
    }

    fn end(&mut self, way: Way, failure: WayFailure, now: Instant) {
        for runner in self.runners.iter_mut().filter(|runner| runner.way == way) {
            if let Progress::Running { since } = runner.progress {
                runner.progress = Progress::Ended {
                    since: Some(since),
                    at: now,
                    outcome: WayOutcome::Failed(failure.clone()),
                };
            }
        }
    }

    fn end_all(&mut self, failure: &WayFailure, now: Instant) {
        for runner in &mut self.runners {
            let since = match runner.progress {
                Progress::Waiting => None,
                Progress::Running { since } => Some(since),
                Progress::Ended { .. } => continue,
            };
            runner.progress =
                Progress::Ended { since, at: now, outcome: WayOutcome::Failed(failure.clone()) };
        }
    }

    /// Drops every lane but the winner and puts the children to rest.
    fn over(&mut self, winner: Option<Lane>, now: Instant) {
        self.state = State::Over;
        self.ended = Some(now);
        self.dialler = None;
        self.reverse = None;
        for record in &mut self.lanes {
            if Some(record.lane) != winner && record.failure.is_none() {
                record.failure = Some(LaneFailure::Dropped);
                self.output.push_back(Output::Act(Act::Drop(record.lane)));
            }
        }
        for runner in &mut self.runners {
            let since = match runner.progress {
                Progress::Waiting => None,
                Progress::Running { since } => Some(since),
                Progress::Ended { since, .. } if Some(runner.way) == winner.map(|lane| lane.way()) => since,
                Progress::Ended { .. } => continue,
            };
            let won = Some(runner.way) == winner.map(|lane| lane.way());
            let outcome = if won { WayOutcome::Won } else { WayOutcome::Overtaken };
            runner.progress = Progress::Ended { since, at: now, outcome };
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
            self.end_all(&WayFailure::TimedOut, now);
            self.over(None, now);
            self.output.push_back(Output::Event(Event::Lost));
            return;
        }
        if let Some(dialler) = &mut self.dialler {
            dialler.handle_timeout(now);
        }
        if let Some(reverse) = &mut self.reverse {
            reverse.handle_timeout(now);
        }
        self.step(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(output) = self.output.pop_front() {
            return output;
        }
        if self.state == State::Over {
            return Output::Wait(None);
        }
        let waiting = self.state == State::Racing
            && self.runners.iter().any(|runner| matches!(runner.progress, Progress::Waiting));
        let asks = self.question == AddrQuestion::NotAsked && self.dialler.is_some() && self.may_ask();
        let answered = match self.question {
            AddrQuestion::Asked { until } => Some(until),
            AddrQuestion::NotAsked | AddrQuestion::Closed => None,
        };
        Output::Wait(Deadline::earliest([
            Some(Deadline::new(self.began + self.config.within, "the attempt is out of time")),
            waiting.then(|| Deadline::new(self.began + self.config.head_start, "start the other ways")),
            asks.then(|| Deadline::new(self.began + ASK_ADDR_AFTER, "ask for the peer's current address")),
            answered.map(|at| Deadline::new(at, "the peer should have told its address by now")),
            self.dialler.as_ref().and_then(Dialler::deadline),
            self.reverse.as_ref().and_then(Reverse::deadline),
        ]))
    }
}
