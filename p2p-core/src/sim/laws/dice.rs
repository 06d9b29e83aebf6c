//! Choices, by chance or by a fuzzer.

use std::time::Duration;

use crate::Seed;

/// Where a [`Subject`](super::Subject) takes its choices from: chance in tests, bytes in the fuzzer.
///
/// Bytes are used up in order, as few for a choice as it needs, so that a fuzzer can change one choice and leave the
/// others. When they are used up, every choice is the first.
#[derive(Clone, Debug)]
pub struct Dice<'a> {
    source: DiceSource<'a>,
}

#[derive(Clone, Debug)]
enum DiceSource<'a> {
    Chance(Seed),
    Bytes(&'a [u8]),
}

impl Dice<'static> {
    /// Returns choices by chance.
    pub fn new(seed: Seed) -> Self {
        Self { source: DiceSource::Chance(seed) }
    }
}

impl<'a> Dice<'a> {
    /// Returns choices by bytes.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self { source: DiceSource::Bytes(bytes) }
    }

    /// Tells whether all bytes are used up. Chance never is.
    pub fn is_over(&self) -> bool {
        matches!(self.source, DiceSource::Bytes([]))
    }

    /// Fills `out` with bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        match &mut self.source {
            DiceSource::Chance(seed) => seed.fill(out),
            DiceSource::Bytes(bytes) => {
                let (taken, rest) = bytes.split_at(out.len().min(bytes.len()));
                out[..taken.len()].copy_from_slice(taken);
                out[taken.len()..].fill(0);
                *bytes = rest;
            }
        }
    }

    /// Returns `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Returns a number in 0 … `u64::MAX`.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Returns a number in `0..end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        match &mut self.source {
            DiceSource::Chance(seed) => seed.below(end),
            DiceSource::Bytes(_) if end <= 1 => 0,
            DiceSource::Bytes(_) => {
                let number = match end {
                    ..=0x100 => u64::from(self.array::<1>()[0]),
                    ..=0x1_0000 => u64::from(u16::from_le_bytes(self.array())),
                    ..=0x1_0000_0000 => u64::from(u32::from_le_bytes(self.array())),
                    _ => self.number(),
                };
                number % end
            }
        }
    }

    /// Returns true with this probability (0.0 … 1.0), in steps of 1/256 where bytes are the source.
    pub fn chance(&mut self, probability: f64) -> bool {
        match &mut self.source {
            DiceSource::Chance(seed) => seed.chance(probability),
            // From the end: bytes that are used up mean no.
            DiceSource::Bytes(_) => f64::from(255 - self.array::<1>()[0]) < probability * 256.0,
        }
    }

    /// Returns a duration in zero … `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        match &mut self.source {
            DiceSource::Chance(seed) => seed.up_to(most),
            DiceSource::Bytes(_) => most.mul_f64(f64::from(u16::from_le_bytes(self.array())) / 65_535.0),
        }
    }

    /// Returns one of `items`, or `None` when there are none.
    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> Option<&'i T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Returns a stream of chance of its own.
    pub fn seed(&mut self) -> Seed {
        Seed::from_u64(self.number())
    }
}
