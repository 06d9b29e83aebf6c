//! The sockets of one owner, an interface or an attempt, and everything that is done with them.
//!
//! Nothing is decided here: each [`SocketAct`] of the node is performed while its message is handled, so that SYNs and
//! datagrams leave in the order of the acts, and everything that happens is told to the node as a [`SocketEvent`].
//!
//! No flood reaches the node's mailbox. Connections are read when the node asks, those that arrive need a seat first, and
//! whoever reads a connection to a STUN server or a port for datagrams waits until the node has taken up what was read.

mod connections;
mod datagrams;
mod hand_over;
mod hops;
mod links;
mod listen;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, ActorContext, AsyncContext, Context, Message, Recipient, SpawnHandle};
use p2p_core::node::{ConnectionId, Owner, SocketAct, SocketEvent, StunLink};
use tokio::sync::{Semaphore, oneshot};

use self::connections::Open;
use self::datagrams::Port;
use self::links::ServerLink;
use self::work::{Work, Working};
use crate::carrier::CarrierStream;

pub(crate) use hand_over::{BacklogPlace, HandOver, Incoming, PipeClosed, Reply, Taken, Taker};
pub use hand_over::{PipePlace, ProvenConnection};

/// Asks an owner of sockets for something.
pub(crate) enum ToOwner {
    /// Perform this act.
    Perform(SocketAct),
    /// Let a connection go to whoever wants it.
    HandOver(HandOver),
    /// Close everything that is left, and end.
    End,
}

impl Message for ToOwner {
    type Result = ();
}

/// Tells the node what happened to a socket.
pub(crate) struct FromSocket {
    /// The owner of the socket.
    pub(crate) owner: Owner,
    /// The event.
    pub(crate) event: SocketEvent,
    /// Dropped when the node has taken it up, for whoever goes on only then.
    pub(crate) taken_up: Option<oneshot::Sender<()>>,
}

impl Message for FromSocket {
    type Result = ();
}

/// Tells the node that an owner is no more, whatever ended it: a panic, too.
pub(crate) struct OwnerGone(pub(crate) Owner);

impl Message for OwnerGone {
    type Result = ();
}

/// The places where the sockets of a node report.
#[derive(Clone)]
pub(crate) struct Reporting {
    /// Told what happens.
    pub(crate) node: Recipient<FromSocket>,
    /// Told when an owner is no more.
    pub(crate) gone: Recipient<OwnerGone>,
    /// The number of the next connection that the node did not dial: odd ones are the driver's.
    pub(crate) next: Arc<AtomicU64>,
}

/// All sockets of one owner. Dropped, they are closed.
pub(crate) struct Sockets {
    owner: Owner,
    reporting: Reporting,
    /// One for each connection that may arrive and is not handed over or closed.
    seats: Arc<Semaphore>,
    connections: BTreeMap<ConnectionId, Open>,
    links: BTreeMap<StunLink, ServerLink>,
    listeners: BTreeMap<SocketAddr, SpawnHandle>,
    ports: BTreeMap<SocketAddr, Port>,
    working: BTreeMap<Work, Working>,
    /// Counts whatever is begun, so that nothing is taken for its successor.
    begun: u64,
}

/// An actor that owns sockets.
pub(crate) trait OwnsSockets: Actor<Context = Context<Self>> {
    /// Returns them.
    fn sockets(&mut self) -> &mut Sockets;
}

impl Sockets {
    /// Returns an owner's, none yet. Connections that arrive wait for one of `seats`.
    pub(crate) fn new(owner: Owner, reporting: Reporting, seats: Arc<Semaphore>) -> Self {
        Self {
            owner,
            reporting,
            seats,
            connections: BTreeMap::new(),
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            ports: BTreeMap::new(),
            working: BTreeMap::new(),
            begun: 0,
        }
    }

    /// Takes in a connection that was made elsewhere, and names it.
    pub(crate) fn take_in(&mut self, stream: CarrierStream) -> ConnectionId {
        self.insert(Open::new(stream, None))
    }

    fn insert(&mut self, open: Open) -> ConnectionId {
        let connection = ConnectionId(self.reporting.next.fetch_add(2, Ordering::Relaxed));
        self.connections.insert(connection, open);
        connection
    }

    fn number(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    fn tell(&self, event: SocketEvent) {
        self.reporting.node.do_send(FromSocket { owner: self.owner, event, taken_up: None });
    }

    /// Tells the node, and when it has taken that up.
    fn tell_and_wait(&self, event: SocketEvent) -> oneshot::Receiver<()> {
        let (taken_up, waiting) = oneshot::channel();
        self.reporting.node.do_send(FromSocket { owner: self.owner, event, taken_up: Some(taken_up) });
        waiting
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.reporting.gone.do_send(OwnerGone(self.owner));
    }
}

/// Does what the node asks of an owner.
pub(crate) fn handle<A: OwnsSockets>(actor: &mut A, message: ToOwner, ctx: &mut Context<A>) {
    match message {
        ToOwner::Perform(act) => perform(actor, act, ctx),
        ToOwner::HandOver(hand_over) => connections::hand_over(actor.sockets(), hand_over),
        ToOwner::End => ctx.stop(),
    }
}

fn perform<A: OwnsSockets>(actor: &mut A, act: SocketAct, ctx: &mut Context<A>) {
    match act {
        SocketAct::Listen { at, is_throwaway } => listen::open(actor, at, is_throwaway, ctx),
        SocketAct::Unlisten { at } => {
            if let Some(listening) = actor.sockets().listeners.remove(&at) {
                ctx.cancel_future(listening);
            }
        }
        SocketAct::Dial { connection, from, to, ttl } => {
            work::start(actor, Work::Dial(connection), connections::dial(connection, from, to, ttl), ctx);
        }
        SocketAct::Read { connection, at_most } => connections::read(connection, at_most, ctx),
        SocketAct::Write { connection, bytes } => connections::write(actor, connection, &bytes, ctx),
        SocketAct::Close { connection } => {
            let sockets = actor.sockets();
            sockets.working.remove(&Work::Dial(connection));
            sockets.connections.remove(&connection);
        }
        SocketAct::OpenLink { link } => work::start(actor, Work::OpenLink(link), links::dial(link), ctx),
        SocketAct::WriteLink { link, bytes } => links::write(actor.sockets(), link, &bytes),
        SocketAct::CloseLink { link } => {
            let sockets = actor.sockets();
            sockets.working.remove(&Work::OpenLink(link));
            sockets.links.remove(&link);
        }
        SocketAct::SendDatagram { from, to, bytes } => datagrams::send(actor, from, to, &bytes, ctx),
        SocketAct::CloseDatagrams { from } => drop(actor.sockets().ports.remove(&from)),
        SocketAct::DialHop { syn, from, to, ttl } => {
            work::start(actor, Work::DialHop(syn, from), hops::dial(syn, from, to, ttl), ctx);
        }
        SocketAct::DropHop { syn, from } => drop(actor.sockets().working.remove(&Work::DialHop(syn, from))),
    }
}
