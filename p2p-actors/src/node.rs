//! The actor that turns the node's machine, and brings everything from and to everybody else.

mod lookups;
mod signalling;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient, StreamHandler};
use p2p_core::attempt::AttemptId;
use p2p_core::node::{
    Act, ChannelId, CircuitAct, CircuitEvent, Counters, Established, Event, KeepAlive, Node, Owner,
    SocketAct, Status,
};
use p2p_core::{Clock, Seed};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::lookups::Lookups;
use crate::attempt::{Attempt, ToCircuit};
use crate::descriptors::leaving;
use crate::drive::{Driven, Drives, now, system_clock, turn};
use crate::handle::{Call, Command};
use crate::interface::{Interface, NicSource};
use crate::ntp::{Ntp, Stop};
use crate::relay::{self, FromCircuit, OfferSender};
use crate::signal::{Channel, MemoryBroker};
use crate::sockets::{
    BacklogPlace, FromSocket, HandOver, Incoming, OwnerGone, PipeClosed, PipePlace, Reply, Reporting,
    Sockets, Taken, Taker, ToOwner,
};
use crate::turn;

/// Turns a [`Node`].
pub(crate) struct NodeActor {
    driven: Driven<Node>,
    memory: Option<MemoryBroker>,
    /// For channels and for NTP.
    seed: Seed,
    /// Tells that the system has once given no fresh entropy, which was logged.
    is_dry: bool,
    keep_alive: KeepAlive,
    owners: BTreeMap<Owner, OwnerHandle>,
    /// For connections that arrive at listeners, and at ports of punches.
    seats: [Arc<Semaphore>; 2],
    next_connection: Arc<AtomicU64>,
    /// What peers say to circuits goes there, also when their attempts are over.
    circuits: BTreeMap<AttemptId, relay::Ear>,
    channels: BTreeMap<ChannelId, Channel>,
    ntp: Option<(Clock, Addr<Ntp>)>,
    lookups: Lookups,
    calls: BTreeMap<AttemptId, Reply>,
    /// `None` when nobody is taken in any more.
    incoming: Option<mpsc::UnboundedSender<Incoming>>,
    status: watch::Sender<Status>,
    counters: Arc<Mutex<Counters>>,
    commands: Option<mpsc::Receiver<Command>>,
    closed: Vec<oneshot::Sender<()>>,
    /// Dropped when there is nothing left to do.
    _ended: oneshot::Sender<()>,
}

/// What a node's actor is connected to.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) incoming: mpsc::UnboundedSender<Incoming>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) counters: Arc<Mutex<Counters>>,
    pub(crate) ended: oneshot::Sender<()>,
}

/// An owner of sockets. Dropped, it ends.
struct OwnerHandle {
    sockets: Recipient<ToOwner>,
    circuit: Option<Recipient<ToCircuit>>,
}

impl Drop for OwnerHandle {
    fn drop(&mut self) {
        self.sockets.do_send(ToOwner::End);
    }
}

impl NodeActor {
    /// Turns `node`, with `memory` as what `memory:` URLs stand for.
    /// `nics` is whoever tells of the interfaces.
    pub(crate) fn new(
        node: Node,
        memory: Option<MemoryBroker>,
        seed: Seed,
        nics: NicSource,
        ends: Ends,
    ) -> Self {
        let keep_alive = node.config().keep_alive;
        let unproven = node.config().limits.unproven;
        let unproven = unproven + leaving(unproven);
        Self {
            driven: Driven::new(node),
            memory,
            seed,
            is_dry: false,
            keep_alive,
            owners: BTreeMap::new(),
            seats: [unproven, PUNCHED_SEATS].map(|seats| Arc::new(Semaphore::new(seats))),
            next_connection: Arc::new(AtomicU64::new(1)),
            circuits: BTreeMap::new(),
            channels: BTreeMap::new(),
            ntp: None,
            lookups: Lookups::new(nics),
            calls: BTreeMap::new(),
            incoming: Some(ends.incoming),
            status: ends.status,
            counters: ends.counters,
            commands: Some(ends.commands),
            closed: Vec::new(),
            _ended: ends.ended,
        }
    }

    /// Returns the machine, to feed it. What it draws from now on nobody can know who has a copy of this process.
    fn node(&mut self) -> &mut Node {
        self.stir();
        self.driven.machine()
    }

    fn stir(&mut self) {
        let mut entropy = [0; 32];
        match getrandom::fill(&mut entropy) {
            Ok(()) => self.driven.machine().stir(entropy),
            Err(error) if !std::mem::replace(&mut self.is_dry, true) => {
                tracing::error!(%error, "the system has no fresh entropy");
            }
            Err(_) => {}
        }
    }

