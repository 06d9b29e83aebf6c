//! The memory of ciphertexts that were here already.

use std::collections::{BTreeSet, VecDeque};

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};

/// A memory of the last ciphertexts by a keyed hash.
///
/// The hash covers all of a ciphertext. So a copy with one changed byte that comes first does not pass for the
/// signal. The key keeps strangers from finding two ciphertexts with one hash, so 64 bits are enough.
#[derive(Debug)]
pub(super) struct Seen {
    key: [u8; 32],
    most: usize,
    set: BTreeSet<u64>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Returns an empty memory of the last `most` ciphertexts.
    pub(super) fn new(key: [u8; 32], most: usize) -> Self {
        Self { key, most, set: BTreeSet::new(), order: VecDeque::new() }
    }

    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hash = Blake2s256::default();
        hash.update(&self.key);
        hash.update(bytes);
        let hash: [u8; 32] = hash.finalize_fixed().into();
        let (head, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        u64::from_le_bytes(*head)
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.set.contains(&hash)
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if self.set.insert(hash) {
            self.order.push_back(hash);
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.set.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_and_no_more() {
        let mut seen = Seen::new([7; 32], 3);
        let hashes = [b"a", b"b", b"c", b"d"].map(|bytes| seen.hash(bytes));
        for hash in hashes {
            seen.insert(hash);
            seen.insert(hash);
            assert!(seen.contains(hash));
        }
        assert_eq!(hashes.map(|hash| seen.contains(hash)), [false, true, true, true]);
        assert_eq!((seen.set.len(), seen.order.len()), (3, 3));
        assert_ne!(hashes[0], Seen::new([8; 32], 3).hash(b"a"));
    }
}
