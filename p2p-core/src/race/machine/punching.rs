//! The punches of a race.

use std::net::SocketAddr;
use std::time::Instant;

use super::super::punches::{Said, is_same};
use super::super::{Act, Candidate, Lane, LaneFailure, Way, WayFailure};
use super::{Race, RaceConfig, State};
use crate::attempt::{DialError, RefusalReason};
use crate::nat::NatFacts;
use crate::nat::meets::{self, meets};
use crate::punch::{self, Failed, Mode, Punch, PunchConfig, Setup, Share, Socket};
use crate::signal::Body;
use crate::{Local, Mapped, Output};

impl RaceConfig {
    fn worthwhile(&self, setup: &Setup) -> Vec<PunchConfig> {
        punch::worthwhile(setup, &self.peer, &self.filter, self.attempt)
    }

    /// Whether all that is known of both networks says that neither side can simply dial the other: then a punch has
    /// nothing to wait for.
    pub(super) fn must_punch(&self) -> bool {
        let pairs = self.punch.as_ref().map(|setup| self.worthwhile(setup)).unwrap_or_default();
        let is_known = |facts: &NatFacts| facts.nat.is_some() || facts.filtering.is_some();
        let must = |pair: &PunchConfig| {
            let dials = [meets::Way::Direct, meets::Way::Reverse];
            let can_dial = || meets(&pair.facts, &pair.theirs).ways.iter().any(|way| dials.contains(way));
            pair.mode == Mode::Remote && is_known(&pair.facts) && is_known(&pair.theirs) && !can_dial()
        };
        !pairs.is_empty() && pairs.iter().all(must)
    }
}

impl Race {
    /// Begins a punch for each pair of addresses that is worth one and has none yet.
    pub(super) fn start_punches(&mut self, now: Instant) {
        let Some(setup) = &self.config.punch else {
            return self.records.end(Way::Punch, WayFailure::Unsupported, now);
        };
        let wanted = self.config.worthwhile(setup);
        let is_wanted = |config: &PunchConfig| wanted.iter().any(|wanted| is_same(wanted, config));
        for config in wanted.iter().filter(|config| !self.punches.are_between(config)).collect::<Vec<_>>() {
            let Some(pair) = self.punches.make_room(is_wanted) else { break };
            // The lanes of whoever had the number before are numbered alike.
            self.records.forget(|lane| lane.punched_by().is_some_and(|(number, _)| number == pair));
            self.punches.add(Punch::call(PunchConfig { pair, ..config.clone() }, now));
        }
        if self.punches.is_empty() {
            let is_placed = punch::are_placed(setup, &self.config.peer);
            let failure = if is_placed { WayFailure::NothingToPunch } else { WayFailure::NotPlaced };
            self.records.end(Way::Punch, failure, now);
        }
    }

    /// Punches where the peer is by now, if they are not over. What was declined makes room.
    pub(super) fn follow(&mut self, now: Instant) {
        if self.has_moved && !self.punches.is_empty() && self.records.is_running(Way::Punch) {
            self.start_punches(now);
        }
    }

    /// The punches are over, if they had not led anywhere yet.
    pub(super) fn end_punch(&mut self, failure: WayFailure, now: Instant) {
        if !self.punches.is_empty() && self.state == State::Racing && !self.records.is_up(Way::Punch) {
            self.punches.close(None, now);
            self.records.end(Way::Punch, failure, now);
        }
    }

    /// What the machine's budget has for a punch. Whether it was taken; if not, it goes back, as it came too late.
    #[must_use]
    pub fn handle_punch_share(&mut self, pair: u8, share: Share, now: Instant) -> bool {
        let is_taken = self.punches.handle_share(pair, share, now);
        self.after_punch(now);
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
        self.after_punch(now);
    }

    /// What a server sees of a port of a punch; `None` when none answered.
    pub fn handle_punch_observed(&mut self, pair: u8, from: Local, mapped: Option<Mapped>, now: Instant) {
        self.punches.handle_observed(pair, from, mapped, now);
        self.after_punch(now);
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
        self.open_punched(up, now)
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
        self.open_punched(up, now)
    }

    /// A dial of a punch failed. What is a lane fails by [`handle_failed`](Self::handle_failed).
    pub fn handle_punch_failed(&mut self, pair: u8, socket: Socket, failure: &DialError, now: Instant) {
        self.punches.handle_failed(pair, socket, failure, now);
        self.after_punch(now);
    }

    fn open_punched(&mut self, up: Option<(Lane, Candidate)>, now: Instant) -> Option<Lane> {
        let (lane, candidate) = up.filter(|_| self.state != State::Over)?;
        self.records.open(lane, candidate, now);
        self.handle_connected(lane, now);
        self.after_punch(now);
        Some(lane)
    }

    /// A punch that is over still gives back what it had.
    fn after_punch(&mut self, now: Instant) {
        if self.state == State::Over { self.drain_punches(now) } else { self.step(now) }
    }

    pub(super) fn drain_punches(&mut self, now: Instant) {
        while let Some(said) = self.punches.poll() {
            match said {
                Said::Act(_, punch::Act::Signal(message)) => {
                    self.output.push_back(Output::Act(Act::Signal(Body::Punch(message))));
                }
                Said::Act(pair, punch::Act::Drop(socket)) => self.drop_punched(pair, socket),
                Said::Act(pair, act) => self.output.push_back(Output::Act(Act::Punch(pair, act))),
                Said::Lost => {}
            }
        }
        if self.punches.are_over()
            && let Some(failed) = self.punches.failed()
        {
            let failure = match failed {
                Failed::Declined(reason) if reason != RefusalReason::NoRoute => WayFailure::Refused(reason),
                failed => failed.into(),
            };
            self.records.end(Way::Punch, failure, now);
        }
    }

    fn drop_punched(&mut self, pair: u8, socket: Socket) {
        let lane = Lane::punched(pair, socket);
        match self.records.lane(lane) {
            Some(record) if record.failure.is_some() => {}
            Some(record) => {
                record.failure = Some(LaneFailure::Dropped);
                self.output.push_back(Output::Act(Act::Drop(lane)));
                self.lost_while_keeping(lane);
            }
            None => self.output.push_back(Output::Act(Act::Punch(pair, punch::Act::Drop(socket)))),
        }
    }
}
