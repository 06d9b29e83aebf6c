//! Connections on their way to be kept: dialled or arrived, read and written as the node says.

use std::io::{self, Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use actix::{ActorFuture, AsyncContext, Context};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::poll_fn;
use p2p_core::attempt::DialError;
use p2p_core::node::{ConnectionId, SocketEvent};
use p2p_core::proof::MOST_FRAME;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::unconstrained;
use tracing::trace;

use super::work::Done;
use super::{HandOver, OwnsSockets, Sockets};
use crate::bind;
use crate::carrier::CarrierStream;

/// A connection that is up.
pub(super) struct Open<S = CarrierStream> {
    stream: S,
    /// What was to be written and has found no room yet.
    unsent: BytesMut,
    /// Given back when it is closed or handed over.
    _seat: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Open<S> {
    pub(super) fn new(stream: S, seat: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, unsent: BytesMut::new(), _seat: seat }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Sends what waits for room, and what the stream gathers.
    pub(super) fn poll_send(&mut self, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(task, &self.unsent))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        Pin::new(&mut self.stream).poll_flush(task)
    }

    /// Sends what the stream takes without waiting: asks it once, whatever this task's budget for IO is.
    fn send_at_once(&mut self) -> Option<io::Result<()>> {
        unconstrained(poll_fn(|task| self.poll_send(task))).now_or_never()
    }

    /// Reads once; `None` is the end.
    fn poll_receive(&mut self, at_most: usize, task: &mut Task<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut buffer = [0; MOST_READ];
        let mut room = ReadBuf::new(&mut buffer[..at_most.min(MOST_READ)]);
        ready!(Pin::new(&mut self.stream).poll_read(task, &mut room))?;
        let read = room.filled();
        Poll::Ready(Ok((!read.is_empty()).then(|| Bytes::copy_from_slice(read))))
    }
}

/// Dials. With `ttl`, the first SYN dies after so many hops.
pub(super) async fn dial(
    connection: ConnectionId,
    from: Option<SocketAddr>,
    to: SocketAddr,
    ttl: Option<u8>,
) -> Done {
    let dialled = match (from, ttl) {
        // Unbound, the system chooses address and port, and can use a port for several targets.
        (None, None) => TcpStream::connect(to).await,
        (from, ttl) => bind::dial_unheard(from.unwrap_or_else(|| any(to)), to, None, ttl).await,
    };
    Done::Dialled(connection, dialled)
}

fn any(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

pub(super) fn on_dialled(sockets: &mut Sockets, connection: ConnectionId, dialled: io::Result<TcpStream>) {
    let up = dialled.and_then(|stream| Ok((stream.local_addr()?, stream.peer_addr()?, stream)));
    let event = match up {
        Ok((local, remote, stream)) => {
            sockets.connections.insert(connection, Open::new(CarrierStream::tcp(stream), None));
            SocketEvent::Connected { connection, local, remote }
        }
        Err(error) => SocketEvent::DialFailed { connection, error: dial_error(&error) },
    };
    sockets.tell(event);
}

/// Reads once, when something comes.
pub(super) fn read<A: OwnsSockets>(connection: ConnectionId, at_most: usize, ctx: &mut Context<A>) {
    ctx.spawn(Read { connection, at_most });
}

struct Read {
    connection: ConnectionId,
    at_most: usize,
}

impl<A: OwnsSockets> ActorFuture<A> for Read {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, _: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let (connection, sockets) = (self.connection, actor.sockets());
        let Some(open) = sockets.connections.get_mut(&connection) else { return Poll::Ready(()) };
        let event = match ready!(open.poll_receive(self.at_most, task)) {
            Ok(Some(bytes)) => SocketEvent::Bytes { connection, bytes },
            Ok(None) => SocketEvent::Lost { connection },
            Err(error) => {
                trace!(?connection, %error, "read");
                SocketEvent::Lost { connection }
            }
        };
        sockets.tell(event);
        Poll::Ready(())
    }
}

/// Writes all of it: at once what there is room for, and the rest when there is room.
pub(super) fn write<A: OwnsSockets>(
    actor: &mut A,
    connection: ConnectionId,
    bytes: &[u8],
    ctx: &mut Context<A>,
) {
    let sockets = actor.sockets();
    let Some(open) = sockets.connections.get_mut(&connection) else { return };
    open.unsent.extend_from_slice(bytes);
    match open.send_at_once() {
        Some(Ok(())) => {}
        Some(Err(error)) => on_unsent(sockets, connection, &error),
        None => drop(ctx.spawn(Write(connection))),
    }
}

struct Write(ConnectionId);

impl<A: OwnsSockets> ActorFuture<A> for Write {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, _: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let sockets = actor.sockets();
        let Some(open) = sockets.connections.get_mut(&self.0) else { return Poll::Ready(()) };
        if let Err(error) = ready!(open.poll_send(task)) {
            on_unsent(sockets, self.0, &error);
        }
        Poll::Ready(())
    }
}

fn on_unsent(sockets: &Sockets, connection: ConnectionId, error: &Error) {
    trace!(?connection, %error, "write");
    sockets.tell(SocketEvent::Lost { connection });
}

/// Gives a connection away.
pub(super) fn hand_over(sockets: &mut Sockets, hand_over: HandOver) {
    match sockets.connections.remove(&hand_over.connection()) {
        Some(mut open) => match open.send_at_once() {
            Some(sent) => hand_over.give(sent.map(|()| open.into_stream())),
            None => drop(tokio::task::spawn_local(hand_over.give_when_sent(open))),
        },
        None => hand_over.give(Err(ErrorKind::NotConnected.into())),
    }
}

/// Tells whose fault a failed dial is.
fn dial_error(error: &Error) -> DialError {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => DialError::Refused,
        ErrorKind::TimedOut => DialError::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            DialError::Unreachable(error.to_string())
        }
        _ => DialError::Local(error.to_string()),
    }
}

/// A frame of a proof, with its length.
const MOST_READ: usize = 2 + MOST_FRAME;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn each_error_has_its_culprit() {
        let of = |kind: ErrorKind| dial_error(&Error::from(kind));
        assert_eq!(of(ErrorKind::ConnectionRefused), DialError::Refused);
        assert_eq!(of(ErrorKind::TimedOut), DialError::TimedOut);
        assert!(matches!(of(ErrorKind::NetworkUnreachable), DialError::Unreachable(_)));
        assert!(matches!(of(ErrorKind::AddrNotAvailable), DialError::Local(_)));
    }

    #[tokio::test]
    async fn no_byte_is_read_that_was_not_asked_for() {
        let (here, mut there) = duplex(100);
        let mut open = Open::new(here, None);
        there.write_all(b"proof and user").await.unwrap();
        let read = poll_fn(|task| open.poll_receive(5, task)).await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"proof"[..]));
        let mut rest = [0; 9];
        open.into_stream().read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b" and user");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_sent_later_and_in_order() {
        let (here, mut there) = duplex(4);
        let mut open = Open::new(here, None);
        for part in [b"fra", b"mes"] {
            open.unsent.extend_from_slice(part);
            let is_sent = open.send_at_once().is_some();
            assert_eq!(is_sent, part == b"fra");
        }
        let mut read = [0; 6];
        let (sent, _) = tokio::join!(poll_fn(|task| open.poll_send(task)), there.read_exact(&mut read));
        sent.unwrap();
        assert_eq!(&read, b"frames");
        drop(there);
        let read = poll_fn(|task| open.poll_receive(1, task)).await;
        assert_eq!(read.unwrap(), None, "the end");
    }
}
