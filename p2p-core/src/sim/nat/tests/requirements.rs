//! The requirements of RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP), which the default keeps. Where an option
//! can break one, the test turns it too.

use super::*;

fn home() -> NatConfig {
    NatConfig::home(ip(EXTERNAL))
}

fn server(number: u8) -> SocketAddr {
    SocketAddr::new(ip(&format!("192.0.2.{number}")), 3_478)
}

#[test]
fn rfc4787_req1_and_rfc5382_req1_mappings_are_endpoint_independent() {
    for protocol in BOTH {
        let mut bench = Bench::new(home(), protocol);
        let mapped = bench.out(inside(5_000), server(1));
        assert!(mapped.is_some());
        assert_eq!(bench.out(inside(5_000), server(2)), mapped);
        assert_eq!(bench.out(inside(5_000), at("192.0.2.1:9")), mapped);

        let mut bench =
            Bench::new(home().with_flow(|flow| flow.mapping = Mapping::AddressDependent), protocol);
        let mapped = bench.out(inside(5_000), server(1));
        assert_eq!(bench.out(inside(5_000), at("192.0.2.1:9")), mapped);
        assert_ne!(bench.out(inside(5_000), server(2)), mapped);
    }
}

#[test]
fn rfc4787_req2_a_host_is_paired_with_one_address() {
    let mut config = home();
    config.external = ["198.51.100.1", "198.51.100.2", "198.51.100.3"].map(ip).into();
    let addresses = |bench: &mut Bench| {
        let seen: std::collections::BTreeSet<_> =
            (5_000..5_050).map(|port| bench.out(inside(port), server(1)).unwrap().ip()).collect();
        seen.len()
    };
    assert_eq!(addresses(&mut Bench::new(config.clone(), Protocol::Udp)), 1);
    config.pooling = Pooling::Arbitrary;
    assert_eq!(addresses(&mut Bench::new(config, Protocol::Udp)), 3);
}

#[test]
fn rfc4787_req3_a_port_is_not_overloaded() {
    let two_hosts = |config| {
        let mut bench = Bench::new(config, Protocol::Udp);
        let first = bench.out(at("192.168.1.2:5000"), server(1)).unwrap();
        let second = bench.out(at("192.168.1.3:5000"), server(2)).unwrap();
        (first.port(), second.port())
    };
    let (first, second) = two_hosts(home());
    assert_eq!(first, 5_000);
    assert_ne!(second, 5_000);
    assert_eq!(two_hosts(home().with_flow(|flow| flow.overload = true)), (5_000, 5_000));
}

#[test]
fn rfc4787_req4_parity_is_kept_when_asked_for() {
    let config = home().with_flow(|flow| {
        flow.parity = true;
        flow.ports = PortChoice::Random;
    });
    let mut bench = Bench::new(config, Protocol::Udp);
    for local in 5_000..5_100 {
        let mapped = bench.out(inside(local), server(1)).unwrap();
        assert_eq!(mapped.port() % 2, local % 2);
    }
}

#[test]
fn rfc4787_req5_and_req6_a_mapping_lives_five_minutes_after_the_last_packet_out() {
    let mut bench = Bench::new(home(), Protocol::Udp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    bench.pass(secs(299));
    assert_eq!(bench.out(inside(5_000), server(1)), Some(mapped));
    bench.pass(secs(299));
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));
    bench.pass(secs(2));
    assert_eq!(bench.inn(server(1), mapped), None, "what comes in refreshes nothing");
    assert_eq!(bench.nat.mappings().count(), 0);

    let mut config = home();
    config.udp.inbound_refreshes = true;
    let mut bench = Bench::new(config, Protocol::Udp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    bench.pass(secs(299));
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));
    bench.pass(secs(299));
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));
}

