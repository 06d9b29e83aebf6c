//! A whole node, without IO: everything that decides, in one machine.
//!
//! A [`Node`] owns the machines of one peer: an [`Interface`] for each network interface, the [`Router`] over all
//! brokers, the proofs of all connections, every attempt of its user's and of its peers, the budget they share, the clock
//! they date signals by, and the address that is published. Facts are read when they are needed: what a probe finds out
//! while an attempt runs is used by the next thing that attempt does.
//!
//! Whoever drives it owns sockets, timers and channels, and decides nothing. The actors of `p2p-actors` do so on real
//! sockets, [`sim`](crate::sim) does in virtual time, and so does the fuzzer:
//!
//! | feed | with |
//! |---|---|
//! | [`Node::handle_nics`] | the interfaces of the machine, whenever they were read |
//! | [`Node::handle_socket`] | everything that happens to a socket |
//! | [`Node::handle_channel`] | everything that happens on the channel to a broker |
//! | [`Node::handle_circuit`] | everything that a relayed connection wants or brings |
//! | [`Node::connect`], [`Node::cancel`] | the wishes of the user |
//!
//! Three machines are turned beside it: a [`Circuit`](crate::relay::Circuit) outlives its node where it carries a
//! connection that is kept, and an MQTT session ([`Link`](crate::signal::link::Link)) and an NTP client
//! ([`Client`](crate::clock::ntp::Client)) are whole by themselves.

mod attempts;
mod budget;
mod circuits;
mod clock_guard;
mod config;
mod connections;
mod error;
mod facts;
mod interface;
mod io;
mod keep_alive;
mod nic;
mod output;
mod parts;
mod pipes;
mod question;
mod router;
mod signals;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use attempts::{Entry, Outcome};
use budget::SharedBudget;
use circuits::Circuits;
use clock_guard::{ClockGuard, Look};
use connections::{Connections, News, Purpose, Told};
use facts::Facts;
use parts::Parts;
use pipes::Pipes;

pub use config::{
    BrokerConfig, ConfigFault, ConnectOptions, Interfaces, Limits, NodeConfig, NtpServer, TurnServer,
};
pub use error::ConnectError;
#[cfg(feature = "sim")]
pub use interface::subject::InterfaceSubject;
pub use interface::{
    Interface, InterfaceAct, InterfaceConfig, InterfaceEvent, MOST_PACKETS, NetworkView, PortEvidence,
    PortOutcome, PortView, Probed, REFRESH, StunServer,
};
pub use io::{ConnectionId, ListenError, Owner, SocketAct, SocketEvent, StunLink};
pub use keep_alive::KeepAlive;
pub use nic::{Nic, NicAddress, NicId};
pub use output::{Act, CircuitAct, CircuitEvent, ConnectionInfo, Established, Event};
#[cfg(feature = "sim")]
pub use router::subject::RouterSubject;
pub use router::{BrokerState, ChannelId, Letter, Router, RouterAct, RouterConfig, RouterEvent};
pub use status::{Counters, NtpStatus, Status};

use crate::attempt::{AttemptId, RefusalReason, Role, Way};
use crate::clock::ntp::Report as NtpReport;
use crate::connect::CallConfig;
use crate::peer::{PeerAddr, PeerId};
use crate::proof::{Claim, ProofError};
use crate::signal::link::Event as ChannelEvent;
use crate::turn::Server as TurnRelay;
use crate::{Clock, Deadline, Machine, Output, Seed};

/// A peer, as one machine: see the [module](self).
#[derive(Debug)]
pub struct Node {
    parts: Parts,
    interfaces: BTreeMap<NicId, Interface>,
    /// The port that each interface was listened on last, by its name.
    ports: BTreeMap<String, u16>,
    attempts: BTreeMap<AttemptId, Entry>,
    /// Attempts that something has happened to.
    touched: BTreeSet<AttemptId>,
    status: Status,
    is_status_news: bool,
    read_nics_at: Instant,
    /// When everything is dropped, whatever farewells are still to be said.
    ends_at: Option<Instant>,
    is_over: bool,
}

