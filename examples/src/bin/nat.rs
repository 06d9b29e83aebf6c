//! A program that shows the properties of the network here, and whom this machine can meet.
//!
//! `cargo run -p examples --bin nat -- stun.example:3478 …` asks the servers you name. Without any it plays on
//! loopback, with a STUN server of its own.

use anyhow::Result;
use p2p_node::rendezvous::stun::{StunServer as Server, StunServerConfig};
use p2p_node::{Config, Node};

#[tokio::main]
async fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let mut config = if named.is_empty() { Config::loopback() } else { Config::default() };
    let own = match named.is_empty() {
        true => Some(Server::start(StunServerConfig::new(["127.0.0.1:0".parse()?])).await?),
        false => None,
    };
    let addresses = own.iter().flat_map(Server::local_addrs).map(|address| address.to_string());
    for server in named.into_iter().chain(addresses) {
        config.stun.push(server.parse()?);
    }

    let node = Node::bind(config).await?;
    // The node can be used already; this call waits until the probes have ended.
    let report = node.survey().await;
    print!("{report}");

    // The same facts are there for a program: each verdict has a confidence and an origin.
    for network in report.networks {
        let Some(probed) = network.probed else { continue };
        if let Some(nat) = probed.tcp.nat {
            println!(
                "{}: {} over TCP, {:.0} % sure, {}",
                network.local,
                nat.value,
                nat.confidence * 100.0,
                nat.how
            );
        }
        for server in probed.servers.iter().filter(|server| !server.believed) {
            println!("{} is of no use: {}", server.server, server.failure.as_deref().unwrap_or("a liar"));
        }
    }
    node.close().await;
    if let Some(own) = own {
        own.shutdown().await;
    }
    Ok(())
}
