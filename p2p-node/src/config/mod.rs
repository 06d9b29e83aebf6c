//! The configuration of a node, given when it starts.

#[cfg(feature = "config-file")]
pub mod file;
mod key;
mod machine;
#[cfg(feature = "config-file")]
mod parse;
mod turn;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use p2p_actors::StartError;
use p2p_actors::signal::MemoryBroker;
use p2p_core::Family;
use p2p_core::attempt::Way;
use p2p_core::node::{
    BrokerConfig, Interfaces, KeepAlive, Limits, NodeConfig, NtpServer, StunServer, TurnServer,
};
use p2p_core::peer::{Identity, PeerId};
use p2p_core::punch;
use p2p_core::relay::circuit::Connections as RelayConnections;
use p2p_core::turn::Credentials;
use p2p_core::turn::client::MOST_SERVERS;

#[cfg(feature = "config-file")]
pub use file::{ConfigError, ConfigFault, password_file};
#[cfg(feature = "config-file")]
pub use parse::parse_broker;
pub use turn::{TurnUri, TurnUriError};

use crate::error::BindError;

/// The source of a node's secret key.
#[derive(Clone, Debug, Default)]
pub enum Key {
    /// A new key that is forgotten when the node ends, so its address is good for one run.
    #[default]
    Ephemeral,
    /// A key file, made at the first start with permissions for its owner only.
    File(PathBuf),
    /// The key given here.
    Given(Identity),
}

impl Key {
    /// Returns the key itself. It makes one, or reads its file, and makes the file when there is none.
    ///
    /// # Errors
    /// [`BindError::KeyFile`] when the file cannot be used, [`StartError::Entropy`] when no key can be made.
    pub fn into_identity(self) -> Result<Identity, BindError> {
        key::load(self)
    }
}

/// The whole configuration of a node. The default is a node that listens on every interface and knows no server, as
/// none is built in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The secret key. Default: a new one.
    pub key: Key,
    /// The network interfaces to use. Default: all that are up.
    pub interfaces: Interfaces,
    /// The address families to use. Default: both.
    pub families: BTreeSet<Family>,
    /// The TCP port to listen on. Default 0, which stands for any free one.
    pub listen_port: u16,
    /// The MQTT brokers to be found through. Default: none.
    pub brokers: Vec<BrokerConfig>,
    /// The in-process broker that `memory:` URLs stand for, for tests and for nodes that share a process.
    pub memory: Option<MemoryBroker>,
    /// The STUN servers to ask for our external addresses. Default: none.
    pub stun: Vec<StunServer>,
    /// The TURN servers (RFC 8656) that may relay for us when nothing else works, best first, each with our login
    /// there. [`TurnUri::servers`] makes them. UDP is tried before TCP before TLS, and 16 servers are used at most.
    /// Default: none.
    pub turn: Vec<TurnServer>,
    /// The rule for relaying connections as such (RFC 6062) in preference to datagrams: plain TCP on one end, and
    /// much faster. Default: careful, which is not by servers that are known to hang.
    pub relay_connections: RelayConnections,
    /// The NTP servers to ask for the offset of this machine's clock, 8 at most; of three, one may lie. Default:
    /// none, and then nobody is asked. The answer sets no clock and dates no signal. It is for meeting a peer at a
    /// time, and stands in [`Status`](crate::Status).
    pub ntp: Vec<NtpServer>,
    /// True when accepted connections may stay unencrypted after the proof, if the caller wishes that too. Default:
    /// false.
    pub plain: bool,
    /// The ways by which peers may reach this node. Calls by other ways are refused. Default: all.
    pub ways: Vec<Way>,
    /// The peers that may call; the others are refused. Default: everybody who knows this node's address.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// The bytes that tell this machine from others. Only a salted hash of them is published. Default: those of the
    /// operating system.
    pub machine_id: Option<Vec<u8>>,
    /// The time that [`Node::bind`](crate::Node::bind) waits for brokers and STUN servers. Default 3 s.
    pub ready_within: Duration,
    /// The settings that keep pipes alive and find out dead ones.
    pub keep_alive: KeepAlive,
    /// The bounds on what others can cause.
    pub limits: Limits,
    /// The bounds on punches, for one of them and for all at a time, which protect this machine and its router.
    /// Default: 512 connections half open, as small routers hold a few thousand in all, and 500 dials a second. Less
    /// makes networks with random ports harder to reach. A peer that neither our own calls nor `allowed` name has 64,
    /// and 100 a second.
    pub punch: punch::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            key: Key::default(),
            interfaces: Interfaces::default(),
            families: [Family::V4, Family::V6].into(),
            listen_port: 0,
            brokers: Vec::new(),
            memory: None,
            stun: Vec::new(),
            turn: Vec::new(),
            relay_connections: RelayConnections::default(),
            ntp: Vec::new(),
            plain: false,
            ways: Way::ALL.to_vec(),
            allowed: None,
            machine_id: None,
            ready_within: Duration::from_secs(3),
            keep_alive: KeepAlive::default(),
            limits: Limits::default(),
            punch: punch::Limits::default(),
        }
    }
}

