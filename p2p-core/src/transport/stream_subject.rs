//! A [`Stream`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::transport::{Token, Tokens};

/// A [`Stream`] and all that a peer can send it.
#[derive(Debug)]
pub struct StreamSubject(Stream);

const TOKENS: Tokens = Tokens { ours: Token([1; 8]), theirs: Token([2; 8]) };

/// A datagram as the peer would write it.
fn forged(number: u64, floor: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![0; 1_200];
    let mut writer = Writer::new(&mut out, TOKENS.ours, number, floor);
    fill(&mut writer);
    let written = writer.written();
    out.truncate(written);
    out
}

impl Subject for StreamSubject {
    type Machine = Stream;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mut stream = Stream::new(TransportConfig::new(TOKENS), seed.fork("stream"), now);
        if seed.chance(0.7) {
            // A new stream takes what it has room for.
            let _ = stream.write(&vec![1; seed.below(100_000) as usize], now);
        }
        Self(stream)
    }

    fn machine(&mut self) -> &mut Stream {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let stream = &mut self.0;
        let number = dice.below(400);
        let floor = number - dice.below(number + 1);
        let length = dice.below(1_000) as u16;
        match dice.below(12) {
            0 => drop(stream.write(&vec![2; dice.below(40_000) as usize], now)),
            1 => drop(stream.read(&mut vec![0; dice.below(40_000) as usize], now)),
            2 if dice.chance(0.1) => drop(stream.finish(now)),
            3 if dice.chance(0.3) => stream.handle_path_changed(now),
            4 if dice.chance(0.05) => {
                stream.handle_datagram(&forged(number, floor, |writer| writer.reset(1)), now);
            }
            5 | 6 => {
                let lowest = dice.below(60);
                let ranges = [lowest + 2..lowest + 3 + dice.below(9), dice.below(lowest + 1)..lowest + 1];
                let ack = forged(number, floor, |writer| writer.ack(ranges.into_iter(), 500, 0));
                stream.handle_datagram(&ack, now);
            }
            7 => {
                let offset = dice.below(2_000) * 137;
                let is_last = dice.chance(0.002);
                let data = forged(number, floor, |writer| writer.data(offset, length, is_last).fill(3));
                stream.handle_datagram(&data, now);
            }
            8 => {
                let limit = dice.number() >> 2 >> dice.below(60);
                stream.handle_datagram(&forged(number, floor, |writer| writer.window(limit)), now);
            }
            9 => stream.handle_datagram(&forged(number, floor, |writer| writer.blocked(5)), now),
            10 => stream.handle_datagram(&forged(number, floor, |writer| writer.ping()), now),
            _ => {
                let mut noise = forged(number, floor, |writer| writer.window(7));
                noise.extend(dice.array::<12>());
                stream.handle_datagram(&noise, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}
