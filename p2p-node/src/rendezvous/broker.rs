//! A small MQTT broker for a rendezvous.
//!
//! It serves MQTT 3.1.1 and 5 on one port and forgets everything: no retained messages, no wills, no sessions after the
//! connection, nothing on disk. Topics are exact. Subscribers see topic and payload and nothing of the publisher. In
//! MQTT 5 a publisher hears at once when nobody listens. What is decided is in [`p2p_core::signal::mqtt_server`]; here
//! are the sockets.
//!
//! Accepted connections have `TCP_NODELAY`: `cargo bench -p p2p-node --bench broker_latency` tells how long a message
//! takes.

mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::rate::Rate;
pub use p2p_core::signal::link::Login;
pub use p2p_core::signal::mqtt_server::MqttServerCounters;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::warn;

use super::accept;
use super::pair::listener;
use super::tally::counters;
pub use super::tls::ServerTls;
use serve::Hub;

/// What a broker may be told. The default: anybody may come, 1,000 clients, no TLS.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clients at once. When there are as many, one that has not said who it is makes room. Default: 1,000.
    pub max_clients: usize,
    /// Clients at once from one source: one IPv4 address, or the /64 of an IPv6 address. Default: 256.
    pub most_per_source: usize,
    /// The user name and password every client must give. Default: none is asked for.
    pub login: Option<Login>,
    /// TLS, on addresses of its own. Default: none.
    pub tls: Option<ServerTls>,
    /// Messages one client may publish. More are refused in MQTT 5 (0x97 "quota exceeded"), and acknowledged and dropped
    /// in 3.1.1, which has no word for it. Default: 20 a second and 200 at once.
    pub publishes: Rate,
    /// Messages all clients of one source may publish. Default: 100 a second and 1,000 at once.
    pub source_publishes: Rate,
    /// The longest keep-alive, also for clients that want none: who is silent for half as long again is disconnected.
    /// Default: 2 min.
    pub keep_alive: Duration,
    /// How long a client may take to read what is written to it. Default: 10 s.
    pub stall: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_clients: 1_000,
            most_per_source: 256,
            login: None,
            tls: None,
            publishes: Rate { per_second: 20, burst: 200 },
            source_publishes: Rate { per_second: 100, burst: 1_000 },
            keep_alive: Duration::from_secs(120),
            stall: Duration::from_secs(10),
        }
    }
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// This address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why: it is in use, not ours, or a privileged port.
        reason: io::Error,
    },
    /// The options are no good: TLS files, or no address at all.
    #[error("the broker does not start: {0}")]
    Options(String),
}

counters! {
    /// The TCP connections of the broker so far.
    BrokerConnections, Tally;
    /// Accepted.
    accepted,
    /// Closed because there are too many, from one source or from all: at once, or to make room.
    crowded,
    /// Closed for stalling, or for not having said in 5 s who they are.
    stalled,
}

/// A running broker. Dropping it stops it in the background.
#[derive(Debug)]
pub struct Broker {
    local_addrs: Vec<SocketAddr>,
    tls_addrs: Vec<SocketAddr>,
    hub: Arc<Hub>,
    tasks: JoinSet<()>,
}

impl Broker {
    /// Starts a broker on the current tokio runtime, listening on these addresses (port 0: the system chooses) and on
    /// those of [`Options::tls`]. When it returns, clients can connect.
    ///
    /// # Errors
    /// An address that cannot be listened on, or options that are no good. Then nothing runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(listen: &[SocketAddr], options: Options) -> Result<Self, BrokerError> {
        let acceptor =
            options.tls.as_ref().map(ServerTls::acceptor).transpose().map_err(BrokerError::Options)?;
        let tls_listen = options.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
        if listen.is_empty() && tls_listen.is_empty() {
            return Err(BrokerError::Options("there is no address to listen on".to_owned()));
        }
        let (local_addrs, plain) = bind(listen)?;
        let (tls_addrs, secure) = bind(tls_listen)?;
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|error| BrokerError::Options(error.to_string()))?;
        let hub = Hub::new(&options, Seed::new(entropy));
        let mut tasks = JoinSet::new();
        for listener in plain {
            tasks.spawn(accept::connections(Arc::clone(&hub), listener, None));
        }
        let tls = acceptor.map(accept::TlsGate::new);
        for listener in secure {
            tasks.spawn(accept::connections(Arc::clone(&hub), listener, tls.clone()));
        }
        tasks.spawn(Arc::clone(&hub).watch());
        Ok(Self { local_addrs, tls_addrs, hub, tasks })
    }

    /// The addresses it listens on, in the order asked for.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// The addresses it listens on with TLS, in the order asked for.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addrs
    }

    /// Returns what became of TCP connections so far.
    pub fn connections(&self) -> BrokerConnections {
        self.hub.tally.read()
    }

    /// Returns what clients did so far.
    pub fn counters(&self) -> MqttServerCounters {
        self.hub.counters()
    }

    /// Disconnects all clients, stops listening and waits until that is done, for 5 s at most.
    pub async fn shutdown(mut self) {
        if tokio::time::timeout(FAREWELL, self.hub.close()).await.is_err() {
            warn!("clients of the broker did not read its farewell");
        }
        self.tasks.shutdown().await;
    }
}

/// All of these, or an error.
fn bind(listen: &[SocketAddr]) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), BrokerError> {
    let bind = |&address: &SocketAddr| {
        let (bound, socket) = listener(address).map_err(|reason| BrokerError::Listen { address, reason })?;
        // Its connections have the same. What waits for whom is ours to bound, and not the system's to hide.
        let options = SockRef::from(&socket);
        let _ = options.set_send_buffer_size(BUFFER).and_then(|()| options.set_recv_buffer_size(BUFFER));
        Ok((bound, socket))
    };
    listen.iter().map(bind).collect()
}

/// Bytes the system may keep for a connection, each way.
const BUFFER: usize = 64 * 1024;
/// How long clients may take to read that it is over.
const FAREWELL: Duration = Duration::from_secs(5);
