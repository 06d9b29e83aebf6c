//! The probe against whole simulated networks, and against hostile servers.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, NatType, PortRange, SynAnswer};
use crate::sim::epoch;
use crate::sim::nat::{FlowConfig, Hairpin as SimHairpin, NatConfig, PortChoice, StepScope, Unsolicited};
use crate::sim::prober::Prober;
use crate::sim::probing::ProbeScene;
use crate::stun::query::Server;
use crate::stun::{Attribute, Message};

const INSIDE: &str = "192.168.1.2";
const OUTSIDE: &str = "198.51.100.1";
const RTT: Duration = Duration::from_millis(40);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Probes a home behind `nat`.
fn probed(nat: NatConfig, number: u64) -> (NatReport, Duration, crate::sim::world::World) {
    scene(nat, number).probed().unwrap()
}

fn scene(nat: NatConfig, number: u64) -> ProbeScene {
    ProbeScene::new(nat, RTT, 0, number).unwrap()
}

fn preset(nat: NatType, kind: DeltaKind, value: i16) -> NatConfig {
    let range = PortRange { first: 35_000, last: 65_535 };
    NatConfig::of_type(nat, Delta { kind, value }, range, ip(OUTSIDE))
}

/// Returns the value that stands for a delta, different for each kind so that none is right by accident.
fn value(kind: DeltaKind) -> i16 {
    match kind {
        DeltaKind::Equal | DeltaKind::Random => 0,
        DeltaKind::Preserving => 77,
        DeltaKind::Independent => -3,
        DeltaKind::Dependent => 2,
    }
}

/// Returns the facts that others cannot change, over both transports.
fn facts(report: &NatReport) -> [(Option<NatType>, Option<Delta>); 2] {
    let facts = report.facts();
    [facts.tcp, facts.udp].map(|facts| (facts.nat, facts.delta))
}

#[test]
fn all_35_presets_over_both_transports() {
    for nat in NatType::ALL {
        for kind in DeltaKind::ALL {
            let busy = |flow: &mut FlowConfig| flow.background = 20.0;
            let nat_config = preset(nat, kind, value(kind));
            let (busy, _, _) = probed(nat_config.clone().with_flow(busy), 1);
            assert_eq!(facts(&busy), facts(&probed(nat_config.clone(), 1).0), "{nat} {kind}");
            let (report, took, _) = probed(nat_config, 1);
            for verdicts in [&report.udp, &report.tcp] {
                let judged = verdicts.nat.unwrap();
                assert_eq!(judged.value, nat, "{nat} {kind}: {verdicts:#?}");
                if nat == NatType::Blocked {
                    continue;
                }
                let translates = !matches!(nat, NatType::Open | NatType::SymmetricFirewall);
                let expected = if translates {
                    Delta { kind, value: value(kind) }
                } else {
                    Delta { kind: DeltaKind::Equal, value: 0 }
                };
                assert_eq!(verdicts.delta.unwrap().value, expected, "{nat} {kind}: {report:#?}");
                assert_eq!(verdicts.translates.unwrap().value, translates);
            }
            if nat != NatType::Blocked {
                assert!(took <= RTT * 10, "{nat} {kind}: {took:?}");
            }
        }
    }
}

#[test]
fn the_first_address_is_early() {
    let mut scene = scene(preset(NatType::PortRestricted, DeltaKind::Equal, 0), 1);
    let probe = Probe::new(scene.config, Seed::from_u64(1), scene.world.now()).unwrap();
    let mut prober = Prober::new(probe);
    scene.world.with(scene.host, |context| prober.start(context));
    scene.world.run(scene.host, prober);
    scene.world.run_for(RTT * 3);
    let prober = scene.world.program::<Prober>(scene.host).unwrap();
    let heard: Vec<_> = prober
        .events()
        .iter()
        .filter_map(|(at, event)| match event {
            Event::External { transport, mapped, .. } => Some((*transport, *at - epoch(), mapped.0.ip())),
            Event::Done(_) => None,
        })
        .collect();
    assert_eq!(
        heard,
        [(Transport::Udp, RTT, ip(OUTSIDE)), (Transport::Tcp, RTT * 2, ip(OUTSIDE))],
        "one round trip over UDP, two over TCP"
    );
}

