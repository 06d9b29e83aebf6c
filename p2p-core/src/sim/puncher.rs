//! A [`Punch`] alone on a simulated host: for stories and statistics of punches of which everything is known beforehand.
//!
//! It has nothing of a node but its sockets and its proof.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::host::HostEvent;
use super::node::{HostSockets, Meaning, ReadResult, TcpUse, dial_error, local_error, read_tcp};
use super::tcp::{TcpEvent, TcpOptions, TcpSocket};
use super::world::{Context, Program};
use crate::attempt::{DialError, Role};
use crate::node::{ConnectionId, NicId, Owner, SocketAct as HostAct, SocketEvent, StunLink};
use crate::peer::Identity;
use crate::proof::{self, Cipher, Counterpart, Proof, ProofConfig, Session, Stage};
use crate::punch::{
    Act, Budget, Event, Failed, Input, Limits, Message, Punch, PunchConfig, Socket, SocketAct,
};
use crate::stun::frame::Framer;
use crate::stun::wire::Parsed;
use crate::stun::{Message as StunMessage, Transport};
use crate::{Local, Machine, Mapped, Output, Seed};

/// The connection that one side keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When TCP was up.
    pub up: Instant,
    /// When it was proven, and kept.
    pub at: Instant,
    /// The ends of it, as this side sees them.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
    /// Whether both dialled, and the SYNs crossed.
    pub is_crossed: bool,
    /// What only the two ends of one proof have.
    pub binding: [u8; 32],
}

impl Kept {
    /// Whether these are the two ends of one connection.
    pub fn is_with(&self, other: &Self) -> bool {
        self.binding == other.binding
    }
}

/// A socket that was dialled, or came to a listener.
#[derive(Debug)]
struct PunchLane {
    socket: Socket,
    tcp: TcpSocket,
    up: Option<(Instant, Box<Proof>)>,
    wait: Option<Instant>,
}

/// Turns a [`Punch`] with the sockets of its host: the caller from the start, the answerer from the first offer.
#[derive(Debug)]
pub struct Puncher {
    config: PunchConfig,
    stun: Option<SocketAddr>,
    /// On which our messages come, and theirs.
    topics: [String; 2],
    punch: Option<Punch>,
    budget: Budget,
    wait: Option<Instant>,
    sockets: HostSockets,
    lanes: BTreeMap<ConnectionId, PunchLane>,
    next: u64,
    framers: BTreeMap<StunLink, Framer>,
    seed: Seed,
    /// Each socket that was ever kept: there must never be two.
    pub kept: Vec<Kept>,
    /// When the first plan was known.
    pub planned: Option<Instant>,
    /// When the first SYN was sent.
    pub dialled: Option<Instant>,
    /// Why nothing came of it.
    pub failed: Option<Failed>,
}

impl Puncher {
    /// One side, that asks `stun` for its mappings, if there is one. Both sides of an attempt name each other by
    /// `topics`: the own one first.
    pub fn new(config: PunchConfig, stun: Option<SocketAddr>, topics: [&str; 2], seed: Seed) -> Self {
        Self {
            config,
            stun,
            topics: topics.map(str::to_owned),
            punch: None,
            budget: Budget::new(Limits::default()),
            wait: None,
            sockets: HostSockets::default(),
            lanes: BTreeMap::new(),
            next: 0,
            framers: BTreeMap::new(),
            seed,
            kept: Vec::new(),
            planned: None,
            dialled: None,
            failed: None,
        }
    }

    /// Subscribes, and begins if we are the caller.
    pub fn start(&mut self, context: &mut Context<'_>) {
        context.broker.subscribe(context.id, &self.topics[0]);
        if self.config.role == Role::Caller {
            self.punch = Some(Punch::call(self.config.clone(), context.now));
            self.turn(context);
        }
    }