#[test]
fn rfc4787_req8_and_rfc5382_req3_filtering_is_what_was_chosen() {
    use Filtering as F;
    for protocol in BOTH {
        for (filtering, stranger, neighbour) in [
            (F::EndpointIndependent, true, true),
            (F::AddressDependent, false, true),
            (F::AddressAndPortDependent, false, false),
        ] {
            let mut bench = Bench::new(home().with_flow(|flow| flow.filtering = filtering), protocol);
            let mapped = bench.out(inside(5_000), server(1)).unwrap();
            assert_eq!(bench.inn(server(9), mapped).is_some(), stranger, "{protocol} {filtering:?}");
            let other_port = bench.inn(at("192.0.2.1:9"), mapped);
            assert_eq!(other_port.is_some(), neighbour, "{protocol} {filtering:?}");
            let unused = SocketAddr::new(mapped.ip(), 6_000);
            assert_eq!(bench.verdict_in(server(1), unused), Verdict::Drop(DropReason::NoMapping));
        }
    }
}

#[test]
fn rfc4787_req9_and_rfc5382_req8_hairpinning_shows_the_mapped_source() {
    for protocol in BOTH {
        let mut config = home().with_flow(|flow| flow.filtering = Filtering::EndpointIndependent);
        let hairpin = |config: &NatConfig| {
            let mut bench = Bench::new(config.clone(), protocol);
            let target = bench.out(at("192.168.1.3:6000"), server(1)).unwrap();
            let mut header = bench.first(inside(5_000), target);
            let verdict = bench.nat.outbound(&mut header, bench.now);
            (verdict, header.src, header.dst)
        };
        let (verdict, ..) = hairpin(&config);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoHairpin));
        config.hairpin = Hairpin::ExternalSource;
        let mapped = SocketAddr::new(ip(EXTERNAL), 5_000);
        assert_eq!(hairpin(&config), (Verdict::Hairpin, mapped, at("192.168.1.3:6000")));
        config.hairpin = Hairpin::InternalSource;
        let turned = (Verdict::Hairpin, inside(5_000), at("192.168.1.3:6000"));
        assert_eq!(hairpin(&config), turned);
    }
}

#[test]
fn rfc4787_req9_a_refused_hairpin_is_answered_inside() {
    let mut config = home().with_unsolicited(Unsolicited::Reset);
    config.hairpin = Hairpin::ExternalSource;
    let mut bench = Bench::new(config, Protocol::Tcp);
    let mut header = bench.first(inside(5_000), SocketAddr::new(ip(EXTERNAL), 6_000));
    let Verdict::Answer(answer, DropReason::NoMapping) = bench.nat.outbound(&mut header, bench.now) else {
        panic!("an answer is due");
    };
    assert_eq!(answer.dst, inside(5_000));
    assert_eq!(answer.src, SocketAddr::new(ip(EXTERNAL), 6_000));
}

/// Returns an ICMP error from a router outside about a packet of ours.
fn error_about(bench: &Bench, external: SocketAddr, remote: SocketAddr, kind: IcmpKind) -> Header {
    let sent = bench.first(external, remote);
    sent.icmp_error(ip("192.0.2.254"), kind).unwrap()
}

#[test]
fn rfc4787_req12_and_rfc5382_req9_icmp_errors_pass_and_end_nothing() {
    for protocol in BOTH {
        let mut bench = Bench::new(home(), protocol);
        let mapped = bench.out(inside(5_000), server(1)).unwrap();
        let mut error = error_about(&bench, mapped, server(1), IcmpKind::HostUnreachable);
        assert_eq!(bench.nat.inbound(&mut error, bench.now), Verdict::Forward);
        assert_eq!(error.dst, SocketAddr::new(inside(0).ip(), 0));
        let Body::Icmp { quoted, .. } = error.body else { panic!() };
        assert_eq!((quoted.src, quoted.dst), (inside(5_000), server(1)));
        assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));

        let mut error = error_about(&bench, mapped, server(2), IcmpKind::HostUnreachable);
        let verdict = bench.nat.inbound(&mut error, bench.now);
        assert_eq!(verdict, Verdict::Drop(DropReason::UnknownQuote));
    }
    let mut config = home();
    config.tcp.icmp_deletes = true;
    let mut bench = Bench::new(config, Protocol::Tcp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    let mut error = error_about(&bench, mapped, server(1), IcmpKind::HostUnreachable);
    assert_eq!(bench.nat.inbound(&mut error, bench.now), Verdict::Forward);
    assert_eq!(bench.inn(server(1), mapped), None);
}

