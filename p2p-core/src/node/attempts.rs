//! One attempt of a node, the caller's or the answerer's, and all that it has open.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::circuits::Correspondent;
use super::connections::{News, Purpose, Told};
use super::error::ConnectError;
use super::io::{ConnectionId, Owner, SocketAct, SocketEvent, StunLink};
use super::output::{Act, CircuitAct, CircuitEvent, ConnectionInfo, Established, Event};
use super::parts::Parts;
use super::question::Question;
use super::router::ChannelId;
use crate::attempt::{AttemptId, DialError, Path, RefusalReason, Role, Trust, Way};
use crate::candidate::{Candidate, path_to};
use crate::connect::{self, AnswerConfig, Attempt, Lane, LaneFailure, LaneInput, RelayAct, RelayInput};
use crate::peer::PeerAddr;
use crate::proof::{Claim, ProofError, Session};
use crate::punch::{self, Share, Socket};
use crate::relay::RelayOffer;
use crate::relay::circuit::{CircuitConfig, CircuitFailure, RelayKind};
use crate::signal::{Body, Delivery, Signal};
use crate::turn::Server as TurnRelay;
use crate::{Deadline, Local, Output};

/// An attempt, its connections, its ports and its circuit.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: AttemptId,
    pub(super) peer: PeerAddr,
    pub(super) role: Role,
    pub(super) trust: Trust,
    machine: Attempt,
    plain: bool,
    /// The channel the caller spoke on, for an answerer.
    back_on: Option<ChannelId>,
    began: Instant,
    lanes: BTreeMap<Lane, ConnectionId>,
    dials: BTreeMap<(u8, Socket), ConnectionId>,
    listening: BTreeMap<SocketAddr, u8>,
    questions: BTreeMap<(u8, Local), Question>,
    relay_dials: BTreeMap<SocketAddr, ConnectionId>,
    circuit: CircuitStage,
    /// TURN servers of the configuration that cannot even be asked, and why.
    useless: Vec<String>,
    /// Dials for a peer's sake that wait until there is room for them.
    waiting: Vec<(Lane, Candidate)>,
    kept: Option<Box<(Owner, Established)>>,
    /// A punch or a relay was offered: more may follow in its place.
    is_offered: bool,
    /// When an answerer that is over stops waiting for another offer.
    linger_until: Option<Instant>,
    is_closed: bool,
    deadline: Option<Deadline>,
}

/// How far the circuit of an attempt is.
#[derive(Debug, Default)]
enum CircuitStage {
    #[default]
    None,
    /// The addresses of our TURN servers are being looked up. Offers that come meanwhile are kept, a few at most.
    Resolving {
        sources: Vec<IpAddr>,
        early: Vec<(RelayOffer, Vec<IpAddr>)>,
    },
    Begun,
}

/// Tells the node how an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes on.
    Open,
    /// It is over, and forgotten.
    Over,
}

impl Entry {
    /// Begins a call of our user's.
    pub(super) fn call(config: connect::CallConfig, parts: &mut Parts, now: Instant) -> Self {
        let (id, peer, plain) = (config.attempt, config.peer.clone(), config.plain);
        let machine = Attempt::call(config, &parts.view(now), now);
        Self::new(id, peer, (Role::Caller, Trust::Known), machine, plain, None, now)
    }

    /// Answers the first signal of a peer's attempt, which came over `channel`.
    pub(super) fn answer(
        signal: &Signal,
        channel: ChannelId,
        trust: Trust,
        parts: &mut Parts,
        now: Instant,
    ) -> Self {
        let machine = Attempt::answer(
            AnswerConfig { peer: signal.sender.clone(), attempt: signal.attempt, trust },
            now,
        );
        let (peer, plain) = (signal.sender.clone(), parts.config.plain);
        let roles = (Role::Answerer, trust);
        let mut entry = Self::new(signal.attempt, peer, roles, machine, plain, Some(channel), now);
        entry.handle_signal(signal, parts, now);
        entry
    }

