//! Token buckets, which limit how often something may happen.

use std::time::{Duration, Instant};

/// A rate and a burst: the limit that a [`Bucket`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of events a second in the long run. 0 counts as 1.
    pub per_second: u32,
    /// The number of events at once after a pause. 0 counts as 1.
    pub burst: u32,
}

/// A token bucket, kept as the one moment at which it will be full again.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Returns a full bucket.
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token, and tells whether there was one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let token = Duration::from_secs(1) / rate.per_second.max(1);
        let full_at = self.full_at.max(now) + token;
        let is_there = full_at.duration_since(now) <= token.saturating_mul(rate.burst.max(1));
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }

    /// Tells whether the bucket is full, and so as good as a new one.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate { per_second: 10, burst: 5 };
        let mut bucket = Bucket::new(epoch());
        let mut take = |at: u64| bucket.take(rate, epoch() + Duration::from_millis(at));
        assert_eq!((0..100).filter(|_| take(0)).count(), 5);
        assert!(!take(99));
        assert!(take(100));
        assert!(!take(100));
        assert_eq!((0..1_000).filter(|at| take(101 + at)).count(), 10);
        assert_eq!((0..100).filter(|_| take(60_000)).count(), 5, "it holds no more than a burst");
        assert!(!take(59_000), "an older now gives nothing away");
    }
}
