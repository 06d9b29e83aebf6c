//! The root of one node's actors: it owns them all, admits work at the door, and ends what must end.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, StreamHandler, WrapFuture,
};
use p2p_core::peer::{Contents, InterfaceAddr, MachineTag, PeerAddr, PeerId};
use p2p_core::proof::{Claim, ProofError, Stage};
use p2p_core::race::{OurAddress, Way};
use p2p_core::signal::{AttemptId, Body, Reason, Refusal, Signal};
use p2p_core::{Seed, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::attempt::{
    Answering, AnsweringEnded, Arrived, Attempt, AttemptEnded, Heard, Proving, Registered, Stop,
};
use crate::config::{ActorsConfig, ConnectOptions, Interfaces};
use crate::counters::Tallies;
use crate::drive::now;
use crate::error::ConnectError;
use crate::handle::{Command, Status};
use crate::interface::watch::{EVERY, NicChange, Watch, watch};
use crate::interface::{self, FromInterface, InterfaceConfig, InterfaceFacts, InterfaceHandle, Nic};
use crate::lobby::Lobby;
use crate::shared::{Draft, Shared};
use crate::signal::{BrokerState, CloseRouter, FromRouter, Router, SendSignal, SetAddress};
use crate::winner::Winner;

/// What farewells may take: cancelled attempts, signals on their way, disconnects.
const FAREWELL: Duration = Duration::from_secs(1);

/// Seats for connections whose eviction is decided and not yet done.
const SPARE_SEATS: usize = 64;

/// What is known of one interface.
struct NicState {
    nic: Nic,
    handle: InterfaceHandle,
    ready: bool,
    facts: Vec<InterfaceFacts>,
}

impl NicState {
    /// Whether its external addresses are known, or every one of `servers` had its say.
    fn is_placed(&self, servers: usize) -> bool {
        self.facts.iter().any(|facts| facts.external.is_some() || facts.external_udp.is_some())
            || self.facts.iter().any(|facts| {
                let said: BTreeSet<_> =
                    facts.evidence.iter().map(|evidence| evidence.server.to_string()).collect();
                said.len() >= servers
            })
    }
}

/// Somebody in the waiting room who has said who they are.
struct Visitor {
    proving: Proving,
    ticket: u64,
    seat: OwnedSemaphorePermit,
    began: std::time::Instant,
}

/// Owns all actors of one node.
pub(crate) struct Root {
    config: ActorsConfig,
    shared: Rc<Shared>,
    nics: Vec<Nic>,
    watch: Option<Watch>,
    interfaces: BTreeMap<u8, NicState>,
    seats: Arc<Semaphore>,
    router: Option<Addr<Router>>,
    attempts: BTreeMap<AttemptId, Registered>,
    answers: BTreeMap<AttemptId, (PeerId, Addr<Answering>)>,
    lobby: Lobby,
    tag: Option<MachineTag>,
    issued: UnixTime,
    incoming: mpsc::Sender<Winner>,
    status: tokio::sync::watch::Sender<Status>,
    commands: Option<mpsc::Receiver<Command>>,
    /// Told when there is nothing left to do.
    ended: Option<oneshot::Sender<()>>,
    closed: Vec<oneshot::Sender<()>>,
}

/// What a root is connected to.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) incoming: mpsc::Sender<Winner>,
    pub(crate) status: tokio::sync::watch::Sender<Status>,
    pub(crate) ended: oneshot::Sender<()>,
}

impl Root {
    pub(crate) fn new(config: ActorsConfig, nics: Vec<Nic>, shared: Rc<Shared>, ends: Ends) -> Self {
        let mut seed: Seed = shared.fork("root");
        let tag = (!config.machine_id.is_empty()).then(|| MachineTag::new(&config.machine_id, &shared.identity.id(), &mut seed));
        let seats = Arc::new(Semaphore::new(config.limits.unproven + SPARE_SEATS));
        Self {
            lobby: Lobby::new(config.limits.unproven),
            config,
            shared,
            nics,
            watch: None,
            interfaces: BTreeMap::new(),
            seats,
            router: None,
            attempts: BTreeMap::new(),
            answers: BTreeMap::new(),
            tag,
            issued: UnixTime::default(),
            incoming: ends.incoming,
            status: ends.status,
            commands: Some(ends.commands),
            ended: Some(ends.ended),
            closed: Vec::new(),
        }
    }

