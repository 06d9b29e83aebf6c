//! A machine that opens signals and drops those that are foreign, forged, stale, replayed or too many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::message::Signal;
use super::seal::{OpenError, check_envelope, open};
use super::seen::Seen;
use super::senders::{self, Bounds, Moment, Senders};
use super::wire::WireError;
use super::{CLOCK_SKEW, MOST_TTL};
use crate::peer::{Identity, PeerId};
use crate::rate::{Bucket, Rate};
use crate::{Clock, Machine, Output, Seed};

/// The most signals that wait to be polled.
const MOST_EVENTS: usize = 256;
/// The most channels whose budget is remembered. It is many more than an address has brokers, to allow for
/// reconnects.
const MOST_CHANNELS: usize = 64;

/// The identity and the bounds of an inbox.
#[derive(Clone, Debug)]
pub struct InboxConfig {
    /// The identity of this node.
    pub identity: Identity,
    /// The clock that signals are judged by.
    pub clock: Clock,
    /// The bounds of the inbox.
    pub limits: InboxLimits,
}

/// The bounds of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// The most that a sender's clock may differ from ours, either way. Default [`CLOCK_SKEW`]. A larger value lets
    /// worse clocks in, and lengthens the time for which senders must be remembered.
    pub skew: Duration,
    /// The rate at which each channel may have something opened, good or bad. Default 50 a second, 100 at once. To
    /// open noise takes 0.07 ms, and a good signal 0.23 ms (`cargo bench -p p2p-core --bench signal`). So a flooder
    /// burns about 1 % of a core.
    pub channel: Rate,
    /// The rate at which each sender may speak. Default 10 a second, 40 at once.
    pub sender: Rate,
    /// The number of senders that are remembered, at least 1. Default 1024, about 1 KiB each. When one more comes
    /// while all are alive, the one with the oldest last signal is forgotten. A sender that is not remembered is
    /// believed only what was issued after that signal.
    pub most_senders: usize,
    /// The number of ciphertexts that are remembered. Default 4096, about 30 bytes each. So a copy of a signal that
    /// comes over another broker costs a hash and not an opening. A copy that was forgotten is still dropped, as a
    /// replay.
    pub most_seen: usize,
}

impl Default for InboxLimits {
    fn default() -> Self {
        Self {
            skew: CLOCK_SKEW,
            channel: Rate { per_second: 50, burst: 100 },
            sender: Rate { per_second: 10, burst: 40 },
            most_senders: 1_024,
            most_seen: 4_096,
        }
    }
}

/// An event of an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxEvent {
    /// A peer that may speak says something new.
    Signal {
        /// The signal, with its sender.
        signal: Box<Signal>,
        /// The channel on which it came first.
        channel: u32,
    },
}

/// The number of signals that came through, and of those that each check stopped. The fields are in the order of the
/// checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboxCounters {
    /// The signals that were delivered as events.
    pub delivered: u64,
    /// The bytes of a size that no sealed signal has: cut off, too big, or something else.
    pub size: u64,
    /// The signals of a version or type that we do not know. One side needs an update.
    pub version: u64,
    /// The signals that were seen before, byte by byte: copies that come over other brokers.
    pub duplicate: u64,
    /// The signals not taken, because the owner does not poll.
    pub unread: u64,
    /// The signals not opened, because their channel brought too many.
    pub channel_rate: u64,
    /// The signals that were not sealed to us, or were changed on the way.
    pub broken: u64,
    /// The signals that were sealed to us and cannot be read.
    pub malformed: u64,
    /// The signals that were sealed by another peer than they say, or are addressed to another.
    pub forged: u64,
    /// The signals that we wrote ourselves.
    pub own: u64,
    /// The signals from a peer that may not speak to us.
    pub not_allowed: u64,
    /// The signals that were issued in the future, so one of the two clocks is wrong.
    pub early: u64,
    /// The signals that have expired: they are late, or one of the two clocks is wrong.
    pub expired: u64,
    /// The signals that expire before they were issued, or last longer than any may.
    pub lifetime: u64,
    /// The signals that were delivered before, and sealed or sent again.
    pub replay: u64,
    /// The signals older than what is remembered, so they may have been delivered before.
    pub stale: u64,
    /// The signals that were too many from their sender.
    pub sender_rate: u64,
}

/// The check that stopped a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Size,
    Version,
    Duplicate,
    Unread,
    ChannelRate,
    Broken,
    Malformed,
    Forged,
    Own,
    NotAllowed,
    Early,
    Expired,
    Lifetime,
    Replay,
    Stale,
    SenderRate,
}

