//! The bytes that have come, until they are read.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::config::INITIAL_LIMIT;
use super::counters::Refusal;
use super::ranges::Ranges;
use super::ring::Ring;

/// Holes kept at most; a piece that would make one more is dropped and comes again.
const MOST_HOLES: usize = 4_096;

/// How much more the peer may send, and how that grows.
#[derive(Debug)]
pub(super) struct Window {
    /// What may be under way or unread.
    size: u64,
    most: u64,
    /// What the peer was told.
    limit: u64,
    consumed: u64,
    /// Since when, and from what, the reader's rate is measured.
    since: Instant,
    from: u64,
    /// The peer is to be told.
    is_due: bool,
}

impl Window {
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self {
            size: INITIAL_LIMIT,
            most: most as u64,
            limit: INITIAL_LIMIT,
            consumed: 0,
            since: now,
            from: 0,
            is_due: false,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The reader has taken `count` more.
    ///
    /// A sender doubles what is on its way in each round trip. So when a quarter of the window was read within one,
    /// the window may soon be what limits it, and is made four times that (dynamic right-sizing, Fisk and Feng 2001).
    pub(super) fn consume(&mut self, count: u64, rtt: Option<Duration>, now: Instant) {
        self.consumed += count;
        let Some(rtt) = rtt else { return self.renew() };
        let passed = now.saturating_duration_since(self.since);
        let read = self.consumed - self.from;
        if read * 4 >= self.size && passed <= rtt * 2 {
            self.size = (read * 4).max(self.size * 2).min(self.most);
            (self.since, self.from) = (now, self.consumed);
        } else if passed > rtt {
            (self.since, self.from) = (now, self.consumed);
        }
        self.renew();
    }

    fn renew(&mut self) {
        // A word for every quarter is enough to keep the peer going.
        if self.consumed + self.size >= self.limit + self.size / 4 {
            self.limit = self.consumed + self.size;
            self.is_due = true;
        }
    }

    /// The peer says that it waits, or may not have heard.
    pub(super) fn repeat(&mut self) {
        self.limit = self.limit.max(self.consumed + self.size);
        self.is_due = true;
    }

    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// The limit, if the peer is to be told.
    pub(super) fn take(&mut self) -> Option<u64> {
        std::mem::take(&mut self.is_due).then_some(self.limit)
    }
}

/// The receiving half of an ordered stream.
#[derive(Debug)]
pub(super) struct RecvBuffer {
    /// Its base is what was read.
    ring: Ring,
    /// Below this, nothing is missing.
    ready: u64,
    /// What has come beyond that.
    beyond: Ranges,
    last: Option<u64>,
    pub(super) window: Window,
}

impl RecvBuffer {
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self {
            ring: Ring::default(),
            ready: 0,
            beyond: Ranges::default(),
            last: None,
            window: Window::new(most, now),
        }
    }

    /// Whether a piece may come.
    pub(super) fn check(&self, piece: &Range<u64>, is_last: bool) -> Result<(), Refusal> {
        if piece.end > self.window.limit() {
            return Err(Refusal::Outside);
        }
        let furthest = self.beyond.last().map_or(self.ready, |range| range.end);
        let contradicts = match self.last {
            Some(last) => piece.end > last || (is_last && piece.end != last),
            None => is_last && piece.end < furthest,
        };
        if contradicts {
            return Err(Refusal::Contradiction);
        }
        let is_hole = piece.start > self.ready && self.beyond.len() >= MOST_HOLES;
        if is_hole && self.beyond.would_grow(piece) {
            return Err(Refusal::Outside);
        }
        Ok(())
    }

    /// A piece that [`check`](Self::check) allows.
    pub(super) fn on_piece(&mut self, offset: u64, bytes: &[u8], is_last: bool) {
        let end = offset + bytes.len() as u64;
        if is_last {
            self.last = Some(end);
        }
        if end <= self.ready {
            return;
        }
        let start = offset.max(self.ready);
        let news = &bytes[(start - offset) as usize..];
        self.ring.put(start, news);
        if start > self.ready {
            self.beyond.insert(start..end);
            return;
        }
        self.ready = end;
        while let Some(first) = self.beyond.first().filter(|first| first.start <= self.ready) {
            self.ready = self.ready.max(first.end);
            self.beyond.pop_first();
        }
    }

    /// Whether there is something to read, if only that nothing follows.
    pub(super) fn is_readable(&self) -> bool {
        self.ready > self.ring.base() || self.is_whole()
    }

    /// Whether everything has come.
    pub(super) fn is_whole(&self) -> bool {
        self.last == Some(self.ready)
    }

    /// Whether everything was read.
    pub(super) fn is_read(&self) -> bool {
        self.is_whole() && self.ring.base() == self.ready
    }

    /// The bytes that can be read, in two parts.
    pub(super) fn readable(&self) -> (&[u8], &[u8]) {
        self.ring.slices(self.ring.base()..self.ready)
    }

    /// `count` of them were read.
    pub(super) fn consume(&mut self, count: usize, rtt: Option<Duration>, now: Instant) {
        let count = (count as u64).min(self.ready - self.ring.base());
        self.ring.release(self.ring.base() + count);
        if self.last.is_none() {
            self.window.consume(count, rtt, now);
        }
    }

    /// Forgets what has come.
    pub(super) fn clear(&mut self) {
        self.beyond.clear();
        self.ring.release(self.ring.end());
        self.ready = self.ring.base();
        self.last = None;
        self.shrink();
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.ring.heap() + self.beyond.heap()
    }

    /// Gives unused room back.
    pub(super) fn shrink(&mut self) {
        self.ring.shrink();
        self.beyond.shrink();
    }
}