#[test]
fn half_of_the_servers_may_be_dead() {
    let scene = ProbeScene::new(preset(NatType::Symmetric, DeltaKind::Independent, 1), RTT, 2, 3).unwrap();
    let (report, took, _) = scene.probed().unwrap();
    assert!(took <= ms(1_200), "{took:?}");
    for verdicts in [report.udp, report.tcp] {
        assert_eq!(verdicts.nat.unwrap().value, NatType::Symmetric);
        let expected = Delta { kind: DeltaKind::Independent, value: 1 };
        assert_eq!(verdicts.delta.unwrap().value, expected);
    }
    let dead = report.servers.iter().filter(|server| server.failure.is_some()).count();
    assert_eq!(dead, 4, "each dead server is named, for each transport: {:#?}", report.servers);
}

#[test]
fn one_server_of_four_is_enough_for_the_delta() {
    for kind in DeltaKind::ALL {
        let nat = preset(NatType::PortRestricted, kind, value(kind));
        let (report, _, _) = ProbeScene::new(nat, RTT, 3, 3).unwrap().probed().unwrap();
        for verdicts in [report.udp, report.tcp] {
            assert_eq!(verdicts.delta.unwrap().value, Delta { kind, value: value(kind) });
            let mapping = verdicts.mapping.unwrap();
            assert!(mapping.confidence <= 0.9, "one server is one witness: {mapping:?}");
        }
    }
}

#[test]
fn no_server_gets_more_than_forty_packets() {
    for dead in [0, 2, 3] {
        let mut scene =
            ProbeScene::new(preset(NatType::Restricted, DeltaKind::Random, 0), RTT, dead, 3).unwrap();
        scene.world.set_recording(100_000);
        let host = scene.host;
        let (report, _, world) = scene.probed().unwrap();
        let mut sent: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for record in world.records() {
            if record.node == host.into() && record.fate == crate::sim::dump::Fate::Sent {
                *sent.entry(record.packet.header.dst.ip()).or_default() += 1;
            }
        }
        let most = sent.values().max().copied().unwrap();
        assert!((20..=40).contains(&most), "{most}: {:#?}", report.servers);
        assert!(report.servers.iter().all(|server| server.packets <= 27));
    }
}

#[test]
fn a_syn_that_is_not_let_in_shows_the_answer() {
    use crate::sim::packet::IcmpKind;
    let icmp = Unsolicited::Icmp(IcmpKind::PortUnreachable);
    for (unsolicited, answer) in [
        (Unsolicited::Silence, SynAnswer::Silence),
        (Unsolicited::Reset, SynAnswer::Reset),
        (icmp, SynAnswer::Icmp),
    ] {
        let nat = preset(NatType::PortRestricted, DeltaKind::Equal, 0).with_unsolicited(unsolicited);
        let (report, _, _) = probed(nat, 5);
        assert_eq!(report.tcp.syn.unwrap().value, answer);
        assert_eq!(report.tcp.filtering.unwrap().value, Filtering::AddressAndPortDependent);
        assert_eq!(report.facts().tcp.syn, Some(answer));
    }
}

