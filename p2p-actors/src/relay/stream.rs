//! The byte streams that come through a relay.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use p2p_core::transport::{Read, TransportError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Held;
use super::core::{Core, Parting};
use super::link::{Link, Rested};
use crate::drive::now;

/// The stream over datagrams. There is one of each circuit. Dropped, it delivers what was written, for a few seconds.
pub(crate) struct Relayed {
    held: Held,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Relayed {
    pub(super) fn new(held: Held) -> io::Result<Self> {
        let (local, remote) = held.core().ends()?;
        Ok(Self { held, local, remote })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer may have been lent another address meanwhile: this is the first.
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Off its runtime.
    pub(crate) fn rest(&self) {
        self.held.rest();
    }

    /// To work on the current runtime, if it was at rest.
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.held.wake()
    }

    /// As [`CarrierStream::poll_delivered`](crate::CarrierStream::poll_delivered).
    pub(crate) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.held.core();
        core.poll_delivered(cx).map_err(|error| broken(&core, error))
    }

    pub(crate) fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.held.core();
        check(&core)?;
        if core.circuit.has_room(now()) {
            return Poll::Ready(Ok(()));
        }
        core.wait_for_writing(cx);
        Poll::Pending
    }
}

impl AsyncRead for Relayed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut core = self.held.core();
        match core.circuit.read(buf.initialize_unfilled(), now()) {
            Ok(Read::Bytes(length)) => {
                buf.advance(length);
                core.pump_aside();
            }
            Ok(Read::End) => {}
            Ok(Read::Nothing) => {
                core.wait_for_reading(cx);
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(broken(&core, error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Relayed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut core = self.held.core();
        let taken = match core.circuit.write(bytes, now()) {
            Ok(0) if !bytes.is_empty() => {
                core.wait_for_writing(cx);
                return Poll::Pending;
            }
            Ok(taken) => taken,
            Err(error) => return Poll::Ready(Err(broken(&core, error))),
        };
        core.pump_aside();
        Poll::Ready(Ok(taken))
    }

    /// What was taken is sent as soon as the path has room, flushed or not.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.held.core();
        // Said after the end of it all, there is nobody to hear it.
        let _ = core.circuit.finish(now());
        core.pump_aside();
        Poll::Ready(Ok(()))
    }
}

fn check(core: &Core) -> io::Result<()> {
    match &core.ended {
        Some((Some(error), _)) => Err(broken(core, *error)),
        _ => Ok(()),
    }
}

/// The error of a stream that is over, and what was wrong with our server then.
fn broken(core: &Core, error: TransportError) -> io::Error {
    // Where nothing is left of the stream, how it ended still is.
    let error = match core.ended {
        Some((Some(ended), _)) if error == TransportError::Closed => ended,
        _ => error,
    };
    let kind = match error {
        TransportError::Reset(_) => io::ErrorKind::ConnectionReset,
        TransportError::Silent | TransportError::Stuck => io::ErrorKind::TimedOut,
        TransportError::Contradiction => io::ErrorKind::InvalidData,
        TransportError::Finished | TransportError::Closed => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::ConnectionAborted,
    };
    match &core.ended {
        Some((_, Some(trouble))) => io::Error::new(kind, format!("{error} ({trouble})")),
        _ => io::Error::new(kind, error),
    }
}

/// How far a relayed connection (RFC 6062) is from its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    /// The peer hears of the end of what we say, without an end of the connection.
    is_finished: bool,
    /// What has to come before that may end; `None` when nothing has to.
    parting: Option<Parting>,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { is_finished: false, parting: Some(Parting::End) }
    }
}

impl Leaving {
    /// As [`CarrierStream::on_peer_ended`](crate::CarrierStream::on_peer_ended).
    pub(crate) fn on_peer_ended(&mut self) {
        self.parting = Some(Parting::Farewell);
    }

    /// As [`CarrierStream::on_farewell`](crate::CarrierStream::on_farewell).
    pub(crate) fn on_farewell(&mut self) {
        self.parting = None;
    }
}

/// A connection that a peer made through our server (RFC 6062), with what keeps the server willing.
///
/// A server may end both directions, and throw away what is on its way, when it hears the end of one: coturn 4.6
/// resets both sockets. So an end that is told otherwise is better not told by TCP.
pub(crate) struct Through {
    /// There until it is dropped.
    link: Option<Link>,
    pub(crate) leaving: Leaving,
    /// What came before it was ours to read.
    early: Bytes,
    held: Held,
    local: SocketAddr,
    remote: SocketAddr,
}

