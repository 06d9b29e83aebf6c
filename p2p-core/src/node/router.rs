//! All signalling of one node: the brokers it speaks over, what goes out on which, and what came in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::attempt::AttemptId;
use crate::peer::{BrokerUrl, Identity, PeerAddr, PeerId, Scheme};
use crate::signal::link::Event as ChannelEvent;
use crate::signal::{
    Body, BrokerTrouble, Delivery, Inbox, InboxConfig, InboxEvent, InboxLimits, Scribe, Signal, Tally,
};
use crate::{Clock, Deadline, Machine, Output, Seed};

/// Numbers the channel to one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// The state of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerState {
    /// The first connection is under way.
    Connecting,
    /// It takes and brings signals.
    Up,
    /// It does not, for this reason; it is tried again.
    Down(String),
}

/// Configures a router.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// The identity that signs and opens.
    pub identity: Identity,
    /// The brokers of the configuration, by their place in it.
    pub brokers: Vec<BrokerUrl>,
    /// Tells that there is an in-process broker, which `memory:` URLs stand for.
    pub has_memory: bool,
    /// The peers whose signals are heard, apart from those we asked something; everybody when `None`.
    pub allowed: Option<BTreeSet<PeerId>>,
}

/// Asks for one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterAct {
    /// Open a channel, subscribe to our topic, and dial again after every failure. Told by
    /// [`Router::handle_channel`].
    Open {
        /// The channel to be.
        channel: ChannelId,
        /// The broker.
        url: BrokerUrl,
        /// Its place in the configuration; `None` for a peer's broker, where we have no login.
        configured: Option<usize>,
    },
    /// Publish at QoS 1. Exactly one [`ChannelEvent::Delivered`] or [`ChannelEvent::Failed`] follows.
    Publish {
        /// The channel.
        channel: ChannelId,
        /// The number in the answer.
        ticket: u64,
        /// The receiver's topic.
        topic: String,
        /// The sealed signal.
        payload: Bytes,
        /// The time by which it must be answered.
        until: Instant,
    },
    /// Say farewell to the broker, for a second at most. Told by [`Router::handle_channel_closed`].
    Close {
        /// The channel.
        channel: ChannelId,
    },
}

/// Tells the node.
#[derive(Clone, Debug, PartialEq)]
pub enum RouterEvent {
    /// Somebody who may sent us a signal.
    Signal {
        /// The signal, opened and checked.
        signal: Box<Signal>,
        /// The channel on which it came first.
        channel: ChannelId,
    },
    /// A broker of our own configuration changed its state.
    Broker(BrokerUrl, BrokerState),
    /// It is certain what became of a signal whose sender wants to know.
    Delivered {
        /// The attempt it was for.
        attempt: AttemptId,
        /// The body of the signal.
        body: Box<Body>,
        /// Its fate.
        delivery: Delivery,
    },
}

/// Asks for a signal to be written and sent.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The receiver.
    pub to: PeerAddr,
    /// The attempt it is for.
    pub attempt: AttemptId,
    /// The message.
    pub body: Body,
    /// The channel the peer spoke on, for an answer. A question goes to every broker the peer publishes.
    pub back_on: Option<ChannelId>,
    /// Tells that its fate is to be told.
    pub wants_receipt: bool,
}

/// Owns the inbox, the outbox, and what is known of every broker.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    inbox: Inbox,
    outbox: Scribe,
    /// Peers we asked something, and when: their answers are heard.
    asked: BTreeMap<PeerId, Instant>,
    channels: BTreeMap<ChannelId, ChannelState>,
    /// Channels that say their farewell.
    leaving: BTreeSet<ChannelId>,
    pending: BTreeMap<u64, Pending>,
    next_channel: u32,
    next_ticket: u64,
    out: VecDeque<Output<RouterAct, RouterEvent>>,
    is_closed: bool,
}

/// What a broker is to us.
#[derive(Debug)]
struct ChannelState {
    url: BrokerUrl,
    state: BrokerState,
    /// For a broker of a peer's, when we last needed it. Our own are for ever.
    guest: Option<Instant>,
}

/// One signal on its way out, over some channels.
#[derive(Debug)]
struct Pending {
    tally: Tally,
    letter: Box<Letter>,
    /// When it was sent first.
    since: Instant,
    /// When to send it again: nobody listened, and the peer may be waking up.
    again_at: Option<Instant>,
    deadline: Option<Deadline>,
}

