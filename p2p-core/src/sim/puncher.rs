//! A [`Punch`] on a simulated host, with a proof in three words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::host::HostEvent;
use super::tcp::{Failure, SocketError, TcpEvent, TcpOptions, TcpSocket};
use super::world::{Context, Program};
use crate::attempt::{DialError, Role};
use crate::punch::{
    Act, Budget, Event, Failed, Input, Limits, Message, Punch, PunchConfig, Socket, SocketAct,
};
use crate::stun::frame::Framer;
use crate::stun::wire::Parsed;
use crate::stun::{Message as StunMessage, Transport};
use crate::{Local, Machine, Mapped, Output, Seed};

/// A connection has so long to be proven.
const PROOF_WITHIN: Duration = Duration::from_secs(3);
/// The caller's first word, the answerer's, and the caller's last word.
const HELLO: u8 = b'H';
const WELCOME: u8 = b'W';
const GO: u8 = b'G';

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
    /// What the caller has said on this connection and on no other.
    pub number: u32,
}

impl Kept {
    /// Whether these are the two ends of one connection.
    pub fn is_with(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

/// What is known of a socket of the host.
#[derive(Clone, Copy, Debug)]
enum Use {
    Lane { socket: Socket, up: Option<Instant> },
    Listener,
    Stun(Local),
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
    uses: BTreeMap<TcpSocket, Use>,
    framers: BTreeMap<TcpSocket, Framer>,
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
            uses: BTreeMap::new(),
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

    fn socket(&self, wanted: Socket) -> Option<TcpSocket> {
        let is = |used: &Use| matches!(used, Use::Lane { socket, .. } if *socket == wanted);
        self.uses.iter().find(|(_, used)| is(used)).map(|(tcp, _)| *tcp)
    }

    fn close(&mut self, tcp: TcpSocket, context: &mut Context<'_>) {
        self.uses.remove(&tcp);
        self.framers.remove(&tcp);
        // What came and was not read would turn the farewell into a RST.
        let _ = context.host.tcp_mut().read(tcp);
        context.host.tcp_mut().close(tcp, context.now);
    }

    fn close_where(
        &mut self,
        context: &mut Context<'_>,
        which: impl Fn(TcpSocket, &Use, &Context<'_>) -> bool,
    ) {
        let found: Vec<_> =
            self.uses.iter().filter(|(tcp, used)| which(**tcp, used, context)).map(|(tcp, _)| *tcp).collect();
        for tcp in found {
            self.close(tcp, context);
        }
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
        let Some(punch) = &mut self.punch else { return };
        match act {
            SocketAct::Reserve(wanted) => {
                let share = self.budget.take(wanted);
                punch.handle(Input::Share(share), now);
            }
            SocketAct::GiveBack(share) => self.budget.give_back(share),
            SocketAct::Listen(at) => {
                let bound = context.host.tcp_listen(at.0, TcpOptions::shared());
                let outcome = match bound {
                    Ok(tcp) => {
                        self.uses.insert(tcp, Use::Listener);
                        Ok(())
                    }
                    Err(error) => Err(local(error)),
                };
                punch.handle(Input::Listening(at, outcome), now);
            }
            SocketAct::Unlisten(at) => self.close_where(context, |tcp, used, context| {
                matches!(used, Use::Listener) && context.host.tcp().local(tcp) == Some(at.0)
            }),
            SocketAct::Observe(from) => {
                let dialled = self.stun.and_then(|stun| {
                    context.host.tcp_dial(Some(from.0), TcpOptions::shared(), stun, now).ok()
                });
                match dialled {
                    Some(tcp) => {
                        self.uses.insert(tcp, Use::Stun(from));
                    }
                    None => drop(punch.handle(Input::Observed(from, None), now)),
                }
            }
            SocketAct::Forget(from) => {
                self.close_where(context, |_, used, _| matches!(used, Use::Stun(local) if *local == from))
            }
            SocketAct::Dial { socket, from, to, ttl } => {
                self.dialled.get_or_insert(now);
                let usual = TcpOptions::shared();
                let options = TcpOptions { ttl: ttl.unwrap_or(usual.ttl), ..usual };
                match context.host.tcp_dial(Some(from.0), options, to, now) {
                    Ok(tcp) => {
                        if ttl.is_some() {
                            // It was made a line ago.
                            let _ = context.host.tcp_mut().set_ttl(tcp, usual.ttl);
                        }
                        self.uses.insert(tcp, Use::Lane { socket, up: None });
                    }
                    Err(error) => drop(punch.handle(Input::Failed(socket, local(error)), now)),
                }
            }
            SocketAct::Drop(socket) => {
                if let Some(tcp) = self.socket(socket) {
                    self.close(tcp, context);
                }
            }
        }
    }

    fn on_up(&mut self, tcp: TcpSocket, socket: Socket, context: &mut Context<'_>) {
        self.uses.insert(tcp, Use::Lane { socket, up: Some(context.now) });
        if self.config.role == Role::Caller {
            self.say(tcp, HELLO, socket.number(), context);
        }
    }

    /// A word, and the number that the caller has given to the connection.
    fn say(&self, tcp: TcpSocket, word: u8, number: u32, context: &mut Context<'_>) {
        let [_, a, b, c] = number.to_be_bytes();
        // A connection that cannot take it breaks, which is told as an event.
        let _ = context.host.tcp_mut().send(tcp, &[word, a, b, c], context.now);
    }

    fn on_data(&mut self, tcp: TcpSocket, socket: Socket, context: &mut Context<'_>) {
        let Ok(bytes) = context.host.tcp_mut().read(tcp) else { return };
        // Words come whole: nothing between splits segments this short.
        for word in bytes.chunks(4) {
            let &[word, a, b, c] = word else {
                return self.fail(tcp, socket, None, context);
            };
            let number = u32::from_be_bytes([0, a, b, c]);
            match (word, self.config.role) {
                (HELLO, Role::Answerer) => self.say(tcp, WELCOME, number, context),
                (WELCOME, Role::Caller) if self.kept.is_empty() => {
                    self.say(tcp, GO, number, context);
                    return self.keep(tcp, socket, number, context);
                }
                (GO, Role::Answerer) => return self.keep(tcp, socket, number, context),
                (WELCOME, Role::Caller) => return,
                _ => return self.fail(tcp, socket, None, context),
            }
        }
    }

    fn keep(&mut self, tcp: TcpSocket, socket: Socket, number: u32, context: &mut Context<'_>) {
        let stack = context.host.tcp();
        let used = self.uses.remove(&tcp);
        if let (Some(local), Some(remote), Some(Use::Lane { up: Some(up), .. })) =
            (stack.local(tcp), stack.remote(tcp), used)
        {
            let is_crossed = stack.is_crossed(tcp);
            self.kept.push(Kept { up, at: context.now, local, remote, is_crossed, number });
        }
        if let Some(punch) = &mut self.punch {
            punch.handle_kept(socket, context.now);
        }
    }

    /// A socket failed in TCP, or else in its proof.
    fn fail(&mut self, tcp: TcpSocket, socket: Socket, error: Option<DialError>, context: &mut Context<'_>) {
        self.close(tcp, context);
        if let Some(punch) = &mut self.punch {
            match error {
                Some(error) => drop(punch.handle(Input::Failed(socket, error), context.now)),
                None => punch.handle_unproven(socket, context.now),
            }
        }
    }

    fn on_stun(&mut self, tcp: TcpSocket, from: Local, context: &mut Context<'_>) {
        let Ok(bytes) = context.host.tcp_mut().read(tcp) else { return };
        let framer = self.framers.entry(tcp).or_default();
        let Ok(Some(message)) = framer.feed(&mut &bytes[..]) else { return };
        let mapped = Parsed::decode(&message, Transport::Tcp).ok().and_then(|seen| seen.message.mapped());
        if let Some(punch) = &mut self.punch {
            punch.handle(Input::Observed(from, mapped.map(Mapped)), context.now);
        }
    }

    fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        let now = context.now;
        match event {
            TcpEvent::Connected(tcp) => match self.uses.get(&tcp).copied() {
                Some(Use::Lane { socket, .. }) => {
                    let remote = context.host.tcp().remote(tcp);
                    let input = remote.map(|remote| Input::Connected { socket, remote });
                    let up = input.and_then(|input| self.punch.as_mut()?.handle(input, now));
                    if up.is_some() {
                        self.on_up(tcp, socket, context);
                    } else {
                        self.close(tcp, context);
                    }
                }
                Some(Use::Stun(_)) => {
                    let request = StunMessage::binding(&mut self.seed).encode(Transport::Tcp);
                    let _ = context.host.tcp_mut().send(tcp, &request.unwrap_or_default(), now);
                }
                _ => {}
            },
            TcpEvent::Accepted { listener, socket: tcp } if self.uses.contains_key(&listener) => {
                let stack = context.host.tcp();
                let ends = stack.local(tcp).zip(stack.remote(tcp));
                let socket = ends.and_then(|(at, remote)| {
                    let input = Input::Accepted { at: Local(at), remote };
                    self.punch.as_mut()?.handle(input, now)
                });
                match socket {
                    Some(socket) => self.on_up(tcp, socket, context),
                    None => context.host.tcp_mut().close(tcp, now),
                }
            }
            TcpEvent::Accepted { .. } => {}
            TcpEvent::Readable(tcp) => match self.uses.get(&tcp).copied() {
                Some(Use::Lane { socket, .. }) => self.on_data(tcp, socket, context),
                Some(Use::Stun(from)) => self.on_stun(tcp, from, context),
                _ => {}
            },
            TcpEvent::PeerClosed(tcp) | TcpEvent::Failed(tcp, _) => match self.uses.get(&tcp).copied() {
                Some(Use::Lane { socket, up }) => {
                    let error = match event {
                        TcpEvent::Failed(_, Failure::Refused) => Some(DialError::Refused),
                        TcpEvent::Failed(_, Failure::Unreachable(kind)) => {
                            Some(DialError::Unreachable(kind.to_string()))
                        }
                        TcpEvent::Failed(_, Failure::TimedOut) => Some(DialError::TimedOut),
                        _ if up.is_none() => Some(DialError::Refused),
                        _ => None,
                    };
                    self.fail(tcp, socket, error, context);
                }
                Some(Use::Stun(from)) => {
                    self.close(tcp, context);
                    if let Some(punch) = &mut self.punch {
                        punch.handle(Input::Observed(from, None), now);
                    }
                }
                _ => {}
            },
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

fn local(error: SocketError) -> DialError {
    DialError::Local(error.to_string())
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
        let late = |used: &Use| match used {
            Use::Lane { socket, up: Some(up) } if *up + PROOF_WITHIN <= now => Some(*socket),
            _ => None,
        };
        let late: Vec<_> = self.uses.iter().filter_map(|(tcp, used)| Some((*tcp, late(used)?))).collect();
        for (tcp, socket) in late {
            self.fail(tcp, socket, None, context);
        }
        if let Some(punch) = &mut self.punch {
            punch.handle_timeout(now);
        }
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        let proofs = self.uses.values().filter_map(|used| match used {
            Use::Lane { up, .. } => up.map(|up| up + PROOF_WITHIN),
            _ => None,
        });
        proofs.chain(self.wait).min()
    }
}

/// Both sides on one host.
#[derive(Debug)]
pub struct Neighbours(pub [Puncher; 2]);

impl Program for Neighbours {
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
