//! What carries the bytes of a connection: at rest between two runtimes, or at work on one.

use std::fmt;
use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use p2p_core::node::KeepAlive;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::{debug, trace};

use crate::drive::now;
use crate::keep_alive::{self, StallGuard};
use crate::relay::{Dialled, Leaving, Relayed, RestedDialled, RestedThrough, Through};

/// A connection at rest: plain state that belongs to no runtime and may go to any thread.
///
/// While it rests nobody reads from it, writes to it or keeps it alive.
#[derive(Debug)]
#[non_exhaustive]
pub enum Carrier {
    /// A TCP connection of the operating system: non-blocking, and registered nowhere.
    Tcp(std::net::TcpStream),
    /// A stream through a relay.
    Relayed(RestedRelay),
}

/// A relayed stream at rest. Dropped, it is cut.
pub struct RestedRelay(Rested);

enum Rested {
    Datagrams(Relayed),
    Connection(RestedThrough),
    Dialled(RestedDialled),
}

impl fmt::Debug for RestedRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestedRelay")
    }
}

impl Carrier {
    /// Puts the connection to work on the current tokio runtime, to which it then belongs.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO enabled.
    pub fn into_stream(self) -> Result<CarrierStream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(CarrierStream::Tcp),
            Self::Relayed(RestedRelay(Rested::Datagrams(stream))) => {
                stream.wake()?;
                Ok(CarrierStream::Relayed(RelayedStream(Relay::Datagrams(stream))))
            }
            Self::Relayed(RestedRelay(Rested::Connection(stream))) => {
                Ok(CarrierStream::Relayed(RelayedStream(Relay::Connection(Box::new(stream.wake()?)))))
            }
            Self::Relayed(RestedRelay(Rested::Dialled(stream))) => {
                Ok(CarrierStream::Relayed(RelayedStream(Relay::Dialled(stream.wake()?))))
            }
        }
    }
}

/// A connection at work on a runtime: a byte stream, whatever it is made of. What it takes is sent without
/// being flushed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CarrierStream {
    /// A TCP connection of the operating system.
    Tcp(TcpStream),
    /// A stream through a relay: over datagrams, or a connection that only a TURN server's goodwill keeps open.
    Relayed(RelayedStream),
}

/// A relayed stream at work. Dropped, it still delivers what was written, for a few seconds, if its runtime lives.
pub struct RelayedStream(Relay);

enum Relay {
    Datagrams(Relayed),
    Connection(Box<Through>),
    Dialled(Dialled),
}

impl fmt::Debug for RelayedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, local, remote) = match &self.0 {
            Relay::Datagrams(stream) => ("datagrams", stream.local_addr(), stream.peer_addr()),
            Relay::Connection(stream) => ("connection", stream.local_addr(), stream.peer_addr()),
            Relay::Dialled(stream) => return write!(f, "RelayedStream(dialled, {:?})", stream.stream()),
        };
        write!(f, "RelayedStream({kind}, {local} to {remote})")
    }
}

