//! TCP connections to STUN servers, from ports of the node's choice.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, Instant};

use actix::{ActorFuture, AsyncContext, Context};
use bytes::Bytes;
use futures_util::FutureExt;
use p2p_core::node::{SocketEvent, StunLink};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::work::Done;
use super::{OwnsSockets, Sockets};
use crate::bind;
use crate::drive::now;

/// A connection that is up. Only here: taken out of the table it is closed at once, and its port is free to dial from
/// again.
pub(super) struct ServerLink {
    number: u64,
    stream: TcpStream,
}

/// Dials.
pub(super) async fn dial(link: StunLink) -> Done {
    let since = now();
    Done::LinkDialled(link, since, bind::dial(link.from, link.to, None).await)
}

pub(super) fn on_dialled<A: OwnsSockets>(
    actor: &mut A,
    link: StunLink,
    since: Instant,
    dialled: io::Result<TcpStream>,
    ctx: &mut Context<A>,
) {
    let sockets = actor.sockets();
    match dialled {
        Ok(stream) => {
            // Its end must not leave the port in TIME_WAIT towards this server: it is asked again.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let number = sockets.number();
            sockets.links.insert(link, ServerLink { number, stream });
            sockets.tell(SocketEvent::LinkUp { link, since });
            ctx.spawn(Read { link, number, waiting: None });
        }
        Err(error) => lose(sockets, link, Some(error.kind())),
    }
}

/// Writes a request. To a connection that is no more it is lost, which the node will have been told.
pub(super) fn write(sockets: &mut Sockets, link: StunLink, bytes: &[u8]) {
    let Some(open) = sockets.links.get(&link) else { return };
    // A request of a few bytes always fits the empty buffer of a new connection.
    match open.stream.try_write(bytes) {
        Ok(length) if length == bytes.len() => {}
        Ok(_) => lose(sockets, link, Some(ErrorKind::WriteZero)),
        Err(error) => lose(sockets, link, Some(error.kind())),
    }
}

/// A connection is no more, by itself.
fn lose(sockets: &mut Sockets, link: StunLink, why: Option<ErrorKind>) {
    sockets.links.remove(&link);
    sockets.tell(SocketEvent::LinkDown { link, why: why.map(cause) });
}

/// A port that cannot be had is one that is in use, for the node: it says nothing about the network.
pub(super) fn cause(kind: ErrorKind) -> ErrorKind {
    match kind {
        ErrorKind::AddrNotAvailable => ErrorKind::AddrInUse,
        other => other,
    }
}

/// Reads a connection until it ends or is taken away, no faster than the node takes up what was read.
struct Read {
    link: StunLink,
    number: u64,
    waiting: Option<oneshot::Receiver<()>>,
}

impl<A: OwnsSockets> ActorFuture<A> for Read {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, actor: &mut A, _: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let (link, sockets) = (self.link, actor.sockets());
        let mut buffer = [0; 1_024];
        loop {
            if let Some(waiting) = &mut self.waiting {
                // An error says that it was taken up: the sender is dropped then.
                let _ = ready!(waiting.poll_unpin(task));
                self.waiting = None;
            }
            let Some(open) = sockets.links.get(&link).filter(|open| open.number == self.number) else {
                return Poll::Ready(());
            };
            let read = match ready!(open.stream.poll_read_ready(task)) {
                Ok(()) => open.stream.try_read(&mut buffer),
                Err(error) => Err(error),
            };
            match read {
                Ok(0) => lose(sockets, link, None),
                Ok(length) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..length]);
                    self.waiting = Some(sockets.tell_and_wait(SocketEvent::LinkBytes { link, bytes }));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => lose(sockets, link, Some(error.kind())),
            }
        }
    }
}
