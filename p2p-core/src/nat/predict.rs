//! Which external port the next mapping gets: the best guesses first, and how many it takes.

use std::collections::BTreeMap;
use std::time::Instant;

use super::delta::Rate;
use super::forecast::{self, PortRule};
use super::{DeltaKind, Mapping, NatFacts, PortRange};

/// Ports offered one by one at most.
pub const MOST_PORTS: usize = 1_024;
/// No more others than this are reckoned with.
const MOST_OTHERS: f64 = 1e6;

/// A mapping that was seen: the newest one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it was made.
    pub at: Instant,
    /// Its local port.
    pub local: u16,
    /// Its external port.
    pub mapped: u16,
}

/// The mapping to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// When.
    pub at: Instant,
    /// From which local port.
    pub local: u16,
    /// How many mappings of ours will have been made since the last one seen, this one included: at least 1.
    pub ours: u16,
}

/// Where the next mapping is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Ports and their probabilities, best first; at most [`MOST_PORTS`].
    offers: Vec<(u16, f64)>,
    /// Where the port is when it is none of those: anywhere in here.
    pool: PortRange,
}

impl Prediction {
    fn certain(port: u16, pool: PortRange) -> Self {
        Self { offers: vec![(port, 1.0)], pool }
    }

    fn hopeless(pool: PortRange) -> Self {
        Self { offers: Vec::new(), pool }
    }

    /// The ports worth trying one by one, best first; none when all are alike.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.offers.iter().map(|(port, _)| *port)
    }

    /// All ports it can be.
    pub fn pool(&self) -> PortRange {
        self.pool
    }

    /// Whether no port is better than any other, so that only numbers help; see [`birthday`].
    pub fn is_random(&self) -> bool {
        self.offers.is_empty()
    }

    /// How probably the next port is among the first `count` (0.0 … 1.0), if the facts are right. Beyond the
    /// ports that are offered, others of the pool are counted.
    pub fn probability(&self, count: usize) -> f64 {
        let offered: f64 = self.offers.iter().take(count).map(|(_, probability)| probability).sum();
        let all: f64 = self.offers.iter().map(|(_, probability)| probability).sum();
        let blind = count.saturating_sub(self.offers.len()) as f64 / f64::from(self.pool.size());
        (offered + (1.0 - all).max(0.0) * blind).min(1.0)
    }

    /// The fewest ports that hold the next one with this probability (0.0 … 1.0); `None` when it takes more
    /// than [`MOST_PORTS`].
    ///
    /// Where all ports are alike it is the number that **each** side needs for a birthday against a mapping
    /// that does not change with the destination.
    pub fn needed(&self, probability: f64) -> Option<usize> {
        if self.is_random() {
            return birthday_needed(self.pool.size(), probability).filter(|count| *count <= MOST_PORTS);
        }
        // A sum of probabilities that should be 1 may be a hair less.
        (1..=self.offers.len()).find(|count| self.probability(*count) >= probability - 1e-9)
    }
}

/// Where the next mapping is expected, from what is known of the NAT (over the transport that will be used)
/// and the newest mapping of ours, if there is one.
///
/// | delta | ports |
/// |---|---|
/// | any, but the local port has a mapping that does not change | that one |
/// | equal, preserving | one; two where a preserved port would leave the pool |
/// | independent | last + step × (ours + others), where others are Poisson with the NAT's rate |
/// | dependent | one, while the local port moved by one for each of ours; it fails if others came between |
/// | random | none: the pool is the block or the range |
pub fn predict(facts: &NatFacts, last: Option<Last>, next: Next) -> Prediction {
    let seconds = last.map_or(0.0, |last| elapsed(&last, &next));
    let mean = f64::from(facts.rate.unwrap_or(0)) * seconds;
    predict_among(facts, last, next, Others::Poisson { mean: mean.min(MOST_OTHERS) })
}

/// As [`predict`], with what was seen of others instead of a rate that is taken for granted: where little was
/// seen, the window is wider and promises less.
pub fn predict_measured(facts: &NatFacts, rate: Rate, last: Option<Last>, next: Next) -> Prediction {
    let seconds = last.map_or(0.0, |last| elapsed(&last, &next));
    // What Jeffreys' prior, of half an event, and the events make of the rate is a gamma distribution; the
    // others to come are then negative binomial.
    let shape = rate.others.clamp(0.0, MOST_OTHERS) + 0.5;
    let part = seconds / (seconds + rate.seconds.max(1e-3));
    predict_among(facts, last, next, Others::Gamma { shape, part })
}

