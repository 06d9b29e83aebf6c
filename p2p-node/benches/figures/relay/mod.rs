//! Pipes through relays: a real coturn, and our own server.

pub(crate) mod connections;
pub(crate) mod datagrams;
pub(crate) mod idle;
pub(crate) mod minutes;
pub(crate) mod restart;

use std::net::SocketAddr;
use std::time::Duration;

use p2p_node::rendezvous::turn::{Credential, Secret, TurnServer as Server, TurnServerConfig};
use p2p_node::{
    Config, ConnectOptions, MemoryBroker, Node, PeerAddr, Pipe, RelayConnections, TurnCarrier, TurnServer,
    Way,
};
use tokio::runtime::Runtime;

use crate::coturn::Coturn;
use crate::world::{apart, in_memory};

const USER: &str = "anna";
const PASSWORD: &str = "sesame";
/// The bytes that users write and read at once.
const BUFFER: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;

/// A server that lends addresses, as its clients know it.
#[derive(Clone)]
struct Relay {
    name: &'static str,
    address: SocketAddr,
    credential: Credential,
    /// The id of its process, if it has one of its own.
    process: Option<u32>,
}

impl Relay {
    fn of(coturn: &Coturn) -> Self {
        let credential = Credential { username: USER.to_owned(), password: PASSWORD.to_owned(), expires: 0 };
        Self { name: "coturn", address: coturn.address, credential, process: Some(coturn.id()) }
    }

    /// Returns the server for a node's configuration.
    fn server(&self, carrier: TurnCarrier) -> TurnServer {
        let server = TurnServer::from(self.address).with_carrier(carrier);
        server.with_login(&self.credential.username, &self.credential.password)
    }
}

/// Starts coturn, if it is installed, and prints a line when it is not.
fn coturn(runtime: &Runtime, options: &[&str]) -> Option<Coturn> {
    let coturn = runtime.block_on(Coturn::with(USER, PASSWORD, options));
    if coturn.is_none() {
        println!("  coturn: not on this machine");
    }
    coturn
}

/// Both servers, as far as they are there, on a runtime of their own.
struct Relays {
    runtime: Runtime,
    ours: Server,
    _coturn: Option<Coturn>,
    all: Vec<Relay>,
}

impl Relays {
    fn start() -> Self {
        let runtime = apart();
        let config = TurnServerConfig::loopback(Secret::generate().expect("a secret"));
        let ours = runtime.block_on(Server::start(config)).expect("the server starts");
        let credential = ours.credential(USER, Duration::from_secs(3_600)).expect("a credential");
        let coturn = coturn(&runtime, &[]);
        let mut all: Vec<Relay> = coturn.iter().map(Relay::of).collect();
        all.push(Relay { name: "p2p", address: ours.local_addrs()[0], credential, process: None });
        Self { runtime, ours, _coturn: coturn, all }
    }

    fn stop(self) {
        self.runtime.block_on(self.ours.shutdown());
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

/// Returns a node in memory that may ask this relay, if any.
fn config(broker: &MemoryBroker, server: Option<TurnServer>) -> Config {
    let mut config = in_memory(broker);
    config.turn = server.into_iter().collect();
    // Nothing here speaks both ways at once, which coturn's connections do not bear.
    config.relay_connections = RelayConnections::Always;
    config
}

/// Calls the peer through a relay and no other way.
async fn call(node: &Node, peer: &PeerAddr, plain: bool) -> Pipe {
    let options = ConnectOptions::new().with_ways([Way::Relay]).with_plain(plain);
    node.connect_with(peer, options).await.unwrap_or_else(|error| panic!("{error}"))
}
