//! A [`Tally`] for the laws and the fuzzer.

use super::*;
use crate::Seed;
use crate::sim::laws::{Dice, Subject};

/// A [`Tally`] and all that brokers can tell it.
#[derive(Debug)]
pub struct TallySubject(Tally);

impl Subject for TallySubject {
    type Machine = Tally;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let brokers = (0..seed.below(5) as u32).map(|channel| (channel, channel.to_string())).collect();
        Self(Tally::new(brokers, seed.up_to(Duration::from_secs(20)), now))
    }

    fn machine(&mut self) -> &mut Tally {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let channel = dice.below(6) as u32;
        match dice.below(20) {
            0 => self.0.handle_delivered(channel, Subscribers::Someone, now),
            1 => self.0.handle_delivered(channel, Subscribers::Unknown, now),
            2..5 => self.0.handle_delivered(channel, Subscribers::Nobody, now),
            5..8 => self.0.handle_failed(channel, "no".into(), now),
            _ => self.0.handle_trouble(channel, "down".into(), now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}
