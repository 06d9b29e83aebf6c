//! An MQTT server for signals: small, forgetful, and bounded before strangers.
//!
//! It serves MQTT 3.1.1 and MQTT 5: exact topics, QoS 0 and 1, user name and password, and the word that nobody listens
//! ("no matching subscribers") in the same moment. There are no retained messages, no wills, no wildcards, and no sessions
//! after the connection; whoever asks for a will or a wildcard is told so. Subscribers see topic and payload and nothing of the publisher.
//!
//! # The loop
//! A connection is announced with [`MqttServer::handle_accepted`], its bytes go to [`MqttServer::handle_bytes`], and what
//! is for it comes from [`MqttServer::take_outgoing`] whenever [`Act::Write`] says so and the last was written. So what
//! waits for a client that does not read waits here, where it is bounded: [`MOST_WAITING`] messages and
//! [`MOST_WAITING_BYTES`] a client, [`MOST_WAITING_IN_ALL`] bytes in all.
//!
//! The time until a client has said who it is, is its driver's to bound, as is the time that a write may take.

mod config;
mod limits;
mod output;
mod reason;
mod session;
mod wire;
mod write;

#[cfg(any(test, feature = "sim"))]
mod say;
#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};
use bytes::{Bytes, BytesMut};
use tracing::trace;

use crate::peer::MqttVersion;
use crate::rate::Source;
use crate::{Deadline, Machine, Output, Seed};
pub use config::Config;
use limits::SourceLimits;
pub use output::{Act, ClientNumber, Event, MqttServerCounters, Reading};
pub use reason::ReasonCode;
use session::{MqttSession, QueueFull, SessionStage, WaitingMessage};
pub use wire::{ClientHello, ClientPacket, TopicFilter, decode};
use write::{ConnAckProperties, turn_away, welcome};

/// The server: see the [module](self).
#[derive(Debug)]
pub struct MqttServer {
    config: Config,
    login: Option<Fingerprint>,
    key: [u8; 16],
    seed: Seed,
    limits: SourceLimits,
    sessions: BTreeMap<ClientNumber, MqttSession>,
    /// Those who have connected, by client identifier.
    ids: BTreeMap<Arc<str>, ClientNumber>,
    topics: BTreeMap<Arc<str>, BTreeMap<ClientNumber, Subscription>>,
    /// When to look whether a client is silent.
    deadlines: BTreeSet<(Instant, ClientNumber)>,
    /// Bytes that wait for all clients.
    waiting: usize,
    arrivals: u64,
    is_closed: bool,
    out: VecDeque<Output<Act, Event>>,
    counters: MqttServerCounters,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    /// Its messages have identifiers and are acknowledged.
    is_acknowledged: bool,
    no_local: bool,
}

/// User name and password under a key that nobody knows: comparing two of them tells nothing by its time.
type Fingerprint = [u8; 32];

impl MqttServer {
    /// A server without clients.
    pub fn new(config: Config, mut seed: Seed, now: Instant) -> Self {
        let key = seed.array();
        let login = config.login.as_ref();
        let login = login.map(|login| fingerprint(&key, &login.user, login.password.as_bytes()));
        Self {
            limits: SourceLimits::new(config.source_publishes, &mut seed, now),
            config,
            login,
            key,
            seed,
            sessions: BTreeMap::new(),
            ids: BTreeMap::new(),
            topics: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            waiting: 0,
            arrivals: 0,
            is_closed: false,
            out: VecDeque::new(),
            counters: MqttServerCounters::default(),
        }
    }

    /// Returns what it has seen so far.
    pub fn counters(&self) -> MqttServerCounters {
        self.counters
    }

