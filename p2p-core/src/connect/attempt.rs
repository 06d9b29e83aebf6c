//! The machine that runs an attempt, on either side of it.

mod answerer;
mod caller;
mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use self::answerer::{ANSWER_WITHIN, AnswerConfig};
pub use self::caller::{CallConfig, HEAD_START, MOST_RELAY_PATIENCE, RELAY_AFTER, RELAY_PATIENCE};

use self::answerer::Answerer;
use self::caller::Caller;
use self::common::Common;
use super::{Act, AttemptReport, Event, Lane, LaneInput, RelayInput};
use crate::attempt::{AttemptId, Role, Way};
use crate::candidate::Candidate;
use crate::peer::PeerAddr;
use crate::punch::{self, View};
use crate::signal::{Body, Delivery, Signal};
use crate::{Deadline, Output};

/// One attempt to connect, on one end of it.
///
/// A caller goes every allowed way at once, keeps one connection, and has a reason for every loser. An answerer dials
/// the caller, punches with it, or goes through a relay with it, proves each connection, and lets the caller choose;
/// if nothing can be dialled, it tells the caller at once instead of letting it wait. An answerer never wants
/// [`Act::Keep`]. On a socket that it dialled for a `DialMe` it says Hello; on one that a punch or a relay brought
/// about, whoever dialled, the caller does.
///
/// | methods | names |
/// |---|---|
/// | signals | [`handle_signal`](Self::handle_signal), [`handle_delivery`](Self::handle_delivery) |
/// | connections | [`handle_arrival`](Self::handle_arrival), [`handle_lane`](Self::handle_lane), [`handle_punch`](Self::handle_punch), [`handle_relay`](Self::handle_relay) |
/// | facts and time | [`handle_network_changed`](Self::handle_network_changed), [`handle_timeout`](Self::handle_timeout) |
/// | drain | [`poll_output`](Self::poll_output) |
/// | end | [`close`](Self::close) |
#[derive(Clone, Debug)]
pub struct Attempt {
    common: Common,
    part: Part,
}

/// The part of an attempt that is different on each side.
#[derive(Clone, Debug)]
enum Part {
    Caller(Box<Caller>),
    Answerer(Answerer),
}

impl Attempt {
    /// Calls a peer: starts the first way at once.
    pub fn call(mut config: CallConfig, view: &View<'_>, now: Instant) -> Self {
        let mut seen = BTreeSet::new();
        config.ways.retain(|way| seen.insert(*way));
        for span in [&mut config.within, &mut config.head_start, &mut config.dial_delay] {
            *span = (*span).min(MOST_SPAN);
        }
        let common = Common::caller(config.attempt, config.peer.clone(), &config.ways, now);
        let mut attempt = Self { common, part: Part::Caller(Box::new(Caller::new(config))) };
        attempt.step(view, now);
        attempt
    }

    /// Answers a caller: does nothing until a signal asks for it.
    pub fn answer(config: AnswerConfig, now: Instant) -> Self {
        let AnswerConfig { peer, attempt, trust } = config;
        let common = Common::answerer(attempt, peer, trust, now);
        Self { common, part: Part::Answerer(Answerer::new(now)) }
    }

    /// Takes in a signal that the peer sent for this attempt. Its current address, which every signal carries, is
    /// used from now on.
    pub fn handle_signal(&mut self, signal: &Signal, view: &View<'_>, now: Instant) {
        if signal.from != self.common.peer.id() || self.common.is_over {
            return;
        }
        let has_moved = signal.sender.is_newer_than(&self.common.peer);
        if has_moved {
            self.common.peer = signal.sender.clone();
        }
        self.common.refresh(view, now);
        match &mut self.part {
            Part::Caller(caller) => caller.on_signal(&mut self.common, signal, has_moved, view, now),
            Part::Answerer(answerer) => answerer.on_signal(&mut self.common, signal, has_moved, view, now),
        }
        self.step(view, now);
    }

    /// Takes in what became of a signal that was sent.
    pub fn handle_delivery(&mut self, body: &Body, delivery: Delivery, view: &View<'_>, now: Instant) {
        self.common.refresh(view, now);
        if let Part::Caller(caller) = &mut self.part {
            caller.on_delivery(&mut self.common, body, delivery, now);
        }
        self.step(view, now);
    }

    /// Takes in that the peer dialled us for this attempt. Returns its lane; `None` when it is too late or too often:
    /// close the connection.
    pub fn handle_arrival(&mut self, remote: SocketAddr, view: &View<'_>, now: Instant) -> Option<Lane> {
        match &mut self.part {
            Part::Caller(caller) => caller.on_arrival(&mut self.common, remote, view, now),
            Part::Answerer(_) => None,
        }
    }

    /// Takes in what happened to a lane.
    pub fn handle_lane(&mut self, lane: Lane, input: LaneInput, view: &View<'_>, now: Instant) {
        self.common.refresh(view, now);
        match input {
            LaneInput::Connected => self.common.records.connect(lane, now),
            LaneInput::Proven => {
                if self.common.records.prove(lane, now)
                    && let Part::Caller(caller) = &mut self.part
                {
                    caller.on_proven(&mut self.common, lane, now);
                }
            }
            LaneInput::Kept => match &mut self.part {
                Part::Caller(caller) => caller.on_kept(&mut self.common, lane, now),
                Part::Answerer(answerer) => answerer.on_kept(&mut self.common, lane, now),
            },
            LaneInput::Failed(failure) => {
                if !self.common.records.fail(lane, failure.clone()) {
                    return;
                }
                if let Part::Caller(caller) = &mut self.part
                    && caller.on_refused(&mut self.common, &failure, now)
                {
                    return;
                }
                self.common.on_failed(lane, failure, now);
                if let Part::Caller(caller) = &mut self.part {
                    caller.lost_while_keeping(&mut self.common, lane);
                }
                self.step(view, now);
            }
        }
    }

