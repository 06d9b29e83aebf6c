//! One network interface: it listens on every address of it, and learns from STUN servers what those addresses are
//! seen as from outside and what the network in front of them is.
//!
//! First the listeners stand, then servers are asked: a dead server or resolver delays nothing. Two things are asked at
//! once, for each address family: what the port listened on looks like, over connections that are held so that the
//! mapping lasts; and, from other ports, what kind of network this is ([`Probe`](crate::nat::probe::Probe)), when the
//! interface starts, when it changes and when it is told to.

mod listener;
#[cfg(feature = "sim")]
pub(super) mod subject;
mod survey;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use listener::Listener;
pub use survey::MOST_PACKETS;
use survey::Survey;
use view::agreed;
pub use view::{NetworkView, PortEvidence, PortOutcome, PortView, Probed, StunServer};

use super::io::{ListenError, SocketAct, SocketEvent};
use super::nic::{Nic, NicAddress};
use crate::backoff::Backoff;
use crate::{Deadline, Family, Machine, Output, Reach, Seed};

/// Configures one interface of a node.
#[derive(Clone, Debug)]
pub struct InterfaceConfig {
    /// The families to use. None is none.
    pub families: BTreeSet<Family>,
    /// The TCP port to listen on; 0 takes a free one, the same on all addresses if there is one.
    pub listen_port: u16,
    /// The port that was listened on before, taken again if it is free and [`listen_port`](Self::listen_port) is 0: whoever
    /// knows our address finds us there. 0: none.
    pub last_port: u16,
    /// The servers to ask.
    pub stun: Vec<StunServer>,
    /// The pause before the servers are asked again about the port listened on. Default of a node: [`REFRESH`].
    pub refresh: Duration,
    /// Tells that the system says who sent an ICMP error about a TCP socket, as Linux does.
    pub can_see_hops: bool,
}

/// Asks for one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceAct {
    /// Do this with a socket.
    Socket(SocketAct),
    /// Look up the addresses of a server. Answered by [`Interface::handle_resolved`].
    Resolve(StunServer),
}

/// Tells the node of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceEvent {
    /// Its [`views`](Interface::views) are others now.
    Changed,
    /// One address cannot be listened on: the port is in use, or the address has just gone. The others go on.
    Refused(SocketAddr, ListenError),
}

/// Listens on the addresses of one interface and keeps a [`NetworkView`] of each.
#[derive(Debug)]
pub struct Interface {
    config: InterfaceConfig,
    nic: Nic,
    seed: Seed,
    /// The port all addresses listen on if they can; 0 before the first does.
    port: u16,
    /// Ports given up because another address of the interface could not have them.
    tries: usize,
    listeners: BTreeMap<NicAddress, Listener>,
    /// Addresses that could not be listened on since the last change.
    refused: BTreeSet<NicAddress>,
    /// Addresses that the system had nothing left to listen on with, and when to try again.
    wanting: BTreeSet<NicAddress>,
    listen_at: Option<Instant>,
    is_exhaustion_told: bool,
    surveys: BTreeMap<Family, Survey>,
    /// The addresses that the servers' names stood for last.
    resolved: BTreeMap<StunServer, Vec<SocketAddr>>,
    /// Names that never resolved.
    unresolved: BTreeMap<StunServer, String>,
    /// Names still being resolved.
    resolving: BTreeSet<StunServer>,
    /// When to ask the servers again.
    refresh_at: Option<Instant>,
    /// The pauses while nobody has answered.
    backoff: Backoff,
    is_ready: bool,
    told: Vec<NetworkView>,
    is_closed: bool,
    deadline: Option<Deadline>,
    out: VecDeque<Output<InterfaceAct, InterfaceEvent>>,
}

