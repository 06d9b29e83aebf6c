//! A TCP port on this machine that leads to a TCP service beside a peer.
//!
//! Neither the service nor its client takes a connection that was cut for one that has ended: see [`Pipe::forward`].

use anyhow::{Context, Result};
use p2p_node::{Node, PeerAddr, Pipe};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The most connections through one end of a tunnel at once.
pub const MOST: usize = 64;

/// Runs the far end, which connects every pipe that comes in to `service`. It ends when the node is closed.
pub async fn serve(node: &Node, service: &str) {
    let seats = std::sync::Arc::new(Semaphore::new(MOST));
    while let Some(pipe) = node.accept().await {
        let Ok(seat) = std::sync::Arc::clone(&seats).try_acquire_owned() else { continue };
        let service = service.to_owned();
        tokio::spawn(async move {
            let peer = pipe.peer();
            let served = async {
                let stream =
                    TcpStream::connect(&service).await.with_context(|| format!("cannot reach {service}"))?;
                join(pipe, stream).await
            };
            if let Err(error) = served.await {
                eprintln!("{peer}: {error:#}");
            }
            drop(seat);
        });
    }
}

/// Runs the near end, which gives every connection to `listener` a pipe of its own to `peer`. It ends with the
/// listener.
pub async fn forward(node: Node, peer: PeerAddr, listener: TcpListener) -> Result<()> {
    let seats = std::sync::Arc::new(Semaphore::new(MOST));
    loop {
        let seat = std::sync::Arc::clone(&seats).acquire_owned().await?;
        let (stream, from) = listener.accept().await?;
        let (node, peer) = (node.clone(), peer.clone());
        tokio::spawn(async move {
            let forwarded = async {
                // A client whose call fails must not take that for an answer.
                stream.set_zero_linger()?;
                join(node.connect(&peer).await?, stream).await
            };
            if let Err(error) = forwarded.await {
                eprintln!("{from}: {error:#}");
            }
            drop(seat);
        });
    }
}

/// Carries bytes both ways until both are done.
async fn join(pipe: Pipe, stream: TcpStream) -> Result<()> {
    pipe.forward(stream).await?;
    Ok(())
}
