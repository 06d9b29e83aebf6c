//! What two nodes live through with a broker, whichever broker it is. Shared by the tests of several crates.
#![allow(dead_code, reason = "not every test tells every story")]

use std::future::Future;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler};
use bytes::Bytes;
use p2p_actors::signal::{Bind, Broker, Channel, ChannelConfig, ChannelEvent, Endpoint, FromChannel, open};
use p2p_core::Seed;
use p2p_core::signal::link::{FailReason, LinkError, Login, MqttVersion, Subscribers};
use tokio::sync::mpsc;

/// No story takes this long; a test that hangs should fail.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a story as a node would: a current-thread runtime and a `LocalSet`, no actix `System`.
pub(crate) fn tell<T>(story: impl Future<Output = T>) -> T {
    tell_in(tokio::runtime::Builder::new_current_thread(), story)
}

/// The same with a clock that jumps to the next timer whenever nothing else is to be done.
pub(crate) fn tell_in_no_time<T>(story: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.start_paused(true);
    tell_in(builder, story)
}

fn tell_in<T>(mut builder: tokio::runtime::Builder, story: impl Future<Output = T>) -> T {
    let runtime = builder.enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, story)
}

/// A broker on loopback, plain, for anybody.
pub(crate) fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port, tls: None, protocol: None, login: None, bind: Bind::default() }
}

pub(crate) fn login(password: &str) -> Option<Login> {
    Some(Login { user: "alice".into(), password: password.into() })
}

struct Owner(mpsc::UnboundedSender<FromChannel>);

impl Actor for Owner {
    type Context = Context<Self>;
}

impl Handler<FromChannel> for Owner {
    type Result = ();

    fn handle(&mut self, from: FromChannel, _: &mut Self::Context) {
        // A story may end before its channel does.
        let _ = self.0.send(from);
    }
}

/// One end: a channel and its owner.
pub(crate) struct Party {
    pub(crate) channel: Channel,
    events: mpsc::UnboundedReceiver<FromChannel>,
    topic: String,
    tickets: u64,
}

impl Party {
    pub(crate) fn new(name: &str, broker: Broker) -> Self {
        let (told, events) = mpsc::unbounded_channel();
        let topic = format!("p2p/{name}");
        let id = name.len() as u32;
        let config = ChannelConfig {
            id,
            broker,
            topic: topic.clone(),
            seed: Seed::new(std::array::from_fn(|at| name.as_bytes()[at % name.len()])),
        };
        let channel = open(config, Owner(told).start().recipient());
        assert_eq!(channel.id(), id);
        Self { channel, events, topic, tickets: 0 }
    }

    pub(crate) fn on(name: &str, endpoint: &Endpoint) -> Self {
        Self::new(name, Broker::Mqtt(endpoint.clone()))
    }

    /// The next event, whatever it is.
    pub(crate) async fn next(&mut self) -> ChannelEvent {
        let from = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        let from = from.expect("an event in time").expect("the channel is alive");
        assert_eq!(from.channel, self.channel.id());
        from.what
    }