/// Probes a home behind `nat` without helpers, where the second of two servers dials back.
fn dialled_back(nat: NatConfig) -> (NatReport, Duration, BTreeMap<IpAddr, u32>) {
    use crate::sim::stun::StunServer;
    let mut scene = scene(nat, 5);
    scene.config.helpers.clear();
    scene.config.servers.truncate(2);
    let [first, second] = [at("192.0.2.60:3478"), at("192.0.2.61:3479")];
    let server = scene.world.add_host("dialler");
    let internet = scene.world.internet();
    scene.world.attach(server, internet, &[first.ip(), second.ip()], RTT / 4).unwrap();
    let responder = crate::stun::Responder::new(first).with_alternate(second).with_dialling();
    let stun = scene.world.with(server, |context| StunServer::bind(context.host, responder)).unwrap();
    scene.world.run(server, stun);
    let both = [Transport::Udp, Transport::Tcp].map(|transport| Server { address: first, transport });
    scene.config.servers.extend(both);
    scene.world.set_recording(100_000);
    let host = scene.host;
    let (report, took, world) = scene.probed().unwrap();
    let mut sent: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for record in world.records() {
        if record.node == host.into() && record.fate == crate::sim::dump::Fate::Sent {
            *sent.entry(record.packet.header.dst.ip()).or_default() += 1;
        }
    }
    (report, took, sent)
}

#[test]
fn a_server_that_dials_back_shows_the_answer_and_the_filtering() {
    use crate::sim::packet::IcmpKind;
    let icmp = Unsolicited::Icmp(IcmpKind::PortUnreachable);
    for nat in [NatType::Open, NatType::FullCone, NatType::Restricted, NatType::PortRestricted] {
        for (unsolicited, answer) in [
            (Unsolicited::Silence, SynAnswer::Silence),
            (Unsolicited::Reset, SynAnswer::Reset),
            (icmp, SynAnswer::Icmp),
        ] {
            let config = preset(nat, DeltaKind::Equal, 0).with_unsolicited(unsolicited);
            let (report, took, sent) = dialled_back(config);
            let lets_in = matches!(nat, NatType::Open | NatType::FullCone);
            assert_eq!(report.tcp.syn.map(|known| known.value), (!lets_in).then_some(answer), "{report}");
            let filtering = match nat {
                NatType::Open | NatType::FullCone => Filtering::EndpointIndependent,
                NatType::Restricted => Filtering::AddressDependent,
                _ => Filtering::AddressAndPortDependent,
            };
            let known = report.tcp.filtering.unwrap();
            assert_eq!(known.value, filtering, "{nat}: {report}");
            assert_eq!(known.how, crate::nat::verdict::How::Measured);
            assert_eq!(report.tcp.nat.unwrap().value, nat);
            assert!(took <= RTT * 10, "{nat}: {took:?}");
            assert!(sent.values().all(|count| *count <= 40), "{nat}: {sent:?}");
        }
    }
}

#[test]
fn without_helpers_nothing_is_said_about_syns() {
    for is_known in [true, false] {
        let mut scene = scene(preset(NatType::FullCone, DeltaKind::Equal, 0), 5);
        // The one helper is at an address that no host has, or there is none.
        scene.config.helpers = if is_known { vec![ip("192.0.2.250")] } else { Vec::new() };
        let (report, took, _) = scene.probed().unwrap();
        assert_eq!(report.tcp.syn, None);
        assert_eq!(report.tcp.filtering.unwrap().how, crate::nat::verdict::How::Inferred, "from UDP");
        assert_eq!(report.tcp.nat.unwrap().value, NatType::FullCone);
        assert!(took <= RTT * 10, "{took:?}");
    }
}

