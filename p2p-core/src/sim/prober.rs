//! A [`Probe`] on a simulated host, and the helpers it may ask.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::host::HostEvent;
use super::node::HostSockets;
use super::stun::StunServer;
use super::tcp::{TcpEvent, TcpOptions, TcpSocket};
use super::world::{Context, Program};
use crate::nat::SynAnswer;
use crate::nat::probe::{Act, Event, Probe};
use crate::nat::report::NatReport;
use crate::node::{NicId, Owner, SocketAct, SocketEvent, StunLink};
use crate::stun::dial_back::SynOutcome;
use crate::stun::query::Server;
use crate::{Local, Machine, Output};

/// Turns a [`Probe`] with the sockets of its host. [`start`](Self::start) it before it
/// [runs](super::world::World::run).
#[derive(Debug)]
pub struct Prober {
    probe: Probe,
    wait: Option<Instant>,
    sockets: HostSockets,
    events: Vec<(Instant, Event)>,
    /// What comes of looking names up, and when, the last first.
    names: Vec<(Instant, LookUp)>,
}

/// The owner of all sockets of a probe.
const OWNER: Owner = Owner::Nic(NicId(0));

/// The servers a name stands for, or the name and why there are none.
pub type LookUp = Result<Vec<Server>, (String, String)>;

impl Prober {
    /// Takes the machine over.
    pub fn new(probe: Probe) -> Self {
        Self { probe, wait: None, sockets: HostSockets::default(), events: Vec::new(), names: Vec::new() }
    }

    /// The same, with names that are looked up meanwhile.
    pub fn with_names(mut self, mut names: Vec<(Instant, LookUp)>) -> Self {
        names.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        self.names = names;
        self
    }

    /// Does what the machine wants at once.
    pub fn start(&mut self, context: &mut Context<'_>) {
        context.broker.subscribe(context.id, &answer_topic(context));
        self.turn(context);
    }

    /// What the machine told, and when.
    pub fn events(&self) -> &[(Instant, Event)] {
        &self.events
    }

    /// The machine.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The report, and when it came.
    pub fn report(&self) -> Option<(Instant, &NatReport)> {
        self.events.iter().find_map(|(at, event)| match event {
            Event::Done(report) => Some((*at, &**report)),
            Event::External { .. } | Event::Early(_) => None,
        })
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        loop {
            match self.probe.poll_output() {
                Output::Act(act) => self.act(act, context),
                Output::Event(event) => self.events.push((context.now, event)),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return;
                }
            }
        }
    }

    fn act(&mut self, act: Act, context: &mut Context<'_>) {
        let link = |from: Local, to| StunLink { from: from.0, to };
        let act = match act {
            Act::SendUdp { from, to, bytes } => SocketAct::SendDatagram { from: from.0, to, bytes },
            Act::CloseUdp { from } => SocketAct::CloseDatagrams { from: from.0 },
            Act::Listen { at } => SocketAct::Listen { at: at.0, is_throwaway: true },
            Act::Unlisten { at } => SocketAct::Unlisten { at: at.0 },
            Act::OpenTcp { from, to } => SocketAct::OpenLink { link: link(from, to) },
            Act::SendTcp { from, to, bytes } => SocketAct::WriteLink { link: link(from, to), bytes },
            Act::CloseTcp { from, to } => SocketAct::CloseLink { link: link(from, to) },
            Act::AskSynProbe { helper, target } => {
                let text = format!("{target} {}", answer_topic(context));
                if context.broker.publish(&helper_topic(helper), &Bytes::from(text), context.now) == 0 {
                    self.probe.handle_syn_probe(helper, SynOutcome::Unavailable, context.now);
                }
                return;
            }
        };
        if let Some(event) = self.sockets.perform(OWNER, act, context) {
            self.on_socket(event, context.now);
        }
    }

    fn on_socket(&mut self, event: SocketEvent, now: Instant) {
        let probe = &mut self.probe;
        match event {
            SocketEvent::LinkUp { link, .. } => probe.handle_tcp_open(Local(link.from), link.to, now),
            SocketEvent::LinkBytes { link, bytes } => {
                probe.handle_tcp_data(Local(link.from), link.to, &bytes, now);
            }
            SocketEvent::LinkDown { link, why } => {
                probe.handle_tcp_closed(Local(link.from), link.to, why, now);
            }
            SocketEvent::Datagram { at, from, bytes } => probe.handle_datagram(Local(at), from, &bytes, now),
            SocketEvent::Unreachable { at, to, why } => probe.handle_unreachable(Local(at), to, why, now),
            event => tracing::trace!(?event, "of no interest to a probe"),
        }
    }
}

