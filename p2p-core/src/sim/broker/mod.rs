//! A publish/subscribe broker that treats messages as networks treat packets.
//!
//! It stands for the MQTT servers that signals go through. Each message to each subscriber is delayed, lost, repeated
//! and reordered on its own, by a [`LinkConfig`].

mod server;
pub(super) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

pub use server::{BrokerFaults, BrokerServer};

use super::link::{Link, LinkConfig, LinkConfigError};
use crate::Seed;

/// The most messages under way. Beyond that the broker forgets new ones.
const MOST_UNDER_WAY: usize = 65_536;

/// A message on its way out of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<C> {
    /// The subscriber that it goes to.
    pub client: C,
    /// The topic that it was published on.
    pub topic: String,
    /// The bytes of the message.
    pub payload: Bytes,
}

/// The numbers of messages by their fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerCounters {
    /// The messages that were published.
    pub published: u64,
    /// The messages that were brought to a subscriber, repetitions included.
    pub delivered: u64,
    /// The messages that were lost on the way to a subscriber.
    pub forgotten: u64,
}

/// A broker for clients named by `C`.
#[derive(Clone, Debug)]
pub struct Broker<C> {
    link: Link,
    subscribers: BTreeMap<String, BTreeSet<C>>,
    under_way: BTreeMap<(Instant, u64), Delivery<C>>,
    sequence: u64,
    counters: BrokerCounters,
}

impl<C: Copy + Ord> Broker<C> {
    /// Makes a broker without subscribers. `config` holds for each message from publisher to subscriber.
    ///
    /// # Errors
    /// [`LinkConfigError`] when the configuration is impossible.
    pub fn new(config: LinkConfig, seed: Seed) -> Result<Self, LinkConfigError> {
        Ok(Self {
            link: Link::new(config, seed)?,
            subscribers: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            counters: BrokerCounters::default(),
        })
    }

    /// Returns the numbers of messages by their fate.
    pub fn counters(&self) -> BrokerCounters {
        self.counters
    }

    /// Subscribes `client` to `topic` from now on.
    pub fn subscribe(&mut self, client: C, topic: &str) {
        self.subscribers.entry(topic.to_owned()).or_default().insert(client);
    }

    /// Forgets all subscriptions of `client`, as brokers do when a session ends. Messages under way still arrive.
    pub fn forget(&mut self, client: C) {
        self.subscribers.retain(|_, clients| {
            clients.remove(&client);
            !clients.is_empty()
        });
    }

    /// Publishes a message, and returns the number of its subscribers. Zero is what MQTT 5 reports as "no matching
    /// subscribers".
    pub fn publish(&mut self, topic: &str, payload: &Bytes, now: Instant) -> usize {
        self.counters.published += 1;
        let Some(clients) = self.subscribers.get(topic) else {
            return 0;
        };
        for client in clients {
            let sent = self.link.send(payload.len(), now);
            let mut arrived = false;
            for at in sent.arrivals() {
                if self.under_way.len() >= MOST_UNDER_WAY {
                    break;
                }
                arrived = true;
                self.sequence += 1;
                let delivery =
                    Delivery { client: *client, topic: topic.to_owned(), payload: payload.clone() };
                self.under_way.insert((at, self.sequence), delivery);
            }
            self.counters.forgotten += u64::from(!arrived);
        }
        clients.len()
    }

    /// Returns the time at which the next message arrives.
    pub fn next_delivery(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// Returns the next message that has arrived.
    pub fn poll_delivery(&mut self, now: Instant) -> Option<Delivery<C>> {
        let next = self.under_way.first_entry()?;
        if next.key().0 > now {
            return None;
        }
        self.counters.delivered += 1;
        Some(next.remove())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::epoch;

    /// Returns the numbers 0 … 999 as one subscriber hears them.
    fn heard(config: LinkConfig) -> Vec<u64> {
        let mut broker = Broker::new(config, Seed::from_u64(1)).unwrap();
        broker.subscribe('a', "t");
        let hour = epoch() + Duration::from_secs(3_600);
        for number in 0..1_000_u64 {
            let payload = Bytes::copy_from_slice(&number.to_be_bytes());
            let to = broker.publish("t", &payload, epoch() + Duration::from_millis(number));
            assert_eq!(to, 1);
        }
        let mut heard = Vec::new();
        while let Some(delivery) = broker.poll_delivery(hour) {
            heard.push(u64::from_be_bytes(delivery.payload[..].try_into().unwrap()));
        }
        heard
    }

    #[test]
    fn a_good_broker_delivers_all_once_and_in_order() {
        assert_eq!(heard(LinkConfig::default()), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_bad_one_forgets_repeats_and_reorders() {
        let forgetful = heard(LinkConfig { loss: 0.5, ..LinkConfig::default() });
        assert!(forgetful.len() < 900 && forgetful.is_sorted());
        let stammering = heard(LinkConfig { duplicate: 0.5, ..LinkConfig::default() });
        assert!(stammering.len() > 1_100);
        let confused = heard(LinkConfig { reorder: 0.2, ..LinkConfig::default() });
        assert!(confused.len() == 1_000 && !confused.is_sorted());
    }

    #[test]
    fn delays_subscriptions_and_forgetting() {
        let mut broker =
            Broker::new(LinkConfig::with_latency(Duration::from_millis(30)), Seed::from_u64(1)).unwrap();
        let message = Bytes::from_static(b"x");
        assert_eq!(broker.publish("t", &message, epoch()), 0);
        broker.subscribe('a', "t");
        broker.subscribe('b', "t");
        broker.subscribe('b', "u");
        assert_eq!(broker.publish("t", &message, epoch()), 2);
        broker.forget('b');
        assert_eq!(broker.publish("t", &message, epoch()), 1);
        assert_eq!(broker.publish("u", &message, epoch()), 0);
        assert_eq!(broker.next_delivery(), Some(epoch() + Duration::from_millis(30)));
        assert_eq!(broker.poll_delivery(epoch() + Duration::from_millis(29)), None);
        let clients: Vec<_> =
            std::iter::from_fn(|| broker.poll_delivery(epoch() + Duration::from_millis(30)))
                .map(|delivery| delivery.client)
                .collect();
        assert_eq!(clients, ['a', 'b', 'a']);
        assert_eq!(broker.counters(), BrokerCounters { published: 4, delivered: 3, forgotten: 0 });
    }
}