impl Node {
    /// Begins to listen on `nics`, to dial the brokers, and to ask the servers.
    ///
    /// # Errors
    /// [`ConfigFault`] when the configuration cannot be, or does not fit this machine.
    pub fn new(
        config: NodeConfig,
        nics: &[Nic],
        clock: Clock,
        mut seed: Seed,
        now: Instant,
    ) -> Result<Self, ConfigFault> {
        config.validate()?;
        let chosen = config.choose(nics)?;
        let router = RouterConfig {
            identity: config.identity.clone(),
            brokers: config.brokers.iter().map(|broker| broker.url.clone()).collect(),
            has_memory: config.has_memory_broker,
            allowed: config.allowed.clone(),
        };
        let parts = Parts {
            facts: Facts::new(&config, &mut seed.fork("facts")),
            clock: ClockGuard::new(clock, now),
            connections: Connections::new(config.limits.unproven),
            budget: SharedBudget::new(config.punch),
            router: Router::new(router, clock, seed.fork("router"), now),
            circuits: Circuits::default(),
            counters: Counters::default(),
            backlog: Some(config.limits.backlog.max(1)),
            pipes: Pipes::default(),
            is_closing: false,
            out: VecDeque::new(),
            config,
            seed,
        };
        // Who waits for a broker must know of all of them before the first has spoken.
        let brokers =
            parts.config.brokers.iter().map(|broker| (broker.url.to_string(), BrokerState::Connecting));
        let status = Status { brokers: brokers.collect(), ..Status::default() };
        let mut node = Self {
            parts,
            interfaces: BTreeMap::new(),
            ports: BTreeMap::new(),
            attempts: BTreeMap::new(),
            touched: BTreeSet::new(),
            status,
            is_status_news: true,
            read_nics_at: now + READ_NICS_EVERY,
            ends_at: None,
            is_over: false,
        };
        if !node.parts.config.ntp.is_empty() {
            node.parts.act(Act::MeasureTime(clock));
        }
        node.publish(now);
        chosen.into_iter().for_each(|nic| node.begin(nic, now));
        node.drain(now);
        Ok(node)
    }

    /// Returns its state.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns what came to the door and what became of it.
    pub fn counters(&self) -> Counters {
        self.parts.counters
    }

    /// Returns its configuration.
    pub fn config(&self) -> &NodeConfig {
        &self.parts.config
    }

    /// Returns the report of an attempt under way, as far as it is.
    pub fn report(&self, attempt: AttemptId, now: Instant) -> Option<crate::connect::AttemptReport> {
        self.attempts.get(&attempt).map(|entry| entry.report(now))
    }

    /// Mixes fresh randomness of the system into all that is drawn from now on, so that a copy of this process does not
    /// draw the same.
    pub fn stir(&mut self, entropy: [u8; 32]) {
        self.parts.seed.stir(entropy);
        self.parts.router.stir(self.parts.seed.array());
    }

    /// Begins to connect to a peer. Told by [`Event::Connected`] or [`Event::Failed`].
    ///
    /// # Errors
    /// [`ConnectError::Closed`], [`ConnectError::Ourselves`], [`ConnectError::NothingAllowed`] or
    /// [`ConnectError::TooManyAttempts`]; nothing was begun then.
    pub fn connect(
        &mut self,
        peer: PeerAddr,
        options: ConnectOptions,
        now: Instant,
    ) -> Result<AttemptId, ConnectError> {
        let limit = self.parts.config.limits.attempts;
        let ours = self.attempts.values().filter(|entry| entry.role == Role::Caller).count();
        if self.parts.is_closing {
            return Err(ConnectError::Closed);
        } else if peer.id() == self.parts.config.identity.id() {
            return Err(ConnectError::Ourselves);
        } else if options.ways.is_empty()
            || options.filter.families.is_empty()
            || options.filter.paths.is_empty()
        {
            return Err(ConnectError::NothingAllowed);
        } else if ours >= limit {
            return Err(ConnectError::TooManyAttempts { limit });
        }
        self.parts.counters.attempts += 1;
        self.parts.facts.remember(peer.id());
        let attempt = AttemptId::new(&mut self.parts.seed);
        let config = CallConfig {
            attempt,
            peer,
            ways: options.ways,
            filter: options.filter,
            plain: options.plain,
            head_start: options.head_start,
            dial_delay: options.dial_delay,
            within: options.within,
        };
        self.parts.act(Act::Begin(Owner::Attempt(attempt)));
        let entry = Entry::call(config, &mut self.parts, now);
        self.insert(entry);
        self.drain(now);
        Ok(attempt)
    }

