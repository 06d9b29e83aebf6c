//! Which circuits hear what peers say.

use std::collections::{BTreeMap, VecDeque};

use p2p_core::attempt::AttemptId;
use p2p_core::peer::PeerId;
use p2p_core::relay::RelayOffer;
use p2p_core::signal::Signal;

use super::Ear;

/// Attempts that are remembered to have had a circuit, after it is gone.
const MOST_REMEMBERED: usize = 256;

/// The circuits of a node: those of attempts, and those of connections that came of them.
#[derive(Default)]
pub(crate) struct Ears {
    live: BTreeMap<AttemptId, (PeerId, Ear)>,
    begun: VecDeque<(AttemptId, PeerId)>,
}

impl Ears {
    /// What this peer says in this attempt is for the circuit behind `ear`.
    pub(crate) fn listen(&mut self, attempt: AttemptId, peer: PeerId, ear: Ear) {
        self.live.retain(|_, (_, ear)| !ear.is_gone());
        self.live.insert(attempt, (peer, ear));
        if self.begun.len() == MOST_REMEMBERED {
            self.begun.pop_front();
        }
        self.begun.push_back((attempt, peer));
    }

    /// Brings an offer to the circuit it is for. Whether there is one.
    pub(crate) fn bring(&self, offer: &RelayOffer, signal: &Signal) -> bool {
        if offer.refusal.is_some() {
            return false;
        }
        let ear = self.live.get(&signal.attempt).filter(|(peer, _)| *peer == signal.from);
        ear.is_some_and(|(_, ear)| ear.hear(offer, &signal.sender, &signal.sender.sources()))
    }

    /// Whether this attempt has, or had, its circuit: an offer that comes late begins nothing.
    pub(crate) fn has_begun(&self, attempt: AttemptId, peer: PeerId) -> bool {
        self.begun.contains(&(attempt, peer))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use p2p_core::Seed;
    use p2p_core::peer::Identity;

    use super::*;

    #[test]
    fn an_attempt_is_remembered_for_its_peer_after_its_circuit_is_gone() {
        let mut seed = Seed::from_u64(1);
        let [peer, other] = [(); 2].map(|()| Identity::generate(&mut seed).id());
        let attempts: Vec<AttemptId> = (0..=MOST_REMEMBERED).map(|_| AttemptId(seed.array())).collect();
        let mut ears = Ears::default();
        for attempt in &attempts {
            assert!(!ears.has_begun(*attempt, peer));
            ears.listen(*attempt, peer, Ear(Weak::new()));
            assert!(ears.has_begun(*attempt, peer) && !ears.has_begun(*attempt, other));
        }
        assert!(!ears.has_begun(attempts[0], peer), "the oldest makes room");
        assert!(ears.has_begun(attempts[1], peer));
        assert_eq!((ears.live.len(), ears.begun.len()), (1, MOST_REMEMBERED));
    }
}