#[test]
fn finer_axes() {
    let nat = preset(NatType::Symmetric, DeltaKind::Random, 0)
        .with_flow(|flow| flow.mapping = Mapping::AddressDependent);
    let (report, _, _) = probed(nat, 5);
    for verdicts in [report.udp, report.tcp] {
        assert_eq!(verdicts.mapping.unwrap().value, Mapping::AddressDependent);
        assert_eq!(verdicts.nat.unwrap().value, NatType::Symmetric);
        assert!(verdicts.stable.unwrap().value);
        assert!(!verdicts.hairpin.unwrap().value);
    }
    let mut nat = preset(NatType::FullCone, DeltaKind::Preserving, -500);
    nat.hairpin = SimHairpin::ExternalSource;
    let (report, _, _) = probed(nat, 5);
    for verdicts in [report.udp, report.tcp] {
        assert!(verdicts.hairpin.unwrap().value);
    }
    let counters = PortChoice::Step { by: 2, scope: StepScope::PerDestination };
    let nat = preset(NatType::Symmetric, DeltaKind::Random, 0).with_flow(|flow| flow.ports = counters);
    let (report, _, _) = probed(nat, 5);
    for verdicts in [report.udp, report.tcp] {
        let expected = Delta { kind: DeltaKind::Independent, value: 2 };
        assert_eq!(verdicts.delta.unwrap().value, expected);
        assert_eq!(verdicts.scope.unwrap().value, crate::nat::delta::Scope::PerDestination);
        assert_eq!(verdicts.rate, None);
    }
    let (report, _, _) = probed(NatConfig::linux_masquerade(ip(OUTSIDE)), 5);
    assert_eq!(report.tcp.nat.unwrap().value, NatType::PortRestricted);
    let (report, _, _) = probed(NatConfig::carrier(vec![ip(OUTSIDE)], 512), 5);
    assert_eq!(report.tcp.block.map(|block| block.value.size()), Some(512));
    assert_eq!(report.facts().udp.block.map(|block| block.size()), Some(512));
}

#[test]
fn only_udp_is_blocked() {
    let mut nat = preset(NatType::PortRestricted, DeltaKind::Equal, 0);
    nat.udp.flow.policy = crate::sim::nat::Policy::Blocked;
    let (report, _, _) = probed(nat, 5);
    assert_eq!(report.udp.nat.unwrap().value, NatType::Blocked);
    assert_eq!(report.tcp.nat.unwrap().value, NatType::PortRestricted);
    assert!(report.to_string().contains("UDP is blocked here; TCP works."), "{report}");
}

#[test]
fn without_servers_it_is_done_at_once() {
    let mut probe = Probe::new(ProbeConfig::new(ip(INSIDE)), Seed::from_u64(1), epoch()).unwrap();
    let drained = crate::sim::laws::drain(&mut probe);
    assert!(drained.acts.is_empty() && drained.wait.is_none());
    let [Event::Done(report)] = &drained.events[..] else { panic!("{drained:?}") };
    assert!(!report.is_online() && report.to_string().contains("no server was asked"));
}

/// Runs a probe with three servers whose acts are answered by `answer`.
fn by_hand(answer: impl Fn(&mut Probe, Local, SocketAddr, &[u8], Instant)) -> (NatReport, Counters) {
    let mut config = ProbeConfig::new(ip(INSIDE));
    for host in 1..4_u8 {
        let address = SocketAddr::new(IpAddr::from([192, 0, 2, host]), 3_478);
        config.servers.push(Server { address, transport: Transport::Udp });
    }
    let mut now = epoch();
    let mut probe = Probe::new(config, Seed::from_u64(9), now).unwrap();
    for _ in 0..10_000 {
        match probe.poll_output() {
            Output::Act(Act::SendUdp { from, to, bytes }) => answer(&mut probe, from, to, &bytes, now),
            Output::Act(_) | Output::Event(Event::External { .. }) => {}
            Output::Event(Event::Done(report)) => return (*report, probe.counters()),
            Output::Wait(wait) => {
                now = wait.unwrap().at;
                probe.handle_timeout(now);
            }
        }
    }
    panic!("it does not end");
}

fn success(request: &[u8], mapped: SocketAddr) -> Vec<u8> {
    let id = Header::decode(request).unwrap().transaction;
    let message = Message::new(Class::Success, crate::stun::Method::BINDING, id);
    message.with(Attribute::XorMappedAddress(mapped)).encode(Transport::Udp).unwrap()
}

