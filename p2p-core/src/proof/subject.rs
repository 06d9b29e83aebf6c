//! A [`Proof`] for the laws and the fuzzer.

use std::time::{Duration, Instant};

use super::*;
use crate::Seed;
use crate::attempt::{AttemptId, RefusalReason, Role};
use crate::peer::Identity;
use crate::sim::laws::{Dice, Subject, drain};

/// A [`Proof`] and the other end, which says what it should or anything else.
pub struct ProofSubject {
    proof: Proof,
    peer: Proof,
}

impl Subject for ProofSubject {
    type Machine = Proof;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let [anna, bert] = [1, 2].map(|number| Identity::generate(&mut Seed::from_u64(number)));
        let role = if seed.chance(0.5) { Role::Caller } else { Role::Answerer };
        let attempt = AttemptId([7; 16]);
        let config = |identity: &Identity, counterpart| ProofConfig {
            identity: identity.clone(),
            counterpart,
            cipher: Cipher::Aes256Gcm,
            within: Duration::from_secs(3),
        };
        let dialled = Counterpart::Dialled { peer: bert.id(), attempt, role, plain: false };
        let dialler = Proof::new(config(&anna, dialled), seed.fork("a"), now);
        let listener = Proof::new(config(&bert, Counterpart::Unknown), seed.fork("b"), now);
        match seed.chance(0.5) {
            true => Self { proof: dialler, peer: listener },
            false => Self { proof: listener, peer: dialler },
        }
    }

    fn machine(&mut self) -> &mut Proof {
        &mut self.proof
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let Self { proof, peer } = self;
        match dice.below(40) {
            0 => proof.handle_lost(now),
            1 => drop(proof.handle_bytes(&dice.array::<40>(), now)),
            2 => drop(proof.refuse(RefusalReason::Closing, now)),
            3..10 => drop(proof.welcome(false, now)),
            10..14 => drop(proof.go(now)),
            _ => {
                // The other end does what is right, as far as it has come.
                let _ = peer.welcome(false, now);
                let _ = peer.go(now);
                for act in drain(peer).acts {
                    if let Act::Send(bytes) = act {
                        proof.handle_bytes(&bytes, now);
                    }
                }
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.proof.close(now);
    }
}
