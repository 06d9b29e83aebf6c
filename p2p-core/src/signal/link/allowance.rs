//! How many messages a broker may press on us.

use std::time::{Duration, Instant};

use super::{RECEIVE_BURST, RECEIVE_RATE};

/// A token bucket at the door of incoming messages.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    counted: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: RECEIVE_BURST, counted: now }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / RECEIVE_RATE;
        let earned = now.saturating_duration_since(self.counted).as_millis() / each.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= RECEIVE_BURST - self.left {
            self.left = RECEIVE_BURST;
            self.counted = self.counted.max(now);
        } else {
            self.left += earned;
            self.counted += each * earned;
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}
