//! Signalling channels: one actor per broker, each driving a [`Link`](p2p_core::signal::link::Link).
//!
//! [`open`] starts a channel on the current `LocalSet` and gives a [`Channel`] to publish with; what happens comes
//! to the owner as [`FromChannel`]. Several channels, to several brokers, live side by side and know nothing of each
//! other.
//!
//! No flood reaches a mailbox: a channel reads its socket only while it has time, a few packets at a turn, and
//! passes on no more than [`RECEIVE`](p2p_core::signal::link::RECEIVE) allows; messages to
//! publish are counted at the door of [`Channel::publish`].

mod codec;
mod dial;
mod memory;
mod mqtt;
mod tls;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use actix::{Actor, Message, Recipient};
use bytes::Bytes;
use p2p_core::Seed;
use p2p_core::signal::link::{Config, Login, MAX_QUEUED, MqttVersion, PublishError};
use tokio::sync::oneshot;

pub use memory::MemoryBroker;
pub use p2p_core::signal::link::Event as ChannelEvent;

/// TLS to a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file with the certificates to trust. Default: those of the platform.
    pub ca_file: Option<PathBuf>,
}

/// Where a connection leaves this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// The local address. Broker addresses of the other family are then left out. Default: the system chooses.
    pub address: Option<IpAddr>,
    /// The network interface, by name (Linux and Android only). Default: the routing table decides.
    pub device: Option<String>,
}

/// A broker on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name or IP address.
    pub host: String,
    /// Its TCP port: 1883 is usual, 8883 with TLS.
    pub port: u16,
    /// With TLS, if so; the certificate must be for `host`.
    pub tls: Option<Tls>,
    /// The only protocol version to try. Default: MQTT 5, then 3.1.1.
    pub protocol: Option<MqttVersion>,
    /// User name and password, if the broker wants any.
    pub login: Option<Login>,
    /// Where the connection leaves this machine.
    pub bind: Bind,
}

/// What is at the other end of a channel.
#[derive(Clone, Debug)]
pub enum Broker {
    /// An MQTT broker.
    Mqtt(Endpoint),
    /// A broker within this process.
    Memory(MemoryBroker),
}

/// What a channel needs to know.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// The owner's name for the channel, in every [`FromChannel`].
    pub id: u32,
    /// The broker.
    pub broker: Broker,
    /// The topic to subscribe to: ours, without wildcards.
    pub topic: String,
    /// Chance, for the client identifier and the pauses between dials.
    pub seed: Seed,
}

/// What happens on a channel, told to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromChannel {
    /// The [`ChannelConfig::id`].
    pub channel: u32,
    /// What.
    pub what: ChannelEvent,
}

impl Message for FromChannel {
    type Result = ();
}

/// Starts a channel on the current [`LocalSet`](tokio::task::LocalSet). It dials at once, and again after every
/// failure, until it is closed.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn open(config: ChannelConfig, owner: Recipient<FromChannel>) -> Channel {
    let ChannelConfig { id, broker, topic, mut seed } = config;
    let door = Door::default();
    let (alive, ended) = oneshot::channel();
    let owned = Owned { id, owner, door: door.clone(), _alive: alive };
    let (publish, check, close) = match broker {
        Broker::Mqtt(endpoint) => {
            let link = Config { topic, login: endpoint.login.clone(), protocol: endpoint.protocol };
            let actor = mqtt::Mqtt::new(owned, endpoint, link, seed.fork("link")).start();
            (actor.clone().recipient(), Some(actor.clone().recipient()), actor.recipient())
        }
        Broker::Memory(broker) => {
            let actor = memory::Memory::new(owned, broker, topic).start();
            (actor.clone().recipient(), None, actor.recipient())
        }
    };
    Channel { id, door, publish, check, close, closed: AtomicBool::new(false), ended }
}

/// The part that the actors of all channels have.
struct Owned {
    id: u32,
    owner: Recipient<FromChannel>,
    door: Door,
    /// Dropped with the actor.
    _alive: oneshot::Sender<()>,
}

impl Owned {
    fn tell(&self, what: ChannelEvent) {
        self.owner.do_send(FromChannel { channel: self.id, what });
    }
}

/// A handle to a channel. Dropping it closes the channel.
#[derive(Debug)]
pub struct Channel {
    id: u32,
    door: Door,
    publish: Recipient<Publish>,
    /// `None` where there is no connection that could be gone.
    check: Option<Recipient<Check>>,
    close: Recipient<Close>,
    closed: AtomicBool,
    ended: oneshot::Receiver<()>,
}

impl Channel {
    /// The [`ChannelConfig::id`].
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Publishes at QoS 1, under a `ticket` of the owner's choice. Exactly one [`ChannelEvent::Delivered`] or
    /// [`ChannelEvent::Failed`] follows, at `until` at the latest. Never blocks.
    ///
    /// # Errors
    /// When the channel is closed or has more work than it can take; then nothing follows.
    pub fn publish(
        &self,
        ticket: u64,
        topic: String,
        payload: Bytes,
        until: Instant,
    ) -> Result<(), PublishError> {
        if self.closed.load(Ordering::Relaxed) || !self.publish.connected() {
            return Err(PublishError::Closed);
        }
        if !self.door.enter() {
            return Err(PublishError::QueueFull);
        }
        self.publish.do_send(Publish { ticket, topic, payload, until });
        Ok(())
    }

    /// Has the connection to the broker prove that it lives, or dials again at once: the network may be another.
    pub fn check(&self) {
        if let Some(check) = &self.check {
            check.do_send(Check);
        }
    }

    /// Whether there is still an actor behind it: after [`Channel::close`], until the farewell is said.
    pub fn is_open(&self) -> bool {
        self.publish.connected()
    }

    /// Says farewell to the broker, for a second at most, and ends the channel. What was not delivered fails.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.close.do_send(Close);
        }
    }

    /// Closes the channel, and waits until everything is said: a second at most.
    pub async fn farewell(mut self) {
        self.close();
        // An error says that the actor is gone.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts what is in a mailbox: its own bound is per sender and no backpressure.
#[derive(Clone, Debug, Default)]
struct Door(Arc<AtomicUsize>);

impl Door {
    /// Goes in, unless [`MAX_QUEUED`] are inside.
    fn enter(&self) -> bool {
        let within = |inside| (inside < MAX_QUEUED).then_some(inside + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    /// Comes out. Every message that went in is handled once.
    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks a channel to publish.
#[derive(Debug)]
struct Publish {
    ticket: u64,
    topic: String,
    payload: Bytes,
    until: Instant,
}

impl Message for Publish {
    type Result = ();
}

/// Tells a channel that the network may be another.
#[derive(Debug)]
struct Check;

impl Message for Check {
    type Result = ();
}

/// Asks a channel to end.
#[derive(Debug)]
struct Close;

impl Message for Close {
    type Result = ();
}
