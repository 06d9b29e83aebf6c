//! The circuit of an attempt, on whichever side of it we are.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use actix::fut::ActorStreamExt;
use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use futures_util::stream;
use p2p_core::attempt::{Path, Role, Trust};
use p2p_core::candidate::Candidate;
use p2p_core::connect::{Lane, RelayAct, RelayInput};
use p2p_core::peer::PeerAddr;
use p2p_core::relay::circuit::{CircuitFailure, RelayKind};
use p2p_core::relay::{CircuitConfig, RelayOffer};
use tracing::debug;

use super::{Attempt, lane};
use crate::carrier::CarrierStream;
use crate::drive::{now, turn};
use crate::relay::{Handle, Outlet, Told};
use crate::shared::Shared;
use crate::turn;

/// Notices that come while the names of servers are looked up; the newest counts.
const MOST_EARLY: usize = 4;

/// The circuit of one attempt, once there is one.
pub(super) struct Relaying {
    shared: Rc<Shared>,
    trust: Trust,
    role: Role,
    handle: Option<Handle>,
    early: VecDeque<(RelayOffer, Vec<IpAddr>)>,
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
        if let (Lane::Relayed { kind: RelayKind::Connection, .. }, Some(handle)) = (lane, &self.handle) {
            handle.connection_failed();
        }
    }
}

impl Attempt {
    /// Tells the machine news of the circuit.
    fn tell_relay(&mut self, input: RelayInput) -> Option<Lane> {
        self.driven.machine().feed(|attempt, view| attempt.handle_relay(input, view, now()))
    }

    /// Does what the machine wants with the circuit.
    pub(super) fn relay(&mut self, act: RelayAct, ctx: &mut Context<Self>) {
        match act {
            RelayAct::Begin(sources) => self.begin_circuit(sources, ctx),
            RelayAct::Hear(offer, sources) => {
                let peer = self.attempt().peer().clone();
                match &self.relaying.handle {
                    Some(handle) => handle.hear(&offer, &peer, &sources),
                    None => {
                        if self.relaying.early.len() == MOST_EARLY {
                            self.relaying.early.pop_front();
                        }
                        self.relaying.early.push_back((offer, sources));
                    }
                }
            }
            RelayAct::Keep(kind) => {
                if let Some(mut handle) = self.relaying.handle.take() {
                    handle.keep(kind);
                }
                self.stop_relaying(ctx);
            }
            RelayAct::End => {
                self.relaying.handle = None;
                self.stop_relaying(ctx);
            }
        }
    }

    fn stop_relaying(&mut self, ctx: &mut Context<Self>) {
        let dials = std::mem::take(&mut self.relaying.dials).into_values();
        for task in std::mem::take(&mut self.relaying.tasks).into_iter().chain(dials) {
            ctx.cancel_future(task);
        }
    }

    fn begin_circuit(&mut self, sources: Vec<IpAddr>, ctx: &mut Context<Self>) {
        let configured = Rc::clone(&self.shared.turn);
        let found = async move { turn::servers(&configured).await };
        let task = ctx.spawn(found.into_actor(self).map(move |(servers, useless), this, ctx| {
            for why in &useless {
                debug!(%why, "a TURN server cannot be used");
            }
            let peer = this.attempt().peer().clone();
            let relaying = &mut this.relaying;
            relaying.useless = useless;
            let seat = match relaying.trust {
                Trust::Known => None,
                Trust::Stranger => Arc::clone(&relaying.shared.relays).try_acquire_owned().ok(),
            };
            // What our servers lend us shall not be used up by strangers: the rest have to bring a server of their own.
            let is_seated = relaying.trust == Trust::Known || seat.is_some();
            let servers = if is_seated { servers } else { Vec::new() };
            let config = relaying.config(&peer, sources, servers);
            let shared = Rc::clone(&relaying.shared);
            let outlet = Outlet {
                router: this.router.downgrade(),
                to: peer.clone(),
                attempt: this.id,
                back_on: this.back_on,
                done: (this.role == Role::Caller).then(|| ctx.address().recipient()),
            };
            let ca_files = turn::trust(&shared.turn);
            let (handle, told) = Handle::begin(config, ca_files, outlet, seat, shared.fork("circuit"));
            shared.ears.borrow_mut().listen(this.id, peer.id(), handle.ear());
            for (offer, sources) in std::mem::take(&mut this.relaying.early) {
                handle.hear(&offer, &peer, &sources);
            }
            this.relaying.handle = Some(handle);
            let all =
                stream::unfold(told, |mut told| async move { told.recv().await.map(|one| (one, told)) });
            let all = actix::fut::wrap_stream::<_, Self>(all).map(|told, this, ctx| {
                this.on_told(told, ctx);
                turn(this, ctx);
            });
            let task = ctx.spawn(all.finish());
            this.relaying.tasks.push(task);
        }));
        self.relaying.tasks.push(task);
    }

    fn on_told(&mut self, told: Told, ctx: &mut Context<Self>) {
        let Some(handle) = &self.relaying.handle else { return };
        match told {
            Told::Up => match handle.stream() {
                Ok(stream) => {
                    let remote = stream.peer_addr();
                    if let Some(lane) = self.tell_relay(RelayInput::Up(RelayKind::Datagrams, remote)) {
                        self.meet(lane, CarrierStream::relayed(stream), None, ctx);
                    }
                }
                Err(error) => {
                    let failure = CircuitFailure::Blocked(error.to_string());
                    self.tell_relay(RelayInput::Failed(failure));
                }
            },
            Told::Arrived { link, early, peer } => {
                let through = handle.through(link, early, peer);
                self.on_through(CarrierStream::through(through), peer, ctx);
            }
            Told::Dial(to) => self.dial_relayed(to, ctx),
            Told::Failed(failure) => {
                let failure = explained(failure, &self.relaying.useless);
                self.tell_relay(RelayInput::Failed(failure));
            }
        }
    }

    /// A connection through a relay is up.
    fn on_through(&mut self, stream: CarrierStream, remote: SocketAddr, ctx: &mut Context<Self>) {
        match self.tell_relay(RelayInput::Up(RelayKind::Connection, remote)) {
            Some(lane) => self.meet(lane, stream, None, ctx),
            None => self.relaying.handle.iter().for_each(Handle::connection_failed),
        }
    }

    fn dial_relayed(&mut self, to: SocketAddr, ctx: &mut Context<Self>) {
        debug!(%to, "dialling what the peer's TURN server lends it");
        let (shared, role) = (Rc::clone(&self.shared), self.role);
        let dialled = async move {
            // Others' wishes wait for each other, never for ours.
            let _permit = match role {
                Role::Caller => None,
                Role::Answerer => Some(shared.dials_for_peers.acquire().await),
            };
            lane::dial(Candidate { path: Path::External, target: to, from: None }).await
        };
        let task = ctx.spawn(dialled.into_actor(self).map(move |dialled, this, ctx| {
            this.relaying.dials.remove(&to);
            if let Err(error) = &dialled {
                debug!(%to, %error, "not through the relay");
            }
            if let Some(handle) = &this.relaying.handle {
                handle.dialled(to, dialled.is_ok());
            }
            if let Ok(stream) = dialled {
                this.on_through(stream.dialled(), to, ctx);
            }
            turn(this, ctx);
        }));
        self.relaying.dials.insert(to, task);
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
