//! The sockets of punches, on whichever side of them we are.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::ActorStreamExt;
use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use futures_util::{FutureExt, stream};
use p2p_core::Local;
use p2p_core::attempt::Trust;
use p2p_core::connect::Lane;
use p2p_core::punch::{Input, Share, Socket, SocketAct};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, trace};

use super::Attempt;
use super::lane::failure;
use crate::carrier::CarrierStream;
use crate::drive::{now, turn};
use crate::interface::listen::{Accepted, accept};
use crate::interface::{Observed, bind, observe};
use crate::purse::Held;

/// How long a STUN server may take to tell: two can be asked before a punch goes on without.
const ASK_WITHIN: Duration = Duration::from_millis(700);

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
    trust: Trust,
    shares: BTreeMap<u8, Held>,
    observed: BTreeMap<(u8, Local), Observed>,
    tasks: BTreeMap<(u8, Task), SpawnHandle>,
}

impl Punching {
    pub(super) fn new(trust: Trust) -> Self {
        let (shares, observed, tasks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { trust, shares, observed, tasks }
    }
}

impl Attempt {
    /// Tells the machine what a punch asked for.
    fn tell_punch(&mut self, pair: u8, input: Input) -> Option<Lane> {
        self.driven.machine().feed(|attempt, view| attempt.handle_punch(pair, input, view, now()))
    }

    /// Does what a punch wants.
    pub(super) fn punch(&mut self, pair: u8, act: SocketAct, ctx: &mut Context<Self>) {
        trace!(pair, ?act, "punch");
        match act {
            SocketAct::Reserve(wanted) => self.reserve(pair, wanted, ctx),
            SocketAct::GiveBack(_) => {
                self.stop_task(pair, Task::Reserve, ctx);
                self.punching.shares.remove(&pair);
            }
            SocketAct::Listen(at) => {
                let outcome = match bind::listen(at.0) {
                    Ok(listener) => {
                        self.take_in(pair, at, listener, ctx);
                        Ok(())
                    }
                    Err(error) => Err(failure(&error)),
                };
                self.tell_punch(pair, Input::Listening(at, outcome));
            }
            SocketAct::Unlisten(at) => self.stop_task(pair, Task::Listen(at), ctx),
            SocketAct::Observe(from) => self.observe(pair, from, ctx),
            SocketAct::Forget(from) => {
                self.stop_task(pair, Task::Observe(from), ctx);
                self.punching.observed.remove(&(pair, from));
            }
            SocketAct::Dial { socket, from, to, ttl } => {
                let dialled = bind::dial_unheard(from.0, to, None, ttl);
                self.start_task(pair, Task::Dial(socket), dialled, ctx, move |dialled, this, ctx| {
                    this.on_dialled(pair, socket, dialled, ctx);
                });
            }
            SocketAct::Drop(socket) => self.stop_task(pair, Task::Dial(socket), ctx),
        }
    }

    /// Starts work, and does its first step at once: so SYNs leave in the order of the acts.
    fn start_task<T: 'static>(
        &mut self,
        pair: u8,
        task: Task,
        work: impl Future<Output = T> + 'static,
        ctx: &mut Context<Self>,
        done: impl FnOnce(T, &mut Self, &mut Context<Self>) + 'static,
    ) {
        let mut work = Box::pin(work);
        if let Some(outcome) = (&mut work).now_or_never() {
            return done(outcome, self, ctx);
        }
        let handle = ctx.spawn(work.into_actor(self).map(move |outcome, this, ctx| {
            this.punching.tasks.remove(&(pair, task));
            done(outcome, this, ctx);
            turn(this, ctx);
        }));
        self.punching.tasks.insert((pair, task), handle);
    }

    fn stop_task(&mut self, pair: u8, task: Task, ctx: &mut Context<Self>) {
        if let Some(handle) = self.punching.tasks.remove(&(pair, task)) {
            ctx.cancel_future(handle);
        }
    }

    fn reserve(&mut self, pair: u8, wanted: Share, ctx: &mut Context<Self>) {
        let reserved = Rc::clone(&self.shared.purse).reserve(wanted, self.punching.trust);
        self.start_task(pair, Task::Reserve, reserved, ctx, move |held, this, _| {
            let share = held.as_ref().map(Held::share).unwrap_or_default();
            if let Some(held) = held {
                this.punching.shares.insert(pair, held);
            }
            this.tell_punch(pair, Input::Share(share));
        });
    }

    /// Asks a STUN server how it sees a port, over a connection that is kept. Never two at once: a second connection
    /// from the port moves the counter of a NAT that counts.
    fn observe(&mut self, pair: u8, from: Local, ctx: &mut Context<Self>) {
        let servers = self.shared.outlook(from.0.ip()).servers;
        let mut seed = self.shared.fork("punched port");
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
        self.start_task(pair, Task::Observe(from), observed, ctx, move |observed, this, _| {
            let mapped = observed.map(|observed| {
                let mapped = observed.seen.mapped;
                this.punching.observed.insert((pair, from), observed);
                mapped
            });
            this.tell_punch(pair, Input::Observed(from, mapped));
        });
    }

    fn on_dialled(
        &mut self,
        pair: u8,
        socket: Socket,
        dialled: std::io::Result<TcpStream>,
        ctx: &mut Context<Self>,
    ) {
        match dialled.and_then(|stream| Ok((stream.peer_addr()?, stream))) {
            Ok((remote, stream)) => {
                if let Some(lane) = self.tell_punch(pair, Input::Connected { socket, remote }) {
                    debug!(%lane, %remote, "a punched port was let in");
                    self.meet(lane, CarrierStream::tcp(stream), None, ctx);
                }
            }
            Err(error) => {
                trace!(pair, %socket, %error, "punch");
                self.tell_punch(pair, Input::Failed(socket, failure(&error)));
            }
        }
    }

    /// Takes in whoever connects to a punched port.
    fn take_in(&mut self, pair: u8, at: Local, listener: TcpListener, ctx: &mut Context<Self>) {
        let seats = Arc::clone(&self.shared.punched);
        let all = stream::unfold((listener, seats), |(listener, seats)| async move {
            accept(&listener, &seats).await.map(|accepted| (accepted, (listener, seats)))
        });
        let all = actix::fut::wrap_stream::<_, Self>(all).map(move |accepted, this, ctx| {
            let Accepted { stream, remote, seat, .. } = accepted;
            let lane = this.tell_punch(pair, Input::Accepted { at, remote });
            debug!(%at, %remote, ?lane, "somebody connected to a punched port");
            if let Some(lane) = lane {
                this.meet(lane, CarrierStream::tcp(stream), Some(seat), ctx);
            }
            turn(this, ctx);
        });
        let handle = ctx.spawn(all.finish());
        self.punching.tasks.insert((pair, Task::Listen(at)), handle);
    }
}