    fn new(
        id: AttemptId,
        peer: PeerAddr,
        (role, trust): (Role, Trust),
        machine: Attempt,
        plain: bool,
        back_on: Option<ChannelId>,
        began: Instant,
    ) -> Self {
        Self {
            id,
            peer,
            role,
            trust,
            machine,
            plain,
            back_on,
            began,
            lanes: BTreeMap::new(),
            dials: BTreeMap::new(),
            listening: BTreeMap::new(),
            questions: BTreeMap::new(),
            relay_dials: BTreeMap::new(),
            circuit: CircuitStage::None,
            useless: Vec::new(),
            waiting: Vec::new(),
            kept: None,
            is_offered: false,
            linger_until: None,
            is_closed: false,
            deadline: None,
        }
    }

    /// Returns the owner of its sockets.
    pub(super) fn owner(&self) -> Owner {
        Owner::Attempt(self.id)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let linger = self.linger_until.map(|at| Deadline::new(at, "stop waiting for another offer"));
        let questions = self.questions.values().map(Question::deadline);
        Deadline::earliest(questions.chain([self.deadline, linger]))
    }

    pub(super) fn report(&self, now: Instant) -> connect::AttemptReport {
        self.machine.report(now)
    }

    /// The peer said something about this attempt.
    pub(super) fn handle_signal(&mut self, signal: &Signal, parts: &mut Parts, now: Instant) {
        if signal.sender.is_newer_than(&self.peer) {
            self.peer = signal.sender.clone();
        }
        self.is_offered |= matches!(signal.body, Body::Punch(_) | Body::Relay(_));
        if self.role == Role::Answerer && self.machine.is_over() {
            let config = AnswerConfig { peer: self.peer.clone(), attempt: self.id, trust: self.trust };
            self.machine = Attempt::answer(config, now);
            self.linger_until = None;
        }
        self.machine.handle_signal(signal, &parts.view(now), now);
    }

    pub(super) fn handle_delivery(
        &mut self,
        body: &Body,
        delivery: Delivery,
        parts: &mut Parts,
        now: Instant,
    ) {
        self.machine.handle_delivery(body, delivery, &parts.view(now), now);
    }

    /// The facts about this node are others now.
    pub(super) fn handle_facts(&mut self, parts: &mut Parts, now: Instant) {
        self.machine.handle_network_changed(&parts.view(now), now);
    }

    pub(super) fn handle_share(&mut self, pair: u8, share: Share, parts: &mut Parts, now: Instant) {
        self.punch(pair, punch::Input::Share(share), parts, now);
    }

    /// Somebody whom we asked to dial us has come, and said so.
    pub(super) fn handle_arrival(
        &mut self,
        connection: ConnectionId,
        remote: SocketAddr,
        parts: &mut Parts,
        now: Instant,
    ) {
        let lane = self.machine.handle_arrival(remote, &parts.view(now), now);
        match lane {
            Some(lane) => {
                self.lanes.insert(lane, connection);
                parts.connections.set_purpose(connection, Purpose::Lane(self.id, lane, self.role));
                parts.connections.welcome(connection, self.plain, now);
            }
            None => {
                parts.connections.set_purpose(connection, Purpose::Refused);
                parts.connections.refuse(connection, RefusalReason::Expired, now);
            }
        }
    }

