//! The mirror side of the ways that need one: somebody asked us to dial them, to punch, or to go through a relay.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::punches::{Punches, Said};
use super::relaying::Relaying;
use super::{Act, Candidate, Dialler, Event, Lane, LaneFailure, RelayAct, Way};
use crate::attempt::{DialError, RefusalReason};
use crate::punch::{self, MOST_PAIRS, Message, Punch, PunchReport, Setup, Share, Socket, Step};
use crate::race::dial::{DialAct, DialEvent};
use crate::relay::circuit::RelayKind;
use crate::signal::{Body, Refusal, Signal};
use crate::{Deadline, Local, Machine, Mapped, Output};

/// How long we dial for somebody else's sake.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// All of it together, the punches included.
const MOST_TIME: Duration = Duration::from_secs(40);

/// Dials a caller, punches with it, or goes through a relay with it, proves each connection, and lets the caller choose. If nothing can be
/// dialled, it tells the caller at once instead of letting it wait.
///
/// It speaks the language of [`Race`](super::Race), but never says `Keep`: that is the caller's word. On a socket
/// that it dialled for a `DialMe` it says Hello; on one that a punch or a relay brought about, whoever dialled, the
/// caller does.
#[derive(Clone, Debug)]
pub struct Answer {
    dialler: Option<Dialler>,
    /// When to stop dialling for a `DialMe`.
    dial_until: Option<Instant>,
    punches: Punches,
    relaying: Relaying,
    /// Punched and relayed connections that are up.
    lanes: Vec<(Lane, Candidate)>,
    state: State,
    output: VecDeque<Output<Act, Event>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying { until: Instant },
    Over,
}

impl Answer {
    /// Does nothing until it is asked: [`handle_dial_me`](Self::handle_dial_me),
    /// [`handle_punch`](Self::handle_punch).
    pub fn new(now: Instant) -> Self {
        Self {
            dialler: None,
            dial_until: None,
            punches: Punches::default(),
            relaying: Relaying::default(),
            lanes: Vec::new(),
            state: State::Trying { until: now + MOST_TIME },
            output: VecDeque::new(),
        }
    }

    /// The caller wants to be dialled, at `candidates`, as chosen by [`candidates`](super::candidates) with
    /// [`Trust::Stranger`](super::Trust::Stranger), `delay` apart. The first wish counts.
    pub fn handle_dial_me(&mut self, candidates: Vec<Candidate>, delay: Duration, now: Instant) {
        if self.dialler.is_none() && self.state != State::Over {
            self.dialler = Some(Dialler::new(candidates, delay, now));
            self.dial_until = Some(now + ANSWER_WITHIN);
            self.drain();
        }
    }

    /// The caller wants to punch, or goes on with it. What may not be answered is declined; it dials nothing.
    pub fn handle_punch(&mut self, setup: &Setup, signal: &Signal, now: Instant) {
        let Body::Punch(message) = &signal.body else { return };
        if self.state == State::Over {
            return;
        }
        if self.punches.has(message.pair) {
            self.punches.handle_message(message, now);
        } else if matches!(message.step, Step::Offer(_)) && message.pair < MOST_PAIRS {
            match punch::answerable(setup, &signal.sender, signal.attempt, message) {
                Some(config) => self.punches.add(Punch::answer(config, message, now)),
                None => {
                    let now = setup.clock.unix(now);
                    let declined = Message::declined(message.pair, RefusalReason::NoRoute, now);
                    self.output.push_back(Output::Act(Act::Signal(Body::Punch(declined))));
                }
            }
        }
        self.drain();
    }

    /// The caller wants to go through a relay, or goes on with it.
    pub fn handle_relay(&mut self, signal: &Signal, _now: Instant) {
        let Body::Relay(offer) = &signal.body else { return };
        if self.state == State::Over || offer.refusal.is_some() {
            return;
        }
        if self.relaying == Relaying::NotBegun {
            let act = self.relaying.begin(signal.sender.sources());
            self.output.push_back(Output::Act(Act::Relay(act)));
        }
        if self.relaying.is_running() {
            let act = RelayAct::Hear(offer.clone(), signal.sender.sources());
            self.output.push_back(Output::Act(Act::Relay(act)));
        }
    }

