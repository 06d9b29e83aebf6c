//! The limit on the rate of new mappings.

use std::time::Instant;

/// A token bucket of one second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    level: f64,
    at: Option<Instant>,
}

impl Bucket {
    pub(super) fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        self.level = passed.map_or(rate, |passed| (self.level + passed.as_secs_f64() * rate).min(rate));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let enough = self.level >= 1.0;
        if enough {
            self.level -= 1.0;
        }
        enough
    }
}