    /// The machine, once there is one.
    pub fn punch(&self) -> Option<&Punch> {
        self.punch.as_ref()
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        while let Some(punch) = &mut self.punch {
            match punch.poll_output() {
                Output::Act(act) => self.act(act, context),
                Output::Event(Event::Lost(failed)) => self.failed = Some(failed),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    if self.planned.is_none() && punch.report().tactic.is_some() {
                        self.planned = Some(context.now);
                    }
                    return;
                }
            }
        }
    }

    fn feed(&mut self, input: Input, now: Instant) -> Option<Socket> {
        self.punch.as_mut()?.handle(input, now)
    }

    fn act(&mut self, act: Act, context: &mut Context<'_>) {
        match act {
            Act::Socket(act) => self.socket_act(act, context),
            Act::Signal(message) => {
                let bytes = postcard::to_stdvec(&message).map(Bytes::from);
                if let Ok(bytes) = bytes {
                    context.broker.publish(&self.topics[1], &bytes, context.now);
                }
            }
        }
    }

    fn socket_act(&mut self, act: SocketAct, context: &mut Context<'_>) {
        let now = context.now;
        match act {
            SocketAct::Reserve(wanted) => {
                let share = self.budget.take(wanted);
                self.feed(Input::Share(share), now);
            }
            SocketAct::GiveBack(share) => self.budget.give_back(share),
            SocketAct::Listen(at) => {
                self.host_act(HostAct::Listen { at: at.0, is_throwaway: false }, context)
            }
            SocketAct::Unlisten(at) => self.host_act(HostAct::Unlisten { at: at.0 }, context),
            SocketAct::Observe(from) => match self.stun {
                Some(to) => self.host_act(HostAct::OpenLink { link: StunLink { from: from.0, to } }, context),
                None => drop(self.feed(Input::Observed(from, None), now)),
            },
            SocketAct::Forget(from) => {
                if let Some(to) = self.stun {
                    self.host_act(HostAct::CloseLink { link: StunLink { from: from.0, to } }, context);
                }
            }
            SocketAct::Dial { socket, from, to, ttl } => {
                self.dialled.get_or_insert(now);
                let number = self.number();
                let usual = TcpOptions::shared();
                let options = TcpOptions { ttl: ttl.unwrap_or(usual.ttl), ..usual };
                match self.sockets.dial(TcpUse::Connection(number), (Some(from.0), to), options, context) {
                    Ok(tcp) => {
                        // It was made a line ago.
                        let _ = context.host.tcp_mut().set_ttl(tcp, usual.ttl);
                        self.lanes.insert(number, PunchLane { socket, tcp, up: None, wait: None });
                    }
                    Err(error) => drop(self.feed(Input::Failed(socket, local_error(error)), now)),
                }
            }
            SocketAct::Drop(socket) => {
                let is_its = |lane: &PunchLane| lane.socket == socket;
                let number = self.lanes.iter().find(|(_, lane)| is_its(lane)).map(|(number, _)| *number);
                number.into_iter().for_each(|number| self.close(number, context));
            }
        }
    }

    fn host_act(&mut self, act: HostAct, context: &mut Context<'_>) {
        if let Some(event) = self.sockets.perform(OWNER, act, context) {
            self.on_socket(event, context);
        }
    }

    fn number(&mut self) -> ConnectionId {
        self.next += 1;
        ConnectionId(self.next)
    }

    fn close(&mut self, number: ConnectionId, context: &mut Context<'_>) {
        if let Some(lane) = self.lanes.remove(&number) {
            self.sockets.close(lane.tcp, context);
        }
    }

    fn on_socket(&mut self, event: SocketEvent, context: &mut Context<'_>) {
        let now = context.now;
        match event {
            SocketEvent::Listening { at, outcome } => {
                let outcome = outcome.map(drop).map_err(|error| DialError::Local(error.reason));
                self.feed(Input::Listening(Local(at), outcome), now);
            }
            SocketEvent::LinkUp { link, .. } => {
                self.framers.insert(link, Framer::default());
                let request = StunMessage::binding(&mut self.seed).encode(Transport::Tcp);
                let bytes = request.unwrap_or_default();
                self.host_act(HostAct::WriteLink { link, bytes }, context);
            }
            SocketEvent::LinkBytes { link, bytes } => {
                let Some(framer) = self.framers.get_mut(&link) else { return };
                let Ok(Some(message)) = framer.feed(&mut &bytes[..]) else { return };
                let seen = Parsed::decode(&message, Transport::Tcp).ok();
                let mapped = seen.and_then(|seen| seen.message.mapped()).map(Mapped);
                self.feed(Input::Observed(Local(link.from), mapped), now);
            }
            SocketEvent::LinkDown { link, .. } => {
                self.feed(Input::Observed(Local(link.from), None), now);
            }
            event => tracing::trace!(?event, "of no interest to a punch"),
        }
    }

    fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        let now = context.now;
        match self.sockets.on_tcp(event, context) {
            Meaning::Node(_, event) => self.on_socket(event, context),
            Meaning::Arrived { at, socket: tcp, remote, .. } => {
                match self.feed(Input::Accepted { at: Local(at), remote }, now) {
                    Some(socket) => {
                        let number = self.number();
                        self.sockets.set_use(tcp, TcpUse::Connection(number));
                        self.lanes.insert(number, PunchLane { socket, tcp, up: None, wait: None });
                        self.on_up(number, context);
                    }
                    None => context.host.tcp_mut().close(tcp, now),
                }
            }
            Meaning::Connection(number, event) => self.on_lane(number, event, context),
            Meaning::Channel(..) | Meaning::Circuit(..) | Meaning::Nothing => {}
        }
    }

    fn on_lane(&mut self, number: ConnectionId, event: TcpEvent, context: &mut Context<'_>) {
        let Some(lane) = self.lanes.get(&number) else { return };
        let (socket, is_up) = (lane.socket, lane.up.is_some());
        match event {
            TcpEvent::Connected(tcp) => {
                let remote = context.host.tcp().remote(tcp);
                let input = remote.map(|remote| Input::Connected { socket, remote });
                match input.and_then(|input| self.feed(input, context.now)) {
                    Some(_) => self.on_up(number, context),
                    None => self.close(number, context),
                }
            }
            TcpEvent::Failed(_, failure) if !is_up => {
                self.fail(number, Some(dial_error(failure)), context);
            }
            TcpEvent::Failed(..) => self.fail(number, None, context),
            TcpEvent::Readable(_) | TcpEvent::PeerClosed(_) => self.prove(number, context),
            TcpEvent::Accepted { .. } => {}
        }
    }

    fn on_up(&mut self, number: ConnectionId, context: &mut Context<'_>) {
        let role = self.config.role;
        let peer = identity(role.other()).id();
        let counterpart = match role {
            Role::Caller => Counterpart::Dialled { peer, attempt: self.config.attempt, role, plain: false },
            Role::Answerer => Counterpart::Unknown,
        };
        let (cipher, within) = (Cipher::ChaCha20Poly1305, PROOF_WITHIN);
        let config = ProofConfig { identity: identity(role), counterpart, cipher, within };
        let proof = Proof::new(config, self.seed.fork("proof"), context.now);
        if let Some(lane) = self.lanes.get_mut(&number) {
            lane.up = Some((context.now, Box::new(proof)));
        }
        self.prove(number, context);
    }

    /// Goes on with a proof as far as it can.
    fn prove(&mut self, number: ConnectionId, context: &mut Context<'_>) {
        let now = context.now;
        let may_keep = self.kept.is_empty();
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        let Some((up, proof)) = &mut lane.up else { return };
        loop {
            match proof.poll_output() {
                Output::Act(proof::Act::Send(bytes)) => {
                    // A connection that cannot take it breaks, which is told as an event.
                    let _ = context.host.tcp_mut().send(lane.tcp, &bytes, now);
                    continue;
                }
                Output::Event(proof::Event::Claimed(_)) => {
                    // It can only be the caller. What is wrong with it ends the proof, which is told.
                    let _ = proof.welcome(false, now);
                    continue;
                }
                Output::Act(proof::Act::HangUp) | Output::Event(proof::Event::Failed(_)) => {
                    return self.fail(number, None, context);
                }
                Output::Event(proof::Event::Proven | proof::Event::Kept) => continue,
                Output::Wait(wait) => lane.wait = wait.map(|deadline| deadline.at),
            }
            match proof.stage() {
                Stage::Hearing => match read_tcp(lane.tcp, &mut Bytes::new(), proof.wants(), context) {
                    ReadResult::Bytes(bytes) => drop(proof.handle_bytes(&bytes, now)),
                    ReadResult::Nothing => return,
                    ReadResult::End => proof.handle_lost(now),
                },
                // The caller keeps the first that is proven.
                Stage::Proven if may_keep => drop(proof.go(now)),
                Stage::Kept => {
                    let up = *up;
                    let session = lane.up.take().and_then(|(_, proof)| proof.into_session());
                    return session.into_iter().for_each(|session| self.keep(number, up, &session, context));
                }
                Stage::Proven | Stage::Deciding | Stage::Failed => return,
            }
        }
    }

    fn keep(&mut self, number: ConnectionId, up: Instant, session: &Session, context: &mut Context<'_>) {
        let Some(lane) = self.lanes.remove(&number) else { return };
        let stack = context.host.tcp();
        if let (Some(local), Some(remote)) = (stack.local(lane.tcp), stack.remote(lane.tcp)) {
            let (at, is_crossed) = (context.now, stack.is_crossed(lane.tcp));
            self.kept.push(Kept { up, at, local, remote, is_crossed, binding: session.binding });
        }
        if let Some(punch) = &mut self.punch {
            punch.handle_kept(lane.socket, context.now);
        }
    }

    /// A socket failed in TCP, or else in its proof.
    fn fail(&mut self, number: ConnectionId, error: Option<DialError>, context: &mut Context<'_>) {
        let Some(socket) = self.lanes.get(&number).map(|lane| lane.socket) else { return };
        self.close(number, context);
        if let Some(punch) = &mut self.punch {
            match error {
                Some(error) => drop(punch.handle(Input::Failed(socket, error), context.now)),
                None => punch.handle_unproven(socket, context.now),
            }
        }
    }

    fn on_signal(&mut self, payload: &[u8], context: &mut Context<'_>) {
        let Ok(message) = postcard::from_bytes::<Message>(payload) else { return };
        match &mut self.punch {
            Some(punch) => punch.handle_message(&message, context.now),
            None => self.punch = Some(Punch::answer(self.config.clone(), &message, context.now)),
        }
    }
}