    /// Returns the number of connections that are known: those that have connected, and those that may.
    pub fn connections(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the bytes that wait for clients, with what keeping them costs.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// Takes a new connection, from this source.
    pub fn handle_accepted(&mut self, source: Source, now: Instant) -> ClientNumber {
        let number = ClientNumber(self.arrivals);
        self.arrivals += 1;
        let mut session = MqttSession::new(source, self.config.publishes, now);
        if self.is_closed {
            session.stage = SessionStage::Leaving;
        }
        self.sessions.insert(number, session);
        number
    }

    /// The connection of a client has ended. Its number means nothing any more.
    pub fn handle_gone(&mut self, client: ClientNumber, _now: Instant) {
        self.forget(client);
        self.sessions.remove(&client);
    }

    /// Serves what a client has sent. What is not yet a whole packet stays in `bytes`; one never needs more than
    /// [`MAX_PACKET`](super::link::MAX_PACKET) bytes.
    pub fn handle_bytes(&mut self, client: ClientNumber, bytes: &mut BytesMut, now: Instant) -> Reading {
        loop {
            let Some(session) = self.sessions.get_mut(&client) else { return Reading::Over };
            let protocol = match session.stage {
                SessionStage::Leaving => return Reading::Over,
                SessionStage::Greeting => None,
                SessionStage::Up { .. } => Some(session.protocol),
            };
            if session.is_full() {
                return Reading::Full;
            }
            let wait = session.packet_wait(now);
            if !wait.is_zero() {
                return Reading::Later(wait);
            }
            match decode(bytes, protocol) {
                Ok(None) => return Reading::More,
                Ok(Some(packet)) => {
                    session.handle_packet(now);
                    let is_too_much = !self.limits.take_packet(session.source, now);
                    self.on_packet(client, packet, now);
                    if is_too_much {
                        return Reading::Later(SOURCE_PAUSE);
                    }
                }
                Err(code) => {
                    trace!(?client, code, "not what we serve");
                    self.counters.broken += u64::from(protocol.is_some());
                    match (protocol, code) {
                        (None, reason::UNSUPPORTED_VERSION) => self.refuse(client, MqttVersion::V3, code),
                        _ => self.end(client, code),
                    }
                    return Reading::Over;
                }
            }
        }
    }

    /// Adds what is to be written to a client next to `out`, about 16 KiB at most; nothing when there is nothing.
    pub fn take_outgoing(&mut self, client: ClientNumber, out: &mut BytesMut) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let before = session.waiting_bytes();
        session.take_outgoing(out);
        self.waiting -= before - session.waiting_bytes();
    }

    /// Ends all clients. Nothing happens any more after the next drain.
    pub fn close(&mut self, _now: Instant) {
        self.is_closed = true;
        let clients: Vec<ClientNumber> = self.sessions.keys().copied().collect();
        clients.into_iter().for_each(|client| self.end(client, reason::SHUTTING_DOWN));
    }

    fn on_packet(&mut self, client: ClientNumber, packet: ClientPacket, now: Instant) {
        match packet {
            ClientPacket::Connect(hello) => self.on_connect(client, hello, now),
            ClientPacket::Publish { topic, payload, id } => {
                let code = self.publish(client, &topic, payload, id.is_some(), now);
                if let Some(id) = id {
                    self.reply(client, |out, protocol| write::pub_ack(out, protocol, id, code));
                }
            }
            ClientPacket::PubAck { id } => {
                if let Some(session) = self.sessions.get_mut(&client)
                    && session.handle_pub_ack(id)
                {
                    self.act(Act::Write(client));
                }
            }
            ClientPacket::Subscribe { id, filters } => {
                let codes: Vec<_> = filters.iter().map(|filter| self.subscribe(client, filter)).collect();
                self.reply(client, |out, protocol| write::sub_ack(out, protocol, id, &codes));
            }
            ClientPacket::Unsubscribe { id, filters } => {
                let codes: Vec<_> = filters.iter().map(|topic| self.unsubscribe(client, topic)).collect();
                self.reply(client, |out, protocol| write::unsub_ack(out, protocol, id, &codes));
            }
            ClientPacket::PingReq => self.reply(client, |out, _| write::ping_resp(out)),
            ClientPacket::Disconnect => self.leave(client),
        }
    }

    fn on_connect(&mut self, client: ClientNumber, hello: ClientHello, now: Instant) {
        let is_v5 = hello.protocol == MqttVersion::V5;
        let is_nameless = hello.client_id.is_empty();
        let refusal = if !self.admits(&hello) {
            Some(reason::BAD_LOGIN)
        } else if hello.has_method {
            Some(reason::BAD_METHOD)
        } else if hello.has_will {
            Some(reason::IMPLEMENTATION_SPECIFIC)
        } else if hello.client_id.len() > MOST_CLIENT_ID || (is_nameless && !is_v5 && hello.is_lasting) {
            Some(reason::BAD_CLIENT_ID)
        } else {
            None
        };
        if let Some(code) = refusal {
            return self.refuse(client, hello.protocol, code);
        }
        let id: Arc<str> = match is_nameless {
            true => data_encoding::BASE32_NOPAD.encode(&self.seed.array::<12>()).into(),
            false => hello.client_id.as_str().into(),
        };
        if let Some(older) = self.ids.get(&id).copied() {
            self.end(older, reason::SESSION_TAKEN_OVER);
        }
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let most = u16::try_from(self.config.keep_alive.as_secs()).unwrap_or(u16::MAX).max(1);
        let keep_alive = if hello.keep_alive == 0 { most } else { hello.keep_alive.min(most) };
        let check = session.connect(&hello, id.clone(), keep_alive, now);
        self.deadlines.insert((check, client));
        self.ids.insert(id.clone(), client);
        self.counters.connected += 1;
        let words = ConnAckProperties {
            assigned_id: is_nameless.then(|| id.to_string()),
            keep_alive: (keep_alive != hello.keep_alive).then_some(keep_alive),
            is_forgotten: hello.is_lasting,
        };
        self.reply(client, |out, protocol| welcome(out, protocol, &words));
        self.out.push_back(Output::Event(Event::Connected(client)));
    }

