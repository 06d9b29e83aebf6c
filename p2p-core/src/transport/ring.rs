//! Bytes of a stream, found by their offset in it.

use std::ops::Range;

/// The least room that is made, in bytes.
const LEAST: usize = 2 * 1024;

/// A window onto a stream: a byte of offset `n` lies at `n` modulo the room, so that nothing is ever moved but when
/// the room grows.
///
/// The room is a power of two; its owner bounds how far from [`base`](Self::base) it writes.
#[derive(Debug, Default)]
pub(super) struct Ring {
    room: Box<[u8]>,
    base: u64,
    /// The end of the furthest byte that was ever put in, never below `base`.
    end: u64,
}

impl Ring {
    /// The offset of the first byte that is still held.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The end of what is held; there may be holes before it.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The two places at which `range` lies, at most as long as the room.
    fn places(&self, range: Range<u64>) -> (Range<usize>, Range<usize>) {
        let length = (range.end - range.start) as usize;
        let from = (range.start & (self.room.len() as u64).wrapping_sub(1)) as usize;
        let first = length.min(self.room.len() - from);
        (from..from + first, 0..length - first)
    }

    /// Writes `bytes` at `offset`, which is not below [`base`](Self::base).
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() {
            return;
        }
        self.make_room((end - self.base) as usize);
        let (first, second) = self.places(offset..end);
        let (head, tail) = bytes.split_at(first.len());
        self.room[first].copy_from_slice(head);
        self.room[second].copy_from_slice(tail);
        self.end = self.end.max(end);
    }

    fn make_room(&mut self, wanted: usize) {
        if wanted <= self.room.len() {
            return;
        }
        let grown = vec![0; wanted.next_power_of_two().max(LEAST)].into_boxed_slice();
        let old = std::mem::replace(&mut self.room, grown);
        if !old.is_empty() && self.end > self.base {
            let held = Self { room: old, base: self.base, end: self.end };
            let (first, second) = held.slices(held.base..held.end);
            let middle = held.base + first.len() as u64;
            let (base, end) = (self.base, self.end);
            self.put(base, first);
            self.put(middle, second);
            self.end = end;
        }
    }

    /// The bytes of `range`, which is held.
    pub(super) fn slices(&self, range: Range<u64>) -> (&[u8], &[u8]) {
        if range.is_empty() {
            return (&[], &[]);
        }
        let (first, second) = self.places(range);
        (&self.room[first], &self.room[second])
    }

    /// Copies the bytes of `range`, which is held, into `out`, which is as long.
    pub(super) fn copy(&self, range: Range<u64>, out: &mut [u8]) {
        let (first, second) = self.slices(range);
        let (head, tail) = out.split_at_mut(first.len());
        head.copy_from_slice(first);
        tail.copy_from_slice(second);
    }

    /// Forgets everything below `base`.
    pub(super) fn release(&mut self, base: u64) {
        self.base = self.base.max(base);
        self.end = self.end.max(self.base);
    }

    /// Gives the room back when nothing is held.
    pub(super) fn shrink(&mut self) {
        if self.base == self.end {
            self.room = Box::default();
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.room.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9) >> 7) as u8
    }

    proptest! {
        #[test]
        fn what_is_put_is_there(steps in proptest::collection::vec((0u64..5_000, 0usize..3_000, 0u64..4_000), 1..40)) {
            let mut ring = Ring::default();
            let mut written = super::super::ranges::Ranges::default();
            for (ahead, length, release) in steps {
                let offset = ring.base() + ahead;
                let bytes: Vec<u8> = (offset..offset + length as u64).map(byte).collect();
                ring.put(offset, &bytes);
                written.insert(offset..offset + length as u64);
                for range in written.iter().cloned() {
                    let mut out = vec![0; (range.end - range.start) as usize];
                    ring.copy(range.clone(), &mut out);
                    prop_assert!(out.iter().copied().eq(range.map(byte)));
                }
                let base = (ring.base() + release).min(ring.end());
                ring.release(base);
                written.remove_below(base);
                ring.shrink();
                prop_assert!(ring.heap() <= 16_384 && (ring.base() < ring.end() || ring.heap() == 0));
            }
        }
    }
}
