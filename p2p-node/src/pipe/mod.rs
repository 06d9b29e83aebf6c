//! Pipes: the byte streams between two nodes.

mod bare;
mod control;
mod error;
mod liveness;
mod record;
mod sealed;
mod stream;
mod tended;
#[cfg(test)]
mod tests;
mod transport;

use std::fmt;
use std::future::poll_fn;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use p2p_actors::{ActiveConnection, PipePlace, ProvenConnection};
use p2p_core::node::{ConnectionInfo, KeepAlive};
use p2p_core::peer::PeerId;
use p2p_core::proof::{Cipher, Session};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use tended::Tended;

/// A byte stream to a proven peer.
///
/// It belongs to the runtime it was made on, which needs IO and time enabled, and outlives its [`Node`](crate::Node). No
/// actor, thread or process stands between you and the socket. One task of its own looks after it every 15 s. Bytes are
/// encrypted unless both ends wished a plain pipe.
///
/// **Closing.** `shutdown` ends our direction and tells the peer, which then reads end-of-file. The other direction stays
/// open. An encrypted pipe that ends without this reads as
/// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof): somebody cut it. Dropping a pipe cuts it. A plain pipe through
/// a relay may lose the other direction with `shutdown`: some TURN servers, coturn among them, end both.
///
/// **Leaving.** What `shutdown` leaves behind in a TCP connection the system delivers, also when the process ends. Through
/// a relay the process does it: for some seconds after a pipe was dropped, as long as its runtime lives. Who wants to
/// be sure, or ends the process, calls [`close`](Self::close).
///
/// **Dying.** A path that is dead is an error of kind [`TimedOut`](std::io::ErrorKind::TimedOut) within a minute, for
/// who reads and for who writes: the system asks after an idle connection, and an encrypted pipe asks its peer. A peer that
/// only reads slowly is waited for. See [`KeepAlive`], and `docs/keep-alive.md` for what it costs.
///
/// **Flushing.** A write may leave up to 64 KiB in the pipe when the kernel's buffer is full; `flush`, or
/// the next write, sends it on.
pub struct Pipe {
    stream: Tended<ActiveConnection>,
    session: Box<Session>,
    how: Box<ConnectionInfo>,
    /// The place that is counted against its peer for as long as it lives.
    place: Option<PipePlace>,
}

impl Pipe {
    /// Takes a connection over to the current runtime.
    pub(crate) fn new(proven: ProvenConnection, keep_alive: &KeepAlive) -> Result<Self> {
        let ProvenConnection { connection, session, info: how, place } = proven;
        let stream = Tended::new(connection.into_stream()?, &session, keep_alive)?;
        Ok(Self { stream, session: Box::new(session), how: Box::new(how), place })
    }

    /// Returns the peer at the other end, which has proven its identity.
    pub fn peer(&self) -> PeerId {
        self.session.claim.peer
    }

    /// Returns how the connection came to be.
    pub fn how(&self) -> &ConnectionInfo {
        &self.how
    }

    /// Returns the cipher, or `None` when both ends wished a plain pipe.
    pub fn cipher(&self) -> Option<Cipher> {
        (!self.session.plain).then_some(self.session.cipher)
    }

    /// Returns 32 bytes that are the same at both ends of this pipe and of no other (RFC 5056). They bind a login or
    /// another protocol to it.
    pub fn binding(&self) -> [u8; 32] {
        self.session.binding
    }

    /// Ends our direction, hears the peer out, and waits until this process is not needed any more for what was written to
    /// arrive. As long as the peer does not end its direction, neither does this: bound it by a timeout if the peer may
    /// not.
    ///
    /// Through a relay that means that the peer's system has everything, or, where it is a relayed connection and
    /// encrypted, that the peer's user has read it. Of a plain relayed connection nothing can be known.
    ///
    /// # Errors
    /// The error that keeps it from arriving.
    pub async fn close(mut self) -> Result<()> {
        self.shutdown().await?;
        tokio::io::copy(&mut self, &mut tokio::io::sink()).await?;
        poll_fn(|cx| self.stream.poll_delivered(cx)).await
    }

    /// Returns the bare TCP connection, when both ends wished a plain pipe and it is one. Nothing was read from it,
    /// and nothing but the user's bytes was written since the proof.
    ///
    /// The system goes on keeping it alive as [`KeepAlive`] says. On Linux one thing changes: a peer that reads nothing for
    /// longer than [`KeepAlive::unacknowledged`], while more is sent than it has room for, is cut, as nobody moves that
    /// deadline (`TCP_USER_TIMEOUT`) any more. Who expects such peers sets it to zero.
    ///
    /// # Errors
    /// The pipe itself, unharmed, when it is encrypted or not carried by TCP.
    pub fn into_tcp(self) -> std::result::Result<TcpStream, Self> {
        let Self { stream, session, how, place } = self;
        stream.into_bare(ActiveConnection::into_tcp).map_err(|stream| Self { stream, session, how, place })
    }

    /// Sets whether small writes are sent at once. The default is that they are. Nothing changes in a pipe that TCP does
    /// not carry, as it never holds them back.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn set_nodelay(&self, on: bool) -> Result<()> {
        self.stream.with(|stream| stream.transport().set_nodelay(on))
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe")
            .field("peer", &self.peer())
            .field("cipher", &self.cipher())
            .field("how", &self.how)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
