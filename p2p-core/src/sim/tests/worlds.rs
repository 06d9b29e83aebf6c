//! Worlds: routes, families, nesting, signals, and that a seed is a run.

use bytes::Bytes;

use super::*;
use crate::Family;
use crate::nat::Filtering;
use crate::sim::dump::Fate;
use crate::sim::link::LinkConfig;
use crate::sim::nat::{Hairpin, NatConfigError};
use crate::sim::packet::IcmpKind;
use crate::sim::world::WorldError;

/// All UDP payloads a host has got and not yet shown, with where they came from.
fn datagrams(world: &mut World, host: HostId) -> Vec<(SocketAddr, Bytes)> {
    world.with(host, |context| {
        std::iter::from_fn(|| context.host.poll_event())
            .filter_map(|event| match event {
                HostEvent::Datagram { from, payload, .. } => Some((from, payload)),
                _ => None,
            })
            .collect()
    })
}

fn udp_bind(world: &mut World, host: HostId, local: SocketAddr) -> crate::sim::udp::UdpSocket {
    world.with(host, |context| context.host.udp_bind(local)).unwrap()
}

fn udp_send(world: &mut World, host: HostId, socket: crate::sim::udp::UdpSocket, to: SocketAddr) {
    world.with(host, |context| context.host.udp_send(socket, to, Bytes::from_static(b"?"))).unwrap();
}

#[test]
fn a_home_behind_a_carrier_is_translated_twice() {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let carrier = RouterConfig::new("carrier").with_v4(NatConfig::carrier(vec![ip(NAT_A)], 512));
    let carrier = world.add_router(carrier, internet, ms(5)).unwrap();
    let homes = ["100.64.0.2", "100.64.0.3"].map(|external| {
        let home = RouterConfig::new("home").with_v4(home(external));
        world.add_router(home, carrier, ms(5)).unwrap()
    });
    // The same inside address in both homes: nobody minds.
    let hosts = homes.map(|home| {
        let host = world.add_host("host");
        world.attach(host, home, &[ip(A)], ms(0)).unwrap();
        host
    });
    let server = world.add_host("server");
    world.attach(server, internet, &[ip(SERVER)], ms(5)).unwrap();
    let socket = udp_bind(&mut world, server, at(SERVER, 53));
    for host in hosts {
        let ours = udp_bind(&mut world, host, at(A, 5_000));
        udp_send(&mut world, host, ours, at(SERVER, 53));
    }
    world.run_for(ms(100));
    let seen = datagrams(&mut world, server);
    let nat = world.router(carrier).nat(Family::V4).unwrap();
    let blocks = ["100.64.0.2", "100.64.0.3"]
        .map(|home| nat.block(crate::sim::packet::Protocol::Udp, ip(NAT_A), ip(home)).unwrap());
    assert_eq!(seen.len(), 2);
    for ((from, _), block) in seen.iter().zip(blocks) {
        assert!(from.ip() == ip(NAT_A) && block.contains(from.port()), "{from} {block:?}");
    }
    for (from, _) in seen {
        udp_send(&mut world, server, socket, from);
    }
    world.run_for(ms(100));
    for host in hosts {
        assert_eq!(datagrams(&mut world, host).len(), 1);
    }
}

#[test]
fn neighbours_of_one_carrier_meet_by_hairpin_only() {
    for hairpin in [Hairpin::None, Hairpin::ExternalSource] {
        let mut world = World::new(Seed::from_u64(1));
        let internet = world.internet();
        let mut nat = home(NAT_A);
        nat.hairpin = hairpin;
        let carrier = world.add_router(RouterConfig::new("carrier").with_v4(nat), internet, ms(5)).unwrap();
        let [a, b] = [("100.64.0.2", A), ("100.64.0.3", B)].map(|(external, inside)| {
            let router = RouterConfig::new("home").with_v4(home(external));
            let router = world.add_router(router, carrier, ms(5)).unwrap();
            let host = world.add_host("host");
            world.attach(host, router, &[ip(inside)], ms(0)).unwrap();
            host
        });
        // Ports differ, since both share one external address.
        for (host, local, remote) in
            [(a, at(A, 5_000), at(NAT_A, 6_000)), (b, at(B, 6_000), at(NAT_A, 5_000))]
        {
            world.with(host, |context| {
                let now = context.now;
                let options = TcpOptions::shared();
                context.host.tcp_dial(Some(local), options, remote, now).unwrap();
            });
        }
        world.run_for(ms(500));
        let connected = |world: &mut World, host| {
            world.with(host, |context| {
                matches!(context.host.poll_event(), Some(HostEvent::Tcp(TcpEvent::Connected(_))))
            })
        };
        let expected = hairpin == Hairpin::ExternalSource;
        assert_eq!(connected(&mut world, a), expected);
        assert_eq!(connected(&mut world, b), expected);
    }
}

