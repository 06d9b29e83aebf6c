//! A [`Fire`] for the laws and the fuzzer.

use std::net::IpAddr;

use super::*;
use crate::Seed;
use crate::sim::laws::{Dice, Subject};

/// A [`Fire`] and all that can become of its dials.
#[derive(Debug)]
pub struct FireSubject(Fire);

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

fn wave(shots: Vec<Shot>, lives: Option<Duration>, now: Instant) -> Wave {
    let orders = Orders { shots, lives, quiet: false };
    Wave { orders, locals: (5_000..5_600).collect(), start: now, until: now + Duration::from_secs(2) }
}

fn shot(millis: u64, from: u16, to: u16) -> Shot {
    Shot { after: Duration::from_millis(millis), from, to }
}

impl Subject for FireSubject {
    type Machine = Fire;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let config = FireConfig {
            local: Local(SocketAddr::new(HERE, 0)),
            remote: SocketAddr::new(THERE, 0),
            share: Share { sockets: 1 + seed.below(40) as u16, per_second: 1 + seed.below(900) as u16 },
            syns: 2_000,
        };
        let mut fire = Fire::new(config, now);
        let shots =
            (0..seed.below(60)).map(|index| shot(seed.below(500), index as u16 % 7, seed.below(90) as u16));
        let mut shots: Vec<_> = shots.collect();
        shots.sort_by_key(|shot| shot.after);
        let lives = seed.chance(0.5).then(|| Duration::from_millis(100));
        fire.handle_wave(wave(shots, lives, now), now);
        Self(fire)
    }

    fn machine(&mut self) -> &mut Fire {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let socket = Socket(dice.below(40) as u32);
        match dice.below(8) {
            0 => drop(self.0.handle_connected(socket, now)),
            1 => {
                let ip = if dice.chance(0.5) { THERE } else { HERE };
                self.0.handle_accepted(5_000, SocketAddr::new(ip, dice.below(9) as u16), now);
            }
            2 => {
                let shots =
                    (0..dice.below(9)).map(|index| shot(index * 10, 1, dice.below(99) as u16)).collect();
                self.0.handle_wave(wave(shots, None, now), now);
            }
            _ => drop(self.0.handle_failed(socket, &LaneFailure::Refused, now)),
        }
    }

    fn close(&mut self, _: Instant) {
        self.0.close(None);
    }
}
