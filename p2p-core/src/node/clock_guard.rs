//! The watch over the clock a node dates its signals by.

use std::time::{Duration, Instant};

use crate::{Clock, Deadline};

/// Compares the clock the node has counted on with the system's: a suspended machine does not count, and an
/// administrator or NTP may have set the time. Signals are dated, so all who date them must agree.
#[derive(Debug)]
pub(super) struct ClockGuard {
    clock: Clock,
    look_at: Instant,
    /// The microseconds by which the system's clock was ahead of ours at the last look.
    ahead: i128,
}

/// Tells what a look at the system's clock has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Both go alike.
    Steady,
    /// The system's clock was moved a little: what NTP servers said of it is void.
    Stepped,
    /// The clock was set, or stood still: all that is dated must be dated anew.
    Set,
}

impl ClockGuard {
    /// Counts on `clock` from `now` on.
    pub(super) fn new(clock: Clock, now: Instant) -> Self {
        Self { clock, look_at: now + LOOK_EVERY, ahead: 0 }
    }

    /// Returns the clock counted on.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns when to look next.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::new(self.look_at, "compare the clock with the system's")
    }

    /// Tells whether it is time to look, and sets the time of the next look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.look_at <= now;
        if is_due {
            self.look_at = now + LOOK_EVERY;
        }
        is_due
    }

    /// Takes the system's clock.
    pub(super) fn look(&mut self, system: Clock, now: Instant) -> Look {
        let ahead = i128::from(system.unix(now).0) - i128::from(self.clock.unix(now).0);
        let is_more_than = |micros: i128, span: Duration| micros.unsigned_abs() > span.as_micros();
        if is_more_than(ahead, MOST_DRIFT) {
            self.clock = system;
            self.ahead = 0;
            return Look::Set;
        }
        let is_step = is_more_than(ahead - self.ahead, MOST_STEP);
        self.ahead = ahead;
        if is_step { Look::Stepped } else { Look::Steady }
    }
}

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The difference at which the node follows the system's clock.
const MOST_DRIFT: Duration = Duration::from_secs(1);
/// The step between two looks that makes the word of NTP servers void. A system that corrects its clock smoothly, by 500
/// ppm at most, moves it 5 ms.
const MOST_STEP: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixTime;
    use crate::sim::epoch;

    #[test]
    fn a_set_clock_is_followed_and_a_step_makes_ntp_void() {
        let at = |micros: u64, now: Instant| Clock::new(now, UnixTime(micros));
        let (start, second) = (epoch(), Duration::from_secs(1));
        let mut guard = ClockGuard::new(at(1_000_000_000, start), start);
        assert!(!guard.is_due(start + 9 * second));
        let now = start + 10 * second;
        assert!(guard.is_due(now));
        assert_eq!(guard.look(at(1_010_005_000, now), now), Look::Steady, "5 ms in 10 s");
        let now = start + 20 * second;
        assert_eq!(guard.look(at(1_020_030_000, now), now), Look::Stepped);
        assert_eq!(guard.clock().unix(now), UnixTime(1_020_000_000), "it is not followed");
        let now = start + 30 * second;
        assert_eq!(guard.look(at(4_600_000_000, now), now), Look::Set);
        assert_eq!(guard.clock().unix(now), UnixTime(4_600_000_000));
        assert_eq!(guard.look(at(4_600_000_000, now), now), Look::Steady);
    }
}
