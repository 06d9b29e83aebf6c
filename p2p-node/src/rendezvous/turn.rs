//! A TURN server: relays datagrams (RFC 8656) and connections (RFC 6062) for peers that cannot meet otherwise.
//!
//! Clients come over UDP, TCP and TLS; Binding requests are answered as by the STUN server. What is decided is in
//! tables without sockets and clock; around them are the sockets, one task for each.
//!
//! # What it does not do
//! DTLS; pairs of ports (EVEN-PORT that reserves is answered with 508), DONT-FRAGMENT (420); mobility (RFC 8016);
//! ICMP in Data indications; USERHASH, because a time-limited name cannot be found from its hash.

mod bind;
mod credential;
mod frame;
mod relay;
mod serve;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use credential::{Credential, Secret, WeakSecret};
pub use p2p_core::addr::{IpPrefix, NoPrefix};
use p2p_core::rate::Rate;
pub use p2p_core::signal::link::Login;
use p2p_core::turn::credentials::CredentialsError;
use p2p_core::turn::server::MOST_REALM;
pub use p2p_core::turn::server::RelayerCounters;
use tokio_util::sync::DropGuard;

use super::accept;
use super::tally::counters;
use super::tls::ServerTls;
use serve::Shared;

/// Where to listen, what to relay, for whom, and how much.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TurnServerConfig {
    /// Addresses to listen on, each over UDP and TCP. Port 0 takes a free one, the same for both.
    pub listen: Vec<SocketAddr>,
    /// TLS over TCP, on addresses of its own. Default: none.
    pub tls: Option<ServerTls>,
    /// IP addresses to relay from, one of each family at most: peers send to them. Default: the first specific
    /// address of each family listened on.
    pub relay: Vec<IpAddr>,
    /// Ports to relay from. Default 49152 … 65535 (RFC 8656, section 7.2).
    pub ports: RangeInclusive<u16>,
    /// The name of the server when it asks for a user name: 1 … 12 bytes. Default `p2p`.
    pub realm: String,
    /// Makes and recognizes time-limited credentials. What was allocated in time can be refreshed when the credential
    /// has ended. Default: none, only `users` may come.
    pub secret: Option<Secret>,
    /// Users whose credentials do not end. Default: none.
    pub users: Vec<Login>,
    /// Networks that may be relayed into although they are not the Internet by IANA's registries: loopback, private,
    /// documentation, this machine's own and so on. Default: none. Multicast is never relayed to.
    pub allow_peers: Vec<IpPrefix>,
    /// Networks that are never relayed into. Default: none.
    pub deny_peers: Vec<IpPrefix>,
    /// Relayed addresses one user may have at once; a user of a time-limited credential is the name in it.
    /// Default 16.
    pub most_per_user: usize,
    /// Relayed addresses at once, over all users. Default 1,000.
    pub most_allocations: usize,
    /// Bytes a second relayed for one user, both directions together; datagrams above that are dropped, connections
    /// slowed. A second's worth may go at once. Default 12,500,000: 100 Mbit/s. `None`: no limit.
    pub user_rate: Option<u64>,
    /// Bytes a second relayed in all. Default `None`: no limit.
    pub total_rate: Option<u64>,
    /// How long an allocation lasts unless more is asked for, and at least. Default 10 min (RFC 8656, section 3.2).
    pub lifetime: Duration,
    /// How long one lasts at most, unrefreshed. Default 1 h.
    pub most_lifetime: Duration,
    /// How long a nonce is good: how long somebody who recorded a request may send it again. Default 1 h.
    pub nonce_lifetime: Duration,
    /// Requests heard from one address and port that has not shown a nonce of this server. From one that has, and on a
    /// TCP connection, ten times as many. Default 20 a second and 60 at once.
    pub rate: Rate,
    /// TCP connections of clients at once, over all addresses. When there are as many, one of somebody who has not shown
    /// a credential makes room. Default 1,024.
    pub most_connections: usize,
    /// TCP connections of clients at once from one source. Default 256.
    pub most_connections_per_source: usize,
    /// Connections with peers at once, over all users (RFC 6062). Default 1,024.
    pub most_peer_connections: usize,
    /// How long a TCP connection without allocation may say nothing. Default 1 min.
    pub idle: Duration,
    /// How long a message may take to arrive once begun, and one to be taken. Default 10 s; the first message of a
    /// connection, TLS included, has 5 s in any case.
    pub stall: Duration,
}

