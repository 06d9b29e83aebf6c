//! Tests of the options that no RFC asks for.

use super::*;

fn server(number: u8) -> SocketAddr {
    SocketAddr::new(ip(&format!("192.0.2.{number}")), 443)
}

fn home() -> NatConfig {
    NatConfig::home(ip(EXTERNAL))
}

fn port(bench: &mut Bench, local: SocketAddr, remote: SocketAddr) -> i32 {
    i32::from(bench.out(local, remote).unwrap().port())
}

#[test]
fn steps_count_globally_per_host_or_per_destination() {
    let (other, there) = (at("192.168.1.3:9000"), server(2));
    for (scope, after_other, elsewhere) in [
        (StepScope::Global, 4, Some(6)),
        (StepScope::PerHost, 2, Some(4)),
        (StepScope::PerDestination, 4, None),
    ] {
        let config = home().with_flow(|flow| {
            flow.ports = PortChoice::Step { by: 2, scope };
            flow.mapping = Mapping::AddressAndPortDependent;
            // The range has room enough to count up from any port.
            flow.range = PortRange { first: 10_000, last: 60_000 };
        });
        let mut bench = Bench::new(config, Protocol::Tcp);
        let start = port(&mut bench, inside(5_000), server(1));
        port(&mut bench, other, server(1));
        assert_eq!(port(&mut bench, inside(5_001), server(1)), start + after_other, "{scope:?}");
        let far = port(&mut bench, inside(5_002), there);
        match elsewhere {
            Some(step) => assert_eq!(far, start + step, "{scope:?}"),
            None => assert_ne!(far, start + 6, "{scope:?}"),
        }
    }
}

#[test]
fn a_counter_wraps_and_skips_what_is_taken() {
    let config = home().with_flow(|flow| {
        flow.ports = PortChoice::Step { by: 1, scope: StepScope::Global };
        flow.range = PortRange { first: 10_000, last: 10_009 };
    });
    let mut bench = Bench::new(config, Protocol::Udp);
    let mut seen: Vec<_> = (0..10).map(|index| port(&mut bench, inside(5_000 + index), server(1))).collect();
    for pair in seen.windows(2) {
        assert_eq!((pair[1] - pair[0]).rem_euclid(10), 1);
    }
    bench.pass(secs(200));
    let kept = inside(5_003);
    bench.out(kept, server(1));
    bench.pass(secs(200));
    let next: Vec<_> = (0..9).map(|index| port(&mut bench, inside(6_000 + index), server(1))).collect();
    assert!(!next.contains(&seen[3]), "that one is still in use");
    seen.clear();
}

#[test]
fn fallbacks_of_a_port_that_cannot_be_preserved() {
    let second = |or| {
        let mut bench =
            Bench::new(home().with_flow(|flow| flow.ports = PortChoice::Preserve { or }), Protocol::Udp);
        bench.out(at("192.168.1.2:5000"), server(1)).unwrap();
        bench.out(at("192.168.1.3:5000"), server(1)).map(|mapped| mapped.port())
    };
    assert_eq!(second(Fallback::Next), Some(5_001));
    assert_eq!(second(Fallback::Refuse), None);
    assert!(second(Fallback::Random).is_some_and(|port| port != 5_000));
}

#[test]
fn others_behind_the_nat_move_the_counter() {
    let config = home().with_flow(|flow| {
        flow.ports = PortChoice::Step { by: 1, scope: StepScope::Global };
        flow.background = 10.0;
        flow.range = PortRange { first: 1_024, last: 65_535 };
    });
    let mut bench = Bench::new(config, Protocol::Tcp);
    let mut last = port(&mut bench, inside(5_000), server(1));
    let mut moved = 0;
    for index in 1..=200 {
        bench.pass(secs(1));
        let next = port(&mut bench, inside(5_000 + index), server(1));
        moved += (next - last - 1).rem_euclid(64_512);
        last = next;
    }
    // 2,000 are expected, with a standard deviation of 45.
    assert!((1_775..=2_225).contains(&moved), "{moved}");
    bench.pass(secs(60));
    let much_later = port(&mut bench, inside(6_000), server(1));
    let many = (much_later - last - 1).rem_euclid(64_512);
    assert!((475..=725).contains(&many), "600 expected, deviation 24: {many}");
}

