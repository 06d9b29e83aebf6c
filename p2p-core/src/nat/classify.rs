//! The judgement of evidence: the tests of RFC 5780, counted over several servers, then the seven types.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::delta::{self, Rate, Scope};
use super::observe::{Evidence, FilterOutcome, Observation, Purpose, Stranger};
use super::verdict::{How, Known};
use super::vote::Vote;
use super::{Delta, DeltaKind, Filtering, Mapping, NatFacts, NatType, PortRange, SynAnswer, block};
use crate::addr::is_same_address;
use crate::stun::Transport;
use crate::stun::dial_back::SynOutcome;

/// The known properties of a NAT for one transport, with their origins. `None` is "not known", never "no".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// The type, in the words of the original P2PD.
    pub nat: Option<Known<NatType>>,
    /// True when addresses or ports are translated.
    pub translates: Option<Known<bool>>,
    /// The mapping behaviour.
    pub mapping: Option<Known<Mapping>>,
    /// The filtering behaviour.
    pub filtering: Option<Known<Filtering>>,
    /// The rule by which mapped ports follow each other.
    pub delta: Option<Known<Delta>>,
    /// The scope of the counter, where the delta is a step.
    pub scope: Option<Known<Scope>>,
    /// The answer to an unsolicited SYN.
    pub syn: Option<Known<SynAnswer>>,
    /// True when a mapped address works from the inside.
    pub hairpin: Option<Known<bool>>,
    /// True when a mapping stays the same while it is used.
    pub stable: Option<Known<bool>>,
    /// The range of ports this NAT gives out, as far as random ones show it.
    pub range: Option<Known<PortRange>>,
    /// The block of ports this host was given.
    pub block: Option<Known<PortRange>>,
    /// The new mappings a second made by others.
    pub rate: Option<Known<Rate>>,
}

/// The confidence below which a verdict is not published.
const PUBLISHED: f64 = 0.5;

impl Verdicts {
    /// Returns the facts worth telling a peer: those that are more probable than not.
    pub fn facts(&self) -> NatFacts {
        fn sure<T: Copy>(known: Option<Known<T>>) -> Option<T> {
            known.filter(|known| known.confidence >= PUBLISHED).map(|known| known.value)
        }
        NatFacts {
            nat: sure(self.nat),
            delta: sure(self.delta),
            mapping: sure(self.mapping),
            filtering: sure(self.filtering),
            syn: sure(self.syn),
            hairpin: sure(self.hairpin),
            range: sure(self.range),
            block: sure(self.block),
            // The rate is a guess from few events, but a better one than none.
            rate: self
                .rate
                .map(|rate| rate.value.per_second().round().clamp(0.0, f64::from(u16::MAX)) as u16),
        }
    }
}

/// Returns the verdicts over one transport. When only the other transport was answered, this one is blocked.
pub fn judge(evidence: &Evidence, vote: &Vote, transport: Transport) -> Verdicts {
    let seen = || evidence.over(transport).filter(|seen| vote.is_trusted(seen.server));
    let Some(translates) = translates(seen()) else {
        return silent(evidence, transport);
    };
    let mut verdicts = Verdicts { translates: Some(translates), ..Verdicts::default() };
    verdicts.stable = stable(seen());
    verdicts.filtering = filtering(evidence, transport);
    verdicts.syn = syn(evidence).filter(|_| transport == Transport::Tcp);
    let hairpin = evidence.hairpins.iter().find(|test| test.transport == transport);
    verdicts.hairpin = hairpin.map(|test| Known::measured(test.passed, if test.passed { 0.99 } else { 0.9 }));
    if translates.value {
        let mapping = mapping(seen());
        verdicts.mapping = Some(mapping);
        let samples =
            delta::samples(evidence.over(transport), mapping.value, |server| vote.is_trusted(server));
        if let Some(judged) = delta::judge(&samples) {
            verdicts.delta = Some(judged.delta);
            verdicts.scope = judged.scope;
            verdicts.rate = judged.rate;
            verdicts.block = judged.block;
            if judged.delta.value.kind == DeltaKind::Random && judged.block.is_none() {
                let ports: Vec<_> = samples.iter().map(|sample| sample.mapped).collect();
                verdicts.range = block::range(&ports);
            }
        }
    } else {
        verdicts.mapping = Some(translates.and(Mapping::EndpointIndependent, 1.0, How::Inferred));
        let equal = Delta { kind: DeltaKind::Equal, value: 0 };
        verdicts.delta = Some(translates.and(equal, 1.0, How::Inferred));
    }
    verdicts.nat = Some(name(&verdicts, translates));
    verdicts
}

