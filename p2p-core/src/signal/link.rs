//! The session with one MQTT broker.
//!
//! [`Link`] keeps one session alive and gets messages through it, in neutral [`Packet`]s that fit MQTT 3.1.1 and MQTT
//! 5 alike. Sessions are clean and messages go at QoS 1. The layer above drops duplicates, so at-least-once is
//! enough, and QoS 2 would double the round trips.
//!
//! ```text
//!            Dial          handle_connected        CONNACK           SUBACK
//!  Resting ───────▶ Dialling ───────▶ Greeting ───────▶ Subscribing ───────▶ Up
//!     ▲                 │                 │                  │                │
//!     └─────────────────┴── Down{reason, retry_in} ──────────┴────────────────┘     close() ──▶ Closed
//! ```
//!
//! Every stay in a state but `Resting` and `Closed` is bounded, and every message has an end. After each CONNACK the
//! subscription is made again, and all messages without an acknowledgement are sent again.

mod dialect;
mod error;
mod output;
mod packet;
mod queue;

#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, trace};

pub use error::{FailReason, LinkError, PublishError};
pub use output::{Act, Counters, Event, Subscribers};
pub use packet::{ConnAck, Connect, ConnectCode, Login, Packet, admit};

pub use crate::peer::MqttVersion;

use crate::rate::{Bucket, Rate};
use crate::{Backoff, Deadline, Machine, Output, Seed};
use dialect::Dialect;
use queue::{Next, Queue};

/// The most time for name resolution, TCP and TLS together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The most time for CONNACK, and again for SUBACK.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most time for PINGRESP and PUBACK. After it the connection is taken for dead.
pub const MUTE_TIMEOUT: Duration = Duration::from_secs(10);
/// The silence that we promise unless the broker imposes another (MQTT 5, 3.2.2.3.14). A ping goes out every three
/// quarters of it. Home routers forget idle TCP connections after minutes, so half a minute is safe.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The most messages that are held.
pub const MAX_QUEUED: usize = 64;
/// The most bytes of topics and payloads that are held.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024;
/// The most bytes of one packet, unless the broker allows less. Nothing is kept of a larger message that comes.
///
/// MQTT 5 could tell the broker (3.1.2.11.4), and we do not, because anybody who knows our topic can publish to it.
/// After 100 messages of 1 MB to a client that had announced less, mosquitto 2.0.11 delivered nothing more to it.
pub const MAX_PACKET: u32 = 16 * 1024;
/// The most messages under way at once, in either direction, unless the broker allows fewer.
pub const WINDOW: u16 = 16;
/// The rate of incoming messages; more are acknowledged, counted and dropped. To open a sealed signal was measured at
/// 0.44 ms, so a flood takes less than a tenth of one core.
pub const RECEIVE: Rate = Rate { per_second: 200, burst: 400 };

/// The bounds of pauses: the first is a quarter to half a second, the longest half a minute to a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The least duration of a good session. After one, the next pause is a first one again.
const STEADY: Duration = Duration::from_secs(10);
/// The reason code of a PUBACK: accepted, and nobody is subscribed (MQTT 5, 3.4.2.1).
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
/// The reason code of a DISCONNECT: another connection uses our client identifier (MQTT 5, 3.14.2.1).
const SESSION_TAKEN_OVER: u8 = 0x8e;
/// The reason code of a DISCONNECT: this client may not do what it did.
const NOT_AUTHORIZED: u8 = 0x87;

/// The configuration of a link.
#[derive(Clone, Debug)]
pub struct Config {
    /// The topic to subscribe to, which is ours, without wildcards.
    pub topic: String,
    /// The user name and password for the broker, if it wants any.
    pub login: Option<Login>,
    /// The only protocol version to try. By default MQTT 5 comes first, because only it says that nobody is
    /// subscribed. Then comes 3.1.1, when 5 is refused or the connection is dropped in answer to it.
    pub protocol: Option<MqttVersion>,
}

#[derive(Debug)]
enum State {
    Resting { until: Instant },
    Dialling { until: Instant },
    Greeting { until: Instant },
    Subscribing { id: u16, until: Instant, session: Session },
    Up { since: Instant, session: Session },
    Closed,
}

/// The terms that the broker agreed to, and the times of pings.
#[derive(Clone, Copy, Debug)]
struct Session {
    window: u16,
    max_packet: u32,
    ping_every: Duration,
    next_ping: Instant,
    /// The time at which the answer to the last ping is overdue, if it is still owed.
    pong_until: Option<Instant>,
}

