//! Two nodes that know nothing of each other but an address.
//!
//! `cargo run -p examples --bin hello` plays both in one process, on loopback, with a broker in memory.

use anyhow::{Context, Result};
use p2p_node::{BrokerConfig, Config, MemoryBroker, Node, PeerAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<()> {
    let broker = MemoryBroker::new();
    let bert = Node::bind(config(&broker)?).await?;

    // An address is one line of text, to be said over the phone, printed, or put into a QR code.
    let text = bert.addr().context("bert has no address")?.to_string();
    println!("bert is at {text}");

    let serve = tokio::spawn(async move {
        let mut pipe = bert.accept().await.context("nobody called")?;
        let mut heard = String::new();
        pipe.read_to_string(&mut heard).await?;
        println!("bert heard {heard:?} from {}", pipe.peer());
        pipe.write_all(format!("{heard} yourself").as_bytes()).await?;
        pipe.shutdown().await?;
        anyhow::Ok(())
    });

    let anna = Node::bind(config(&broker)?).await?;
    let mut pipe = anna.connect(&text.parse::<PeerAddr>()?).await?;
    println!("anna is connected: {}, {}, after {:?}", pipe.how().way, pipe.how().path, pipe.how().took);
    pipe.write_all(b"hello").await?;
    pipe.shutdown().await?;
    let mut answer = String::new();
    pipe.read_to_string(&mut answer).await?;
    println!("anna heard {answer:?}");

    serve.await??;
    anna.close().await;
    Ok(())
}

fn config(broker: &MemoryBroker) -> Result<Config> {
    let mut config = Config::loopback();
    config.brokers = vec![BrokerConfig::new("memory://here".parse()?)];
    config.memory = Some(broker.clone());
    Ok(config)
}
