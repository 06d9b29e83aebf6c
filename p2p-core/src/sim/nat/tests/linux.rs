//! The known behaviour of Linux connection tracking, in the presets that bear its name.

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
        assert_eq!(bench.out(neighbour, server(3)), Some(other), "it keeps what it got");
        assert_eq!(bench.inn(server(2), mapped), Some(inside(5_000)));
        assert_eq!(bench.inn(server(1), other), Some(neighbour));
        assert_eq!(bench.inn(server(3), other), Some(neighbour));
        let third = at("192.168.1.4:5000");
        assert_eq!(bench.out(third, server(5)), Some(mapped), "overloaded");
        assert_eq!(bench.inn(server(5), mapped), Some(third));
        let apart = bench.out(third, server(2)).unwrap();
        assert_ne!(apart, mapped, "this flow alone is mapped apart");
        assert_eq!(bench.inn(server(2), apart), Some(third));
        assert_eq!(bench.inn(server(2), mapped), Some(inside(5_000)));
        assert_eq!(bench.out(third, server(2)), Some(apart));
        assert_eq!(bench.out(third, server(6)), Some(mapped));
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

/// Sequence numbers far ahead of 777 and of 9, and far behind them.
const AHEAD: u32 = 2_000_000_000;
const BEHIND: u32 = 3_000_000_000;

#[test]
fn a_new_sequence_number_after_crossed_syns_leaks_until_the_session_times_out() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    let mapped = bench.out(ends.0, ends.1).unwrap();
    assert_eq!(bench.segment_out(ends, Flags::SYN, AHEAD), Verdict::Forward, "none has come in");
    assert_eq!(bench.segment_out(ends, Flags::SYN, 777), Verdict::Forward);
    assert_eq!(bench.segment_in((server(1), mapped), Flags::SYN, 9), Verdict::Forward);
    assert_eq!(bench.segment_out(ends, Flags::SYN, 777), Verdict::Forward, "it is repeated");
    let leak = Verdict::Leak(DropReason::NewIsn);
    let mut header = Header::tcp(ends.0, ends.1, Flags::SYN, AHEAD, 0);
    assert_eq!(bench.nat.outbound(&mut header, bench.now), leak);
    assert_eq!(header.src, ends.0, "untranslated");
    assert_eq!(bench.segment_out(ends, Flags::SYN | Flags::ACK, AHEAD), leak);
    // A SYN with a number behind passes, but no connection comes of it, as the ACK is invalid.
    assert_eq!(bench.segment_out(ends, Flags::SYN, BEHIND), Verdict::Forward);
    assert_eq!(bench.segment_out(ends, Flags::SYN | Flags::ACK, BEHIND), Verdict::Forward);
    let syn_ack = bench.segment_in((server(1), mapped), Flags::ACK, 10);
    assert_eq!(syn_ack, Verdict::Forward);
    let ack = bench.segment_out(ends, Flags::ACK, BEHIND + 1);
    assert_eq!(ack, Verdict::Leak(DropReason::OutOfState));
    bench.pass(secs(119));
    assert_eq!(bench.segment_out(ends, Flags::SYN, AHEAD), leak);
    bench.pass(secs(2));
    assert_eq!(bench.segment_out(ends, Flags::SYN, AHEAD), Verdict::Forward);
}

#[test]
fn a_peers_new_sequence_number_is_no_better() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    let from = (server(1), mapped);
    assert_eq!(bench.segment_in(from, Flags::SYN, 9), Verdict::Forward);
    assert_eq!(bench.segment_in(from, Flags::SYN, AHEAD), Verdict::Drop(DropReason::NewIsn));
    assert_eq!(bench.segment_in(from, Flags::SYN, BEHIND), Verdict::Forward);
    assert_eq!(bench.segment_in(from, Flags::SYN, 9), Verdict::Forward);
    let answer = bench.segment_out((inside(5_000), server(1)), Flags::SYN | Flags::ACK, 100);
    assert_eq!(answer, Verdict::Forward);
    let repeated = bench.segment_in(from, Flags::SYN, 9);
    assert_eq!(repeated, Verdict::Drop(DropReason::OutOfState), "after the answer, even the old one");
    let ours = bench.segment_out((inside(5_000), server(1)), Flags::SYN, AHEAD);
    assert_eq!(ours, Verdict::Forward, "ours goes out, and is not heeded");
}

#[test]
fn a_rst_that_acknowledges_something_else_is_not_heeded() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    let forged = Header::tcp(server(1), mapped, Flags::RST | Flags::ACK, 0, AHEAD);
    assert_eq!(bench.nat.inbound(&mut { forged }, bench.now), Verdict::Forward);
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));
}