    /// Writes, signs and publishes where we are.
    fn publish_address(&mut self) {
        let facts = || {
            self.interfaces.iter().flat_map(|(nic, state)| state.facts.iter().map(move |facts| (*nic, facts)))
        };
        let ours = facts().map(|(_, facts)| OurAddress {
            ip: facts.local,
            prefix: facts.prefix,
            scope: facts.scope,
            external: facts.external.map(|external| external.0.ip()),
        });
        self.shared.place.borrow_mut().addresses = ours.collect();
        let interfaces = facts().map(|(nic, facts)| InterfaceAddr {
            nic,
            local: facts.local,
            prefix: facts.prefix,
            external: facts.external.or(facts.external_udp).map(|external| external.0.ip()),
            listen: facts.listen,
            mapped: facts.external.map(|external| external.0.port()),
            nat: p2p_core::nat::Nat::default(),
        });
        let now = self.shared.clock.unix(now());
        self.issued = now.max(UnixTime(self.issued.0 + 1));
        let contents = Contents {
            brokers: self
                .config
                .brokers
                .iter()
                .map(|broker| broker.url.clone())
                .take(PeerAddr::MOST_BROKERS)
                .collect(),
            machine: self.tag,
            interfaces: interfaces.take(PeerAddr::MOST_INTERFACES).collect(),
            issued: self.issued,
        };
        match PeerAddr::sign(&self.shared.identity, contents) {
            Ok(address) => {
                debug!(interfaces = address.interfaces().len(), "own address");
                if let Some(router) = &self.router {
                    router.do_send(SetAddress(address.clone()));
                }
                self.status.send_modify(|status| status.address = Some(address));
            }
            Err(error) => warn!(%error, "own address"),
        }
    }

    fn start_interface(&mut self, nic: Nic, ctx: &mut Context<Self>) {
        let Some(number) = (0..=u8::MAX).find(|number| !self.interfaces.contains_key(number)) else { return };
        let config = InterfaceConfig {
            nic: nic.clone(),
            nic_number: number,
            families: self.config.families.iter().copied().collect(),
            listen_port: self.config.listen_port,
            stun: self.config.stun.clone(),
            seats: Arc::clone(&self.seats),
            refresh: interface::REFRESH,
            seed: self.shared.fork("interface"),
        };
        let handle = interface::start(config, ctx.address().recipient());
        self.interfaces.insert(number, NicState { nic, handle, ready: false, facts: Vec::new() });
    }

    /// Whether the configuration wants an interface that was not there at the start.
    fn wants(&self, nic: &Nic) -> bool {
        match &self.config.interfaces {
            Interfaces::All => !nic.is_loopback && nic.is_usable(&self.config.families),
            Interfaces::Only(names) => names.contains(&nic.name),
        }
    }

    fn publish_status(&self) {
        // An interface is ready a moment before its addresses are known here, and published.
        let listening = self.interfaces.values().all(|state| state.ready && !state.facts.is_empty());
        let servers = self.config.stun.len();
        let placed = servers == 0 || self.interfaces.values().any(|state| state.is_placed(servers));
        let evidence = self.interfaces.values().flat_map(|state| state.facts.iter());
        let stun = evidence.flat_map(|facts| facts.evidence.iter().cloned()).collect();
        self.status.send_modify(|status| {
            status.listening = listening;
            status.placed = listening && placed;
            status.stun = stun;
        });
    }

    fn on_command(&mut self, command: Command, ctx: &mut Context<Self>) {
        match command {
            Command::Connect { peer, options, reply } => {
                if let Err(error) = self.admit(&peer, &options) {
                    // The caller is gone: nobody wants to know.
                    let _ = reply.send(Err(error));
                    return;
                }
                self.connect(*peer, options, reply, ctx);
            }
            Command::Refresh => {
                self.watch.iter().for_each(Watch::look);
                self.interfaces.values().for_each(|state| state.handle.refresh());
            }
            Command::Close(done) => {
                self.closed.push(done);
                self.close(ctx);
            }
        }
    }

    /// The door for attempts of our own.
    fn admit(&self, peer: &PeerAddr, options: &ConnectOptions) -> Result<(), ConnectError> {
        if self.shared.closing.get() {
            Err(ConnectError::Closed)
        } else if peer.id() == self.shared.identity.id() {
            Err(ConnectError::Ourselves)
        } else if options.ways.is_empty()
            || options.filter.families.is_empty()
            || options.filter.paths.is_empty()
        {
            Err(ConnectError::NothingAllowed)
        } else if self.attempts.len() >= self.config.limits.attempts {
            Err(ConnectError::TooManyAttempts { limit: self.config.limits.attempts })
        } else {
            Ok(())
        }
    }

