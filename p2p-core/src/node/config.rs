//! The one configuration of a node, and its bounds.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::keep_alive::KeepAlive;
use super::nic::Nic;
use super::server::{NtpServer, StunServer, TurnServer};
use crate::Family;
use crate::attempt::Way;
use crate::candidate::Filter;
use crate::clock::ntp::MOST_SERVERS as MOST_NTP_SERVERS;
use crate::connect::{DIAL_DELAY, HEAD_START};
use crate::peer::{BrokerUrl, Identity, PeerId};
use crate::proof::Cipher;
use crate::punch;
use crate::relay::circuit::Connections as RelayConnections;
use crate::turn::client::MOST_SERVERS as MOST_TURN_SERVERS;

/// Everything a node needs to know. The default is a node that listens on every interface and knows no server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeConfig {
    /// The identity peers know this node by.
    pub identity: Identity,
    /// The network interfaces to listen on and to dial from. Default: all that are up.
    pub interfaces: Interfaces,
    /// The address families to use. Default: both.
    pub families: BTreeSet<Family>,
    /// The TCP port to listen on. Default 0: any free one.
    pub listen_port: u16,
    /// The brokers to be found through. Default: none.
    pub brokers: Vec<BrokerConfig>,
    /// Tells that whoever drives the node has an in-process broker, which `memory:` URLs stand for.
    pub has_memory_broker: bool,
    /// The STUN servers to ask for our external addresses. Default: none.
    pub stun: Vec<StunServer>,
    /// The TURN servers that may relay for us, each with our login there, best first. Default: none.
    pub turn: Vec<TurnServer>,
    /// The rule by which connections are relayed as such (RFC 6062), in preference to datagrams.
    pub relay_connections: RelayConnections,
    /// The NTP servers to ask for the true time, 8 at most. Default: none, and peers that must meet at a time compare
    /// their clocks between themselves.
    pub ntp: Vec<NtpServer>,
    /// Lets connections we are called for stay unencrypted, if the caller wishes that too. Default: no.
    pub plain: bool,
    /// The ways by which peers may reach this node; calls by others are refused. Default: all.
    pub ways: Vec<Way>,
    /// The peers who may call; the others are refused. Default: everybody who knows our address.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// The bytes that tell this machine from others. Only a salted hash of them is ever published.
    pub machine_id: Vec<u8>,
    /// The time a proof may take. Default 3 s.
    pub proof_within: Duration,
    /// The settings that keep connections alive and find out dead ones. Whoever drives the node applies them.
    pub keep_alive: KeepAlive,
    /// The bounds at the doors.
    pub limits: Limits,
    /// The limits of punches, of one and of all together. Peers that nothing speaks for have less: see
    /// [`punch::Limits::stranger`]. Default: 512 connections half open, 500 dials a second.
    pub punch: punch::Limits,
    /// The cipher this processor is fast at.
    pub cipher: Cipher,
    /// Tells that the system says who sent an ICMP error about a TCP socket, as Linux does.
    pub can_see_hops: bool,
}

impl NodeConfig {
    /// Returns the defaults for this identity: every interface, any port, no broker, no server.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            interfaces: Interfaces::default(),
            families: [Family::V4, Family::V6].into(),
            listen_port: 0,
            brokers: Vec::new(),
            has_memory_broker: false,
            stun: Vec::new(),
            turn: Vec::new(),
            relay_connections: RelayConnections::default(),
            ntp: Vec::new(),
            plain: false,
            ways: Way::ALL.to_vec(),
            allowed: None,
            machine_id: Vec::new(),
            proof_within: Duration::from_secs(3),
            keep_alive: KeepAlive::default(),
            limits: Limits::default(),
            punch: punch::Limits::default(),
            cipher: Cipher::ChaCha20Poly1305,
            can_see_hops: false,
        }
    }

    /// Checks it.
    ///
    /// # Errors
    /// [`ConfigFault`], which names the field.
    pub fn validate(&self) -> Result<(), ConfigFault> {
        if self.ntp.len() > MOST_NTP_SERVERS {
            return Err(ConfigFault::NtpServers(self.ntp.len()));
        }
        if self.turn.len() > MOST_TURN_SERVERS {
            return Err(ConfigFault::TurnServers(self.turn.len()));
        }
        if self.families.is_empty() {
            return Err(ConfigFault::NoFamily);
        }
        if self.ways.is_empty() {
            return Err(ConfigFault::NoWay);
        }
        Ok(())
    }

    /// Chooses the interfaces of this machine that the configuration wants at the start.
    ///
    /// # Errors
    /// [`ConfigFault::NoSuchInterface`].
    pub fn choose(&self, all: &[Nic]) -> Result<Vec<Nic>, ConfigFault> {
        match &self.interfaces {
            Interfaces::All => {
                let up = all.iter().filter(|nic| nic.is_usable(&self.families)).cloned();
                let (loopback, outside): (Vec<_>, Vec<_>) = up.partition(|nic| nic.is_loopback);
                Ok(if outside.is_empty() { loopback } else { outside })
            }
            Interfaces::Only(names) => names
                .iter()
                .map(|name| {
                    let found = all.iter().find(|nic| nic.name == *name);
                    found.cloned().ok_or_else(|| ConfigFault::NoSuchInterface {
                        name: name.clone(),
                        known: all.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>().join(", "),
                    })
                })
                .collect(),
        }
    }

    /// Tells whether an interface is wanted that was not there at the start.
    pub(super) fn wants(&self, nic: &Nic) -> bool {
        match &self.interfaces {
            Interfaces::All => !nic.is_loopback && nic.is_usable(&self.families),
            Interfaces::Only(names) => names.contains(&nic.name),
        }
    }
}