#[test]
fn an_ipv6_firewall_wants_both_to_speak() {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let (here, there) = (ip("2001:db8:1::2"), ip("2001:db8:2::2"));
    let [a, b] = [("fw-a", here), ("fw-b", there)].map(|(name, address)| {
        let firewall = NatConfig::firewall(Filtering::AddressAndPortDependent);
        let router = RouterConfig::new(name).with_v6(firewall);
        let router = world.add_router(router, internet, ms(25)).unwrap();
        let host = world.add_host("host");
        world.attach(host, router, &[address], ms(0)).unwrap();
        host
    });
    let (here, there) = (SocketAddr::new(here, 5_000), SocketAddr::new(there, 5_000));
    let ours = udp_bind(&mut world, a, here);
    let theirs = udp_bind(&mut world, b, there);
    udp_send(&mut world, a, ours, there);
    world.run_for(ms(100));
    assert!(datagrams(&mut world, b).is_empty());
    udp_send(&mut world, b, theirs, here);
    udp_send(&mut world, a, ours, there);
    world.run_for(ms(100));
    assert_eq!(datagrams(&mut world, a).len(), 1);
    assert_eq!(datagrams(&mut world, b).len(), 1);
}

#[test]
fn a_host_with_two_uplinks_uses_the_one_its_socket_is_bound_to() {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let host = world.add_host("laptop");
    for (external, inside) in [(NAT_A, A), (NAT_B, B)] {
        let router = RouterConfig::new("home").with_v4(home(external));
        let router = world.add_router(router, internet, ms(5)).unwrap();
        world.attach(host, router, &[ip(inside)], ms(1)).unwrap();
    }
    let server = world.add_host("server");
    world.attach(server, internet, &[ip(SERVER)], ms(5)).unwrap();
    udp_bind(&mut world, server, at(SERVER, 53));
    let seen_from = |world: &mut World, local| {
        let socket = udp_bind(world, host, local);
        udp_send(world, host, socket, at(SERVER, 53));
        world.run_for(ms(100));
        datagrams(world, server)[0].0.ip()
    };
    assert_eq!(seen_from(&mut world, at(A, 5_000)), ip(NAT_A));
    assert_eq!(seen_from(&mut world, at(B, 5_000)), ip(NAT_B));
    let any = |port| SocketAddr::new(ip("0.0.0.0"), port);
    assert_eq!(seen_from(&mut world, any(6_000)), ip(NAT_A), "the first one");
    world.with(host, |context| context.host.add_route(ip("192.0.2.0"), 24, 1));
    assert_eq!(seen_from(&mut world, any(6_001)), ip(NAT_B), "by route");
}

#[test]
fn a_closed_udp_port_answers_and_an_echo_too() {
    let mut homes = Homes::new(home(NAT_A), home(NAT_B));
    let (a, server) = (homes.a, homes.server);
    homes.world.run(a, Remember::default());
    let socket = udp_bind(&mut homes.world, a, at(A, 5_000));
    udp_send(&mut homes.world, a, socket, at(SERVER, 9));
    homes.world.with(a, |context| context.host.ping(ip(SERVER), 77, 3)).unwrap();
    homes.world.run_for(ms(200));
    let seen = &homes.world.program::<Remember>(a).unwrap().0;
    assert_eq!(
        seen[..],
        [
            HostEvent::Unreachable { socket, to: at(SERVER, 9), kind: IcmpKind::PortUnreachable },
            HostEvent::EchoReply { from: ip(SERVER), id: 77, seq: 3 }
        ]
    );
    assert!(homes.world.program::<Note>(a).is_none());
    assert!(homes.world.program::<Note>(server).is_some());
}

/// Keeps all events.
#[derive(Default)]
struct Remember(Vec<HostEvent>);

impl Program for Remember {
    fn handle_event(&mut self, event: HostEvent, _: &mut Context<'_>) {
        self.0.push(event);
    }
}

/// Says "tick" to everybody each second.
struct Ticker(Instant);

