//! Each preset is what its name says, by the judgement of a test that sees packets only.

use super::*;
use crate::nat::{Delta, DeltaKind, NatType};

/// Returns the type of a NAT by what it does (RFC 3489, section 10.1, and the delta test of the original P2PD).
fn judge_type(fresh: &mut dyn FnMut() -> Bench) -> NatType {
    let (first, second, stranger) = (at("192.0.2.1:3478"), at("192.0.2.2:3478"), at("192.0.2.3:3478"));
    let local = inside(40_000);
    let mut bench = fresh();
    let Some(mapped) = bench.out(local, first) else {
        return NatType::Blocked;
    };
    let stranger_passes = bench.inn(stranger, mapped).is_some();
    if mapped == local {
        return match stranger_passes {
            true => NatType::Open,
            false => NatType::SymmetricFirewall,
        };
    }
    if bench.out(local, second) != Some(mapped) {
        return NatType::Symmetric;
    }
    let other_port = SocketAddr::new(first.ip(), 3_479);
    match (stranger_passes, bench.inn(other_port, mapped).is_some()) {
        (true, _) => NatType::FullCone,
        (false, true) => NatType::Restricted,
        (false, false) => NatType::PortRestricted,
    }
}

/// Returns inside ports, `step` apart, with the ports that they are mapped to.
fn mapped_ports(bench: &mut Bench, first: u16, step: u16) -> Vec<(i32, i32)> {
    (0..12)
        .map(|index| {
            let local = first + index * step;
            let mapped = bench.out(inside(local), at("192.0.2.1:3478")).unwrap();
            (i32::from(local), i32::from(mapped.port()))
        })
        .collect()
}

/// Returns the value that all neighbours differ by.
fn common_step(ports: &[(i32, i32)], range: PortRange) -> Option<i32> {
    let size = range.size() as i32;
    let mut steps = ports.windows(2).map(|pair| (pair[1].1 - pair[0].1).rem_euclid(size));
    let first = steps.next()?;
    let signed = if first > size / 2 { first - size } else { first };
    steps.all(|step| step == first).then_some(signed)
}

fn judge_delta(fresh: &mut dyn FnMut() -> Bench, range: PortRange) -> (DeltaKind, i32) {
    let by_one = mapped_ports(&mut fresh(), 40_000, 1);
    let by_seven = mapped_ports(&mut fresh(), 40_000, 7);
    let all = || by_one.iter().chain(&by_seven);
    if all().all(|(local, mapped)| local == mapped) {
        return (DeltaKind::Equal, 0);
    }
    let size = range.size() as i32;
    let offset = |pair: &(i32, i32)| (pair.1 - pair.0).rem_euclid(size);
    if all().all(|pair| offset(pair) == offset(&by_one[0])) {
        return (DeltaKind::Preserving, offset(&by_one[0]));
    }
    match (common_step(&by_one, range), common_step(&by_seven, range)) {
        (Some(one), Some(seven)) if one == seven => (DeltaKind::Independent, one),
        (Some(one), _) => (DeltaKind::Dependent, one),
        (None, _) => (DeltaKind::Random, 0),
    }
}

#[test]
fn all_types_and_deltas_are_what_they_are_called() {
    let range = PortRange::new(35_000, 65_535).unwrap();
    for protocol in BOTH {
        for nat in NatType::ALL {
            for kind in DeltaKind::ALL {
                let value = match kind {
                    DeltaKind::Independent => -3,
                    DeltaKind::Dependent => 2,
                    DeltaKind::Preserving => 77,
                    DeltaKind::Equal | DeltaKind::Random => 0,
                };
                let config = NatConfig::of_type(nat, Delta { kind, value }, range, ip(EXTERNAL));
                let mut seed = 0;
                let mut fresh = || {
                    seed += 1;
                    Bench::with_seed(config.clone(), protocol, seed)
                };
                assert_eq!(judge_type(&mut fresh), nat, "{protocol} {nat} {kind}");
                let (expected, expected_value) = match nat {
                    NatType::Blocked => continue,
                    NatType::Open | NatType::SymmetricFirewall => (DeltaKind::Equal, 0),
                    _ => (kind, i32::from(value)),
                };
                let judged = judge_delta(&mut fresh, range);
                assert_eq!(judged, (expected, expected_value), "{protocol} {nat} {kind}");
            }
        }
    }
}

#[test]
fn the_judge_is_not_easily_pleased() {
    let range = PortRange::new(1_024, 65_535).unwrap();
    let mut fresh = || Bench::new(NatConfig::linux_fully_random(ip(EXTERNAL)), Protocol::Tcp);
    assert_eq!(judge_type(&mut fresh), NatType::Symmetric);
    assert_eq!(judge_delta(&mut fresh, range).0, DeltaKind::Random);
    let mut fresh = || Bench::new(NatConfig::linux_masquerade(ip(EXTERNAL)), Protocol::Udp);
    assert_eq!(judge_type(&mut fresh), NatType::PortRestricted);
    assert_eq!(judge_delta(&mut fresh, range), (DeltaKind::Equal, 0));
    let mut fresh = || Bench::new(NatConfig::linux_firewall(), Protocol::Tcp);
    assert_eq!(judge_type(&mut fresh), NatType::SymmetricFirewall);
}

#[test]
fn ports_stay_in_the_range() {
    let range = PortRange::new(35_000, 35_199).unwrap();
    for kind in DeltaKind::ALL {
        let delta = Delta { kind, value: 3 };
        let config = NatConfig::of_type(NatType::PortRestricted, delta, range, ip(EXTERNAL));
        let mut bench = Bench::new(config, Protocol::Udp);
        let mut seen = std::collections::BTreeSet::new();
        for local in 0..200 {
            let mapped = bench.out(inside(20_000 + local * 3), at("192.0.2.1:1")).unwrap();
            assert!(range.contains(mapped.port()), "{kind}: {mapped}");
            assert!(seen.insert(mapped), "{kind}: {mapped} was given out twice");
        }
        assert_eq!(bench.out(inside(30_000), at("192.0.2.1:1")), None, "{kind}");
        assert_eq!(bench.nat.counters().dropped[&DropReason::NoPort], 1);
    }
}

#[test]
fn a_carrier_hands_out_blocks() {
    let pool: Vec<_> = ["198.51.100.1", "198.51.100.2"].map(ip).into();
    let mut bench = Bench::new(NatConfig::carrier(pool, 512), Protocol::Tcp);
    let mut blocks = std::collections::BTreeSet::new();
    for customer in 0..20 {
        let host = ip(&format!("100.64.0.{customer}"));
        let mut ports = std::collections::BTreeSet::new();
        let mut external = None;
        for local in 0..512 {
            let mapped = bench.out(SocketAddr::new(host, 30_000 + local), at("192.0.2.1:1")).unwrap();
            ports.insert(mapped.port());
            assert_eq!(*external.get_or_insert(mapped.ip()), mapped.ip(), "paired");
        }
        let external = external.unwrap();
        let block = bench.nat.block(Protocol::Tcp, external, host).unwrap();
        assert_eq!(ports.first(), Some(&block.first));
        assert_eq!(ports.last(), Some(&block.last));
        assert_eq!(ports.len(), 512);
        assert!(blocks.insert((external, block.first)), "a block has one owner");
        let more = bench.out(SocketAddr::new(host, 60_000), at("192.0.2.1:1"));
        assert_eq!(more, None, "the block is used up");
    }
}
