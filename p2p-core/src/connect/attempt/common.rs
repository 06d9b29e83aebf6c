//! The parts that both sides of an attempt are made of.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::happy_eyeballs::DialAct;
use super::super::punches::{Punches, Said};
use super::super::records::Records;
use super::super::relaying::RelayProgress;
use super::super::{Act, Event, HappyEyeballs, Lane, LaneFailure, RelayAct, WayFailure};
use crate::attempt::{AttemptId, RefusalReason, Role, Trust, Way};
use crate::candidate::{Candidate, Filter, candidates};
use crate::peer::PeerAddr;
use crate::punch::{self, Failed, SocketAct, View};
use crate::relay::circuit::RelayKind;
use crate::signal::Body;
use crate::{Deadline, Machine, Output};

/// The parts of an [`Attempt`](super::Attempt) that are alike on both sides.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) id: AttemptId,
    pub(super) role: Role,
    /// The newest address of the peer.
    pub(super) peer: PeerAddr,
    /// The trust in the peer: it bounds what a punch may cost.
    trust: Trust,
    pub(super) began: Instant,
    pub(super) dials: Option<HappyEyeballs>,
    pub(super) punches: Punches,
    pub(super) relay: RelayProgress,
    pub(super) records: Records,
    pub(super) is_over: bool,
    pub(super) ended: Option<Instant>,
    pub(super) output: VecDeque<Output<Act, Event>>,
}

impl Common {
    pub(super) fn caller(id: AttemptId, peer: PeerAddr, ways: &[Way], now: Instant) -> Self {
        // Our user named the peer.
        Self::new(id, Role::Caller, peer, Trust::Known, ways, now)
    }

    pub(super) fn answerer(id: AttemptId, peer: PeerAddr, trust: Trust, now: Instant) -> Self {
        Self::new(id, Role::Answerer, peer, trust, &[], now)
    }

    fn new(id: AttemptId, role: Role, peer: PeerAddr, trust: Trust, ways: &[Way], now: Instant) -> Self {
        Self {
            id,
            role,
            peer,
            trust,
            began: now,
            dials: None,
            punches: Punches::default(),
            relay: RelayProgress::default(),
            records: Records::new(role, ways, now),
            is_over: false,
            ended: None,
            output: VecDeque::new(),
        }
    }

    pub(super) fn trust(&self) -> Trust {
        self.trust
    }

    pub(super) fn act(&mut self, act: Act) {
        self.output.push_back(Output::Act(act));
    }

    pub(super) fn signal(&mut self, body: Body) {
        self.act(Act::Signal(body));
    }

    pub(super) fn relay_act(&mut self, act: Option<RelayAct>) {
        self.output.extend(act.map(|act| Output::Act(Act::Relay(act))));
    }

    /// Takes the facts of this moment.
    pub(super) fn refresh(&mut self, view: &View<'_>, now: Instant) {
        if !self.is_over {
            self.punches.refresh(view, &self.peer, self.trust, now);
        }
    }

    /// Returns the addresses of the peer's to dial. Whoever asks to be dialled is dialled nowhere that a stranger would
    /// not be, however well it is known.
    pub(super) fn candidates(&self, filter: &Filter, view: &View<'_>) -> Vec<Candidate> {
        let trust = match self.role {
            Role::Caller => Trust::Known,
            Role::Answerer => Trust::Stranger,
        };
        candidates(view.host, &self.peer, filter, trust)
    }

    /// Opens a lane for a connection that is up.
    pub(super) fn open(&mut self, lane: Lane, candidate: Candidate, now: Instant) -> Lane {
        self.records.open(lane, candidate, now);
        self.records.connect(lane, now);
        lane
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(dials) = &mut self.dials {
            dials.handle_timeout(now);
        }
        self.punches.handle_timeout(now);
    }

    /// Tells the part behind a lane that it failed.
    pub(super) fn on_failed(&mut self, lane: Lane, failure: LaneFailure, now: Instant) {
        tracing::debug!(%lane, %failure, "a lane failed");
        match lane {
            Lane::Dialled(index) => {
                self.dials.iter_mut().for_each(|dials| dials.handle_failed(index, now));
            }
            Lane::Arrived(_) => {}
            Lane::Punched { pair, socket } => self.punches.handle_lane_failed(pair, socket, failure, now),
            // Where connections are relayed, datagrams come after them; after datagrams nothing does.
            Lane::Relayed { kind: RelayKind::Datagrams, .. } => {
                self.end_relay(WayFailure::AllFailed, now);
            }
            Lane::Relayed { kind: RelayKind::Connection, .. } => {}
        }
    }

    /// Ends the circuit, if it has not led anywhere.
    pub(super) fn end_relay(&mut self, failure: WayFailure, now: Instant) {
        if self.relay.is_running() && !self.records.is_up(Way::Relay) {
            let act = self.relay.end(None);
            self.relay_act(act);
            self.records.end(Way::Relay, failure, now);
        }
    }

    /// Drains the dials and the punches. Returns the lanes that punches have dropped.
    pub(super) fn drain(&mut self, now: Instant) -> Vec<Lane> {
        while let Some(output) = self.dials.as_mut().map(Machine::poll_output) {
            match output {
                Output::Act(DialAct::Dial(index, candidate)) => {
                    self.records.open(Lane::Dialled(index), candidate, now);
                    self.act(Act::Dial(index, candidate));
                }
                Output::Act(DialAct::Drop(index)) => {
                    let lane = Lane::Dialled(index);
                    self.records.fail(lane, LaneFailure::Dropped);
                    self.act(Act::Drop(lane));
                }
                Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
        self.drain_punches(now)
    }

    fn drain_punches(&mut self, now: Instant) -> Vec<Lane> {
        let mut dropped = Vec::new();
        while let Some(said) = self.punches.poll() {
            match said {
                Said::Act(_, punch::Act::Signal(message)) => self.signal(Body::Punch(message)),
                Said::Act(pair, punch::Act::Socket(SocketAct::Drop(socket))) => {
                    let lane = Lane::Punched { pair, socket };
                    if !self.records.knows(lane) {
                        self.act(Act::Punch(pair, SocketAct::Drop(socket)));
                    } else if self.records.fail(lane, LaneFailure::Dropped) {
                        self.act(Act::Drop(lane));
                        dropped.push(lane);
                    }
                }
                Said::Act(pair, punch::Act::Socket(act)) => self.act(Act::Punch(pair, act)),
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
        dropped
    }

    /// Drops every lane but the one that is kept, and puts the parts to rest.
    pub(super) fn over(&mut self, kept: Option<Lane>, now: Instant) {
        self.is_over = true;
        self.ended = Some(now);
        self.dials = None;
        let act = self.relay.end(kept);
        self.relay_act(act);
        self.punches.close(kept, now);
        self.drain_punches(now);
        for dropped in self.records.settle(kept, now) {
            self.act(Act::Drop(dropped));
        }
    }

    /// Tells how it ended.
    pub(super) fn tell(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let dials = self.dials.as_ref().and_then(HappyEyeballs::deadline);
        Deadline::earliest([dials, self.punches.deadline()])
    }
}