/// Fills in unknown verdicts of one transport from the other, since most NATs treat both alike.
pub fn borrow(verdicts: &mut Verdicts, other: &Verdicts) {
    let (Some(translates), Some(theirs)) = (verdicts.translates, other.translates) else { return };
    let alike = translates.value == theirs.value
        && verdicts.mapping.map(|known| known.value) == other.mapping.map(|known| known.value);
    if let Some(filtering) = other.filtering.filter(|_| alike && verdicts.filtering.is_none()) {
        verdicts.filtering = Some(filtering.and(filtering.value, 0.75, How::Inferred));
        verdicts.nat = Some(name(verdicts, translates));
    }
}

/// Returns the verdicts over a transport on which no server answered.
fn silent(evidence: &Evidence, transport: Transport) -> Verdicts {
    let sent = evidence.over(transport).filter(|seen| seen.sends > 0);
    let asked: BTreeSet<_> = sent.map(|seen| seen.server.ip()).collect();
    let is_other_alive =
        evidence.observations().iter().any(|seen| seen.transport != transport && seen.seen.is_some());
    let nat = match asked.len() {
        0 => None,
        // The same servers may be down. That three are down at once while we are online is not likely.
        few if is_other_alive => {
            Some(Known::measured(NatType::Blocked, 1.0 - 0.3_f64.powi(few.min(8) as i32)))
        }
        few => Some(Known::inferred(NatType::Blocked, 1.0 - 0.4_f64.powi(few.min(8) as i32))),
    };
    Verdicts { nat, ..Verdicts::default() }
}

/// Tells whether servers see us come from another address than our own.
fn translates<'a>(seen: impl Iterator<Item = &'a Observation>) -> Option<Known<bool>> {
    let (mut same, mut different) = (BTreeSet::new(), BTreeSet::new());
    for observation in seen {
        if let Some(answer) = observation.seen {
            let unchanged = is_same_address(answer.mapped.0, observation.local.0);
            (if unchanged { &mut same } else { &mut different }).insert(observation.server.ip());
        }
    }
    let (same, different) = (same.len(), different.len());
    if same + different == 0 {
        return None;
    }
    let value = different >= same;
    let (votes, against) = if value { (different, same) } else { (same, different) };
    let share = votes as f64 / (votes + against) as f64;
    Some(Known::measured(value, (1.0 - 0.1_f64.powi(votes.min(8) as i32)) * share))
}

/// Judges the mapping by RFC 5780, section 4.3, with as many servers as answered.
fn mapping<'a>(seen: impl Iterator<Item = &'a Observation> + Clone) -> Known<Mapping> {
    let answers = |purpose| {
        let of_purpose = seen.clone().filter(move |seen| seen.purpose == purpose);
        of_purpose.filter_map(|seen| Some((seen.server, seen.seen?.mapped.0)))
    };
    let mut groups: BTreeMap<SocketAddr, BTreeSet<_>> = BTreeMap::new();
    for (server, mapped) in answers(Purpose::Mapping) {
        groups.entry(mapped).or_default().insert(server.ip());
    }
    let all: BTreeSet<_> = groups.values().flatten().copied().collect();
    let most = groups.values().map(BTreeSet::len).max().unwrap_or(0);
    let others: Vec<_> = answers(Purpose::OtherPort)
        .filter_map(|(server, mapped)| {
            let first = answers(Purpose::Mapping).find(|(first, _)| first.ip() == server.ip());
            first.map(|(_, first)| first == mapped)
        })
        .collect();
    let same_port = others.iter().filter(|same| **same).count() * 2 > others.len();
    match (all.len(), most) {
        (0, _) => Known::assumed(Mapping::AddressAndPortDependent, 0.3),
        (1, _) if others.is_empty() => Known::assumed(Mapping::EndpointIndependent, 0.5),
        (1, _) if same_port => Known::inferred(Mapping::EndpointIndependent, 0.7),
        (1, _) => Known::measured(Mapping::AddressAndPortDependent, 0.9),
        (count, most) if most >= 2 && most * 2 > count => {
            let doubt = 0.15_f64.powi((most - 1).min(6) as i32);
            Known::measured(Mapping::EndpointIndependent, (1.0 - doubt) * most as f64 / count as f64)
        }
        (_, most) if most >= 2 => Known::measured(Mapping::EndpointIndependent, 0.5),
        (count, _) => {
            let sure = 1.0 - 0.2_f64.powi((count - 1).min(6) as i32);
            match others.is_empty() {
                false if same_port => Known::measured(Mapping::AddressDependent, sure),
                false => Known::measured(Mapping::AddressAndPortDependent, sure),
                true => Known::assumed(Mapping::AddressAndPortDependent, sure * 0.8),
            }
        }
    }
}

