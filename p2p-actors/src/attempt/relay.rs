//! The circuit of an attempt, on whichever side of it we are.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::fut::ActorStreamExt;
use actix::{ActorFutureExt, AsyncContext, Context, Recipient, SpawnHandle, WrapFuture};
use futures_util::stream;
use p2p_core::attempt::{AttemptId, Path, Role, Trust};
use p2p_core::candidate::Candidate;
use p2p_core::peer::PeerAddr;
use p2p_core::race::{Answer, Lane, Race, RelayAct};
use p2p_core::relay::circuit::{CircuitFailure, RelayKind};
use p2p_core::relay::{CircuitConfig, Notice};
use tracing::debug;

use super::{Delivered, lane};
use crate::carrier::CarrierStream;
use crate::drive::{Drives, now, turn};
use crate::relay::{Handle, Outlet, Told};
use crate::shared::Shared;
use crate::signal::Router;
use crate::turn;

/// Notices that come while the names of servers are looked up; the newest counts.
const MOST_EARLY: usize = 4;

/// A machine that may end at a relay. Both sides of an attempt call the same things by the same names.
pub(super) trait OwnsRelay {
    fn on_relayed(&mut self, kind: RelayKind, remote: SocketAddr, now: Instant) -> Option<Lane>;
    fn on_relay_failed(&mut self, failure: CircuitFailure, now: Instant);
}

impl OwnsRelay for Race {
    fn on_relayed(&mut self, kind: RelayKind, remote: SocketAddr, now: Instant) -> Option<Lane> {
        self.handle_relayed(kind, remote, now)
    }

    fn on_relay_failed(&mut self, failure: CircuitFailure, now: Instant) {
        self.handle_relay_failed(failure, now);
    }
}

impl OwnsRelay for Answer {
    fn on_relayed(&mut self, kind: RelayKind, remote: SocketAddr, now: Instant) -> Option<Lane> {
        self.handle_relayed(kind, remote, now)
    }

    fn on_relay_failed(&mut self, failure: CircuitFailure, now: Instant) {
        debug!(%failure, "no relay for a caller");
        self.handle_relay_failed(now);
    }
}

/// An actor whose machine may end at a relay.
pub(super) trait Relays: Drives<M: OwnsRelay> {
    /// Where the circuit is kept.
    fn relaying(&mut self) -> &mut Relaying;

    /// Something came through: prove it.
    fn on_relayed(&mut self, lane: Lane, stream: CarrierStream, ctx: &mut Context<Self>);
}

/// Who the two ends of an attempt are, and how they speak.
pub(super) struct Correspondence {
    pub(super) router: actix::Addr<Router>,
    pub(super) peer: PeerAddr,
    pub(super) attempt: AttemptId,
    pub(super) back_on: Option<u32>,
    pub(super) done: Option<Recipient<Delivered>>,
}

/// The circuit of one attempt, once there is one.
pub(super) struct Relaying {
    shared: Rc<Shared>,
    trust: Trust,
    role: Role,
    handle: Option<Handle>,
    early: VecDeque<(Notice, Vec<IpAddr>)>,
    /// Asking for names, listening to the circuit.
    tasks: Vec<SpawnHandle>,
    /// Servers of the configuration that cannot even be asked, and why.
    useless: Vec<String>,
    dials: BTreeMap<SocketAddr, SpawnHandle>,
}

impl Relaying {
    pub(super) fn new(shared: Rc<Shared>, trust: Trust, role: Role) -> Self {
        let (early, tasks, dials) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        Self { shared, trust, role, handle: None, early, tasks, useless: Vec::new(), dials }
    }

    fn config(
        &self,
        peer: &PeerAddr,
        sources: Vec<IpAddr>,
        servers: Vec<p2p_core::turn::Server>,
    ) -> CircuitConfig {
        let ours = self.shared.place.borrow().clone();
        CircuitConfig {
            families: self.shared.families.iter().copied().collect(),
            same_machine: peer.is_on(&ours.machine_id),
            ours,
            peer: sources,
            connections: self.shared.relay_connections,
            ..CircuitConfig::new(self.role, self.trust, servers)
        }
    }

    /// A relayed lane was not the one.
    pub(super) fn on_failed(&self, lane: Lane) {
        if let (Some(RelayKind::Connection), Some(handle)) = (lane.relayed_as(), &self.handle) {
            handle.connection_failed();
        }
    }
}

/// Does what the machine wants with the circuit.
pub(super) fn perform<A: Relays>(actor: &mut A, act: RelayAct, with: Correspondence, ctx: &mut Context<A>) {
    match act {
        RelayAct::Begin(sources) => begin(actor, sources, with, ctx),
        RelayAct::Hear(notice, sources) => {
            let relaying = actor.relaying();
            match &relaying.handle {
                Some(handle) => handle.hear(&notice, &with.peer, &sources),
                None => {
                    if relaying.early.len() == MOST_EARLY {
                        relaying.early.pop_front();
                    }
                    relaying.early.push_back((notice, sources));
                }
            }
        }
        RelayAct::Keep(kept) => {
            if let Some(mut handle) = actor.relaying().handle.take() {
                handle.keep(kept);
            }
            stop(actor, ctx);
        }
        RelayAct::End => {
            actor.relaying().handle = None;
            stop(actor, ctx);
        }
    }
}