    /// Something has come through a relay: it is a lane from now on. `None`: close it.
    pub fn handle_relayed(&mut self, kind: RelayKind, remote: SocketAddr, _now: Instant) -> Option<Lane> {
        let up = self.relaying.open(kind, remote).filter(|_| self.state != State::Over);
        self.open(up)
    }

    /// Nothing came, or will come, through a relay.
    pub fn handle_relay_failed(&mut self, _now: Instant) {
        let act = self.relaying.end(None);
        self.output.extend(act.map(|act| Output::Act(Act::Relay(act))));
        self.drain();
    }

    /// A connection failed, in TCP or in its proof.
    pub fn handle_failed(&mut self, lane: Lane, failure: LaneFailure, now: Instant) {
        match (lane.punched_by(), &mut self.dialler) {
            _ if lane.way() == Way::Relay => self.lanes.retain(|(other, _)| *other != lane),
            (Some(_), _) => {
                self.lanes.retain(|(other, _)| *other != lane);
                self.punches.handle_lane_failed(lane, &failure, now);
            }
            (None, Some(dialler)) => dialler.handle_failed(lane.index(), failure, now),
            (None, None) => {}
        }
        self.drain();
    }

    /// The caller chose this connection.
    pub fn handle_kept(&mut self, lane: Lane, now: Instant) {
        if self.state != State::Over {
            self.over(Some(lane), now);
            self.output.push_back(Output::Event(Event::Won(lane)));
        }
    }

    /// What the machine's budget has for a punch. Whether it was taken; if not, it goes back, as it came too late.
    #[must_use]
    pub fn handle_punch_share(&mut self, pair: u8, share: Share, now: Instant) -> bool {
        let is_taken = self.punches.handle_share(pair, share, now);
        self.drain();
        is_taken
    }

    /// Whether a punch can listen there.
    pub fn handle_punch_listening(
        &mut self,
        pair: u8,
        at: Local,
        outcome: Result<(), DialError>,
        now: Instant,
    ) {
        self.punches.handle_listening(pair, at, outcome, now);
        self.drain();
    }

    /// What a server sees of a port of a punch; `None` when none answered.
    pub fn handle_punch_observed(&mut self, pair: u8, from: Local, mapped: Option<Mapped>, now: Instant) {
        self.punches.handle_observed(pair, from, mapped, now);
        self.drain();
    }