p2p_core::setters!(Config {
    with_key(key: Key);
    with_interfaces(interfaces: Interfaces);
    with_families(families: each Family);
    with_listen_port(listen_port: u16);
    with_brokers(brokers: each BrokerConfig);
    with_memory(memory: some MemoryBroker);
    with_stun(stun: each StunServer);
    with_turn(turn: each TurnServer);
    with_relay_connections(relay_connections: RelayConnections);
    with_ntp(ntp: each NtpServer);
    with_plain(plain: bool);
    with_ways(ways: each Way);
    with_allowed(allowed: some each PeerId);
    with_machine_id(machine_id: some Vec<u8>);
    with_ready_within(ready_within: Duration);
    with_keep_alive(keep_alive: KeepAlive);
    with_limits(limits: Limits);
    with_punch(punch: punch::Limits);
});

impl Config {
    /// Returns the default, to be changed field by field.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a configuration for the loopback interface only, for tests, demos and peers on one machine.
    pub fn loopback() -> Self {
        Self { interfaces: Interfaces::Only(vec![machine::LOOPBACK.to_owned()]), ..Self::default() }
    }

    /// Returns the configuration of the machine, and the in-process broker beside it.
    pub(crate) fn into_node(self) -> Result<(NodeConfig, Option<MemoryBroker>), BindError> {
        let of_brokers = self.brokers.iter().filter_map(|broker| broker.ca_file.as_ref());
        let of_turn = self.turn.iter().filter_map(|server| server.ca_file.as_ref());
        for path in of_brokers.chain(of_turn) {
            if let Err(source) = std::fs::File::open(path) {
                return Err(BindError::CaFile { path: path.clone(), source });
            }
        }
        if self.turn.len() > MOST_SERVERS {
            return Err(BindError::TooManyTurnServers(self.turn.len()));
        }
        for server in &self.turn {
            if let Err(error) = Credentials::new(&server.user, &server.password) {
                return Err(BindError::TurnServer { server: server.to_string(), reason: error.to_string() });
            }
        }
        let mut node = NodeConfig::new(self.key.into_identity()?);
        node.interfaces = self.interfaces;
        node.families = self.families;
        node.listen_port = self.listen_port;
        node.brokers = self.brokers;
        node.stun = self.stun;
        node.turn = self.turn;
        node.relay_connections = self.relay_connections;
        node.ntp = self.ntp;
        node.plain = self.plain;
        node.ways = self.ways;
        node.allowed = self.allowed;
        node.machine_id = match self.machine_id {
            Some(id) => id,
            None => machine::id().map_err(StartError::System)?,
        };
        node.keep_alive = self.keep_alive;
        node.limits = self.limits;
        node.punch = self.punch;
        Ok((node, self.memory))
    }
}
