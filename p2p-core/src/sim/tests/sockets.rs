//! The sockets of a host, without NATs: what a program sees of the kernel.

use super::*;
use crate::sim::link::LinkConfig;
use crate::sim::packet::{Body, Flags};
use crate::sim::tcp::{SocketError, TcpState, TcpTimers};

/// Two hosts on the Internet, 10 ms apart, with nothing running on them.
fn pair_over(link: LinkConfig, timers: TcpTimers) -> (World, HostId, HostId) {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let [a, b] = [("a", NAT_A), ("b", NAT_B)].map(|(name, address)| {
        let host = world.add_host_with(name, timers);
        world.attach(host, internet, &[ip(address)], link).unwrap();
        host
    });
    world.set_recording(100_000);
    (world, a, b)
}

fn pair() -> (World, HostId, HostId) {
    pair_over(LinkConfig::with_latency(ms(5)), TcpTimers::default())
}

fn dial(
    world: &mut World,
    host: HostId,
    local: Option<SocketAddr>,
    options: TcpOptions,
    remote: SocketAddr,
) -> Result<TcpSocket, SocketError> {
    world.with(host, |context| {
        let now = context.now;
        context.host.tcp_dial(local, options, remote, now)
    })
}

fn listen(
    world: &mut World,
    host: HostId,
    local: SocketAddr,
    options: TcpOptions,
) -> Result<TcpSocket, SocketError> {
    world.with(host, |context| context.host.tcp_listen(local, options))
}

fn events(world: &mut World, host: HostId) -> Vec<TcpEvent> {
    world.with(host, |context| {
        std::iter::from_fn(|| context.host.poll_event())
            .filter_map(|event| match event {
                HostEvent::Tcp(event) => Some(event),
                _ => None,
            })
            .collect()
    })
}

/// Milliseconds at which a host has sent segments with these flags.
fn sent(world: &World, host: HostId, flags: Flags) -> Vec<u64> {
    let mut times = Vec::new();
    for record in world.records() {
        let is_such = matches!(record.packet.header.body, Body::Tcp(tcp) if tcp.flags == flags);
        let is_sent = matches!(record.fate, crate::sim::dump::Fate::Sent);
        if is_such && is_sent && record.node == host.into() {
            times.push((record.at - epoch()).as_millis() as u64);
        }
    }
    times
}

#[test]
fn a_syn_is_repeated_at_the_kernels_times() {
    for (timers, secs, end) in [
        (TcpTimers::default(), vec![0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67], 131),
        (TcpTimers::exponential(), vec![0, 1, 3, 7, 15, 31, 63], 127),
    ] {
        let (mut world, a, _) = pair_over(LinkConfig::default(), timers);
        let socket = dial(&mut world, a, None, TcpOptions::default(), at("192.0.2.99", 1)).unwrap();
        world.run_until(epoch() + Duration::from_secs(end) - ms(1));
        assert_eq!(world.host(a).tcp().state(socket), TcpState::SynSent);
        world.run_for(ms(1));
        let millis: Vec<u64> = secs.iter().map(|secs| secs * 1_000).collect();
        assert_eq!(sent(&world, a, Flags::SYN), millis);
        assert_eq!(events(&mut world, a), [TcpEvent::Failed(socket, Failure::TimedOut)]);
    }
}

#[test]
fn a_syn_ack_is_repeated_and_then_forgotten() {
    let (mut world, a, b) = pair();
    listen(&mut world, b, at(NAT_B, 80), TcpOptions::default()).unwrap();
    let socket = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80)).unwrap();
    world.run_for(ms(1));
    world.with(a, |context| context.host.tcp_mut().close(socket, context.now));
    // The closed socket answers with a RST, which ends it at once: so take the host off the net instead.
    world.detach(a);
    world.run_for(Duration::from_secs(70));
    let expected: Vec<u64> = [0, 1, 3, 7, 15, 31].iter().map(|secs| secs * 1_000 + 10).collect();
    assert_eq!(sent(&world, b, Flags::SYN | Flags::ACK), expected);
    assert_eq!(world.host(b).tcp().socket_count(), 1, "the listener");
    assert!(events(&mut world, b).is_empty());
}