#[test]
fn strangers_and_wrong_ids_are_counted_and_dropped() {
    let (report, counters) = by_hand(|probe, at, to, request, now| {
        let mapped = "198.51.100.1:9".parse().unwrap();
        let answer = success(request, mapped);
        probe.handle_datagram(at, super::tests::at("203.0.113.66:3478"), &answer, now);
        let mut wrong = answer.clone();
        wrong[10] ^= 1;
        probe.handle_datagram(at, to, &wrong, now);
        probe.handle_datagram(at, to, &[0xff; 1_400], now);
        probe.handle_datagram(at, to, &vec![0; 65_535], now);
        let other = Local(SocketAddr::new(at.0.ip(), 1));
        probe.handle_datagram(other, to, &answer, now);
    });
    assert!(!report.is_online());
    assert_eq!(report.udp.nat.unwrap().value, NatType::Blocked);
    let sent = counters.sent;
    assert!(sent >= 9, "{counters:?}");
    assert_eq!((counters.strangers, counters.foreign), (sent, 3 * sent), "{counters:?}");
    assert!(counters.garbage >= sent, "{counters:?}");
}

#[test]
fn a_server_that_changes_its_mind_is_believed_once() {
    let (report, _) = by_hand(|probe, at, to, request, now| {
        for last in 1..5 {
            let mapped = SocketAddr::new(IpAddr::from([198, 51, 100, last]), at.0.port());
            probe.handle_datagram(at, to, &success(request, mapped), now);
        }
    });
    assert_eq!(report.external.unwrap().value, ip("198.51.100.1"));
    assert_eq!(report.pool.len(), 1);
    assert_eq!(report.udp.delta.unwrap().value.kind, DeltaKind::Equal);
}

#[test]
fn one_liar_of_three_is_out_voted() {
    for lie in ["203.0.113.5:7777", "198.51.100.1:7777"] {
        let (report, _) = by_hand(|probe, at, to, request, now| {
            let mapped = match to.ip() == ip("192.0.2.2") {
                true => super::tests::at(lie),
                false => SocketAddr::new(ip(OUTSIDE), at.0.port()),
            };
            probe.handle_datagram(at, to, &success(request, mapped), now);
        });
        assert_eq!(report.external.unwrap().value, ip(OUTSIDE));
        assert_eq!(report.udp.mapping.unwrap().value, Mapping::EndpointIndependent, "{lie}");
        assert_eq!(report.udp.delta.unwrap().value.kind, DeltaKind::Equal);
        let liars: Vec<_> = report.servers.iter().filter(|server| server.is_liar).collect();
        assert!(matches!(liars[..], [liar] if liar.server.ip() == ip("192.0.2.2")), "{liars:?}");
    }
}

#[test]
fn an_absurd_address_is_no_answer() {
    for absurd in ["0.0.0.0:5", "224.0.0.1:5", "198.51.100.1:0", "[2001:db8::1]:5"] {
        let (report, _) = by_hand(|probe, at, to, request, now| {
            probe.handle_datagram(at, to, &success(request, super::tests::at(absurd)), now);
        });
        assert!(!report.is_online(), "{absurd}");
        assert!(report.servers.iter().all(|server| matches!(server.failure, Some(Failure::Absurd(_)))));
    }
}

#[test]
fn ports_in_use_are_not_taken_for_a_nat() {
    let mut config = ProbeConfig::new(ip(INSIDE));
    config.servers.push(Server { address: at("192.0.2.1:3478"), transport: Transport::Udp });
    let mut probe = Probe::new(config, Seed::from_u64(9), epoch()).unwrap();
    let mut tried = BTreeSet::new();
    let report = loop {
        match probe.poll_output() {
            Output::Act(Act::SendUdp { from, to, .. }) => {
                tried.insert(from);
                probe.handle_unreachable(from, to, io::ErrorKind::AddrInUse, epoch());
            }
            Output::Event(Event::Done(report)) => break report,
            Output::Wait(wait) => probe.handle_timeout(wait.unwrap().at),
            _ => {}
        }
    };
    assert_eq!(tried.len(), 1 + usize::from(MOST_RETRIES));
    assert_eq!(report.udp.nat, None, "nothing was ever sent");
}

