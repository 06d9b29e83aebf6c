//! The sockets of punches, on whichever side of them we are.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::ActorStreamExt;
use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use futures_util::{FutureExt, stream};
use p2p_core::attempt::{DialError, Trust};
use p2p_core::punch::{Act, Share, Socket};
use p2p_core::race::{Answer, Lane, Race};
use p2p_core::{Local, Mapped};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{debug, trace};

use super::lane::failure;
use crate::carrier::CarrierStream;
use crate::drive::{Drives, now, turn};
use crate::interface::listen::{Accepted, accept};
use crate::interface::{Observed, bind, observe};
use crate::purse::Held;
use crate::shared::Shared;

/// How long a STUN server may take to tell: two can be asked before a punch goes on without.
const ASK_WITHIN: Duration = Duration::from_millis(700);

/// A machine that owns punches. Both sides of an attempt call the same things by the same names.
pub(super) trait OwnsPunches {
    fn on_share(&mut self, pair: u8, share: Share, now: Instant) -> bool;
    fn on_listening(&mut self, pair: u8, at: Local, outcome: Result<(), DialError>, now: Instant);
    fn on_observed(&mut self, pair: u8, from: Local, mapped: Option<Mapped>, now: Instant);
    fn on_connected(&mut self, pair: u8, socket: Socket, remote: SocketAddr, now: Instant) -> Option<Lane>;
    fn on_accepted(&mut self, pair: u8, at: Local, remote: SocketAddr, now: Instant) -> Option<Lane>;
    fn on_failed(&mut self, pair: u8, socket: Socket, failure: &DialError, now: Instant);
}

macro_rules! owns_punches {
    ($machine:ty) => {
        impl OwnsPunches for $machine {
            fn on_share(&mut self, pair: u8, share: Share, now: Instant) -> bool {
                self.handle_punch_share(pair, share, now)
            }
            fn on_listening(&mut self, pair: u8, at: Local, outcome: Result<(), DialError>, now: Instant) {
                self.handle_punch_listening(pair, at, outcome, now);
            }
            fn on_observed(&mut self, pair: u8, from: Local, mapped: Option<Mapped>, now: Instant) {
                self.handle_punch_observed(pair, from, mapped, now);
            }
            fn on_connected(
                &mut self,
                pair: u8,
                socket: Socket,
                remote: SocketAddr,
                now: Instant,
            ) -> Option<Lane> {
                self.handle_punch_connected(pair, socket, remote, now)
            }
            fn on_accepted(&mut self, pair: u8, at: Local, remote: SocketAddr, now: Instant) -> Option<Lane> {
                self.handle_punch_accepted(pair, at, remote, now)
            }
            fn on_failed(&mut self, pair: u8, socket: Socket, failure: &DialError, now: Instant) {
                self.handle_punch_failed(pair, socket, failure, now);
            }
        }
    };
}

owns_punches!(Race);
owns_punches!(Answer);

/// An actor whose machine owns punches.
pub(super) trait Punches: Drives<M: OwnsPunches> {
    /// Where their sockets are kept.
    fn punching(&mut self) -> &mut Punching;

    /// TCP is up on a lane: prove it. The seat is to be kept for as long as that takes.
    fn on_punched(
        &mut self,
        lane: Lane,
        stream: CarrierStream,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    );
}

/// What is under way for a punch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Reserve,
    Listen(Local),
    Observe(Local),
    Dial(Socket),
}

/// What the punches of one attempt have open, each known by the number of its pair of addresses. Connections that are
/// up are lanes, and their attempt's.
pub(super) struct Punching {
    shared: Rc<Shared>,
    trust: Trust,
    shares: BTreeMap<u8, Held>,
    observed: BTreeMap<(u8, Local), Observed>,
    tasks: BTreeMap<(u8, Task), SpawnHandle>,
}

