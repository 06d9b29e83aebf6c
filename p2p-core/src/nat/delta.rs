//! The rule by which the next external port follows from the ones before.
//!
//! Every explanation is scored by the probability it gives to the samples. One in twenty samples may be an accident.
//! The best explanation wins, and its share of all is the confidence. The same is tried with each server's answers
//! left out, so that one server that lies about ports does not decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::block;
use super::observe::{Observation, Purpose};
use super::verdict::Known;
use super::{Delta, DeltaKind, Mapping, PortRange};
use crate::Local;

/// One new mapping of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The number of mappings of ours that came before it on the wire, answered or not.
    pub index: u32,
    /// The number of those that were not answered: they may have been lost before they made a mapping.
    pub lost: u32,
    /// The time at which it was made.
    pub at: Instant,
    /// The local port.
    pub local: u16,
    /// The external port.
    pub mapped: u16,
    /// The server that was asked.
    pub server: SocketAddr,
}

/// The mapping that a counting NAT counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The last mapping of all, or of all ours, so every new mapping moves the counter.
    Shared,
    /// The last mapping to the same destination address, so others do not move ours.
    PerDestination,
}

/// The observed mappings of others behind the same NAT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The number of new mappings that were not ours.
    pub others: f64,
    /// The seconds in which they were made; more than 0.
    pub seconds: f64,
}

impl Rate {
    /// Returns the new mappings a second.
    pub fn per_second(&self) -> f64 {
        self.others / self.seconds
    }
}

/// The verdict on a set of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The delta.
    pub delta: Known<Delta>,
    /// The scope of the counter, where the delta is a step.
    pub scope: Option<Known<Scope>>,
    /// The new mappings a second made by others, where a shared counter shows them.
    pub rate: Option<Known<Rate>>,
    /// The block that ports are from, where they are random.
    pub block: Option<Known<PortRange>>,
}

/// The part of the samples that may be accidents: a port that was taken, a packet that overtook another.
const ACCIDENTS: f64 = 0.05;
/// The number of ports that a NAT can choose from, unless a better figure is known.
const PORTS: f64 = 64_512.0;
/// The natural logarithm of the prior probability that a given server lies about ports only.
const LIAR: f64 = -4.0;
/// The new mappings a second expected of others before anything is known.
const USUAL_RATE: f64 = 10.0;
/// The weight of a difference in logarithmic probability, since the models are simpler than routers.
const TEMPER: f64 = 0.5;

/// Returns the mappings that were made, from observations of one transport in the order of the wire. A question that
/// made no mapping of its own, by the rule of `mapping`, is left out. So is one without a certain place in the order.
pub fn samples<'a>(
    observations: impl Iterator<Item = &'a Observation>,
    mapping: Mapping,
    is_trusted: impl Fn(SocketAddr) -> bool,
) -> Vec<Sample> {
    let mut made: BTreeSet<(Local, Option<SocketAddr>)> = BTreeSet::new();
    let mut samples = Vec::new();
    let (mut index, mut lost) = (0, 0);
    let mut used = BTreeSet::new();
    for seen in observations {
        let towards = match mapping {
            Mapping::EndpointIndependent => None,
            Mapping::AddressDependent => Some(SocketAddr::new(seen.server.ip(), 0)),
            Mapping::AddressAndPortDependent => Some(seen.server),
        };
        if seen.sends == 0 || !made.insert((seen.local, towards)) {
            continue;
        }
        // The NAT may treat the second destination of a local port differently, as the port it would choose may be
        // taken.
        let is_sample = used.insert(seen.local) && seen.sends == 1 && seen.purpose != Purpose::Filtering;
        if let Some(mapped) = seen.port().filter(|_| is_sample && is_trusted(seen.server)) {
            let local = seen.local.0.port();
            samples.push(Sample { index, lost, at: seen.sent, local, mapped, server: seen.server });
        }
        index += 1;
        lost += u32::from(seen.seen.is_none());
    }
    samples
}

/// One explanation of the samples.
#[derive(Clone, Copy, Debug)]
struct Explanation {
    delta: Delta,
    scope: Option<Scope>,
    score: f64,
}