    /// TCP is up on a socket that a punch dialled: it is a lane from now on. `None`: close it.
    pub fn handle_punch_connected(
        &mut self,
        pair: u8,
        socket: Socket,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<Lane> {
        let up = self.punches.handle_connected(pair, socket, remote, now);
        self.open(up)
    }

    /// Somebody connected to a port that a punch listens on: it is a lane from now on. `None`: close it.
    pub fn handle_punch_accepted(
        &mut self,
        pair: u8,
        at: Local,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<Lane> {
        let up = self.punches.handle_accepted(pair, at, remote, now);
        self.open(up)
    }

    /// A dial of a punch failed. What is a lane fails by [`handle_failed`](Self::handle_failed).
    pub fn handle_punch_failed(&mut self, pair: u8, socket: Socket, failure: &DialError, now: Instant) {
        self.punches.handle_failed(pair, socket, failure, now);
        self.drain();
    }

    /// Stops all of it.
    pub fn close(&mut self, now: Instant) {
        if self.state != State::Over {
            self.over(None, now);
        }
    }

    /// Whether it is over, won or lost.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Where a punched or relayed lane leads.
    pub fn candidate(&self, lane: Lane) -> Option<Candidate> {
        self.lanes.iter().find(|(other, _)| *other == lane).map(|(_, candidate)| *candidate)
    }

    /// How the punches went.
    pub fn punches(&self) -> Vec<PunchReport> {
        self.punches.reports()
    }

    fn open(&mut self, up: Option<(Lane, Candidate)>) -> Option<Lane> {
        let lane = up.map(|(lane, candidate)| {
            self.lanes.push((lane, candidate));
            lane
        });
        self.drain();
        lane
    }

    fn drain(&mut self) {
        while let Some(output) = self.dialler.as_mut().map(Machine::poll_output) {
            match output {
                Output::Act(DialAct::Dial(line, candidate)) => {
                    self.output.push_back(Output::Act(Act::Dial(Lane::dialled(line), candidate)));
                }
                Output::Act(DialAct::Drop(line)) => {
                    self.output.push_back(Output::Act(Act::Drop(Lane::dialled(line))));
                }
                Output::Event(DialEvent::Exhausted) => self.give_up_dialling(),
                Output::Wait(_) => break,
            }
        }
        while let Some(said) = self.punches.poll() {
            let Said::Act(pair, act) = said else { continue };
            let act = match act {
                punch::Act::Signal(message) => Act::Signal(Body::Punch(message)),
                punch::Act::Drop(socket) => {
                    let lane = Lane::punched(pair, socket);
                    let before = self.lanes.len();
                    self.lanes.retain(|(other, _)| *other != lane);
                    match self.lanes.len() < before {
                        true => Act::Drop(lane),
                        false => Act::Punch(pair, punch::Act::Drop(socket)),
                    }
                }
                act => Act::Punch(pair, act),
            };
            self.output.push_back(Output::Act(act));
        }
        let is_idle = self.dial_until.is_none() && self.punches.are_over() && !self.relaying.is_running();
        if self.state != State::Over && is_idle {
            self.state = State::Over;
            self.output.push_back(Output::Event(Event::Lost));
        }
    }

    /// Nothing can be dialled: the caller should know, whatever becomes of the punches.
    fn give_up_dialling(&mut self) {
        if self.dial_until.take().is_some() {
            if let Some(dialler) = &mut self.dialler {
                dialler.close(None);
            }
            let refusal = Refusal { reason: RefusalReason::NoRoute };
            self.output.push_back(Output::Act(Act::Signal(Body::Refuse(refusal))));
        }
    }

    fn over(&mut self, kept: Option<Lane>, now: Instant) {
        self.state = State::Over;
        self.dial_until = None;
        let dialled = kept.filter(|lane| lane.way() == Way::Direct);
        let act = self.relaying.end(kept);
        self.output.extend(act.map(|act| Output::Act(Act::Relay(act))));
        if let Some(dialler) = &mut self.dialler {
            dialler.close(dialled.map(|lane| lane.index()));
        }
        self.punches.close(kept, now);
        self.drain();
    }
}

impl Machine for Answer {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Over => return,
            State::Trying { until } if now >= until => {
                self.over(None, now);
                self.output.push_back(Output::Event(Event::Lost));
                return;
            }
            State::Trying { .. } => {}
        }
        if self.dial_until.is_some_and(|until| now >= until) {
            self.give_up_dialling();
        } else if let Some(dialler) = self.dialler.as_mut().filter(|_| self.dial_until.is_some()) {
            dialler.handle_timeout(now);
        }
        self.punches.handle_timeout(now);
        self.drain();
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(output) = self.output.pop_front() {
            return output;
        }
        let State::Trying { until } = self.state else { return Output::Wait(None) };
        let dial = self.dial_until.map(|at| Deadline::new(at, "stop dialling for the caller"));
        let next = self.dialler.as_ref().filter(|_| dial.is_some()).and_then(Dialler::deadline);
        let end = Deadline::new(until, "stop answering");
        Output::Wait(Deadline::earliest([next, dial, Some(end), self.punches.deadline()]))
    }
}