    /// Gives up an attempt: nobody waits for it any more, and nothing is told of it.
    pub fn cancel(&mut self, attempt: AttemptId, now: Instant) {
        if self.attempts.get(&attempt).is_some_and(|entry| entry.role == Role::Caller) {
            self.stop(attempt, now);
            self.drain(now);
        }
    }

    /// Takes the interfaces of this machine, as they were read just now.
    pub fn handle_nics(&mut self, nics: &[Nic], now: Instant) {
        if self.parts.is_closing {
            return;
        }
        let is_there = |nic: &Nic| nics.iter().any(|other| nic.is_same(other));
        let gone: Vec<NicId> = self
            .interfaces
            .iter()
            .filter(|(_, interface)| !is_there(interface.nic()))
            .map(|(number, _)| *number)
            .collect();
        for number in &gone {
            self.end(*number, now);
        }
        for nic in nics {
            let known = self.interfaces.values_mut().find(|interface| interface.nic().is_same(nic));
            match known {
                Some(interface) if interface.nic() != nic => interface.handle_nic(nic.clone(), now),
                Some(_) => {}
                None if self.parts.config.wants(nic) => self.begin(nic.clone(), now),
                None => {}
            }
        }
        if !gone.is_empty() {
            self.publish(now);
        }
        self.drain(now);
    }

    /// Takes up that the network may be another: reads the interfaces, asks and probes again.
    pub fn handle_network_changed(&mut self, now: Instant) {
        if self.parts.is_closing {
            return;
        }
        self.parts.act(Act::ReadNics);
        self.interfaces.values_mut().for_each(|interface| interface.handle_refresh(now));
        if !self.parts.config.ntp.is_empty() {
            self.parts.act(Act::MeasureTime(self.parts.clock.clock()));
        }
        self.drain(now);
    }

    /// Takes the addresses of a STUN server, or the resolver's complaint.
    pub fn handle_resolved(
        &mut self,
        nic: NicId,
        server: StunServer,
        found: Result<Vec<SocketAddr>, String>,
        now: Instant,
    ) {
        if self.is_over {
            return;
        }
        if let Some(interface) = self.interfaces.get_mut(&nic) {
            interface.handle_resolved(server, found, now);
            self.drain(now);
        }
    }

    /// Takes the addresses of the TURN servers of the configuration, best first, and why the others cannot be used.
    pub fn handle_turn_servers(&mut self, servers: &[TurnRelay], useless: &[String], now: Instant) {
        if self.is_over {
            return;
        }
        for entry in self.attempts.values_mut() {
            entry.handle_turn_servers(servers, useless, &mut self.parts);
        }
        self.touched.extend(self.attempts.keys());
        self.drain(now);
    }

    /// Takes the system's clock.
    pub fn handle_clock(&mut self, system: Clock, now: Instant) {
        if self.is_over {
            return;
        }
        match self.parts.clock.look(system, now) {
            Look::Steady => return,
            Look::Stepped => self.measure_time(),
            Look::Set => {
                tracing::info!("the clock was set, or stood still");
                self.parts.router.handle_clock(system, now);
                self.publish(now);
                self.measure_time();
            }
        }
        self.drain(now);
    }

    /// Takes the word of the NTP servers.
    pub fn handle_ntp(&mut self, report: NtpReport, now: Instant) {
        if self.is_over {
            return;
        }
        if let Some(measured) = &report.measured {
            tracing::debug!(offset = %measured.offset(now), "the true time, by NTP");
        }
        self.parts.facts.set_ntp(report.measured);
        let servers = self.parts.config.ntp.iter().cloned().zip(report.servers).collect();
        self.status.ntp = NtpStatus { measured: report.measured, servers };
        self.is_status_news = true;
        self.tell_facts(now);
        self.drain(now);
    }