impl Interface {
    /// Begins to listen on the addresses of `nic`, and to ask.
    pub fn new(config: InterfaceConfig, nic: Nic, seed: Seed, now: Instant) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, config.refresh);
        let mut interface = Self {
            port: if config.listen_port == 0 { config.last_port } else { config.listen_port },
            config,
            nic,
            seed,
            tries: 0,
            listeners: BTreeMap::new(),
            refused: BTreeSet::new(),
            wanting: BTreeSet::new(),
            listen_at: None,
            is_exhaustion_told: false,
            surveys: BTreeMap::new(),
            resolved: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            resolving: BTreeSet::new(),
            refresh_at: None,
            backoff,
            is_ready: false,
            told: Vec::new(),
            is_closed: false,
            deadline: None,
            out: VecDeque::new(),
        };
        interface.listen(now);
        interface.drain(now);
        interface
    }

    /// Returns the interface as it was told last.
    pub fn nic(&self) -> &Nic {
        &self.nic
    }

    /// Tells whether it listens on every address that can be listened on, and on one at least.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Returns what is known of every address that is listened on.
    pub fn views(&self) -> &[NetworkView] {
        &self.told
    }

    /// Takes up a change of the interface: listens on new addresses, leaves those that are gone, asks anew.
    pub fn handle_nic(&mut self, nic: Nic, now: Instant) {
        if self.is_closed {
            return;
        }
        self.nic = nic;
        self.refused.clear();
        self.wanting.clear();
        self.listen_at = None;
        self.backoff.reset();
        for listener in self.listeners.values_mut() {
            let acts = listener.restart(now);
            self.out.extend(acts.into_iter().map(socket));
        }
        self.listen(now);
        self.probe(now);
        self.ask(now);
        self.drain(now);
    }

    /// Asks the servers again and probes the network again.
    pub fn handle_refresh(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        self.backoff.reset();
        self.probe(now);
        self.listeners.values_mut().for_each(|listener| listener.ask_again(now));
        self.ask(now);
        self.drain(now);
    }

    /// Takes the addresses that a server's name stands for, or the resolver's complaint.
    pub fn handle_resolved(
        &mut self,
        server: StunServer,
        found: Result<Vec<SocketAddr>, String>,
        now: Instant,
    ) {
        if self.is_closed || !self.resolving.remove(&server) {
            return;
        }
        match found {
            Ok(found) => {
                self.unresolved.remove(&server);
                self.resolved.insert(server.clone(), found);
            }
            // An address from a while ago is better than nothing: resolvers have their bad moments.
            Err(why) => {
                tracing::debug!(%server, why, "STUN server not found");
                if !self.resolved.contains_key(&server) {
                    self.unresolved.insert(server.clone(), why);
                }
            }
        }
        let found: Vec<SocketAddr> = self.resolved.get(&server).into_iter().flatten().copied().collect();
        for listener in self.listeners.values_mut().filter(|listener| listener.local.is_some()) {
            let own = listener.address;
            let askable = found.iter().copied().filter(|address| own.can_ask(*address));
            askable.for_each(|address| listener.ask(address, now));
        }
        for survey in self.surveys.values_mut() {
            match self.unresolved.get(&server) {
                Some(why) => survey.handle_unresolved(server.to_string(), why.clone(), now),
                None => {
                    let own = survey.address;
                    let askable: Vec<SocketAddr> =
                        found.iter().copied().filter(|address| own.can_ask(*address)).collect();
                    survey.handle_resolved(&askable, now);
                }
            }
        }
        if self.resolving.is_empty() {
            // Servers that moved away have no say any more.
            let known: BTreeSet<SocketAddr> = self.resolved.values().flatten().copied().collect();
            self.listeners.values_mut().for_each(|listener| listener.forget(|server| known.contains(server)));
        }
        self.drain(now);
    }

    /// Takes up what happened to one of its sockets. Connections that arrive are the node's.
    pub fn handle_socket(&mut self, event: SocketEvent, now: Instant) {
        if self.is_closed {
            return;
        }
        match event {
            SocketEvent::Listening { at, outcome } => self.on_listening(at, outcome, now),
            SocketEvent::LinkUp { link, since } => match self.listener(link.from) {
                Some(listener) => listener.handle_up(link.to, since, now),
                None => self.each_survey(link.from, |survey| survey.handle_up(link, now)),
            },
            SocketEvent::LinkBytes { link, bytes } => match self.listener(link.from) {
                Some(listener) => listener.handle_bytes(link.to, &bytes, now),
                None => self.each_survey(link.from, |survey| survey.handle_bytes(link, &bytes, now)),
            },
            SocketEvent::LinkDown { link, why } => match self.listener(link.from) {
                Some(listener) => listener.handle_down(link.to, why, now),
                None => self.each_survey(link.from, |survey| survey.handle_down(link, why, now)),
            },
            SocketEvent::Datagram { at, from, bytes } => {
                self.each_survey(at, |survey| survey.handle_datagram(at, from, &bytes, now));
            }
            SocketEvent::Unreachable { at, to, why } => {
                self.each_survey(at, |survey| survey.handle_unreachable(at, to, why, now));
            }
            SocketEvent::SynExpired { syn, from, by } => {
                self.each_survey(from, |survey| survey.handle_expired(syn, by, now));
            }
            SocketEvent::SynAnswered { syn, from } => {
                self.each_survey(from, |survey| survey.handle_answered(syn, now));
            }
            SocketEvent::SynUnsent { syn, from } => {
                self.each_survey(from, |survey| survey.handle_unsent(syn, now));
            }
            SocketEvent::Accepted { .. }
            | SocketEvent::Connected { .. }
            | SocketEvent::DialFailed { .. }
            | SocketEvent::Bytes { .. }
            | SocketEvent::Lost { .. } => {}
        }
        self.drain(now);
    }

    /// Closes every listener and every connection to a server.
    pub fn close(&mut self, now: Instant) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        self.out.clear();
        for (_, mut listener) in std::mem::take(&mut self.listeners) {
            self.leave(&mut listener, now);
        }
        for (_, mut survey) in std::mem::take(&mut self.surveys) {
            self.out.extend(survey.close(now).into_iter().map(socket));
        }
        self.refresh_at = None;
        self.listen_at = None;
        self.deadline = None;
    }

    fn listener(&mut self, at: SocketAddr) -> Option<&mut Listener> {
        self.listeners.values_mut().find(|listener| listener.local == Some(at))
    }

    fn each_survey(&mut self, at: SocketAddr, feed: impl FnOnce(&mut Survey)) {
        if let Some(survey) = self.surveys.values_mut().find(|survey| survey.address.ip == at.ip()) {
            feed(survey);
        }
    }

    /// Listens on the addresses there are, leaves those that are not any more.
    fn listen(&mut self, now: Instant) {
        let wanted = self.nic.wanted(&self.config.families);
        let gone: Vec<NicAddress> =
            self.listeners.keys().filter(|known| !wanted.contains(known)).copied().collect();
        for address in gone {
            if let Some(mut listener) = self.listeners.remove(&address) {
                self.leave(&mut listener, now);
            }
        }
        for address in wanted {
            let is_left = self.refused.contains(&address) || self.wanting.contains(&address);
            if is_left || self.listeners.contains_key(&address) {
                continue;
            }
            // The first chooses the port for all.
            let is_choosing = self.port == 0 && self.tries < MOST_TRIES;
            if is_choosing && self.listeners.values().any(|listener| listener.local.is_none()) {
                break;
            }
            let at = address.with_port(self.port);
            let listener = Listener::new(address, at, self.seed.fork("listener"), now);
            self.listeners.insert(address, listener);
            self.out.push_back(socket(SocketAct::Listen { at, is_throwaway: false }));
        }
    }

    fn leave(&mut self, listener: &mut Listener, now: Instant) {
        self.out.extend(listener.close(now).into_iter().map(socket));
        let at = listener.local.unwrap_or(listener.asked);
        self.out.push_back(socket(SocketAct::Unlisten { at }));
    }

    fn on_listening(&mut self, at: SocketAddr, outcome: Result<SocketAddr, ListenError>, now: Instant) {
        let is_it = |listener: &&mut Listener| listener.asked == at && listener.local.is_none();
        let Some(listener) = self.listeners.values_mut().find(is_it) else {
            // It came too late to be of use.
            if let Ok(local) = outcome {
                self.out.push_back(socket(SocketAct::Unlisten { at: local }));
            }
            return;
        };
        let address = listener.address;
        match outcome {
            Ok(local) => {
                tracing::info!(%local, nic = self.nic.name, "listening");
                listener.local = Some(local);
                self.is_exhaustion_told = false;
                if self.port == 0 {
                    self.port = local.port();
                }
                let servers: Vec<SocketAddr> = self.resolved.values().flatten().copied().collect();
                for server in servers.into_iter().filter(|server| address.can_ask(*server)) {
                    if let Some(listener) = self.listeners.get_mut(&address) {
                        listener.ask(server, now);
                    }
                }
            }
            Err(error) if self.can_choose_again(&error) => {
                self.tries += 1;
                self.port = 0;
                for (_, mut listener) in std::mem::take(&mut self.listeners) {
                    if listener.address != address {
                        self.leave(&mut listener, now);
                    }
                }
            }
            // That is no word about the address. An interface that never listened is told at once all the same.
            Err(error) if error.is_exhausted && self.is_ready => {
                if !std::mem::replace(&mut self.is_exhaustion_told, true) {
                    tracing::warn!(local = %at, %error, "cannot listen now, trying again");
                }
                self.listeners.remove(&address);
                self.wanting.insert(address);
                self.listen_at.get_or_insert(now + LISTEN_AGAIN);
            }
            Err(error) => {
                tracing::warn!(local = %at, %error, "cannot listen");
                self.listeners.remove(&address);
                self.refused.insert(address);
                self.out.push_back(Output::Event(InterfaceEvent::Refused(at, error)));
            }
        }
        self.listen(now);
        let is_settled = self.listeners.values().all(|listener| listener.local.is_some());
        if is_settled && !self.listeners.is_empty() && !std::mem::replace(&mut self.is_ready, true) {
            self.probe(now);
            self.ask(now);
        }
    }

    /// Tells whether another port, free on all addresses, may be looked for.
    fn can_choose_again(&self, error: &ListenError) -> bool {
        let is_in_use = error.kind == io::ErrorKind::AddrInUse;
        is_in_use && self.config.listen_port == 0 && !self.is_ready && self.tries < MOST_TRIES
    }

    /// Asks every server, each as soon as its name is resolved.
    fn ask(&mut self, now: Instant) {
        let servers: BTreeSet<StunServer> = self.config.stun.iter().cloned().collect();
        for server in servers {
            if self.resolving.insert(server.clone()) {
                self.out.push_back(Output::Act(InterfaceAct::Resolve(server)));
            }
        }
        let has_answer = self.told.iter().any(|view| view.external.is_some());
        let pause = if has_answer { self.config.refresh } else { self.backoff.fail(&mut self.seed) };
        self.refresh_at = Some(now + pause);
    }

    /// Probes the network of each family anew, from the address that reaches furthest. Servers come with the next
    /// [`ask`](Self::ask).
    fn probe(&mut self, now: Instant) {
        let names = self.config.stun.iter().collect::<BTreeSet<_>>().len();
        let mut before = std::mem::take(&mut self.surveys);
        for survey in before.values_mut() {
            self.out.extend(survey.close(now).into_iter().map(socket));
        }
        if names == 0 {
            return;
        }
        for family in [Family::V4, Family::V6] {
            let stand = self.listeners.values().filter(|listener| listener.local.is_some());
            let of_family =
                stand.map(|listener| listener.address).filter(|address| address.family() == family);
            let mut of_family: Vec<NicAddress> = of_family.collect();
            of_family.sort();
            // `max_by_key` takes the last of equals.
            let best = of_family.into_iter().rev().max_by_key(|address| Reach::of(address.ip));
            let Some(address) = best.filter(|address| Reach::of(address.ip) != Reach::Link) else { continue };
            let seed = self.seed.fork("probe");
            let can_see_hops = self.config.can_see_hops;
            let mut survey = Survey::new(address, self.port, names, can_see_hops, seed, now);
            if let Some(before) = before.remove(&family) {
                survey.inherit(before);
            }
            self.surveys.insert(family, survey);
        }
    }

    /// Tells whether the last probes say something else than the servers do now, or nothing.
    fn is_elsewhere(&self) -> bool {
        self.surveys.values().filter(|survey| survey.is_over()).any(|survey| {
            let known = survey.probed.as_ref().and_then(|probed| probed.report.external);
            let now = self.listeners.get(&survey.address).and_then(|listener| {
                let evidence: Vec<PortEvidence> = self.evidence(listener).collect();
                agreed(&evidence, |server| survey.is_liar(server))
            });
            known.is_none() || now.is_some_and(|now| Some(now.0.ip()) != known.map(|known| known.value))
        })
    }

    /// Returns all that was said of the port listened on.
    fn evidence(&self, listener: &Listener) -> impl Iterator<Item = PortEvidence> {
        let heard = listener.heard.iter().map(|(server, outcome)| PortEvidence {
            server: self.name(*server),
            asked: Some(*server),
            outcome: outcome.clone(),
        });
        let unresolved = self.unresolved.iter().map(|(server, why)| PortEvidence {
            server: server.clone(),
            asked: None,
            outcome: PortOutcome::Unresolved(why.clone()),
        });
        heard.chain(unresolved)
    }

    /// Returns the name a server was configured with; its address once the name stands for another.
    fn name(&self, address: SocketAddr) -> StunServer {
        let named = self.resolved.iter().find(|(_, resolved)| resolved.contains(&address));
        named.map_or_else(
            || StunServer { host: address.ip().to_string(), port: address.port() },
            |(server, _)| server.clone(),
        )
    }

    fn view(&self, listener: &Listener) -> Option<NetworkView> {
        let (address, local) = (listener.address, listener.local?);
        let survey = self.surveys.get(&address.family()).filter(|survey| survey.is_of(address));
        let evidence: Vec<PortEvidence> = self.evidence(listener).collect();
        let is_liar = |server| survey.is_some_and(|survey| survey.is_liar(server));
        let servers = self.resolved.values().flatten().filter(|server| address.can_ask(**server));
        Some(NetworkView {
            local: address.ip,
            prefix: address.prefix,
            scope: address.scope,
            listen: local.port(),
            external: agreed(&evidence, is_liar),
            external_udp: survey
                .filter(|survey| survey.address == address)
                .and_then(|survey| survey.external_udp),
            evidence,
            servers: servers.copied().collect(),
            pending: self.resolving.iter().cloned().collect(),
            probed: survey.and_then(|survey| survey.probed.clone()),
            silent_hop: survey.and_then(|survey| survey.silent_hop),
            is_surveyed: survey.is_none_or(Survey::is_over),
        })
    }

    /// Takes up all that its parts want, and tells of news.
    fn drain(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        let mut deadlines = vec![
            self.refresh_at.map(|at| Deadline::new(at, "ask the STUN servers again")),
            self.listen_at.map(|at| Deadline::new(at, "listen again")),
        ];
        for listener in self.listeners.values_mut() {
            let (acts, _, deadline) = listener.drain(now);
            self.out.extend(acts.into_iter().map(socket));
            deadlines.push(deadline);
        }
        for survey in self.surveys.values_mut() {
            let turn = survey.drain(now);
            self.out.extend(turn.acts.into_iter().map(socket));
            deadlines.push(turn.deadline);
        }
        self.deadline = Deadline::earliest(deadlines);
        let views: Vec<NetworkView> =
            self.listeners.values().filter_map(|listener| self.view(listener)).collect();
        if self.is_ready && self.told != views {
            self.told = views;
            self.out.push_back(Output::Event(InterfaceEvent::Changed));
        }
    }
}