#[test]
fn rfc5508_req4_an_error_from_inside_shows_the_mapped_address() {
    let mut bench = Bench::new(home(), Protocol::Udp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    bench.inn(server(1), mapped).unwrap();
    let received = bench.first(server(1), inside(5_000));
    let mut error = received.icmp_error(inside(0).ip(), IcmpKind::PortUnreachable).unwrap();
    assert_eq!(bench.nat.outbound(&mut error, bench.now), Verdict::Forward);
    assert_eq!(error.src.ip(), mapped.ip());
    let Body::Icmp { quoted, .. } = error.body else { panic!() };
    assert_eq!((quoted.src, quoted.dst), (server(1), mapped));
}

#[test]
fn rfc5508_req1_echoes_are_mapped_by_their_identifier() {
    let mut bench = Bench::new(home(), Protocol::Udp);
    let echo = |src, dst, reply| Header { src, dst, ttl: 64, body: Body::Echo { reply, seq: 1, len: 0 } };
    let remote = at("192.0.2.1:0");
    let mut request = echo(inside(7_777), remote, false);
    assert_eq!(bench.nat.outbound(&mut request, bench.now), Verdict::Forward);
    assert_eq!(request.src.ip(), ip(EXTERNAL));
    let mut reply = echo(remote, request.src, true);
    assert_eq!(bench.nat.inbound(&mut reply, bench.now), Verdict::Forward);
    assert_eq!(reply.dst, inside(7_777));
    let mut stray = echo(inside(0), at("192.0.2.1:5"), true);
    assert_eq!(bench.nat.outbound(&mut stray, bench.now), Verdict::Drop(DropReason::NoRequest));
}

#[test]
fn rfc5382_req2_a_syn_against_a_syn_is_let_in() {
    let mut config = home();
    let mut bench = Bench::new(config.clone(), Protocol::Tcp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_000)));
    let ends = (inside(5_000), server(1));
    assert_eq!(bench.segment_out(ends, Flags::SYN | Flags::ACK, 100), Verdict::Forward);

    config.tcp.simultaneous_open = false;
    config.tcp.unsolicited = Unsolicited::Reset;
    let mut bench = Bench::new(config, Protocol::Tcp);
    let mapped = bench.out(inside(5_000), server(1)).unwrap();
    let verdict = bench.verdict_in(server(1), mapped);
    assert!(matches!(verdict, Verdict::Answer(_, DropReason::NoSimultaneousOpen)));
    let syn_ack = bench.segment_in((server(1), mapped), Flags::SYN | Flags::ACK, 500);
    assert_eq!(syn_ack, Verdict::Forward, "a server may still answer");
}

#[test]
fn rfc5382_req4_an_unsolicited_syn_waits_six_seconds_for_ours() {
    let config =
        home().with_unsolicited(Unsolicited::IcmpAfter { kind: IcmpKind::PortUnreachable, after: secs(6) });
    let target = SocketAddr::new(ip(EXTERNAL), 5_000);

    let mut bench = Bench::new(config.clone(), Protocol::Tcp);
    assert_eq!(bench.verdict_in(server(1), target), Verdict::Drop(DropReason::NoMapping));
    assert_eq!(bench.verdict_in(server(1), target), Verdict::Drop(DropReason::NoMapping));
    assert_eq!(bench.nat.next_answer(), Some(bench.now + secs(6)));
    bench.pass(Duration::from_millis(5_999));
    assert_eq!(bench.nat.poll_answer(bench.now), None);
    bench.pass(Duration::from_millis(1));
    let answer = bench.nat.poll_answer(bench.now).unwrap();
    assert_eq!(answer.dst.ip(), server(1).ip());
    assert!(matches!(answer.body, Body::Icmp { kind: IcmpKind::PortUnreachable, .. }));
    assert_eq!(bench.nat.poll_answer(bench.now), None, "one answer for both");

    let mut bench = Bench::new(config, Protocol::Tcp);
    bench.verdict_in(server(1), target);
    bench.pass(secs(3));
    assert_eq!(bench.out(inside(5_000), server(1)), Some(target));
    bench.pass(secs(10));
    assert_eq!(bench.nat.poll_answer(bench.now), None, "our SYN came first");
}