impl Program for Prober {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Signal { payload, .. } => {
                if let Some((helper, outcome)) = parse_answer(&payload) {
                    self.probe.handle_syn_probe(helper, outcome, context.now);
                }
            }
            event => {
                if let Some((_, event)) = self.sockets.on_event(event, context) {
                    self.on_socket(event, context.now);
                }
            }
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        while let Some((_, looked_up)) = self.names.pop_if(|(at, _)| *at <= context.now) {
            match looked_up {
                // A script that names too many servers sees them missing.
                Ok(servers) => drop(self.probe.handle_resolved(&servers, context.now)),
                Err((name, why)) => self.probe.handle_unresolved(name, why, context.now),
            }
        }
        self.probe.handle_timeout(context.now);
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        let name = self.names.last().map(|(at, _)| *at);
        [self.wait, name].into_iter().flatten().min()
    }
}

fn answer_topic(context: &Context<'_>) -> String {
    format!("syn-answers/{}", context.host.name())
}

fn helper_topic(helper: IpAddr) -> String {
    format!("syn-helper/{helper}")
}

const OUTCOMES: [(&str, SynOutcome); 5] = [
    ("connected", SynOutcome::Connected),
    ("silence", SynOutcome::Kept(SynAnswer::Silence)),
    ("reset", SynOutcome::Kept(SynAnswer::Reset)),
    ("icmp", SynOutcome::Kept(SynAnswer::Icmp)),
    ("unavailable", SynOutcome::Unavailable),
];

fn parse_answer(payload: &[u8]) -> Option<(IpAddr, SynOutcome)> {
    let (helper, word) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    let (_, outcome) = OUTCOMES.iter().find(|(known, _)| *known == word)?;
    Some((helper.parse().ok()?, *outcome))
}

/// Dials a port when asked to over the broker, and says what it got. A STUN server may run on the same host:
/// then the helper dials from the server's address.
#[derive(Debug)]
pub struct SynHelper {
    ip: IpAddr,
    patience: Duration,
    /// The dials under way: who wants to know, and until when.
    dials: BTreeMap<TcpSocket, (String, Instant)>,
    server: Option<StunServer>,
}

impl SynHelper {
    /// A helper that dials from `ip` and takes `patience` without an answer for silence.
    pub fn new(ip: IpAddr, patience: Duration, server: Option<StunServer>) -> Self {
        Self { ip, patience, dials: BTreeMap::new(), server }
    }

    /// Tells the broker of it.
    pub fn start(&self, context: &mut Context<'_>) {
        context.broker.subscribe(context.id, &helper_topic(self.ip));
    }

    fn on_signal(&mut self, payload: &[u8], context: &mut Context<'_>) {
        let request = std::str::from_utf8(payload).ok().and_then(|text| text.split_once(' '));
        let Some((target, topic)) = request else { return };
        let Ok(target) = target.parse::<SocketAddr>() else { return };
        let from = SocketAddr::new(self.ip, 0);
        let dialled = context.host.tcp_dial(Some(from), TcpOptions::default(), target, context.now);
        match dialled {
            Ok(socket) => {
                self.dials.insert(socket, (topic.to_owned(), context.now + self.patience));
            }
            Err(_) => self.tell(topic, SynOutcome::Unavailable, context),
        }
    }

    fn tell(&self, topic: &str, outcome: SynOutcome, context: &mut Context<'_>) {
        let word = OUTCOMES.iter().find(|(_, known)| *known == outcome).map_or("", |(word, _)| word);
        context.broker.publish(topic, &Bytes::from(format!("{} {word}", self.ip)), context.now);
    }

    fn on_dialled(&mut self, socket: TcpSocket, outcome: SynOutcome, context: &mut Context<'_>) {
        if let Some((topic, _)) = self.dials.remove(&socket) {
            context.host.tcp_mut().abort(socket);
            self.tell(&topic, outcome, context);
        }
    }
}

impl Program for SynHelper {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        let of_mine = |socket: &TcpSocket| self.dials.contains_key(socket);
        match &event {
            HostEvent::Signal { payload, .. } => self.on_signal(payload, context),
            HostEvent::Tcp(TcpEvent::Connected(socket)) if of_mine(socket) => {
                self.on_dialled(*socket, SynOutcome::Connected, context);
            }
            HostEvent::Tcp(TcpEvent::Failed(socket, why)) if of_mine(socket) => {
                let answer = super::stun::answer(*why);
                self.on_dialled(*socket, SynOutcome::Kept(answer), context);
            }
            _ => {
                if let Some(server) = &mut self.server {
                    server.handle_event(event, context);
                }
            }
        }
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let late: Vec<_> =
            self.dials.iter().filter(|(_, (_, until))| *until <= now).map(|(socket, _)| *socket).collect();
        for socket in late {
            self.on_dialled(socket, SynOutcome::Kept(SynAnswer::Silence), context);
        }
        if let Some(server) = &mut self.server {
            server.handle_timeout(context);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let own = self.dials.values().map(|(_, until)| *until).min();
        let server = self.server.as_ref().and_then(StunServer::next_timeout);
        [own, server].into_iter().flatten().min()
    }
}
