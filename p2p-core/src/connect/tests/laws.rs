//! The laws of every machine, for attempts of both roles and for their parts.

use super::calling::dialling;
use super::*;
use crate::attempt::DialError;
use crate::candidate::{Candidate, candidates};
use crate::signal::Refusal;
use crate::sim::laws::Subject;

fn homes(seed: &mut Seed, most: u64) -> Vec<InterfaceAddr> {
    (0..seed.below(most)).map(|n| interface(&format!("203.0.113.{n}"), None)).collect()
}

fn targets(dice: &mut Seed) -> Vec<Candidate> {
    let peer = peer(homes(dice, 9));
    candidates(&HostView::default(), &peer, &Filter::default(), Trust::Known)
}

struct AnyHappyEyeballs;

impl Subject for AnyHappyEyeballs {
    type Machine = HappyEyeballs;

    fn new(mut seed: Seed, now: Instant) -> HappyEyeballs {
        HappyEyeballs::new(targets(&mut seed), DIAL_DELAY, now)
    }

    fn disturb(dials: &mut HappyEyeballs, dice: &mut Seed, now: Instant) {
        match dice.below(4) {
            0 => dials.handle_more(targets(dice), now),
            _ => dials.handle_failed(dice.below(12) as usize, now),
        }
    }

    fn close(dials: &mut HappyEyeballs, now: Instant) {
        dials.close(now);
    }
}

crate::machine_laws!(happy_eyeballs_laws: AnyHappyEyeballs);

struct AnyAskPeer;

impl Subject for AnyAskPeer {
    type Machine = AskPeer;

    fn new(_: Seed, now: Instant) -> AskPeer {
        AskPeer::new(now)
    }

    fn disturb(ask: &mut AskPeer, dice: &mut Seed, now: Instant) {
        match dice.below(40) {
            0 => ask.handle_delivery(Delivery::Offline, now),
            1 => ask.handle_delivery(Delivery::NoBroker(Vec::new()), now),
            2 => ask.handle_refused(RefusalReason::Busy, now),
            3..20 => ask.handle_delivery(Delivery::Told, now),
            _ => ask.handle_delivery(Delivery::Unknown, now),
        }
    }

    fn close(ask: &mut AskPeer, now: Instant) {
        ask.close(now);
    }
}

crate::machine_laws!(ask_peer_laws: AnyAskPeer);

struct AnyCall;

impl Subject for AnyCall {
    type Machine = Sited;

    fn new(mut seed: Seed, now: Instant) -> Sited {
        let mut call = call(peer(homes(&mut seed, 4)));
        if seed.chance(0.2) {
            call = call.mute();
        }
        call.facts.listens = seed.chance(0.9);
        seed.shuffle(&mut call.config.ways);
        call.config.ways.truncate(1 + seed.below(4) as usize);
        call.begin(now)
    }

    fn disturb(call: &mut Sited, dice: &mut Seed, now: Instant) {
        let lane = match dice.below(3) {
            0 => Lane::Dialled(dice.below(4) as usize),
            1 => {
                let kind = if dice.chance(0.3) { RelayKind::Datagrams } else { RelayKind::Connection };
                Lane::Relayed { kind, number: dice.below(3) as usize }
            }
            _ => Lane::Arrived(dice.below(3) as usize),
        };
        let body = if dice.chance(0.5) {
            Body::AskAddr
        } else {
            Body::DialMe(crate::signal::DialMe { plain: false })
        };
        match dice.below(66) {
            64 => call.handle_network_changed(now),
            65 => {
                call.facts.host = ours(&[("192.168.1.5", 24), ("10.0.0.5", 8)]);
                call.handle_network_changed(now);
            }
            60 => call.handle_relay_failed(CircuitFailure::Silent, now),
            61 | 62 => {
                call.handle_relayed(RelayKind::Connection, SocketAddr::from(([192, 0, 2, 9], 1)), now);
            }
            63 => {
                call.handle_relayed(RelayKind::Datagrams, SocketAddr::from(([192, 0, 2, 9], 1)), now);
            }
            0 => call.handle_proven(lane, now),
            1 => call.handle_kept(lane, now),
            2..6 => call.handle_failed(lane, DialError::TimedOut, now),
            6..10 => call.handle_connected(lane, now),
            10 => call.handle_delivery(&body, Delivery::Offline, now),
            11..14 => call.handle_delivery(&body, Delivery::Told, now),
            14 => call.handle_delivery(&body, Delivery::NoBroker(Vec::new()), now),
            15 => {
                let issued = 1_000 + dice.below(2_000);
                let moved =
                    peer_at(issued, vec![interface(&format!("203.0.113.{}", dice.below(250)), None)], None);
                let body = if dice.chance(0.5) {
                    Body::TellAddr
                } else {
                    Body::Refuse(Refusal { reason: RefusalReason::Busy })
                };
                call.handle_signal(&from_peer(moved, body), now);
            }
            _ => {
                call.handle_arrival(SocketAddr::from(([203, 0, 113, 9], dice.below(60_000) as u16)), now);
            }
        }
    }

    fn close(call: &mut Sited, now: Instant) {
        call.close(now);
    }
}

crate::machine_laws!(call_laws: AnyCall);

struct AnyAnswer;

impl Subject for AnyAnswer {
    type Machine = Sited;

    fn new(mut seed: Seed, now: Instant) -> Sited {
        dialling(peer(homes(&mut seed, 9)), now)
    }

    fn disturb(answer: &mut Sited, dice: &mut Seed, now: Instant) {
        let lane = Lane::Dialled(dice.below(9) as usize);
        match dice.below(40) {
            0 => answer.handle_kept(lane, now),
            1 => answer.handle_signal(&from_peer(peer(homes(dice, 9)), Body::Bye), now),
            2 => answer.handle_network_changed(now),
            _ => answer.handle_failed(lane, DialError::Refused, now),
        }
    }

    fn close(answer: &mut Sited, now: Instant) {
        answer.close(now);
    }
}

crate::machine_laws!(answer_laws: AnyAnswer);
