//! What a peer that nobody speaks for can have us do.

use super::*;
use crate::attempt::Trust;

#[test]
fn a_stranger_makes_us_send_a_few_small_datagrams_to_public_addresses_only() {
    let config = CircuitConfig::new(Role::Answerer, Trust::Stranger, Vec::new());
    let now = epoch();
    let mut circuit = Circuit::new(config, Seed::from_u64(1), now);
    let datagrams = ["127.0.0.1:53", "192.168.1.1:53", "10.0.0.1:53", "8.8.8.8:53"];
    let datagrams: Vec<SocketAddr> = datagrams.iter().map(|text| text.parse().unwrap()).collect();
    let connections = datagrams.clone();
    let offer = RelayOffer {
        serial: 1,
        token: Token([3; 8]),
        datagrams,
        connections,
        has_more: false,
        refusal: None,
    };
    circuit.handle_offer(&offer, &[], now);
    let (mut sent, mut bytes_sent) = (Vec::new(), 0);
    loop {
        match circuit.poll_output() {
            Output::Act(Act::Datagram { via: Via::Bare(to), bytes }) => {
                sent.push(to);
                bytes_sent += bytes.len();
            }
            Output::Act(Act::Dial(to)) => sent.push(to),
            Output::Wait(Some(deadline)) => circuit.handle_timeout(deadline.at),
            Output::Wait(None) => break,
            _ => {}
        }
    }
    assert!(sent.iter().all(|to| *to == "8.8.8.8:53".parse().unwrap()), "{sent:?}");
    assert!(sent.len() <= 10 && bytes_sent <= 170, "{} datagrams, {bytes_sent} bytes", sent.len());
}

#[test]
fn a_stranger_that_names_ever_new_addresses_is_not_followed_for_long() {
    let now = epoch();
    let config = CircuitConfig::new(Role::Answerer, Trust::Stranger, Vec::new());
    let mut circuit = Circuit::new(config, Seed::from_u64(1), now);
    let mut reached = std::collections::BTreeSet::new();
    for serial in 1..500_u32 {
        let named = |port| SocketAddr::from(([8, 8, (serial / 250) as u8, (serial % 250) as u8], port));
        let (datagrams, connections) = (vec![named(53), named(54)], vec![named(80)]);
        let offer = RelayOffer {
            serial,
            token: Token([3; 8]),
            datagrams,
            connections,
            has_more: true,
            refusal: None,
        };
        circuit.handle_offer(&offer, &[], now);
        loop {
            match circuit.poll_output() {
                Output::Act(Act::Datagram { via: Via::Bare(to), .. } | Act::Dial(to)) => reached.insert(to),
                Output::Wait(_) => break,
                _ => false,
            };
        }
    }
    assert_eq!(reached.len(), 8);
}

/// How many datagrams somebody gets whose address a caller forges while the called one has much to say.
fn sent_to_a_victim(trust: Trust) -> u64 {
    let adjust = move |which: u8, config: &mut CircuitConfig| {
        config.connections = Connections::Never;
        if which == CALLED {
            config.trust = trust;
        }
    };
    let mut scene = scene([vec![server(1, Carrier::Udp)], Vec::new()], adjust, as_it_is);
    scene.start();
    assert!(scene.run_until(secs(2), |scene| scene.end(CALLED).is_up()), "{}", scene.story());
    scene.runner(CALLED, |runner, context| runner.say(&[7; 300_000], context));
    let victim: SocketAddr = "198.51.100.99:53".parse().unwrap();
    for _ in 0..10 {
        scene.world.run_for(ms(50));
        scene.runner(CALLED, |runner, context| {
            runner.with(context, |circuit, now| {
                let forged = [&[0xd1][..], &circuit.token.0, &[0; 30]].concat();
                circuit.handle_bare(victim, &forged, now);
                circuit.handle_bare(victim, &PathChallenge::Answer.to_bytes(circuit.token, [0; 8]), now);
                circuit.settle(now);
            })
        });
    }
    scene.world.run_for(secs(10));
    assert_eq!(scene.end(CALLER).heard.len(), 300_000, "{}", scene.story());
    scene.end(CALLED).sent_to(victim)
}

#[test]
fn a_stranger_that_forges_where_it_is_has_us_knock_there_and_no_more() {
    assert!((1..=10).contains(&sent_to_a_victim(Trust::Stranger)));
    // Whoever our user trusts is followed at once.
    assert!(sent_to_a_victim(Trust::Known) > 10);
}

#[test]
fn only_newer_notices_of_the_same_peer_count() {
    let now = epoch();
    let mut circuit =
        Circuit::new(CircuitConfig::new(Role::Caller, Trust::Known, Vec::new()), Seed::from_u64(1), now);
    let lent = |last: u8| SocketAddr::new(turn_ip(last), 50_000);
    let offer = |serial, token, last| RelayOffer {
        serial,
        token: Token([token; 8]),
        datagrams: vec![lent(last)],
        connections: Vec::new(),
        has_more: false,
        refusal: None,
    };
    let challenged = |circuit: &mut Circuit, offer: RelayOffer| {
        circuit.handle_offer(&offer, &[], now);
        let mut all = Vec::new();
        loop {
            match circuit.poll_output() {
                Output::Act(Act::Datagram { via: Via::Bare(to), .. }) => all.push(to),
                Output::Wait(_) => return all,
                _ => {}
            }
        }
    };
    assert_eq!(challenged(&mut circuit, offer(2, 1, 1)), [lent(1)]);
    assert!(challenged(&mut circuit, offer(1, 1, 2)).is_empty(), "older");
    assert!(challenged(&mut circuit, offer(2, 1, 2)).is_empty(), "said before");
    assert!(challenged(&mut circuit, offer(3, 2, 2)).is_empty(), "of somebody else");
    assert_eq!(challenged(&mut circuit, offer(3, 1, 2)), [lent(2)]);
}