impl Punching {
    pub(super) fn new(shared: Rc<Shared>, trust: Trust) -> Self {
        let (shares, observed, tasks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { shared, trust, shares, observed, tasks }
    }
}

/// Does what a punch wants.
pub(super) fn perform<A: Punches>(actor: &mut A, pair: u8, act: Act, ctx: &mut Context<A>) {
    trace!(pair, ?act, "punch");
    match act {
        Act::Reserve(wanted) => reserve(actor, pair, wanted, ctx),
        Act::GiveBack(_) => drop(actor.punching().shares.remove(&pair)),
        Act::Listen(at) => {
            let outcome = match bind::listen(at.0) {
                Ok(listener) => {
                    take_in(actor, pair, at, listener, ctx);
                    Ok(())
                }
                Err(error) => Err(failure(&error)),
            };
            actor.driven().machine().on_listening(pair, at, outcome, now());
        }
        Act::Unlisten(at) => stop(actor, pair, Task::Listen(at), ctx),
        Act::Observe(from) => ask(actor, pair, from, ctx),
        Act::Forget(from) => {
            stop(actor, pair, Task::Observe(from), ctx);
            actor.punching().observed.remove(&(pair, from));
        }
        Act::Dial { socket, from, to, ttl } => {
            let dialled = bind::dial_unheard(from.0, to, None, ttl);
            start(actor, pair, Task::Dial(socket), dialled, ctx, move |dialled, actor, ctx| {
                on_dialled(actor, pair, socket, dialled, ctx);
            });
        }
        Act::Drop(socket) => stop(actor, pair, Task::Dial(socket), ctx),
        // The machine that owns the punch says it itself.
        Act::Signal(message) => debug!(?message, "a signal that is not the sockets' to send"),
    }
}

/// Starts work, and does its first step at once: so SYNs leave in the order of the acts.
fn start<A: Punches, T: 'static>(
    actor: &mut A,
    pair: u8,
    task: Task,
    work: impl Future<Output = T> + 'static,
    ctx: &mut Context<A>,
    done: impl FnOnce(T, &mut A, &mut Context<A>) + 'static,
) {
    let mut work = Box::pin(work);
    if let Some(outcome) = (&mut work).now_or_never() {
        return done(outcome, actor, ctx);
    }
    let handle = ctx.spawn(work.into_actor(actor).map(move |outcome, actor: &mut A, ctx| {
        actor.punching().tasks.remove(&(pair, task));
        done(outcome, actor, ctx);
        turn(actor, ctx);
    }));
    actor.punching().tasks.insert((pair, task), handle);
}

fn stop<A: Punches>(actor: &mut A, pair: u8, task: Task, ctx: &mut Context<A>) {
    if let Some(handle) = actor.punching().tasks.remove(&(pair, task)) {
        ctx.cancel_future(handle);
    }
}

fn reserve<A: Punches>(actor: &mut A, pair: u8, wanted: Share, ctx: &mut Context<A>) {
    let punching = actor.punching();
    let reserved = Rc::clone(&punching.shared.purse).reserve(wanted, punching.trust);
    start(actor, pair, Task::Reserve, reserved, ctx, move |held, actor, _| {
        let share = held.as_ref().map(Held::share).unwrap_or_default();
        // What comes too late goes back by being dropped.
        if actor.driven().machine().on_share(pair, share, now())
            && let Some(held) = held
        {
            actor.punching().shares.insert(pair, held);
        }
    });
}

/// Asks a STUN server how it sees a port, over a connection that is kept. Never two at once: a second connection from
/// the port moves the counter of a NAT that counts.
fn ask<A: Punches>(actor: &mut A, pair: u8, from: Local, ctx: &mut Context<A>) {
    let shared = &actor.punching().shared;
    let servers = shared.outlook(from.0.ip()).servers;
    let mut seed = shared.fork("punched port");
    let observed = async move {
        for server in servers {
            match timeout(ASK_WITHIN, observe(from.0, &[server], seed.fork("server"))).await {
                Ok(Ok(observed)) => return Some(observed),
                Ok(Err(error)) => debug!(%error, "punch"),
                Err(_) => debug!(%from, %server, "no answer yet: the next server is asked"),
            }
        }
        None
    };
    start(actor, pair, Task::Observe(from), observed, ctx, move |observed, actor, _| {
        let mapped = observed.map(|observed| {
            let mapped = observed.seen.mapped;
            actor.punching().observed.insert((pair, from), observed);
            mapped
        });
        actor.driven().machine().on_observed(pair, from, mapped, now());
    });
}

fn on_dialled<A: Punches>(
    actor: &mut A,
    pair: u8,
    socket: Socket,
    dialled: std::io::Result<TcpStream>,
    ctx: &mut Context<A>,
) {
    let machine = actor.driven().machine();
    match dialled.and_then(|stream| Ok((stream.peer_addr()?, stream))) {
        Ok((remote, stream)) => {
            if let Some(lane) = machine.on_connected(pair, socket, remote, now()) {
                debug!(%lane, %remote, "a punched port was let in");
                actor.on_punched(lane, CarrierStream::tcp(stream), None, ctx);
            }
        }
        Err(error) => {
            trace!(pair, %socket, %error, "punch");
            machine.on_failed(pair, socket, &failure(&error), now());
        }
    }
}

/// Takes in whoever connects to a punched port.
fn take_in<A: Punches>(actor: &mut A, pair: u8, at: Local, listener: TcpListener, ctx: &mut Context<A>) {
    let seats = Arc::clone(&actor.punching().shared.punched);
    let all = stream::unfold((listener, seats), |(listener, seats)| async move {
        accept(&listener, &seats).await.map(|accepted| (accepted, (listener, seats)))
    });
    let all = actix::fut::wrap_stream::<_, A>(all).map(move |accepted, actor, ctx| {
        let Accepted { stream, remote, seat, .. } = accepted;
        let lane = actor.driven().machine().on_accepted(pair, at, remote, now());
        debug!(%at, %remote, ?lane, "somebody connected to a punched port");
        if let Some(lane) = lane {
            actor.on_punched(lane, CarrierStream::tcp(stream), Some(seat), ctx);
        }
        turn(actor, ctx);
    });
    let handle = ctx.spawn(all.finish());
    actor.punching().tasks.insert((pair, Task::Listen(at)), handle);
}