impl Program for Ticker {
    fn handle_event(&mut self, _: HostEvent, _: &mut Context<'_>) {}

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.0 = context.now + Duration::from_secs(1);
        context.broker.publish("time", &Bytes::from_static(b"tick"), context.now);
    }

    fn next_timeout(&self) -> Option<Instant> {
        Some(self.0)
    }
}

#[test]
fn programs_keep_time_and_hear_signals() {
    let mut world = World::new(Seed::from_u64(1));
    world.set_broker(LinkConfig::with_latency(ms(300))).unwrap();
    let (clock, listener) = (world.add_host("clock"), world.add_host("listener"));
    world.run(clock, Ticker(epoch() + Duration::from_secs(1)));
    world.run(listener, Remember::default());
    world.with(listener, |context| context.broker.subscribe(context.id, "time"));
    let heard = |world: &World| world.program::<Remember>(listener).unwrap().0.len();
    world.run_until(epoch() + ms(3_299));
    assert_eq!(heard(&world), 2);
    world.run_until(epoch() + ms(3_300));
    assert_eq!(heard(&world), 3);
    assert!(world.run_until_done(epoch() + ms(10_000), |world| heard(world) == 5));
    assert_eq!(world.elapsed(), ms(5_300));
    assert!(!world.run_until_done(epoch() + ms(6_000), |world| heard(world) == 9));
}

#[test]
fn renumbering_moves_the_address_and_reboot_forgets() {
    let mut homes = Homes::new(home(NAT_A), home(NAT_B));
    let (a, server, nat_a) = (homes.a, homes.server, homes.nat_a);
    homes.world.run(server, Remember::default());
    let theirs = udp_bind(&mut homes.world, server, at(SERVER, 53));
    let ours = udp_bind(&mut homes.world, a, at(A, 5_000));
    udp_send(&mut homes.world, a, ours, at(SERVER, 53));
    homes.world.run_for(ms(100));
    homes.world.renumber(nat_a, vec![ip("198.51.100.77")]).unwrap();
    udp_send(&mut homes.world, a, ours, at(SERVER, 53));
    homes.world.run_for(ms(100));
    let from: Vec<_> = homes.world.program::<Remember>(server).unwrap().0.to_vec();
    let addresses: Vec<_> = from
        .iter()
        .filter_map(|event| match event {
            HostEvent::Datagram { from, .. } => Some(from.ip()),
            _ => None,
        })
        .collect();
    assert_eq!(addresses, [ip(NAT_A), ip("198.51.100.77")]);
    let lost = homes.world.counters().lost;
    udp_send(&mut homes.world, server, theirs, at(NAT_A, 5_000));
    homes.world.run_for(ms(100));
    assert_eq!(homes.world.counters().lost, lost + 1, "nobody has the old address");
    let taken = homes.world.renumber(nat_a, vec![ip(NAT_B)]);
    assert_eq!(taken, Err(WorldError::AddressTaken(ip(NAT_B))));
    homes.world.reboot(nat_a);
    assert_eq!(homes.world.router(nat_a).nat(Family::V4).unwrap().mappings().count(), 0);
}

#[test]
fn an_impossible_world_is_refused_and_nothing_is_added() {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let host = world.add_host("a");
    world.attach(host, internet, &[ip(NAT_A)], ms(0)).unwrap();
    let add = |world: &mut World, nat| world.add_router(RouterConfig::new("r").with_v4(nat), internet, ms(0));
    assert_eq!(add(&mut world, home(NAT_A)), Err(WorldError::AddressTaken(ip(NAT_A))));
    let v6 = ip("2001:db8::1");
    let wrong = WorldError::Family { family: Family::V4, ip: v6 };
    assert_eq!(add(&mut world, NatConfig::home(v6)), Err(wrong));
    let mut twice = home(NAT_B);
    twice.external.push(ip(NAT_B));
    assert_eq!(add(&mut world, twice), Err(WorldError::Nat(NatConfigError::Twice(ip(NAT_B)))));
    let lossy = LinkConfig { loss: 2.0, ..LinkConfig::default() };
    assert!(matches!(world.attach(host, internet, &[ip(NAT_B)], lossy), Err(WorldError::Link(_))));
    assert!(world.attach(host, internet, &[ip(NAT_B), ip(NAT_B)], ms(0)).is_err());
    assert!(world.attach(host, internet, &[ip(NAT_B)], ms(0)).is_ok());
}

