//! One direction of a link, which decides whether and when a packet arrives.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::span;
use crate::Seed;

/// The properties of a link. The default is perfect and takes no time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// The one-way delay of a packet that meets no queue.
    #[serde(with = "span")]
    pub latency: Duration,
    /// The most that chance adds to the latency. Packets stay in order unless [`reorder`](Self::reorder) says
    /// otherwise.
    #[serde(with = "span")]
    pub jitter: Duration,
    /// The probability that a packet is lost, 0.0 … 1.0.
    pub loss: f64,
    /// The probability that a packet arrives twice, 0.0 … 1.0.
    pub duplicate: f64,
    /// The probability that later packets may overtake this one, 0.0 … 1.0.
    pub reorder: f64,
    /// The time that such a packet takes longer.
    #[serde(with = "span")]
    pub reorder_by: Duration,
    /// The bits a second; `None` for no limit.
    pub rate: Option<u64>,
    /// The most bytes that may wait for their turn; without effect when there is no rate.
    pub queue: usize,
    /// Bytes of the largest packet, IP header included: larger ones are swallowed without a word. `None` for any.
    pub mtu: Option<usize>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(10),
            rate: None,
            queue: 256 * 1024,
            mtu: None,
        }
    }
}

impl LinkConfig {
    /// Returns a perfect link of this one-way delay.
    pub fn with_latency(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }
}

/// A reason why a link cannot be so.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum LinkConfigError {
    /// A probability is outside 0.0 … 1.0.
    #[error("the link's {which} is {value}, but a probability lies between 0 and 1")]
    Probability {
        /// The name of the field.
        which: &'static str,
        /// The value of the field.
        value: f64,
    },
    /// The rate is zero, so nothing would ever arrive.
    #[error("the link's rate is zero: leave it out for no limit")]
    RateZero,
    /// The queue is too short for one packet, so every packet would be dropped.
    #[error("the link's queue is {0} bytes: it must hold one packet, at least 1500 bytes")]
    QueueTooShort(usize),
}

/// The reason why a link lost a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum LinkDrop {
    /// The packet was lost by chance.
    #[error("lost on the link")]
    Lost,
    /// The queue before the link is full.
    #[error("the link's queue is full")]
    QueueFull,
    /// It is larger than [`LinkConfig::mtu`].
    #[error("too big for the link")]
    TooBig,
}

/// The fate of a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The packet never arrives.
    Never(LinkDrop),
    /// The packet arrives at this time.
    Once(Instant),
    /// The packet arrives at these two times.
    Twice(Instant, Instant),
}

impl Sent {
    /// Returns the times of arrival.
    pub fn arrivals(self) -> impl Iterator<Item = Instant> {
        let (first, second) = match self {
            Self::Never(_) => (None, None),
            Self::Once(at) => (Some(at), None),
            Self::Twice(first, second) => (Some(first), Some(second)),
        };
        first.into_iter().chain(second)
    }
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    config: LinkConfig,
    seed: Seed,
    /// The time at which the last byte accepted so far leaves the sender.
    idle_at: Option<Instant>,
    /// The time at which the last packet that keeps its place arrives.
    last_arrival: Option<Instant>,
}