    /// Something happened to a socket of this attempt that is no connection.
    pub(super) fn handle_socket(&mut self, event: SocketEvent, parts: &mut Parts, now: Instant) {
        match event {
            SocketEvent::Listening { at, outcome } => {
                let Some(pair) = self.listening.get(&at).copied() else { return };
                let outcome = match outcome {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        self.listening.remove(&at);
                        Err(DialError::Local(error.reason))
                    }
                };
                self.punch(pair, punch::Input::Listening(Local(at), outcome), parts, now);
            }
            SocketEvent::Accepted { connection, at, remote } => {
                self.on_accepted(connection, at, remote, parts, now);
            }
            SocketEvent::LinkUp { link, .. } => {
                self.question(link, parts, now, |question| question.handle_up(link.to, now));
            }
            SocketEvent::LinkBytes { link, bytes } => {
                self.question(link, parts, now, |question| question.handle_bytes(link.to, &bytes, now));
            }
            SocketEvent::LinkDown { link, why } => {
                self.question(link, parts, now, |question| question.handle_down(link.to, why, now));
            }
            _ => {}
        }
    }

    fn on_accepted(
        &mut self,
        connection: ConnectionId,
        at: SocketAddr,
        remote: SocketAddr,
        parts: &mut Parts,
        now: Instant,
    ) {
        let is_arrival = |purpose| matches!(purpose, Purpose::Lane(_, Lane::Punched { .. }, _));
        let pair = self.listening.get(&at).copied();
        let pair = pair.filter(|_| parts.connections.count(is_arrival) < MOST_PUNCHED);
        let input = punch::Input::Accepted { at: Local(at), remote };
        let lane = pair.and_then(|pair| self.punch(pair, input, parts, now));
        tracing::debug!(%at, %remote, ?lane, "somebody connected to a punched port");
        match lane {
            Some(lane) => self.take_in(connection, lane, (at, remote), parts, now),
            None => parts.socket(self.owner(), SocketAct::Close { connection }),
        }
    }

    /// One of its connections came a step further.
    pub(super) fn handle_news(
        &mut self,
        connection: ConnectionId,
        told: Told,
        parts: &mut Parts,
        now: Instant,
    ) {
        match (told.purpose, told.news) {
            (Purpose::Lane(_, lane, _), News::Connected) => {
                self.lane(lane, LaneInput::Connected, parts, now);
                self.introduce(connection, lane, parts, now);
            }
            (Purpose::Lane(_, lane, _), News::DialFailed(error)) => self.fail(lane, error.into(), parts, now),
            (Purpose::Lane(_, lane, _), News::Failed(error)) => self.fail(lane, error.into(), parts, now),
            (Purpose::Lane(_, lane, _), News::Claimed(claim)) => {
                self.on_claimed(connection, lane, claim, parts, now);
            }
            (Purpose::Lane(_, lane, _), News::Proven) => {
                self.lane(lane, LaneInput::Proven, parts, now);
            }
            (Purpose::Lane(_, lane, _), News::Kept(session)) => {
                let from = (told.owner, told.ends);
                self.on_kept(connection, lane, from, *session, parts, now);
            }
            (Purpose::Punch(_, pair, socket), News::Connected) => {
                self.dials.remove(&(pair, socket));
                let (_, remote) = told.ends;
                let input = punch::Input::Connected { socket, remote };
                match self.punch(pair, input, parts, now) {
                    Some(lane) => {
                        tracing::debug!(%lane, %remote, "a punched port was let in");
                        self.lanes.insert(lane, connection);
                        self.introduce(connection, lane, parts, now);
                    }
                    None => parts.connections.close(connection),
                }
            }
            (Purpose::Punch(_, pair, socket), News::DialFailed(error)) => {
                self.dials.remove(&(pair, socket));
                self.punch(pair, punch::Input::Failed(socket, error), parts, now);
            }
            (Purpose::Relay(_), News::Connected) => {
                let (local, remote) = told.ends;
                if let Some(to) = self.relay_dial(connection) {
                    parts.act(Act::Circuit(self.id, CircuitAct::Dialled { to, is_up: true }));
                    self.on_relayed(connection, RelayKind::Connection, (local, remote), true, parts, now);
                }
            }
            (Purpose::Relay(_), News::DialFailed(error)) => {
                if let Some(to) = self.relay_dial(connection) {
                    tracing::debug!(%to, %error, "not through the relay");
                    parts.act(Act::Circuit(self.id, CircuitAct::Dialled { to, is_up: false }));
                }
            }
            (purpose, news) => tracing::debug!(?purpose, ?news, "a step that leads nowhere"),
        }
    }

    fn relay_dial(&mut self, connection: ConnectionId) -> Option<SocketAddr> {
        let to = *self.relay_dials.iter().find(|(_, dialled)| **dialled == connection)?.0;
        self.relay_dials.remove(&to);
        Some(to)
    }

    /// The circuit wants something, or has brought something.
    pub(super) fn handle_circuit(&mut self, event: CircuitEvent, parts: &mut Parts, now: Instant) {
        match event {
            CircuitEvent::Up { connection, local, remote } => {
                self.on_relayed(connection, RelayKind::Datagrams, (local, remote), false, parts, now);
            }
            CircuitEvent::Arrived { connection, local, remote } => {
                self.on_relayed(connection, RelayKind::Connection, (local, remote), false, parts, now);
            }
            CircuitEvent::Dial(to) => {
                tracing::debug!(%to, "dialling the address relayed for the peer");
                let purpose = (self.owner(), Purpose::Relay(self.id));
                let until = Some(now + DIAL_WITHIN);
                let connection = parts.connections.dial(purpose, (None, to), None, until, now);
                self.relay_dials.insert(to, connection);
            }
            CircuitEvent::Failed(failure) => {
                let failure = self.explained(failure);
                self.machine.handle_relay(RelayInput::Failed(failure), &parts.view(now), now);
            }
            CircuitEvent::Say(_) | CircuitEvent::Gone => {}
        }
    }

    /// A circuit knows only of servers that have an address: where it has nothing to say itself, the reason why the
    /// others have none is told.
    fn explained(&self, failure: CircuitFailure) -> CircuitFailure {
        match failure {
            _ if self.useless.is_empty() => failure,
            CircuitFailure::NoServer => CircuitFailure::NoAddress(self.useless.join("; ")),
            CircuitFailure::Blocked(why) if why.is_empty() => {
                CircuitFailure::Blocked(self.useless.join("; "))
            }
            failure => failure,
        }
    }

    /// The addresses of our TURN servers are known; `useless` says which cannot be used, and why.
    pub(super) fn handle_turn_servers(
        &mut self,
        servers: &[TurnRelay],
        useless: &[String],
        parts: &mut Parts,
    ) {
        let CircuitStage::Resolving { sources, early } = &mut self.circuit else { return };
        let (sources, early) = (std::mem::take(sources), std::mem::take(early));
        self.circuit = CircuitStage::Begun;
        // The addresses our servers lend shall not be used up by strangers: the rest have to bring a server of theirs.
        let is_seated = self.trust == Trust::Stranger && parts.circuits.seated() < parts.config.limits.relays;
        let may_use = self.trust == Trust::Known || is_seated;
        let servers = if may_use { servers.to_vec() } else { Vec::new() };
        for why in useless {
            tracing::debug!(why, "a TURN server cannot be used");
        }
        self.useless = useless.to_vec();
        let config = CircuitConfig {
            families: parts.config.families.iter().copied().collect(),
            same_machine: self.peer.is_on(&parts.config.machine_id),
            ours: parts.facts.host().clone(),
            peer: sources,
            connections: parts.config.relay_connections,
            ..CircuitConfig::new(self.role, self.trust, servers)
        };
        let seed = parts.seed.fork("circuit");
        parts.act(Act::Circuit(self.id, CircuitAct::Begin(Box::new((config, seed)))));
        let with = Correspondent { peer: self.peer.clone(), back_on: self.back_on, is_seated };
        parts.circuits.begin(self.id, with);
        for (offer, sources) in early {
            parts.act(Act::Circuit(self.id, CircuitAct::Hear(offer, sources)));
        }
    }

    pub(super) fn handle_timeout(&mut self, parts: &mut Parts, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline.at <= now) {
            self.machine.handle_timeout(&parts.view(now), now);
        }
        for question in self.questions.values_mut() {
            question.handle_timeout(now);
        }
        self.settle_questions(parts, now);
    }

    /// Ends it: our user does not want it any more, the peer said farewell, or the node closes.
    pub(super) fn close(&mut self, now: Instant) {
        self.machine.close(now);
        self.is_closed = true;
    }

    /// Takes up all that the attempt wants.
    pub(super) fn drain(&mut self, parts: &mut Parts, now: Instant) -> Outcome {
        loop {
            match self.machine.poll_output() {
                Output::Act(act) => self.act(act, parts, now),
                Output::Event(event) => {
                    if let Outcome::Over = self.on_event(event, parts, now) {
                        return Outcome::Over;
                    }
                }
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    break;
                }
            }
        }
        if self.is_closed {
            if parts.is_closing && self.role == Role::Caller {
                let error = ConnectError::Cancelled(Box::new(self.report(now)));
                parts.tell(Event::Failed { attempt: self.id, error });
            }
            return Outcome::Over;
        }
        self.dial_waiting(parts, now);
        match self.linger_until {
            Some(until) if until <= now => Outcome::Over,
            _ => Outcome::Open,
        }
    }

    /// Closes all that it has open. Its connection that is kept has left by then.
    pub(super) fn release(&mut self, parts: &mut Parts, now: Instant) {
        let connections = self.lanes.values().chain(self.dials.values()).chain(self.relay_dials.values());
        connections.copied().for_each(|connection| parts.connections.close(connection));
        for question in self.questions.values_mut() {
            question.close(now);
        }
        self.settle_questions(parts, now);
        for at in std::mem::take(&mut self.listening).into_keys() {
            parts.socket(self.owner(), SocketAct::Unlisten { at });
        }
        if let Some((owner, established)) = self.kept.take().map(|kept| *kept) {
            // It came when the attempt was over.
            parts.socket(owner, SocketAct::Close { connection: established.connection });
        }
        parts.budget.forget(self.id);
        parts.act(Act::End(self.owner()));
    }

    fn act(&mut self, act: connect::Act, parts: &mut Parts, now: Instant) {
        match act {
            connect::Act::Dial(number, candidate) => match (self.role, Lane::Dialled(number)) {
                (Role::Caller, lane) => self.dial(lane, candidate, parts, now),
                (Role::Answerer, lane) => self.waiting.push((lane, candidate)),
            },
            connect::Act::Drop(lane) => {
                self.waiting.retain(|(waiting, _)| *waiting != lane);
                if let Some(connection) = self.lanes.remove(&lane) {
                    parts.connections.close(connection);
                }
            }
            connect::Act::Keep(lane) => {
                if let Some(connection) = self.lanes.get(&lane) {
                    parts.connections.go(*connection, now);
                }
            }
            connect::Act::Signal(body) => parts.send(&self.peer, self.id, body, self.back_on, now),
            connect::Act::Punch(pair, act) => self.act_punch(pair, act, parts, now),
            connect::Act::Relay(act) => self.act_relay(act, parts),
        }
    }

    fn dial(&mut self, lane: Lane, candidate: Candidate, parts: &mut Parts, now: Instant) {
        tracing::debug!(attempt = %self.id, %lane, %candidate, "dial");
        let purpose = (self.owner(), Purpose::Lane(self.id, lane, self.role));
        let ends = (candidate.from.map(|from| from.0), candidate.target);
        let until = Some(now + DIAL_WITHIN);
        let connection = parts.connections.dial(purpose, ends, None, until, now);
        self.lanes.insert(lane, connection);
    }

    /// Dials for a peer's sake wait for each other, never for ours.
    fn dial_waiting(&mut self, parts: &mut Parts, now: Instant) {
        let is_for_peer = |purpose| matches!(purpose, Purpose::Lane(_, Lane::Dialled(_), Role::Answerer));
        while !self.waiting.is_empty()
            && parts.connections.count(is_for_peer) < parts.config.limits.dials_for_peers
        {
            let (lane, candidate) = self.waiting.remove(0);
            self.dial(lane, candidate, parts, now);
        }
    }

    fn act_punch(&mut self, pair: u8, act: punch::SocketAct, parts: &mut Parts, now: Instant) {
        tracing::trace!(pair, ?act, "punch");
        match act {
            punch::SocketAct::Reserve(wanted) => {
                parts.budget.reserve((self.id, pair), wanted, self.trust, now)
            }
            punch::SocketAct::GiveBack(_) => parts.budget.give_back((self.id, pair)),
            punch::SocketAct::Listen(at) => {
                self.listening.insert(at.0, pair);
                parts.socket(self.owner(), SocketAct::Listen { at: at.0, is_throwaway: false });
            }
            punch::SocketAct::Unlisten(at) => {
                self.listening.remove(&at.0);
                parts.socket(self.owner(), SocketAct::Unlisten { at: at.0 });
            }
            punch::SocketAct::Observe(from) => {
                let servers = parts.facts.servers(from.0.ip());
                let question = Question::new(from, servers, parts.seed.fork("punched port"), now);
                self.questions.insert((pair, from), question);
                self.settle_questions(parts, now);
            }
            punch::SocketAct::Forget(from) => {
                if let Some(mut question) = self.questions.remove(&(pair, from)) {
                    question.close(now);
                    let owner = self.owner();
                    question.take_acts().into_iter().for_each(|act| parts.socket(owner, act));
                }
            }
            punch::SocketAct::Dial { socket, from, to, ttl } => {
                let purpose = (self.owner(), Purpose::Punch(self.id, pair, socket));
                let connection = parts.connections.dial(purpose, (Some(from.0), to), ttl, None, now);
                self.dials.insert((pair, socket), connection);
            }
            punch::SocketAct::Drop(socket) => {
                if let Some(connection) = self.dials.remove(&(pair, socket)) {
                    parts.connections.close(connection);
                }
            }
        }
    }

    fn act_relay(&mut self, act: RelayAct, parts: &mut Parts) {
        match act {
            RelayAct::Begin(sources) => {
                self.circuit = CircuitStage::Resolving { sources, early: Vec::new() };
                parts.act(Act::ResolveTurn);
            }
            // One that lives was given it by the node, which brings it also to circuits without an attempt.
            RelayAct::Hear(offer, sources) => {
                if let CircuitStage::Resolving { early, .. } = &mut self.circuit {
                    if early.len() == MOST_EARLY {
                        early.remove(0);
                    }
                    early.push((offer, sources));
                }
            }
            RelayAct::Keep(kind) => parts.act(Act::Circuit(self.id, CircuitAct::Keep(kind))),
            RelayAct::End => {
                if let CircuitStage::Begun = std::mem::take(&mut self.circuit) {
                    parts.act(Act::Circuit(self.id, CircuitAct::End));
                }
            }
        }
    }

    fn on_event(&mut self, event: connect::Event, parts: &mut Parts, now: Instant) -> Outcome {
        match (self.role, event, self.kept.take()) {
            (Role::Caller, connect::Event::Won(_), Some(kept)) => {
                let (owner, mut established) = *kept;
                let info = &mut established.info;
                tracing::info!(attempt = %self.id, way = %info.way, path = %info.path, took = ?info.took, "connected");
                info.report = Some(self.machine.report(now));
                let established = Box::new(established);
                parts.tell(Event::Connected { attempt: self.id, owner, established });
                Outcome::Over
            }
            (Role::Caller, ..) => {
                let report = Box::new(self.machine.report(now));
                tracing::info!(attempt = %self.id, took = ?report.took, "no connection");
                let error = match report.is_offline() {
                    true => ConnectError::Offline(report),
                    false => ConnectError::Failed(report),
                };
                parts.tell(Event::Failed { attempt: self.id, error });
                Outcome::Over
            }
            (Role::Answerer, connect::Event::Won(_), Some(kept)) => {
                let (owner, established) = *kept;
                parts.accept(owner, established);
                Outcome::Over
            }
            // The offers of one attempt come one after the other, and the next may be a better one.
            (Role::Answerer, connect::Event::Lost, _) if self.is_offered => {
                self.linger_until = Some(now + LINGER);
                Outcome::Open
            }
            (Role::Answerer, ..) => Outcome::Over,
        }
    }

    /// Begins a proof on a connection that is up.
    fn introduce(&mut self, connection: ConnectionId, lane: Lane, parts: &mut Parts, now: Instant) {
        let ids = (self.peer.id(), self.id);
        // Whoever dials says Hello; where both may have dialled, and through a relay, the caller does.
        let proof = match (self.role, lane.way(self.role)) {
            (Role::Caller, _) => parts.proof_dialled(ids, Role::Caller, self.plain, now),
            (Role::Answerer, Way::Punch | Way::Relay) => parts.proof_awaited(now),
            (Role::Answerer, _) => parts.proof_dialled(ids, Role::Answerer, self.plain, now),
        };
        parts.connections.prove(connection, Purpose::Lane(self.id, lane, self.role), proof);
    }

    fn take_in(
        &mut self,
        connection: ConnectionId,
        lane: Lane,
        ends: (SocketAddr, SocketAddr),
        parts: &mut Parts,
        now: Instant,
    ) {
        self.lanes.insert(lane, connection);
        let purpose = Purpose::Lane(self.id, lane, self.role);
        parts.connections.take_in(connection, (self.owner(), purpose), ends, now);
        self.introduce(connection, lane, parts, now);
    }

    fn on_relayed(
        &mut self,
        connection: ConnectionId,
        kind: RelayKind,
        ends: (SocketAddr, SocketAddr),
        is_dialled: bool,
        parts: &mut Parts,
        now: Instant,
    ) {
        match self.machine.handle_relay(RelayInput::Up(kind, ends.1), &parts.view(now), now) {
            Some(lane) if is_dialled => {
                self.lanes.insert(lane, connection);
                self.introduce(connection, lane, parts, now);
            }
            Some(lane) => self.take_in(connection, lane, ends, parts, now),
            None => {
                parts.connections.close(connection);
                if !is_dialled {
                    parts.socket(self.owner(), SocketAct::Close { connection });
                }
                if kind == RelayKind::Connection {
                    parts.act(Act::Circuit(self.id, CircuitAct::ConnectionFailed));
                }
            }
        }
    }

    /// The other end of a lane on which it speaks first says who it is.
    fn on_claimed(
        &mut self,
        connection: ConnectionId,
        lane: Lane,
        claim: Claim,
        parts: &mut Parts,
        now: Instant,
    ) {
        let wanted = Claim { peer: self.peer.id(), attempt: self.id, role: Role::Answerer };
        if self.role == Role::Answerer && claim == wanted {
            parts.connections.welcome(connection, self.plain, now);
        } else {
            parts.connections.close(connection);
            self.fail(lane, ProofError::Stranger.into(), parts, now);
        }
    }

    fn on_kept(
        &mut self,
        connection: ConnectionId,
        lane: Lane,
        (owner, (local, remote)): (Owner, (SocketAddr, SocketAddr)),
        session: Session,
        parts: &mut Parts,
        now: Instant,
    ) {
        self.lanes.remove(&lane);
        if self.kept.is_some() {
            // The word of the caller on a second connection counts for nothing.
            return parts.socket(owner, SocketAct::Close { connection });
        }
        let known = self.machine.candidate(lane).map(|candidate| candidate.path);
        let info = ConnectionInfo {
            way: lane.way(self.role),
            path: known.unwrap_or_else(|| path_of(parts, remote)),
            role: session.claim.role,
            local,
            remote,
            took: now.saturating_duration_since(self.began),
            report: None,
        };
        self.kept = Some(Box::new((owner, Established { connection, session, info })));
        self.lane(lane, LaneInput::Kept, parts, now);
    }

    fn fail(&mut self, lane: Lane, failure: LaneFailure, parts: &mut Parts, now: Instant) {
        tracing::debug!(attempt = %self.id, %lane, %failure, "lane failed");
        self.lanes.remove(&lane);
        if let (Lane::Relayed { kind: RelayKind::Connection, .. }, CircuitStage::Begun) =
            (lane, &self.circuit)
        {
            parts.act(Act::Circuit(self.id, CircuitAct::ConnectionFailed));
        }
        self.lane(lane, LaneInput::Failed(failure), parts, now);
    }

    fn lane(&mut self, lane: Lane, input: LaneInput, parts: &mut Parts, now: Instant) {
        self.machine.handle_lane(lane, input, &parts.view(now), now);
    }

    fn punch(&mut self, pair: u8, input: punch::Input, parts: &mut Parts, now: Instant) -> Option<Lane> {
        self.machine.handle_punch(pair, input, &parts.view(now), now)
    }

    fn question(
        &mut self,
        link: StunLink,
        parts: &mut Parts,
        now: Instant,
        feed: impl FnOnce(&mut Question),
    ) {
        let found = self.questions.iter_mut().find(|((_, from), _)| from.0 == link.from);
        if let Some((_, question)) = found {
            feed(question);
            self.settle_questions(parts, now);
        }
    }

    /// Takes up the effects and the answers of all questions.
    fn settle_questions(&mut self, parts: &mut Parts, now: Instant) {
        let owner = self.owner();
        let mut answers = Vec::new();
        for ((pair, from), question) in &mut self.questions {
            question.take_acts().into_iter().for_each(|act| parts.socket(owner, act));
            answers.extend(question.take_outcome().map(|mapped| (*pair, *from, mapped)));
        }
        for (pair, from, mapped) in answers {
            self.punch(pair, punch::Input::Observed(from, mapped), parts, now);
        }
    }
}