/// A machine that keeps the session with one broker: see the [module](self).
#[derive(Debug)]
pub struct Link {
    config: Config,
    seed: Seed,
    client_id: String,
    dialect: Dialect,
    state: State,
    pauses: Backoff,
    long_pauses: Backoff,
    queue: Queue,
    allowance: Bucket,
    /// True when the broker has said once that nobody is subscribed, so it always says it.
    tells_nobody: bool,
    out: VecDeque<Output<Act, Event>>,
    counters: Counters,
}

impl Link {
    /// Makes a link that dials at once.
    pub fn new(config: Config, mut seed: Seed, now: Instant) -> Self {
        let mut link = Self {
            client_id: client_id(&mut seed),
            dialect: config.protocol.map_or(Dialect::Newest, Dialect::Pinned),
            config,
            seed,
            state: State::Closed,
            pauses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            long_pauses: Backoff::new(LONGEST_PAUSE, LONGEST_PAUSE),
            queue: Queue::default(),
            allowance: Bucket::new(now),
            tells_nobody: false,
            out: VecDeque::new(),
            counters: Counters::default(),
        };
        link.dial(now);
        link
    }

    /// Returns the counts of what the link has done and seen.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Tells whether messages arrive.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Takes a message to publish at QoS 1, under a `ticket` of the owner's choice. Exactly one [`Event::Delivered`]
    /// or [`Event::Failed`] follows, at `until` at the latest. Without a session it waits for one.
    ///
    /// # Errors
    /// [`PublishError`] when it cannot be taken; then no event follows.
    pub fn publish(
        &mut self,
        ticket: u64,
        topic: String,
        payload: Bytes,
        until: Instant,
        now: Instant,
    ) -> Result<(), PublishError> {
        let most = match &self.state {
            State::Closed => return Err(PublishError::Closed),
            State::Subscribing { session, .. } | State::Up { session, .. } => session.max_packet,
            _ => MAX_PACKET,
        };
        packet::admit(&topic, &payload, most)?;
        if until <= now {
            return Err(PublishError::TooLate);
        } else if self.queue.len() >= MAX_QUEUED
            || self.queue.bytes() + topic.len() + payload.len() > MAX_QUEUED_BYTES
        {
            return Err(PublishError::QueueFull);
        } else if self.queue.has(ticket) {
            return Err(PublishError::TicketInUse);
        }
        self.queue.push(ticket, topic, payload, until);
        self.pump(now);
        Ok(())
    }

    /// Notes that the dial succeeded, TLS included.
    pub fn handle_connected(&mut self, now: Instant) {
        if !matches!(self.state, State::Dialling { .. }) {
            self.strange("connected, but not dialling");
            return;
        }
        let connect = Connect {
            protocol: self.dialect.protocol(),
            client_id: self.client_id.clone(),
            keep_alive: KEEP_ALIVE.as_secs() as u16,
            login: self.config.login.clone(),
            receive_max: WINDOW,
        };
        self.act(Act::Send(Packet::Connect(connect)));
        self.state = State::Greeting { until: now + ANSWER_TIMEOUT };
    }

    /// Notes that the dial failed or the connection ended. Nothing more comes from it.
    pub fn handle_lost(&mut self, reason: LinkError, now: Instant) {
        match (&self.state, &self.dialect, &reason) {
            (State::Resting { .. } | State::Closed, ..) => self.strange("lost, but not connected"),
            (State::Greeting { .. }, Dialect::Newest, LinkError::Lost(_)) => {
                debug!("dropped in answer to an MQTT 5 hello, trying 3.1.1");
                self.dialect = Dialect::Older { remember: false };
                self.dial(now);
            }
            _ => self.rest(reason, now),
        }
    }

    /// Takes a packet that came on the connection.
    pub fn handle_packet(&mut self, packet: Packet, now: Instant) {
        trace!(?packet, "from the broker");
        match (packet, &self.state) {
            (Packet::ConnAck(ack), State::Greeting { .. }) => self.on_conn_ack(ack, now),
            (Packet::SubAck { id, code }, State::Subscribing { id: ours, session, .. }) if id == *ours => {
                if code >= 0x80 {
                    self.give_up(LinkError::SubscriptionRefused(code), now);
                } else {
                    self.state = State::Up { since: now, session: *session };
                    self.event(Event::Up);
                }
            }
            (Packet::Publish { payload, id, .. }, State::Subscribing { .. } | State::Up { .. }) => {
                if let Some(id) = id {
                    self.act(Act::Send(Packet::PubAck { id, reason: 0 }));
                }
                if self.allowance.take(RECEIVE, now) {
                    self.counters.received += 1;
                    self.event(Event::Received { payload });
                } else {
                    self.counters.flooded += 1;
                }
            }
            (Packet::PubAck { id, reason }, State::Subscribing { .. } | State::Up { .. }) => {
                self.on_pub_ack(id, reason, now);
            }
            (Packet::PingResp, State::Subscribing { .. } | State::Up { .. }) => {
                if let Some(session) = self.session() {
                    session.pong_until = None;
                }
            }
            (
                Packet::Disconnect { reason },
                State::Greeting { .. } | State::Subscribing { .. } | State::Up { .. },
            ) => {
                if reason == SESSION_TAKEN_OVER {
                    self.client_id = client_id(&mut self.seed);
                }
                self.give_up(
                    match reason {
                        NOT_AUTHORIZED => LinkError::NotAuthorised,
                        other => LinkError::Disconnected(other),
                    },
                    now,
                );
            }
            _ => self.strange("a packet out of place"),
        }
    }

