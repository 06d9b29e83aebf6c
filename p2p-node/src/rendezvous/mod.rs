//! A rendezvous in one process: MQTT broker, STUN server, TURN server.

pub mod broker;
mod limit;
mod pair;
mod seats;
pub mod stun;
mod tally;
mod tls;
pub mod turn;

use std::net::SocketAddr;
use std::time::Duration;

use broker::{Broker, BrokerError};
use stun::{StunServer, StunServerConfig, StunServerError};
pub use tls::ServerTls;
use turn::{Credential, TurnServer, TurnServerConfig, TurnServerError};

/// Which servers to run, and where. Port 0 takes a free one.
#[derive(Clone, Debug, Default)]
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
    /// The TURN server. Default: none.
    pub turn: Option<TurnServerConfig>,
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
    /// # Errors
    /// [`RendezvousError`] when one of them cannot start; then none runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: RendezvousConfig) -> Result<Self, RendezvousError> {
        let RendezvousConfig { mqtt, broker, stun, stun_alternate, turn } = config;
        if mqtt.is_empty() && stun.is_empty() && turn.is_none() && broker.tls.is_none() {
            return Err(RendezvousError::Nothing);
        }
        let stun = match stun.is_empty() {
            true => None,
            false => {
                let config = StunServerConfig { alternate: stun_alternate, ..StunServerConfig::new(stun) };
                Some(StunServer::start(config).await?)
            }
        };
        let turn = match turn {
            None => None,
            Some(turn) => Some(TurnServer::start(turn).await?),
        };
        let broker = match mqtt.is_empty() && broker.tls.is_none() {
            true => None,
            false => Some(Broker::start(&mqtt, broker).await?),
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
