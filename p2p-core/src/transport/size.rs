//! The size of the datagrams that a path carries.
//!
//! What is too big for a link is often swallowed without a word, while everything small passes (RFC 8899 calls it a black
//! hole). The search of that RFC is not needed here: three sizes are enough. Nothing is sent in a larger size before one
//! datagram of it has arrived, and a smaller one is tried as soon as nothing with content arrives any more.

use std::time::{Duration, Instant};

/// The size at the start: with the headers of TURN, UDP and IP at most 1,076 bytes.
const USUAL: usize = 1_024;
/// The smallest: with headers it fits into the 576 bytes that every host of IPv4 must take (RFC 791, section 3.1).
const SMALL: usize = 512;
/// Datagrams with content that were lost in a row before a smaller size is tried. Chance does that once in 64 times where
/// half of all datagrams are lost.
const MANY_LOST: u32 = 6;
/// The pause before a larger size is tried again; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_secs(1);
const MOST_DOUBLED: u32 = 9;

/// The size in use, and the ones above and below.
#[derive(Debug)]
pub(super) struct PathSize {
    sizes: [usize; 3],
    level: usize,
    /// The datagram of the next larger size that is on its way.
    larger: Option<u64>,
    /// When one may go.
    larger_at: Instant,
    failures: u32,
    /// The first datagram of the next smaller size, once that is tried.
    smaller_from: Option<u64>,
    /// Datagrams with content that were lost since one arrived.
    lost: u32,
}

impl PathSize {
    /// `most` is the largest size that is ever used.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        let sizes = [SMALL.min(most), USUAL.min(most), most];
        Self { sizes, level: 1, larger: None, larger_at: now, failures: 0, smaller_from: None, lost: 0 }
    }

    /// Begins anew: the path is another one.
    pub(super) fn reset(&mut self, now: Instant) {
        *self = Self::new(self.sizes[2], now);
    }

    /// The room for the next datagram.
    pub(super) fn room(&self, now: Instant) -> usize {
        let larger = self.sizes.get(self.level + 1).filter(|larger| **larger > self.sizes[self.level]);
        match larger {
            _ if self.is_in_doubt() => self.sizes[self.level - 1],
            Some(larger) if self.larger.is_none() && self.lost == 0 && self.larger_at <= now => *larger,
            _ => self.sizes[self.level],
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.level > 0 && self.lost >= MANY_LOST
    }

    /// A datagram with content of this size goes.
    pub(super) fn on_sent(&mut self, number: u64, size: usize) {
        if size > self.sizes[self.level] {
            self.larger = Some(number);
        } else if self.is_in_doubt() {
            self.smaller_from.get_or_insert(number);
        }
    }

    /// One has arrived.
    pub(super) fn on_arrived(&mut self, number: u64, now: Instant) {
        self.lost = 0;
        if self.larger == Some(number) {
            (self.larger, self.failures, self.larger_at) = (None, 0, now);
            self.level += 1;
        }
        // One that was sent before is as good as those of its size ever were.
        if self.smaller_from.take().is_some_and(|from| number >= from) {
            self.level -= 1;
            self.wait(now);
        }
    }

    /// One is lost, or has to be taken for lost.
    pub(super) fn on_lost(&mut self, number: u64, now: Instant) {
        if self.larger == Some(number) {
            self.wait(now);
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn wait(&mut self, now: Instant) {
        self.larger = None;
        self.larger_at = now + PAUSE * 2_u32.pow(self.failures.min(MOST_DOUBLED));
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    #[test]
    fn a_larger_size_is_used_when_one_of_it_has_arrived() {
        let (mut size, now) = (PathSize::new(1_200, epoch()), epoch());
        assert_eq!(size.room(now), 1_200);
        size.on_sent(0, 1_200);
        assert_eq!(size.room(now), 1_024, "one at a time");
        size.on_sent(1, 1_024);
        size.on_arrived(1, now);
        size.on_lost(0, now);
        assert_eq!(size.room(now), 1_024);
        assert_eq!(size.room(now + PAUSE), 1_200);
        size.on_sent(2, 1_200);
        size.on_arrived(2, now);
        assert_eq!(size.room(now), 1_200);
    }

    #[test]
    fn when_nothing_arrives_any_more_a_smaller_one_is_tried() {
        let (mut size, now) = (PathSize::new(1_200, epoch()), epoch());
        for number in 0..u64::from(MANY_LOST) {
            size.on_sent(number, 1_000);
            size.on_lost(number, now);
        }
        assert_eq!(size.room(now), SMALL);
        size.on_sent(10, SMALL);
        // A late one says that the usual size is good.
        size.on_arrived(3, now);
        assert_eq!(size.room(now + PAUSE), 1_200);
        for number in 20..20 + u64::from(MANY_LOST) {
            size.on_sent(number, 1_000);
            size.on_lost(number, now);
        }
        size.on_sent(30, SMALL);
        size.on_arrived(30, now);
        assert_eq!(size.room(now), SMALL);
        assert_eq!(size.room(now + 2 * PAUSE), USUAL, "and the larger one is tried again");
    }

    #[test]
    fn small_sizes_stay_as_they_are() {
        let (mut size, now) = (PathSize::new(128, epoch()), epoch());
        for number in 0..100 {
            assert_eq!(size.room(now), 128);
            size.on_sent(number, 128);
            if number % 9 == 0 { size.on_arrived(number, now) } else { size.on_lost(number, now) }
        }
    }
}