#[test]
fn a_connection_carries_bytes_both_ways_and_ends() {
    let (mut world, a, b) = pair();
    let listener = listen(&mut world, b, at(NAT_B, 80), TcpOptions::default()).unwrap();
    let ours = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80)).unwrap();
    world.run_for(ms(100));
    assert_eq!(events(&mut world, a), [TcpEvent::Connected(ours)]);
    let [TcpEvent::Accepted { listener: of, socket: theirs }] = events(&mut world, b)[..] else {
        panic!("accepted");
    };
    assert_eq!(of, listener);
    world.with(a, |context| {
        assert_eq!(context.host.tcp_mut().send(ours, b"hello", context.now), Ok(5));
        context.host.tcp_mut().shut(ours, context.now).unwrap();
    });
    world.run_for(ms(100));
    assert_eq!(events(&mut world, b), [TcpEvent::Readable(theirs), TcpEvent::PeerClosed(theirs)]);
    world.with(b, |context| {
        assert_eq!(context.host.tcp_mut().read(theirs).unwrap(), "hello");
        context.host.tcp_mut().send(theirs, b"bye", context.now).unwrap();
        context.host.tcp_mut().close(theirs, context.now);
    });
    world.run_for(ms(100));
    assert_eq!(world.host(a).tcp().state(ours), TcpState::TimeWait);
    assert_eq!(world.with(a, |context| context.host.tcp_mut().read(ours)).unwrap(), "bye");
    assert_eq!(world.host(b).tcp().socket_count(), 1, "the listener");
    world.with(a, |context| context.host.tcp_mut().close(ours, context.now));
    world.run_for(Duration::from_secs(61));
    assert_eq!(world.host(a).tcp().socket_count(), 0);
    assert_eq!(world.queued(), 0, "a world at rest");
}

#[test]
fn bytes_arrive_whole_and_in_order_over_a_bad_link() {
    let bad = LinkConfig {
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.1,
        jitter: ms(3),
        rate: Some(10_000_000),
        ..LinkConfig::with_latency(ms(5))
    };
    let (mut world, a, b) = pair_over(bad, TcpTimers::default());
    listen(&mut world, b, at(NAT_B, 80), TcpOptions::default()).unwrap();
    let ours = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80)).unwrap();
    let mut message = vec![0; 200_000];
    Seed::from_u64(5).fill(&mut message);
    let (mut written, mut heard, mut theirs) = (0, Vec::new(), None);
    for _ in 0..60_000 {
        world.run_for(ms(10));
        world.with(a, |context| {
            let rest = &message[written..];
            if let Ok(taken) = context.host.tcp_mut().send(ours, rest, context.now) {
                written += taken;
            }
        });
        for event in events(&mut world, b) {
            if let TcpEvent::Accepted { socket, .. } = event {
                theirs = Some(socket);
            }
        }
        if let Some(theirs) = theirs {
            heard.extend(world.with(b, |context| context.host.tcp_mut().read(theirs).unwrap()));
        }
        if heard.len() == message.len() {
            break;
        }
    }
    assert!(heard == message, "{} of {} bytes", heard.len(), message.len());
}

#[test]
fn syns_that_cross_make_one_connection() {
    let (mut world, a, b) = pair();
    let ours = dial(&mut world, a, Some(at(NAT_A, 5_000)), TcpOptions::default(), at(NAT_B, 6_000)).unwrap();
    let theirs =
        dial(&mut world, b, Some(at(NAT_B, 6_000)), TcpOptions::default(), at(NAT_A, 5_000)).unwrap();
    world.run_for(ms(100));
    assert_eq!(events(&mut world, a), [TcpEvent::Connected(ours)]);
    assert_eq!(events(&mut world, b), [TcpEvent::Connected(theirs)]);
    assert!(world.host(a).tcp().is_crossed(ours));
    world.with(a, |context| context.host.tcp_mut().send(ours, b"x", context.now)).unwrap();
    world.run_for(ms(100));
    assert_eq!(world.with(b, |context| context.host.tcp_mut().read(theirs)).unwrap(), "x");
}