    fn feed(&mut self, input: impl FnOnce(&mut Node, Instant), ctx: &mut Context<Self>) {
        input(self.node(), now());
        turn(self, ctx);
    }

    fn connect(&mut self, call: Call, ctx: &mut Context<Self>) {
        let Call { peer, options, reply } = call;
        match self.node().connect(peer, options, now()) {
            Ok(attempt) => {
                let reply = wait_for(attempt, reply, ctx.address().recipient());
                self.calls.insert(attempt, reply);
            }
            // An error means that the caller is gone, and nobody wants to know.
            Err(error) => drop(reply.send(Err(error))),
        }
        turn(self, ctx);
    }

    fn begin(&mut self, owner: Owner, ctx: &mut Context<Self>) {
        let here = ctx.address();
        let reporting = Reporting {
            node: here.clone().recipient(),
            gone: here.clone().recipient(),
            next: Arc::clone(&self.next_connection),
        };
        let [arriving, punched] = &self.seats;
        let handle = match owner {
            Owner::Nic(_) => {
                let interface = Interface(Sockets::new(owner, reporting, Arc::clone(arriving))).start();
                OwnerHandle { sockets: interface.recipient(), circuit: None }
            }
            Owner::Attempt(attempt) => {
                let sockets = Sockets::new(owner, reporting, Arc::clone(punched));
                let attempt = Attempt::new(attempt, sockets, here.recipient()).start();
                OwnerHandle { sockets: attempt.clone().recipient(), circuit: Some(attempt.recipient()) }
            }
        };
        self.owners.insert(owner, handle);
    }

    fn ask(&self, owner: Owner, message: ToOwner) {
        if let Some(handle) = self.owners.get(&owner) {
            handle.sockets.do_send(message);
        }
    }

    fn ask_circuit(&self, attempt: AttemptId, message: ToCircuit) {
        let owner = self.owners.get(&Owner::Attempt(attempt));
        if let Some(circuit) = owner.and_then(|handle| handle.circuit.as_ref()) {
            circuit.do_send(message);
        }
    }

    fn on_circuit(&mut self, attempt: AttemptId, act: CircuitAct, ctx: &mut Context<Self>) {
        match act {
            CircuitAct::Begin(begun) => {
                let (config, seed) = *begun;
                let offers = OfferSender::new(attempt, ctx.address().downgrade().recipient());
                let ca_files = turn::ca_files(&self.driven.machine().config().turn);
                let (handle, told) = relay::Handle::begin(config, ca_files, offers, seed);
                self.circuits.insert(attempt, handle.ear());
                self.ask_circuit(attempt, ToCircuit::Begun(handle, told));
            }
            CircuitAct::Hear(offer, sources) => {
                if let Some(ear) = self.circuits.get(&attempt) {
                    ear.hear(&offer, &sources);
                }
            }
            act => self.ask_circuit(attempt, ToCircuit::Perform(act)),
        }
    }

    fn hand_over(&self, owner: Owner, established: Box<Established>, taker: Option<Taker>) {
        let connection = established.connection;
        self.ask(
            owner,
            match taker {
                Some(taker) => {
                    let keep_alive = self.keep_alive;
                    ToOwner::HandOver(HandOver { established, taker, keep_alive })
                }
                None => ToOwner::Perform(SocketAct::Close { connection }),
            },
        );
    }

    fn publish_counters(&self, counters: Counters) {
        // Nothing that may panic runs under the lock, so what it guards is whole.
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }
}

/// Waits for the outcome of a call or until its caller has changed their mind, which `node` is told then.
fn wait_for(attempt: AttemptId, mut reply: Reply, node: Recipient<Cancelled>) -> Reply {
    let (forward, outcome) = oneshot::channel();
    tokio::task::spawn_local(async move {
        tokio::select! {
            outcome = outcome => {
                if let Ok(outcome) = outcome {
                    // Nobody waits any more: then a connection is closed by being dropped.
                    let _ = reply.send(outcome);
                }
            }
            () = reply.closed() => node.do_send(Cancelled(attempt)),
        }
    });
    forward
}

impl Drop for NodeActor {
    fn drop(&mut self) {
        if let Some((_, ntp)) = &self.ntp {
            ntp.do_send(Stop);
        }
    }
}

impl Actor for NodeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(commands) = self.commands.take() {
            ctx.add_stream(futures_util::stream::unfold(commands, |mut commands| async move {
                commands.recv().await.map(|command| (command, commands))
            }));
        }
        turn(self, ctx);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        for closed in self.closed.drain(..) {
            let _ = closed.send(());
        }
    }
}

impl Drives for NodeActor {
    type M = Node;

    fn driven(&mut self) -> &mut Driven<Node> {
        &mut self.driven
    }

    fn before_timeout(&mut self) {
        self.stir();
    }

