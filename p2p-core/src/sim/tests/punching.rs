//! What was measured with real kernels through real NATs, told again in virtual time (TCP punching, one-way
//! delay 50 ms).

use super::*;
use crate::nat::PortRange;
use crate::sim::dump::{Fate, Loss};
use crate::sim::link::LinkConfig;
use crate::sim::nat::{DropReason, PortChoice, Unsolicited};
use crate::sim::packet::IcmpKind;
use crate::sim::world::Wire;

const OWD: i64 = 50;

fn resetting(external: &str) -> NatConfig {
    home(external).with_unsolicited(Unsolicited::Reset)
}

#[test]
fn silent_nats_need_no_clock() {
    for skew in -900..=900_i64 {
        if skew % 30 != 0 {
            continue;
        }
        let [a, b] = Homes::new(home(NAT_A), home(NAT_B)).punch(skew);
        let last = a.max(b).unwrap_or_else(|| panic!("skew {skew}: no connection"));
        assert!(a.is_some() && b.is_some(), "skew {skew}");
        // Whole round trips: one when the SYNs cross, one and a half when the later one finds the way open.
        let expected = if skew.abs() < OWD { 100 } else { 150 };
        assert_eq!(last, expected, "skew {skew}");
    }
}

#[test]
fn linux_masquerade_behaves_like_it() {
    for skew in [-900, -200, -40, 0, 20, 60, 700] {
        let masquerade = |external| NatConfig::linux_masquerade(ip(external));
        let [a, b] = Homes::new(masquerade(NAT_A), masquerade(NAT_B)).punch(skew);
        assert!(a.is_some() && b.is_some(), "skew {skew}");
    }
}

#[test]
fn two_nats_that_answer_must_be_dialled_within_one_delay() {
    let answers: [fn(&str) -> NatConfig; 2] =
        [resetting, |external| home(external).with_unsolicited(Unsolicited::Icmp(IcmpKind::Prohibited))];
    for answering in answers {
        for skew in [-200, -60, -49, -25, 0, 25, 49, 60, 200_i64] {
            let mut homes = Homes::new(answering(NAT_A), answering(NAT_B));
            let up = homes.punch(skew);
            let expected = if skew.abs() < OWD { [true; 2] } else { [false; 2] };
            assert_eq!(up.map(|at| at.is_some()), expected, "skew {skew}");
        }
    }
}

#[test]
fn where_one_nat_answers_who_is_behind_it_goes_first() {
    for lead in [10, 60, 300, 900] {
        let [a, b] = Homes::new(home(NAT_A), resetting(NAT_B)).punch(-lead);
        assert!(a.is_some() && b.is_some(), "b leads by {lead}");
    }
    for lead in [60, 300, 900] {
        let mut homes = Homes::new(home(NAT_A), resetting(NAT_B));
        assert_eq!(homes.punch(lead), [None, None], "a leads by {lead}");
        assert_eq!(homes.failure(homes.a), Some((100, Failure::Refused)));
    }
}

#[test]
fn a_throw_away_port_tells_the_policy_in_one_round_trip() {
    for (policy, expected) in [
        (Unsolicited::Silence, None),
        (Unsolicited::Reset, Some((100, Failure::Refused))),
        (
            Unsolicited::Icmp(IcmpKind::PortUnreachable),
            Some((100, Failure::Unreachable(IcmpKind::PortUnreachable))),
        ),
        (Unsolicited::Icmp(IcmpKind::Prohibited), Some((100, Failure::Unreachable(IcmpKind::Prohibited)))),
        (Unsolicited::ResetAfter { after: Duration::from_secs(6) }, Some((6_100, Failure::Refused))),
    ] {
        let mut homes = Homes::new(home(NAT_A), home(NAT_B).with_unsolicited(policy));
        homes.dial_at(0, homes.a, at(A, 5_000), at(NAT_B, 9));
        homes.world.run_for(Duration::from_secs(10));
        assert_eq!(homes.failure(homes.a), expected, "{policy:?}");
    }
}