    /// Ends the session and fails all messages. After the next drain the link is silent.
    pub fn close(&mut self, _now: Instant) {
        match self.state {
            State::Closed => return,
            State::Resting { .. } => {}
            State::Dialling { .. } | State::Greeting { .. } => self.act(Act::HangUp),
            State::Subscribing { .. } | State::Up { .. } => {
                self.act(Act::Send(Packet::Disconnect { reason: 0 }));
                self.act(Act::HangUp);
            }
        }
        self.state = State::Closed;
        for ticket in self.queue.clear() {
            self.event(Event::Failed { ticket, reason: FailReason::Closed });
        }
    }

    fn on_conn_ack(&mut self, ack: ConnAck, now: Instant) {
        let refusal = match ack.code {
            ConnectCode::Accepted => return self.begin(ack, now),
            ConnectCode::BadProtocol if matches!(self.dialect, Dialect::Newest) => {
                debug!("the broker refuses MQTT 5, trying 3.1.1");
                self.dialect = Dialect::Older { remember: true };
                self.act(Act::HangUp);
                return self.dial(now);
            }
            ConnectCode::BadProtocol => {
                let refused = LinkError::BadProtocol(self.dialect.protocol());
                if let Dialect::Older { remember } = &mut self.dialect {
                    *remember = false;
                }
                refused
            }
            ConnectCode::BadClientId => {
                self.client_id = client_id(&mut self.seed);
                LinkError::Refused(0x85)
            }
            ConnectCode::BadLogin => LinkError::BadLogin,
            ConnectCode::NotAuthorised => LinkError::NotAuthorised,
            ConnectCode::Other(code) => LinkError::Refused(code),
        };
        self.give_up(refusal, now);
    }

    /// Begins a session: subscribes, and sends again what waits.
    fn begin(&mut self, ack: ConnAck, now: Instant) {
        let keep_alive = match ack.keep_alive {
            Some(secs @ 1..) => Duration::from_secs(secs.into()),
            _ => KEEP_ALIVE,
        };
        let ping_every = keep_alive * 3 / 4;
        let session = Session {
            // Zero is forbidden (MQTT 5, 3.2.2.3.3) and would stall us for ever.
            window: ack.receive_max.unwrap_or(WINDOW).clamp(1, WINDOW),
            max_packet: ack.max_packet.unwrap_or(MAX_PACKET).min(MAX_PACKET),
            ping_every,
            next_ping: now + ping_every,
            pong_until: None,
        };
        debug!(?session, "accepted by the broker");
        let id = self.queue.free_id();
        let topic = self.config.topic.clone();
        self.act(Act::Send(Packet::Subscribe { id, topic }));
        self.state = State::Subscribing { id, until: now + ANSWER_TIMEOUT, session };
        self.pump(now);
    }

    fn on_pub_ack(&mut self, id: u16, reason: u8, now: Instant) {
        let Ok(ticket) = self.queue.acknowledge(id) else {
            self.strange("an acknowledgement of nothing");
            return;
        };
        self.tells_nobody |= reason == NO_MATCHING_SUBSCRIBERS;
        if let Some(ticket) = ticket {
            let event = if reason >= 0x80 {
                Event::Failed { ticket, reason: FailReason::Refused(reason) }
            } else {
                let subscribers = match reason {
                    NO_MATCHING_SUBSCRIBERS => Subscribers::Nobody,
                    _ if self.tells_nobody => Subscribers::Someone,
                    _ => Subscribers::Unknown,
                };
                Event::Delivered { ticket, subscribers }
            };
            self.event(event);
        }
        self.pump(now);
    }