/// How many others come between.
#[derive(Clone, Copy)]
enum Others {
    Poisson {
        mean: f64,
    },
    /// Negative binomial: `part` is the share of the time to come in all the time there is.
    Gamma {
        shape: f64,
        part: f64,
    },
}

impl Others {
    fn mean(self) -> f64 {
        match self {
            Self::Poisson { mean } => mean,
            Self::Gamma { shape, part } => shape * part / (1.0 - part),
        }
    }

    /// The logarithm of the probability that there are none.
    fn none(self) -> f64 {
        match self {
            Self::Poisson { mean } => -mean,
            Self::Gamma { shape, part } => shape * (1.0 - part).ln(),
        }
    }

    /// How much more probable `count` + 1 is than `count`.
    fn ratio(self, count: f64) -> f64 {
        match self {
            Self::Poisson { mean } => mean / (count + 1.0),
            Self::Gamma { shape, part } => part * (count + shape) / (count + 1.0),
        }
    }
}

fn predict_among(facts: &NatFacts, last: Option<Last>, next: Next, others: Others) -> Prediction {
    let pool = forecast::pool(facts);
    let kept =
        last.filter(|last| facts.mapping == Some(Mapping::EndpointIndependent) && last.local == next.local);
    if let Some(last) = kept {
        return Prediction::certain(last.mapped, pool);
    }
    let is_kept = facts.delta.is_some_and(|delta| delta.kind == DeltaKind::Equal);
    match (PortRule::of(facts), last) {
        (PortRule::Moved { .. }, _) if is_kept && !pool.contains(next.local) => Prediction::hopeless(pool),
        (PortRule::Moved { by }, _) => moved(next.local, by, pool),
        (PortRule::Counter { step, is_dependent: false }, Some(last)) => {
            let port = |others: i64| {
                pool.wrap(i64::from(last.mapped) + i64::from(step) * (i64::from(next.ours) + others))
            };
            Prediction { offers: window(others, port), pool }
        }
        (PortRule::Counter { step, is_dependent: true }, Some(last))
            if i32::from(next.local) - i32::from(last.local) == i32::from(next.ours) =>
        {
            let port = pool.wrap(i64::from(last.mapped) + i64::from(step) * i64::from(next.ours));
            let alone = others.none().exp();
            Prediction { offers: vec![(port, alone)], pool }
        }
        (PortRule::Counter { .. } | PortRule::Random, _) => Prediction::hopeless(pool),
    }
}

/// The local port moved by a constant. Beyond the pool nobody knows whether the NAT starts the pool again or has
/// a constant that 16 bits hold only modulo 65,536.
fn moved(local: u16, by: i16, pool: PortRange) -> Prediction {
    let moved = i64::from(local) + i64::from(by);
    let (around, modulo) = (pool.wrap(moved), local.wrapping_add_signed(by));
    if around == modulo || !pool.contains(modulo) {
        return Prediction::certain(around, pool);
    }
    Prediction { offers: vec![(modulo, 0.5), (around, 0.5)], pool }
}

fn elapsed(last: &Last, next: &Next) -> f64 {
    next.at.saturating_duration_since(last.at).as_secs_f64()
}

/// The ports for as many others as are probable, at least `mean + 3 √mean` of them, best first.
fn window(others: Others, port: impl Fn(i64) -> u16) -> Vec<(u16, f64)> {
    let mean = others.mean();
    let wide = forecast::likely(mean);
    let mut offers: BTreeMap<u16, f64> = BTreeMap::new();
    let mut logarithm = others.none();
    let mut covered = 0.0;
    for count in 0..100_000_u32 {
        let probability = logarithm.exp();
        *offers.entry(port(i64::from(count))).or_default() += probability;
        covered += probability;
        if mean <= 0.0 || (f64::from(count) >= wide && covered >= 0.999) {
            break;
        }
        logarithm += others.ratio(f64::from(count)).ln();
    }
    let mut offers: Vec<_> = offers.into_iter().collect();
    offers.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    offers.truncate(MOST_PORTS);
    offers
}

/// How probably one of `theirs` random ports is one of `ours` guesses, out of a pool of `pool` ports:
/// 1 − e^(−ours · theirs / pool).
pub fn birthday(ours: u32, theirs: u32, pool: u32) -> f64 {
    1.0 - (-(f64::from(ours) * f64::from(theirs)) / f64::from(pool.max(1))).exp()
}

/// How many ports each side needs for this probability (0.0 … 1.0); `None` for a probability of 1.
pub fn birthday_needed(pool: u32, probability: f64) -> Option<usize> {
    if !(0.0..1.0).contains(&probability) {
        return None;
    }
    let product = -(1.0 - probability).ln() * f64::from(pool);
    Some(product.sqrt().ceil().max(1.0) as usize)
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
