//! Rates, token buckets, and buckets by source in constant memory.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
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

impl Rate {
    /// The time in which one token comes.
    fn token(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
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
        self.take_many(rate, 1, now)
    }

    /// Takes this many tokens, if all of them are there. More than a burst never are.
    pub fn take_many(&mut self, rate: Rate, tokens: u32, now: Instant) -> bool {
        let token = rate.token();
        let full_at = self.full_at.max(now) + token.saturating_mul(tokens);
        let is_there = full_at.duration_since(now) <= token.saturating_mul(rate.burst.max(1));
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }

    /// Returns how long after `now` one token is there.
    pub fn wait(&self, rate: Rate, now: Instant) -> Duration {
        let token = rate.token();
        let full_at = self.full_at.max(now) + token;
        full_at.duration_since(now).saturating_sub(token.saturating_mul(rate.burst.max(1)))
    }

    /// Tells whether the bucket is full, and so as good as a new one.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// A subscriber as rates and quotas count one: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u64);

impl Source {
    /// Returns the source that an address belongs to. An IPv4 address within IPv6 is an IPv4 address.
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        })
    }

    /// Returns the network that one party often has as a whole: an IPv4 /24, or an IPv6 /48.
    pub fn net(self) -> SourceNet {
        // No IPv6 address in use is in ::/32.
        SourceNet(self.0 >> if self.0 <= u64::from(u32::MAX) { 8 } else { 16 })
    }
}

/// The network of a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceNet(u64);

/// A token bucket for each of any number of sources, in constant memory: sources share buckets by chance.
///
/// Nobody outside can predict which sources share one, and an innocent source shares with one given flooder in one
/// case of 4,096.
#[derive(Debug)]
pub struct SourceLimit {
    rate: Rate,
    key: [u8; 16],
    buckets: Vec<Bucket>,
}

impl SourceLimit {
    /// Returns full buckets for everybody.
    pub fn new(rate: Rate, seed: &mut Seed, now: Instant) -> Self {
        Self { rate, key: seed.array(), buckets: vec![Bucket::new(now); SOURCE_BUCKETS] }
    }

    /// Takes this many tokens of `source`, if all of them are there.
    pub fn take_many(&mut self, source: impl Hash, tokens: u32, now: Instant) -> bool {
        let index = self.index(source);
        self.buckets[index].take_many(self.rate, tokens, now)
    }

    /// Tells whether `source` has a token.
    pub fn has_token(&self, source: impl Hash, now: Instant) -> bool {
        self.buckets[self.index(source)].wait(self.rate, now).is_zero()
    }

    fn index(&self, source: impl Hash) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.key, source).hash(&mut hasher);
        hasher.finish() as usize % SOURCE_BUCKETS
    }

    /// Takes one token of `source`, if there is one.
    pub fn take(&mut self, source: impl Hash, now: Instant) -> bool {
        self.take_many(source, 1, now)
    }
}

/// Buckets of a [`SourceLimit`]: 64 KiB.
const SOURCE_BUCKETS: usize = 4_096;

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

    #[test]
    fn many_at_once_or_none() {
        let rate = Rate { per_second: 1_000, burst: 500 };
        let mut bucket = Bucket::new(epoch());
        assert!(!bucket.take_many(rate, 501, epoch()), "more than it holds");
        assert!(bucket.take_many(rate, 400, epoch()));
        assert!(!bucket.take_many(rate, 101, epoch()));
        assert_eq!(bucket.wait(rate, epoch()), Duration::ZERO);
        assert!(bucket.take_many(rate, 100, epoch()));
        assert_eq!(bucket.wait(rate, epoch()), Duration::from_millis(1));
        assert!(bucket.take_many(rate, 200, epoch() + Duration::from_millis(200)));
    }

    #[test]
    fn one_source_is_held_and_the_others_are_not() {
        let now = epoch();
        let rate = Rate { per_second: 10, burst: 5 };
        let mut limit = SourceLimit::new(rate, &mut Seed::from_u64(1), now);
        let flooder = Source::of("192.0.2.1".parse().unwrap());
        assert!(limit.has_token(flooder, now));
        assert_eq!((0..100).filter(|_| limit.take(flooder, now)).count(), 5);
        assert!(!limit.has_token(flooder, now));
        assert!(limit.take(flooder, now + Duration::from_secs(1)));
        let others = (0..100u8).filter(|last| {
            let other = Source::of(IpAddr::from([198, 51, 100, *last]));
            limit.take(other, now)
        });
        // Chance may put a few into the flooder's bucket, not many.
        assert!(others.count() >= 90);
        assert_eq!(limit.buckets.len(), SOURCE_BUCKETS);
    }

    #[test]
    fn a_subscriber_is_one_source_and_a_party_one_network() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1").net(), of("192.0.2.255").net());
        assert_ne!(of("192.0.2.1").net(), of("192.0.3.1").net());
        assert_eq!(of("2001:db8:1:2::1").net(), of("2001:db8:1:ffff::1").net());
        assert_ne!(of("2001:db8:1:2::1").net(), of("2001:db8:2:2::1").net());
    }
}
