//! When, in two clocks: time stamps on the messages of a punch, and what follows from them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::UnixTime;
use crate::clock::{Exchange, Offset, OffsetFilter, combine};

/// Time stamps of one message, as those of NTP (RFC 5905, section 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// [`transmit`](Self::transmit) of the last message that was received, as it stood there; 0 for none.
    pub origin: UnixTime,
    /// When that one was received, by the sender's clock; 0 for none.
    pub receive: UnixTime,
    /// When this one was written, by the sender's clock.
    pub transmit: UnixTime,
    /// How far the sender's clock is from the time its NTP servers tell, where it asks any.
    pub served: Option<Offset>,
}

/// What one end of a punch has to go by, besides what they tell each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathTiming {
    /// How far the time that NTP servers tell is ahead of our clock; `None` when none are asked.
    pub served: Option<Offset>,
    /// The delay of the path to the peer, one way; `None` when not known.
    pub delay: Option<Duration>,
}

/// How far the peer's clock is ahead of ours: by the messages of the punch, and by NTP where both ends ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Clocks {
    exchanged: OffsetFilter,
    ours: Option<Offset>,
    theirs: Option<Offset>,
}

impl Clocks {
    pub(super) fn new(served: Option<Offset>) -> Self {
        Self { ours: served, ..Self::default() }
    }

    /// Takes what NTP servers say by now.
    pub(super) fn serve(&mut self, ours: Option<Offset>) {
        self.ours = ours;
    }

    /// A message of theirs came. Its origin is looked at only when it `answers` one of ours.
    pub(super) fn hear(&mut self, stamps: Stamps, answers: bool, arrival: UnixTime, now: Instant) {
        self.theirs = stamps.served.or(self.theirs);
        if answers {
            let exchange = Exchange::new(stamps.origin, stamps.receive, stamps.transmit, arrival);
            if let Err(error) = self.exchanged.add(exchange, now) {
                tracing::debug!(%error, "dropped time stamps");
            }
        }
    }

    /// The best that is known. What NTP says counts only where the exchanges do not contradict it: its servers are
    /// not authenticated.
    pub(super) fn offset(&self, now: Instant) -> Option<Offset> {
        let exchanged = self.exchanged.offset(now);
        let served = self.ours.zip(self.theirs).map(|(ours, theirs)| Offset::between(ours, theirs));
        match (exchanged, served) {
            (Some(exchanged), Some(served)) => Some(combine(&[exchanged, served]).unwrap_or(exchanged)),
            (exchanged, served) => exchanged.or(served),
        }
    }

    /// How wrong [`offset`](Self::offset) can be.
    pub(super) fn error(&self, now: Instant) -> Option<Duration> {
        self.offset(now).map(|offset| offset.error)
    }

    /// A time of theirs in our clock; as it stands when nothing is known of the clocks.
    pub(super) fn ours(&self, theirs: UnixTime, now: Instant) -> UnixTime {
        self.offset(now).map_or(theirs, |offset| offset.ours(theirs))
    }

    /// Half of the fastest way there and back.
    pub(super) fn delay(&self) -> Option<Duration> {
        self.exchanged.rtt().map(|rtt| rtt / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    fn stamps(origin: u64, receive: u64, transmit: u64, served: Option<Offset>) -> Stamps {
        let [origin, receive, transmit] = [origin, receive, transmit].map(UnixTime);
        Stamps { origin, receive, transmit, served }
    }

    /// True time is 2 ms ahead of ours, and 1 ms ahead of theirs.
    const OURS: Offset = Offset::new(2_000_000, Duration::from_micros(3));
    const THEIRS: Offset = Offset::new(1_000_000, Duration::from_micros(4));

    #[test]
    fn exchanges_and_servers_bound_each_other() {
        let mut clocks = Clocks::new(None);
        assert_eq!(clocks.offset(epoch()), None);
        assert_eq!(clocks.ours(UnixTime(7), epoch()), UnixTime(7));
        // They are 1,000 µs ahead; 50 µs there, 70 back, 30 in between.
        clocks.hear(stamps(10_000, 11_050, 11_080, None), true, UnixTime(10_150), epoch());
        let exchanged = clocks.offset(epoch()).unwrap();
        assert!(exchanged.contains(1_000_000) && exchanged.error < Duration::from_micros(63));
        assert_eq!(clocks.delay(), Some(Duration::from_micros(60)));
        // With servers at both ends it is known much better, and what a lying one says is not believed.
        let mut served = Clocks { ours: Some(OURS), ..clocks.clone() };
        served.hear(stamps(0, 0, 11_090, Some(THEIRS)), false, UnixTime(10_160), epoch());
        assert_eq!(served.error(epoch()), Some(Duration::from_micros(7)));
        assert_eq!(served.ours(UnixTime(11_000), epoch()), UnixTime(10_000));
        let lie = Offset::new(9_000_000_000, Duration::ZERO);
        served.hear(stamps(0, 0, 11_090, Some(lie)), false, UnixTime(10_160), epoch());
        assert_eq!(served.offset(epoch()), Some(exchanged));
    }

    #[test]
    fn servers_alone_are_enough_for_the_first_message() {
        let mut clocks = Clocks::new(Some(OURS));
        clocks.hear(stamps(0, 0, 11_000, Some(THEIRS)), false, UnixTime(10_050), epoch());
        assert_eq!(clocks.offset(epoch()), Some(Offset::new(1_000_000, Duration::from_micros(7))));
    }

    #[test]
    fn absurd_stamps_change_nothing() {
        let mut clocks = Clocks::new(Some(Offset::new(i64::MAX, Duration::MAX)));
        let all = Some(Offset::new(i64::MIN, Duration::MAX));
        for [origin, receive, transmit] in [[5, 9, 8], [0, u64::MAX, u64::MAX], [u64::MAX, 0, 0]] {
            clocks.hear(stamps(origin, receive, transmit, all), true, UnixTime(20), epoch());
            let _ = (clocks.ours(UnixTime(u64::MAX), epoch()), clocks.error(epoch()));
        }
        assert_eq!(clocks.delay(), None);
    }
}
