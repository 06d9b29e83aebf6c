//! How long a round trip takes (RFC 9002, section 5; RFC 6298).

use std::time::Duration;

/// What a clock may be off by (RFC 9002, section 6.1.2).
pub(super) const GRANULARITY: Duration = Duration::from_millis(1);

/// The estimate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    is_measured: bool,
    latest: Duration,
    smoothed: Duration,
    variation: Duration,
    least: Duration,
}

impl Rtt {
    /// Nothing is measured yet; `guess` stands for it (RFC 9002, section 6.2.2).
    pub(super) fn new(guess: Duration) -> Self {
        Self { is_measured: false, latest: guess, smoothed: guess, variation: guess / 2, least: guess }
    }

    /// A datagram was acknowledged after `sample`, of which the peer says that it held the ack back for `held`.
    pub(super) fn update(&mut self, sample: Duration, held: Duration) {
        self.latest = sample;
        if !self.is_measured {
            *self = Self {
                is_measured: true,
                latest: sample,
                smoothed: sample,
                variation: sample / 2,
                least: sample,
            };
            return;
        }
        self.least = self.least.min(sample);
        let adjusted = if sample >= self.least + held { sample - held } else { sample };
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (self.smoothed * 7 + adjusted) / 8;
    }

    pub(super) fn is_measured(&self) -> bool {
        self.is_measured
    }

    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// The longer of the last and the usual one: later than this and a datagram is late.
    pub(super) fn longest(&self) -> Duration {
        self.latest.max(self.smoothed)
    }

    /// The retransmission timeout of a peer that holds acks back for `held` at most (RFC 9002, section 6.2.1).
    pub(super) fn timeout(&self, held: Duration) -> Duration {
        self.smoothed + (self.variation * 4).max(GRANULARITY) + held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_first_sample_replaces_the_guess() {
        let mut rtt = Rtt::new(ms(300));
        assert_eq!((rtt.timeout(ms(25)), rtt.is_measured()), (ms(925), false));
        rtt.update(ms(40), ms(0));
        assert_eq!((rtt.smoothed(), rtt.timeout(ms(25))), (ms(40), ms(145)));
    }

    #[test]
    fn what_the_peer_held_back_does_not_count_but_never_goes_below_the_least() {
        let mut rtt = Rtt::new(ms(300));
        rtt.update(ms(40), ms(0));
        rtt.update(ms(64), ms(24));
        assert_eq!(rtt.smoothed(), ms(40));
        rtt.update(ms(48), ms(24));
        assert_eq!(rtt.smoothed(), ms(41), "it cannot have held it for 24 ms");
        assert_eq!(rtt.longest(), ms(48));
        for _ in 0..200 {
            rtt.update(ms(40), ms(0));
        }
        assert!(rtt.timeout(ms(0)) < ms(43), "steady: {:?}", rtt.timeout(ms(0)));
    }
}
