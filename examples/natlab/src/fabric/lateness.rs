//! The lateness of packets, by which a timing is trusted or thrown away.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// The number of steps within each doubling, so figures are exact to 1/16.
const STEPS: u32 = 16;
const BUCKETS: usize = (STEPS * 40) as usize;

/// A record of unwanted delays, exact to about 6 %.
#[derive(Clone, PartialEq, Eq)]
pub struct Lateness {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }
}

impl Lateness {
    /// Adds one delay to the record.
    pub fn record(&mut self, late: Duration) {
        let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(late);
    }

    /// Returns the number of delays recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the delay that this share of all (0.0 … 1.0) stays within, and zero when there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, number) in self.buckets.iter().enumerate() {
            seen += number;
            if seen >= wanted {
                return Duration::from_nanos(top(index)).min(self.max);
            }
        }
        self.max
    }

    /// Returns the longest delay.
    pub fn max(&self) -> Duration {
        self.max
    }
}

/// Returns the bucket of a number of nanoseconds: its highest bit, and the four bits below that.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(u64::from(STEPS));
    let octave = nanos.ilog2() - STEPS.ilog2();
    let step = (nanos >> octave) as u32 - STEPS;
    ((octave * STEPS + step) as usize).min(BUCKETS - 1)
}

/// Returns the largest number in a bucket.
fn top(index: usize) -> u64 {
    let (octave, step) = (index as u32 / STEPS, index as u32 % STEPS);
    (u64::from(STEPS + step + 1) << octave) - 1
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |span: Duration| span.as_secs_f64() * 1e6;
        write!(
            f,
            "{} packets, late by {:.0} µs (p50), {:.0} µs (p99), {:.0} µs (max)",
            self.count,
            micros(self.quantile(0.5)),
            micros(self.quantile(0.99)),
            micros(self.max)
        )
    }
}

impl fmt::Debug for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Lateness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut record = serializer.serialize_struct("Lateness", 4)?;
        let micros = |span: Duration| span.as_nanos() as f64 / 1e3;
        record.serialize_field("packets", &self.count)?;
        record.serialize_field("p50_us", &micros(self.quantile(0.5)))?;
        record.serialize_field("p99_us", &micros(self.quantile(0.99)))?;
        record.serialize_field("max_us", &micros(self.max))?;
        record.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let mut lateness = Lateness::default();
        for micros in 1..=1_000 {
            lateness.record(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = lateness.quantile(share).as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 1.0 / 16.0, "{share}: {found}");
        }
        assert_eq!(lateness.max(), Duration::from_millis(1));
        assert_eq!(lateness.count(), 1_000);
    }

    #[test]
    fn the_ends_are_safe() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.quantile(0.5), Duration::ZERO);
        lateness.record(Duration::ZERO);
        lateness.record(Duration::MAX);
        assert_eq!(lateness.quantile(0.5), Duration::from_nanos(16));
        assert_eq!(lateness.max(), Duration::MAX);
    }

    #[test]
    fn every_number_is_in_its_bucket() {
        for nanos in [16, 17, 31, 32, 33, 1_000, 123_456_789] {
            let index = bucket(nanos);
            assert!(top(index) >= nanos && (index == 0 || top(index - 1) < nanos), "{nanos}");
        }
    }
}