impl Parts {
    /// Hands a connection to whoever accepts.
    pub(super) fn accept(&mut self, owner: Owner, established: Established) {
        let (id, way) = (established.session.claim.peer, established.info.way);
        let peer = id.short();
        match self.backlog {
            // Several of one peer may have been welcomed at a time.
            Some(1..) if !self.pipes.has_room(&id, &self.config.limits) => {
                tracing::debug!(%peer, "a peer has as many pipes as it may: dropped one");
                self.counters.refused += 1;
                let connection = established.connection;
                self.socket(owner, SocketAct::Close { connection });
            }
            Some(places @ 1..) => {
                tracing::info!(%peer, %way, "accepted");
                self.backlog = Some(places - 1);
                self.pipes.begin(id);
                self.counters.accepted += 1;
                self.tell(Event::Accepted { owner, established: Box::new(established) });
            }
            Some(0) | None => {
                tracing::warn!(%peer, "nobody takes the accepted connections: dropped one");
                self.counters.refused += 1;
                let connection = established.connection;
                self.socket(owner, SocketAct::Close { connection });
            }
        }
    }
}

/// Returns the distance to the other end of a connection, as far as its address tells.
pub(super) fn path_of(parts: &Parts, remote: SocketAddr) -> Path {
    path_to(parts.facts.host(), None, remote.ip())
}

/// The time one dial may take. Linux would go on for over two minutes.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// How long an answerer with nothing left to do waits for another offer of its caller.
const LINGER: Duration = Duration::from_secs(1);
/// Offers kept while the names of TURN servers are looked up; the newest count.
const MOST_EARLY: usize = 4;
/// Connections to punched ports that are not proven yet, of all attempts.
const MOST_PUNCHED: usize = 128;
