//! Dials under way. Their first step is made while the act is performed, and dropped they are gone at once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::Instant;

use actix::{ActorFuture, AsyncContext, Context};
use futures_util::FutureExt;
use p2p_core::node::{ConnectionId, SocketEvent, StunLink};
use tokio::net::TcpStream;

use super::hops::{self, SynFate};
use super::{OwnsSockets, connections, links};
use crate::drive::now;

/// Names a dial under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DialKey {
    Connection(ConnectionId),
    Link(StunLink),
    /// The number of a SYN, and the address it comes from.
    Hop(u8, SocketAddr),
}

/// The end of a dial.
enum DialEnd {
    Connection(ConnectionId, io::Result<TcpStream>),
    /// With the time at which its SYN left.
    Link(StunLink, Instant, io::Result<TcpStream>),
    Hop(u8, SocketAddr, SynFate),
}

/// A dial that is waited for.
pub(super) struct DialTask {
    number: u64,
    future: Pin<Box<dyn Future<Output = DialEnd>>>,
}

pub(super) fn connection<A: OwnsSockets>(
    actor: &mut A,
    connection: ConnectionId,
    from: Option<SocketAddr>,
    to: SocketAddr,
    ttl: Option<u8>,
    ctx: &mut Context<A>,
) {
    let dialled = async move { DialEnd::Connection(connection, connections::dial(from, to, ttl).await) };
    start(actor, DialKey::Connection(connection), dialled, ctx);
}

pub(super) fn link<A: OwnsSockets>(actor: &mut A, link: StunLink, ctx: &mut Context<A>) {
    let since = now();
    let dialled = async move { DialEnd::Link(link, since, links::dial(link).await) };
    start(actor, DialKey::Link(link), dialled, ctx);
}

pub(super) fn hop<A: OwnsSockets>(
    actor: &mut A,
    (syn, ttl): (u8, u8),
    from: SocketAddr,
    to: SocketAddr,
    ctx: &mut Context<A>,
) {
    let dialled = async move { DialEnd::Hop(syn, from, hops::dial(from, to, ttl).await) };
    start(actor, DialKey::Hop(syn, from), dialled, ctx);
}

/// Starts a dial, and makes its first step, which sends the SYN.
fn start<A: OwnsSockets>(
    actor: &mut A,
    key: DialKey,
    future: impl Future<Output = DialEnd> + 'static,
    ctx: &mut Context<A>,
) {
    let mut future: Pin<Box<dyn Future<Output = DialEnd>>> = Box::pin(future);
    if let Some(end) = (&mut future).now_or_never() {
        return finish(actor, end, ctx);
    }
    let sockets = actor.sockets();
    let number = sockets.number();
    sockets.dials.insert(key, DialTask { number, future });
    ctx.spawn(WaitForDial { key, number });
}

/// Waits for a dial for as long as it is wanted.
struct WaitForDial {
    key: DialKey,
    number: u64,
}

impl<A: OwnsSockets> ActorFuture<A> for WaitForDial {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let dials = &mut actor.sockets().dials;
        let Some(dial) = dials.get_mut(&self.key).filter(|dial| dial.number == self.number) else {
            return Poll::Ready(());
        };
        let end = ready!(dial.future.as_mut().poll(task));
        dials.remove(&self.key);
        finish(actor, end, ctx);
        Poll::Ready(())
    }
}

fn finish<A: OwnsSockets>(actor: &mut A, end: DialEnd, ctx: &mut Context<A>) {
    match end {
        DialEnd::Connection(connection, dialled) => {
            connections::on_dialled(actor.sockets(), connection, dialled);
        }
        DialEnd::Link(link, since, dialled) => links::on_dialled(actor, link, since, dialled, ctx),
        DialEnd::Hop(syn, from, fate) => {
            tracing::trace!(syn, %from, ?fate, "a SYN that was to die");
            actor.sockets().tell(match fate {
                SynFate::Expired(by) => SocketEvent::SynExpired { syn, from, by },
                SynFate::Answered => SocketEvent::SynAnswered { syn, from },
                SynFate::Unsent => SocketEvent::SynUnsent { syn, from },
            });
        }
    }
}