impl Router {
    /// Opens a channel to every broker of the configuration.
    pub fn new(config: RouterConfig, clock: Clock, mut seed: Seed, now: Instant) -> Self {
        let inbox = InboxConfig { identity: config.identity.clone(), clock, limits: InboxLimits::default() };
        let mut inbox = Inbox::new(inbox, seed.fork("inbox"), now);
        inbox.set_allowed(config.allowed.clone());
        let outbox = Scribe::new(config.identity.clone(), clock, seed.fork("outbox"));
        let mut router = Self {
            inbox,
            outbox,
            asked: BTreeMap::new(),
            channels: BTreeMap::new(),
            leaving: BTreeSet::new(),
            pending: BTreeMap::new(),
            next_channel: 0,
            next_ticket: 0,
            out: VecDeque::new(),
            is_closed: false,
            config,
        };
        for (number, url) in router.config.brokers.clone().into_iter().enumerate() {
            if router.open(&url, Some(number), now).is_none() {
                let state = BrokerState::Down("this node was given no in-process broker".to_owned());
                router.out.push_back(Output::Event(RouterEvent::Broker(url, state)));
            }
        }
        router
    }

    /// Returns the states of the brokers of the configuration.
    pub fn brokers(&self) -> impl Iterator<Item = (&BrokerUrl, &BrokerState)> {
        let own = self.channels.values().filter(|channel| channel.guest.is_none());
        own.map(|channel| (&channel.url, &channel.state))
    }

    /// Returns what the inbox let through and where it stopped the rest.
    pub fn inbox_counters(&self) -> &crate::signal::InboxCounters {
        self.inbox.counters()
    }

    /// Dates and checks signals by this clock from now on.
    pub fn handle_clock(&mut self, clock: Clock, now: Instant) {
        self.outbox.set_clock(clock);
        self.inbox.handle_clock(clock, now);
        self.drain_inbox();
    }

    /// Mixes entropy into all that is drawn for signals from now on.
    pub fn stir(&mut self, entropy: [u8; 32]) {
        self.outbox.stir(entropy);
    }

    /// Puts this address into every signal from now on.
    pub fn set_address(&mut self, address: PeerAddr) {
        if let Err(error) = self.outbox.set_address(address) {
            tracing::warn!(%error, "own address");
        }
    }

    /// Takes up what happened on a channel.
    pub fn handle_channel(&mut self, channel: ChannelId, event: ChannelEvent, now: Instant) {
        if self.is_closed || !self.channels.contains_key(&channel) {
            return;
        }
        match event {
            ChannelEvent::Up => self.on_state(channel, BrokerState::Up, now),
            ChannelEvent::Down { reason, .. } => {
                self.on_state(channel, BrokerState::Down(reason.to_string()), now);
            }
            ChannelEvent::Delivered { ticket, subscribers } => {
                self.tally(ticket, now, |tally| tally.handle_delivered(channel.0, subscribers, now));
            }
            ChannelEvent::Failed { ticket, reason } => {
                self.tally(ticket, now, |tally| tally.handle_failed(channel.0, reason.to_string(), now));
            }
            ChannelEvent::Received { payload } => {
                self.inbox.handle_sealed(channel.0, &payload, now);
                self.drain_inbox();
            }
        }
    }

    /// A channel has said its farewell.
    pub fn handle_channel_closed(&mut self, channel: ChannelId) {
        self.leaving.remove(&channel);
    }

    /// Writes a signal once and gives it to every channel at once.
    ///
    /// Where nobody listens it is sent again for a while: a peer that starts at the same time, whose broker restarts or
    /// whose machine wakes up, is not offline.
    pub fn send(&mut self, letter: Letter, now: Instant) {
        self.send_since(letter, now, now);
    }

