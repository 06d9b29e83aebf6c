//! TLS over a TCP connection, as plain state: unlike the streams of tokio-rustls it can leave its runtime.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::ClientConnection;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::tls::{CaFiles, TlsError, client_config, server_name};

/// Bytes that are held back at most when the system has no room: four records.
const MOST_HELD: usize = 64 * 1024;

/// A TLS session and the TCP connection below it: a tokio one at work, a standard one at rest.
#[derive(Debug)]
pub(crate) struct Secured<S> {
    socket: S,
    session: ClientConnection,
}

impl<S> Secured<S> {
    /// The connection below.
    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    /// Whether there is something to flush.
    #[cfg(test)]
    pub(super) fn is_holding_back(&self) -> bool {
        self.session.wants_write()
    }

    /// The same session over the same connection in another form.
    pub(super) fn try_map<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Secured<T>> {
        let Self { socket, session } = self;
        Ok(Secured { socket: change(socket)?, session })
    }
}

impl Secured<TcpStream> {
    /// The TLS handshake with `host`.
    ///
    /// # Errors
    /// As [`Link::open`](super::Link::open).
    pub(super) async fn handshake(socket: TcpStream, host: &str, trust: &CaFiles) -> io::Result<Self> {
        let name = server_name(host).map_err(ours)?;
        let config = client_config(trust.ca_files(host)).await.map_err(ours)?;
        let mut session = ClientConnection::new(config, name)
            .map_err(|error| ours(TlsError::Configuration(error.to_string())))?;
        session.set_buffer_limit(Some(MOST_HELD));
        let mut secured = Self { socket, session };
        poll_fn(|cx| secured.poll_handshake(cx))
            .await
            .map_err(|error| io::Error::new(error.kind(), TlsError::from(&error)))?;
        Ok(secured)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_pull(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
            // The end of the connection is not the end of what was said: the session knows the difference.
            ready!(self.poll_pull(cx))?;
        }
    }

    /// Takes in what the system has. 0 when there will be nothing more.
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let length = loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.session.read_tls(&mut Direct(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read?,
            }
        };
        let processed = self.session.process_new_packets();
        // An answer of TLS itself: an alert, or new keys. What cannot leave now goes with the next bytes, and whoever
        // sends those hears of it when that fails.
        let _ = self.push();
        Poll::Ready(match processed {
            Ok(_) => Ok(length),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        })
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_ready(cx))?;
        let taken = self.session.writer().write(bytes)?;
        self.push()?;
        Poll::Ready(Ok(taken))
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_ready(cx))?;
        let taken = self.session.writer().write_vectored(pieces)?;
        self.push()?;
        Poll::Ready(Ok(taken))
    }

    /// Nothing is taken before all that was taken earlier has left: at most [`MOST_HELD`] bytes wait here.
    pub(super) fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.socket.poll_write_ready(cx)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.push()?;
            if !self.session.wants_write() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.socket.poll_write_ready(cx))?;
        }
    }

    /// Tells the server that nothing follows; what it says can still be read.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Said twice it counts once.
        self.session.send_close_notify();
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// Sends as much as leaves at once.
    fn push(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Direct(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn ours(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// The connection as the session wants to see it: what would wait is an error.
struct Direct<'s>(&'s TcpStream);

impl Read for Direct<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