#[test]
fn a_rst_closes_for_ten_seconds() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    let mapped = bench.out(ends.0, ends.1).unwrap();
    let mut refused = Header::tcp(server(1), mapped, Flags::RST | Flags::ACK, 0, 101);
    assert_eq!(bench.nat.inbound(&mut refused, bench.now), Verdict::Forward);
    assert_eq!(bench.verdict_in(server(1), mapped), Verdict::Drop(DropReason::Closed));
    assert_eq!(bench.segment_out(ends, Flags::SYN, 200), Verdict::Forward, "we may dial again");
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)), "and that opens");
    bench.segment_out(ends, Flags::RST, 201);
    bench.pass(secs(11));
    assert_eq!(bench.verdict_in(server(1), mapped), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn an_answered_datagram_stands_in_the_way_of_our_own_port_and_an_answered_syn_on_old_kernels() {
    let wanted = SocketAddr::new(ip(EXTERNAL), 5_000);
    let mut answering = masquerade().with_unsolicited(Unsolicited::Reset);
    answering.udp.unsolicited = Some(IcmpKind::PortUnreachable);
    let mut old = answering.clone();
    old.tcp.flow.answer_holds = secs(10);
    for (config, protocol, holds) in [
        (&answering, Protocol::Udp, true),
        (&answering, Protocol::Tcp, false),
        (&old, Protocol::Tcp, true),
        (&masquerade(), Protocol::Udp, false),
    ] {
        let mut bench = Bench::new(config.clone(), protocol);
        bench.verdict_in(server(1), wanted);
        let mapped = bench.out(inside(5_000), server(1));
        assert_eq!(mapped != Some(wanted), holds, "{protocol}");
        assert_eq!(bench.out(inside(5_000), server(2)), mapped, "and that port it keeps");
        let mut bench = Bench::new(config.clone(), protocol);
        bench.verdict_in(server(1), wanted);
        bench.pass(secs(31));
        assert_eq!(bench.out(inside(5_000), server(1)), Some(wanted));
    }
}

#[test]
fn strays_leave_as_they_are() {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    for flags in [Flags::SYN | Flags::ACK, Flags::RST, Flags::FIN | Flags::ACK] {
        assert_eq!(bench.segment_out(ends, flags, 1), Verdict::Leak(DropReason::NoSession), "{flags}");
    }
    let mapped = bench.out(ends.0, ends.1).unwrap();
    assert_eq!(bench.segment_out(ends, Flags::ACK, 101), Verdict::Leak(DropReason::OutOfState));
    let from = (server(1), mapped);
    assert_eq!(bench.segment_in(from, Flags::ACK, 1), Verdict::Forward);
    let fin = bench.segment_in(from, Flags::FIN | Flags::ACK, 1);
    assert_eq!(fin, Verdict::Drop(DropReason::OutOfState));
    assert_eq!(bench.segment_in(from, Flags::SYN | Flags::ACK, 500), Verdict::Forward);
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

/// Reads one segment of the file: true when from inside, flags, sequence number, acknowledgement number.
fn segment(text: &str) -> (bool, Flags, u32, u32) {
    let words: Vec<_> = text.split_whitespace().collect();
    let flag = |letter| match letter {
        'S' => Flags::SYN,
        'A' => Flags::ACK,
        'R' => Flags::RST,
        'F' => Flags::FIN,
        other => panic!("no flag: {other}"),
    };
    let flags = words[1].chars().map(flag).fold(Flags::default(), |all, one| all | one);
    (words[0] == "o", flags, words[2].parse().unwrap(), words[3].parse().unwrap())
}

/// Returns the verdicts of the preset on a sequence, in the letters of the file.
fn letters(segments: &str) -> String {
    let mut bench = Bench::new(masquerade(), Protocol::Tcp);
    let (local, external, remote) = (inside(5_000), SocketAddr::new(ip(EXTERNAL), 5_000), server(1));
    let judge = |text| {
        let (out, flags, seq, ack) = segment(text);
        let verdict = if out {
            bench.nat.outbound(&mut Header::tcp(local, remote, flags, seq, ack), bench.now)
        } else {
            bench.nat.inbound(&mut Header::tcp(remote, external, flags, seq, ack), bench.now)
        };
        match verdict {
            Verdict::Forward => 'T',
            Verdict::Leak(_) => 'L',
            _ => 'D',
        }
    };
    segments.split(';').map(judge).collect()
}

/// Compares with Linux on random segments, which is a hard test, as most are such as no sane host sends. The few that
/// differ are about what comes after a RST, and about acknowledgement windows, which the model does not keep.
#[test]
fn what_linux_did_to_random_segments_we_do() {
    let (mut all, mut different) = (0, Vec::new());
    for line in include_str!("linux-6.18.txt").lines().filter(|line| !line.starts_with('#')) {
        let (real, segments) = line.split_once(": ").unwrap();
        let ours = letters(segments);
        all += 1;
        if ours != real {
            different.push(format!("{real} {ours} {segments}"));
        }
    }
    assert_eq!(all, 400);
    assert!(different.len() <= 18, "{} differ:\n{}", different.len(), different.join("\n"));
}
