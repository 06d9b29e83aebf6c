//! A small MQTT broker for a rendezvous, over the `mqtt5` crate.
//!
//! It serves MQTT 3.1.1 and 5 on one port and forgets everything: no retained messages, no sessions after the
//! connection, nothing on disk. Subscribers see topic and payload and nothing of the publisher: the crate underneath
//! would add the publisher's client identifier, with which anybody could take its session over.
//!
//! Accepted connections have `TCP_NODELAY` (`mqtt5` sets it). Measured on loopback, a QoS 1 message goes from publisher
//! to subscriber, actors included, in 0.3 ms (median, release; mosquitto: 0.2 ms):
//! `cargo bench -p p2p-node --bench broker_latency`.
//!
//! # What it does not do
//! It acknowledges with "success" whether or not somebody is subscribed; `mqtt5` 0.49 has no knob for
//! 0x10 "no matching subscribers" (MQTT 5, 3.4.2.1). A peer that is offline is thus noticed by time, not at once, as
//! with any MQTT 3.1.1 broker. Mosquitto does tell.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::QoS;
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig, TlsConfig};
use mqtt5::broker::{
    AuthProvider, AuthResult, BrokerEventHandler, BrokerShutdownHandle, ClientPublishEvent, MqttBroker,
    PublishAction,
};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
pub use p2p_core::signal::link::Login;
use p2p_core::signal::link::MAX_PACKET;
use ring::digest::{SHA256, digest};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

pub use super::tls::ServerTls;

/// Topics one client may subscribe to. A node needs one.
const SUBSCRIPTIONS: usize = 16;
/// Messages a second one client may publish on average; more are refused (0x97 "quota exceeded").
const MESSAGES_PER_SECOND: u32 = 2_000;
/// Bytes a second one client may publish on average.
const BYTES_PER_SECOND: u64 = 4 * 1024 * 1024;
/// Messages that wait for a client that reads slowly; more are lost.
const QUEUED_PER_CLIENT: usize = 256;
/// A port chosen by the system may be taken by somebody else before the broker has it.
const TRIES: usize = 4;

/// What a broker may be told. The default: anybody may come, 1,000 clients, no TLS.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clients at once. Default: 1,000.
    pub max_clients: usize,
    /// The user name and password every client must give. Default: none is asked for.
    pub login: Option<Login>,
    /// TLS, on addresses of its own. Default: none.
    pub tls: Option<ServerTls>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_clients: 1_000, login: None, tls: None }
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
    /// The options are no good: TLS files, limits, no address at all.
    #[error("the broker does not start: {0}")]
    Options(String),
}

/// A running broker. Dropping it stops it in the background.
#[derive(Debug)]
pub struct Broker {
    local_addrs: Vec<SocketAddr>,
    tls_addrs: Vec<SocketAddr>,
    stop: Stop,
    running: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker on the current tokio runtime, listening on these addresses (port 0: the system chooses) and on
    /// those of [`Options::tls`]. When it returns, clients can connect.
    ///
    /// # Errors
    /// An address that cannot be listened on, or options that are no good. Then nothing runs.
    pub async fn start(listen: &[SocketAddr], options: Options) -> Result<Self, BrokerError> {
        let mut failure = BrokerError::Options("no address to listen on".into());
        for _ in 0..TRIES {
            match Self::try_start(listen, &options).await {
                Err(BrokerError::Listen { address, reason }) if address.port() == 0 => {
                    debug!(%address, %reason, "the port was taken meanwhile, trying another");
                    failure = BrokerError::Listen { address, reason };
                }
                done => return done,
            }
        }
        Err(failure)
    }

    async fn try_start(listen: &[SocketAddr], options: &Options) -> Result<Self, BrokerError> {
        let local_addrs = choose(listen)?;
        let tls_listen = options.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
        let tls_addrs = choose(tls_listen)?;
        let gate = Arc::new(Gate {
            login: options.login.as_ref().map(|login| fingerprint(&login.user, login.password.as_bytes())),
        });
        let config = config(&local_addrs, &tls_addrs, options, gate.clone());
        let refused = |error: mqtt5::MqttError| BrokerError::Options(error.to_string());
        let mut broker = MqttBroker::with_config(config).await.map_err(refused)?.with_auth_provider(gate);
        // The broker only logs an address it could not have, as long as it has another.
        let asked = listen.iter().chain(tls_listen);
        for (asked, address) in asked.zip(local_addrs.iter().chain(&tls_addrs)) {
            if TcpListener::bind(address).is_ok() {
                return Err(BrokerError::Listen { address: *asked, reason: io::ErrorKind::AddrInUse.into() });
            }
        }
        let stop = Stop(broker.shutdown_handle());
        let mut ready = broker.ready_receiver();
        let running = tokio::spawn(async move {
            if let Err(error) = broker.run().await {
                warn!(%error, "the broker ended");
            }
        });
        let broker = Self { local_addrs, tls_addrs, stop, running: Some(running) };
        ready
            .wait_for(|ready| *ready)
            .await
            .map_err(|_| BrokerError::Options("it ended before it was ready".into()))?;
        Ok(broker)
    }