    /// Takes up what happened to a socket.
    pub fn handle_socket(&mut self, owner: Owner, event: SocketEvent, now: Instant) {
        if self.is_over {
            return;
        }
        match (event, owner) {
            (SocketEvent::Connected { connection, local, remote }, _) => {
                self.parts.connections.handle_connected(connection, (local, remote), now);
            }
            (SocketEvent::DialFailed { connection, error }, _) => {
                self.parts.connections.handle_dial_failed(connection, error, now);
            }
            (SocketEvent::Bytes { connection, bytes }, _) => {
                self.parts.connections.handle_bytes(connection, &bytes, now);
            }
            (SocketEvent::Lost { connection }, _) => self.parts.connections.handle_lost(connection, now),
            (SocketEvent::Accepted { connection, at, remote }, Owner::Nic(_)) => {
                self.on_arrived(connection, owner, (at, remote), now);
            }
            (event, Owner::Nic(nic)) => {
                if let Some(interface) = self.interfaces.get_mut(&nic) {
                    interface.handle_socket(event, now);
                }
            }
            (event, Owner::Attempt(attempt)) => match self.attempts.get_mut(&attempt) {
                Some(entry) => {
                    entry.handle_socket(event, &mut self.parts, now);
                    self.touched.insert(attempt);
                }
                None => {
                    if let SocketEvent::Accepted { connection, .. } = event {
                        self.parts.socket(owner, SocketAct::Close { connection });
                    }
                }
            },
        }
        self.drain(now);
    }

    /// Takes up that an owner of sockets is gone without having been asked to go: everything it had is lost.
    pub fn handle_owner_gone(&mut self, owner: Owner, now: Instant) {
        match owner {
            Owner::Attempt(attempt) => self.stop(attempt, now),
            Owner::Nic(nic) => {
                self.end(nic, now);
                self.publish(now);
                if !self.parts.is_closing {
                    self.parts.act(Act::ReadNics);
                }
            }
        }
        self.drain(now);
    }

    /// Takes up what happened on the channel to a broker.
    pub fn handle_channel(&mut self, channel: ChannelId, event: ChannelEvent, now: Instant) {
        if self.is_over {
            return;
        }
        self.parts.router.handle_channel(channel, event, now);
        self.drain(now);
    }

    /// Takes up that a channel has said its farewell and is no more.
    pub fn handle_channel_closed(&mut self, channel: ChannelId, now: Instant) {
        if self.is_over {
            return;
        }
        self.parts.router.handle_channel_closed(channel);
        self.drain(now);
    }

    /// Takes up what a circuit wants or has brought.
    pub fn handle_circuit(&mut self, attempt: AttemptId, event: CircuitEvent, now: Instant) {
        if self.is_over {
            return;
        }
        self.on_circuit(attempt, event, now);
        self.drain(now);
    }

    /// Takes up that the user has taken an accepted connection, the one with this claim.
    pub fn handle_taken(&mut self, claim: &Claim) {
        // Its peer is no stranger any more to the servers that lend it addresses.
        self.parts.circuits.unseat(claim.attempt, &claim.peer);
        if let Some(places) = &mut self.parts.backlog {
            *places = (*places + 1).min(self.parts.config.limits.backlog.max(1));
        }
    }

    /// Takes up that a connection is no more that was [accepted](Event::Accepted) from this peer: it may have another one.
    pub fn handle_pipe_closed(&mut self, peer: &PeerId) {
        self.parts.pipes.end(peer);
    }

    /// Takes nobody in any more: whoever calls is told that we are closing. All else goes on, and so do relayed
    /// connections, which may need the node when a server fails.
    pub fn stop_accepting(&mut self) {
        self.parts.backlog = None;
    }

    /// Refuses new work, cancels the old, says farewell; over after a second at the latest.
    pub fn close(&mut self, now: Instant) {
        if std::mem::replace(&mut self.parts.is_closing, true) {
            return;
        }
        tracing::info!("closing");
        let all: Vec<AttemptId> = self.attempts.keys().copied().collect();
        all.into_iter().for_each(|attempt| self.stop(attempt, now));
        let all: Vec<NicId> = self.interfaces.keys().copied().collect();
        all.into_iter().for_each(|nic| self.end(nic, now));
        self.ends_at = Some(now + FAREWELL);
        self.drain(now);
    }

