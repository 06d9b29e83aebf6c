//! One attempt machine with a role, over the two machines it is made of for now.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::attempt::{AttemptId, DialError, Trust, Way};
use crate::candidate::{Candidate, Filter, HostView, candidates};
use crate::peer::PeerAddr;
use crate::punch::{self, Limits, Setup, Share, Socket, Terms};
use crate::race::{Answer, Race, RaceConfig};
use crate::relay::circuit::{CircuitFailure, RelayKind};
use crate::signal::{Body, Delivery, Signal};
use crate::{Clock, Local, Machine, Mapped, Offset, Output};

pub use crate::race::{
    Act, DIAL_DELAY, Event, HEAD_START, Lane, LaneFailure, RaceReport as AttemptReport, RelayAct,
};

/// Facts about this node, as they are at the time of a call.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The addresses of this host.
    pub host: &'a HostView,
    /// The network in front of each address.
    pub networks: &'a BTreeMap<IpAddr, punch::View>,
    /// The clock signals are dated by.
    pub clock: Clock,
    /// The offset of that clock, as NTP servers say.
    pub served: Option<Offset>,
    /// The limits of one punch.
    pub limits: Limits,
}

impl View<'_> {
    fn setup(&self) -> Setup {
        Setup {
            ours: self.host.clone(),
            views: self.networks.clone(),
            clock: self.clock,
            terms: Terms { served: self.served, delay: None },
            limits: self.limits,
        }
    }
}

/// Configures a call.
#[derive(Clone, Debug)]
pub struct CallConfig {
    /// The number of the attempt.
    pub attempt: AttemptId,
    /// The peer, as it published itself.
    pub peer: PeerAddr,
    /// The ways to go, in the order they start.
    pub ways: Vec<Way>,
    /// Families and paths that may be used.
    pub filter: Filter,
    /// Asks for the bare TCP connection.
    pub plain: bool,
    /// Tells that there is a broker through which the peer may be reached.
    pub can_signal: bool,
    /// Tells that this node listens.
    pub listens: bool,
    /// The time by which the first way is ahead of the others.
    pub head_start: Duration,
    /// The pause between two dials.
    pub dial_delay: Duration,
    /// The time after which to give up.
    pub within: Duration,
}

/// Tells a punch of one thing that happened.
#[derive(Clone, Debug)]
pub enum PunchInput {
    /// Its share of the budget.
    Share(Share),
    /// Whether a port can be listened on.
    Listening { at: Local, outcome: Result<(), DialError> },
    /// A port as a server sees it.
    Observed { from: Local, mapped: Option<Mapped> },
    /// TCP is up on a socket it dialled.
    Connected { socket: Socket, remote: SocketAddr },
    /// Somebody connected to a port of it.
    Accepted { at: Local, remote: SocketAddr },
    /// A dial failed.
    Failed { socket: Socket, error: DialError },
}

/// The answer of a punch.
#[derive(Clone, Copy, Debug, Default)]
pub struct PunchAnswer {
    /// Tells that a share was taken.
    pub is_taken: bool,
    /// The lane that a connection is from now on.
    pub lane: Option<Lane>,
}

/// An attempt.
#[derive(Debug)]
pub enum Attempt {
    /// The caller's.
    Caller(Box<Race>),
    /// The answerer's.
    Answerer(Box<Answer>),
}

impl Attempt {
    /// Begins a call.
    pub fn call(config: CallConfig, view: &View<'_>, now: Instant) -> Self {
        let config = RaceConfig {
            peer: config.peer,
            attempt: config.attempt,
            ours: view.host.clone(),
            ways: config.ways,
            filter: config.filter,
            plain: config.plain,
            can_signal: config.can_signal,
            listens: config.listens,
            punch: Some(view.setup()),
            head_start: config.head_start,
            dial_delay: config.dial_delay,
            within: config.within,
        };
        Self::Caller(Box::new(Race::new(config, now)))
    }

    /// Begins to answer.
    pub fn answer(_attempt: AttemptId, _trust: Trust, now: Instant) -> Self {
        Self::Answerer(Box::new(Answer::new(now)))
    }

    /// The peer said something.
    pub fn handle_signal(&mut self, signal: &Signal, view: &View<'_>, now: Instant) {
        match (self, &signal.body) {
            (Self::Caller(race), _) => race.handle_signal(signal, now),
            (Self::Answerer(answer), Body::DialMe(_)) => {
                let found = candidates(view.host, &signal.sender, &Filter::default(), Trust::Stranger);
                answer.handle_dial_me(found, DIAL_DELAY, now);
            }
            (Self::Answerer(answer), Body::Relay(_)) => answer.handle_relay(signal, now),
            (Self::Answerer(answer), _) => answer.handle_punch(&view.setup(), signal, now),
        }
    }

    /// It is certain what became of a signal.
    pub fn handle_delivery(&mut self, body: &Body, delivery: Delivery, _: &View<'_>, now: Instant) {
        if let Self::Caller(race) = self {
            race.handle_delivery(body, delivery, now);
        }
    }

