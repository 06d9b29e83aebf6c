//! A broker within this process, for tests, examples and several nodes in one program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, Recipient};
use bytes::Bytes;
use p2p_core::signal::link::{Event, FailReason, MAX_PACKET, PublishError, Subscribers, admit};
use tracing::debug;

use super::{Close, Door, Owned, Publish};
use crate::drive::now;

/// A broker without network: what is published to a topic reaches all who opened a channel with that topic, in
/// order and once, on whatever thread they live. It always says whether somebody is there.
///
/// Clones are the same broker. Each subscriber holds
/// [`MAX_QUEUED`](p2p_core::signal::link::MAX_QUEUED) unread messages at most; more are lost.
#[derive(Clone, Debug, Default)]
pub struct MemoryBroker {
    subscribers: Arc<Mutex<BTreeMap<String, Vec<Subscriber>>>>,
}

#[derive(Debug)]
struct Subscriber {
    channel: Recipient<Arrive>,
    unread: Door,
}

impl MemoryBroker {
    /// A broker nobody is connected to.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Subscriber>>> {
        // No code that may panic runs under the lock, so what it guards is whole.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, topic: &str, payload: &Bytes) -> Subscribers {
        let topics = self.lock();
        let Some(subscribers) = topics.get(topic) else {
            return Subscribers::Nobody;
        };
        for Subscriber { channel, unread } in subscribers {
            if unread.enter() {
                channel.do_send(Arrive(payload.clone()));
            } else {
                debug!(topic, "a subscriber does not read: message lost");
            }
        }
        Subscribers::Someone
    }

    fn subscribe(&self, topic: &str, subscriber: Subscriber) {
        self.lock().entry(topic.to_owned()).or_default().push(subscriber);
    }

    fn unsubscribe(&self, topic: &str, unread: &Door) {
        let mut topics = self.lock();
        if let Some(subscribers) = topics.get_mut(topic) {
            subscribers.retain(|subscriber| !Arc::ptr_eq(&subscriber.unread.0, &unread.0));
            if subscribers.is_empty() {
                topics.remove(topic);
            }
        }
    }
}

/// A message from the broker to a subscriber.
struct Arrive(Bytes);

impl Message for Arrive {
    type Result = ();
}

/// The channel to a [`MemoryBroker`].
pub(super) struct Memory {
    owned: Owned,
    broker: MemoryBroker,
    topic: String,
    unread: Door,
}

impl Memory {
    pub(super) fn new(owned: Owned, broker: MemoryBroker, topic: String) -> Self {
        Self { owned, broker, topic, unread: Door::default() }
    }
}

impl Actor for Memory {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let subscriber = Subscriber { channel: ctx.address().recipient(), unread: self.unread.clone() };
        self.broker.subscribe(&self.topic, subscriber);
        self.owned.tell(Event::Up);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.broker.unsubscribe(&self.topic, &self.unread);
    }
}

impl Handler<Publish> for Memory {
    type Result = ();

    fn handle(&mut self, message: Publish, _: &mut Self::Context) {
        self.owned.door.leave();
        let ticket = message.ticket;
        let late = message.until <= now();
        let admitted = match admit(&message.topic, &message.payload, MAX_PACKET) {
            Ok(()) if late => Err(PublishError::TooLate),
            admitted => admitted,
        };
        self.owned.tell(match admitted {
            Err(error) => Event::Failed { ticket, reason: FailReason::NotTaken(error) },
            Ok(()) => Event::Delivered {
                ticket,
                subscribers: self.broker.publish(&message.topic, &message.payload),
            },
        });
    }
}

impl Handler<Arrive> for Memory {
    type Result = ();

    fn handle(&mut self, Arrive(payload): Arrive, _: &mut Self::Context) {
        self.unread.leave();
        self.owned.tell(Event::Received { payload });
    }
}

impl Handler<Close> for Memory {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        self.broker.unsubscribe(&self.topic, &self.unread);
        ctx.stop();
    }
}