fn stop<A: Relays>(actor: &mut A, ctx: &mut Context<A>) {
    let relaying = actor.relaying();
    let dials = std::mem::take(&mut relaying.dials).into_values();
    for task in std::mem::take(&mut relaying.tasks).into_iter().chain(dials) {
        ctx.cancel_future(task);
    }
}

fn begin<A: Relays>(actor: &mut A, sources: Vec<IpAddr>, with: Correspondence, ctx: &mut Context<A>) {
    let configured = Rc::clone(&actor.relaying().shared.turn);
    let found = async move { turn::servers(&configured).await };
    let task = ctx.spawn(found.into_actor(actor).map(move |(servers, useless), actor: &mut A, ctx| {
        for why in &useless {
            debug!(%why, "a TURN server cannot be used");
        }
        let relaying = actor.relaying();
        relaying.useless = useless;
        let seat = match relaying.trust {
            Trust::Known => None,
            Trust::Stranger => Arc::clone(&relaying.shared.relays).try_acquire_owned().ok(),
        };
        // What our servers lend us shall not be used up by strangers: the rest have to bring a server of their own.
        let is_seated = relaying.trust == Trust::Known || seat.is_some();
        let servers = if is_seated { servers } else { Vec::new() };
        let config = relaying.config(&with.peer, sources, servers);
        let shared = Rc::clone(&relaying.shared);
        let Correspondence { router, peer, attempt, back_on, done } = with;
        let (id, router) = (peer.id(), router.downgrade());
        let outlet = Outlet { router, to: peer.clone(), attempt, back_on, done };
        let trust = turn::trust(&shared.turn);
        let (handle, told) = Handle::begin(config, trust, outlet, seat, shared.fork("circuit"));
        shared.ears.borrow_mut().listen(attempt, id, handle.ear());
        for (notice, sources) in std::mem::take(&mut relaying.early) {
            handle.hear(&notice, &peer, &sources);
        }
        relaying.handle = Some(handle);
        let all = stream::unfold(told, |mut told| async move { told.recv().await.map(|one| (one, told)) });
        let all = actix::fut::wrap_stream::<_, A>(all).map(|told, actor, ctx| {
            on_told(actor, told, ctx);
            turn(actor, ctx);
        });
        let task = ctx.spawn(all.finish());
        actor.relaying().tasks.push(task);
    }));
    actor.relaying().tasks.push(task);
}

fn on_told<A: Relays>(actor: &mut A, told: Told, ctx: &mut Context<A>) {
    let Some(handle) = &actor.relaying().handle else { return };
    match told {
        Told::Up => match handle.stream() {
            Ok(stream) => {
                let remote = stream.peer_addr();
                if let Some(lane) = actor.driven().machine().on_relayed(RelayKind::Datagrams, remote, now()) {
                    actor.on_relayed(lane, CarrierStream::relayed(stream), ctx);
                }
            }
            Err(error) => {
                let failure = CircuitFailure::Blocked(error.to_string());
                actor.driven().machine().on_relay_failed(failure, now());
            }
        },
        Told::Arrived { link, early, peer } => {
            let through = handle.through(link, early, peer);
            up(actor, CarrierStream::through(through), peer, ctx);
        }
        Told::Dial(to) => dial(actor, to, ctx),
        Told::Failed(failure) => {
            let failure = explained(failure, &actor.relaying().useless);
            actor.driven().machine().on_relay_failed(failure, now());
        }
    }
}

/// The circuit knows only of servers that have an address: what became of the others is told where it has nothing
/// to say itself.
fn explained(failure: CircuitFailure, useless: &[String]) -> CircuitFailure {
    match failure {
        _ if useless.is_empty() => failure,
        CircuitFailure::NoServer => CircuitFailure::NoAddress(useless.join("; ")),
        CircuitFailure::Blocked(why) if why.is_empty() => CircuitFailure::Blocked(useless.join("; ")),
        failure => failure,
    }
}

/// A connection is up.
fn up<A: Relays>(actor: &mut A, stream: CarrierStream, remote: SocketAddr, ctx: &mut Context<A>) {
    match actor.driven().machine().on_relayed(RelayKind::Connection, remote, now()) {
        Some(lane) => actor.on_relayed(lane, stream, ctx),
        None => actor.relaying().handle.iter().for_each(Handle::connection_failed),
    }
}

fn dial<A: Relays>(actor: &mut A, to: SocketAddr, ctx: &mut Context<A>) {
    debug!(%to, "dialling what the peer's TURN server lends it");
    let (shared, role) = (Rc::clone(&actor.relaying().shared), actor.relaying().role);
    let dialled = async move {
        // Others' wishes wait for each other, never for ours.
        let _errand = match role {
            Role::Caller => None,
            Role::Answerer => Some(shared.errands.acquire().await),
        };
        lane::dial(Candidate { path: Path::External, target: to, from: None }).await
    };
    let task = ctx.spawn(dialled.into_actor(actor).map(move |dialled, actor: &mut A, ctx| {
        actor.relaying().dials.remove(&to);
        if let Err(failure) = &dialled {
            debug!(%to, %failure, "not through the relay");
        }
        if let Some(handle) = &actor.relaying().handle {
            handle.dialled(to, dialled.is_ok());
        }
        if let Ok(stream) = dialled {
            up(actor, stream.dialled(), to, ctx);
        }
        turn(actor, ctx);
    }));
    actor.relaying().dials.insert(to, task);
}
