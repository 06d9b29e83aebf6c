//! The result of a proof: the other end, and the keys of the pipe.

use std::fmt;

use blake2::Blake2sMac256;
use blake2::digest::{FixedOutput, KeyInit, Update};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::attempt::AttemptId;
use crate::peer::PeerId;

/// A cipher for the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-256-GCM (RFC 5116), which is fast where the processor has AES instructions, and slow and risky elsewhere.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), which is fast everywhere.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Returns the cipher for both ends: AES only if it is fast at both.
    pub(super) fn common(ours: Self, theirs: Self) -> Self {
        if ours == theirs { ours } else { Self::ChaCha20Poly1305 }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// Who the other end is and what it wants. The peer's key is proven; that it is alive only when the proof
/// is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The peer.
    pub peer: PeerId,
    /// The attempt this connection belongs to.
    pub attempt: AttemptId,
    /// Whether **we** are the caller of that attempt.
    pub caller: bool,
}

/// A proven connection: the peer at the other end, and the keys of the pipe.
///
/// The keys are used by one pipe and no other. They follow from both ends' ephemeral secrets, and differ from the
/// keys that protected the end of the proof.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The peer and the attempt.
    pub claim: Claim,
    /// True when both ends wished the bare TCP connection.
    pub plain: bool,
    /// The cipher that is fast at both ends.
    pub cipher: Cipher,
    /// The key that protects what we send.
    pub send_key: [u8; 32],
    /// The key that protects what we receive.
    pub receive_key: [u8; 32],
    /// A value that is the same at both ends of this connection, and different for any other (RFC 5056).
    pub binding: [u8; 32],
}

/// Leaves no key in memory.
impl Drop for Session {
    fn drop(&mut self) {
        self.send_key.zeroize();
        self.receive_key.zeroize();
    }
}

/// Shows the claim and never the keys.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("claim", &self.claim)
            .field("plain", &self.plain)
            .field("cipher", &self.cipher)
            .finish_non_exhaustive()
    }
}

/// Derives a key for one use from one of the two keys that Noise ends with.
pub(super) fn data_key(noise_key: &[u8; 32]) -> [u8; 32] {
    let mut mac = <Blake2sMac256 as KeyInit>::new(noise_key.into());
    mac.update(b"p2p/1 data");
    mac.finalize_fixed().into()
}
