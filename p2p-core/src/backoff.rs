//! Pauses that grow after each failure and differ between clients.

use std::time::Duration;

use crate::Seed;

/// An exponential backoff: each pause is drawn from the upper half of a span that doubles up to a limit.
///
/// The lower half is never drawn, so that a failing server gets real rest. The upper half is random, so that clients
/// which lost a server together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Returns a backoff whose first span is `first`, and in which no span is longer than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// Counts one more failure, and returns the pause before the next attempt.
    pub fn fail(&mut self, seed: &mut Seed) -> Duration {
        let doubled = self.first.checked_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let span = doubled.unwrap_or(self.most).min(self.most);
        span / 2 + seed.up_to(span / 2)
    }

    /// Notes a success: the next failure starts with the first span again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the number of failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_the_limit_and_starts_again() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(10));
        let mut backoff = Backoff::new(first, most);
        let mut seed = Seed::from_u64(1);
        for failure in 0..200u32 {
            let span = first.saturating_mul(1 << failure.min(20)).min(most);
            let pause = backoff.fail(&mut seed);
            assert!(pause >= span / 2 && pause <= span, "failure {failure}: {pause:?} of {span:?}");
        }
        backoff.reset();
        assert!(backoff.fail(&mut seed) <= first);
        assert_eq!(backoff.failures(), 1);
    }
}
