//! The carrying of bytes between a pipe and something else.

use std::io::{Error, ErrorKind};

use anyhow::Context;
use p2p_node::Pipe;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ended::Ended;

/// The bytes that are read at once, which are as many as a pipe seals at once.
const CHUNK: usize = 64 * 1024;

/// The numbers of bytes that were carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// The end of a stream that failed.
enum Broken {
    Source(Error),
    Sink(Error),
}

/// Copies until the source ends. Bytes that arrive are passed on at once.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, Broken> {
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

/// Carries standard input to the peer, and the peer to standard output, until both have ended. The end of standard
/// input ends our direction only, and the end of the peer's closes standard output.
pub(crate) async fn stdio(pipe: Pipe) -> anyhow::Result<Carried> {
    let (mut from_peer, mut to_peer) = tokio::io::split(pipe);
    let send = async {
        let sent = pass(&mut tokio::io::stdin(), &mut to_peer).await.map_err(|broken| match broken {
            Broken::Source(error) => anyhow::Error::new(error).context("standard input"),
            Broken::Sink(error) => anyhow::Error::new(error).context("the connection"),
        })?;
        to_peer.shutdown().await.context("the connection")?;
        anyhow::Ok(sent)
    };
    let receive = async {
        let received =
            pass(&mut from_peer, &mut tokio::io::stdout()).await.map_err(|broken| match broken {
                Broken::Sink(error) if error.kind() == ErrorKind::BrokenPipe => Ended::Unread.into(),
                Broken::Source(error) => anyhow::Error::new(error).context("the connection"),
                Broken::Sink(error) => anyhow::Error::new(error).context("standard output"),
            })?;
        close_stdout().context("standard output")?;
        anyhow::Ok(received)
    };
    let (sent, received) = tokio::try_join!(send, receive)?;
    leave(from_peer.unsplit(to_peer)).await?;
    Ok(Carried { sent, received })
}

/// Closes the pipe and waits for its bytes to be sent, as the process may end next.
async fn leave(pipe: Pipe) -> anyhow::Result<()> {
    pipe.close().await.context("the peer may not have got everything")
}

/// Lets the reader of our output see its end while the other direction goes on. The descriptor must stay taken, or
/// the next socket would become standard output.
fn close_stdout() -> std::io::Result<()> {
    #[cfg(unix)]
    rustix::stdio::dup2_stdout(std::fs::File::options().write(true).open("/dev/null")?)?;
    Ok(())
}

/// Sends everything back where it came from.
pub(crate) async fn echo(pipe: Pipe) -> anyhow::Result<Carried> {
    let (mut from_peer, mut to_peer) = tokio::io::split(pipe);
    let passed = pass(&mut from_peer, &mut to_peer).await.map_err(|broken| match broken {
        Broken::Source(error) | Broken::Sink(error) => anyhow::Error::new(error).context("the connection"),
    })?;
    leave(from_peer.unsplit(to_peer)).await?;
    Ok(Carried { sent: passed, received: passed })
}

/// Connects the peer with a service, each of which may end its direction on its own.
pub(crate) async fn forward(mut pipe: Pipe, target: &str) -> anyhow::Result<Carried> {
    let mut service =
        TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    service.set_nodelay(true)?;
    let (received, sent) =
        tokio::io::copy_bidirectional_with_sizes(&mut pipe, &mut service, CHUNK, CHUNK).await?;
    leave(pipe).await?;
    Ok(Carried { sent, received })
}
