//! The bound on the pipes that peers have asked for.

use std::collections::BTreeMap;

use super::config::Limits;
use crate::peer::PeerId;

/// Counts the pipes that peers have asked for and that have not ended.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    of_peer: BTreeMap<PeerId, usize>,
    all: usize,
}

impl Pipes {
    /// Tells whether there is room for another one of this peer.
    pub(super) fn has_room(&self, peer: &PeerId, limits: &Limits) -> bool {
        let of_peer = self.of_peer.get(peer).copied().unwrap_or_default();
        of_peer < limits.pipes_per_peer && self.all < limits.pipes
    }

    /// Counts another one.
    pub(super) fn begin(&mut self, peer: PeerId) {
        *self.of_peer.entry(peer).or_default() += 1;
        self.all += 1;
    }

    /// Counts one less.
    pub(super) fn end(&mut self, peer: &PeerId) {
        let Some(count) = self.of_peer.get_mut(peer) else { return };
        *count -= 1;
        if *count == 0 {
            self.of_peer.remove(peer);
        }
        self.all -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Identity;

    #[test]
    fn a_place_is_taken_until_its_pipe_ends() {
        let mut pipes = Pipes::default();
        let [anna, bert] = [1, 2].map(|secret| Identity::from_bytes([secret; 32]).id());
        let limits = Limits { pipes_per_peer: 2, pipes: 9, ..Limits::default() };
        pipes.begin(anna);
        assert!(pipes.has_room(&anna, &limits));
        pipes.begin(anna);
        assert!(!pipes.has_room(&anna, &limits) && pipes.has_room(&bert, &limits));
        assert!(!pipes.has_room(&bert, &Limits { pipes: 2, ..limits }), "all together");
        pipes.end(&bert);
        pipes.end(&anna);
        assert!(pipes.has_room(&anna, &limits));
    }
}