impl Machine for Interface {
    type Act = InterfaceAct;
    type Event = InterfaceEvent;

    fn handle_timeout(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        if self.listen_at.is_some_and(|at| at <= now) {
            self.listen_at = None;
            self.wanting.clear();
            self.listen(now);
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            if self.is_elsewhere() {
                self.probe(now);
            }
            self.listeners.values_mut().for_each(|listener| listener.ask_again(now));
            self.ask(now);
        }
        self.listeners.values_mut().for_each(|listener| listener.handle_timeout(now));
        self.surveys.values_mut().for_each(|survey| survey.handle_timeout(now));
        self.drain(now);
    }

    fn poll_output(&mut self) -> Output<InterfaceAct, InterfaceEvent> {
        self.out.pop_front().unwrap_or(Output::Wait(self.deadline))
    }
}

fn socket(act: SocketAct) -> Output<InterfaceAct, InterfaceEvent> {
    Output::Act(InterfaceAct::Socket(act))
}

/// The pause after which servers are asked again about the port listened on: well within the 4 min after which a NAT may
/// forget a closed TCP mapping, and the 5 min it should keep a UDP one (RFC 5382 REQ-5, RFC 4787 REQ-5).
pub const REFRESH: Duration = Duration::from_secs(180);

/// The first pause while no server has answered. Each that follows is longer, up to [`REFRESH`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The pause before an address is listened on again for which the system had nothing left.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Ports tried until one is free on every address.
const MOST_TRIES: usize = 16;
