//! TCP connections from ports of our own choice, for actors that drive a machine which asks servers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, Instant};

use actix::{ActorFuture, ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::bind;
use crate::drive::{Drives, now, turn};

/// From where to where.
pub(super) type Lane = (SocketAddr, SocketAddr);

enum State {
    Dialling(SpawnHandle),
    /// Only here: taken out of the map it is closed at once, and its port is free to dial from again.
    Open {
        number: u64,
        stream: TcpStream,
    },
}

struct Link {
    since: Instant,
    state: State,
}

/// The connections of one actor, each known by its two ends.
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<Lane, Link>,
    /// Connections made so far.
    opened: u64,
}

/// An actor whose machine talks over [`Links`].
pub(super) trait Linked: Drives {
    /// Where they are kept.
    fn links(&mut self) -> &mut Links;
    /// A connection stands.
    fn on_open(&mut self, lane: Lane);
    /// Bytes came.
    fn on_bytes(&mut self, lane: Lane, bytes: &[u8]);
    /// A connection could not be made (`Some`), broke, or was closed by the other end.
    fn on_lost(&mut self, lane: Lane, why: Option<io::ErrorKind>);
}

impl Links {
    /// When the SYN of a connection left, if there is one.
    pub(super) fn since(&self, lane: Lane) -> Option<Instant> {
        self.links.get(&lane).map(|link| link.since)
    }
}

/// Dials. The SYN leaves before this returns, so that SYNs go out in the order of calls.
pub(super) fn open<A: Linked>(actor: &mut A, lane: Lane, ctx: &mut Context<A>) {
    let since = now();
    let mut dialling = Box::pin(bind::dial(lane.0, lane.1, None));
    match (&mut dialling).now_or_never() {
        Some(dialled) => on_dialled(actor, lane, since, dialled, ctx),
        None => {
            let dialling = ctx.spawn(dialling.into_actor(actor).map(move |dialled, actor, ctx| {
                on_dialled(actor, lane, since, dialled, ctx);
                turn(actor, ctx);
            }));
            actor.links().links.insert(lane, Link { since, state: State::Dialling(dialling) });
        }
    }
}

fn on_dialled<A: Linked>(
    actor: &mut A,
    lane: Lane,
    since: Instant,
    dialled: io::Result<TcpStream>,
    ctx: &mut Context<A>,
) {
    match dialled {
        Ok(stream) => {
            // Its end must not leave the port in TIME_WAIT towards this server: it is asked again.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let links = actor.links();
            links.opened += 1;
            let number = links.opened;
            links.links.insert(lane, Link { since, state: State::Open { number, stream } });
            ctx.spawn(Read { lane, number });
            actor.on_open(lane);
        }
        Err(error) => lose(actor, lane, Some(error.kind())),
    }
}

/// Sends a request.
pub(super) fn write<A: Linked>(actor: &mut A, lane: Lane, bytes: &[u8]) {
    let written = match actor.links().links.get(&lane) {
        Some(Link { state: State::Open { stream, .. }, .. }) => stream.try_write(bytes),
        _ => Err(io::ErrorKind::NotConnected.into()),
    };
    // A request of a few bytes always fits the empty buffer of a new connection.
    match written {
        Ok(length) if length == bytes.len() => {}
        Ok(_) => lose(actor, lane, Some(io::ErrorKind::WriteZero)),
        Err(error) => lose(actor, lane, Some(error.kind())),
    }
}

/// Closes a connection with a RST, or stops dialling.
pub(super) fn close<A: Linked>(actor: &mut A, lane: Lane, ctx: &mut Context<A>) {
    if let Some(Link { state: State::Dialling(dialling), .. }) = actor.links().links.remove(&lane) {
        ctx.cancel_future(dialling);
    }
}

/// A connection is no more, by itself.
fn lose<A: Linked>(actor: &mut A, lane: Lane, why: Option<io::ErrorKind>) {
    actor.links().links.remove(&lane);
    actor.on_lost(lane, why);
}

/// Reads one connection until it ends or is taken away.
struct Read {
    lane: Lane,
    number: u64,
}

impl<A: Linked> ActorFuture<A> for Read {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let mut buffer = [0; 1_024];
        loop {
            let read = match actor.links().links.get(&self.lane) {
                Some(Link { state: State::Open { number, stream }, .. }) if *number == self.number => {
                    match ready!(stream.poll_read_ready(task)) {
                        Ok(()) => stream.try_read(&mut buffer),
                        Err(error) => Err(error),
                    }
                }
                _ => return Poll::Ready(()),
            };
            match read {
                Ok(0) => lose(actor, self.lane, None),
                Ok(length) => actor.on_bytes(self.lane, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => lose(actor, self.lane, Some(error.kind())),
            }
            turn(actor, ctx);
        }
    }
}
