//! [`Messages`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::transport::{Token, Tokens};

/// [`Messages`] and all that a peer can send them.
#[derive(Debug)]
pub struct MessagesSubject(Messages);

const TOKENS: Tokens = Tokens { ours: Token([1; 8]), theirs: Token([2; 8]) };

/// A datagram as the peer would write it.
fn forged(number: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![0; 1_200];
    let mut writer = Writer::new(&mut out, TOKENS.ours, number, 0);
    fill(&mut writer);
    let written = writer.written();
    out.truncate(written);
    out
}

impl Subject for MessagesSubject {
    type Machine = Messages;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mut messages = Messages::new(TransportConfig::new(TOKENS), seed.fork("messages"), now);
        for _ in 0..seed.below(5) {
            // There is room for a few.
            let _ = messages.send(vec![1; seed.below(5_000) as usize].into(), now);
        }
        Self(messages)
    }

    fn machine(&mut self) -> &mut Messages {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let messages = &mut self.0;
        let number = dice.below(400);
        match dice.below(9) {
            0 => drop(messages.send(vec![2; dice.below(70_000) as usize].into(), now)),
            1 => drop(messages.receive(now)),
            2 if dice.chance(0.1) => drop(messages.finish(now)),
            3 if dice.chance(0.3) => messages.handle_path_changed(now),
            4 => {
                let lowest = dice.below(60);
                let range = lowest..lowest + 1 + dice.below(9);
                let acked = forged(number, |writer| writer.ack(std::iter::once(range), 0, 0));
                messages.handle_datagram(&acked, now);
            }
            5 | 6 => {
                let id = dice.below(30);
                let total = id * 67;
                let at = dice.below(total.max(1));
                let length = (1 + dice.below((total - at).max(1))).min(total - at).min(1_000) as u16;
                let part = forged(number, |writer| writer.message(id, total, at, length).fill(3));
                messages.handle_datagram(&part, now);
            }
            7 if dice.chance(0.02) => {
                let count = dice.below(40);
                messages.handle_datagram(&forged(number, |writer| writer.end(count)), now);
            }
            _ => {
                let limit = dice.number() >> 2 >> dice.below(60);
                messages.handle_datagram(&forged(number, |writer| writer.window(limit)), now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}
