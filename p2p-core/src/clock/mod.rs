//! Monotonic time and UNIX time, the conversion between them, and the offset between two clocks.
//!
//! | part | meaning |
//! |---|---|
//! | [`UnixTime`], [`Clock`] | the time a clock shows, and the instant at which it shows it |
//! | [`Offset`], [`combine`] | the offset between two clocks, with a bound of its error |
//! | [`OffsetFilter`] | the estimate of an offset from exchanges of four time stamps; pure |
//! | [`ntp`] | the codec of NTP, and a machine that asks several servers |
//!
//! Nothing here ever sets a clock. An [`Offset`] is a fact for those who must meet at a time.

pub mod ntp;
mod offset;

#[cfg(test)]
mod offset_tests;

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

pub use offset::{DRIFT, Exchange, ImpossibleExchange, MOST_EXCHANGES, Offset, OffsetFilter, Ppm, combine};

/// A UNIX time: microseconds since 1970-01-01 00:00 UTC, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// Returns the time that is this many seconds after the beginning of 1970.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Returns the time that is `span` later, or the latest that can be written.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Returns the time that is `span` earlier, or the beginning of 1970.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Returns the time that has passed since `earlier`, and zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A time before 1970 becomes the beginning of 1970.
impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        Self::default().after(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// One moment known both as an instant and as a UNIX time.
///
/// A driver makes it once from the system clock. It hands it to the machines that must compare their time with
/// somebody else's. A later step of the system clock does not disturb them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    instant: Instant,
    unix: UnixTime,
}

impl Clock {
    /// Returns the clock that showed `unix` at `instant`.
    pub fn new(instant: Instant, unix: UnixTime) -> Self {
        Self { instant, unix }
    }

    /// Returns the UNIX time at `now`.
    pub fn unix(&self, now: Instant) -> UnixTime {
        match now.checked_duration_since(self.instant) {
            Some(later) => self.unix.after(later),
            None => self.unix.before(self.instant.duration_since(now)),
        }
    }

    /// Returns the instant at which UNIX time is `at`, or `None` when this platform cannot name it.
    pub fn instant(&self, at: UnixTime) -> Option<Instant> {
        if at >= self.unix {
            self.instant.checked_add(at.since(self.unix))
        } else {
            self.instant.checked_sub(self.unix.since(at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    #[test]
    fn both_ways_and_back() {
        let clock = Clock::new(epoch(), UnixTime::from_secs(1_800_000_000));
        let later = epoch() + Duration::from_millis(1_500);
        assert_eq!(clock.unix(later), UnixTime(1_800_000_001_500_000));
        assert_eq!(clock.instant(clock.unix(later)), Some(later));
        assert_eq!(clock.unix(later).to_string(), "1800000001.500000");
    }

    #[test]
    fn absurd_times_do_not_overflow() {
        let clock = Clock::new(epoch(), UnixTime(u64::MAX - 1));
        assert_eq!(clock.unix(epoch() + Duration::from_secs(9)), UnixTime(u64::MAX));
        assert_eq!(UnixTime(3).before(Duration::MAX), UnixTime(0));
        assert_eq!(UnixTime(3).since(UnixTime(5)), Duration::ZERO);
        let _ = clock.instant(UnixTime(0));
        let _ = Clock::new(epoch(), UnixTime(0)).instant(UnixTime(u64::MAX));
    }
}