/// Returns the verdict on the samples, or `None` when there are fewer than two.
pub fn judge(samples: &[Sample]) -> Option<Verdict> {
    if samples.len() < 2 {
        return None;
    }
    let servers: BTreeSet<IpAddr> = samples.iter().map(|sample| sample.server.ip()).collect();
    let mut all = Vec::new();
    let mut best: Option<(Explanation, Option<IpAddr>)> = None;
    let doubts = servers.iter().copied().map(Some).filter(|_| servers.len() >= 2);
    for doubted in std::iter::once(None).chain(doubts) {
        let believed: Vec<_> =
            samples.iter().filter(|sample| Some(sample.server.ip()) != doubted).copied().collect();
        let lies = (samples.len() - believed.len()) as f64;
        let handicap = if doubted.is_some() { LIAR - lies * PORTS.ln() } else { 0.0 };
        for mut explanation in explanations(&believed) {
            explanation.score += handicap;
            if best.is_none_or(|(best, _)| explanation.score > best.score) {
                best = Some((explanation, doubted));
            }
            all.push(explanation);
        }
    }
    let (best, doubted) = best?;
    let share = |is_same: &dyn Fn(&Explanation) -> bool| {
        let mut by_meaning: BTreeMap<(Delta, Option<Scope>), f64> = BTreeMap::new();
        for other in &all {
            let top = by_meaning.entry((other.delta, other.scope)).or_insert(f64::NEG_INFINITY);
            *top = top.max(other.score);
        }
        let weight = |score: f64| ((score - best.score) * TEMPER).exp();
        let (mut same, mut whole) = (0.0, 0.0);
        for ((delta, scope), score) in by_meaning {
            let weight = weight(score);
            whole += weight;
            if is_same(&Explanation { delta, scope, score }) {
                same += weight;
            }
        }
        same / whole
    };
    let believed: Vec<_> =
        samples.iter().filter(|sample| Some(sample.server.ip()) != doubted).copied().collect();
    let delta = Known::measured(best.delta, share(&|other| other.delta == best.delta));
    let scope = best.scope.map(|scope| Known::measured(scope, share(&|other| other.scope == Some(scope))));
    let rate = (best.scope == Some(Scope::Shared)).then(|| rate(&believed, best.delta.value)).flatten();
    let block = (best.delta.kind == DeltaKind::Random).then(|| block::infer(&ports(&believed))).flatten();
    Some(Verdict { delta, scope, rate, block })
}

fn ports(samples: &[Sample]) -> Vec<u16> {
    samples.iter().map(|sample| sample.mapped).collect()
}

fn explanations(samples: &[Sample]) -> Vec<Explanation> {
    let count = samples.len() as f64;
    let of = |kind, value, scope, score| Explanation { delta: Delta { kind, value }, scope, score };
    let mut all = Vec::new();
    let anywhere = -count * PORTS.ln();
    let inside = block::infer(&ports(samples)).map_or(f64::NEG_INFINITY, |block| {
        let size = f64::from(block.value.size());
        -count * size.ln() - (PORTS / size).ln() - 3.0
    });
    all.push(of(DeltaKind::Random, 0, None, anywhere.max(inside) - 1.0));
    let hit = |is_hit: bool| (f64::from(u8::from(is_hit)) * (1.0 - ACCIDENTS) + ACCIDENTS / PORTS).ln();
    let offsets: BTreeSet<i32> = samples.iter().map(offset).chain([0]).collect();
    for by in offsets {
        let score: f64 = samples.iter().map(|sample| hit(offset(sample) == by)).sum();
        let kind = if by == 0 { DeltaKind::Equal } else { DeltaKind::Preserving };
        let cost = if by == 0 { 0.0 } else { PORTS.ln() };
        if let Ok(value) = i16::try_from(by) {
            all.push(of(kind, value, None, score - cost));
        } else {
            // The offset is too large for a value. Modulo 65,536 it still says which port comes next.
            all.push(of(kind, wrapped(by), None, score - cost));
        }
    }
    for (scope, lines) in [(Scope::Shared, shared(samples)), (Scope::PerDestination, split(samples))] {
        let starts = -(lines.len() as f64) * PORTS.ln();
        for by in steps(&lines) {
            let score: f64 =
                lines.iter().flat_map(|line| line.windows(2)).map(|pair| stepped(pair, by, scope)).sum();
            all.push(of(DeltaKind::Independent, by, Some(scope), starts + score - cost(by)));
        }
        if scope == Scope::Shared {
            for by in steps(&lines) {
                let pairs = lines.iter().flat_map(|line| line.windows(2));
                let score: f64 = pairs.map(|pair| followed(pair, by, hit)).sum();
                all.push(of(DeltaKind::Dependent, by, None, starts + score - cost(by)));
            }
        }
    }
    all
}

