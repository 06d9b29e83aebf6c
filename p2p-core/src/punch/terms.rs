//! When, in two clocks: time stamps on the messages of a punch, and what follows from them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::UnixTime;

/// Time stamps of one message, as those of NTP (RFC 5905, section 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// [`transmit`](Self::transmit) of the last message that was received, as it stood there; 0 for none.
    pub origin: UnixTime,
    /// When that one was received, by the sender's clock; 0 for none.
    pub receive: UnixTime,
    /// When this one was written, by the sender's clock.
    pub transmit: UnixTime,
}

/// A message there and another one back, with all four times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When ours was written, by our clock.
    pub origin: UnixTime,
    /// When it was received, by theirs.
    pub receive: UnixTime,
    /// When theirs was written, by theirs.
    pub transmit: UnixTime,
    /// When that was received, by ours.
    pub arrival: UnixTime,
}

impl Exchange {
    /// How far their clock is ahead of ours, and how wrong that can be, both in nanoseconds (RFC 5905,
    /// section 8: half the round trip). `None` when the times contradict each other: no message arrives before it
    /// was written.
    pub fn offset(&self) -> Option<(i64, u64)> {
        let micros = |time: UnixTime| i128::from(time.0);
        let there = micros(self.receive) - micros(self.origin);
        let back = micros(self.transmit) - micros(self.arrival);
        let round_trip =
            micros(self.arrival) - micros(self.origin) - (micros(self.transmit) - micros(self.receive));
        if round_trip < 0 || self.transmit < self.receive || self.arrival < self.origin {
            return None;
        }
        let offset = i64::try_from((there + back) * 500).ok()?;
        let error = u64::try_from(round_trip * 500).ok()?;
        Some((offset, error))
    }
}

/// What both ends of a punch have to go by, besides what they tell each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How far the peer's clock is ahead of ours, and how wrong that can be, both in nanoseconds; `None` when
    /// nothing is known but what the messages of the punch will show.
    pub offset: Option<(i64, u64)>,
    /// The delay of the path to the peer, one way; `None` when not known.
    pub delay: Option<Duration>,
}

impl Terms {
    /// Takes over what an exchange says of the clocks, if it is better than what is known.
    pub fn learn(&mut self, exchange: &Exchange) {
        if let Some((offset, error)) = exchange.offset()
            && self.offset.is_none_or(|(_, known)| error < known)
        {
            self.offset = Some((offset, error));
        }
    }

    /// A time of theirs in our clock; as it stands when nothing is known of the clocks.
    pub fn ours(&self, theirs: UnixTime) -> UnixTime {
        let Some((offset, _)) = self.offset else { return theirs };
        let span = Duration::from_nanos(offset.unsigned_abs());
        if offset >= 0 { theirs.before(span) } else { theirs.after(span) }
    }

    /// How wrong [`ours`](Self::ours) can be.
    pub fn error(&self) -> Option<Duration> {
        self.offset.map(|(_, error)| Duration::from_nanos(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(times: [u64; 4]) -> Exchange {
        let [origin, receive, transmit, arrival] = times.map(UnixTime);
        Exchange { origin, receive, transmit, arrival }
    }

    #[test]
    fn four_times_make_an_offset_and_its_bound() {
        // They are 1,000 µs ahead; 50 µs there, 70 back, 30 in between.
        let (offset, error) = exchange([10_000, 11_050, 11_080, 10_150]).offset().unwrap();
        assert_eq!((offset, error), (990_000, 60_000));
        assert!(offset.abs_diff(1_000_000) <= error);
        for absurd in [[5, 9, 8, 20], [20, 9, 9, 5], [0, 0, 1_000, 5], [0, 0, u64::MAX, 1]] {
            assert_eq!(exchange(absurd).offset(), None, "{absurd:?}");
        }
        let _ = exchange([0, u64::MAX, u64::MAX, u64::MAX]).offset();
    }

    #[test]
    fn the_better_bound_counts() {
        let mut terms = Terms::default();
        assert_eq!(terms.ours(UnixTime(7)), UnixTime(7));
        terms.learn(&exchange([10_000, 11_050, 11_080, 10_150]));
        let first = terms;
        terms.learn(&exchange([10_000, 11_050, 11_080, 90_150]));
        assert_eq!(terms, first, "a slower exchange says less");
        assert_eq!(terms.ours(UnixTime(2_000)), UnixTime(1_010));
        terms.offset = Some((-500_000, 1));
        assert_eq!(terms.ours(UnixTime(2_000)), UnixTime(2_500));
    }
}