    fn connect(
        &mut self,
        peer: PeerAddr,
        options: ConnectOptions,
        reply: crate::attempt::Reply,
        ctx: &mut Context<Self>,
    ) {
        let Some(router) = self.router.clone() else { return };
        Tallies::count(&self.shared.tallies.attempts);
        let attempt = self.shared.attempt_id();
        let id = peer.id();
        let listens = self.interfaces.values().any(|state| state.facts.iter().any(|facts| facts.listen != 0));
        let owner = ctx.address().recipient();
        let shared = Rc::clone(&self.shared);
        let addr = Attempt::new(shared, router, peer, attempt, options, listens, reply, owner).start();
        self.attempts.insert(attempt, Registered { peer: id, addr });
    }

    /// Somebody connected to a listener.
    fn on_inbound(&mut self, stream: TcpStream, seat: OwnedSemaphorePermit, ctx: &mut Context<Self>) {
        if self.shared.closing.get() {
            return;
        }
        Tallies::count(&self.shared.tallies.arrived);
        let began = now();
        let mut proving = Proving::new(stream, self.shared.proof_arrived());
        let ticket = self.lobby.ticket();
        let introduced = async move { (proving.advance().await, proving) };
        let work = ctx.spawn(introduced.into_actor(self).map(move |(stage, proving), this, ctx| {
            match (stage, proving.proof.claim()) {
                (Ok(Stage::Deciding), Some(claim)) => {
                    return this.on_claim(claim, Visitor { proving, ticket, seat, began }, ctx);
                }
                (Ok(_), _) => this.shared.tallies.count_failure(ProofError::OutOfTurn),
                (Err(error), _) => {
                    debug!(%error, "a connection was turned away");
                    this.shared.tallies.count_failure(error);
                }
            }
            this.lobby.leave(ticket);
        }));
        if let Some(evicted) = self.lobby.enter(ticket, work) {
            Tallies::count(&self.shared.tallies.evicted);
            ctx.cancel_future(evicted);
        }
    }

