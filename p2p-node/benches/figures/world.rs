//! The surroundings of a figure's nodes: servers on runtimes of their own, as if they were other processes.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::rate::Rate;
use p2p_node::rendezvous::broker::{Broker, Options};
use p2p_node::rendezvous::stun::{StunServer as Responder, StunServerConfig};
use p2p_node::{BrokerConfig, Config, MemoryBroker, StunServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

pub(crate) const ANY: &str = "127.0.0.1:0";

/// Makes a runtime with a thread of its own.
pub(crate) fn apart() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A broker and a STUN server.
pub(crate) struct Rendezvous {
    runtime: Runtime,
    broker: Broker,
    stun: Responder,
}

impl Rendezvous {
    pub(crate) fn start() -> Self {
        let runtime = apart();
        let any: SocketAddr = ANY.parse().expect("an address");
        // What is measured comes from one address and asks more often than anybody should.
        let often = Rate { per_second: 100_000, burst: 100_000 };
        let options = Options { publishes: often, source_publishes: often, ..Options::default() };
        let broker = runtime.block_on(Broker::start(&[any], options)).expect("the broker starts");
        let mut config = StunServerConfig::new([any]);
        (config.rate, config.source_bytes) = (often, None);
        let stun = runtime.block_on(Responder::start(config)).expect("the STUN server starts");
        Self { runtime, broker, stun }
    }

    pub(crate) fn broker_port(&self) -> u16 {
        self.broker.local_addrs()[0].port()
    }

    pub(crate) fn stun_port(&self) -> u16 {
        self.stun.local_addrs()[0].port()
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.broker.shutdown());
        self.runtime.block_on(self.stun.shutdown());
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

/// Returns a node on loopback with brokers and a STUN server on these ports of 127.0.0.1.
pub(crate) fn config(brokers: &[u16], stun: Option<u16>) -> Config {
    let broker = |port: &u16| BrokerConfig::new(format!("mqtt://127.0.0.1:{port}").parse().expect("a URL"));
    let mut config = Config::loopback();
    config.brokers = brokers.iter().map(broker).collect();
    config.stun = stun.into_iter().map(|port| StunServer::new("127.0.0.1", port)).collect();
    config
}

/// Returns a node on loopback that signals within this process, and takes bare connections.
pub(crate) fn in_memory(broker: &MemoryBroker) -> Config {
    let mut config = Config::loopback();
    config.brokers = vec![BrokerConfig::new("memory://here".parse().expect("a URL"))];
    config.memory = Some(broker.clone());
    config.plain = true;
    config
}

/// Starts a server that sends back every byte, to one connection after another.
pub(crate) fn echo(runtime: &Runtime) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind(ANY)).expect("a listener");
    let here = listener.local_addr().expect("an address");
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
        }
    });
    here
}