    /// Tells whether it was closed and everything was said.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn insert(&mut self, entry: Entry) {
        self.touched.insert(entry.id);
        self.attempts.insert(entry.id, entry);
    }

    fn stop(&mut self, attempt: AttemptId, now: Instant) {
        if let Some(entry) = self.attempts.get_mut(&attempt) {
            entry.close(now);
            self.touched.insert(attempt);
        }
    }

    fn begin(&mut self, nic: Nic, now: Instant) {
        let free = (0..=u8::MAX).map(NicId).find(|number| !self.interfaces.contains_key(number));
        let Some(number) = free else { return };
        let config = &self.parts.config;
        let config = InterfaceConfig {
            families: config.families.clone(),
            listen_port: config.listen_port,
            last_port: self.ports.get(&nic.name).copied().unwrap_or_default(),
            stun: config.stun.clone(),
            refresh: REFRESH,
            can_see_hops: config.can_see_hops,
        };
        self.parts.act(Act::Begin(Owner::Nic(number)));
        let interface = Interface::new(config, nic, self.parts.seed.fork("interface"), now);
        self.interfaces.insert(number, interface);
    }

    fn end(&mut self, nic: NicId, now: Instant) {
        if let Some(mut interface) = self.interfaces.remove(&nic) {
            interface.close(now);
            while let Output::Act(InterfaceAct::Socket(act)) = interface.poll_output() {
                self.parts.socket(Owner::Nic(nic), act);
            }
            self.parts.act(Act::End(Owner::Nic(nic)));
            self.parts.connections.handle_owner_gone(Owner::Nic(nic), now);
        }
    }

    fn measure_time(&mut self) {
        if !self.parts.config.ntp.is_empty() {
            // At once, not when somebody comes to it: nobody may rely on it any more.
            self.parts.facts.set_ntp(None);
            self.parts.act(Act::MeasureTime(self.parts.clock.clock()));
        }
    }

    /// Takes up what is known of the networks: signs our address anew, and tells whoever needs to know.
    fn publish(&mut self, now: Instant) {
        let views = self
            .interfaces
            .iter()
            .flat_map(|(nic, interface)| interface.views().iter().map(move |view| (*nic, view)));
        let clock = self.parts.clock.clock();
        if let Some(address) = self.parts.facts.publish(views, &self.parts.config, clock, now) {
            tracing::debug!(interfaces = address.interfaces().len(), "own address");
            self.parts.router.set_address(address.clone());
            self.status.address = Some(address);
        }
        self.is_status_news = true;
        self.tell_facts(now);
    }

    fn tell_facts(&mut self, now: Instant) {
        for (attempt, entry) in &mut self.attempts {
            entry.handle_facts(&mut self.parts, now);
            self.touched.insert(*attempt);
        }
    }

    /// Somebody connected to a listener.
    fn on_arrived(
        &mut self,
        connection: ConnectionId,
        owner: Owner,
        ends: (SocketAddr, SocketAddr),
        now: Instant,
    ) {
        if self.parts.is_closing {
            return self.parts.socket(owner, SocketAct::Close { connection });
        }
        self.parts.counters.arrived += 1;
        self.parts.connections.take_in(connection, (owner, Purpose::Arrived), ends, now);
        let proof = self.parts.proof_arrived(now);
        self.parts.connections.prove(connection, Purpose::Arrived, proof);
        self.parts.counters.evicted += self.parts.connections.take_evicted();
    }

    /// A connection that arrived came a step further.
    fn on_arrived_news(&mut self, connection: ConnectionId, told: Told, now: Instant) {
        match told.news {
            News::Claimed(claim) => self.on_claim(connection, claim, told.ends.1, now),
            News::Kept(session) => {
                let info = ConnectionInfo {
                    way: Way::Direct,
                    path: attempts::path_of(&self.parts, told.ends.1),
                    role: session.claim.role,
                    local: told.ends.0,
                    remote: told.ends.1,
                    took: now.saturating_duration_since(told.since),
                    report: None,
                };
                self.parts.accept(told.owner, Established { connection, session: *session, info });
            }
            News::Failed(error) => {
                tracing::debug!(%error, "a connection was turned away");
                // One that the caller did not choose is no failure, and one that we declined was counted then.
                let is_chosen_against = told.is_welcome && error == ProofError::Lost;
                if !is_chosen_against && !matches!(error, ProofError::Declined(_)) {
                    self.parts.counters.count_failure(error);
                }
            }
            News::Connected | News::DialFailed(_) | News::Proven => {}
        }
    }

    /// Somebody who connected says who it is and what for.
    fn on_claim(&mut self, connection: ConnectionId, claim: Claim, remote: SocketAddr, now: Instant) {
        let refusal = if claim.role == Role::Caller {
            let is_ours = |entry: &&mut Entry| entry.role == Role::Caller && entry.peer.id() == claim.peer;
            if let Some(entry) = self.attempts.get_mut(&claim.attempt).filter(is_ours) {
                entry.handle_arrival(connection, remote, &mut self.parts, now);
                self.touched.insert(claim.attempt);
                return;
            }
            Some(RefusalReason::Expired)
        } else {
            self.parts.objection(&claim.peer, Way::Direct)
        };
        tracing::debug!(peer = %claim.peer.short(), attempt = %claim.attempt, ?refusal, "claim");
        match refusal {
            Some(reason) => {
                self.parts.counters.refused += 1;
                self.parts.connections.refuse(connection, reason, now);
            }
            None => {
                // Until the caller's word there is only a claim, and an old Hello can be sent again by anybody: so long
                // the connection counts as unproven, and may have to make room.
                self.parts.connections.welcome(connection, self.parts.config.plain, now);
            }
        }
    }

    /// Takes up all that its parts want, until they rest.
    fn drain(&mut self, now: Instant) {
        while self.drain_router(now)
            | self.drain_interfaces(now)
            | self.drain_connections(now)
            | self.drain_budget(now)
            | self.drain_attempts(now)
        {}
        self.parts.counters.evicted += self.parts.connections.take_evicted();
        if std::mem::take(&mut self.is_status_news) && !self.is_over {
            self.refresh_status();
            self.parts.tell(Event::Status);
        }
        if self.parts.is_closing && self.attempts.is_empty() {
            self.parts.connections.close_all();
            self.drain_socket_acts();
            self.parts.router.close(now);
            self.drain_router_acts();
            if self.parts.router.is_over() && !std::mem::replace(&mut self.is_over, true) {
                self.parts.tell(Event::Closed);
            }
        }
    }

    fn drain_interfaces(&mut self, now: Instant) -> bool {
        let mut is_busy = false;
        let mut has_changed = false;
        for (nic, interface) in &mut self.interfaces {
            loop {
                match interface.poll_output() {
                    Output::Act(InterfaceAct::Socket(act)) => self.parts.socket(Owner::Nic(*nic), act),
                    Output::Act(InterfaceAct::Resolve(server)) => {
                        self.parts.act(Act::Resolve(*nic, server));
                    }
                    Output::Event(InterfaceEvent::Changed) => has_changed = true,
                    Output::Event(InterfaceEvent::Refused(local, error)) => {
                        self.status.refused = Some((local, error.to_string()));
                        self.is_status_news = true;
                    }
                    Output::Wait(_) => break,
                }
                is_busy = true;
            }
        }
        if has_changed {
            self.remember_ports();
            self.publish(now);
        }
        is_busy
    }

    fn remember_ports(&mut self) {
        for interface in self.interfaces.values() {
            let (name, Some(view)) = (&interface.nic().name, interface.views().first()) else { continue };
            // Interfaces may come and go for ever, each under another name.
            if self.ports.len() == MOST_PORTS && !self.ports.contains_key(name) {
                self.ports.pop_first();
            }
            self.ports.insert(name.clone(), view.listen);
        }
    }

    fn drain_connections(&mut self, now: Instant) -> bool {
        let mut is_busy = false;
        while let Some((connection, told)) = self.parts.connections.poll() {
            is_busy = true;
            let attempt = match told.purpose {
                Purpose::Arrived => {
                    self.on_arrived_news(connection, told, now);
                    continue;
                }
                Purpose::Refused => continue,
                Purpose::Lane(attempt, ..) | Purpose::Punch(attempt, ..) | Purpose::Relay(attempt) => attempt,
            };
            if let Some(entry) = self.attempts.get_mut(&attempt) {
                entry.handle_news(connection, told, &mut self.parts, now);
                self.touched.insert(attempt);
            }
        }
        self.drain_socket_acts() || is_busy
    }

    fn drain_socket_acts(&mut self) -> bool {
        let mut is_busy = false;
        while let Some((owner, act)) = self.parts.connections.poll_act() {
            self.parts.socket(owner, act);
            is_busy = true;
        }
        is_busy
    }

    fn drain_budget(&mut self, now: Instant) -> bool {
        let mut is_busy = false;
        while let Some(((attempt, pair), share)) = self.parts.budget.poll(now) {
            is_busy = true;
            match self.attempts.get_mut(&attempt) {
                Some(entry) => {
                    entry.handle_share(pair, share, &mut self.parts, now);
                    self.touched.insert(attempt);
                }
                None => self.parts.budget.give_back((attempt, pair)),
            }
        }
        is_busy
    }

    fn drain_attempts(&mut self, now: Instant) -> bool {
        let mut is_busy = false;
        while let Some(attempt) = self.touched.pop_first() {
            let Some(entry) = self.attempts.get_mut(&attempt) else { continue };
            is_busy = true;
            if let Outcome::Over = entry.drain(&mut self.parts, now)
                && let Some(mut entry) = self.attempts.remove(&attempt)
            {
                entry.release(&mut self.parts, now);
            }
            self.drain_socket_acts();
        }
        is_busy
    }

    fn refresh_status(&mut self) {
        let each = || self.interfaces.values();
        // An interface is ready a moment before its addresses are known here, and published.
        let listening = each().all(|interface| interface.is_ready() && !interface.views().is_empty());
        let views = || each().flat_map(Interface::views);
        let surveyed = views().all(|view| view.is_surveyed);
        let is_placed = |view: &NetworkView| view.external.is_some() || view.external_udp.is_some();
        let placed = surveyed || views().any(is_placed);
        let networks =
            each().map(|interface| (interface.nic().name.clone(), interface.views().to_vec())).collect();
        self.status.listening = listening;
        self.status.placed = listening && placed;
        self.status.surveyed = listening && surveyed;
        self.status.networks = networks;
    }
}