/// Tells whether repeated questions were answered as before.
fn stable<'a>(seen: impl Iterator<Item = &'a Observation> + Clone) -> Option<Known<bool>> {
    let again = seen.clone().filter(|seen| seen.purpose == Purpose::Again);
    let mut same = Vec::new();
    for later in again {
        let before = seen.clone().find(|first| {
            first.purpose != Purpose::Again && first.local == later.local && first.server == later.server
        });
        if let (Some(before), Some(now)) = (before.and_then(|first| first.seen), later.seen) {
            same.push(before.mapped == now.mapped);
        }
    }
    if same.is_empty() {
        return None;
    }
    let kept = same.iter().filter(|same| **same).count();
    let value = kept * 2 > same.len();
    Some(Known::measured(value, if same.len() > 1 { 0.95 } else { 0.9 }))
}

/// Judges the filtering by RFC 5780, section 4.4. A packet that passed is proof. Silence is a sign, which more
/// silence makes stronger.
fn filtering(evidence: &Evidence, transport: Transport) -> Option<Known<Filtering>> {
    let tests: Vec<(Stranger, bool)> = match transport {
        Transport::Udp => evidence
            .filter_tests
            .iter()
            .filter(|test| test.outcome != FilterOutcome::Unsupported)
            .map(|test| (test.stranger, test.outcome == FilterOutcome::Passed))
            .collect(),
        Transport::Tcp => evidence
            .syn_probes
            .iter()
            .filter(|probe| probe.outcome != SynOutcome::Unavailable)
            .map(|probe| (probe.stranger, probe.outcome == SynOutcome::Connected))
            .collect(),
    };
    let count = |stranger, passed| tests.iter().filter(|test| **test == (stranger, passed)).count();
    let silence = |count: usize| 1.0 - 0.08_f64.powi(count.min(6) as i32);
    let (far, near) = (Stranger::OtherAddress, Stranger::OtherPort);
    if count(far, true) > 0 {
        return Some(Known::measured(Filtering::EndpointIndependent, 0.995));
    }
    let far_silent = count(far, false);
    match (count(near, true), count(near, false)) {
        (0, 0) if far_silent == 0 => None,
        // Not every address gets in, and whether other ports do is not known. So the case that promises less is
        // assumed.
        (0, 0) => Some(Known::assumed(Filtering::AddressAndPortDependent, 0.6 * silence(far_silent))),
        (0, silent) => Some(Known::measured(
            Filtering::AddressAndPortDependent,
            silence(silent) * if far_silent > 0 { 1.0 } else { 0.95 },
        )),
        (_, _) if far_silent > 0 => Some(Known::measured(Filtering::AddressDependent, silence(far_silent))),
        (_, _) => Some(Known::assumed(Filtering::AddressDependent, 0.6)),
    }
}

/// Judges the answer to a SYN that is not let in. An answer is proof; silence may be a lost packet.
fn syn(evidence: &Evidence) -> Option<Known<SynAnswer>> {
    let kept = evidence.syn_probes.iter().filter_map(|probe| match probe.outcome {
        SynOutcome::Kept(answer) => Some(answer),
        SynOutcome::Connected | SynOutcome::Unavailable => None,
    });
    let count = kept.clone().count();
    if count == 0 {
        return None;
    }
    let answered = kept.clone().find(|answer| *answer != SynAnswer::Silence);
    Some(match answered {
        Some(answer) => Known::measured(answer, 0.97),
        None => Known::measured(SynAnswer::Silence, 1.0 - 0.1_f64.powi(count.min(6) as i32)),
    })
}

/// Returns the type that follows from mapping and filtering.
fn name(verdicts: &Verdicts, translates: Known<bool>) -> Known<NatType> {
    let filtering = verdicts.filtering;
    let unknown = Known::assumed(Filtering::AddressAndPortDependent, 0.5);
    if !translates.value {
        let filtering = filtering.unwrap_or(unknown);
        let nat = match filtering.value {
            Filtering::EndpointIndependent => NatType::Open,
            _ => NatType::SymmetricFirewall,
        };
        return filtering.and(nat, translates.confidence, translates.how);
    }
    let mapping = verdicts.mapping.unwrap_or(Known::assumed(Mapping::AddressAndPortDependent, 0.3));
    if mapping.value != Mapping::EndpointIndependent {
        return mapping.and(NatType::Symmetric, translates.confidence, How::Measured);
    }
    let filtering = filtering.unwrap_or(unknown);
    let nat = match filtering.value {
        Filtering::EndpointIndependent => NatType::FullCone,
        Filtering::AddressDependent => NatType::Restricted,
        Filtering::AddressAndPortDependent => NatType::PortRestricted,
    };
    filtering.and(nat, mapping.confidence, mapping.how)
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
