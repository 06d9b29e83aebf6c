//! What is known of Linux connection tracking, in the presets that bear its name.

use super::*;

fn server(number: u8) -> SocketAddr {
    SocketAddr::new(ip(&format!("192.0.2.{number}")), 443)
}

fn masquerade() -> NatConfig {
    NatConfig::linux_masquerade(ip(EXTERNAL))
}

#[test]
fn a_port_is_preserved_and_overloaded_unless_the_4_tuple_is_taken() {
    for protocol in BOTH {
        let mut bench = Bench::new(masquerade(), protocol);
        let mapped = SocketAddr::new(ip(EXTERNAL), 5_000);
        assert_eq!(bench.out(inside(5_000), server(1)), Some(mapped));
        assert_eq!(bench.out(inside(5_000), server(2)), Some(mapped));
        let neighbour = at("192.168.1.3:5000");
        let other = bench.out(neighbour, server(1)).unwrap();
        assert_ne!(other, mapped, "the same server would not tell them apart");
        assert_eq!(bench.out(neighbour, server(3)), Some(mapped));
        assert_eq!(bench.inn(server(2), mapped), Some(inside(5_000)));
        assert_eq!(bench.inn(server(3), mapped), Some(neighbour));
        assert_eq!(bench.inn(server(1), other), Some(neighbour));
        assert_eq!(bench.inn(server(4), mapped), None);
    }
}

#[test]
fn fully_random_is_symmetric() {
    let mut bench = Bench::new(NatConfig::linux_fully_random(ip(EXTERNAL)), Protocol::Tcp);
    let ports: std::collections::BTreeSet<_> =
        (1..=50).map(|number| bench.out(inside(5_000), server(number)).unwrap().port()).collect();
    assert!(ports.len() >= 49, "{ports:?}");
}

#[test]
fn a_new_sequence_number_after_crossed_syns_leaks_until_the_session_times_out() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    let mapped = bench.out(ends.0, ends.1).unwrap();
    assert_eq!(bench.segment_out(ends, Flags::SYN, 777), Verdict::Forward, "none has come in");
    assert_eq!(bench.segment_in((server(1), mapped), Flags::SYN, 9), Verdict::Forward);
    assert_eq!(bench.segment_out(ends, Flags::SYN, 777), Verdict::Forward, "it is repeated");
    let leak = Verdict::Leak(DropReason::NewIsn);
    let mut header = Header::tcp(ends.0, ends.1, Flags::SYN, 888, 0);
    assert_eq!(bench.nat.outbound(&mut header, bench.now), leak);
    assert_eq!(header.src, ends.0, "untranslated");
    bench.pass(secs(119));
    assert_eq!(bench.segment_out(ends, Flags::SYN, 999), leak);
    bench.pass(secs(2));
    assert_eq!(bench.segment_out(ends, Flags::SYN, 999), Verdict::Forward);
    assert_eq!(bench.nat.counters().leaked, 2);
}

#[test]
fn a_rst_closes_for_ten_seconds() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    let mapped = bench.out(ends.0, ends.1).unwrap();
    let refused = bench.segment_in((server(1), mapped), Flags::RST | Flags::ACK, 0);
    assert_eq!(refused, Verdict::Forward);
    assert_eq!(bench.verdict_in(server(1), mapped), Verdict::Drop(DropReason::Closed));
    assert_eq!(bench.segment_out(ends, Flags::SYN, 200), Verdict::Forward, "we may dial again");
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)), "and that opens");
    bench.segment_out(ends, Flags::RST, 201);
    bench.pass(secs(11));
    assert_eq!(bench.verdict_in(server(1), mapped), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn an_answer_of_the_router_stands_in_the_way_of_our_own_port() {
    let wanted = SocketAddr::new(ip(EXTERNAL), 5_000);
    let mut bench = Bench::new(masquerade().with_unsolicited(Unsolicited::Reset), Protocol::Tcp);
    assert!(matches!(bench.verdict_in(server(1), wanted), Verdict::Answer(..)));
    assert_eq!(bench.out(inside(5_000), server(2)), Some(wanted), "towards others it is free");
    assert_ne!(bench.out(inside(5_000), server(1)), Some(wanted));

    let mut bench = Bench::new(masquerade().with_unsolicited(Unsolicited::Reset), Protocol::Tcp);
    bench.verdict_in(server(1), wanted);
    bench.pass(secs(11));
    assert_eq!(bench.out(inside(5_000), server(1)), Some(wanted));

    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    bench.verdict_in(server(1), wanted);
    assert_eq!(bench.out(inside(5_000), server(1)), Some(wanted), "silence holds nothing");
}

#[test]
fn a_connection_survives_a_reboot_of_the_router() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    let mapped = bench.connect(ends.0, ends.1);
    bench.nat.reboot();
    assert_eq!(bench.nat.mappings().count(), 0);
    let lost = bench.segment_in((server(1), mapped), Flags::ACK, 501);
    assert_eq!(lost, Verdict::Drop(DropReason::NoSession));
    assert_eq!(bench.segment_out(ends, Flags::ACK, 101), Verdict::Forward, "picked up");
    assert_eq!(bench.segment_in((server(1), mapped), Flags::ACK, 501), Verdict::Forward);
}

#[test]
fn udp_lives_half_a_minute_and_two_when_answered() {
    let mut bench = Bench::new(masquerade(), Protocol::Udp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    bench.pass(secs(31));
    assert_eq!(bench.inn(server(1), mapped), None);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    assert!(bench.inn(server(1), mapped).is_some());
    bench.pass(secs(119));
    assert!(bench.inn(server(1), mapped).is_some());
}
