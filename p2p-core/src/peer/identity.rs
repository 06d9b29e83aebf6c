//! The secret key of a node.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use super::PeerId;
use super::text::{self, TextError};
use crate::Seed;

/// The identity of a node: an Ed25519 key pair (RFC 8032).
///
/// The key signs addresses. Mapped to X25519, it opens signals and proves the node in handshakes. It is wiped from
/// memory when dropped, and `Debug` never shows it. To keep it in a file is up to the caller: [`Identity::to_text`]
/// is the line to write.
#[derive(Clone)]
pub struct Identity(SigningKey);

/// An error: the text is not a secret key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no secret key: {0}")]
pub struct IdentityError(#[from] TextError);

impl Identity {
    /// Makes a new identity from random bytes of `seed`.
    pub fn generate(seed: &mut Seed) -> Self {
        Self::from_bytes(*Zeroizing::new(seed.array()))
    }

    /// Makes an identity from the 32 secret bytes of RFC 8032. Any 32 bytes will do.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&Zeroizing::new(bytes)))
    }

    /// Returns the 32 secret bytes. To wipe the copy is up to the caller.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Returns the text for a key file: `p2psk1…`, one line without its end. Anybody who has it can act as this node.
    pub fn to_text(&self) -> String {
        text::SECRET.write(self.0.as_bytes())
    }

    /// Returns the public side.
    pub fn id(&self) -> PeerId {
        PeerId::of(&self.0.verifying_key())
    }

    /// Signs `message`. The caller starts it with a label of its own, so that no signature can be taken for one of
    /// another kind.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Returns the X25519 secret that belongs to [`PeerId::noise_public`]. To wipe the copy is up to the caller.
    pub fn noise_secret(&self) -> [u8; 32] {
        self.0.to_scalar_bytes()
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bytes = text::SECRET.read(text)?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| TextError::Damaged)?;
        Ok(Self::from_bytes(bytes))
    }
}

/// Shows the public side, never the secret.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id().short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_vector_of_rfc_8032() {
        let hex = data_encoding::HEXLOWER;
        let secret = hex.decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let identity = Identity::from_bytes(secret.try_into().unwrap());
        assert_eq!(
            hex.encode(identity.id().as_bytes()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert_eq!(
            hex.encode(&identity.sign(b"")),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
             d25bf5f0595bbe24655141438e7a100b"
        );
    }

    #[test]
    fn nothing_secret_shows() {
        let identity = Identity::generate(&mut Seed::from_u64(1));
        let shown = format!("{identity:?}");
        assert_eq!(shown, format!("Identity({})", identity.id().short()));
        assert!(!identity.to_text().contains(&identity.id().short()));
        let error = identity.id().to_string().parse::<Identity>().unwrap_err();
        assert_eq!(error.to_string(), "no secret key: this is a peer id, but a secret key is needed here");
    }

    proptest! {
        #[test]
        fn signatures_fit_their_message_only(number: u64, message: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let identity = Identity::generate(&mut Seed::from_u64(number));
            let mut signature = identity.sign(&message);
            prop_assert!(identity.id().verify(&message, &signature).is_ok());
            let other = Identity::generate(&mut Seed::from_u64(number ^ 1)).id();
            prop_assert!(other.verify(&message, &signature).is_err());
            signature[at.index(64)] ^= 1 << bit;
            prop_assert!(identity.id().verify(&message, &signature).is_err());
        }

        #[test]
        fn the_text_comes_back(number: u64) {
            let identity = Identity::generate(&mut Seed::from_u64(number));
            let text = identity.to_text();
            prop_assert_eq!(text.parse::<Identity>().unwrap().to_bytes(), identity.to_bytes());
            let cut = text[..text.len() - 1].parse::<Identity>();
            prop_assert_eq!(cut.unwrap_err(), IdentityError(TextError::Cut));
        }
    }
}