    fn admits(&self, hello: &ClientHello) -> bool {
        self.login.is_none_or(|wanted| {
            let user = hello.user.as_deref().unwrap_or_default();
            let password = hello.password.as_deref().unwrap_or_default();
            fingerprint(&self.key, user, password) == wanted
        })
    }

    /// Gives a message to all who listen to its topic; returns what its publisher is told.
    fn publish(
        &mut self,
        client: ClientNumber,
        topic: &str,
        payload: Bytes,
        is_acknowledged: bool,
        now: Instant,
    ) -> ReasonCode {
        let Some(publisher) = self.sessions.get_mut(&client) else { return reason::SUCCESS };
        if topic.starts_with('$') || topic.len() > MOST_TOPIC {
            return reason::TOPIC_NAME_INVALID;
        }
        if !publisher.take_publish(now)
            || !self.limits.take_publish(publisher.source, topic.len() + payload.len(), now)
        {
            self.counters.limited += 1;
            return reason::QUOTA_EXCEEDED;
        }
        self.counters.published += 1;
        let Some((topic, subscribers)) = self.topics.get_key_value(topic) else {
            self.counters.unheard += 1;
            return reason::NO_MATCHING_SUBSCRIBERS;
        };
        if !self.limits.take_copies(publisher.source, subscribers.len(), now) {
            self.counters.limited += 1;
            return reason::QUOTA_EXCEEDED;
        }
        let (mut taken, mut lost) = (0, 0);
        for (&to, subscription) in subscribers {
            if to == client && subscription.no_local {
                continue;
            }
            let Some(session) = self.sessions.get_mut(&to) else { continue };
            let is_acknowledged = is_acknowledged && subscription.is_acknowledged;
            let message = WaitingMessage { topic: topic.clone(), payload: payload.clone(), is_acknowledged };
            let before = session.waiting_bytes();
            let is_within = self.limits.take_delivery(session.source, message.cost(), now);
            match is_within.then(|| session.push(message)) {
                Some(Ok(is_news)) => {
                    taken += 1;
                    self.waiting += session.waiting_bytes() - before;
                    self.out.extend(is_news.then_some(Output::Act(Act::Write(to))));
                }
                Some(Err(QueueFull)) | None => lost += 1,
            }
        }
        self.counters.delivered += taken;
        self.counters.lost += lost;
        self.make_room();
        match (taken, lost) {
            (0, 0) => {
                self.counters.unheard += 1;
                reason::NO_MATCHING_SUBSCRIBERS
            }
            (0, _) => reason::QUOTA_EXCEEDED,
            _ => reason::SUCCESS,
        }
    }

    /// When too much waits in all, those for whom the most waits have to go: they do not read.
    fn make_room(&mut self) {
        while self.waiting > MOST_WAITING_IN_ALL {
            let most = self.sessions.iter().max_by_key(|(_, session)| session.waiting_bytes());
            let Some((&client, _)) = most else { return };
            trace!(?client, "does not read what waits for it");
            self.end(client, reason::QUOTA_EXCEEDED);
        }
    }

    fn subscribe(&mut self, client: ClientNumber, filter: &TopicFilter) -> ReasonCode {
        let TopicFilter { topic, qos, no_local } = filter;
        if topic.starts_with("$share/") {
            return reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED;
        } else if topic.contains(['+', '#']) {
            return reason::WILDCARDS_NOT_SUPPORTED;
        } else if topic.is_empty() || topic.starts_with('$') || topic.len() > MOST_TOPIC {
            return reason::TOPIC_FILTER_INVALID;
        }
        let Some(session) = self.sessions.get_mut(&client) else { return reason::QUOTA_EXCEEDED };
        let topic = match self.topics.get_key_value(topic.as_str()) {
            Some((topic, _)) => topic.clone(),
            None => topic.as_str().into(),
        };
        if !session.subscribe(&topic) {
            return reason::QUOTA_EXCEEDED;
        }
        let subscription = Subscription { is_acknowledged: *qos > 0, no_local: *no_local };
        self.topics.entry(topic).or_default().insert(client, subscription);
        u8::from(subscription.is_acknowledged)
    }

