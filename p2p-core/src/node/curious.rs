//! Peers that asked where this node is before it knew.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::router::ChannelId;
use crate::attempt::AttemptId;
use crate::peer::PeerAddr;

/// A peer that wants to be told where this node is seen from outside.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) peer: PeerAddr,
    pub(super) attempt: AttemptId,
    /// The channel that the question came by.
    pub(super) channel: ChannelId,
}

/// The peers that wait for an address, the last ones: a caller and a called node may have started in the same second.
#[derive(Debug, Default)]
pub(super) struct Curious {
    waiting: VecDeque<(Instant, Asker)>,
}

impl Curious {
    /// Remembers a peer for a while. One that asks again, for the same attempt, is remembered once.
    pub(super) fn remember(&mut self, asker: Asker, now: Instant) {
        self.waiting.retain(|(_, known)| known.attempt != asker.attempt);
        if self.waiting.len() == MOST_ASKERS {
            self.waiting.pop_front();
        }
        self.waiting.push_back((now + ASKED_WITHIN, asker));
    }

    /// Takes everybody who still waits.
    pub(super) fn take(&mut self, now: Instant) -> impl Iterator<Item = Asker> + use<> {
        let all = std::mem::take(&mut self.waiting);
        all.into_iter().filter(move |(until, _)| now < *until).map(|(_, asker)| asker)
    }
}

/// Peers that are remembered at most. Strangers can fill it, and are then told once more each; nobody else loses more
/// than a question that it asks again.
const MOST_ASKERS: usize = 32;
/// The time for which they are remembered: a caller waits that long for an answer.
const ASKED_WITHIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Contents, Identity};
    use crate::sim::epoch;

    fn asker(number: u8) -> Asker {
        let contents = Contents {
            brokers: Vec::new(),
            machine: None,
            interfaces: Vec::new(),
            issued: Default::default(),
        };
        let peer = PeerAddr::sign(&Identity::from_bytes([1; 32]), contents).unwrap();
        Asker { peer, attempt: AttemptId([number; 16]), channel: ChannelId(0) }
    }

    #[test]
    fn those_that_wait_are_few_told_once_and_not_for_long() {
        let mut curious = Curious::default();
        for number in 0..100 {
            curious.remember(asker(number), epoch());
            curious.remember(asker(number), epoch());
        }
        assert_eq!(curious.take(epoch()).count(), MOST_ASKERS);
        assert_eq!(curious.take(epoch()).count(), 0);
        curious.remember(asker(1), epoch());
        assert_eq!(curious.take(epoch() + ASKED_WITHIN).count(), 0);
    }
}