#[test]
fn rfc5382_req4_the_other_answers() {
    let target = SocketAddr::new(ip(EXTERNAL), 5_000);
    let answer_to = |unsolicited| {
        let mut bench = Bench::new(home().with_unsolicited(unsolicited), Protocol::Tcp);
        let verdict = bench.verdict_in(server(1), target);
        let late = bench.nat.next_answer().map(|at| at - bench.now);
        bench.pass(secs(6));
        let answer = match verdict {
            Verdict::Answer(answer, _) => Some(answer),
            _ => bench.nat.poll_answer(bench.now),
        };
        (answer, late)
    };
    assert_eq!(answer_to(Unsolicited::Silence), (None, None));
    let reset = Header::tcp(target, server(1), Flags::RST | Flags::ACK, 0, 101);
    assert_eq!(answer_to(Unsolicited::Reset), (Some(reset), None));
    let after = secs(6);
    assert_eq!(answer_to(Unsolicited::ResetAfter { after }), (Some(reset), Some(after)));
    let prohibited = answer_to(Unsolicited::Icmp(IcmpKind::Prohibited)).0.unwrap();
    let Body::Icmp { kind, quoted } = prohibited.body else { panic!() };
    assert_eq!(kind, IcmpKind::Prohibited);
    assert_eq!((quoted.src, quoted.dst, quoted.seq), (server(1), target, 100));
}

#[test]
fn rfc5382_req5_an_open_connection_lives_over_two_hours_and_a_half_open_one_four_minutes() {
    let mut bench = Bench::new(home(), Protocol::Tcp);
    let mapped = bench.connect(inside(5_000), server(1));
    bench.pass(secs(7_439));
    assert_eq!(bench.segment_in((server(1), mapped), Flags::ACK, 501), Verdict::Forward);
    bench.pass(secs(7_440));
    let late = bench.segment_in((server(1), mapped), Flags::ACK, 501);
    assert_eq!(late, Verdict::Drop(DropReason::NoSession));

    let mapped = bench.out(inside(5_001), server(1)).unwrap();
    bench.pass(secs(239));
    assert_eq!(bench.inn(server(1), mapped), Some(inside(5_001)));
    bench.pass(secs(240));
    assert_eq!(bench.inn(server(1), mapped), None);
}

#[test]
fn rfc5382_sessions_end_as_configured() {
    let ends = (inside(5_000), server(1));
    let after = |on_rst, on_fin, flags| {
        let mut config = home();
        config.tcp.on_rst = on_rst;
        config.tcp.on_fin = on_fin;
        let mut bench = Bench::new(config, Protocol::Tcp);
        let mapped = bench.connect(ends.0, ends.1);
        assert_eq!(bench.segment_out(ends, flags, 101), Verdict::Forward);
        let alive = bench.segment_in((server(1), mapped), Flags::ACK, 501) == Verdict::Forward;
        let lets_in = bench.inn(server(1), mapped).is_some();
        let fin = bench.segment_in((server(1), mapped), Flags::FIN | Flags::ACK, 501);
        bench.pass(secs(241));
        let after_close = bench.segment_in((server(1), mapped), Flags::ACK, 502) == Verdict::Forward;
        (alive, lets_in, fin == Verdict::Forward, after_close)
    };
    use Ending::{Close, Delete, Keep};
    assert_eq!(after(Delete, Keep, Flags::RST), (false, false, false, false));
    assert_eq!(after(Close, Keep, Flags::RST), (true, false, true, false));
    assert_eq!(after(Keep, Keep, Flags::RST), (true, false, true, true));
    let fin = Flags::FIN | Flags::ACK;
    assert_eq!(after(Keep, Delete, fin), (false, false, false, false));
    assert_eq!(after(Keep, Close, fin), (true, false, true, false));
    assert_eq!(after(Keep, Keep, fin), (true, false, true, true));
}

