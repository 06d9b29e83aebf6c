//! The only source of randomness.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers that can be forked.
///
/// A machine is given its stream when it is made. A node draws one 32-byte seed from the operating system when it
/// starts, and forks all others from it. A test names a number, and every run of it is the same. The stream is
/// ChaCha12, which is strong enough for keys, salts and nonces.
#[derive(Clone)]
pub struct Seed {
    rng: ChaCha12Rng,
}

impl Seed {
    /// Returns the stream that starts from 32 bytes of entropy.
    pub fn new(entropy: [u8; 32]) -> Self {
        Self { rng: ChaCha12Rng::from_seed(entropy) }
    }

    /// Returns the stream of a number, for tests, simulations and statistics. **It is not for keys that must stay
    /// secret.**
    pub fn from_u64(number: u64) -> Self {
        Self { rng: ChaCha12Rng::seed_from_u64(number) }
    }

    /// Returns a new, independent stream. Forks of one parent differ by their order and by `label`.
    pub fn fork(&mut self, label: &str) -> Self {
        let mut hash = Blake2s256::default();
        hash.update(&self.array::<32>());
        hash.update(label.as_bytes());
        Self::new(hash.finalize_fixed().into())
    }

    /// Mixes fresh entropy into all that is drawn from now on: two copies of one stream differ after it.
    pub fn stir(&mut self, entropy: [u8; 32]) {
        let mut hash = Blake2s256::default();
        hash.update(&self.array::<32>());
        hash.update(&entropy);
        *self = Self::new(hash.finalize_fixed().into());
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.rng.fill_bytes(out);
    }

    /// Returns `N` random bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Returns a number in 0 … `u64::MAX`.
    pub fn number(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Returns a number in `0..end`, and 0 when `end` is 0. The bias is below 2⁻³² for every `end` up to 2³².
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.number()) * u128::from(end);
        (wide >> 64) as u64
    }

    /// Returns a number in `range`, and its start when the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// Returns a number in `0.0 .. 1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns true with this probability (0.0 … 1.0).
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Returns a duration in zero … `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }

    /// Returns `base` made longer or shorter by up to `fraction` of itself (0.0 … 1.0).
    pub fn jitter(&mut self, base: Duration, fraction: f64) -> Duration {
        base.mul_f64((1.0 + fraction * (2.0 * self.unit() - 1.0)).max(0.0))
    }

    /// Returns one of `items`, or `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Puts `items` into random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// Shows that it is a seed and never its state, which may become a key.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_was_stirred_goes_its_own_way() {
        let seed = Seed::from_u64(7);
        let [mut still, mut one, mut other] = [seed.clone(), seed.clone(), seed];
        one.stir([1; 32]);
        other.stir([2; 32]);
        let streams = [still.array::<32>(), one.array(), other.array()];
        assert!(streams[0] != streams[1] && streams[1] != streams[2] && streams[0] != streams[2]);
    }

    #[test]
    fn the_same_number_gives_the_same_stream() {
        let (mut a, mut b) = (Seed::from_u64(7), Seed::from_u64(7));
        assert_eq!(a.array::<64>(), b.array::<64>());
        assert_eq!(a.fork("x").number(), b.fork("x").number());
    }

    #[test]
    fn forks_differ_by_label_and_by_order() {
        let parent = Seed::from_u64(7);
        let first = parent.clone().fork("x").number();
        assert_ne!(first, parent.clone().fork("y").number());
        let mut twice = parent;
        assert_eq!(first, twice.fork("x").number());
        assert_ne!(first, twice.fork("x").number());
    }

    #[test]
    fn ranges_are_kept_and_filled() {
        let mut seed = Seed::from_u64(1);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[seed.below(10) as usize] = true;
            let unit = seed.unit();
            assert!((0.0..1.0).contains(&unit));
            let long = seed.jitter(Duration::from_secs(10), 0.2);
            assert!((Duration::from_secs(8)..=Duration::from_secs(12)).contains(&long));
        }
        assert!(seen.iter().all(|hit| *hit));
        assert_eq!(seed.below(0), 0);
        assert_eq!(seed.within(5..5), 5);
        assert_eq!(seed.pick::<u8>(&[]), None);
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<u32> = (0..100).collect();
        Seed::from_u64(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_state_never_shows() {
        assert_eq!(format!("{:?}", Seed::from_u64(1)), "Seed(..)");
    }

    #[test]
    fn copies_that_are_stirred_differ() {
        let mut seed = Seed::from_u64(1);
        let mut copy = seed.clone();
        seed.stir([1; 32]);
        copy.stir([2; 32]);
        assert_ne!(seed.number(), copy.number());
        let mut again = Seed::from_u64(1);
        again.stir([1; 32]);
        again.number();
        assert_eq!(seed.number(), again.number());
    }
}
