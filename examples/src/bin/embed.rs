//! The actors of p2p inside a program that already runs an actix `System`. There is no second thread and no second
//! runtime.

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use anyhow::{Context as _, Result};
use p2p_actors::signal::MemoryBroker;
use p2p_actors::{Handle, IdleConnection, ProvenConnection};
use p2p_core::Seed;
use p2p_core::node::{BrokerConfig, ConnectOptions, Interfaces, NodeConfig};
use p2p_core::peer::{Identity, PeerAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An actor of the program's own, which uses the network.
struct Greeter {
    network: Handle,
}

impl Actor for Greeter {
    type Context = Context<Self>;
}

/// Asks the greeter to greet a peer.
#[derive(Message)]
#[rtype(result = "Result<String>")]
struct Greet(PeerAddr);

impl Handler<Greet> for Greeter {
    type Result = ResponseFuture<Result<String>>;

    fn handle(&mut self, Greet(peer): Greet, _: &mut Context<Self>) -> Self::Result {
        let network = self.network.clone();
        Box::pin(async move {
            // Both ends wish a plain connection, so it is the pipe.
            let options = ConnectOptions::new().with_plain(true);
            let ProvenConnection { connection, info, .. } = network.connect(peer, options).await?;
            say(connection, "hello").await?;
            Ok(format!("greeted {} by the {} way", info.remote, info.way))
        })
    }
}

fn main() -> Result<()> {
    actix::System::new().block_on(async {
        let broker = MemoryBroker::new();
        let anna = p2p_actors::spawn_local(config(1)?, Some(broker.clone()))?;
        let bert = p2p_actors::spawn_local(config(2)?, Some(broker))?;
        let greeter = Greeter { network: anna.clone() }.start();

        let addr = address(&bert).await?;
        let (greeted, called) = tokio::join!(greeter.send(Greet(addr)), bert.accept());
        println!("anna {}", greeted??);
        println!("bert heard {:?}", hear(called.context("nobody called")?.connection).await?);

        anna.close().await;
        bert.close().await;
        Ok(())
    })
}

fn config(number: u64) -> Result<NodeConfig> {
    // A fixed seed makes a fixed key, which is right for a demonstration and wrong for anything else.
    let mut config = NodeConfig::new(Identity::generate(&mut Seed::from_u64(number)));
    config.interfaces = Interfaces::Only(vec!["lo".to_owned()]);
    config.brokers = vec![BrokerConfig::new("memory://here".parse()?)];
    config.machine_id = b"this machine".to_vec();
    config.plain = true;
    Ok(config)
}

/// Waits until the node listens and has an address.
async fn address(handle: &Handle) -> Result<PeerAddr> {
    let mut status = handle.status();
    let ready = status.wait_for(|status| status.is_ready()).await?;
    ready.address.clone().context("a node that is ready has an address")
}

async fn say(connection: IdleConnection, what: &str) -> Result<()> {
    let mut stream = connection.into_stream()?;
    stream.write_all(what.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

async fn hear(connection: IdleConnection) -> Result<String> {
    let mut heard = String::new();
    connection.into_stream()?.read_to_string(&mut heard).await?;
    Ok(heard)
}
