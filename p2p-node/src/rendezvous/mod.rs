//! A rendezvous in one process: MQTT broker, STUN server, TURN server.

mod accept;
pub mod broker;
mod descriptors;
mod log_limit;
mod pair;
mod seats;
pub mod stun;
mod tally;
mod tls;
pub mod turn;

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use broker::{Broker, BrokerError};
use descriptors::DescriptorWant;
pub use descriptors::raise_open_files;
use p2p_core::Seed;
use stun::{StunServer, StunServerConfig, StunServerError};
pub use tls::ServerTls;
use turn::{Credential, TurnServer, TurnServerConfig, TurnServerError};

/// Which servers to run, and where. Port 0 takes a free one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RendezvousConfig {
    /// Where the MQTT broker listens. Default: nowhere, no broker.
    pub mqtt: Vec<SocketAddr>,
    /// What the broker is told.
    pub broker: broker::Options,
    /// Where the STUN server listens, over UDP and TCP. Default: nowhere, no STUN server.
    pub stun: Vec<SocketAddr>,
    /// A second address for those of the same family in `stun`, with another port (RFC 5780): clients then learn
    /// more of their NATs. Default: none.
    pub stun_alternate: Vec<SocketAddr>,
    /// Bytes a second the STUN server answers over UDP to one source: see [`StunServerConfig::source_bytes`].
    pub stun_source_bytes: Option<u32>,
    /// The TURN server. Default: none.
    pub turn: Option<TurnServerConfig>,
}

impl Default for RendezvousConfig {
    fn default() -> Self {
        Self {
            mqtt: Vec::new(),
            broker: broker::Options::default(),
            stun: Vec::new(),
            stun_alternate: Vec::new(),
            stun_source_bytes: StunServerConfig::new([]).source_bytes,
            turn: None,
        }
    }
}

/// Why a rendezvous does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RendezvousError {
    /// The broker does not.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The STUN server does not.
    #[error(transparent)]
    Stun(#[from] StunServerError),
    /// The TURN server does not.
    #[error(transparent)]
    Turn(#[from] TurnServerError),
    /// There is nothing to run.
    #[error("a rendezvous needs at least one server: give an address for MQTT, STUN or TURN")]
    Nothing,
}

/// Running servers. Dropping it stops them in the background.
#[derive(Debug)]
pub struct Rendezvous {
    broker: Option<Broker>,
    stun: Option<StunServer>,
    turn: Option<TurnServer>,
}

impl Rendezvous {
    /// Starts the servers on the current tokio runtime. When it returns, all of them can be used.
    ///
    /// Where this process may not have as many files open as the configuration asks for, each server has its part of
    /// them: see [`raise_open_files`].
    ///
    /// # Errors
    /// [`RendezvousError`] when one of them cannot start; then none runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: RendezvousConfig) -> Result<Self, RendezvousError> {
        let RendezvousConfig { mqtt, broker, stun, stun_alternate, stun_source_bytes, mut turn } = config;
        let mut broker = (!mqtt.is_empty() || broker.tls.is_some()).then_some(broker);
        let mut stun = (!stun.is_empty()).then(|| StunServerConfig {
            alternate: stun_alternate,
            source_bytes: stun_source_bytes,
            ..StunServerConfig::new(stun)
        });
        if broker.is_none() && stun.is_none() && turn.is_none() {
            return Err(RendezvousError::Nothing);
        }
        share_descriptors(broker.as_mut(), stun.as_mut(), turn.as_mut());
        let stun = match stun {
            None => None,
            Some(stun) => Some(StunServer::start(stun).await?),
        };
        let turn = match turn {
            None => None,
            Some(turn) => Some(TurnServer::start(turn).await?),
        };
        let broker = match broker {
            None => None,
            Some(broker) => Some(Broker::start(&mqtt, broker).await?),
        };
        Ok(Self { broker, stun, turn })
    }

    /// Where the broker listens, in the order asked for.
    pub fn mqtt_addrs(&self) -> &[SocketAddr] {
        self.broker.as_ref().map_or(&[], Broker::local_addrs)
    }

    /// Where the broker listens with TLS, in the order asked for.
    pub fn mqtts_addrs(&self) -> &[SocketAddr] {
        self.broker.as_ref().map_or(&[], Broker::tls_addrs)
    }

    /// Where the STUN server listens, over UDP and TCP each, in the order asked for.
    pub fn stun_addrs(&self) -> Vec<SocketAddr> {
        self.stun.as_ref().map(StunServer::local_addrs).unwrap_or_default()
    }

    /// The second addresses of the STUN server.
    pub fn stun_alternate_addrs(&self) -> Vec<SocketAddr> {
        self.stun.as_ref().map(StunServer::alternate_addrs).unwrap_or_default()
    }

    /// Where the TURN server listens, over UDP and TCP each, in the order asked for.
    pub fn turn_addrs(&self) -> &[SocketAddr] {
        self.turn.as_ref().map_or(&[], TurnServer::local_addrs)
    }

    /// Where the TURN server listens with TLS, in the order asked for.
    pub fn turns_addrs(&self) -> &[SocketAddr] {
        self.turn.as_ref().map_or(&[], TurnServer::tls_addrs)
    }

    /// A credential for the TURN server, for `name` and good for `lifetime` from now; `None` without a server or a
    /// secret.
    pub fn turn_credential(&self, name: &str, lifetime: Duration) -> Option<Credential> {
        self.turn.as_ref()?.credential(name, lifetime)
    }

    /// Stops the servers and waits until they are gone, for 5 s at most.
    pub async fn shutdown(self) {
        if let Some(stun) = self.stun {
            stun.shutdown().await;
        }
        if let Some(turn) = self.turn {
            turn.shutdown().await;
        }
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
    }
}

/// Gives each server its part of the descriptors, where there are too few for all.
fn share_descriptors(
    broker: Option<&mut broker::Options>,
    stun: Option<&mut StunServerConfig>,
    turn: Option<&mut TurnServerConfig>,
) {
    let want = |name, setting, each| DescriptorWant { name, setting, each };
    let mut wants = Vec::new();
    if let Some(broker) = broker {
        wants.push(want("clients of the broker", &mut broker.max_clients, 1));
    }
    let mut listening = 0;
    if let Some(stun) = stun {
        // Each address and its alternate make four of both protocols.
        listening += 2 * (stun.listen.len() + 3 * stun.alternate.len());
        wants.push(want("connections to the STUN server", &mut stun.most_connections, 1));
        // From two addresses, with a second handle each.
        wants.push(want("dials of the STUN server", &mut stun.most_dials, 4));
    }
    if let Some(turn) = turn {
        listening += 2 * turn.listen.len();
        wants.push(want("connections to the TURN server", &mut turn.most_connections, 1));
        wants.push(want("connections of its peers", &mut turn.most_peer_connections, 1));
        wants.push(want("relayed addresses", &mut turn.most_allocations, 1));
    }
    descriptors::share(&mut wants, listening);
}

/// Chance for what nobody outside shall predict, and nobody dies of: the standard library's own.
fn chance() -> Seed {
    Seed::from_u64(RandomState::new().hash_one(0))
}