/// The behaviour of a server over TCP.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    Drips,
    Garbage,
    Huge,
    Hangs,
    Closes,
}

#[test]
fn servers_that_spoil_their_tcp_are_named_and_cost_nothing_more() {
    use Manner::{Answers, Closes, Drips, Garbage, Hangs, Huge};
    let manners = [Answers, Drips, Garbage, Huge, Hangs, Closes];
    let mut config = ProbeConfig::new(ip(INSIDE));
    for host in 1..=6_u8 {
        let address = SocketAddr::new(IpAddr::from([192, 0, 2, host]), 3_478);
        config.servers.push(Server { address, transport: Transport::Tcp });
    }
    let mut now = epoch();
    let mut probe = Probe::new(config, Seed::from_u64(9), now).unwrap();
    let report = loop {
        match probe.poll_output() {
            Output::Act(Act::OpenTcp { from, to }) => probe.handle_tcp_open(from, to, now + ms(1)),
            Output::Act(Act::SendTcp { from, to, bytes }) => {
                let IpAddr::V4(host) = to.ip() else { panic!("only IPv4 is asked") };
                let mapped = SocketAddr::new(ip(OUTSIDE), from.0.port());
                let answer = success(&bytes, mapped);
                match manners[usize::from(host.octets()[3]) - 1] {
                    Answers => probe.handle_tcp_data(from, to, &answer, now + ms(2)),
                    Drips => answer.chunks(1).for_each(|byte| probe.handle_tcp_data(from, to, byte, now)),
                    Garbage => probe.handle_tcp_data(from, to, b"HTTP/1.1 400 Bad Request\r\n\r\n", now),
                    Huge => {
                        let header = b"\x01\x01\xff\xfc\x21\x12\xa4\x42aaaaaaaaaaaa";
                        probe.handle_tcp_data(from, to, header, now);
                        probe.handle_tcp_data(from, to, &vec![0; 65_532], now);
                    }
                    Hangs => {}
                    Closes => probe.handle_tcp_closed(from, to, None, now),
                }
            }
            Output::Act(_) | Output::Event(Event::External { .. }) => {}
            Output::Event(Event::Done(report)) => break report,
            Output::Wait(wait) => {
                now = wait.unwrap().at;
                probe.handle_timeout(now);
            }
        }
    };
    assert!(now - epoch() < ms(1_200), "{:?}", now - epoch());
    let failure = |manner| {
        let index = manners.iter().position(|known| *known == manner).unwrap();
        report.servers[index].failure.clone()
    };
    assert_eq!((failure(Answers), failure(Drips)), (None, None));
    assert!(matches!(failure(Garbage), Some(Failure::Garbage(_))));
    assert!(matches!(failure(Huge), Some(Failure::Garbage(_))));
    assert!(matches!(failure(Hangs), Some(Failure::Spared | Failure::Fault(Fault::Silent))));
    assert_eq!(failure(Closes), Some(Failure::Closed));
    assert_eq!(report.tcp.delta.unwrap().value.kind, DeltaKind::Equal);
    assert_eq!(report.tcp.mapping.unwrap().value, Mapping::EndpointIndependent);
}

/// Probes a home with servers whose names are resolved at the times in `told`, in order.
fn resolved_late(dead: u8, told: &[(Duration, Result<usize, &str>)]) -> (NatReport, Duration) {
    let mut scene =
        ProbeScene::new(preset(NatType::PortRestricted, DeltaKind::Equal, 0), RTT, dead, 3).unwrap();
    let servers = std::mem::take(&mut scene.config.servers);
    scene.config.names = told.len();
    let (start, host) = (scene.world.now(), scene.host);
    let look_up = |(after, outcome): &(Duration, Result<usize, &str>)| {
        let found = match outcome {
            // Each server is there twice, once for each transport.
            Ok(index) => Ok(servers[index * 2..index * 2 + 2].to_vec()),
            Err(why) => Err(("stun.example:3478".to_owned(), (*why).to_owned())),
        };
        (start + *after, found)
    };
    let probe = Probe::new(scene.config, scene.seed, start).unwrap();
    let mut prober = Prober::new(probe).with_names(told.iter().map(look_up).collect());
    scene.world.with(host, |context| prober.start(context));
    scene.world.run(host, prober);
    let done = |world: &crate::sim::world::World| {
        let (at, report) = world.program::<Prober>(host)?.report()?;
        Some((report.clone(), at - start))
    };
    scene.world.run_until_done(start + ms(30_000), |world| done(world).is_some());
    done(&scene.world).unwrap()
}