/// Twelve port pairs, 30 ms apart; B is late by `skew` and adds `dither` to each. The pairs that connect.
fn ladder(skew: i64, dither: &[i64]) -> Vec<u16> {
    let mut homes = Homes::new(resetting(NAT_A), resetting(NAT_B));
    for pair in 0..12_u16 {
        let port = 5_000 + pair;
        let step = 1_000 + 30 * i64::from(pair);
        let b_at = step + skew + dither[usize::from(pair) % dither.len()];
        homes.dial_at(step as u64, homes.a, at(A, port), at(NAT_B, port));
        homes.dial_at(b_at as u64, homes.b, at(B, port), at(NAT_A, port));
    }
    homes.world.run_for(Duration::from_secs(10));
    let connected = |host: HostId| -> Vec<u16> {
        let stack = homes.world.host(host).tcp();
        let sockets = homes.log(host).into_iter().filter_map(|(_, event)| match event {
            TcpEvent::Connected(socket) => stack.local(socket),
            _ => None,
        });
        let mut ports: Vec<_> = sockets.map(|local| local.port()).collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(connected(homes.a), connected(homes.b), "skew {skew}");
    connected(homes.a)
}

#[test]
fn a_dithered_ladder_stands_clock_errors_that_a_straight_one_does_not() {
    let dither = [0, 80, -80, 160, -160, 240, -240, 320, -320];
    for skew in (-300..=300).step_by(25) {
        assert!(!ladder(skew, &dither).is_empty(), "skew {skew}");
        let straight = ladder(skew, &[0]);
        assert_eq!(straight.is_empty(), skew.abs() >= OWD, "skew {skew}: {straight:?}");
    }
}

#[test]
fn a_4_tuple_where_syns_have_crossed_is_dead_on_linux_and_the_next_one_is_not() {
    let masquerade = |external| NatConfig::linux_masquerade(ip(external));
    let mut homes = Homes::new(masquerade(NAT_A), masquerade(NAT_B));
    let (a, b) = (homes.a, homes.b);
    homes.dial_at(0, a, at(A, 5_000), at(NAT_B, 5_000));
    homes.dial_at(30, b, at(B, 5_000), at(NAT_A, 5_000));
    // Each SYN passes the other's NAT, and is lost on the wireless behind it.
    let deaf = LinkConfig { loss: 1.0, ..LinkConfig::default() };
    for host in [a, b] {
        homes.world.rewire(host, 0, Wire { up: LinkConfig::default(), down: deaf }).unwrap();
    }
    homes.world.run_until(epoch() + ms(90));
    for host in [a, b] {
        homes.world.rewire(host, 0, Duration::ZERO).unwrap();
    }
    // A tries again: a new socket, a new sequence number.
    homes.world.with(a, |context| {
        let now = context.now;
        let (local, remote, shared) = (at(A, 5_000), at(NAT_B, 5_000), TcpOptions::shared());
        let first = context.host.tcp_mut().sockets().next().unwrap();
        context.host.tcp_mut().abort(first);
        context.host.tcp_dial(Some(local), shared, remote, now).unwrap();
    });
    homes.world.run_for(Duration::from_secs(100));
    let connected =
        |homes: &Homes| homes.log(a).iter().any(|(_, event)| matches!(event, TcpEvent::Connected(_)));
    assert!(!connected(&homes), "{:?}", homes.log(a));
    let leaks = homes.world.records().iter().filter(|record| record.fate == Fate::Leaked(DropReason::NewIsn));
    let leaks = leaks.count();
    assert!(leaks > 5, "{}", homes.world.story());
    let untranslated = homes.world.records().iter().filter(|record| {
        let inside = record.packet.header.src == at(A, 5_000);
        inside && record.node == homes.world.internet().into()
    });
    assert!(untranslated.count() > 5, "the Internet sees the inside address");

    let now = homes.world.elapsed().as_millis() as u64;
    homes.dial_at(now, a, at(A, 5_001), at(NAT_B, 5_001));
    homes.dial_at(now, b, at(B, 5_001), at(NAT_A, 5_001));
    homes.world.run_for(Duration::from_secs(1));
    assert!(connected(&homes));
}

#[test]
fn a_low_ttl_syn_opens_the_way_unless_the_hop_speaks() {
    let punch = |silent: bool, lead: u64| {
        let quiet = |name: &str, nat| {
            let router = RouterConfig::new(name).with_v4(nat);
            if silent { router.with_silent_hops() } else { router }
        };
        let middle = RouterConfig::new("hop");
        let mut world = World::new(Seed::from_u64(1));
        let internet = world.internet();
        let hop = if silent { middle.with_silent_hops() } else { middle };
        let hop = world.add_router(hop, internet, ms(10)).unwrap();
        let nat_a = world.add_router(quiet("nat-a", home(NAT_A)), hop, ms(15)).unwrap();
        let nat_b = world.add_router(quiet("nat-b", resetting(NAT_B)), internet, ms(25)).unwrap();
        let (a, b) = (world.add_host("a"), world.add_host("b"));
        world.attach(a, nat_a, &[ip(A)], Duration::ZERO).unwrap();
        world.attach(b, nat_b, &[ip(B)], Duration::ZERO).unwrap();
        // Two hops: A's own NAT, and the one at which it dies.
        let low = TcpOptions { ttl: 2, ..TcpOptions::shared() };
        let dialled = world.with(a, |context| {
            let now = context.now;
            let socket = context.host.tcp_dial(Some(at(A, 5_000)), low, at(NAT_B, 5_000), now).unwrap();
            context.host.tcp_mut().set_ttl(socket, 64).unwrap();
            socket
        });
        world.at(epoch() + ms(lead), b, |context| {
            let now = context.now;
            let options = TcpOptions::shared();
            context.host.tcp_dial(Some(at(B, 5_000)), options, at(NAT_A, 5_000), now).unwrap();
        });
        world.run_for(ms(lead + 300));
        let failed = world.with(a, |context| context.host.poll_event());
        (world.host(a).tcp().state(dialled), failed)
    };
    for lead in [60, 200, 500, 900] {
        let (state, _) = punch(true, lead);
        assert_eq!(state, crate::sim::tcp::TcpState::Established, "lead {lead}");
        let (_, event) = punch(false, lead);
        let aborted = Failure::Unreachable(IcmpKind::TimeExceeded);
        assert!(
            matches!(event, Some(HostEvent::Tcp(TcpEvent::Failed(_, why))) if why == aborted),
            "lead {lead}: {event:?}"
        );
    }
}

#[test]
fn after_a_refusal_the_peers_syn_comes_up_on_the_listener() {
    for lead in (60..160).step_by(5) {
        let mut homes = Homes::new(home(NAT_A), resetting(NAT_B));
        homes.listen(homes.a, at(A, 5_000));
        let [a, b] = homes.punch(lead);
        assert!(a.is_some() && b.is_some(), "lead {lead}");
        let log = homes.log(homes.a);
        assert!(matches!(log[0], (100, TcpEvent::Failed(_, Failure::Refused))));
        assert!(matches!(log[1].1, TcpEvent::Accepted { .. }), "{log:?}");
        let again = homes.world.with(homes.a, |context| {
            let (local, now) = (Some(at(A, 5_000)), context.now);
            context.host.tcp_dial(local, TcpOptions::shared(), at(NAT_B, 5_000), now)
        });
        assert_eq!(again, Err(crate::sim::tcp::SocketError::AddressNotAvailable));
    }
}

#[test]
fn equal_delays_never_ask_the_policy() {
    let mut homes = Homes::new(resetting(NAT_A), resetting(NAT_B));
    homes.punch(0);
    assert_eq!((homes.answered(homes.nat_a), homes.answered(homes.nat_b)), (0, 0));
    // Unequal access links do not matter while both start at once: each SYN leaves before the other comes.
    let mut homes = Homes::with_delays(resetting(NAT_A), resetting(NAT_B), ms(5), ms(45));
    homes.punch(0);
    assert_eq!((homes.answered(homes.nat_a), homes.answered(homes.nat_b)), (0, 0));
    // A late start does.
    let mut homes = Homes::new(resetting(NAT_A), resetting(NAT_B));
    homes.punch(60);
    assert!(homes.answered(homes.nat_b) > 0);
}

#[test]
fn two_symmetric_nats_meet_in_port_blocks() {
    // The same pairs of sockets, against blocks of 64 ports and against the whole range.
    let attempt = |block: Option<u16>, seed: u64| {
        let carrier = |external| {
            let mut nat = NatConfig::carrier(vec![ip(external)], block.unwrap_or(64));
            nat.block = block;
            nat.with_flow(|flow| {
                flow.mapping = crate::nat::Mapping::AddressAndPortDependent;
                flow.ports = PortChoice::Random;
                flow.range = PortRange { first: 1_024, last: 65_535 };
            })
        };
        let mut homes = Homes::new(carrier(NAT_A), home(NAT_B));
        let b_ports: Vec<u16> = (0..24).map(|index| 6_000 + index).collect();
        // A is told the block by whoever saw one mapping of it.
        let known: Vec<u16> = match block {
            Some(_) => {
                homes.dial_at(0, homes.a, at(A, 4_000), at(SERVER, 80));
                homes.world.run_for(ms(10));
                let nat = homes.world.router(homes.nat_a).nat(crate::Family::V4).unwrap();
                let block = nat.block(super::super::packet::Protocol::Tcp, ip(NAT_A), ip(A)).unwrap();
                (block.first..=block.last).collect()
            }
            None => (1_024..=65_535).collect(),
        };
        let mut dice = Seed::from_u64(seed);
        for (index, port) in b_ports.iter().enumerate() {
            homes.dial_at(100, homes.a, at(A, 5_000 + index as u16), at(NAT_B, *port));
            let guess = *dice.pick(&known).unwrap();
            homes.dial_at(100, homes.b, at(B, *port), at(NAT_A, guess));
        }
        homes.world.run_for(ms(500));
        homes.log(homes.b).iter().any(|(_, event)| matches!(event, TcpEvent::Connected(_)))
    };
    let hits = |block| (0..40).filter(|seed| attempt(block, *seed)).count();
    let (blocks, whole) = (hits(Some(64)), hits(None));
    // Each of 24 guesses hits its own port with probability 1/64: 31 % a round.
    assert!((4..=24).contains(&blocks), "{blocks} of 40");
    assert!(whole <= 2, "{whole} of 40");
}

#[test]
fn the_story_names_the_reason_of_every_drop() {
    let mut homes = Homes::new(home(NAT_A), resetting(NAT_B));
    homes.punch(200);
    let story = homes.world.story().to_string();
    assert!(story.contains("nat-b        drops    198.51.100.1:5000 > 203.0.113.1:5000 TCP SYN"), "{story}");
    assert!(story.contains(": no mapping, and says so"), "{story}");
    for record in homes.world.records() {
        if let Fate::Dropped { why, .. } = record.fate {
            assert!(!why.to_string().is_empty());
            assert!(matches!(why, Loss::Nat(_)), "{why}");
        }
    }
}