    /// The facts are others.
    pub fn handle_facts(&mut self, _: &View<'_>, _now: Instant) {}

    /// Something happened to a punch.
    pub fn handle_punch(&mut self, pair: u8, input: PunchInput, _: &View<'_>, now: Instant) -> PunchAnswer {
        macro_rules! feed {
            ($machine:expr) => {
                match input {
                    PunchInput::Share(share) => {
                        let is_taken = $machine.handle_punch_share(pair, share, now);
                        PunchAnswer { is_taken, lane: None }
                    }
                    PunchInput::Listening { at, outcome } => {
                        $machine.handle_punch_listening(pair, at, outcome, now);
                        PunchAnswer::default()
                    }
                    PunchInput::Observed { from, mapped } => {
                        $machine.handle_punch_observed(pair, from, mapped, now);
                        PunchAnswer::default()
                    }
                    PunchInput::Connected { socket, remote } => {
                        let lane = $machine.handle_punch_connected(pair, socket, remote, now);
                        PunchAnswer { is_taken: false, lane }
                    }
                    PunchInput::Accepted { at, remote } => {
                        let lane = $machine.handle_punch_accepted(pair, at, remote, now);
                        PunchAnswer { is_taken: false, lane }
                    }
                    PunchInput::Failed { socket, error } => {
                        $machine.handle_punch_failed(pair, socket, &error, now);
                        PunchAnswer::default()
                    }
                }
            };
        }
        match self {
            Self::Caller(race) => feed!(race),
            Self::Answerer(answer) => feed!(answer),
        }
    }

    /// The peer came.
    pub fn handle_arrival(&mut self, remote: SocketAddr, _: &View<'_>, now: Instant) -> Option<Lane> {
        match self {
            Self::Caller(race) => race.handle_arrival(remote, now),
            Self::Answerer(_) => None,
        }
    }

    /// TCP is up.
    pub fn handle_connected(&mut self, lane: Lane, _: &View<'_>, now: Instant) {
        if let Self::Caller(race) = self {
            race.handle_connected(lane, now);
        }
    }

    /// The peer is proven.
    pub fn handle_proven(&mut self, lane: Lane, _: &View<'_>, now: Instant) {
        if let Self::Caller(race) = self {
            race.handle_proven(lane, now);
        }
    }

    /// Both ends keep it.
    pub fn handle_kept(&mut self, lane: Lane, _: &View<'_>, now: Instant) {
        match self {
            Self::Caller(race) => race.handle_kept(lane, now),
            Self::Answerer(answer) => answer.handle_kept(lane, now),
        }
    }

    /// A lane failed.
    pub fn handle_failed(&mut self, lane: Lane, failure: LaneFailure, _: &View<'_>, now: Instant) {
        match self {
            Self::Caller(race) => race.handle_failed(lane, failure, now),
            Self::Answerer(answer) => answer.handle_failed(lane, failure, now),
        }
    }

    /// Something came through a relay.
    pub fn handle_relayed(
        &mut self,
        kind: RelayKind,
        remote: SocketAddr,
        _: &View<'_>,
        now: Instant,
    ) -> Option<Lane> {
        match self {
            Self::Caller(race) => race.handle_relayed(kind, remote, now),
            Self::Answerer(answer) => answer.handle_relayed(kind, remote, now),
        }
    }

    /// Nothing came through a relay.
    pub fn handle_relay_failed(&mut self, failure: CircuitFailure, _: &View<'_>, now: Instant) {
        match self {
            Self::Caller(race) => race.handle_relay_failed(failure, now),
            Self::Answerer(answer) => answer.handle_relay_failed(now),
        }
    }

    /// Time has passed.
    pub fn handle_timeout_with(&mut self, _: &View<'_>, now: Instant) {
        match self {
            Self::Caller(race) => race.handle_timeout(now),
            Self::Answerer(answer) => answer.handle_timeout(now),
        }
    }

    /// Gives up.
    pub fn close(&mut self, now: Instant) {
        match self {
            Self::Caller(race) => race.close(now),
            Self::Answerer(answer) => answer.close(now),
        }
    }

    /// Tells whether it is over.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Caller(race) => race.is_over(),
            Self::Answerer(answer) => answer.is_over(),
        }
    }

    /// Returns the candidate behind a lane.
    pub fn candidate(&self, lane: Lane) -> Option<Candidate> {
        match self {
            Self::Caller(race) => race.candidate(lane),
            Self::Answerer(answer) => answer.candidate(lane),
        }
    }

    /// Returns the story so far; an answerer has none.
    pub fn report(&self, now: Instant) -> Option<AttemptReport> {
        match self {
            Self::Caller(race) => Some(race.report(now)),
            Self::Answerer(_) => None,
        }
    }

    /// Returns the next output.
    pub fn poll_output(&mut self) -> Output<Act, Event> {
        match self {
            Self::Caller(race) => race.poll_output(),
            Self::Answerer(answer) => answer.poll_output(),
        }
    }
}