impl InboxCounters {
    fn count(&mut self, refused: Refused) {
        let counter = match refused {
            Refused::Size => &mut self.size,
            Refused::Version => &mut self.version,
            Refused::Duplicate => &mut self.duplicate,
            Refused::Unread => &mut self.unread,
            Refused::ChannelRate => &mut self.channel_rate,
            Refused::Broken => &mut self.broken,
            Refused::Malformed => &mut self.malformed,
            Refused::Forged => &mut self.forged,
            Refused::Own => &mut self.own,
            Refused::NotAllowed => &mut self.not_allowed,
            Refused::Early => &mut self.early,
            Refused::Expired => &mut self.expired,
            Refused::Lifetime => &mut self.lifetime,
            Refused::Replay => &mut self.replay,
            Refused::Stale => &mut self.stale,
            Refused::SenderRate => &mut self.sender_rate,
        };
        *counter += 1;
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Size { .. } => Self::Size,
            OpenError::Version { .. }
            | OpenError::Wire(WireError::Version { .. } | WireError::Kind { .. }) => Self::Version,
            OpenError::Broken => Self::Broken,
            OpenError::Padding | OpenError::Wire(_) => Self::Malformed,
            OpenError::Sender | OpenError::Receiver => Self::Forged,
        }
    }
}

impl From<senders::Refused> for Refused {
    fn from(refused: senders::Refused) -> Self {
        match refused {
            senders::Refused::Replay => Self::Replay,
            senders::Refused::Stale => Self::Stale,
            senders::Refused::Rate => Self::SenderRate,
        }
    }
}

/// The parts of an inbox that grow, within bounds.
#[derive(Debug)]
struct Memory {
    seen: Seen,
    channels: BTreeMap<u32, Bucket>,
    senders: Senders,
    events: VecDeque<InboxEvent>,
}

#[derive(Debug)]
enum State {
    Listening(Box<Memory>),
    Closed,
}

/// A machine that takes sealed signals from any number of channels and lets each good one through once.
///
/// | methods | |
/// |---|---|
/// | feed | [`handle_sealed`](Inbox::handle_sealed), [`handle_clock`](Inbox::handle_clock) |
/// | set | [`set_allowed`](Inbox::set_allowed) |
/// | ask | [`counters`](Inbox::counters) |
/// | end | [`close`](Inbox::close) |
///
/// The cheap checks come first: size and version, a copy, and the channel's budget of openings. After the seal come
/// our own signals, the allow-list, issue and expiry, replay, and the sender's rate. A signal issued more than the
/// tolerated skew before this inbox was made is stale. An earlier run of this node may have taken it.
///
/// A flood of good signals from ever new identities can push all other senders out of memory. Then those are refused
/// until one skew after the flood ends. An allow-list makes that impossible.
#[derive(Debug)]
pub struct Inbox {
    identity: Identity,
    own: PeerId,
    clock: Clock,
    limits: InboxLimits,
    allowed: Option<BTreeSet<PeerId>>,
    start: Instant,
    /// The latest `now` ever given, because time does not run backwards here.
    latest: Instant,
    counters: InboxCounters,
    state: State,
}

impl Inbox {
    /// Makes an inbox that lets every peer speak.
    pub fn new(config: InboxConfig, mut seed: Seed, now: Instant) -> Self {
        let limits = config.limits;
        Self {
            own: config.identity.id(),
            identity: config.identity,
            clock: config.clock,
            limits,
            allowed: None,
            start: now,
            latest: now,
            counters: InboxCounters::default(),
            state: State::Listening(Box::new(Memory {
                seen: Seen::new(seed.array(), limits.most_seen),
                channels: BTreeMap::new(),
                senders: Senders::new(Bounds {
                    most: limits.most_senders,
                    rate: limits.sender,
                    skew: limits.skew,
                }),
                events: VecDeque::new(),
            })),
        }
    }

    /// Sets the peers that may speak from now on; `None` means everybody.
    pub fn set_allowed(&mut self, allowed: Option<BTreeSet<PeerId>>) {
        self.allowed = allowed;
    }

    /// Returns the counts of what came and what was dropped so far.
    pub fn counters(&self) -> &InboxCounters {
        &self.counters
    }

    /// Takes a new clock, after a suspend or when a better source was found.
    pub fn handle_clock(&mut self, clock: Clock, now: Instant) {
        self.latest = self.latest.max(now);
        if clock.unix(self.latest) < self.clock.unix(self.latest)
            && let State::Listening(memory) = &mut self.state
        {
            memory.senders.on_clock_back();
        }
        self.clock = clock;
    }

