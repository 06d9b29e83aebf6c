//! A pipe and a TCP service, joined.

use std::io::{Error, Result};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;

use crate::pipe::Pipe;

/// As much as is read at once: what a pipe seals at once.
const CHUNK: usize = 64 * 1024;

/// The bytes that went through a pipe and a service that were joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forwarded {
    /// From the service to the peer.
    pub sent: u64,
    /// From the peer to the service.
    pub received: u64,
}

impl Pipe {
    /// Passes on what the peer says to a TCP service and what that says to the peer, each of whom may end its direction on
    /// its own, until both have ended and everything has arrived.
    ///
    /// The service is never told an end that the peer has not said: its connection is reset (`SO_LINGER` of zero) if the
    /// pipe is cut, if this future is dropped and if the process is killed. So half an upload is not taken for a whole one.
    /// A plain pipe cannot tell a peer that was killed from one that has ended.
    ///
    /// # Errors
    /// What either of the two says. The text names the service where it was the service.
    pub async fn forward(self, mut service: TcpStream) -> Result<Forwarded> {
        let socket = |error| of_service(&error);
        service.set_nodelay(true).map_err(socket)?;
        service.set_zero_linger().map_err(socket)?;
        let (mut from_peer, mut to_peer) = split(self);
        let (mut from_service, mut to_service) = service.split();
        let receive = async {
            let received = pass(&mut from_peer, &mut to_service).await.map_err(Broken::into_sink)?;
            // That was the peer's own end, so the service may hear of it, whatever comes next.
            SockRef::from(to_service.as_ref()).set_linger(None).map_err(socket)?;
            to_service.shutdown().await.map_err(socket)?;
            Ok(received)
        };
        let send = async {
            let sent = pass(&mut from_service, &mut to_peer).await.map_err(Broken::into_source)?;
            to_peer.shutdown().await?;
            Ok::<_, Error>(sent)
        };
        let (received, sent) = tokio::try_join!(receive, send)?;
        from_peer.unsplit(to_peer).close().await?;
        Ok(Forwarded { sent, received })
    }
}

/// The side of a copy that failed.
enum Broken {
    Source(Error),
    Sink(Error),
}

impl Broken {
    /// The error of a copy into the service.
    fn into_sink(self) -> Error {
        match self {
            Self::Source(error) => error,
            Self::Sink(error) => of_service(&error),
        }
    }

    /// The error of a copy from the service.
    fn into_source(self) -> Error {
        match self {
            Self::Source(error) => of_service(&error),
            Self::Sink(error) => error,
        }
    }
}

fn of_service(error: &Error) -> Error {
    Error::new(error.kind(), format!("the service: {error}"))
}

/// Copies until the source ends. What arrives is passed on at once.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::result::Result<u64, Broken> {
    let mut buffer = vec![0; CHUNK];
    let mut passed = 0;
    loop {
        let filled = from.read(&mut buffer).await.map_err(Broken::Source)?;
        if filled == 0 {
            return Ok(passed);
        }
        to.write_all(&buffer[..filled]).await.map_err(Broken::Sink)?;
        to.flush().await.map_err(Broken::Sink)?;
        passed += filled as u64;
    }
}