    /// Somebody said who they are and what for.
    fn on_claim(&mut self, claim: Claim, visitor: Visitor, ctx: &mut Context<Self>) {
        let Visitor { mut proving, ticket, seat, began } = visitor;
        let refuse = if claim.caller {
            match self.attempts.get(&claim.attempt) {
                Some(ours) if ours.peer == claim.peer => {
                    ours.addr.do_send(Arrived(proving));
                    self.lobby.leave(ticket);
                    return;
                }
                _ => Some(Reason::Expired),
            }
        } else if self.config.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&claim.peer)) {
            Some(Reason::NotAllowed)
        } else if self.incoming.capacity() == 0 {
            Some(Reason::Busy)
        } else if self.shared.closing.get() {
            Some(Reason::Closing)
        } else {
            None
        };
        if refuse.is_some() {
            Tallies::count(&self.shared.tallies.refused);
        }
        let answered = match refuse {
            Some(reason) => proving.proof.refuse(reason, now()),
            None => proving.proof.welcome(self.shared.plain, now()),
        };
        if answered.is_err() {
            self.lobby.leave(ticket);
            return self.shared.tallies.count_failure(ProofError::TimedOut);
        }
        debug!(peer = %claim.peer.short(), attempt = %claim.attempt, ?refuse, "claim");
        // Until the caller's word there is only a claim, and an old Hello can be sent again by anybody: so long the
        // visitor stays in the waiting room, and may have to make room.
        let kept = async move { (proving.advance().await, proving, seat) };
        let work = ctx.spawn(kept.into_actor(self).map(move |(stage, proving, seat), this, _| {
            drop(seat);
            this.lobby.leave(ticket);
            match (stage, proving.proof.into_session()) {
                (Ok(Stage::Kept), Some(session)) => {
                    let draft = Draft { way: Way::Direct, path: None, peer: None, began, report: None };
                    if let Some(winner) = this.shared.winner(proving.stream, session, draft) {
                        this.accept(winner);
                    }
                }
                // One that the caller did not choose, and one that was counted already.
                (Err(ProofError::Lost | ProofError::Declined(_)), _) => {}
                (Err(error), _) => this.shared.tallies.count_failure(error),
                (Ok(_), _) => this.shared.tallies.count_failure(ProofError::OutOfTurn),
            }
        }));
        self.lobby.stay(ticket, work);
    }

    /// Hands a connection to whoever accepts.
    fn accept(&mut self, winner: Winner) {
        let (peer, way) = (winner.session.claim.peer.short(), winner.how.way);
        match self.incoming.try_reserve() {
            Ok(place) => {
                info!(%peer, %way, "accepted");
                // Counted before it is handed over: whoever has it also sees it counted.
                Tallies::count(&self.shared.tallies.accepted);
                place.send(winner);
            }
            Err(_) => {
                warn!(%peer, "nobody takes the accepted connections: dropped one");
                Tallies::count(&self.shared.tallies.refused);
            }
        }
    }

    fn on_signal(&mut self, signal: Box<Signal>, channel: u32, ctx: &mut Context<Self>) {
        debug!(from = %signal.from.short(), attempt = %signal.attempt, body = signal.body.name(), "signal");
        let ours = self.attempts.get(&signal.attempt).filter(|ours| ours.peer == signal.from);
        match (&signal.body, ours) {
            (Body::DialMe(_), _) => self.answer(&signal, channel, ctx),
            (Body::AskAddr, _) => self.reply(&signal, channel, Body::TellAddr),
            (_, Some(ours)) => ours.addr.do_send(Heard(signal)),
            (Body::Bye, None) => {
                if let Some((caller, answer)) = self.answers.get(&signal.attempt)
                    && *caller == signal.from
                {
                    answer.do_send(Stop);
                }
            }
            (Body::Refuse(_) | Body::TellAddr, None) => debug!("for an attempt that is over"),
            (_, None) => {
                let refusal = Refusal { reason: Reason::Unsupported };
                self.reply(&signal, channel, Body::Refuse(refusal));
            }
        }
    }

    /// Somebody asks us to dial them.
    fn answer(&mut self, signal: &Signal, channel: u32, ctx: &mut Context<Self>) {
        if self.answers.contains_key(&signal.attempt) {
            return;
        }
        let reason = if self.shared.closing.get() {
            Some(Reason::Closing)
        } else if self.answers.len() >= self.config.limits.answers || self.incoming.capacity() == 0 {
            Some(Reason::Busy)
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.reply(signal, channel, Body::Refuse(Refusal { reason }));
        }
        let Some(router) = self.router.clone() else { return };
        Tallies::count(&self.shared.tallies.answers);
        let owner = ctx.address().recipient();
        let answer = Answering::new(Rc::clone(&self.shared), router, owner, signal, channel);
        self.answers.insert(signal.attempt, (signal.from, answer.start()));
    }

    fn reply(&self, signal: &Signal, channel: u32, body: Body) {
        if let Some(router) = &self.router {
            router.do_send(SendSignal {
                to: signal.sender.clone(),
                attempt: signal.attempt,
                body,
                back_on: Some(channel),
                done: None,
            });
        }
    }

    /// First step of the end: refuse new work, cancel the old, say farewell. The second comes as soon as nobody
    /// is left, or after [`FAREWELL`]: everything is dropped.
    fn close(&mut self, ctx: &mut Context<Self>) {
        if self.shared.closing.replace(true) {
            return;
        }
        info!("closing");
        for work in self.lobby.drain() {
            ctx.cancel_future(work);
        }
        self.attempts.values().for_each(|attempt| attempt.addr.do_send(Stop));
        self.answers.values().for_each(|(_, answer)| answer.do_send(Stop));
        self.watch = None;
        self.interfaces.clear();
        ctx.run_later(FAREWELL, |_, ctx| ctx.stop());
        self.close_router(ctx);
    }

    /// When the last attempt has said its farewells, the brokers may go.
    fn close_router(&mut self, ctx: &mut Context<Self>) {
        if !self.shared.closing.get() || !self.attempts.is_empty() || !self.answers.is_empty() {
            return;
        }
        if let Some(router) = self.router.take() {
            let farewell = async move { router.send(CloseRouter).await.is_ok() };
            ctx.spawn(farewell.into_actor(self).map(|_, _, ctx| ctx.stop()));
        }
    }
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Known before anything is waited for: a node is not ready while its brokers are still being dialled.
        self.status.send_modify(|status| {
            let urls = self.config.brokers.iter().map(|broker| broker.url.to_string());
            status.brokers = urls.map(|url| (url, BrokerState::Connecting)).collect();
        });
        let router = Router::new(
            Rc::clone(&self.shared),
            self.config.brokers.clone(),
            self.config.memory.clone(),
            self.config.allowed.clone(),
            ctx.address().recipient(),
        );
        self.router = Some(router.start());
        self.publish_address();
        for nic in std::mem::take(&mut self.nics) {
            self.start_interface(nic, ctx);
        }
        self.watch = Some(watch(EVERY, ctx.address().recipient()));
        if let Some(commands) = self.commands.take() {
            ctx.add_stream(futures_util::stream::unfold(commands, |mut commands| async move {
                commands.recv().await.map(|command| (command, commands))
            }));
        }
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        for closed in self.closed.drain(..) {
            let _ = closed.send(());
        }
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(());
        }
    }
}