#[test]
fn limits_are_kept_and_what_expires_makes_room() {
    let mut config = home();
    config.most_mappings = 3;
    let mut bench = Bench::new(config, Protocol::Udp);
    for local in 5_000..5_003 {
        assert!(bench.out(inside(local), server(1)).is_some());
    }
    assert_eq!(bench.out(inside(5_003), server(1)), None);
    assert_eq!(bench.nat.counters().dropped[&DropReason::TableFull], 1);
    bench.pass(secs(301));
    assert!(bench.out(inside(5_003), server(1)).is_some());

    let mut config = home();
    config.most_mappings_per_host = 1;
    let mut bench = Bench::new(config, Protocol::Udp);
    assert!(bench.out(inside(5_000), server(1)).is_some());
    assert!(bench.out(inside(5_000), server(2)).is_some(), "the same mapping");
    assert_eq!(bench.out(inside(5_001), server(1)), None);
    assert!(bench.out(at("192.168.1.3:5001"), server(1)).is_some());
    assert_eq!(bench.nat.counters().dropped[&DropReason::HostFull], 1);

    let mut config = home();
    config.most_new_per_second = Some(10);
    let mut bench = Bench::new(config, Protocol::Udp);
    let tries = |bench: &mut Bench, from: u16| {
        (from..from + 50).filter(|local| bench.out(inside(*local), server(1)).is_some()).count()
    };
    assert_eq!(tries(&mut bench, 5_000), 10);
    bench.pass(Duration::from_millis(500));
    assert_eq!(tries(&mut bench, 6_000), 5);
    assert_eq!(bench.nat.counters().dropped[&DropReason::TooFast], 85);
}

#[test]
fn a_flood_stays_within_bounds() {
    let mut config = home().with_unsolicited(Unsolicited::ResetAfter { after: secs(6) });
    config.most_mappings = 100;
    let config = config.with_flow(|flow| flow.filtering = Filtering::EndpointIndependent);
    let mut bench = Bench::new(config, Protocol::Tcp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    for number in 0..20_000_u32 {
        let stranger = SocketAddr::new(std::net::Ipv4Addr::from(0x0808_0000 + number).into(), 1);
        bench.inn(stranger, mapped);
        bench.verdict_in(stranger, SocketAddr::new(mapped.ip(), 9));
    }
    assert!(bench.nat.table.session_count() <= 100 * 16);
    assert!(bench.nat.late.len() <= late::MOST);
}

#[test]
fn renumbering_ends_everything_and_wrong_addresses_nothing() {
    let mut bench = Bench::new(home(), Protocol::Udp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    let both = vec![ip("203.0.113.1"), ip("2001:db8::1")];
    assert!(bench.nat.renumber(both).is_err());
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));
    bench.nat.renumber(vec![ip("203.0.113.1")]).unwrap();
    assert_eq!(bench.verdict_in(server(1), mapped), Verdict::Drop(DropReason::NotForUs));
    let anew = bench.out(inside(5_000), server(1)).unwrap();
    assert_eq!(anew.ip(), ip("203.0.113.1"));
}

#[test]
fn an_ipv6_firewall_lets_in_what_was_asked_for() {
    let (here, there) = (at("[2001:db8:1::2]:5000"), at("[2001:db8:2::2]:6000"));
    for protocol in BOTH {
        let firewall = NatConfig::firewall(Filtering::AddressAndPortDependent);
        let mut bench =
            Bench::new(firewall.with_unsolicited(Unsolicited::Icmp(IcmpKind::Prohibited)), protocol);
        let verdict = bench.verdict_in(there, here);
        match protocol {
            Protocol::Tcp => assert!(matches!(verdict, Verdict::Answer(_, DropReason::NoMapping))),
            _ => assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping)),
        }
        assert_eq!(bench.out(here, there), Some(here));
        assert_eq!(bench.inn(there, here), Some(here));
        assert_eq!(bench.inn(at("[2001:db8:2::2]:6001"), here), None);
    }
    let mut bench = Bench::new(home(), Protocol::Udp);
    assert_eq!(bench.out(here, there), None);
    assert_eq!(bench.nat.counters().dropped[&DropReason::WrongFamily], 1);
}

#[test]
fn each_reason_reads_well() {
    assert_eq!(DropReason::Filtered(Filtering::AddressDependent).to_string(), "filtered (AddressDependent)");
    assert_eq!(DropReason::NoMapping.to_string(), "no mapping");
}
