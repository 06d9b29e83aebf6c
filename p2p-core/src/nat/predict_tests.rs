use std::time::Duration;

use super::*;
use crate::nat::Delta;
use crate::sim::epoch;

fn facts(kind: DeltaKind, value: i16) -> NatFacts {
    NatFacts { delta: Some(Delta { kind, value }), ..NatFacts::default() }
}

fn last() -> Option<Last> {
    Some(Last { at: epoch(), local: 40_000, mapped: 50_000 })
}

fn next(local: u16, ours: u16, ms: u64) -> Next {
    Next { at: epoch() + Duration::from_millis(ms), local, ours }
}

#[test]
fn one_port_where_one_is_enough() {
    for (facts, next, port) in [
        (facts(DeltaKind::Equal, 0), next(41_000, 1, 50), 41_000),
        (facts(DeltaKind::Preserving, 77), next(41_000, 1, 50), 41_077),
        (facts(DeltaKind::Preserving, -30_000), next(31_500, 1, 50), 1_500),
        (facts(DeltaKind::Independent, -3), next(123, 2, 50), 49_994),
        (facts(DeltaKind::Dependent, 2), next(40_003, 3, 50), 50_006),
    ] {
        let prediction = predict(&facts, last(), next);
        assert_eq!(prediction.ports().collect::<Vec<_>>(), [port], "{facts:?}");
        assert_eq!((prediction.probability(1), prediction.needed(0.99)), (1.0, Some(1)));
    }
    // Round the pool, or a constant of 40,000 that an i16 holds as -25,536.
    let around = predict(&facts(DeltaKind::Preserving, 30_000), None, next(41_000, 1, 50));
    assert_eq!(around.ports().collect::<Vec<_>>(), [5_464, 6_488]);
    let far = predict(&facts(DeltaKind::Preserving, -25_536), None, next(10_000, 1, 50));
    assert_eq!(far.ports().next(), Some(50_000));
    let held = NatFacts { mapping: Some(Mapping::EndpointIndependent), ..facts(DeltaKind::Random, 0) };
    assert_eq!(predict(&held, last(), next(40_000, 1, 9_000)).ports().collect::<Vec<_>>(), [50_000]);
}

#[test]
fn a_busy_counter_needs_a_window() {
    let busy = NatFacts { rate: Some(20), ..facts(DeltaKind::Independent, 1) };
    let prediction = predict(&busy, last(), next(41_000, 1, 500));
    // Ten others are expected: about 10 + 3 √10 ports hold nearly all.
    assert_eq!(prediction.ports().next(), Some(50_010));
    let needed = [0.5, 0.9, 0.99].map(|probability| prediction.needed(probability).unwrap());
    assert_eq!(needed, [5, 11, 16]);
    assert!((19..=24).contains(&prediction.ports().count()));
    let dependent = NatFacts { rate: Some(20), ..facts(DeltaKind::Dependent, 1) };
    let prediction = predict(&dependent, last(), next(40_001, 1, 50));
    assert!((prediction.probability(1) - (-1.0_f64).exp()).abs() < 1e-9);
    assert_eq!(prediction.needed(0.5), None);
}

#[test]
fn random_ports_are_a_birthday() {
    let random = predict(&facts(DeltaKind::Random, 0), last(), next(41_000, 1, 0));
    assert!(random.is_random());
    // The table of the lab, and its block of 512.
    let needed = [0.5, 0.9, 0.99, 0.999].map(|probability| random.needed(probability));
    assert_eq!(needed, [Some(212), Some(386), Some(546), Some(668)]);
    let block = PortRange::new(2_048, 2_559);
    let inside = predict(&NatFacts { block, ..facts(DeltaKind::Random, 0) }, None, next(41_000, 1, 0));
    assert_eq!((inside.needed(0.99), inside.pool().size()), (Some(49), 512));
    assert_eq!(inside.needed(1.0), None);
    assert!((inside.probability(256) - 0.5).abs() < 1e-9);
}

#[test]
fn what_cannot_be_told_is_not() {
    assert!(predict(&NatFacts::default(), last(), next(1, 1, 0)).is_random());
    assert!(predict(&facts(DeltaKind::Independent, 1), None, next(1, 1, 0)).is_random());
    assert!(predict(&facts(DeltaKind::Dependent, 1), last(), next(40_002, 1, 0)).is_random());
    let range = PortRange::new(50_000, 60_000);
    let equal = NatFacts { range, ..facts(DeltaKind::Equal, 0) };
    assert!(predict(&equal, last(), next(41_000, 1, 0)).is_random());
    assert!(!predict(&equal, last(), next(51_000, 1, 0)).is_random());
    // An absurd rate and a long time end, too.
    let absurd = NatFacts { rate: Some(u16::MAX), ..facts(DeltaKind::Independent, 1) };
    assert!(predict(&absurd, last(), next(1, 1, 100_000_000)).ports().count() <= MOST_PORTS);
}

#[test]
fn what_was_hardly_seen_is_not_promised() {
    let facts = facts(DeltaKind::Independent, 1);
    let at = next(41_000, 1, 100);
    let seen = |others, seconds| predict_measured(&facts, Rate { others, seconds }, last(), at);
    // Nobody came in a tenth of a second: in the next one nobody comes with √½, not with certainty.
    let hardly = seen(0.0, 0.1);
    assert!((hardly.probability(1) - 0.5_f64.sqrt()).abs() < 1e-6, "{hardly:?}");
    assert!(hardly.needed(0.99).unwrap() > 3);
    // Long known is as good as known.
    let (long, known) = (seen(20_000.0, 1_000.0), NatFacts { rate: Some(20), ..facts });
    let known = predict(&known, last(), at);
    for count in 1..8 {
        assert!((long.probability(count) - known.probability(count)).abs() < 0.01);
    }
    for (others, seconds) in [(f64::INFINITY, 0.0), (-1.0, -1.0), (0.0, 0.0)] {
        assert!(seen(others, seconds).ports().count() <= MOST_PORTS);
    }
}