impl Machine for Node {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        if self.ends_at.is_some_and(|at| at <= now) {
            for (_, mut entry) in std::mem::take(&mut self.attempts) {
                entry.release(&mut self.parts, now);
            }
            self.drain(now);
            if !std::mem::replace(&mut self.is_over, true) {
                self.parts.tell(Event::Closed);
            }
            return;
        }
        if !self.parts.is_closing {
            if self.parts.clock.is_due(now) {
                self.parts.act(Act::ReadClock);
            }
            if self.read_nics_at <= now {
                self.read_nics_at = now + READ_NICS_EVERY;
                self.parts.act(Act::ReadNics);
            }
        }
        self.parts.router.handle_timeout(now);
        self.parts.connections.handle_timeout(now);
        self.interfaces.values_mut().for_each(|interface| interface.handle_timeout(now));
        for (attempt, entry) in &mut self.attempts {
            if entry.deadline().is_some_and(|deadline| deadline.at <= now) {
                entry.handle_timeout(&mut self.parts, now);
                self.touched.insert(*attempt);
            }
        }
        self.drain(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(output) = self.parts.out.pop_front() {
            return output;
        }
        if self.is_over {
            return Output::Wait(None);
        }
        let interfaces = self.interfaces.values_mut().map(|interface| match interface.poll_output() {
            Output::Wait(deadline) => deadline,
            Output::Act(_) | Output::Event(_) => None,
        });
        let next = Deadline::earliest(interfaces);
        let router = match self.parts.router.poll_output() {
            Output::Wait(deadline) => deadline,
            Output::Act(_) | Output::Event(_) => None,
        };
        let attempts = Deadline::earliest(self.attempts.values().map(Entry::deadline));
        let shared =
            [router, next, attempts, self.parts.connections.deadline(), self.parts.budget.deadline()];
        let own = match self.ends_at {
            Some(at) => [Some(Deadline::new(at, "end without farewells")), None],
            None => [
                Some(self.parts.clock.deadline()),
                Some(Deadline::new(self.read_nics_at, "read the interfaces")),
            ],
        };
        Output::Wait(Deadline::earliest(shared.into_iter().chain(own)))
    }
}

/// The pause between two looks at the interfaces. Systems tell of changes, but not of all of them.
const READ_NICS_EVERY: Duration = Duration::from_secs(15);
/// Interfaces whose last port is remembered.
const MOST_PORTS: usize = 64;
/// The time farewells may take: cancelled attempts, signals on their way, disconnects.
const FAREWELL: Duration = Duration::from_secs(1);