impl Program for Puncher {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            HostEvent::Signal { topic, payload } if topic == self.topics[0] => {
                self.on_signal(&payload, context);
            }
            _ => {}
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let is_late = |lane: &PunchLane| lane.wait.is_some_and(|at| at <= now);
        let late: Vec<_> =
            self.lanes.iter().filter(|(_, lane)| is_late(lane)).map(|(number, _)| *number).collect();
        for number in late {
            if let Some((_, proof)) = self.lanes.get_mut(&number).and_then(|lane| lane.up.as_mut()) {
                proof.handle_timeout(now);
            }
            self.prove(number, context);
        }
        if let Some(punch) = &mut self.punch {
            punch.handle_timeout(now);
        }
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.lanes.values().filter_map(|lane| lane.wait).chain(self.wait).min()
    }
}

/// Returns the identity of whoever plays this part, in every world.
fn identity(role: Role) -> Identity {
    Identity::from_bytes([if role == Role::Caller { 1 } else { 2 }; 32])
}

/// Both sides on one host.
#[derive(Debug)]
pub struct PunchNeighbours(pub [Puncher; 2]);

impl Program for PunchNeighbours {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        for side in &mut self.0 {
            side.handle_event(event.clone(), context);
        }
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        for side in &mut self.0 {
            side.handle_timeout(context);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.0.iter().filter_map(Puncher::next_timeout).min()
    }
}

/// The owner of all sockets of a punch.
const OWNER: Owner = Owner::Nic(NicId(0));
/// A connection has so long to be proven.
const PROOF_WITHIN: Duration = Duration::from_secs(3);