#[test]
fn names_may_be_resolved_late() {
    let told = [(ms(3_000), Ok(0)), (ms(3_010), Ok(1)), (ms(3_020), Ok(2))];
    let (report, took) = resolved_late(0, &told);
    assert_eq!(report.tcp.nat.unwrap().value, NatType::PortRestricted);
    assert_eq!(report.tcp.mapping.unwrap().value, Mapping::EndpointIndependent);
    assert!(took <= ms(3_000) + RTT * 10, "{took:?}");
    let answered: BTreeSet<_> = report.servers.iter().map(|server| server.server.ip()).collect();
    assert_eq!(answered.len(), 3, "{report}");
}

#[test]
fn a_name_is_not_waited_for_when_others_have_answered() {
    let (report, took) = resolved_late(0, &[(ms(0), Ok(0)), (ms(1), Ok(1)), (ms(9_000), Ok(2))]);
    assert!(took <= ms(1_200), "{took:?}");
    assert_eq!(report.udp.nat.unwrap().value, NatType::PortRestricted);
}

#[test]
fn a_name_without_an_address_is_named_and_ends_the_waiting() {
    let (report, took) = resolved_late(0, &[(ms(5), Err("no such name")), (ms(50), Err("no such name"))]);
    assert_eq!(took, ms(50), "nothing is left to wait for");
    let text = report.to_string();
    assert!(text.contains("no server was found"), "{text}");
    assert!(text.contains("No use: stun.example:3478: no such name."), "{text}");
    // A resolver that never comes back must not be waited for longer than configured.
    let mut config = ProbeConfig::new(ip(INSIDE));
    (config.names, config.names_within) = (1, ms(7_000));
    let mut probe = Probe::new(config, Seed::from_u64(1), epoch()).unwrap();
    let mut now = epoch();
    while let Some(wait) = crate::sim::laws::drain(&mut probe).wait {
        now = wait.at;
        probe.handle_timeout(now);
    }
    assert_eq!(now, epoch() + ms(7_000));
}

#[test]
fn beyond_the_dead_there_are_other_servers() {
    let mut scene = scene(preset(NatType::PortRestricted, DeltaKind::Equal, 0), 3);
    let alive = std::mem::take(&mut scene.config.servers);
    for host in 1..9_u8 {
        let address = SocketAddr::new(IpAddr::from([192, 0, 2, 100 + host]), 3_478);
        for transport in [Transport::Udp, Transport::Tcp] {
            scene.config.servers.push(Server { address, transport });
        }
    }
    // Another port of a good server is dead, too.
    let wrong = |server: Server| Server { address: SocketAddr::new(server.address.ip(), 9), ..server };
    scene.config.servers.extend(alive.iter().copied().map(wrong));
    scene.config.servers.extend(alive);
    let (report, took, _) = scene.probed().unwrap();
    assert_eq!(report.tcp.nat.unwrap().value, NatType::PortRestricted, "{report}");
    assert!(took <= ms(3_000), "{took:?}");
}

#[test]
fn too_many_servers_are_the_callers_fault() {
    let mut config = ProbeConfig::new(ip(INSIDE));
    let server = Server { address: at("192.0.2.1:3478"), transport: Transport::Udp };
    config.servers = vec![server; MOST_SERVERS + 1];
    assert!(Probe::new(config, Seed::from_u64(1), epoch()).is_err());
}
