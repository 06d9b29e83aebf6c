//! How many pipes each peer has here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_core::peer::PeerId;

/// The pipes that peers have asked for and that still are, on whatever thread.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Mutex<BTreeMap<PeerId, usize>>);

impl Pipes {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<PeerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for another one of this peer.
    pub(crate) fn has_room(&self, peer: &PeerId, most_of_peer: usize, most: usize) -> bool {
        let counts = self.counts();
        counts.get(peer).copied().unwrap_or_default() < most_of_peer && counts.values().sum::<usize>() < most
    }

    /// Counts another one, for as long as the seat is there.
    pub(crate) fn seat(self: &Arc<Self>, peer: PeerId) -> PipeSeat {
        *self.counts().entry(peer).or_default() += 1;
        PipeSeat { pipes: Arc::clone(self), peer }
    }
}

/// A pipe's place among those of its peer. It is given back when this is dropped.
#[derive(Debug)]
pub struct PipeSeat {
    pipes: Arc<Pipes>,
    peer: PeerId,
}

impl Drop for PipeSeat {
    fn drop(&mut self) {
        let mut counts = self.pipes.counts();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::peer::Identity;

    use super::*;

    #[test]
    fn a_seat_is_taken_until_it_is_dropped() {
        let pipes = Arc::new(Pipes::default());
        let [anna, bert] = [1, 2].map(|secret| Identity::from_bytes([secret; 32]).id());
        let first = pipes.seat(anna);
        assert!(pipes.has_room(&anna, 2, 9));
        let _second = pipes.seat(anna);
        assert!(!pipes.has_room(&anna, 2, 9) && pipes.has_room(&bert, 2, 9));
        assert!(!pipes.has_room(&bert, 2, 2), "all together");
        drop(first);
        assert!(pipes.has_room(&anna, 2, 9));
    }
}
