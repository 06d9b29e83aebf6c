//! The packets under way, ordered by their time of arrival.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use super::Stage;
use super::packet::Frame;

#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    count: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    /// The number that keeps packets of one instant in order.
    number: u64,
    stage: Stage,
    frame: Frame,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, stage: Stage, frame: Frame) {
        self.count += 1;
        self.bytes += frame.room();
        self.heap.push(Reverse(Entry { at, number: self.count, stage, frame }));
    }

    /// Returns the first packet that should have arrived by `now`, with its time of arrival.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Stage, Frame)> {
        if self.next()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.bytes -= entry.frame.room();
        Some((entry.at, entry.stage, entry.frame))
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Returns the bytes of memory that the queued packets take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Entry {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
