//! A TCP port on this machine that leads to a TCP service beside a peer.
//!
//! ```text
//! beside the service:  tunnel serve   127.0.0.1:22   BROKER
//! anywhere else:       tunnel forward 127.0.0.1:2222 BROKER ADDRESS
//! then:                ssh -p 2222 127.0.0.1
//! ```

use anyhow::{Context, Result, bail};
use examples::tunnel;
use p2p_node::{BrokerConfig, Config, Interfaces, Node, PeerAddr};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", service, broker] => {
            let node = node(broker).await?;
            println!("{}", node.addr().context("the node has no address")?);
            tunnel::serve(&node, service).await;
            Ok(())
        }
        ["forward", listen, broker, peer] => {
            let peer: PeerAddr = peer.parse().context("that is no peer address")?;
            let listener =
                TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
            println!("{}", listener.local_addr()?);
            tunnel::forward(node(broker).await?, peer, listener).await
        }
        _ => bail!("usage: tunnel serve HOST:PORT BROKER | tunnel forward HOST:PORT BROKER ADDRESS"),
    }
}

async fn node(broker: &str) -> Result<Node> {
    let mut config = Config::new();
    // Each connection of a client is a pipe of its own.
    config.limits.pipes_per_peer = tunnel::MOST;
    config.brokers = vec![BrokerConfig::new(broker.parse().context("that is no broker URL")?)];
    if let Ok(name) = std::env::var("TUNNEL_INTERFACE") {
        config.interfaces = Interfaces::Only(vec![name]);
    }
    Ok(Node::bind(config).await?)
}
