//! A rendezvous in one process: MQTT broker, STUN server.

pub mod broker;
pub mod stun;

use std::net::SocketAddr;

use broker::{Broker, BrokerError};
use stun::{StunServer, StunServerConfig, StunServerError};

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
    /// There is nothing to run.
    #[error("a rendezvous needs at least one server: give an address for MQTT or STUN")]
    Nothing,
}

/// Running servers. Dropping it stops them in the background.
#[derive(Debug)]
pub struct Rendezvous {
    broker: Option<Broker>,
    stun: Option<StunServer>,
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
        let RendezvousConfig { mqtt, broker, stun, stun_alternate } = config;
        if mqtt.is_empty() && stun.is_empty() && broker.tls.is_none() {
            return Err(RendezvousError::Nothing);
        }
        let stun = match stun.is_empty() {
            true => None,
            false => {
                let config = StunServerConfig { alternate: stun_alternate, ..StunServerConfig::new(stun) };
                Some(StunServer::start(config).await?)
            }
        };
        let broker = match mqtt.is_empty() && broker.tls.is_none() {
            true => None,
            false => Some(Broker::start(&mqtt, broker).await?),
        };
        Ok(Self { broker, stun })
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

    /// Stops the servers and waits until they are gone, for 5 s at most.
    pub async fn shutdown(self) {
        if let Some(stun) = self.stun {
            stun.shutdown().await;
        }
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
    }
}
