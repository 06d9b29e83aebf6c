//! Machine tags, by which two peers on one machine recognise each other and nobody else learns of it.

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};
use serde::{Deserialize, Serialize};

use super::PeerId;
use crate::Seed;

/// A salted hash of a machine's id and of the key of the peer that publishes it.
///
/// Two peers on one machine meet over loopback, so an address says on which machine its owner runs. The machine id in
/// the clear would let strangers link all identities of a machine. Under a fresh salt, only somebody who already
/// knows the id can tell. The id must be hard to guess (128 random bits, as in `/etc/machine-id`).
///
/// The owner's key goes into the hash too, so a copy in the address of another peer says nothing. Otherwise anybody
/// could copy the tag of a node and call himself a neighbour on its machine. The node would then dial ports on its
/// own loopback for him.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineTag {
    salt: [u8; 8],
    tag: [u8; 16],
}

impl MachineTag {
    /// Returns the tag of this machine in the address of `owner`, under a new salt.
    pub fn new(machine_id: &[u8], owner: &PeerId, seed: &mut Seed) -> Self {
        let salt = seed.array();
        Self { salt, tag: tag(&salt, owner, machine_id) }
    }

    /// Tells whether `owner` made it on the machine of this id. An empty id is no machine's.
    pub fn is(&self, machine_id: &[u8], owner: &PeerId) -> bool {
        !machine_id.is_empty() && self.tag == tag(&self.salt, owner, machine_id)
    }
}

fn tag(salt: &[u8; 8], owner: &PeerId, machine_id: &[u8]) -> [u8; 16] {
    let mut hash = Blake2s256::default();
    hash.update(b"p2p machine 1\0");
    hash.update(salt);
    hash.update(owner.as_bytes());
    hash.update(machine_id);
    let hash: [u8; 32] = hash.finalize_fixed().into();
    let mut tag = [0; 16];
    tag.copy_from_slice(&hash[..16]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Identity;

    #[test]
    fn neighbours_know_and_strangers_cannot_link() {
        let mut seed = Seed::from_u64(1);
        let [anna, bert] = [1, 2].map(|byte| Identity::from_bytes([byte; 32]).id());
        let (one, two) =
            (MachineTag::new(b"here", &anna, &mut seed), MachineTag::new(b"here", &anna, &mut seed));
        assert!(one.is(b"here", &anna) && two.is(b"here", &anna));
        assert!(!one.is(b"there", &anna) && !one.is(b"", &anna));
        assert!(!one.is(b"here", &bert), "a copy in another address says nothing");
        assert!(!MachineTag::new(b"", &anna, &mut seed).is(b"", &anna), "no id is no machine");
        assert_ne!(one.tag, two.tag);
        assert_ne!(one.salt, two.salt);
    }
}