/// A busy world: bad links, all kinds of NATs, a broker, and dice.
fn busy(seed: u64) -> World {
    let mut world = World::new(Seed::from_u64(seed));
    let internet = world.internet();
    world
        .set_broker(LinkConfig { loss: 0.1, duplicate: 0.1, jitter: ms(40), ..LinkConfig::default() })
        .unwrap();
    let link = LinkConfig {
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        jitter: ms(10),
        ..LinkConfig::with_latency(ms(20))
    };
    let hosts =
        [NatConfig::linux_fully_random(ip(NAT_A)), NatConfig::carrier(vec![ip(NAT_B)], 64)].map(|nat| {
            let router = world.add_router(RouterConfig::new("nat").with_v4(nat), internet, link).unwrap();
            let host = world.add_host("host");
            world.attach(host, router, &[ip(A)], link).unwrap();
            host
        });
    world.set_recording(1_000_000);
    for port in 0..20 {
        for (host, remote) in [(hosts[0], NAT_B), (hosts[1], NAT_A)] {
            world.at(epoch() + ms(37 * u64::from(port)), host, move |context| {
                let options = TcpOptions::shared();
                let now = context.now;
                let remote = at(remote, 30_000 + port);
                let _ = context.host.tcp_dial(Some(at(A, 5_000 + port)), options, remote, now);
            });
        }
    }
    world.run_for(Duration::from_secs(15));
    world
}

#[test]
fn a_seed_is_a_run() {
    let dump = |seed| {
        let world = busy(seed);
        let mut pcap = Vec::new();
        world.write_pcap(world.internet(), &mut pcap).unwrap();
        (world.story().to_string(), pcap)
    };
    let first = dump(7);
    assert!(first.0.lines().count() > 500 && first.1.len() > 5_000);
    assert!(first == dump(7));
    assert!(first.0 != dump(8).0);
}

#[test]
fn a_pcap_holds_what_passed_in_the_order_it_did() {
    let mut homes = Homes::new(home(NAT_A), home(NAT_B));
    homes.punch(20);
    let mut pcap = Vec::new();
    homes.world.write_pcap(homes.a, &mut pcap).unwrap();
    assert_eq!(pcap[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    let mut rest = &pcap[24..];
    let (mut count, mut last) = (0, (0, 0));
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let (time, len) = ((word(0), word(4)), word(8) as usize);
        assert!(time >= last);
        last = time;
        let packet = &rest[16..16 + len];
        assert_eq!(crate::sim::wire::checksum_holds(packet), Ok(true));
        rest = &rest[16 + len..];
        count += 1;
    }
    let at_a =
        homes.world.records().iter().filter(|record| {
            record.node == homes.a.into() && matches!(record.fate, Fate::Sent | Fate::Received)
        });
    assert_eq!(count, at_a.count());
    // SYN, SYN-ACK and ACK each way, as SYNs that cross do.
    assert_eq!(count, 6);
}

#[test]
fn thousands_of_attempts_leave_nothing_behind() {
    let mut homes = Homes::new(home(NAT_A), home(NAT_B));
    homes.world.set_recording(0);
    let (a, b) = (homes.a, homes.b);
    let mut most_queued = 0;
    for attempt in 0..3_000_u16 {
        let port = 2_000 + attempt;
        let now = homes.world.elapsed().as_millis() as u64;
        homes.dial_at(now, a, at(A, port), at(NAT_B, port));
        homes.dial_at(now + 30, b, at(B, port), at(NAT_A, port));
        homes.world.run_for(ms(300));
        most_queued = most_queued.max(homes.world.queued());
        for host in [a, b] {
            homes.world.with(host, |context| {
                let socket = context.host.tcp().sockets().next().unwrap();
                context.host.tcp_mut().abort(socket);
                assert_eq!(context.host.tcp().socket_count(), 0);
            });
        }
    }
    assert_eq!(homes.log(a).len(), 3_000);
    // Timers of aborted sockets are left to run out; nothing else is.
    assert!(most_queued <= 20, "{most_queued}");
    let nat = homes.world.router(homes.nat_a).nat(Family::V4).unwrap();
    // Sessions live 7,440 s at most; the run took 900.
    assert_eq!(nat.mappings().count(), 3_000);
    homes.world.run_for(Duration::from_secs(7_500));
    homes.dial_at(0, a, at(A, 1_999), at(NAT_B, 1_999));
    homes.world.run_for(ms(300));
    let nat = homes.world.router(homes.nat_a).nat(Family::V4).unwrap();
    assert_eq!(nat.mappings().count(), 1, "what has expired is swept");
}
