//! Are we on the same machine? Only who is may know.

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};
use serde::{Deserialize, Serialize};

use crate::Seed;

/// The salted hash of a machine's id.
///
/// Two peers on one machine meet over loopback, so an address says where its owner runs. In the clear that
/// would let strangers link all identities of a machine; under a fresh salt only somebody who already knows
/// the machine id can tell. The id must be hard to guess (128 random bits, as in `/etc/machine-id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineTag {
    salt: [u8; 8],
    tag: [u8; 16],
}

impl MachineTag {
    /// The tag of this machine, under a new salt.
    pub fn new(machine_id: &[u8], seed: &mut Seed) -> Self {
        let salt = seed.array();
        Self { salt, tag: tag(&salt, machine_id) }
    }

    /// Whether it was made on the machine of this id.
    pub fn is(&self, machine_id: &[u8]) -> bool {
        self.tag == tag(&self.salt, machine_id)
    }
}

fn tag(salt: &[u8; 8], machine_id: &[u8]) -> [u8; 16] {
    let mut hash = Blake2s256::default();
    hash.update(b"p2p machine 1\0");
    hash.update(salt);
    hash.update(machine_id);
    let hash: [u8; 32] = hash.finalize_fixed().into();
    let mut tag = [0; 16];
    tag.copy_from_slice(&hash[..16]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_know_and_strangers_cannot_link() {
        let mut seed = Seed::from_u64(1);
        let (one, two) = (MachineTag::new(b"here", &mut seed), MachineTag::new(b"here", &mut seed));
        assert!(one.is(b"here") && two.is(b"here"));
        assert!(!one.is(b"there") && !one.is(b""));
        assert_ne!(one.tag, two.tag);
        assert_ne!(one.salt, two.salt);
    }
}