#[test]
fn a_refused_syn_leaves_the_way_in_open_where_a_rst_ends_nothing() {
    let lets_in = |on_rst| {
        let mut config = home();
        config.tcp.on_rst = on_rst;
        let mut bench = Bench::new(config, Protocol::Tcp);
        let mapped = bench.out(inside(5_000), server(1)).unwrap();
        let reset = bench.segment_in((server(1), mapped), Flags::RST | Flags::ACK, 0);
        assert_eq!(reset, Verdict::Forward);
        bench.inn(server(1), mapped).is_some()
    };
    assert!(lets_in(Ending::Keep));
    assert!(!lets_in(Ending::Close));
    assert!(!lets_in(Ending::Delete));
}

#[test]
fn segments_of_no_connection_are_dropped_both_ways() {
    let mut bench = Bench::new(home(), Protocol::Tcp);
    let ends = (inside(5_000), server(1));
    let dropped = Verdict::Drop(DropReason::NoSession);
    for flags in [Flags::ACK, Flags::RST, Flags::SYN | Flags::ACK, Flags::FIN | Flags::ACK] {
        assert_eq!(bench.segment_out(ends, flags, 1), dropped, "{flags}");
        let external = SocketAddr::new(ip(EXTERNAL), 5_000);
        assert_eq!(bench.segment_in((server(1), external), flags, 1), dropped, "{flags}");
    }
    let mapped = bench.out(ends.0, ends.1).unwrap();
    assert_eq!(bench.segment_out(ends, Flags::ACK, 101), Verdict::Drop(DropReason::OutOfState));
    let header = Header {
        src: server(1),
        dst: mapped,
        ttl: 64,
        body: Body::Tcp(TcpFacts { flags: Flags::SYN | Flags::ACK, seq: 9, ack: 101, len: 0 }),
    };
    assert_eq!(bench.nat.inbound(&mut { header }, bench.now), Verdict::Forward);
}

#[test]
fn answers_to_a_stranger_go_through_the_mapping_that_let_it_in() {
    for protocol in BOTH {
        for (mapping, filtering) in [
            (Mapping::AddressDependent, Filtering::EndpointIndependent),
            (Mapping::AddressAndPortDependent, Filtering::EndpointIndependent),
            (Mapping::AddressAndPortDependent, Filtering::AddressDependent),
        ] {
            let config = home().with_flow(|flow| {
                flow.mapping = mapping;
                flow.filtering = filtering;
                flow.ports = PortChoice::Random;
            });
            let mut bench = Bench::new(config, protocol);
            let external = bench.out(inside(5_000), server(1)).unwrap();
            let stranger = match filtering {
                Filtering::EndpointIndependent => server(2),
                _ => SocketAddr::new(server(1).ip(), 9),
            };
            assert_eq!(bench.inn(stranger, external), Some(inside(5_000)), "{mapping:?}");
            let mut answer = match protocol {
                Protocol::Tcp => Header::tcp(inside(5_000), stranger, Flags::SYN | Flags::ACK, 500, 101),
                _ => Header::udp(inside(5_000), stranger, 0),
            };
            let verdict = bench.nat.outbound(&mut answer, bench.now);
            assert_eq!((verdict, answer.src), (Verdict::Forward, external), "{mapping:?} {filtering:?}");
        }
    }
}