    /// Takes bytes that came in on `channel`, which is any number that names it.
    pub fn handle_sealed(&mut self, channel: u32, bytes: &[u8], now: Instant) {
        self.latest = self.latest.max(now);
        let State::Listening(memory) = &mut self.state else {
            return;
        };
        let doors = Doors {
            identity: &self.identity,
            own: self.own,
            limits: &self.limits,
            allowed: self.allowed.as_ref(),
            moment: Moment {
                now: self.latest,
                unix: self.clock.unix(self.latest),
                start: self.clock.unix(self.start).before(self.limits.skew),
            },
        };
        let signal = match doors.open(memory, channel, bytes) {
            Ok(signal) => signal,
            Err(refused) => {
                self.counters.count(refused);
                tracing::trace!(channel, len = bytes.len(), ?refused, "dropped sealed bytes");
                return;
            }
        };
        let from = signal.from.short();
        let (attempt, seq, body) = (signal.attempt, signal.seq, signal.body.name());
        match doors.admit(memory, &signal) {
            Ok(()) => {
                self.counters.delivered += 1;
                tracing::trace!(channel, %from, %attempt, seq, body, "took a signal");
                let signal = Box::new(signal);
                memory.events.push_back(InboxEvent::Signal { signal, channel });
            }
            Err(refused) => {
                self.counters.count(refused);
                tracing::debug!(channel, %from, %attempt, seq, body, ?refused, "dropped a signal");
            }
        }
    }

    /// Stops listening and forgets everything. Events that were not polled are gone.
    pub fn close(&mut self, _now: Instant) {
        self.state = State::Closed;
    }
}

impl Machine for Inbox {
    type Act = Infallible;
    type Event = InboxEvent;

    /// Does nothing but note the time. An inbox waits for nothing, and forgets expired signals when their room is
    /// needed.
    fn handle_timeout(&mut self, now: Instant) {
        self.latest = self.latest.max(now);
    }

    fn poll_output(&mut self) -> Output<Infallible, InboxEvent> {
        match &mut self.state {
            State::Listening(memory) => memory.events.pop_front().map_or(Output::Wait(None), Output::Event),
            State::Closed => Output::Wait(None),
        }
    }
}

/// The facts that the checks need.
struct Doors<'a> {
    identity: &'a Identity,
    own: PeerId,
    limits: &'a InboxLimits,
    allowed: Option<&'a BTreeSet<PeerId>>,
    moment: Moment,
}

impl Doors<'_> {
    /// Makes the checks that come before the sender is known.
    fn open(&self, memory: &mut Memory, channel: u32, bytes: &[u8]) -> Result<Signal, Refused> {
        check_envelope(bytes)?;
        let hash = memory.seen.hash(bytes);
        if memory.seen.contains(hash) {
            return Err(Refused::Duplicate);
        }
        if memory.events.len() >= MOST_EVENTS {
            return Err(Refused::Unread);
        }
        if !self.take_budget(&mut memory.channels, channel) {
            return Err(Refused::ChannelRate);
        }
        // The hash is remembered only now. Otherwise a flooded channel could spoil an unopened signal for the others.
        memory.seen.insert(hash);
        Ok(open(self.identity, bytes)?)
    }

    fn take_budget(&self, channels: &mut BTreeMap<u32, Bucket>, channel: u32) -> bool {
        let now = self.moment.now;
        if channels.len() >= MOST_CHANNELS && !channels.contains_key(&channel) {
            // A full bucket is as good as a new one, so nothing is lost with it.
            channels.retain(|_, bucket| !bucket.is_full(now));
            if channels.len() >= MOST_CHANNELS {
                return false;
            }
        }
        channels.entry(channel).or_insert_with(|| Bucket::new(now)).take(self.limits.channel, now)
    }

    /// Makes the checks that come after the sender is known.
    fn admit(&self, memory: &mut Memory, signal: &Signal) -> Result<(), Refused> {
        let unix = self.moment.unix;
        if signal.from == self.own {
            return Err(Refused::Own);
        }
        if self.allowed.is_some_and(|allowed| !allowed.contains(&signal.from)) {
            return Err(Refused::NotAllowed);
        }
        if signal.expires < signal.issued || signal.expires.since(signal.issued) > MOST_TTL {
            return Err(Refused::Lifetime);
        }
        if signal.issued > unix.after(self.limits.skew) {
            return Err(Refused::Early);
        }
        if signal.expires.after(self.limits.skew) < unix {
            return Err(Refused::Expired);
        }
        Ok(memory.senders.admit(signal, self.moment)?)
    }
}

#[cfg(feature = "sim")]
#[path = "inbox_subject.rs"]
pub(super) mod subject;
