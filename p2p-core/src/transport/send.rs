//! The bytes on their way to the peer, until it has them.

use std::ops::Range;

use super::config::INITIAL_LIMIT;
use super::ranges::Ranges;
use super::ring::Ring;

/// The sending half of an ordered stream.
#[derive(Debug)]
pub(super) struct SendBuffer {
    ring: Ring,
    /// Acknowledged beyond the ring's base.
    acked: Ranges,
    /// To be sent again.
    lost: Ranges,
    /// Below this everything was sent once.
    next: u64,
    /// What the peer takes.
    limit: u64,
    most: usize,
    end: End,
}

/// How far the end of the stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// To be told, or told again.
    Due,
    Told,
    Known,
}

impl SendBuffer {
    pub(super) fn new(most: usize) -> Self {
        Self {
            ring: Ring::default(),
            acked: Ranges::default(),
            lost: Ranges::default(),
            next: 0,
            limit: INITIAL_LIMIT,
            most,
            end: End::Open,
        }
    }

    /// Bytes that can be written now, when `window` bytes are wanted on the way: twice that, so that the next are
    /// there when these have arrived, and not much more, so that they are not old when they go.
    pub(super) fn room(&self, window: usize) -> usize {
        const LEAST: usize = 64 * 1024;
        let most = window.saturating_mul(2).clamp(LEAST, self.most);
        most.saturating_sub((self.ring.end() - self.ring.base()) as usize)
    }

    /// Takes bytes that [`room`](Self::room) is there for.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.ring.put(self.ring.end(), bytes);
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Due;
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.end != End::Open
    }

    /// Whether the peer has everything, and knows that it is everything.
    pub(super) fn is_known(&self) -> bool {
        self.end == End::Known && self.is_empty()
    }

    /// Whether the peer has everything that was written.
    pub(super) fn is_empty(&self) -> bool {
        self.ring.base() == self.ring.end()
    }

    /// The peer takes more.
    pub(super) fn on_window(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// The limit, when there is more to send than it allows.
    pub(super) fn blocked(&self) -> Option<u64> {
        (self.next >= self.limit && self.ring.end() > self.limit).then_some(self.limit)
    }

    /// Whether there is something to send now.
    pub(super) fn has_piece(&self) -> bool {
        let is_end_due = self.end == End::Due && self.next == self.ring.end();
        !self.lost.is_empty() || self.next < self.ring.end().min(self.limit) || is_end_due
    }

    /// Where the next piece begins.
    pub(super) fn next_offset(&self) -> u64 {
        self.lost.first().map_or(self.next, |first| first.start)
    }

    /// Takes the next piece of at most `room` bytes, lost ones first, and whether it is the last.
    pub(super) fn take_piece(&mut self, room: usize) -> Option<(Range<u64>, bool)> {
        if !self.has_piece() {
            return None;
        }
        let most = room.min(u16::MAX.into()) as u64;
        let piece = match self.lost.first() {
            Some(first) => {
                let piece = first.start..first.end.min(first.start + most);
                self.lost.remove(&piece);
                piece
            }
            None => {
                let end = self.ring.end().min(self.limit).min(self.next + most).max(self.next);
                let piece = self.next..end;
                self.next = end;
                piece
            }
        };
        let is_last = self.end != End::Open && piece.end == self.ring.end();
        if is_last && self.end == End::Due {
            self.end = End::Told;
        }
        (is_last || !piece.is_empty()).then_some((piece, is_last))
    }

    /// The bytes of a piece.
    pub(super) fn copy(&self, piece: Range<u64>, out: &mut [u8]) {
        self.ring.copy(piece, out);
    }

    /// A piece has arrived.
    pub(super) fn on_arrived(&mut self, piece: Range<u64>, is_last: bool) {
        if is_last {
            self.end = End::Known;
        }
        let base = self.ring.base();
        if !self.lost.is_empty() {
            self.lost.remove(&piece);
        }
        if piece.start > base {
            self.acked.insert(piece);
            return;
        }
        let mut base = base.max(piece.end);
        while let Some(first) = self.acked.first().filter(|first| first.start <= base) {
            base = base.max(first.end);
            self.acked.pop_first();
        }
        self.ring.release(base);
    }

    /// A piece is lost, or may be.
    pub(super) fn on_lost(&mut self, piece: Range<u64>, is_last: bool) {
        if is_last && self.end == End::Told {
            self.end = End::Due;
        }
        let whole = piece.start.max(self.ring.base())..piece.end;
        if whole.start < whole.end {
            for gap in self.acked.missing(whole) {
                self.lost.insert(gap);
            }
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.ring.heap() + self.acked.heap() + self.lost.heap()
    }

    /// Gives unused room back.
    pub(super) fn shrink(&mut self) {
        self.ring.shrink();
        self.acked.shrink();
        self.lost.shrink();
    }
}
