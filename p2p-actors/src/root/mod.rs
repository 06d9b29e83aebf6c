//! The root of one node's actors: it owns them all, admits work at the door, and ends what must end.

mod calls;
mod door;
mod place;
mod time;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, StreamHandler, WrapFuture,
};
use p2p_core::attempt::{AttemptId, Role};
use p2p_core::peer::{MachineTag, PeerAddr, PeerId};
use p2p_core::{Seed, UnixTime};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::info;

use crate::attempt::{Attempt, AttemptEnded, Call, NetworkChanged, Stop};
use crate::config::{ActorsConfig, ConnectOptions};
use crate::counters::Tallies;
use crate::error::ConnectError;
use crate::established::Established;
use crate::handle::{Command, Status};
use crate::interface::Nic;
use crate::interface::watch::{EVERY, Watch};
use crate::lobby::Lobby;
use crate::ntp::{self, Ntp};
use crate::shared::Shared;
use crate::signal::{CloseRouter, Router};

use place::NicState;

/// What farewells may take: cancelled attempts, signals on their way, disconnects.
const FAREWELL: Duration = Duration::from_secs(1);

/// Seats for connections whose eviction is decided and not yet done.
const SPARE_SEATS: usize = 64;

/// Owns all actors of one node.
pub(crate) struct Root {
    config: ActorsConfig,
    shared: Rc<Shared>,
    nics: Vec<Nic>,
    watch: Option<Watch>,
    interfaces: BTreeMap<u8, NicState>,
    seats: Arc<Semaphore>,
    router: Option<Addr<Router>>,
    ntp: Option<Addr<Ntp>>,
    /// How many microseconds the system's clock was ahead of ours at the last look.
    apart: i128,
    /// The attempts of each role, and whom they are with.
    attempts: BTreeMap<AttemptId, (PeerId, Addr<Attempt>)>,
    answers: BTreeMap<AttemptId, (PeerId, Addr<Attempt>)>,
    lobby: Lobby,
    /// Callers that were welcomed and have not said Go: each may yet need a place in the backlog.
    welcomed: Rc<()>,
    tag: Option<MachineTag>,
    issued: UnixTime,
    /// `None` when nobody is taken in any more.
    incoming: Option<mpsc::Sender<Established>>,
    status: watch::Sender<Status>,
    commands: Option<mpsc::Receiver<Command>>,
    /// Told when there is nothing left to do.
    ended: Option<oneshot::Sender<()>>,
    closed: Vec<oneshot::Sender<()>>,
}

/// What a root is connected to.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) incoming: mpsc::Sender<Established>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ended: oneshot::Sender<()>,
}

impl Root {
    pub(crate) fn new(config: ActorsConfig, nics: Vec<Nic>, shared: Rc<Shared>, ends: Ends) -> Self {
        let mut seed: Seed = shared.fork("root");
        let tag = (!config.machine_id.is_empty())
            .then(|| MachineTag::new(&config.machine_id, &shared.identity.id(), &mut seed));
        let seats = Arc::new(Semaphore::new(config.limits.unproven + SPARE_SEATS));
        Self {
            lobby: Lobby::new(config.limits.unproven),
            welcomed: Rc::new(()),
            config,
            shared,
            nics,
            watch: None,
            interfaces: BTreeMap::new(),
            seats,
            router: None,
            ntp: None,
            apart: 0,
            attempts: BTreeMap::new(),
            answers: BTreeMap::new(),
            tag,
            issued: UnixTime::default(),
            incoming: Some(ends.incoming),
            status: ends.status,
            commands: Some(ends.commands),
            ended: Some(ends.ended),
            closed: Vec::new(),
        }
    }

    fn on_command(&mut self, command: Command, ctx: &mut Context<Self>) {
        match command {
            Command::Connect(call) => match self.admit(&call.peer, &call.options) {
                Ok(()) => self.connect(*call, ctx),
                // An error means that the caller is gone, and nobody wants to know.
                Err(error) => drop(call.reply.send(Err(error))),
            },
            Command::Refresh => {
                self.watch.iter().for_each(Watch::look);
                self.interfaces.values().for_each(|state| state.handle.refresh());
                self.ntp.iter().for_each(|ntp| ntp.do_send(ntp::Again));
            }
            Command::StopAccepting => self.incoming = None,
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

    fn connect(&mut self, call: Call, ctx: &mut Context<Self>) {
        let Some(router) = self.router.clone() else { return };
        Tallies::count(&self.shared.tallies.attempts);
        let attempt = self.shared.attempt_id();
        let peer = call.peer.id();
        self.shared.remember(peer);
        let owner = ctx.address().recipient();
        let shared = Rc::clone(&self.shared);
        let addr = Attempt::call(shared, router, owner, attempt, call).start();
        self.attempts.insert(attempt, (peer, addr));
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
        self.all_attempts().for_each(|attempt| attempt.do_send(Stop));
        self.watch = None;
        self.interfaces.clear();
        self.ntp.take().iter().for_each(|ntp| ntp.do_send(ntp::Stop));
        ctx.run_later(FAREWELL, |_, ctx| ctx.stop());
        self.close_router(ctx);
    }

    fn all_attempts(&self) -> impl Iterator<Item = &Addr<Attempt>> {
        self.attempts.values().chain(self.answers.values()).map(|(_, attempt)| attempt)
    }

    /// Attempts under way go by what is known now.
    fn tell_attempts(&self) {
        self.all_attempts().for_each(|attempt| attempt.do_send(NetworkChanged));
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
        let router = Router::new(
            Rc::clone(&self.shared),
            self.config.brokers.clone(),
            self.config.memory.clone(),
            self.config.allowed.clone(),
            ctx.address().recipient(),
        );
        self.router = Some(router.start());
        self.mind_the_clock(ctx);
        self.start_ntp(ctx);
        self.publish_address();
        for nic in std::mem::take(&mut self.nics) {
            self.start_interface(nic, ctx);
        }
        self.watch = Some(crate::interface::watch::watch(EVERY, ctx.address().recipient()));
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

impl Handler<AttemptEnded> for Root {
    type Result = ();

    fn handle(&mut self, ended: AttemptEnded, ctx: &mut Context<Self>) {
        match ended.role {
            Role::Caller => drop(self.attempts.remove(&ended.id)),
            Role::Answerer => {
                self.answers.remove(&ended.id);
                ended.established.into_iter().for_each(|established| self.accept(*established));
            }
        }
        self.close_router(ctx);
    }
}

#[cfg(test)]
mod tests;
