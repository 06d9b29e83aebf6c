//! The carrying of bytes between a pipe and something else.

use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use p2p_node::Pipe;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ended::Ended;
use crate::standard;

/// The bytes that are read at once, which are as many as a pipe seals at once.
const CHUNK: usize = 64 * 1024;
/// How long the peer may take to hear us out, when nobody hears the peer any more.
const HEAR_OUT: Duration = Duration::from_secs(5);

/// The numbers of bytes that were carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// How the peer's direction ended.
enum Heard {
    /// The peer has ended it: this many bytes.
    All(u64),
    /// Nobody reads standard output any more.
    Unread,
}

/// Standard input to the peer, and the peer to standard output, until both have ended. The end of standard
/// input ends our direction only, and the end of the peer's closes standard output.
///
/// # Errors
/// What cut either direction. When nobody reads standard output any more this is [`Ended::Unread`] if everything was sent
/// and has arrived, else [`Ended::Unsent`].
pub(crate) async fn stdio(pipe: Pipe) -> anyhow::Result<Carried> {
    let (mut from_peer, mut to_peer) = tokio::io::split(pipe);
    let (sent, heard) = {
        let (mut sending, mut hearing) = (pin!(send(&mut to_peer)), pin!(hear(&mut from_peer)));
        let (mut sent, mut heard) = (None, None);
        loop {
            match (sent, heard.take()) {
                (Some(sent), Some(heard)) => break (sent, heard),
                (None, Some(Heard::Unread)) => return Err(Ended::Unsent.into()),
                (_, waiting) => heard = waiting,
            }
            tokio::select! {
                done = &mut sending, if sent.is_none() => sent = Some(done?),
                done = &mut hearing, if heard.is_none() => heard = Some(done?),
            }
        }
    };
    let pipe = from_peer.unsplit(to_peer);
    match heard {
        Heard::All(received) => {
            leave(pipe).await?;
            Ok(Carried { sent, received })
        }
        Heard::Unread => match timeout(HEAR_OUT, pipe.close()).await {
            Ok(Ok(())) => Err(Ended::Unread.into()),
            Ok(Err(_)) | Err(_) => Err(Ended::Unsent.into()),
        },
    }
}

async fn send(to_peer: &mut WriteHalf<Pipe>) -> anyhow::Result<u64> {
    let (mut buffer, mut sent) = (vec![0; CHUNK], 0);
    loop {
        let filled;
        (buffer, filled) = standard::read(buffer).await.context("standard input")?;
        if filled == 0 {
            break;
        }
        to_peer.write_all(&buffer[..filled]).await.context("the connection")?;
        to_peer.flush().await.context("the connection")?;
        sent += filled as u64;
    }
    to_peer.shutdown().await.context("the connection")?;
    Ok(sent)
}

async fn hear(from_peer: &mut ReadHalf<Pipe>) -> anyhow::Result<Heard> {
    let (mut buffer, mut received) = (vec![0; CHUNK], 0);
    loop {
        let filled = from_peer.read(&mut buffer).await.context("the connection")?;
        if filled == 0 {
            break;
        }
        match standard::write(buffer, filled).await {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Heard::Unread),
            written => buffer = written.context("standard output")?,
        }
        received += filled as u64;
    }
    close_stdout().context("standard output")?;
    Ok(Heard::All(received))
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
    let passed = async {
        let (mut buffer, mut passed) = (vec![0; CHUNK], 0);
        loop {
            let filled = from_peer.read(&mut buffer).await?;
            if filled == 0 {
                return Ok::<_, Error>(passed);
            }
            to_peer.write_all(&buffer[..filled]).await?;
            to_peer.flush().await?;
            passed += filled as u64;
        }
    };
    let passed = passed.await.context("the connection")?;
    leave(from_peer.unsplit(to_peer)).await?;
    Ok(Carried { sent: passed, received: passed })
}

/// The peer and a service, each of whom may end its direction on its own.
pub(crate) async fn forward(pipe: Pipe, target: &str) -> anyhow::Result<Carried> {
    let service = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    let forwarded = pipe.forward(service).await?;
    Ok(Carried { sent: forwarded.sent, received: forwarded.received })
}