impl CarrierStream {
    /// A fresh TCP connection. Small frames must not wait for each other, so `TCP_NODELAY` is set.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            trace!(%error, "TCP_NODELAY");
        }
        Self::Tcp(stream)
    }

    /// The stream over a relay's datagrams.
    pub(crate) fn relayed(stream: Relayed) -> Self {
        Self::Relayed(RelayedStream(Relay::Datagrams(stream)))
    }

    /// A connection through a relay.
    pub(crate) fn through(stream: Through) -> Self {
        Self::Relayed(RelayedStream(Relay::Connection(Box::new(stream))))
    }

    /// A connection through a relay of the peer's.
    pub(crate) fn dialled(self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Relayed(RelayedStream(Relay::Dialled(Dialled::new(stream)))),
            relayed @ Self::Relayed(_) => relayed,
        }
    }

    /// The TCP connection it is made of, to the peer or to a TURN server.
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Relayed(RelayedStream(Relay::Datagrams(_))) => None,
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => stream.socket(),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.stream().ok(),
        }
    }

    /// Has the system keep the connection alive. A relay's datagrams keep themselves alive.
    pub(crate) fn keep_alive(&self, settings: &KeepAlive) {
        if let Some(Err(error)) =
            self.socket().map(|stream| keep_alive::set(settings, &SockRef::from(stream)))
        {
            debug!(%error, "the system does not keep a connection alive");
        }
    }

    /// Looks whether the peer's system still acknowledges: see [`StallGuard`].
    pub fn look(&self, guard: &mut StallGuard) {
        if let Some(stream) = self.socket() {
            guard.look(stream, now());
        }
    }

    /// Whether a dead path is noticed below, from end to end: what is relayed by datagrams asks its peer itself.
    pub fn is_watched(&self) -> bool {
        matches!(self, Self::Relayed(RelayedStream(Relay::Datagrams(_))))
    }

    /// Takes the connection off its runtime.
    pub(crate) fn into_carrier(self) -> Result<Carrier> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Carrier::Tcp),
            Self::Relayed(RelayedStream(Relay::Datagrams(stream))) => {
                stream.rest();
                Ok(Carrier::Relayed(RestedRelay(Rested::Datagrams(stream))))
            }
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => {
                Ok(Carrier::Relayed(RestedRelay(Rested::Connection(stream.rest()?))))
            }
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => {
                Ok(Carrier::Relayed(RestedRelay(Rested::Dialled(stream.rest()?))))
            }
        }
    }

    /// Our end's address, in the sense of [`ConnectionInfo::local`](p2p_core::node::ConnectionInfo::local).
    ///
    /// # Errors
    /// What the operating system says: the connection may be gone.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Relayed(RelayedStream(Relay::Datagrams(stream))) => Ok(stream.local_addr()),
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => Ok(stream.local_addr()),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.stream()?.local_addr(),
        }
    }

    /// The other end's address, in the sense of [`ConnectionInfo::remote`](p2p_core::node::ConnectionInfo::remote).
    ///
    /// # Errors
    /// What the operating system says: the connection may be gone.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr(),
            Self::Relayed(RelayedStream(Relay::Datagrams(stream))) => Ok(stream.peer_addr()),
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => Ok(stream.peer_addr()),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.stream()?.peer_addr(),
        }
    }

    /// The TCP connection itself.
    ///
    /// # Errors
    /// The stream, unharmed, when it is made of something else.
    pub fn into_tcp(self) -> std::result::Result<TcpStream, Self> {
        match self {
            Self::Tcp(stream) => Ok(stream),
            Self::Relayed(RelayedStream(Relay::Dialled(dialled))) => match dialled.into_tcp() {
                Ok(stream) => Ok(stream),
                Err(dialled) => Err(Self::Relayed(RelayedStream(Relay::Dialled(dialled)))),
            },
            relayed @ Self::Relayed(_) => Err(relayed),
        }
    }

    /// Ends what we say, where the peer knows of the end already because something on this stream has told it. Where an
    /// end of the connection would harm what is on its way, there is none until this is dropped, and then not before
    /// the peer's or some seconds later.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => stream.poll_finish(cx),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.poll_finish(),
            stream => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Whether an end of the connection would harm what is on its way: then something on this stream should tell the peer
    /// when its last word was read, and [`on_peer_ended`](Self::on_peer_ended) and [`on_farewell`](Self::on_farewell)
    /// should be called.
    pub fn wants_farewell(&self) -> bool {
        matches!(self, Self::Relayed(RelayedStream(Relay::Connection(_) | Relay::Dialled(_))))
    }

    fn leaving(&mut self) -> Option<&mut Leaving> {
        match self {
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => Some(&mut stream.leaving),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => Some(&mut stream.leaving),
            _ => None,
        }
    }

    /// The peer's last word was read. What still comes is its farewell: it has read ours. When this is dropped, that is
    /// waited for.
    pub fn on_peer_ended(&mut self) {
        self.leaving().into_iter().for_each(Leaving::on_peer_ended);
    }

    /// The peer has read our last word, and said so: nothing has to be waited for.
    pub fn on_farewell(&mut self) {
        self.leaving().into_iter().for_each(Leaving::on_farewell);
    }

    /// Waits until this process is not needed any more for what was written to arrive. For when both directions have
    /// ended; what ends the other then is us. The system delivers what TCP has taken, so that is ready at once.
    ///
    /// # Errors
    /// Why it will not arrive.
    pub fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Relayed(RelayedStream(Relay::Datagrams(stream))) => stream.poll_delivered(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether small writes are sent at once. Where nothing holds them back, nothing changes.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set_nodelay(&self, on: bool) -> Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(on),
            Self::Relayed(RelayedStream(Relay::Datagrams(_))) => Ok(()),
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => stream.set_nodelay(on),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.stream()?.set_nodelay(on),
        }
    }

    /// Waits until a write would be taken, in part at least. A write may still find no room.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Relayed(RelayedStream(Relay::Datagrams(stream))) => stream.poll_write_ready(cx),
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => stream.poll_write_ready(cx),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.stream()?.poll_write_ready(cx),
        }
    }
}

macro_rules! whichever {
    ($self:ident, $method:ident($($arg:expr),*)) => {
        match $self.get_mut() {
            CarrierStream::Tcp(stream) => Pin::new(stream).$method($($arg),*),
            CarrierStream::Relayed(RelayedStream(Relay::Datagrams(stream))) => {
                Pin::new(stream).$method($($arg),*)
            }
            CarrierStream::Relayed(RelayedStream(Relay::Connection(stream))) => {
                Pin::new(&mut **stream).$method($($arg),*)
            }
            CarrierStream::Relayed(RelayedStream(Relay::Dialled(stream))) => {
                Pin::new(stream).$method($($arg),*)
            }
        }
    };
}

impl AsyncRead for CarrierStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        whichever!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for CarrierStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        whichever!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        whichever!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Relayed(RelayedStream(Relay::Datagrams(stream))) => stream.is_write_vectored(),
            Self::Relayed(RelayedStream(Relay::Connection(stream))) => stream.is_write_vectored(),
            Self::Relayed(RelayedStream(Relay::Dialled(stream))) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        whichever!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        whichever!(self, poll_shutdown(cx))
    }
}