    fn send_since(&mut self, letter: Letter, since: Instant, now: Instant) {
        if self.is_closed {
            return;
        }
        let kept = Box::new(letter.clone());
        let Letter { to, attempt, body, back_on, wants_receipt } = letter;
        let channels = match back_on.filter(|channel| self.channels.contains_key(channel)) {
            Some(channel) => vec![channel],
            None => {
                self.hear(to.id(), now);
                self.channels_to(&to, now)
            }
        };
        let is_full = wants_receipt && self.pending.len() >= MOST_PENDING;
        let sealed = match self.outbox.write(to.id(), attempt, body.clone(), TTL, now) {
            _ if is_full => Err(format!("{MOST_PENDING} signals are under way already")),
            sealed => sealed.map_err(|error| error.to_string()),
        };
        let body = Box::new(body);
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(reason) => {
                tracing::warn!(reason, "a signal could not be sent");
                if wants_receipt {
                    let trouble = BrokerTrouble { broker: "this node".to_owned(), reason };
                    let delivery = Delivery::NoBroker(vec![trouble]);
                    self.out.push_back(Output::Event(RouterEvent::Delivered { attempt, body, delivery }));
                }
                return;
            }
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let brokers =
            channels.iter().filter_map(|id| Some((id.0, self.channels.get(id)?.url.to_string()))).collect();
        let mut tally = Tally::new(brokers, SEND_WITHIN, now);
        for channel in channels {
            let Some(known) = self.channels.get(&channel) else { continue };
            let (topic, until) = (to.id().topic(), now + SEND_WITHIN);
            let act = RouterAct::Publish { channel, ticket, topic, payload: sealed.clone(), until };
            self.out.push_back(Output::Act(act));
            if let BrokerState::Down(reason) = &known.state {
                tally.handle_trouble(channel.0, reason.clone(), now);
            }
        }
        if wants_receipt {
            let (again_at, deadline) = (None, None);
            self.pending.insert(ticket, Pending { tally, letter: kept, since, again_at, deadline });
            self.settle(ticket, now);
        }
    }

    /// Closes every channel; over when each has said its farewell.
    pub fn close(&mut self, now: Instant) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        self.inbox.close(now);
        self.pending.clear();
        for (channel, _) in std::mem::take(&mut self.channels) {
            self.leaving.insert(channel);
            self.out.push_back(Output::Act(RouterAct::Close { channel }));
        }
    }

    /// Tells whether it was closed and every channel has said its farewell.
    pub fn is_over(&self) -> bool {
        self.is_closed && self.leaving.is_empty()
    }

    /// Opens a channel to a broker. `None` when there is no such thing here.
    fn open(&mut self, url: &BrokerUrl, configured: Option<usize>, now: Instant) -> Option<ChannelId> {
        if url.scheme() == Scheme::Memory && !self.config.has_memory {
            return None;
        }
        let channel = ChannelId(self.next_channel);
        self.next_channel += 1;
        let guest = configured.is_none().then_some(now);
        let state = BrokerState::Connecting;
        self.channels.insert(channel, ChannelState { url: url.clone(), state, guest });
        let act = RouterAct::Open { channel, url: url.clone(), configured };
        self.out.push_back(Output::Act(act));
        Some(channel)
    }

    /// Returns the channels over which a peer listens, opening those that are missing.
    fn channels_to(&mut self, peer: &PeerAddr, now: Instant) -> Vec<ChannelId> {
        let mut found = Vec::new();
        for url in peer.brokers() {
            let known = self.channels.iter_mut().find(|(_, known)| known.url == *url);
            if let Some((id, known)) = known {
                known.guest = known.guest.map(|_| now);
                found.push(*id);
            } else {
                tracing::debug!(%url, "a broker of the peer's");
                self.make_room_for_guest();
                found.extend(self.open(url, None, now));
            }
        }
        found
    }

    /// Lets the guest go that was used least recently, if there are too many.
    fn make_room_for_guest(&mut self) {
        let guests = self.channels.iter().filter_map(|(id, known)| Some((known.guest?, *id)));
        let guests: Vec<_> = guests.collect();
        if guests.len() >= MOST_GUESTS
            && let Some((_, oldest)) = guests.into_iter().min()
        {
            self.leave(oldest);
        }
    }

    fn leave(&mut self, channel: ChannelId) {
        self.channels.remove(&channel);
        self.leaving.insert(channel);
        self.out.push_back(Output::Act(RouterAct::Close { channel }));
    }

    /// Hears the answers of a peer that we ask. With an allow-list, strangers' signals are dropped unanswered, as any
    /// answer would tell them our address.
    fn hear(&mut self, peer: PeerId, now: Instant) {
        let Some(mut allowed) = self.config.allowed.clone() else { return };
        self.asked.retain(|_, asked| now < *asked + HEARD_FOR);
        if self.asked.len() < MOST_PENDING {
            self.asked.insert(peer, now);
        }
        allowed.extend(self.asked.keys());
        self.inbox.set_allowed(Some(allowed));
    }

    fn on_state(&mut self, channel: ChannelId, state: BrokerState, now: Instant) {
        let Some(known) = self.channels.get_mut(&channel).filter(|known| known.state != state) else {
            return;
        };
        known.state = state.clone();
        if known.guest.is_none() {
            let event = RouterEvent::Broker(known.url.clone(), state.clone());
            self.out.push_back(Output::Event(event));
        }
        if let BrokerState::Down(reason) = state {
            let tickets: Vec<u64> = self.pending.keys().copied().collect();
            for ticket in tickets {
                self.tally(ticket, now, |tally| tally.handle_trouble(channel.0, reason.clone(), now));
            }
        }
    }

    fn tally(&mut self, ticket: u64, now: Instant, feed: impl FnOnce(&mut Tally)) {
        if let Some(pending) = self.pending.get_mut(&ticket).filter(|pending| pending.again_at.is_none()) {
            feed(&mut pending.tally);
            self.settle(ticket, now);
        }
    }

    /// Tells of a signal's fate as soon as it is certain.
    fn settle(&mut self, ticket: u64, now: Instant) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        match pending.tally.poll_output() {
            Output::Event(Delivery::Offline) if now < pending.since + AWAKE_WITHIN => {
                pending.again_at = Some(now + SEND_AGAIN);
                pending.deadline = Some(Deadline::new(now + SEND_AGAIN, "send a signal again"));
            }
            Output::Event(delivery) => {
                if let Some(pending) = self.pending.remove(&ticket) {
                    let Letter { attempt, body, .. } = *pending.letter;
                    let body = Box::new(body);
                    self.out.push_back(Output::Event(RouterEvent::Delivered { attempt, body, delivery }));
                }
            }
            Output::Wait(deadline @ Some(_)) => pending.deadline = deadline,
            Output::Wait(None) => drop(self.pending.remove(&ticket)),
            Output::Act(never) => match never {},
        }
    }

    fn drain_inbox(&mut self) {
        while let Output::Event(InboxEvent::Signal { signal, channel }) = self.inbox.poll_output() {
            self.out.push_back(Output::Event(RouterEvent::Signal { signal, channel: ChannelId(channel) }));
        }
    }

    /// Returns when the guest used least recently is to be let go.
    fn guest_leaves_at(&self) -> Option<Instant> {
        self.channels.values().filter_map(|known| known.guest).min().map(|used| used + GUEST_LEASE)
    }
}

