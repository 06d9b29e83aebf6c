//! The circuits of a node: those of attempts, and those that carry connections which came of them.

use std::collections::{BTreeMap, VecDeque};

use super::router::ChannelId;
use crate::attempt::AttemptId;
use crate::peer::{PeerAddr, PeerId};

/// A circuit that lives, and the peer it speaks with.
#[derive(Clone, Debug)]
pub(super) struct Correspondent {
    /// The peer, where it said last that it is.
    pub(super) peer: PeerAddr,
    /// The channel the peer spoke on, when it began.
    pub(super) back_on: Option<ChannelId>,
    /// Tells that a stranger's addresses are lent to it at our servers.
    pub(super) is_seated: bool,
}

/// Knows which circuits live, for how many strangers, and which have lived.
#[derive(Debug, Default)]
pub(super) struct Circuits {
    live: BTreeMap<AttemptId, Correspondent>,
    begun: VecDeque<(AttemptId, PeerId)>,
}

impl Circuits {
    /// The circuit of this attempt lives from now on.
    pub(super) fn begin(&mut self, attempt: AttemptId, with: Correspondent) {
        if self.begun.len() == MOST_REMEMBERED {
            self.begun.pop_front();
        }
        self.begun.push_back((attempt, with.peer.id()));
        self.live.insert(attempt, with);
    }

    /// Returns the circuit of this attempt, if it lives and speaks with this peer.
    pub(super) fn get_mut(&mut self, attempt: AttemptId, peer: &PeerId) -> Option<&mut Correspondent> {
        self.live.get_mut(&attempt).filter(|with| with.peer.id() == *peer)
    }

    /// Returns the correspondent of this attempt's circuit, if it lives.
    pub(super) fn of(&self, attempt: AttemptId) -> Option<&Correspondent> {
        self.live.get(&attempt)
    }

    /// Tells whether this attempt has, or had, its circuit: an offer that comes late begins nothing.
    pub(super) fn has_begun(&self, attempt: AttemptId, peer: PeerId) -> bool {
        self.begun.contains(&(attempt, peer))
    }

    /// Returns the strangers for whom our servers lend addresses.
    pub(super) fn seated(&self) -> usize {
        self.live.values().filter(|with| with.is_seated).count()
    }

    /// Our user has taken the connection: its peer is no stranger any more.
    pub(super) fn unseat(&mut self, attempt: AttemptId, peer: &PeerId) {
        if let Some(with) = self.get_mut(attempt, peer) {
            with.is_seated = false;
        }
    }

    /// The circuit of this attempt is gone.
    pub(super) fn gone(&mut self, attempt: AttemptId) {
        self.live.remove(&attempt);
    }
}

/// Attempts that are remembered to have had a circuit, after it is gone.
const MOST_REMEMBERED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Contents, Identity};
    use crate::{Seed, UnixTime};

    #[test]
    fn an_attempt_is_remembered_for_its_peer_after_its_circuit_is_gone() {
        let mut seed = Seed::from_u64(1);
        let [peer, other] = [(); 2].map(|()| Identity::generate(&mut seed));
        let contents = Contents { brokers: vec![], machine: None, interfaces: vec![], issued: UnixTime(1) };
        let address = PeerAddr::sign(&peer, contents).unwrap();
        let with = Correspondent { peer: address, back_on: None, is_seated: true };
        let attempts: Vec<AttemptId> = (0..=MOST_REMEMBERED).map(|_| AttemptId(seed.array())).collect();
        let mut circuits = Circuits::default();
        for attempt in &attempts {
            assert!(!circuits.has_begun(*attempt, peer.id()));
            circuits.begin(*attempt, with.clone());
            assert!(circuits.has_begun(*attempt, peer.id()) && !circuits.has_begun(*attempt, other.id()));
            circuits.gone(*attempt);
            assert_eq!(circuits.seated(), 0);
        }
        assert!(!circuits.has_begun(attempts[0], peer.id()), "the oldest makes room");
        assert!(circuits.has_begun(attempts[1], peer.id()));
    }
}