    /// The event `pick` likes; others are passed over.
    pub(crate) async fn wait<T>(&mut self, mut pick: impl FnMut(ChannelEvent) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    pub(crate) async fn up(&mut self) {
        self.wait(|event| (event == ChannelEvent::Up).then_some(())).await;
    }

    pub(crate) async fn down(&mut self) -> LinkError {
        let pick = |event| match event {
            ChannelEvent::Down { reason, .. } => Some(reason),
            _ => None,
        };
        self.wait(pick).await
    }

    pub(crate) async fn received(&mut self) -> Bytes {
        let pick = |event| match event {
            ChannelEvent::Received { payload } => Some(payload),
            _ => None,
        };
        self.wait(pick).await
    }

    pub(crate) async fn ended(&mut self, which: u64) -> Result<Subscribers, FailReason> {
        let pick = |event| match event {
            ChannelEvent::Delivered { ticket, subscribers } if ticket == which => Some(Ok(subscribers)),
            ChannelEvent::Failed { ticket, reason } if ticket == which => Some(Err(reason)),
            _ => None,
        };
        self.wait(pick).await
    }

    /// Publishes to the topic of somebody called `to`.
    pub(crate) fn publish(&mut self, to: &str, what: &'static str) -> u64 {
        self.tickets += 1;
        let until = tokio::time::Instant::now().into_std() + Duration::from_secs(60);
        self.publish_until(to, Bytes::from_static(what.as_bytes()), until)
    }

    pub(crate) fn publish_until(&mut self, to: &str, what: Bytes, until: Instant) -> u64 {
        self.tickets += 1;
        let taken = self.channel.publish(self.tickets, format!("p2p/{to}"), what, until);
        taken.expect("the door is open");
        self.tickets
    }
}

/// Messages go both ways.
pub(crate) async fn two_talk(broker: Broker) {
    let mut alice = Party::new("alice", broker.clone());
    let mut bob = Party::new("bob", broker);
    alice.up().await;
    bob.up().await;
    let ticket = alice.publish("bob", "hello");
    assert_eq!(bob.received().await, "hello");
    let delivered = alice.ended(ticket).await;
    assert!(matches!(delivered, Ok(Subscribers::Someone | Subscribers::Unknown)), "{delivered:?}");
    bob.publish("alice", "hello yourself");
    assert_eq!(alice.received().await, "hello yourself");
    // More than fit on their way at once, in order.
    const MANY: [&str; 40] = ["a burst"; 40];
    let tickets: Vec<u64> = MANY.iter().map(|what| alice.publish("bob", what)).collect();
    for what in MANY {
        assert_eq!(bob.received().await, what);
    }
    for ticket in tickets {
        assert!(alice.ended(ticket).await.is_ok());
    }
}

/// Nobody is subscribed, and `told` is what the broker says of it.
pub(crate) async fn nobody_is_there(broker: Broker, told: Subscribers) {
    let mut alice = Party::new("alice", broker.clone());
    alice.up().await;
    let ticket = alice.publish("nobody", "hello?");
    assert_eq!(alice.ended(ticket).await, Ok(told));
    if told == Subscribers::Nobody {
        let ticket = alice.publish("alice", "hello, me");
        assert_eq!(alice.ended(ticket).await, Ok(Subscribers::Someone), "it can tell the difference");
    }
}

/// The right password opens, a wrong one and none do not, and it is said at once.
pub(crate) async fn only_the_right_password_opens(endpoint: Endpoint) {
    let with = |password: Option<&str>| Endpoint { login: password.and_then(login), ..endpoint.clone() };
    for wrong in [Some("wrong"), None] {
        let mut mallory = Party::on("mallory", &with(wrong));
        let ChannelEvent::Down { reason, retry_in } = mallory.next().await else {
            panic!("a wrong password opened");
        };
        let refused = matches!(reason, LinkError::BadLogin | LinkError::NotAuthorised);
        assert!(refused, "{reason}");
        assert!(retry_in >= Duration::from_secs(30), "it is no use to try again soon");
    }
    two_talk(Broker::Mqtt(with(Some("right")))).await;
}

/// The channel closes: it says farewell, fails what waits, and is gone.
pub(crate) async fn it_closes(endpoint: &Endpoint) {
    let mut alice = Party::on("alice", endpoint);
    alice.up().await;
    alice.channel.close();
    let until = tokio::time::Instant::now().into_std() + Duration::from_secs(60);
    let late = alice.channel.publish(9, "p2p/alice".into(), Bytes::new(), until);
    assert!(late.is_err(), "a closed channel takes nothing");
    let rest = tokio::time::timeout(PATIENCE, alice.events.recv()).await;
    assert_eq!(rest.expect("the actor ends"), None, "and says nothing more");
}

/// Pinned to a version, it is spoken.
pub(crate) fn pinned(endpoint: &Endpoint, protocol: MqttVersion) -> Endpoint {
    Endpoint { protocol: Some(protocol), ..endpoint.clone() }
}