    /// The addresses it listens on, in the order asked for.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// The addresses it listens on with TLS, in the order asked for.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addrs
    }

    /// Stops listening, disconnects all clients and waits until that is done, for 5 s at most.
    pub async fn shutdown(mut self) {
        self.stop.0.shutdown();
        if let Some(running) = self.running.take()
            && let Err(error) = running.await
        {
            warn!(%error, "the broker ended badly");
        }
    }
}

/// Tells the broker to stop when it is dropped.
struct Stop(BrokerShutdownHandle);

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stop(..)")
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// The same addresses with ports: those of port 0 get one that is free now.
fn choose(listen: &[SocketAddr]) -> Result<Vec<SocketAddr>, BrokerError> {
    let bind = |&address: &SocketAddr| {
        let listener = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        listener.map_err(|reason| BrokerError::Listen { address, reason })
    };
    // All at once, so that no port is chosen twice.
    let listeners: Vec<_> = listen.iter().map(bind).collect::<Result<_, _>>()?;
    Ok(listeners.into_iter().map(|(address, _)| address).collect())
}

fn config(local: &[SocketAddr], tls: &[SocketAddr], options: &Options, gate: Arc<Gate>) -> BrokerConfig {
    let mut config = BrokerConfig::new()
        .with_bind_addresses(local.to_vec())
        .with_max_clients(options.max_clients)
        .with_max_packet_size(MAX_PACKET as usize)
        .with_maximum_qos(1)
        .with_retain_available(false)
        .with_max_retained_messages(1)
        .with_max_retained_message_size(1)
        .with_max_subscriptions_per_client(SUBSCRIPTIONS)
        .with_client_channel_capacity(QUEUED_PER_CLIENT)
        .with_session_expiry(Duration::ZERO)
        .with_sys_topics_enabled(false)
        .with_event_handler(gate)
        .with_storage(StorageConfig::new().with_backend(StorageBackend::Memory).with_persistence(false));
    config.wildcard_subscription_available = false;
    config.shared_subscription_available = false;
    config.subscription_identifier_available = false;
    config.topic_alias_maximum = 0;
    config.max_message_rate_per_client = MESSAGES_PER_SECOND;
    config.max_bandwidth_per_client = BYTES_PER_SECOND;
    if let Some(files) = &options.tls {
        let tls =
            TlsConfig::new(files.certificate.clone(), files.key.clone()).with_bind_addresses(tls.to_vec());
        config = config.with_tls(tls);
    }
    config
}

/// User name and password as one number, so that comparing takes the same time whatever is wrong.
fn fingerprint(user: &str, password: &[u8]) -> [u8; 32] {
    let mut both = (user.len() as u64).to_be_bytes().to_vec();
    both.extend_from_slice(user.as_bytes());
    both.extend_from_slice(password);
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &both).as_ref());
    out
}

/// Who may do what.
struct Gate {
    login: Option<[u8; 32]>,
}

impl Gate {
    fn admits(&self, connect: &ConnectPacket) -> bool {
        self.login.is_none_or(|wanted| {
            let user = connect.username.as_deref().unwrap_or_default();
            let password = connect.password.as_deref().unwrap_or_default();
            fingerprint(user, password) == wanted
        })
    }
}

/// What this crate's traits answer with.
type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for Gate {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        client: SocketAddr,
    ) -> Answer<'a, mqtt5::Result<AuthResult>> {
        let result = if self.admits(connect) {
            AuthResult::success()
        } else {
            debug!(%client, "wrong user name or password");
            AuthResult::fail(ReasonCode::BadUsernameOrPassword)
        };
        Box::pin(async { Ok(result) })
    }

    fn authorize_publish<'a>(&'a self, _: &str, _: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        let allowed = !topic.starts_with('$');
        Box::pin(async move { allowed })
    }

    /// Nobody listens to what is for others: no wildcards, no shared subscriptions, no system topics. That the
    /// broker announces the first two as unavailable does not keep it from granting them.
    fn authorize_subscribe<'a>(&'a self, _: &str, _: Option<&'a str>, filter: &'a str) -> Answer<'a, bool> {
        let allowed = !filter.starts_with('$') && !filter.contains(['+', '#']);
        Box::pin(async move { allowed })
    }
}

impl BrokerEventHandler for Gate {
    /// Passes on topic and payload only: no client identifier, no user properties, no retained message.
    fn on_client_publish<'a>(&'a self, event: ClientPublishEvent) -> Answer<'a, PublishAction> {
        let qos = match event.qos {
            QoS::AtMostOnce => QoS::AtMostOnce,
            QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
        };
        let mut publish = PublishPacket::new(&*event.topic, event.payload, qos);
        publish.packet_id = event.packet_id;
        Box::pin(async { PublishAction::Transform(publish) })
    }
}
