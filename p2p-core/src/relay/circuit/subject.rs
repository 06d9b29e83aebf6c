//! A [`Circuit`] for the laws and the fuzzer.

use super::*;
use crate::attempt::Trust;
use crate::relay::End;
use crate::relay::route::PathChallenge;
use crate::sim::laws::{Dice, Subject};
use crate::turn::{Carrier, Credentials, Server};

/// A [`Circuit`] and all that servers, peers and strangers can do to it.
#[derive(Debug)]
pub struct CircuitSubject(Circuit);

fn turn_at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

impl Subject for CircuitSubject {
    type Machine = Circuit;

    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_millis(1));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let role = if seed.chance(0.5) { Role::Caller } else { Role::Answerer };
        let trust = if seed.chance(0.5) { Trust::Known } else { Trust::Stranger };
        let mut servers = Vec::new();
        for carrier in [Carrier::Udp, Carrier::Tcp] {
            if seed.chance(0.6) {
                let credentials = Credentials::new("user", "secret").expect("short words");
                servers.push(Server::new(turn_at(1, 3_478), carrier, credentials));
            }
        }
        Self(Circuit::new(CircuitConfig::new(role, trust, servers), seed, now))
    }

    fn machine(&mut self) -> &mut Circuit {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let circuit = &mut self.0;
        let relaying = if dice.chance(0.5) { Relaying::Udp } else { Relaying::Tcp };
        let way = Way { relaying, conn: crate::turn::client::Conn(dice.below(4) as u32) };
        let lent = turn_at(dice.below(4) as u8, dice.below(3) as u16 * 20_000);
        match dice.below(12) {
            0 => circuit.handle_opened(way, now),
            1 => circuit.handle_closed(way, None, now),
            2 => circuit.handle_data(way, dice.array::<40>().to_vec().into(), now),
            3 => circuit.handle_slice(way, &dice.array::<40>(), now),
            4 | 5 => {
                let connections = if dice.chance(0.3) { vec![lent] } else { Vec::new() };
                let offer = RelayOffer {
                    serial: dice.below(50) as u32,
                    token: Token([1; 8]),
                    datagrams: vec![lent],
                    connections,
                    has_more: dice.chance(0.5),
                    refusal: None,
                };
                circuit.handle_offer(&offer, &[lent.ip()], now);
            }
            6 | 7 => {
                let challenge = [PathChallenge::Question, PathChallenge::Answer][dice.below(2) as usize];
                let token = if dice.chance(0.8) { circuit.token } else { Token([9; 8]) };
                let nonce = circuit.routes.nonce(Route { from: End::Bare, to: lent });
                let nonce = if dice.chance(0.5) { nonce } else { dice.array() };
                circuit.handle_bare(lent, &challenge.to_bytes(token, nonce), now);
                circuit.settle(now);
            }
            8 => circuit.handle_dialled(lent, dice.chance(0.5), now),
            9 => drop(circuit.write(&[0; 2_000], now)),
            10 if dice.chance(0.1) => {
                circuit
                    .keep(if dice.chance(0.5) { RelayKind::Datagrams } else { RelayKind::Connection }, now);
            }
            11 if dice.chance(0.05) => circuit.release(now),
            _ => drop(circuit.read(&mut [0; 100], now)),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}
