//! The memory of senders and their numbers, which stops replays.
//!
//! The anti-replay window of IPsec (RFC 4303, section 3.4.3) is a bitmap over consecutive numbers. Ours are sparse,
//! as they are times. So the window is the list of the highest numbers taken, and a number below all of them is
//! refused. A number that was overtaken by others on its way over another broker is still taken.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::message::Signal;
use crate::UnixTime;
use crate::peer::PeerId;
use crate::rate::{Bucket, Rate};

/// The number of numbers that are remembered of each sender.
pub(super) const WINDOW: usize = 64;

/// A reason why a signal is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The signal was taken before.
    Replay,
    /// The signal is older than what is remembered, so it may have been taken before.
    Stale,
    /// The sender sends too many signals.
    Rate,
}

/// The bounds of [`Senders`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The number of senders that are remembered, at least one.
    pub(super) most: usize,
    /// The rate at which each of them may send.
    pub(super) rate: Rate,
    /// The time after its expiry in which a signal may still be taken.
    pub(super) skew: Duration,
}

/// The moment at which a signal is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) unix: UnixTime,
    /// The time at which the inbox began to exist. Signals issued earlier cannot be judged.
    pub(super) start: UnixTime,
}

#[derive(Debug)]
struct Sender {
    /// The highest numbers taken, in order.
    seqs: Vec<u64>,
    /// The highest number that fell out of `seqs`.
    floor: Option<u64>,
    /// The time up to which issued signals may have been taken before this memory began.
    since: UnixTime,
    /// The latest time of issue among the signals taken.
    newest: UnixTime,
    /// The latest expiry among the signals taken.
    until: UnixTime,
    bucket: Bucket,
}

/// A bounded memory of senders.
#[derive(Debug)]
pub(super) struct Senders {
    bounds: Bounds,
    all: BTreeMap<PeerId, Sender>,
    /// The latest issue of any sender that had to be forgotten while its signals were alive. From a sender that is
    /// not remembered, only signals issued later are taken.
    mark: UnixTime,
    /// The latest issue of any sender that was forgotten after all its signals had expired. It matters only if time
    /// steps back.
    spent: UnixTime,
}

impl Senders {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, all: BTreeMap::new(), mark: UnixTime(0), spent: UnixTime(0) }
    }

    /// Takes a signal, at most once.
    pub(super) fn admit(&mut self, signal: &Signal, moment: Moment) -> Result<(), Refused> {
        let rate = self.bounds.rate;
        if let Some(sender) = self.all.get_mut(&signal.from) {
            return sender.admit(signal, rate, moment.now);
        }
        let since = self.mark.max(moment.start);
        if signal.issued <= since {
            return Err(Refused::Stale);
        }
        self.make_room(moment.unix);
        let mut sender = Sender {
            seqs: Vec::new(),
            floor: None,
            since,
            newest: signal.issued,
            until: signal.expires,
            bucket: Bucket::new(moment.now),
        };
        sender.admit(signal, rate, moment.now)?;
        self.all.insert(signal.from, sender);
        Ok(())
    }

    /// Notes that the clock was set back, so expired signals may be alive again.
    pub(super) fn on_clock_back(&mut self) {
        self.mark = self.mark.max(self.spent);
        for sender in self.all.values_mut() {
            sender.since = sender.since.max(self.mark);
        }
    }

    fn make_room(&mut self, unix: UnixTime) {
        if self.all.len() < self.bounds.most.max(1) {
            return;
        }
        self.all.retain(|_, sender| {
            let is_alive = sender.until.after(self.bounds.skew) >= unix;
            if !is_alive {
                self.spent = self.spent.max(sender.newest);
            }
            is_alive
        });
        // When it is still full, the sender whose last signal is the oldest goes. So the mark rises as little as it
        // can.
        while self.all.len() >= self.bounds.most.max(1) {
            let oldest = self.all.iter().min_by_key(|(_, sender)| sender.newest);
            let Some((id, newest)) = oldest.map(|(id, sender)| (*id, sender.newest)) else {
                return;
            };
            self.all.remove(&id);
            self.mark = self.mark.max(newest);
            tracing::debug!(sender = %id.short(), mark = %newest, "too many senders: forgot one");
        }
    }
}

impl Sender {
    fn admit(&mut self, signal: &Signal, rate: Rate, now: Instant) -> Result<(), Refused> {
        let Err(place) = self.seqs.binary_search(&signal.seq) else {
            return Err(Refused::Replay);
        };
        if signal.issued <= self.since || self.floor.is_some_and(|floor| signal.seq <= floor) {
            return Err(Refused::Stale);
        }
        if !self.bucket.take(rate, now) {
            return Err(Refused::Rate);
        }
        self.seqs.insert(place, signal.seq);
        if self.seqs.len() > WINDOW {
            self.floor = Some(self.seqs.remove(0));
        }
        self.newest = self.newest.max(signal.issued);
        self.until = self.until.max(signal.expires);
        Ok(())
    }
}
