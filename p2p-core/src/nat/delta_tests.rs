use std::time::Duration;

use super::*;
use crate::Seed;
use crate::sim::epoch;

/// Returns the samples of a NAT that is a function of the number of the mapping and the local port.
fn sampled(locals: &[u16], servers: &[&str], mut map: impl FnMut(usize, u16) -> u16) -> Vec<Sample> {
    let server = |index: usize| format!("{}:3478", servers[index / 2 % servers.len()]).parse().unwrap();
    locals
        .iter()
        .enumerate()
        .map(|(index, local)| Sample {
            index: index as u32,
            lost: 0,
            at: epoch() + Duration::from_millis(index as u64),
            local: *local,
            mapped: map(index, *local),
            server: server(index),
        })
        .collect()
}

const SERVERS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const LOCALS: [u16; 12] =
    [40_000, 40_001, 40_002, 40_003, 40_004, 40_005, 40_006, 41_020, 41_007, 41_130, 41_090, 41_055];

fn of(kind: DeltaKind, value: i16) -> Delta {
    Delta { kind, value }
}

#[test]
fn each_delta_is_known_by_its_trace() {
    let mut seed = Seed::from_u64(1);
    for value in [1, -1, 2, -3, 7, 16] {
        let step = |index: usize| (50_000 + i64::from(value) * index as i64) as u16;
        let verdict = judge(&sampled(&LOCALS, &SERVERS, |index, _| step(index))).unwrap();
        assert_eq!(verdict.delta.value, of(DeltaKind::Independent, value));
        assert_eq!(verdict.scope.map(|scope| scope.value), Some(Scope::Shared));
        let mut random = || 1_024 + seed.below(64_512) as u16;
        let dependent = |index: usize, _| if index < 7 { step(index) } else { random() };
        let verdict = judge(&sampled(&LOCALS, &SERVERS, dependent)).unwrap();
        assert_eq!(verdict.delta.value, of(DeltaKind::Dependent, value));
    }
    let mut random = || 1_024 + seed.below(64_512) as u16;
    type Case<'a> = (Delta, &'a mut dyn FnMut(usize, u16) -> u16);
    let cases: [Case<'_>; 4] = [
        (of(DeltaKind::Equal, 0), &mut |_, local| local),
        (of(DeltaKind::Preserving, 1_009), &mut |_, local| local + 1_009),
        (of(DeltaKind::Preserving, -20_000), &mut |_, local| local - 20_000),
        (of(DeltaKind::Random, 0), &mut |_, _| random()),
    ];
    for (delta, map) in cases {
        let verdict = judge(&sampled(&LOCALS, &SERVERS, map)).unwrap();
        assert_eq!(verdict.delta.value, delta);
        assert!(verdict.delta.confidence > 0.95, "{verdict:?}");
        assert_eq!(verdict.rate, None);
    }
}

#[test]
fn counters_per_destination_are_told_from_shared_ones() {
    let mut counters = [50_000_u16, 21_000];
    let verdict = judge(&sampled(&LOCALS, &SERVERS, |index, _| {
        let counter = &mut counters[index / 2 % 2];
        *counter += 2;
        *counter
    }))
    .unwrap();
    assert_eq!(verdict.delta.value, of(DeltaKind::Independent, 2));
    assert_eq!(verdict.scope.map(|scope| scope.value), Some(Scope::PerDestination));
    assert_eq!(verdict.rate, None, "such a counter does not show others");
}

#[test]
fn others_show_as_a_rate() {
    let mut samples = sampled(&LOCALS, &SERVERS, |index, _| 50_000 + 2 * index as u16);
    for sample in &mut samples[9..] {
        sample.at += Duration::from_secs(1);
        sample.mapped += 2 * 20;
    }
    let verdict = judge(&samples).unwrap();
    assert_eq!(verdict.delta.value, of(DeltaKind::Independent, 2));
    let rate = verdict.rate.unwrap();
    assert!((19.0..=20.0).contains(&rate.value.per_second()) && rate.confidence > 0.8, "{rate:?}");
}

#[test]
fn an_accident_and_a_liar_do_not_decide() {
    let step = |index: usize| 50_000 + 3 * index as u16;
    let taken = judge(&sampled(&LOCALS, &SERVERS, |index, _| if index == 4 { 9 } else { step(index) }));
    assert_eq!(taken.unwrap().delta.value, of(DeltaKind::Independent, 3));
    let servers = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let mut seed = Seed::from_u64(2);
    let lied = judge(&sampled(&LOCALS, &servers, |index, _| match index / 2 % 3 {
        1 => seed.below(65_536) as u16,
        _ => step(index),
    }));
    assert_eq!(lied.unwrap().delta.value, of(DeltaKind::Independent, 3));
}

#[test]
fn little_evidence_is_little_confidence() {
    assert_eq!(judge(&[]), None);
    let one = sampled(&LOCALS[..1], &SERVERS, |_, _| 7);
    assert_eq!(judge(&one), None);
    // Without a jump of the local port, a step and a preserved port look alike.
    let alike = judge(&sampled(&LOCALS[..7], &SERVERS, |index, _| 50_000 + index as u16)).unwrap();
    assert!(alike.delta.confidence < 0.8, "{alike:?}");
    let absurd = judge(&sampled(&[0, u16::MAX, 0, u16::MAX], &SERVERS, |index, _| [u16::MAX, 0][index % 2]));
    assert!(absurd.unwrap().delta.confidence < 1.0);
}