impl TurnServerConfig {
    /// Listens on these addresses, with the default bounds, for nobody yet: give it a `secret` or `users`.
    pub fn new(listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            listen: listen.into_iter().collect(),
            tls: None,
            relay: Vec::new(),
            ports: 49_152..=65_535,
            realm: "p2p".to_owned(),
            secret: None,
            users: Vec::new(),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            most_per_user: 16,
            most_allocations: 1_000,
            user_rate: Some(12_500_000),
            total_rate: None,
            lifetime: Duration::from_secs(600),
            most_lifetime: Duration::from_secs(3_600),
            nonce_lifetime: Duration::from_secs(3_600),
            rate: Rate { per_second: 20, burst: 60 },
            most_connections: 1_024,
            most_connections_per_source: 256,
            most_peer_connections: 1_024,
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(10),
        }
    }

    /// For tests and demonstrations: listens on a free port of 127.0.0.1, relays from there to there, as fast as it
    /// goes, for whoever has a credential made with `secret`.
    pub fn loopback(secret: Secret) -> Self {
        let loopback = IpPrefix::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8).expect("a network");
        Self {
            secret: Some(secret),
            allow_peers: vec![loopback],
            user_rate: None,
            rate: Rate { per_second: 1_000, burst: 1_000 },
            ..Self::new([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnServerError {
    /// The system refused an address: in use, not ours, or a port that needs privileges.
    #[error("the TURN server cannot listen on {address}: {reason}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        reason: io::Error,
    },
    /// Nothing to listen on.
    #[error("a TURN server needs an address to listen on")]
    Nowhere,
    /// It listens on unspecified addresses only, and was not told where to relay from.
    #[error("a TURN server that listens on {0} must be told an IP address of this machine to relay from")]
    Relay(IpAddr),
    /// Not an address to relay from: not this machine's, unspecified, or the second of its family.
    #[error("the TURN server cannot relay from {address}: {reason}")]
    RelayAddress {
        /// What was asked for.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
    /// The range of ports is empty, or begins with 0.
    #[error("the TURN server cannot relay from ports {} to {}: that is no range", .0.start(), .0.end())]
    Ports(RangeInclusive<u16>),
    /// Neither a secret nor users: nobody could come, and an open relay there shall not be.
    #[error("a TURN server needs a secret for time-limited credentials, or users")]
    Nobody,
    /// The file with the secret cannot be used.
    #[error("the file {} with the TURN secret: {reason}", .path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A user whose name is empty or too long, or whose password is too long.
    #[error("a user of the TURN server: {0}")]
    User(CredentialsError),
    /// The realm is empty or too long.
    #[error(
        "the realm of a TURN server is 1 to {MOST_REALM} bytes: a longer one does not fit into the answer to a small request"
    )]
    Realm,
    /// The certificate or its key cannot be used.
    #[error("TLS of the TURN server: {0}")]
    Tls(String),
    /// The system has no randomness.
    #[error("the TURN server needs random numbers: {0}")]
    Entropy(io::Error),
}

counters! {
    /// What the sockets of the server have done so far.
    TurnSocketCounters, Tally;
    /// Datagrams the system would not send, or a client's connection had no room for.
    unsent,
    /// TCP connections that were neither STUN nor ChannelData, closed.
    garbage,
    /// TCP connections accepted.
    connections,
    /// TCP connections closed because there are too many, from one source or from all: at once, or to make room.
    crowded,
    /// TCP connections closed for idling, stalling, or saying nothing at all for 5 s.
    stalled,
}

/// What the server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnServerCounters {
    /// What was decided.
    pub decided: RelayerCounters,
    /// What the sockets did.
    pub sockets: TurnSocketCounters,
}

/// A running TURN server. Dropping it stops it in the background.
#[derive(Debug)]
pub struct TurnServer {
    shared: Arc<Shared>,
    local_addrs: Vec<SocketAddr>,
    tls_addrs: Vec<SocketAddr>,
    secret: Option<Secret>,
    _stop: DropGuard,
}

impl TurnServer {
    /// Binds all sockets, then serves in tasks of the calling runtime.
    ///
    /// # Errors
    /// When an address cannot be had or the configuration makes no sense; then nothing is left running.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: TurnServerConfig) -> Result<Self, TurnServerError> {
        let bound = bind::bind(&config)?;
        let secret = config.secret.clone();
        let shared = Shared::new(config, bound.relays)?;
        let local_addrs = bound.pairs.iter().map(|(address, ..)| *address).collect();
        let tls_addrs = bound.tls.iter().map(|(address, _)| *address).collect();
        for (address, udp, tcp) in bound.pairs {
            shared.spawn(serve::datagrams(Arc::clone(&shared), Arc::new(udp), address));
            shared.spawn(accept::connections(Arc::clone(&shared), tcp, None));
        }
        let tls = bound.acceptor.map(accept::TlsGate::new);
        for (_, tcp) in bound.tls {
            shared.spawn(accept::connections(Arc::clone(&shared), tcp, tls.clone()));
        }
        shared.spawn(serve::sweep(Arc::clone(&shared)));
        let stop = shared.stop.clone().drop_guard();
        Ok(Self { shared, local_addrs, tls_addrs, secret, _stop: stop })
    }

    /// The addresses of [`TurnServerConfig::listen`], in order, with the ports that were taken. Each is served over
    /// UDP and TCP.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// The addresses it listens on with TLS, in the order asked for.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addrs
    }

    /// A credential for `name`, good for `lifetime` from now; `None` without a secret.
    pub fn credential(&self, name: &str, lifetime: Duration) -> Option<Credential> {
        Some(self.secret.as_ref()?.credential(name, unix_time() + lifetime))
    }

    /// Relayed addresses there are now.
    pub fn held(&self) -> usize {
        self.shared.lock().relayer.held()
    }

    /// What it has done so far.
    pub fn counters(&self) -> TurnServerCounters {
        TurnServerCounters {
            decided: self.shared.lock().relayer.counters(),
            sockets: self.shared.tally.read(),
        }
    }

    /// Stops, and waits until every socket is closed.
    pub async fn shutdown(self) {
        self.shared.shutdown().await;
    }
}

/// The time since the UNIX epoch, by the system's clock.
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