    fn session(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Subscribing { session, .. } | State::Up { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Sends the messages that may be sent.
    fn pump(&mut self, now: Instant) {
        let Some(&mut Session { window, max_packet, .. }) = self.session() else {
            return;
        };
        while let Some(next) = self.queue.next(window, max_packet, now) {
            match next {
                Next::TooLarge(ticket) => self.event(Event::Failed { ticket, reason: FailReason::TooLarge }),
                Next::Send { id, dup, topic, payload } => {
                    self.counters.sent += u64::from(!dup);
                    self.counters.resent += u64::from(dup);
                    self.act(Act::Send(Packet::Publish { topic, payload, id: Some(id), dup }));
                }
            }
        }
    }

    fn dial(&mut self, now: Instant) {
        self.counters.dials += 1;
        self.act(Act::Dial(self.dialect.protocol()));
        self.state = State::Dialling { until: now + DIAL_TIMEOUT };
    }

    fn give_up(&mut self, reason: LinkError, now: Instant) {
        self.act(Act::HangUp);
        self.rest(reason, now);
    }

    fn rest(&mut self, reason: LinkError, now: Instant) {
        if let State::Up { since, .. } = self.state
            && now.saturating_duration_since(since) >= STEADY
        {
            self.pauses.reset();
            self.long_pauses.reset();
        }
        if let Dialect::Older { remember: false } = self.dialect {
            self.dialect = Dialect::Newest;
        }
        let pauses = if reason.is_lasting() { &mut self.long_pauses } else { &mut self.pauses };
        let retry_in = pauses.fail(&mut self.seed);
        debug!(%reason, ?retry_in, "no session");
        self.counters.losses += 1;
        self.queue.suspend();
        self.state = State::Resting { until: now + retry_in };
        self.event(Event::Down { reason, retry_in });
    }

    fn expire(&mut self, now: Instant) {
        while let Some((ticket, sent)) = self.queue.expire(now) {
            let reason = if sent { FailReason::NoAnswer } else { FailReason::NoConnection };
            self.event(Event::Failed { ticket, reason });
        }
    }

    fn beat(&mut self, now: Instant) {
        let overdue = self.queue.overdue(MUTE_TIMEOUT);
        let Some(session) = self.session() else { return };
        let pong_until = session.pong_until;
        if [overdue, pong_until].into_iter().flatten().any(|at| at <= now) {
            self.give_up(LinkError::Mute, now);
        } else if pong_until.is_none() && session.next_ping <= now {
            session.next_ping = now + session.ping_every;
            session.pong_until = Some(now + MUTE_TIMEOUT);
            self.act(Act::Send(Packet::PingReq));
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let (state, session) = match &self.state {
            State::Closed => return None,
            State::Resting { until } => (Some(Deadline::new(*until, "dial the broker again")), None),
            State::Dialling { until } => (Some(Deadline::new(*until, "the dial is overdue")), None),
            State::Greeting { until } => (Some(Deadline::new(*until, "CONNACK is overdue")), None),
            State::Subscribing { until, session, .. } => {
                (Some(Deadline::new(*until, "SUBACK is overdue")), Some(session))
            }
            State::Up { session, .. } => (None, Some(session)),
        };
        let beat = session.map(|session| match session.pong_until {
            Some(at) => Deadline::new(at, "PINGRESP is overdue"),
            None => Deadline::new(session.next_ping, "ping the broker"),
        });
        let overdue = self.queue.overdue(MUTE_TIMEOUT);
        let overdue = overdue.map(|at| Deadline::new(at, "PUBACK is overdue"));
        let expiry = self.queue.next_expiry();
        let expiry = expiry.map(|at| Deadline::new(at, "a message expires"));
        Deadline::earliest([state, beat, overdue, expiry])
    }

    fn strange(&mut self, what: &str) {
        trace!(what, "dropped");
        self.counters.strange += 1;
    }

    fn act(&mut self, act: Act) {
        self.out.push_back(Output::Act(act));
    }

    fn event(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }
}

impl Machine for Link {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        match self.state {
            State::Resting { until } if until <= now => self.dial(now),
            State::Dialling { until } if until <= now => self.give_up(LinkError::DialTimeout, now),
            State::Greeting { until } | State::Subscribing { until, .. } if until <= now => {
                self.give_up(LinkError::Silent, now);
            }
            _ => self.beat(now),
        }
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

/// Returns a client identifier of 20 characters with 96 random bits. Nobody can guess it to take the session over,
/// and it is short enough for every broker.
fn client_id(seed: &mut Seed) -> String {
    data_encoding::BASE32_NOPAD.encode(&seed.array::<12>())
}