#[test]
fn a_closed_port_refuses_and_a_stranger_cannot() {
    let (mut world, a, b) = pair();
    let socket = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80)).unwrap();
    world.run_for(ms(100));
    assert_eq!(events(&mut world, a), [TcpEvent::Failed(socket, Failure::Refused)]);
    // A RST that does not acknowledge our SYN is not believed.
    let local = at(NAT_A, 5_000);
    let socket = dial(&mut world, a, Some(local), TcpOptions::default(), at("192.0.2.99", 1)).unwrap();
    for (flags, ack) in [(Flags::RST, 0), (Flags::RST | Flags::ACK, 12_345)] {
        let forged = crate::sim::packet::Header::tcp(at("192.0.2.99", 1), local, flags, 0, ack);
        world.inject(b, forged.into());
        world.run_for(ms(100));
        assert_eq!(world.host(a).tcp().state(socket), TcpState::SynSent);
    }
    assert!(events(&mut world, a).is_empty());
}

#[test]
fn a_4_tuple_in_use_cannot_be_dialled() {
    let (mut world, a, b) = pair();
    let (local, remote) = (Some(at(NAT_A, 5_000)), at(NAT_B, 80));
    let shared = TcpOptions::shared();
    let first = dial(&mut world, a, local, shared, remote).unwrap();
    for _ in 0..3 {
        // Every few milliseconds is an illusion: the first one is still in SYN_SENT.
        world.run_for(ms(5));
        if world.host(a).tcp().state(first) == TcpState::SynSent {
            assert_eq!(dial(&mut world, a, local, shared, remote), Err(SocketError::AddressNotAvailable));
        }
    }
    assert!(dial(&mut world, a, local, shared, at(NAT_B, 81)).is_ok(), "another destination");
    world.run_for(ms(100));
    listen(&mut world, b, remote, shared).unwrap();
    let second = dial(&mut world, a, local, shared, remote).unwrap();
    world.run_for(ms(100));
    world.with(a, |context| context.host.tcp_mut().close(second, context.now));
    let accepted = events(&mut world, b);
    let Some(TcpEvent::Accepted { socket, .. }) = accepted.first() else { panic!("{accepted:?}") };
    world.run_for(ms(100));
    world.with(b, |context| context.host.tcp_mut().close(*socket, context.now));
    world.run_for(ms(100));
    assert_eq!(world.host(a).tcp().state(second), TcpState::TimeWait);
    assert_eq!(dial(&mut world, a, local, shared, remote), Err(SocketError::AddressNotAvailable));
    world.run_for(Duration::from_secs(61));
    assert!(dial(&mut world, a, local, shared, remote).is_ok());
}