    /// What was counted is seen before what it is about.
    fn before_turn(&mut self) {
        let counters = self.driven.machine().counters();
        self.publish_counters(counters);
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Begin(owner) => self.begin(owner, ctx),
            Act::End(owner) => drop(self.owners.remove(&owner)),
            Act::Socket(owner, act) => self.ask(owner, ToOwner::Perform(act)),
            Act::Channel(act) => self.on_router(act, ctx),
            Act::Circuit(attempt, act) => self.on_circuit(attempt, act, ctx),
            Act::Resolve(nic, server) => self.resolve(nic, server, ctx),
            Act::ResolveTurn => self.resolve_turn(ctx),
            Act::ReadNics => self.read_nics(ctx),
            Act::ReadClock => self.node().handle_clock(system_clock(), now()),
            Act::MeasureTime(clock) => self.measure_time(clock, ctx),
        }
    }

    fn on_event(&mut self, event: Event, ctx: &mut Context<Self>) {
        match event {
            Event::Connected { attempt, owner, established } => {
                let taker = self.calls.remove(&attempt).map(Taker::Caller);
                self.hand_over(owner, established, taker);
            }
            Event::Failed { attempt, error } => {
                if let Some(reply) = self.calls.remove(&attempt) {
                    let _ = reply.send(Err(error));
                }
            }
            Event::Accepted { owner, established } => {
                let node = ctx.address().downgrade().recipient();
                let backlog = BacklogPlace(node, established.session.claim);
                let node = ctx.address().downgrade().recipient();
                let place = PipePlace::new(node, established.session.claim.peer);
                let taker = self.incoming.clone().map(|queue| Taker::Accepting(queue, backlog, place));
                self.hand_over(owner, established, taker);
            }
            Event::Status => {
                self.status.send_replace(self.driven.machine().status().clone());
            }
            Event::Closed => ctx.stop(),
        }
    }
}

impl StreamHandler<Command> for NodeActor {
    fn handle(&mut self, command: Command, ctx: &mut Context<Self>) {
        match command {
            Command::Connect(call) => self.connect(*call, ctx),
            Command::Refresh => self.feed(Node::handle_network_changed, ctx),
            Command::StopAccepting => {
                self.incoming = None;
                self.feed(|node, _| node.stop_accepting(), ctx);
            }
            Command::Close(done) => {
                self.closed.push(done);
                self.feed(Node::close, ctx);
            }
        }
    }

    /// Every handle is gone: so is the node.
    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.feed(Node::close, ctx);
    }
}

impl Handler<FromSocket> for NodeActor {
    type Result = ();

    fn handle(&mut self, FromSocket { owner, event, taken_up }: FromSocket, ctx: &mut Context<Self>) {
        self.feed(|node, now| node.handle_socket(owner, event, now), ctx);
        drop(taken_up);
    }
}

impl Handler<FromCircuit> for NodeActor {
    type Result = ();

    fn handle(&mut self, FromCircuit { attempt, event }: FromCircuit, ctx: &mut Context<Self>) {
        if matches!(event, CircuitEvent::Gone) {
            self.circuits.remove(&attempt);
        }
        self.feed(|node, now| node.handle_circuit(attempt, event, now), ctx);
    }
}

/// An owner has ended that the node did not end: something in it panicked. What it had under way is over.
impl Handler<OwnerGone> for NodeActor {
    type Result = ();

    fn handle(&mut self, OwnerGone(owner): OwnerGone, ctx: &mut Context<Self>) {
        if self.owners.remove(&owner).is_some() {
            tracing::error!(?owner, "an owner of sockets ended by itself");
            self.feed(|node, now| node.handle_owner_gone(owner, now), ctx);
        }
    }
}

impl Handler<Taken> for NodeActor {
    type Result = ();

    fn handle(&mut self, Taken(claim): Taken, ctx: &mut Context<Self>) {
        self.feed(|node, _| node.handle_taken(&claim), ctx);
    }
}

impl Handler<PipeClosed> for NodeActor {
    type Result = ();

    fn handle(&mut self, PipeClosed(peer): PipeClosed, ctx: &mut Context<Self>) {
        self.feed(|node, _| node.handle_pipe_closed(&peer), ctx);
    }
}

/// A caller has dropped the future of its call.
struct Cancelled(AttemptId);

impl Message for Cancelled {
    type Result = ();
}

impl Handler<Cancelled> for NodeActor {
    type Result = ();

    fn handle(&mut self, Cancelled(attempt): Cancelled, ctx: &mut Context<Self>) {
        self.calls.remove(&attempt);
        self.feed(|node, now| node.cancel(attempt, now), ctx);
    }
}

/// Seats for connections to ports of punches.
const PUNCHED_SEATS: usize = 128;