impl StreamHandler<Command> for Root {
    fn handle(&mut self, command: Command, ctx: &mut Context<Self>) {
        self.on_command(command, ctx);
    }

    /// Every handle is gone: so is the node.
    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.close(ctx);
    }
}

impl Handler<FromInterface> for Root {
    type Result = ();

    fn handle(&mut self, what: FromInterface, ctx: &mut Context<Self>) {
        match what {
            FromInterface::Inbound { stream, seat, .. } => self.on_inbound(stream, seat, ctx),
            FromInterface::Changed { nic_number, addresses } => {
                if let Some(state) = self.interfaces.get_mut(&nic_number) {
                    state.facts = addresses;
                }
                self.publish_address();
                self.publish_status();
            }
            FromInterface::Ready { nic_number } => {
                if let Some(state) = self.interfaces.get_mut(&nic_number) {
                    state.ready = true;
                }
                self.publish_status();
            }
            FromInterface::Failed { local, error, .. } => {
                warn!(%local, %error, "cannot listen");
                self.status.send_modify(|status| status.refused = Some((local, error.to_string())));
            }
        }
    }
}

impl Handler<NicChange> for Root {
    type Result = ();

    fn handle(&mut self, change: NicChange, ctx: &mut Context<Self>) {
        let (NicChange::Appeared(nic) | NicChange::Changed(nic) | NicChange::Vanished(nic)) = &change;
        let same = |state: &NicState| state.nic.index == nic.index && state.nic.name == nic.name;
        let number = self.interfaces.iter().find(|(_, state)| same(state)).map(|(number, _)| *number);
        match (change, number) {
            (NicChange::Appeared(nic) | NicChange::Changed(nic), None) if self.wants(&nic) => {
                self.start_interface(nic, ctx);
            }
            (NicChange::Changed(nic), Some(number)) => {
                if let Some(state) = self.interfaces.get_mut(&number) {
                    state.nic = nic.clone();
                    state.handle.update(nic);
                }
            }
            (NicChange::Vanished(_), Some(number)) => {
                self.interfaces.remove(&number);
                self.publish_address();
                self.publish_status();
            }
            _ => {}
        }
    }
}

impl Handler<FromRouter> for Root {
    type Result = ();

    fn handle(&mut self, what: FromRouter, ctx: &mut Context<Self>) {
        match what {
            FromRouter::Signal { signal, channel } => self.on_signal(signal, channel, ctx),
            FromRouter::Broker(url, state) => {
                match &state {
                    BrokerState::Up => info!(%url, "broker up"),
                    BrokerState::Down(reason) => warn!(%url, %reason, "broker down"),
                    BrokerState::Connecting => {}
                }
                self.status.send_modify(|status| {
                    status.brokers.insert(url.to_string(), state);
                });
            }
        }
    }
}

impl Handler<AttemptEnded> for Root {
    type Result = ();

    fn handle(&mut self, AttemptEnded(attempt): AttemptEnded, ctx: &mut Context<Self>) {
        self.attempts.remove(&attempt);
        self.close_router(ctx);
    }
}

impl Handler<AnsweringEnded> for Root {
    type Result = ();

    fn handle(&mut self, ended: AnsweringEnded, ctx: &mut Context<Self>) {
        self.answers.remove(&ended.attempt);
        if let Some(winner) = ended.winner {
            self.accept(*winner);
        }
        self.close_router(ctx);
    }
}
