//! One client: what it is, what it wants, and what waits for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::wire::ClientHello;
use super::write::{publish, publish_size};
use super::{MOST_SUBSCRIPTIONS, MOST_WAITING, MOST_WAITING_BYTES};
use crate::peer::MqttVersion;
use crate::rate::{Bucket, Rate, Source};

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum SessionStage {
    /// It has not said who it is.
    Greeting,
    /// It has connected.
    Up {
        /// Its client identifier.
        id: Arc<str>,
        /// The longest silence.
        silence: Duration,
        /// When it is looked at whether it is silent.
        check: Instant,
    },
    /// It is over when its last answers are written.
    Leaving,
}

/// A message that waits for a client.
#[derive(Debug)]
pub(super) struct WaitingMessage {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    /// It has an identifier, and is acknowledged.
    pub(super) is_acknowledged: bool,
}

impl WaitingMessage {
    /// Bytes it takes in memory.
    pub(super) fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + KEEPING
    }
}

/// As much waits for a client as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

#[derive(Debug)]
pub(super) struct MqttSession {
    pub(super) source: Source,
    pub(super) stage: SessionStage,
    pub(super) protocol: MqttVersion,
    topics: Vec<Arc<str>>,
    /// Bytes of answers.
    replies: BytesMut,
    waiting: VecDeque<WaitingMessage>,
    waiting_bytes: usize,
    /// Messages that were written and not acknowledged.
    in_flight: BTreeSet<u16>,
    last_id: u16,
    /// Messages it takes at once.
    window: usize,
    /// Bytes of a packet it takes.
    max_packet: usize,
    heard: Instant,
    packets: Bucket,
    publish_rate: Rate,
    publishes: Bucket,
    /// The driver knows that something is to be written.
    is_told: bool,
}

impl MqttSession {
    pub(super) fn new(source: Source, publish_rate: Rate, now: Instant) -> Self {
        Self {
            source,
            stage: SessionStage::Greeting,
            protocol: MqttVersion::V3,
            topics: Vec::new(),
            replies: BytesMut::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: BTreeSet::new(),
            last_id: 0,
            window: 0,
            max_packet: 0,
            heard: now,
            packets: Bucket::new(now),
            publish_rate,
            publishes: Bucket::new(now),
            is_told: false,
        }
    }

    /// It has connected, with a keep-alive of so many seconds. Returns when to look whether it is silent.
    pub(super) fn connect(
        &mut self,
        hello: &ClientHello,
        id: Arc<str>,
        keep_alive: u16,
        now: Instant,
    ) -> Instant {
        self.protocol = hello.protocol;
        self.window = usize::from(hello.receive_max).min(WINDOW);
        self.max_packet = hello.max_packet as usize;
        // MQTT 5, 3.1.2.10: one and a half times the keep-alive.
        let silence = Duration::from_secs(keep_alive.into()) * 3 / 2;
        let check = now + silence;
        self.stage = SessionStage::Up { id, silence, check };
        check
    }

    /// Returns when to look again whether it is silent, or `None` when it is.
    pub(super) fn check(&mut self, now: Instant) -> Option<Instant> {
        let SessionStage::Up { silence, check, .. } = &mut self.stage else { return None };
        let next = self.heard + *silence;
        *check = next;
        (next > now).then_some(next)
    }

    /// Returns how long to wait before its next packet is served.
    pub(super) fn packet_wait(&self, now: Instant) -> Duration {
        self.packets.wait(PACKETS, now)
    }

    /// A packet came.
    pub(super) fn handle_packet(&mut self, now: Instant) {
        self.packets.take(PACKETS, now);
        self.heard = self.heard.max(now);
    }

    /// Whether it may publish one more message.
    pub(super) fn take_publish(&mut self, now: Instant) -> bool {
        self.publishes.take(self.publish_rate, now)
    }

    /// Whether it leaves its answers unread.
    pub(super) fn is_full(&self) -> bool {
        self.replies.len() >= MOST_REPLIES
    }

    /// Whether it may have this topic too.
    pub(super) fn subscribe(&mut self, topic: &Arc<str>) -> bool {
        if self.topics.contains(topic) {
            return true;
        }
        let is_room = self.topics.len() < MOST_SUBSCRIPTIONS;
        if is_room {
            self.topics.push(topic.clone());
        }
        is_room
    }

    /// Whether it had this topic.
    pub(super) fn unsubscribe(&mut self, topic: &str) -> bool {
        let before = self.topics.len();
        self.topics.retain(|known| **known != *topic);
        self.topics.len() < before
    }

    /// Adds an answer. Returns whether the driver is to be told that there is something to write.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut BytesMut, MqttVersion)) -> bool {
        write(&mut self.replies, self.protocol);
        !self.replies.is_empty() && self.tell()
    }

    /// Adds a message. Returns whether the driver is to be told that there is something to write.
    pub(super) fn push(&mut self, message: WaitingMessage) -> Result<bool, QueueFull> {
        let WaitingMessage { topic, payload, is_acknowledged } = &message;
        if publish_size(self.protocol, topic, payload, *is_acknowledged) > self.max_packet {
            // It is passed over as if it had been sent (MQTT 5, 3.1.2.11.4).
            return Ok(false);
        }
        let cost = message.cost();
        if self.waiting.len() >= MOST_WAITING || self.waiting_bytes + cost > MOST_WAITING_BYTES {
            return Err(QueueFull);
        }
        self.waiting_bytes += cost;
        self.waiting.push_back(message);
        Ok(self.is_ready() && self.tell())
    }

    /// A message was acknowledged. Returns whether the driver is to be told that there is something to write.
    pub(super) fn handle_pub_ack(&mut self, id: u16) -> bool {
        self.in_flight.remove(&id) && self.is_ready() && self.tell()
    }

    /// Whether the first message may be written.
    fn is_ready(&self) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|message| !message.is_acknowledged || self.in_flight.len() < self.window)
    }

    fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.is_told, true)
    }

    /// Adds what is to be written to `out`; when that is nothing, the driver is told of the next.
    pub(super) fn take_outgoing(&mut self, out: &mut BytesMut) {
        let before = out.len();
        out.extend_from_slice(&self.replies);
        // One burst shall not cost its memory for ever.
        self.replies = BytesMut::new();
        while out.len() - before < MOST_AT_ONCE
            && self.is_ready()
            && let Some(message) = self.waiting.pop_front()
        {
            self.waiting_bytes -= message.cost();
            let id = message.is_acknowledged.then(|| self.free_id());
            publish(out, self.protocol, &message.topic, &message.payload, id);
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        if out.len() == before {
            self.is_told = false;
        }
    }

    /// An identifier that is not in use: there are a thousand times as many as messages in flight.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.in_flight.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Drops what waits, and returns the topics it listened to.
    pub(super) fn clear(&mut self) -> Vec<Arc<str>> {
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
        self.in_flight.clear();
        std::mem::take(&mut self.topics)
    }
}

/// Packets of one client, of any kind; it is not read for a while when it sends more. A node whose inbox is flooded by
/// twenty sources acknowledges as many.
const PACKETS: Rate = Rate { per_second: 2_000, burst: 4_000 };
/// Messages that a client has not acknowledged: none of them is kept, but they tell whether it reads.
const WINDOW: usize = 64;
/// Bytes of answers that a client has not read; when there are more, it is not read either.
const MOST_REPLIES: usize = 4 * 1024;
/// Bytes written at once, give or take a message.
const MOST_AT_ONCE: usize = 16 * 1024;
/// What a message costs besides its bytes.
const KEEPING: usize = 96;
