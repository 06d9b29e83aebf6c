//! A [`SynSender`] for the laws and the fuzzer.

use std::net::IpAddr;

use super::*;
use crate::Seed;
use crate::sim::laws::{Dice, Subject};

/// A [`SynSender`] and all that can become of its dials.
#[derive(Debug)]
pub struct SynSenderSubject(SynSender);

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

fn round(dials: Vec<Dial>, lives: Option<Duration>, now: Instant) -> Round {
    let schedule = Schedule { dials, lives, low_ttl: false };
    Round { schedule, locals: (5_000..5_600).collect(), start: now, until: now + Duration::from_secs(2) }
}

fn dial(millis: u64, from: u16, to: u16) -> Dial {
    Dial { after: Duration::from_millis(millis), from, to }
}

impl Subject for SynSenderSubject {
    type Machine = SynSender;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let config = SynSenderConfig {
            local: Local(SocketAddr::new(HERE, 0)),
            remote: SocketAddr::new(THERE, 0),
            share: Share { sockets: 1 + seed.below(40) as u16, per_second: 1 + seed.below(900) as u16 },
            syns: 2_000,
        };
        let mut sender = SynSender::new(config, now);
        let dials =
            (0..seed.below(60)).map(|index| dial(seed.below(500), index as u16 % 7, seed.below(90) as u16));
        let mut dials: Vec<_> = dials.collect();
        dials.sort_by_key(|dial| dial.after);
        let lives = seed.chance(0.5).then(|| Duration::from_millis(100));
        sender.handle_round(round(dials, lives, now), now);
        Self(sender)
    }

    fn machine(&mut self) -> &mut SynSender {
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
                let dials =
                    (0..dice.below(9)).map(|index| dial(index * 10, 1, dice.below(99) as u16)).collect();
                self.0.handle_round(round(dials, None, now), now);
            }
            _ => drop(self.0.handle_failed(socket, &DialError::Refused, now)),
        }
    }

    fn close(&mut self, _: Instant) {
        self.0.close(None);
    }
}
