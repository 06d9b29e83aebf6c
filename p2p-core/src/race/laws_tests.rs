//! The laws of every machine, for races and answers.

use super::*;
use crate::attempt::DialError;
use crate::sim::laws::Subject;

struct AnyRace;

impl Subject for AnyRace {
    type Machine = Race;

    fn new(mut seed: Seed, now: Instant) -> Race {
        let interfaces = (0..seed.below(4)).map(|n| interface(&format!("203.0.113.{n}"), None)).collect();
        let mut config = config(peer(interfaces));
        config.can_signal = seed.chance(0.8);
        config.listens = seed.chance(0.9);
        seed.shuffle(&mut config.ways);
        config.ways.truncate(1 + seed.below(4) as usize);
        Race::new(config, now)
    }

    fn disturb(race: &mut Race, dice: &mut Seed, now: Instant) {
        let lane = match dice.below(3) {
            0 => Lane::dialled(dice.below(4) as usize),
            1 => Lane::relayed(dice.below(3) as usize),
            _ => Lane::arrived(dice.below(3) as usize),
        };
        let body = if dice.chance(0.5) {
            Body::AskAddr
        } else {
            Body::DialMe(crate::signal::DialMe { plain: false })
        };
        match dice.below(64) {
            60 => race.handle_relay_failed(CircuitFailure::Silent, now),
            61 | 62 => {
                race.handle_relayed(RelayKind::Connection, SocketAddr::from(([192, 0, 2, 9], 1)), now);
            }
            63 => {
                race.handle_relayed(RelayKind::Datagrams, SocketAddr::from(([192, 0, 2, 9], 1)), now);
            }
            0 => race.handle_proven(lane, now),
            1 => race.handle_kept(lane, now),
            2..6 => race.handle_failed(lane, DialError::TimedOut.into(), now),
            6..10 => race.handle_connected(lane, now),
            10 => race.handle_delivery(&body, Delivery::Offline, now),
            11..14 => race.handle_delivery(&body, Delivery::Told, now),
            14 => race.handle_delivery(&body, Delivery::NoBroker(Vec::new()), now),
            15 => {
                let issued = 1_000 + dice.below(2_000);
                let moved =
                    peer_at(issued, vec![interface(&format!("203.0.113.{}", dice.below(250)), None)], None);
                let body = if dice.chance(0.5) {
                    Body::TellAddr
                } else {
                    Body::Refuse(Refusal { reason: RefusalReason::Busy })
                };
                race.handle_signal(&from_peer(moved, body), now);
            }
            _ => {
                race.handle_arrival(SocketAddr::from(([203, 0, 113, 9], dice.below(60_000) as u16)), now);
            }
        }
    }

    fn close(race: &mut Race, now: Instant) {
        race.close(now);
    }
}

crate::machine_laws!(race_laws: AnyRace);

struct AnyAnswer;

impl Subject for AnyAnswer {
    type Machine = Answer;

    fn new(mut seed: Seed, now: Instant) -> Answer {
        let interfaces = (0..seed.below(9)).map(|n| interface(&format!("203.0.113.{n}"), None)).collect();
        let found = candidates(&HostView::default(), &peer(interfaces), &Filter::default(), Trust::Stranger);
        dialling(found, now)
    }

    fn disturb(answer: &mut Answer, dice: &mut Seed, now: Instant) {
        let lane = Lane::dialled(dice.below(9) as usize);
        match dice.below(20) {
            0 => answer.handle_kept(lane, now),
            _ => answer.handle_failed(lane, DialError::Refused.into(), now),
        }
    }

    fn close(answer: &mut Answer, now: Instant) {
        answer.close(now);
    }
}

crate::machine_laws!(answer_laws: AnyAnswer);
