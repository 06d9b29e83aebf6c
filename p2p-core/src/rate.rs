//! Token buckets, which limit how often something may happen.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::Seed;

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
        let full_at = self.without_one(rate, now);
        self.full_at = full_at.unwrap_or(self.full_at);
        full_at.is_some()
    }

    /// Whether there is a token.
    pub fn has_token(&self, rate: Rate, now: Instant) -> bool {
        self.without_one(rate, now).is_some()
    }

    /// When it is full again after a token is taken; `None` when there is none.
    fn without_one(&self, rate: Rate, now: Instant) -> Option<Instant> {
        let token = Duration::from_secs(1) / rate.per_second.max(1);
        let full_at = self.full_at.max(now) + token;
        (full_at.duration_since(now) <= token.saturating_mul(rate.burst.max(1))).then_some(full_at)
    }

    /// Tells whether the bucket is full, and so as good as a new one.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// Buckets there are. Sources share one by chance: with 4,096 an innocent shares with one given flooder in
/// one case of 4,096, and the table never grows, whatever source addresses are forged.
const BUCKETS: usize = 4_096;

/// A token bucket for each of any number of sources, in constant memory: chosen by a hash nobody outside can predict.
#[derive(Clone, Debug)]
pub struct RateTable {
    rate: Rate,
    /// Has heard a secret already.
    hasher: DefaultHasher,
    buckets: Vec<Bucket>,
}

impl RateTable {
    /// All buckets full.
    pub fn new(rate: Rate, seed: &mut Seed, now: Instant) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&seed.array::<16>());
        Self { rate, hasher, buckets: vec![Bucket::new(now); BUCKETS] }
    }

    /// Takes a token of `source`, if there is one.
    pub fn take(&mut self, source: impl Hash, now: Instant) -> bool {
        let index = self.index(source);
        self.buckets[index].take(self.rate, now)
    }

    /// Whether `source` has a token.
    pub fn has_token(&self, source: impl Hash, now: Instant) -> bool {
        self.buckets[self.index(source)].has_token(self.rate, now)
    }

    fn index(&self, source: impl Hash) -> usize {
        let mut hasher = self.hasher.clone();
        source.hash(&mut hasher);
        hasher.finish() as usize % BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    #[test]
    fn one_source_is_held_and_the_others_are_not() {
        let rate = Rate { per_second: 10, burst: 5 };
        let mut table = RateTable::new(rate, &mut Seed::from_u64(1), epoch());
        assert_eq!((0..100).filter(|_| table.take("flooder", epoch())).count(), 5);
        assert!(!table.has_token("flooder", epoch()));
        assert!(table.has_token("flooder", epoch() + Duration::from_secs(1)));
        // Chance may put a few into the flooder's bucket, not many.
        assert!((0..100).filter(|other| table.take(other, epoch())).count() >= 90);
        assert_eq!(table.buckets.len(), BUCKETS);
    }

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