    fn unsubscribe(&mut self, client: ClientNumber, topic: &str) -> ReasonCode {
        let session = self.sessions.get_mut(&client);
        if !session.is_some_and(|session| session.unsubscribe(topic)) {
            return reason::NO_SUBSCRIPTION_EXISTED;
        }
        unlist(&mut self.topics, topic, client);
        reason::SUCCESS
    }

    /// Says no to a client that wants to connect.
    fn refuse(&mut self, client: ClientNumber, protocol: MqttVersion, code: ReasonCode) {
        trace!(?client, code, "refused");
        self.counters.refused += 1;
        if let Some(session) = self.sessions.get_mut(&client) {
            session.protocol = protocol;
        }
        self.reply(client, |out, protocol| turn_away(out, protocol, code));
        self.leave(client);
    }

    /// Ends a connection, with a reason if the client has connected in MQTT 5.
    fn end(&mut self, client: ClientNumber, code: ReasonCode) {
        let Some(session) = self.sessions.get(&client) else { return };
        match session.stage {
            SessionStage::Leaving => return,
            SessionStage::Greeting => {}
            SessionStage::Up { .. } => {
                self.reply(client, |out, protocol| write::disconnect(out, protocol, code));
            }
        }
        self.leave(client);
    }

    /// The client has nothing more to say, and hears only its last answers.
    fn leave(&mut self, client: ClientNumber) {
        self.forget(client);
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if !matches!(session.stage, SessionStage::Leaving) {
            session.stage = SessionStage::Leaving;
            self.act(Act::HangUp(client));
        }
    }

    /// Removes all that others can know of a client, and what waits for it.
    fn forget(&mut self, client: ClientNumber) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if let SessionStage::Up { id, check, .. } = &session.stage {
            self.deadlines.remove(&(*check, client));
            // Another connection may have taken the identifier over.
            if self.ids.get(id) == Some(&client) {
                self.ids.remove(id);
            }
        }
        self.waiting -= session.waiting_bytes();
        for topic in session.clear() {
            unlist(&mut self.topics, &topic, client);
        }
    }

    /// Answers a client.
    fn reply(&mut self, client: ClientNumber, say: impl FnOnce(&mut BytesMut, MqttVersion)) {
        if let Some(session) = self.sessions.get_mut(&client)
            && session.reply(say)
        {
            self.act(Act::Write(client));
        }
    }

    fn act(&mut self, act: Act) {
        self.out.push_back(Output::Act(act));
    }
}

impl Machine for MqttServer {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, client)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.remove(&(at, client));
            let Some(session) = self.sessions.get_mut(&client) else { continue };
            match session.check(now) {
                Some(next) => drop(self.deadlines.insert((next, client))),
                None => {
                    self.counters.silent += 1;
                    self.end(client, reason::KEEP_ALIVE_TIMEOUT);
                }
            }
        }
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        let deadline = self.deadlines.first().map(|(at, _)| Deadline::new(*at, "a client may be silent"));
        self.out.pop_front().unwrap_or(Output::Wait(deadline))
    }
}

fn unlist(
    topics: &mut BTreeMap<Arc<str>, BTreeMap<ClientNumber, Subscription>>,
    topic: &str,
    client: ClientNumber,
) {
    if let Some(subscribers) = topics.get_mut(topic) {
        subscribers.remove(&client);
        if subscribers.is_empty() {
            topics.remove(topic);
        }
    }
}

fn fingerprint(key: &[u8; 16], user: &str, password: &[u8]) -> Fingerprint {
    let mut hash = Blake2s256::default();
    hash.update(key);
    hash.update(&(user.len() as u64).to_be_bytes());
    hash.update(user.as_bytes());
    hash.update(password);
    hash.finalize_fixed().into()
}

/// Messages that wait for one client; more are lost, and their publisher is told so.
pub const MOST_WAITING: usize = 64;
/// Bytes that wait for one client, with what keeping them costs.
pub const MOST_WAITING_BYTES: usize = 1024 * 1024;
/// Bytes that wait for all clients. When it is more, the client for which the most waits has to go.
pub const MOST_WAITING_IN_ALL: usize = 64 * 1024 * 1024;
/// Topics one client may subscribe to. A node needs one.
pub const MOST_SUBSCRIPTIONS: usize = 16;
/// Bytes of a topic. Ours have 38.
pub const MOST_TOPIC: usize = 256;

/// Bytes of a client identifier. Every server must take 23 (MQTT 5, 3.1.3.1).
const MOST_CLIENT_ID: usize = 128;
/// How long not to read of a client whose source sends too much.
const SOURCE_PAUSE: Duration = Duration::from_millis(100);