impl Machine for Router {
    type Act = RouterAct;
    type Event = RouterEvent;

    fn handle_timeout(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        let due = |pending: &Pending| pending.deadline.is_some_and(|deadline| deadline.at <= now);
        let tickets: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| due(pending)).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            let is_again = self.pending.get(&ticket).is_some_and(|pending| pending.again_at.is_some());
            if !is_again {
                self.tally(ticket, now, |tally| tally.handle_timeout(now));
            } else if let Some(pending) = self.pending.remove(&ticket) {
                self.send_since(*pending.letter, pending.since, now);
            }
        }
        let is_idle = |known: &ChannelState| known.guest.is_some_and(|used| used + GUEST_LEASE <= now);
        let idle: Vec<ChannelId> =
            self.channels.iter().filter(|(_, known)| is_idle(known)).map(|(id, _)| *id).collect();
        idle.into_iter().for_each(|channel| self.leave(channel));
        self.inbox.handle_timeout(now);
        self.drain_inbox();
    }

    fn poll_output(&mut self) -> Output<RouterAct, RouterEvent> {
        if let Some(output) = self.out.pop_front() {
            return output;
        }
        if self.is_closed {
            return Output::Wait(None);
        }
        let inbox = match self.inbox.poll_output() {
            Output::Wait(deadline) => deadline,
            Output::Event(InboxEvent::Signal { signal, channel }) => {
                return Output::Event(RouterEvent::Signal { signal, channel: ChannelId(channel) });
            }
            Output::Act(never) => match never {},
        };
        let pending = self.pending.values().map(|pending| pending.deadline);
        let guest = self.guest_leaves_at().map(|at| Deadline::new(at, "let a peer's broker go"));
        Output::Wait(Deadline::earliest(pending.chain([inbox, guest])))
    }
}

/// How long a signal means something.
const TTL: Duration = Duration::from_secs(30);
/// How long a peer for which nobody listens may take to come up before it is called offline.
const AWAKE_WITHIN: Duration = Duration::from_secs(4);
/// The pause before a signal that nobody listened for is sent again.
const SEND_AGAIN: Duration = Duration::from_millis(250);
/// How long brokers may take to accept one.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Brokers of peers that we hold a connection to for their sake.
const MOST_GUESTS: usize = 16;
/// How long such a connection is kept after it was last used.
const GUEST_LEASE: Duration = Duration::from_secs(60);
/// How long the answers of a peer that we asked are heard, when it is on no list.
const HEARD_FOR: Duration = Duration::from_secs(120);
/// Signals on their way out whose sender waits, at most.
const MOST_PENDING: usize = 512;

#[cfg(feature = "sim")]
#[path = "router_subject.rs"]
pub(super) mod subject;
