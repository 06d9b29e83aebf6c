//! One way to a TURN server: datagrams, a stream, or a stream within TLS (RFC 8656, section 3.1).

mod tls;
mod udp;

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use p2p_core::turn::Carrier;
use p2p_core::turn::client::Place;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};

pub(crate) use tls::Secured;
pub(crate) use udp::Datagrams;

use crate::tls::CaFiles;

/// A way to a TURN server at work on a runtime.
///
/// It can be read and written from two tasks: each direction has one waker, that of the last call. Nothing is held in
/// it but what TLS holds back; a UDP link has no buffer at all.
///
/// As a byte stream ([`AsyncRead`], [`AsyncWrite`]) it is what a data connection of RFC 6062 becomes. Datagrams are no
/// stream: over UDP those are [`Unsupported`](io::ErrorKind::Unsupported).
#[derive(Debug)]
pub(crate) enum Link {
    /// Datagrams.
    Udp(Datagrams),
    /// A stream.
    Tcp(TcpStream),
    /// A stream within TLS.
    Tls(Box<Secured<TcpStream>>),
}

/// A way to a TURN server at rest: plain state that belongs to no runtime and may go to any thread. Nothing that was
/// received and not read, or taken and not sent, is lost by it.
#[derive(Debug)]
pub(crate) enum Rested {
    /// Datagrams.
    Udp(std::net::UdpSocket),
    /// A stream.
    Tcp(std::net::TcpStream),
    /// A stream within TLS.
    Tls(Box<Secured<std::net::TcpStream>>),
}

impl Link {
    /// Opens it: over UDP at the first poll, over TCP by a dial, over TLS by a dial and a handshake with the
    /// certificates of `trust`. It takes as long as the system and the server like; dropping the future stops it.
    ///
    /// # Errors
    /// What the system says. Where TLS fails, the text says whose fault it is:
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) is ours (a CA file, a name no certificate can have),
    /// [`InvalidData`](io::ErrorKind::InvalidData) the server's.
    pub(crate) async fn open(place: &Place, trust: &CaFiles) -> io::Result<Self> {
        match place.carrier {
            Carrier::Udp => Datagrams::open(place.address).await.map(Self::Udp),
            Carrier::Tcp => Ok(Self::Tcp(dial(place.address).await?)),
            Carrier::Tls => {
                let host = place.host.clone().unwrap_or_else(|| place.address.ip().to_string());
                let secured = Secured::handshake(dial(place.address).await?, &host, trust).await?;
                Ok(Self::Tls(Box::new(secured)))
            }
        }
    }

    /// Receives one datagram, cut to the size of `buf`; or a piece of the stream, where `Ok(0)` is its end.
    ///
    /// # Errors
    /// What the system says: over UDP an error is an ICMP message about an earlier datagram, and the link goes on.
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) where TLS was cut without a farewell.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Udp(datagrams) => datagrams.poll_recv(cx, buf),
            Self::Tcp(stream) => {
                let mut room = ReadBuf::new(buf);
                ready!(Pin::new(stream).poll_read(cx, &mut room))?;
                Poll::Ready(Ok(room.filled().len()))
            }
            Self::Tls(secured) => secured.poll_read(cx, buf),
        }
    }

    /// Sends one datagram, within this call unless the system has no room; or takes as much of the bytes as goes.
    ///
    /// # Errors
    /// As [`poll_recv`](Self::poll_recv).
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Udp(datagrams) => datagrams.poll_send(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(secured) => secured.poll_write(cx, bytes),
        }
    }

    /// Waits until [`poll_send`](Self::poll_send) would take something. It may still find no room.
    ///
    /// # Errors
    /// As [`poll_recv`](Self::poll_recv).
    pub(crate) fn poll_send_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Udp(datagrams) => datagrams.poll_send_ready(cx),
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Tls(secured) => secured.poll_write_ready(cx),
        }
    }

    /// Sends what TLS holds back: the end of what was taken when the system had no room for all of it. Whoever is done
    /// sending asks until it is ready.
    ///
    /// # Errors
    /// As [`poll_recv`](Self::poll_recv).
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Udp(_) | Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Tls(secured) => secured.poll_flush(cx),
        }
    }

    /// Takes it off its runtime. Meanwhile the system keeps what arrives, and nobody keeps the server's memory of us
    /// alive.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn rest(self) -> io::Result<Rested> {
        Ok(match self {
            Self::Udp(datagrams) => Rested::Udp(datagrams.into_std()?),
            Self::Tcp(stream) => Rested::Tcp(stream.into_std()?),
            Self::Tls(secured) => Rested::Tls(Box::new(secured.try_map(TcpStream::into_std)?)),
        })
    }

    /// Whether small writes are sent at once; where nothing holds them back, nothing changes.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Tcp(stream) => stream.set_nodelay(on),
            Self::Tls(secured) => secured.socket().set_nodelay(on),
        }
    }

    /// The TCP connection it is made of, if it is.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Udp(_) => None,
            Self::Tcp(stream) => Some(stream),
            Self::Tls(secured) => Some(secured.socket()),
        }
    }

    /// Our end's address.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(datagrams) => datagrams.socket().local_addr(),
            Self::Tcp(stream) => stream.local_addr(),
            Self::Tls(secured) => secured.socket().local_addr(),
        }
    }
}

impl Rested {
    /// Puts it to work on the current runtime, to which it then belongs.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO enabled.
    pub(crate) fn wake(self) -> io::Result<Link> {
        Ok(match self {
            Self::Udp(socket) => Link::Udp(Datagrams::new(UdpSocket::from_std(socket)?)),
            Self::Tcp(stream) => Link::Tcp(TcpStream::from_std(stream)?),
            Self::Tls(secured) => Link::Tls(Box::new(secured.try_map(TcpStream::from_std)?)),
        })
    }
}

async fn dial(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    // A socket that dials the very port the system gave it connects to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn no_stream() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "datagrams are no stream")
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udp(_) => Poll::Ready(Err(no_stream())),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(secured) => {
                let length = ready!(secured.poll_read(cx, buf.initialize_unfilled()))?;
                buf.advance(length);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Udp(_) => Poll::Ready(Err(no_stream())),
            stream => stream.poll_send(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Udp(_) => Poll::Ready(Err(no_stream())),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(secured) => secured.poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udp(_) => Poll::Ready(Err(no_stream())),
            stream => Self::poll_flush(stream, cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udp(_) => Poll::Ready(Err(no_stream())),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(secured) => secured.poll_shutdown(cx),
        }
    }
}
