//! Log lines that strangers can cause: counted, and told now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts what happens and says when it may be told of.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    untold: u64,
    told: Option<Instant>,
}

impl LogLimit {
    /// Counts one more. Returns how many there were since it was last told of, when it may be told of again: at once
    /// the first time, then once a second at most.
    pub(super) fn count(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        if state.told.is_some_and(|told| now.saturating_duration_since(told) < PERIOD) {
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

const PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_line_a_second_and_nothing_is_lost() {
        let (limit, begun) = (LogLimit::default(), Instant::now());
        let told: Vec<u64> =
            (0..10_000).filter_map(|number| limit.count(begun + Duration::from_millis(number))).collect();
        assert_eq!(told, [1, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000]);
    }
}