impl Link {
    /// Makes a link with nothing on it.
    ///
    /// # Errors
    /// [`LinkConfigError`] when the configuration is impossible.
    pub fn new(config: LinkConfig, seed: Seed) -> Result<Self, LinkConfigError> {
        for (which, value) in
            [("loss", config.loss), ("duplicate", config.duplicate), ("reorder", config.reorder)]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(LinkConfigError::Probability { which, value });
            }
        }
        if config.rate == Some(0) {
            return Err(LinkConfigError::RateZero);
        }
        if config.rate.is_some() && config.queue < 1_500 {
            return Err(LinkConfigError::QueueTooShort(config.queue));
        }
        Ok(Self { config, seed, idle_at: None, last_arrival: None })
    }

    /// Returns the configuration of this link.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Sends `len` bytes (IP header included) at `now`, and returns their fate.
    pub fn send(&mut self, len: usize, now: Instant) -> Sent {
        let config = self.config;
        if config.mtu.is_some_and(|mtu| len > mtu) {
            return Sent::Never(LinkDrop::TooBig);
        }
        let leaves = match config.rate {
            None => now,
            Some(rate) => {
                let free = self.idle_at.map_or(now, |idle| idle.max(now));
                let waiting = (free - now).as_secs_f64() * rate as f64 / 8.0;
                if waiting + len as f64 > config.queue as f64 {
                    return Sent::Never(LinkDrop::QueueFull);
                }
                let leaves = free + Duration::from_secs_f64(len as f64 * 8.0 / rate as f64);
                self.idle_at = Some(leaves);
                leaves
            }
        };
        if config.loss > 0.0 && self.seed.chance(config.loss) {
            return Sent::Never(LinkDrop::Lost);
        }
        let first = self.arrival(leaves);
        if config.duplicate > 0.0 && self.seed.chance(config.duplicate) {
            return Sent::Twice(first, self.arrival(leaves));
        }
        Sent::Once(first)
    }

    fn arrival(&mut self, leaves: Instant) -> Instant {
        let config = self.config;
        let mut at = leaves + config.latency;
        if !config.jitter.is_zero() {
            at += self.seed.up_to(config.jitter);
        }
        if config.reorder > 0.0 && self.seed.chance(config.reorder) {
            return at + config.reorder_by;
        }
        let at = self.last_arrival.map_or(at, |last| last.max(at));
        self.last_arrival = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    fn link(config: LinkConfig) -> Link {
        Link::new(config, Seed::from_u64(1)).unwrap()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_perfect_link_only_delays() {
        let mut link = link(LinkConfig::with_latency(ms(50)));
        assert_eq!(link.send(40, epoch()), Sent::Once(epoch() + ms(50)));
    }

    #[test]
    fn a_rate_makes_packets_queue_until_the_queue_is_full() {
        let mut link =
            link(LinkConfig { rate: Some(8_000_000), queue: 3_000, ..LinkConfig::with_latency(ms(10)) });
        assert_eq!(link.send(1_000, epoch()), Sent::Once(epoch() + ms(11)));
        assert_eq!(link.send(1_000, epoch()), Sent::Once(epoch() + ms(12)));
        assert_eq!(link.send(1_000, epoch()), Sent::Once(epoch() + ms(13)));
        assert_eq!(link.send(1_000, epoch()), Sent::Never(LinkDrop::QueueFull));
        assert_eq!(link.send(1_000, epoch() + ms(1)), Sent::Once(epoch() + ms(14)));
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_breaks_it() {
        let arrivals = |reorder| {
            let mut link = link(LinkConfig { jitter: ms(20), reorder, ..LinkConfig::with_latency(ms(50)) });
            (0..1_000)
                .flat_map(|packet| link.send(100, epoch() + ms(packet)).arrivals().collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        assert!(arrivals(0.0).is_sorted());
        assert!(!arrivals(0.1).is_sorted());
    }

    #[test]
    fn loss_and_duplication_happen_as_often_as_they_should() {
        let mut link = link(LinkConfig { loss: 0.1, duplicate: 0.2, ..LinkConfig::default() });
        let (mut lost, mut twice) = (0, 0);
        for _ in 0..10_000 {
            match link.send(100, epoch()) {
                Sent::Never(LinkDrop::Lost) => lost += 1,
                Sent::Twice(..) => twice += 1,
                Sent::Once(_) => (),
                Sent::Never(LinkDrop::QueueFull | LinkDrop::TooBig) => panic!("there is no bound"),
            }
        }
        // The bounds are five standard deviations on either side.
        assert!((850..=1_150).contains(&lost), "{lost}");
        assert!((1_600..=2_000).contains(&twice), "{twice}");
    }

    #[test]
    fn an_impossible_link_is_refused() {
        let refused = |config| Link::new(config, Seed::from_u64(1)).unwrap_err();
        let perfect = LinkConfig::default();
        assert!(matches!(
            refused(LinkConfig { loss: 1.1, ..perfect }),
            LinkConfigError::Probability { which: "loss", .. }
        ));
        assert!(matches!(
            refused(LinkConfig { reorder: f64::NAN, ..perfect }),
            LinkConfigError::Probability { which: "reorder", .. }
        ));
        assert_eq!(refused(LinkConfig { rate: Some(0), ..perfect }), LinkConfigError::RateZero);
        assert_eq!(
            refused(LinkConfig { rate: Some(1), queue: 10, ..perfect }),
            LinkConfigError::QueueTooShort(10)
        );
    }
}
