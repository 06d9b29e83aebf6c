//! What the actors of one node are told when they start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use p2p_core::Family;
use p2p_core::attempt::Way;
use p2p_core::candidate::Filter;
use p2p_core::connect::{DIAL_DELAY, HEAD_START};
use p2p_core::peer::{BrokerUrl, Identity, PeerId};
use p2p_core::punch;
use p2p_core::relay::circuit::Connections as RelayConnections;

use crate::interface::StunServer;
use crate::ntp::NtpServer;
use crate::signal::MemoryBroker;
use crate::turn::TurnServer;

/// Which network interfaces a node uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// All that are up, loopback excepted; loopback only when there is nothing else.
    #[default]
    All,
    /// Those with these names.
    Only(Vec<String>),
}

/// A message broker and what it takes to use it.
#[derive(Clone)]
pub struct BrokerConfig {
    /// Where it is. Published in our address.
    pub url: BrokerUrl,
    /// User and password, for this node alone. Never published.
    pub login: Option<(String, String)>,
    /// A PEM file with the certificates to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The address to connect from, on a machine with several.
    pub bind: Option<IpAddr>,
}

impl BrokerConfig {
    /// A broker that wants no login and has a certificate, if any, that the system trusts.
    pub fn new(url: BrokerUrl) -> Self {
        Self { url, login: None, ca_file: None, bind: None }
    }
}

/// Never shows the password.
impl fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerConfig")
            .field("url", &self.url)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("ca_file", &self.ca_file)
            .field("bind", &self.bind)
            .finish()
    }
}

/// The bounds at the doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts of our own under way at once. Default 256.
    pub attempts: usize,
    /// Peers we dial at once because they asked. Default 64; more are refused as busy.
    pub answers: usize,
    /// Connections we make at once because peers asked for them, each a dial or a proof. Default 128: far below the
    /// 1,024 descriptors a process usually has. More wait; attempts of our own never do.
    pub dials_for_peers: usize,
    /// Peers that may have addresses lent at our TURN servers at once without our user knowing them or having accepted
    /// them. Default 4, at two addresses each; others have to bring a server of their own.
    pub relays: usize,
    /// Connections that came to us and are not proven yet. Default 512; the oldest makes room for the newest.
    pub unproven: usize,
    /// Accepted connections nobody has taken yet. Default 128; more are refused as busy.
    pub backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { attempts: 256, answers: 64, dials_for_peers: 128, relays: 4, unproven: 512, backlog: 128 }
    }
}

/// Everything the actors of one node need to know.
#[derive(Clone, Debug)]
pub struct ActorsConfig {
    /// Who we are.
    pub identity: Identity,
    /// Where to listen and dial from.
    pub interfaces: Interfaces,
    /// The address families to use.
    pub families: BTreeSet<Family>,
    /// The TCP port to listen on; 0 for any.
    pub listen_port: u16,
    /// Where to listen for signals.
    pub brokers: Vec<BrokerConfig>,
    /// An in-process broker that `memory:` URLs stand for.
    pub memory: Option<MemoryBroker>,
    /// Whom to ask for our external addresses. None by default: no server is built in.
    pub stun: Vec<StunServer>,
    /// Who may relay for us, each with our login there, best first. None by default: no server is built in.
    pub turn: Vec<TurnServer>,
    /// Whether connections may be relayed as such (RFC 6062), in preference to datagrams.
    pub relay_connections: RelayConnections,
    /// Whom to ask for the true time, 8 at most. None by default: no server is built in, and peers that must meet at
    /// a time compare their clocks between themselves.
    pub ntp: Vec<NtpServer>,
    /// Whether connections we are called for may stay unencrypted, if the caller wishes that too.
    pub plain: bool,
    /// By which ways peers may reach this node. Default: all. The others are refused.
    pub ways: Vec<Way>,
    /// Who may call; everybody who knows our address when `None`. The others are refused.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// What tells this machine from others. Only a salted hash of it is ever published.
    pub machine_id: Vec<u8>,
    /// How long a proof may take. Default 3 s.
    pub proof_within: Duration,
    /// The bounds at the doors.
    pub limits: Limits,
    /// What punches may do: one of them, and all together at a time. For peers that nothing speaks for, neither our
    /// user nor a list of who may call, the bounds are lower: see [`punch::Limits::stranger`]. Default: 512
    /// connections half open, 500 dials a second.
    pub punch: punch::Limits,
}

impl ActorsConfig {
    /// All defaults: every interface, any port, no broker, no server.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
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
            machine_id: Vec::new(),
            proof_within: Duration::from_secs(3),
            limits: Limits::default(),
            punch: punch::Limits::default(),
        }
    }
}

/// How one connection is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The ways to go, in the order they start. Default: all.
    pub ways: Vec<Way>,
    /// The families and paths to use. Default: all.
    pub filter: Filter,
    /// Whether we wish the bare TCP connection. Default: no.
    pub plain: bool,
    /// When to give up. Default 30 s, a day at most.
    pub within: Duration,
    /// How much later than the first way the others begin. Default 30 ms.
    pub head_start: Duration,
    /// The pause between two dials of one way. Default 100 ms.
    pub dial_delay: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            ways: Way::ALL.to_vec(),
            filter: Filter::default(),
            plain: false,
            within: Duration::from_secs(30),
            head_start: HEAD_START,
            dial_delay: DIAL_DELAY,
        }
    }
}
