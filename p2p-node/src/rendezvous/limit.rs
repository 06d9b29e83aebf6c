//! How often one source may ask, in constant memory.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

pub(super) use p2p_core::rate::Source;
use p2p_core::rate::{Bucket, Rate};

/// Buckets there are. Sources share one by chance: with 4,096 an innocent shares with one given flooder in
/// one case of 4,096, and the table never grows, whatever source addresses are forged.
const BUCKETS: usize = 4_096;

/// A token bucket for each source, chosen by a hash nobody outside can predict.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Rate,
    hash: RandomState,
    buckets: Vec<Bucket>,
}

impl Limit {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, hash: RandomState::new(), buckets: vec![Bucket::new(now); BUCKETS] }
    }

    /// Whether `source` may be answered once more.
    pub(super) fn admit(&mut self, source: Source, now: Instant) -> bool {
        let index = self.hash.hash_one(source) as usize % BUCKETS;
        self.buckets[index].take(self.rate, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_source_is_held_and_the_others_are_not() {
        let now = Instant::now();
        let rate = Rate { per_second: 10, burst: 5 };
        let mut limit = Limit::new(rate, now);
        let flooder = Source::of("192.0.2.1".parse().unwrap());
        assert_eq!((0..100).filter(|_| limit.admit(flooder, now)).count(), 5);
        assert!(limit.admit(flooder, now + Duration::from_secs(1)));
        let others = (0..100u8).filter(|last| {
            let other = Source::of(IpAddr::from([198, 51, 100, *last]));
            limit.admit(other, now)
        });
        // Chance may put a few into the flooder's bucket, not many.
        assert!(others.count() >= 90);
        assert_eq!(limit.buckets.len(), BUCKETS);
    }
}
