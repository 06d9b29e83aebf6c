//! A [`Hop`] for the laws and the fuzzer.

use super::*;
use crate::Seed;
use crate::sim::laws::{Dice, Subject};

/// A [`Hop`] and all that can be told to it.
#[derive(Debug)]
pub struct HopSubject(Hop);

impl Subject for HopSubject {
    type Machine = Hop;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let rtt = seed.up_to(Duration::from_secs(2));
        let server = SocketAddr::from(([192, 0, 2, 1], 3_478));
        Self(Hop::new(HopConfig { server, external: OUTSIDE, rtt }, now))
    }

    fn machine(&mut self) -> &mut Hop {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let syn = dice.below(u64::from(MOST_SYNS) + 2) as u8;
        let by = match dice.below(4) {
            0 => IpAddr::from([203, 0, 113, 1]),
            1 => OUTSIDE,
            2 => IpAddr::from([10, 0, 0, 1]),
            _ => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        };
        match dice.below(12) {
            0 => self.0.handle_answered(syn, now),
            1 => self.0.handle_unsent(syn, now),
            2 | 3 => self.0.handle_expired(syn, by, now),
            _ => self.0.handle_timeout(now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
