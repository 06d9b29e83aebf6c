//! Datagrams to one server, and what ICMP says of them.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

use crate::bind;

type Trouble = Pin<Box<dyn Future<Output = io::Error> + Send + Sync>>;

/// A socket that is connected to the server: strangers are not heard, ICMP errors are.
pub(crate) struct Datagrams {
    socket: Arc<UdpSocket>,
    /// The next error. The runtime wakes who reads from a socket for data alone, so this waits beside it.
    trouble: Trouble,
}

impl Datagrams {
    /// From a port that nobody can guess.
    pub(super) async fn open(server: SocketAddr) -> io::Result<Self> {
        let any = match server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = bind::datagrams(any)?;
        socket.connect(server).await?;
        Ok(Self::new(socket))
    }

    pub(super) fn new(socket: UdpSocket) -> Self {
        let socket = Arc::new(socket);
        Self { trouble: trouble(Arc::clone(&socket)), socket }
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn into_std(self) -> io::Result<std::net::UdpSocket> {
        let Self { socket, trouble } = self;
        drop(trouble);
        Arc::into_inner(socket).expect("nobody else has it").into_std()
    }

    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(buf);
        if let Poll::Ready(received) = self.socket.poll_recv(cx, &mut room) {
            return Poll::Ready(received.map(|()| room.filled().len()));
        }
        let error = ready!(self.trouble.as_mut().poll(cx));
        self.trouble = trouble(Arc::clone(&self.socket));
        Poll::Ready(Err(error))
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<usize>> {
        // The system is asked first: the runtime does not yet know that a new socket can be written to.
        match SockRef::from(&*self.socket).send(datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.poll_send(cx, datagram),
            sent => Poll::Ready(sent),
        }
    }

    pub(super) fn poll_send_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_send_ready(cx)
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

/// Waits until the socket is in trouble. An error is told once: by this, or by whoever reads or sends before it.
fn trouble(socket: Arc<UdpSocket>) -> Trouble {
    Box::pin(async move {
        loop {
            if let Err(error) = socket.ready(Interest::ERROR).await {
                return error;
            }
            // Without an error the runtime must be told to wait for the next.
            let nothing = || Err(io::ErrorKind::WouldBlock.into());
            let told = socket.try_io(Interest::ERROR, || socket.take_error()?.map_or_else(nothing, Ok));
            match told {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(error) | Err(error) => return error,
            }
        }
    })
}