    /// Takes in the answer of the sockets to an [`Act::Punch`] of this number. Returns the lane that a connection has
    /// become; any other that is up has to be closed.
    pub fn handle_punch(
        &mut self,
        pair: u8,
        input: punch::Input,
        view: &View<'_>,
        now: Instant,
    ) -> Option<Lane> {
        self.common.refresh(view, now);
        let up = self.common.punches.handle(pair, input, now).filter(|_| !self.common.is_over);
        let lane = up.map(|(lane, candidate)| self.common.open(lane, candidate, now));
        self.step(view, now);
        lane
    }

    /// Takes in news of the circuit. Returns the lane that a connection has become; any other that is up has to be
    /// closed.
    pub fn handle_relay(&mut self, input: RelayInput, view: &View<'_>, now: Instant) -> Option<Lane> {
        if self.common.is_over {
            return None;
        }
        self.common.refresh(view, now);
        let lane = match input {
            RelayInput::Up(kind, remote) => {
                let (lane, candidate) = self.common.relay.open(kind, remote)?;
                Some(self.common.open(lane, candidate, now))
            }
            RelayInput::Failed(failure) => {
                if self.may_end() {
                    self.common.end_relay(failure.into(), now);
                }
                None
            }
        };
        self.step(view, now);
        lane
    }

    /// Takes in that the view is another one by now: candidates are computed anew, and an address that came late
    /// joins. No more are dialled and punched than in an attempt that knew all of them at the start.
    pub fn handle_network_changed(&mut self, view: &View<'_>, now: Instant) {
        if self.common.is_over {
            return;
        }
        self.common.refresh(view, now);
        match &mut self.part {
            Part::Caller(caller) => caller.on_moved(&mut self.common, view, now),
            Part::Answerer(answerer) => answerer.on_moved(&mut self.common, view, now),
        }
        self.step(view, now);
    }

    /// Takes in that time has passed. Calling this early, late or twice is harmless.
    pub fn handle_timeout(&mut self, view: &View<'_>, now: Instant) {
        if self.common.is_over {
            return;
        }
        self.common.refresh(view, now);
        let is_out_of_time = match &mut self.part {
            Part::Caller(caller) => caller.on_timeout(&mut self.common, now),
            Part::Answerer(answerer) => answerer.on_timeout(&mut self.common, now),
        };
        if !is_out_of_time {
            self.common.handle_timeout(now);
            self.step(view, now);
        }
    }

    /// Gives up: nobody wants the connection any more.
    pub fn close(&mut self, now: Instant) {
        if self.common.is_over {
            return;
        }
        match &mut self.part {
            Part::Caller(caller) => caller.cancel(&mut self.common, now),
            Part::Answerer(_) => self.common.over(None, now),
        }
    }

    /// Returns the next output. Call until it is [`Output::Wait`].
    pub fn poll_output(&mut self) -> Output<Act, Event> {
        self.common.output.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }

    /// Returns the next deadline.
    pub fn deadline(&self) -> Option<Deadline> {
        if self.common.is_over {
            return None;
        }
        let own = match &self.part {
            Part::Caller(caller) => caller.deadline(&self.common),
            Part::Answerer(answerer) => answerer.deadline(),
        };
        Deadline::earliest([own, self.common.deadline()])
    }

    /// Returns whether it is over, won or lost.
    pub fn is_over(&self) -> bool {
        self.common.is_over
    }

    /// Returns the name of the attempt at both ends.
    pub fn id(&self) -> AttemptId {
        self.common.id
    }

    /// Returns our role in it.
    pub fn role(&self) -> Role {
        self.common.role
    }

    /// Returns the newest address of the peer.
    pub fn peer(&self) -> &PeerAddr {
        &self.common.peer
    }

    /// Returns the way that a lane belongs to.
    pub fn way(&self, lane: Lane) -> Way {
        lane.way(self.common.role)
    }

    /// Returns the candidate behind a lane.
    pub fn candidate(&self, lane: Lane) -> Option<Candidate> {
        self.common.records.candidate(lane)
    }

    /// Returns what happened so far.
    pub fn report(&self, now: Instant) -> AttemptReport {
        let Common { records, peer, id, punches, ended, .. } = &self.common;
        records.report(peer.id(), *id, punches.reports(), ended.unwrap_or(now))
    }

    /// Returns whether a way may end by itself: not while a connection is about to be kept.
    fn may_end(&self) -> bool {
        match &self.part {
            Part::Caller(caller) => caller.is_racing(&self.common),
            Part::Answerer(_) => true,
        }
    }

    fn step(&mut self, view: &View<'_>, now: Instant) {
        if self.common.is_over {
            return;
        }
        match &mut self.part {
            Part::Caller(caller) => caller.step(&mut self.common, view, now),
            Part::Answerer(answerer) => answerer.step(&mut self.common, now),
        }
    }
}

/// No span in a configuration counts for more than this: time must not overflow because somebody said "for ever".
const MOST_SPAN: Duration = Duration::from_secs(86_400);