/// A [`Through`] at rest.
pub(crate) struct RestedThrough {
    link: Rested,
    early: Bytes,
    held: Held,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Through {
    pub(super) fn new(link: Link, early: Bytes, remote: SocketAddr, held: Held) -> Self {
        let lent = held.core().lent_for(remote);
        let local = lent.or_else(|| link.local_addr().ok()).unwrap_or(remote);
        Self { link: Some(link), leaving: Leaving::default(), early, held, local, remote }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) fn rest(mut self) -> io::Result<RestedThrough> {
        let link = self.link.take().ok_or(io::ErrorKind::NotConnected)?.rest()?;
        self.held.rest();
        let (early, held) = (std::mem::take(&mut self.early), self.held.clone());
        Ok(RestedThrough { link, early, held, local: self.local, remote: self.remote })
    }

    /// The connection to our server.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        self.link.as_ref().and_then(Link::tcp)
    }

    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.link.as_ref().map_or(Ok(()), |link| link.set_nodelay(on))
    }

    pub(crate) fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link {
            Some(link) => link.poll_send_ready(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// As [`CarrierStream::poll_finish`](crate::CarrierStream::poll_finish).
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.leaving.is_finished = true;
        AsyncWrite::poll_flush(self.link()?, cx)
    }

    fn link(&mut self) -> io::Result<Pin<&mut Link>> {
        self.link.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The server ends all connections with the allocation, so that stays until this one is over.
impl Drop for Through {
    fn drop(&mut self) {
        if let Some(mut link) = self.link.take()
            && self.held.is_kept()
        {
            if !self.leaving.is_finished {
                let _ = Pin::new(&mut link).poll_shutdown(&mut Context::from_waker(Waker::noop()));
            }
            if let Some(parting) = self.leaving.parting {
                self.held.core().linger(link, parting);
            }
        }
    }
}

impl RestedThrough {
    pub(crate) fn wake(self) -> io::Result<Through> {
        self.held.wake()?;
        let Self { link, early, held, local, remote } = self;
        let link = Some(link.wake()?);
        Ok(Through { link, leaving: Leaving::default(), early, held, local, remote })
    }
}

impl AsyncRead for Through {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        self.link()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Through {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.link()?.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self.link()?, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(AsyncWrite::poll_flush(self.link()?, cx))?;
        self.link()?.poll_shutdown(cx)
    }
}

/// A connection that we made through the peer's server (RFC 6062). What is said of [`Through`] is true at this end, too.
pub(crate) struct Dialled {
    /// There until it is dropped.
    stream: Option<TcpStream>,
    pub(crate) leaving: Leaving,
}

/// A [`Dialled`] at rest.
pub(crate) struct RestedDialled(std::net::TcpStream);

impl Dialled {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream), leaving: Leaving::default() }
    }

    pub(crate) fn stream(&self) -> io::Result<&TcpStream> {
        self.stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn pinned(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The bare connection.
    pub(crate) fn into_tcp(mut self) -> Result<TcpStream, Self> {
        self.stream.take().ok_or(self)
    }

    pub(crate) fn rest(mut self) -> io::Result<RestedDialled> {
        self.stream.take().ok_or(io::ErrorKind::NotConnected)?.into_std().map(RestedDialled)
    }

    /// As [`CarrierStream::poll_finish`](crate::CarrierStream::poll_finish).
    pub(crate) fn poll_finish(&mut self) -> Poll<io::Result<()>> {
        self.leaving.is_finished = true;
        Poll::Ready(Ok(()))
    }
}

impl RestedDialled {
    pub(crate) fn wake(self) -> io::Result<Dialled> {
        TcpStream::from_std(self.0).map(Dialled::new)
    }
}

/// What the server still has of us is delivered before it hears of an end.
impl Drop for Dialled {
    fn drop(&mut self) {
        let Leaving { is_finished: true, parting: Some(parting) } = self.leaving else { return };
        let Some(mut stream) = self.stream.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let rest = async {
                    let mut rest = [0; 1_024];
                    // A farewell is all that can come after the peer's last word.
                    while let Ok(1..) = stream.read(&mut rest).await
                        && parting != Parting::Farewell
                    {}
                };
                // Whether it ends by itself or has to be ended: nobody is left who wants to know.
                let _ = tokio::time::timeout(parting.patience(), rest).await;
            });
        }
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pinned()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(cx)
    }
}