#[test]
fn a_port_is_shared_by_those_who_agree() {
    let plain = TcpOptions::default();
    let address = TcpOptions { reuse_address: true, ..plain };
    let port = TcpOptions { reuse_port: true, ..plain };
    let in_use = Err(SocketError::AddressInUse);
    let bind = |first: TcpOptions, first_listens: bool, second: TcpOptions| {
        let (mut world, a, _) = pair();
        let local = at(NAT_A, 5_000);
        if first_listens {
            listen(&mut world, a, local, first).unwrap();
        } else {
            dial(&mut world, a, Some(local), first, at(NAT_B, 80)).unwrap();
        }
        world.with(a, |context| {
            let socket = context.host.tcp_bind(local, second)?;
            context.host.tcp_mut().listen(socket)
        })
    };
    assert_eq!(bind(plain, false, plain), in_use);
    assert_eq!(bind(address, false, plain), in_use);
    assert_eq!(bind(address, false, address), Ok(()));
    assert_eq!(bind(address, true, address), in_use, "beside a listener it takes SO_REUSEPORT");
    assert_eq!(bind(port, true, port), Ok(()));
    assert_eq!(bind(TcpOptions::shared(), true, address), in_use);
    let (mut world, a, _) = pair();
    let any = SocketAddr::new(ip("0.0.0.0"), 5_000);
    listen(&mut world, a, any, plain).unwrap();
    let here = world.with(a, |context| context.host.tcp_bind(at(NAT_A, 5_000), plain));
    assert_eq!(here, Err(SocketError::AddressInUse), "the wildcard covers it");
    let elsewhere = world.with(a, |context| context.host.tcp_bind(at("192.0.2.77", 1), plain));
    assert_eq!(elsewhere, Err(SocketError::AddressNotAvailable));
}

#[test]
fn a_syn_goes_to_the_dialling_socket_of_its_4_tuple_and_else_to_the_listener() {
    let (mut world, a, b) = pair();
    let shared = TcpOptions::shared();
    let local = at(NAT_A, 5_000);
    let listener = listen(&mut world, a, local, shared).unwrap();
    let dialling = dial(&mut world, a, Some(local), shared, at(NAT_B, 6_000)).unwrap();
    dial(&mut world, b, Some(at(NAT_B, 6_000)), shared, local).unwrap();
    dial(&mut world, b, Some(at(NAT_B, 6_001)), shared, local).unwrap();
    world.run_for(ms(100));
    let seen = events(&mut world, a);
    assert!(seen.contains(&TcpEvent::Connected(dialling)), "{seen:?}");
    let accepted = seen.iter().filter_map(|event| match event {
        TcpEvent::Accepted { listener: of, socket } if *of == listener => world.host(a).tcp().remote(*socket),
        _ => None,
    });
    assert_eq!(accepted.collect::<Vec<_>>(), [at(NAT_B, 6_001)]);
}

#[test]
fn a_socket_that_dials_itself_is_connected_to_itself() {
    let (mut world, a, _) = pair();
    let here = at(NAT_A, 5_000);
    let socket = dial(&mut world, a, Some(here), TcpOptions::default(), here).unwrap();
    world.run_for(ms(1));
    assert_eq!(events(&mut world, a), [TcpEvent::Connected(socket)]);
}

#[test]
fn ephemeral_ports_run_out() {
    let (mut world, a, _) = pair();
    for port in 32_768..61_000 {
        if ![40_000, 40_001].contains(&port) {
            world.with(a, |context| context.host.tcp_bind(at(NAT_A, port), TcpOptions::default())).unwrap();
        }
    }
    for expected in [40_000, 40_001] {
        let socket = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80)).unwrap();
        assert_eq!(world.host(a).tcp().local(socket), Some(at(NAT_A, expected)), "even ones first");
    }
    let more = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80));
    assert_eq!(more, Err(SocketError::NoPort));
}

#[test]
fn unread_bytes_turn_a_farewell_into_a_reset() {
    let (mut world, a, b) = pair();
    listen(&mut world, b, at(NAT_B, 80), TcpOptions::default()).unwrap();
    let ours = dial(&mut world, a, None, TcpOptions::default(), at(NAT_B, 80)).unwrap();
    world.run_for(ms(100));
    world.with(a, |context| context.host.tcp_mut().send(ours, b"unheard", context.now)).unwrap();
    world.run_for(ms(100));
    events(&mut world, a);
    let Some(TcpEvent::Accepted { socket, .. }) = events(&mut world, b).first().copied() else { panic!() };
    world.with(b, |context| context.host.tcp_mut().close(socket, context.now));
    world.run_for(ms(100));
    assert_eq!(events(&mut world, a), [TcpEvent::Failed(ours, Failure::Reset)]);
}
