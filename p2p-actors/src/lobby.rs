//! The waiting room for connections that have not proven who they are.

use std::collections::VecDeque;

use actix::SpawnHandle;

/// Bounded, first in, first out of patience: when it is full, the oldest makes room for the newest.
///
/// A legitimate peer speaks within a round trip, so whoever has waited longest is the least likely to be
/// one. A flood has to fill the room within that round trip to keep a peer out.
pub(crate) struct Lobby {
    waiting: VecDeque<(u64, SpawnHandle)>,
    most: usize,
    next: u64,
}

impl Lobby {
    pub(crate) fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), most: most.max(1), next: 0 }
    }

    /// A ticket for the next visitor, before their work is known.
    pub(crate) fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Lets a visitor in. Answers whose work must be cancelled to make room.
    #[must_use]
    pub(crate) fn enter(&mut self, ticket: u64, work: SpawnHandle) -> Option<SpawnHandle> {
        self.waiting.push_back((ticket, work));
        (self.waiting.len() > self.most).then(|| self.waiting.pop_front()).flatten().map(|(_, work)| work)
    }

    /// The visitor stays, busy with something else now.
    pub(crate) fn stay(&mut self, ticket: u64, work: SpawnHandle) {
        for (waiting, busy) in &mut self.waiting {
            if *waiting == ticket {
                *busy = work;
            }
        }
    }

    /// The visitor proved who they are, or left.
    pub(crate) fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = SpawnHandle> {
        self.waiting.drain(..).map(|(_, work)| work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut lobby = Lobby::new(2);
        let work = SpawnHandle::default;
        let tickets: Vec<u64> = (0..3).map(|_| lobby.ticket()).collect();
        assert!(lobby.enter(tickets[0], work()).is_none());
        assert!(lobby.enter(tickets[1], work()).is_none());
        assert!(lobby.enter(tickets[2], work()).is_some());
        lobby.leave(tickets[1]);
        lobby.leave(tickets[0]);
        assert_eq!(lobby.drain().count(), 1);
    }
}
