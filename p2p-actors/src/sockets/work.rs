//! Dials under way. Their first step is made while the act is performed, and dropped they are gone at once.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::Instant;

use actix::{ActorFuture, AsyncContext, Context};
use futures_util::FutureExt;
use p2p_core::node::{ConnectionId, SocketEvent, StunLink};
use tokio::net::TcpStream;

use super::{OwnsSockets, connections, links};

/// Names a dial under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    Dial(ConnectionId),
    OpenLink(StunLink),
    DialHop(u8, SocketAddr),
}

/// The end of a dial.
pub(super) enum Done {
    Dialled(ConnectionId, io::Result<TcpStream>),
    /// With the time at which its SYN left.
    LinkDialled(StunLink, Instant, io::Result<TcpStream>),
    HopDialled {
        syn: u8,
        from: SocketAddr,
        fate: Fate,
    },
}

/// The fate of a SYN that was to die on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Expired(IpAddr),
    Answered,
    Unsent,
}

/// A dial that is waited for.
pub(super) struct Working {
    number: u64,
    future: Pin<Box<dyn Future<Output = Done>>>,
}

/// Starts a dial, and makes its first step, which sends the SYN.
pub(super) fn start<A: OwnsSockets>(
    actor: &mut A,
    work: Work,
    future: impl Future<Output = Done> + 'static,
    ctx: &mut Context<A>,
) {
    let mut future: Pin<Box<dyn Future<Output = Done>>> = Box::pin(future);
    if let Some(done) = (&mut future).now_or_never() {
        return finish(actor, done, ctx);
    }
    let sockets = actor.sockets();
    let number = sockets.number();
    sockets.working.insert(work, Working { number, future });
    ctx.spawn(Wait { work, number });
}

/// Waits for a dial for as long as it is wanted.
struct Wait {
    work: Work,
    number: u64,
}

impl<A: OwnsSockets> ActorFuture<A> for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let working = &mut actor.sockets().working;
        let Some(found) = working.get_mut(&self.work).filter(|found| found.number == self.number) else {
            return Poll::Ready(());
        };
        let done = ready!(found.future.as_mut().poll(task));
        working.remove(&self.work);
        finish(actor, done, ctx);
        Poll::Ready(())
    }
}

fn finish<A: OwnsSockets>(actor: &mut A, done: Done, ctx: &mut Context<A>) {
    match done {
        Done::Dialled(connection, dialled) => connections::on_dialled(actor.sockets(), connection, dialled),
        Done::LinkDialled(link, since, dialled) => links::on_dialled(actor, link, since, dialled, ctx),
        Done::HopDialled { syn, from, fate } => actor.sockets().tell(match fate {
            Fate::Expired(by) => SocketEvent::SynExpired { syn, from, by },
            Fate::Answered => SocketEvent::SynAnswered { syn, from },
            Fate::Unsent => SocketEvent::SynUnsent { syn, from },
        }),
    }
}