fn offset(sample: &Sample) -> i32 {
    i32::from(sample.mapped) - i32::from(sample.local)
}

/// Returns the offset that the 16 bits of a port cannot tell from `by`.
fn wrapped(by: i32) -> i16 {
    (by as u16).cast_signed()
}

fn shared(samples: &[Sample]) -> Vec<Vec<Sample>> {
    vec![samples.to_vec()]
}

fn split(samples: &[Sample]) -> Vec<Vec<Sample>> {
    let mut lines: BTreeMap<IpAddr, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        lines.entry(sample.server.ip()).or_default().push(*sample);
    }
    lines.into_values().collect()
}

/// Returns the prior cost of a step. Large steps are less probable.
fn cost(by: i16) -> f64 {
    2.0 + 1.5 * f64::from(by.unsigned_abs()).ln()
}

/// Returns the steps worth trying: each difference that was seen, and that divided by the mappings in between.
fn steps(lines: &[Vec<Sample>]) -> BTreeSet<i16> {
    let mut steps = BTreeSet::new();
    for pair in lines.iter().flat_map(|line| line.windows(2)) {
        let by = i32::from(pair[1].mapped) - i32::from(pair[0].mapped);
        let between = i32::try_from(pair[1].index.saturating_sub(pair[0].index)).unwrap_or(i32::MAX).max(1);
        for by in [by, by / between] {
            if by != 0
                && let Ok(by) = i16::try_from(by)
            {
                steps.insert(by);
            }
        }
    }
    steps
}

/// Returns the number of others' mappings that a counter with step `by` shows between two of ours.
fn others(pair: &[Sample], by: i16, scope: Scope) -> Option<u32> {
    let moved = i32::from(pair[1].mapped) - i32::from(pair[0].mapped);
    let by = i32::from(by);
    if moved % by != 0 {
        return None;
    }
    let (ours, lost) = match scope {
        Scope::Shared => {
            (pair[1].index.saturating_sub(pair[0].index), pair[1].lost.saturating_sub(pair[0].lost))
        }
        Scope::PerDestination => (1, 0),
    };
    let made = u32::try_from(moved / by).ok()?;
    (made >= ours.saturating_sub(lost)).then(|| made.saturating_sub(ours))
}

fn stepped(pair: &[Sample], by: i16, scope: Scope) -> f64 {
    let between = pair[1].at.saturating_duration_since(pair[0].at).as_secs_f64();
    let mean = 0.02 + USUAL_RATE * between;
    // The distribution is geometric: its tail is long, as the rate is not known.
    let of_others = |count: u32| f64::from(count) * (mean / (1.0 + mean)).ln() - (1.0 + mean).ln();
    let model = others(pair, by, scope).map_or(0.0, |count| of_others(count).exp());
    ((1.0 - ACCIDENTS) * model + ACCIDENTS / PORTS).ln()
}

/// Returns the score of a pair for a step that is made only while the local port moves by one.
fn followed(pair: &[Sample], by: i16, hit: impl Fn(bool) -> f64) -> f64 {
    let ours = i64::from(pair[1].index) - i64::from(pair[0].index);
    if i64::from(pair[1].local) - i64::from(pair[0].local) != ours {
        return -PORTS.ln();
    }
    let moved = i64::from(pair[1].mapped) - i64::from(pair[0].mapped);
    hit(moved == i64::from(by) * ours)
}

/// Returns the mappings that others add to a shared counter each second.
fn rate(samples: &[Sample], by: i16) -> Option<Known<Rate>> {
    let mut rate = Rate { others: 0.0, seconds: 0.0 };
    for pair in samples.windows(2) {
        if let Some(others) = others(pair, by, Scope::Shared) {
            rate.others += f64::from(others);
            rate.seconds += pair[1].at.saturating_duration_since(pair[0].at).as_secs_f64();
        }
    }
    if rate.seconds <= 0.0 {
        return None;
    }
    // A rate counts as right when it is off by a half at most, or by three a second.
    let leeway = (rate.per_second() / 2.0).max(3.0);
    let deviation = (rate.others + 1.0).sqrt() / rate.seconds;
    Some(Known::measured(rate, 1.0 - (-leeway / deviation).exp()))
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
