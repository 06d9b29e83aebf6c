//! Two peers that dial each other at the same moment: TCP hole punching.
//!
//! `cargo run -p examples --bin punch` plays both in one process, on loopback. Between two machines:
//!
//! ```text
//! punch wait mqtt://broker.example stun.example:3478             # prints an address: p2p1…
//! punch call mqtt://broker.example stun.example:3478 p2p1…
//! ```
//!
//! Each needs a broker, through which they agree on ports and times. Each needs a STUN server, which tells the
//! addresses of its ports as seen from outside. Set `PUNCH_INTERFACE` to use one network interface only.

use anyhow::{Context, Result, bail};
use p2p_node::{
    BrokerConfig, Config, ConnectOptions, Interfaces, MemoryBroker, Node, PeerAddr, Pipe, StunServer, Way,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => both().await,
        ["wait", broker, stun] => {
            let node = Node::bind(config(broker, stun)?).await?;
            println!("{}", address(&node)?);
            answer(&node).await
        }
        ["call", broker, stun, address] => {
            let node = Node::bind(config(broker, stun)?).await?;
            call(&node, address).await
        }
        _ => bail!("punch | punch wait BROKER STUN | punch call BROKER STUN ADDRESS"),
    }
}

/// Lets Anna call Bert. The broker is in memory, and between two sockets of one interface no STUN server is needed.
async fn both() -> Result<()> {
    let mut config = Config::loopback();
    config.brokers = vec![BrokerConfig::new("memory://here".parse()?)];
    config.memory = Some(MemoryBroker::new());
    let (anna, bert) = (Node::bind(config.clone()).await?, Node::bind(config).await?);
    let to = address(&bert)?;
    let (called, answered) = tokio::join!(call(&anna, &to), answer(&bert));
    called.and(answered)
}

fn config(broker: &str, stun: &str) -> Result<Config> {
    let mut config = Config::new();
    config.brokers = vec![BrokerConfig::new(broker.parse()?)];
    let stun: StunServer = stun.parse()?;
    config.stun = vec![stun];
    if let Ok(name) = std::env::var("PUNCH_INTERFACE") {
        config.interfaces = Interfaces::Only(vec![name]);
    }
    Ok(config)
}

fn address(node: &Node) -> Result<String> {
    Ok(node.addr().context("the node has no address")?.to_string())
}

async fn call(node: &Node, address: &str) -> Result<()> {
    let options = ConnectOptions::new().with_ways([Way::Punch]);
    let mut pipe = node.connect_with(&address.parse::<PeerAddr>()?, options).await?;
    tell("caller", &pipe);
    // The report tells the addresses between which a punch was tried, and the outcomes of the dials.
    if let Some(report) = &pipe.how().report {
        for punch in report.ways.iter().flat_map(|way| &way.punches) {
            println!("caller: {punch}");
        }
    }
    pipe.write_all(b"hello").await?;
    pipe.shutdown().await?;
    let mut heard = String::new();
    pipe.read_to_string(&mut heard).await?;
    println!("caller: heard {heard:?}");
    Ok(())
}

async fn answer(node: &Node) -> Result<()> {
    let mut pipe = node.accept().await.context("nobody called")?;
    tell("answerer", &pipe);
    let mut heard = String::new();
    pipe.read_to_string(&mut heard).await?;
    pipe.write_all(format!("{heard} yourself").as_bytes()).await?;
    pipe.shutdown().await?;
    Ok(())
}

fn tell(who: &str, pipe: &Pipe) {
    let how = pipe.how();
    println!("{who}: {} to {} by {} ({}), {:.1?}", how.local, how.remote, how.way, how.path, how.took);
}
