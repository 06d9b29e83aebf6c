//! Which circuits hear what peers say.

use std::collections::{BTreeMap, VecDeque};

use p2p_core::peer::PeerId;
use p2p_core::relay::Notice;
use p2p_core::signal::{AttemptId, Signal};

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

    /// Brings a notice to the circuit it is for. Whether there is one.
    pub(crate) fn bring(&self, notice: &Notice, signal: &Signal) -> bool {
        if notice.refusal.is_some() {
            return false;
        }
        let ear = self.live.get(&signal.attempt).filter(|(peer, _)| *peer == signal.from);
        ear.is_some_and(|(_, ear)| ear.hear(notice, &signal.sender, &signal.sender.sources()))
    }

    /// Whether this attempt has, or had, its circuit: a notice that comes late begins nothing.
    pub(crate) fn has_begun(&self, attempt: AttemptId, peer: PeerId) -> bool {
        self.begun.contains(&(attempt, peer))
    }
}