crate::setters!(NodeConfig {
    with_interfaces(interfaces: Interfaces);
    with_families(families: each Family);
    with_listen_port(listen_port: u16);
    with_brokers(brokers: each BrokerConfig);
    with_memory_broker(has_memory_broker: bool);
    with_stun(stun: each StunServer);
    with_turn(turn: each TurnServer);
    with_relay_connections(relay_connections: RelayConnections);
    with_ntp(ntp: each NtpServer);
    with_plain(plain: bool);
    with_ways(ways: each Way);
    with_allowed(allowed: some each PeerId);
    with_machine_id(machine_id: each u8);
    with_proof_within(proof_within: Duration);
    with_keep_alive(keep_alive: KeepAlive);
    with_limits(limits: Limits);
    with_punch(punch: punch::Limits);
    with_cipher(cipher: Cipher);
    with_seen_hops(can_see_hops: bool);
});

/// Says what is wrong with a configuration, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The configuration names an interface this machine does not have.
    #[error("no network interface is called {name:?} here; there are: {known}")]
    NoSuchInterface {
        /// The name in the configuration.
        name: String,
        /// The names that would have worked.
        known: String,
    },
    /// There are more NTP servers than a node asks.
    #[error("{0} NTP servers: name at most {MOST_NTP_SERVERS}")]
    NtpServers(usize),
    /// There are more TURN servers than a node uses.
    #[error("{0} TURN servers: name at most {MOST_TURN_SERVERS}")]
    TurnServers(usize),
    /// No address family may be used.
    #[error("no address family: name IPv4, IPv6 or both")]
    NoFamily,
    /// Peers may come by no way.
    #[error("no way: name at least one by which peers may reach this node")]
    NoWay,
}

/// The network interfaces a node uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// All that are up, loopback excepted; loopback only when there is nothing else.
    #[default]
    All,
    /// Those with these names.
    Only(Vec<String>),
}

/// A message broker, and the login there.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// The broker's URL. Published in our address.
    pub url: BrokerUrl,
    /// User and password, for this node alone. Never published.
    pub login: Option<(String, String)>,
    /// A PEM file with the certificates to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The address to connect from, on a machine with several.
    pub bind: Option<IpAddr>,
}

impl BrokerConfig {
    /// Returns a broker that wants no login and has a certificate, if any, that the system trusts.
    pub fn new(url: BrokerUrl) -> Self {
        Self { url, login: None, ca_file: None, bind: None }
    }

    /// Sets the user and the password of [`login`](field@Self::login).
    #[must_use]
    pub fn with_login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }
}

crate::setters!(BrokerConfig {
    with_ca_file(ca_file: some PathBuf);
    with_bind(bind: some IpAddr);
});

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

/// The bounds at the doors of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Attempts of our own under way at once. Default 256.
    pub attempts: usize,
    /// Attempts of peers that we answer at once. Default 64; more are refused as busy.
    pub answers: usize,
    /// Attempts of one peer that we answer at once. Default 4; more are refused as busy.
    pub answers_for_one: usize,
    /// Connections we make at once because peers asked for them, each a dial or a proof. Default 128: far below the
    /// 1,024 descriptors a process usually has, and never more than an eighth of them. More wait; attempts of our own never
    /// do.
    pub dials_for_peers: usize,
    /// Peers that may have addresses lent at our TURN servers at once without our user knowing them or having accepted
    /// them. Default 4, at two addresses each; others have to bring a server of their own.
    pub relays: usize,
    /// Connections that came to us and are not proven yet. Default 512, and never more than an eighth of the descriptors
    /// this process may have; the oldest makes room for the newest.
    pub unproven: usize,
    /// Accepted connections nobody has taken yet. Default 128; more are refused as busy.
    pub backlog: usize,
    /// Pipes that one peer may have here at once because it asked for them. Default 8; more are refused as busy.
    pub pipes_per_peer: usize,
    /// Pipes that all peers together may have here at once because they asked for them. Default 1,024, and never more than
    /// a quarter of the descriptors this process may have; more are refused as busy. A pipe that was taken apart into its
    /// bare TCP connection is not counted.
    pub pipes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 256,
            answers: 64,
            answers_for_one: 4,
            dials_for_peers: 128,
            relays: 4,
            unproven: 512,
            backlog: 128,
            pipes_per_peer: 8,
            pipes: 1_024,
        }
    }
}

impl Limits {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

crate::setters!(Limits {
    with_attempts(attempts: usize);
    with_answers(answers: usize);
    with_answers_for_one(answers_for_one: usize);
    with_dials_for_peers(dials_for_peers: usize);
    with_relays(relays: usize);
    with_unproven(unproven: usize);
    with_backlog(backlog: usize);
    with_pipes_per_peer(pipes_per_peer: usize);
    with_pipes(pipes: usize);
});

/// The wishes of a caller for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The ways to go, in the order they start. Default: all.
    pub ways: Vec<Way>,
    /// The families and paths to use. Default: all.
    pub filter: Filter,
    /// Asks for the bare TCP connection. Default: no.
    pub plain: bool,
    /// The time after which to give up. Default 30 s, a day at most.
    pub within: Duration,
    /// The time by which the first way is ahead of the others. Default 30 ms.
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

impl ConnectOptions {
    /// Returns the default: every way and path, encrypted, for 30 s.
    pub fn new() -> Self {
        Self::default()
    }
}

crate::setters!(ConnectOptions {
    with_ways(ways: each Way);
    with_filter(filter: Filter);
    with_plain(plain: bool);
    with_within(within: Duration);
    with_head_start(head_start: Duration);
    with_dial_delay(dial_delay: Duration);
});
