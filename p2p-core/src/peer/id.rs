//! The public name of a peer.

use std::fmt;
use std::str::FromStr;

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::{self, TextError};

/// The name of a peer: its Ed25519 public key (RFC 8032).
///
/// It only ever holds a canonical point of the prime-order group, and not the neutral one. So signatures can be verified
/// with every id, and messages sealed to it. No two ids are spellings of one point, and none is another one with a point
/// of small order added, which no secret key makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

/// A reason why something is not a peer id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text is not that of a peer id.
    #[error("no peer id: {0}")]
    Text(#[from] TextError),
    /// The bytes are no canonical public key, or are a weak one.
    #[error("no peer id: these 32 bytes are no usable Ed25519 public key; whoever made them is at fault")]
    Key,
}

/// An error: the signature was not made by the peer over this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit: the message was changed or somebody else signed it")]
pub struct SignatureError;

impl PeerId {
    /// Makes an id from the bytes of a public key.
    ///
    /// # Errors
    /// [`IdError::Key`] when they are no point of the curve, not its canonical encoding, or outside the prime-order group.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, IdError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| IdError::Key)?;
        let point = key.to_edwards();
        if key.is_weak() || point.compress().to_bytes() != bytes || !point.is_torsion_free() {
            return Err(IdError::Key);
        }
        Ok(Self(bytes))
    }

    /// Returns the id of a key pair, which needs no check because a key pair always has a sound public key.
    pub(super) fn of(key: &VerifyingKey) -> Self {
        Self(key.to_bytes())
    }

    /// Returns the bytes of the public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(&self.0).expect("checked when this id was made")
    }

    /// Checks that this peer signed `message`. By the strict rules (`verify_strict`), exactly one signature of an
    /// honest signer fits a key and a message.
    ///
    /// # Errors
    /// [`SignatureError`] when this peer did not sign it.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
        self.key().verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| SignatureError)
    }

    /// Returns the X25519 public key that belongs to this id (RFC 7748, the map of section 4.1).
    pub fn noise_public(&self) -> [u8; 32] {
        self.key().to_montgomery().to_bytes()
    }

    /// Returns the topic on which this peer hears signals.
    ///
    /// It is made of a hash, so a broker that sees the topic does not learn the key. Only who was given the peer's id
    /// can seal a signal to it.
    pub fn topic(&self) -> String {
        let mut hash = Blake2s256::default();
        hash.update(b"p2p topic 1\0");
        hash.update(&self.0);
        let hash: [u8; 32] = hash.finalize_fixed().into();
        format!("p2p/1/{}", text::base32(&hash[..20]))
    }

    /// Returns eight characters of the text form, for logs. They are not unique against an adversary.
    pub fn short(&self) -> String {
        text::base32(&self.0[..5])
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::ID.write(&self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = text::ID.read(text)?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| TextError::Damaged)?;
        Self::from_bytes(bytes)
    }
}

impl Serialize for PeerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Self::from_bytes(<[u8; 32]>::deserialize(deserializer)?).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::peer::Identity;
    use proptest::prelude::*;

    fn id(number: u64) -> PeerId {
        Identity::generate(&mut Seed::from_u64(number)).id()
    }

    #[test]
    fn only_usable_keys_are_ids() {
        let starting_with = |byte: u8| {
            let mut y = [0; 32];
            y[0] = byte;
            y
        };
        let (order_1, order_4, off_the_curve) = (starting_with(1), [0; 32], starting_with(2));
        // The bytes of p + 3 are another spelling of y = 3, which is on the curve.
        let not_canonical = {
            let mut y = [0xff; 32];
            y[0] = 0xf0;
            y[31] = 0x7f;
            y
        };
        assert!(VerifyingKey::from_bytes(&not_canonical).is_ok(), "dalek takes it, we must not");
        for bad in [order_1, order_4, not_canonical, off_the_curve] {
            assert_eq!(PeerId::from_bytes(bad), Err(IdError::Key), "{bad:02x?}");
        }
    }

    /// The point with (0, -1) added, which has order 2: (-x, -y).
    fn with_torsion(id: PeerId) -> [u8; 32] {
        let mut prime = [0xff_u8; 32];
        (prime[0], prime[31]) = (0xed, 0x7f);
        let (mut bytes, mut borrow) = (*id.as_bytes(), 0_i16);
        let sign = bytes[31] & 0x80;
        bytes[31] &= 0x7f;
        for (byte, prime) in bytes.iter_mut().zip(prime) {
            let difference = i16::from(prime) - i16::from(*byte) - borrow;
            borrow = i16::from(difference < 0);
            *byte = difference.rem_euclid(256) as u8;
        }
        bytes[31] |= sign ^ 0x80;
        bytes
    }

    #[test]
    fn no_id_is_another_one_in_disguise() {
        for number in 0..20 {
            let id = id(number);
            let disguised = with_torsion(id);
            let key = VerifyingKey::from_bytes(&disguised).expect("a point of the curve");
            assert!(!key.is_weak());
            assert_eq!(PeerId::from_bytes(disguised), Err(IdError::Key));
            assert_eq!(PeerId::from_bytes(*id.as_bytes()), Ok(id));
        }
    }

    #[test]
    fn a_topic_is_stable_and_hides_the_key() {
        let id = id(1);
        assert_eq!(id.topic(), id.topic());
        assert_eq!(id.topic().len(), "p2p/1/".len() + 32);
        assert!(!id.topic().contains(&id.short()));
        assert_ne!(id.topic(), super::tests::id(2).topic());
    }

    #[test]
    fn the_wrong_text_is_named() {
        let text = id(1).to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.to_uppercase().parse(), Ok(id(1)));
        assert_eq!(format!(" {}\n\t{} \r\n", &text[..20], &text[20..]).parse(), Ok(id(1)));
        let secret = Identity::generate(&mut Seed::from_u64(1)).to_text();
        let error = secret.parse::<PeerId>().unwrap_err();
        assert_eq!(error.to_string(), "no peer id: this is a secret key, but a peer id is needed here");
        assert!(matches!("hello".parse::<PeerId>(), Err(IdError::Text(TextError::Foreign { .. }))));
        assert!(matches!(
            text.replacen('a', "0", 1).parse::<PeerId>(),
            Err(IdError::Text(TextError::Character { found: '0', .. }))
        ));
        assert!(matches!(
            "p2pid1".repeat(10_000).parse::<PeerId>(),
            Err(IdError::Text(TextError::TooLong { .. }))
        ));
    }

    proptest! {
        #[test]
        fn text_and_bytes_come_back(number: u64) {
            let id = id(number);
            prop_assert_eq!(id.to_string().parse::<PeerId>(), Ok(id));
            prop_assert_eq!(PeerId::from_bytes(*id.as_bytes()), Ok(id));
            let packed = postcard::to_stdvec(&id).unwrap();
            prop_assert_eq!(packed.len(), 32);
            prop_assert_eq!(postcard::from_bytes::<PeerId>(&packed), Ok(id));
        }

        #[test]
        fn a_mistyped_or_cut_text_says_so(number: u64, at in 6usize..64, by in 1u8..32) {
            let text = id(number).to_string();
            let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
            let mut typed = text.clone().into_bytes();
            let place = alphabet.iter().position(|symbol| *symbol == typed[at]).unwrap();
            typed[at] = alphabet[(place + usize::from(by)) % 32];
            let typed = String::from_utf8(typed).unwrap();
            prop_assert_eq!(typed.parse::<PeerId>(), Err(IdError::Text(TextError::Damaged)));
            prop_assert_eq!(text[..at].parse::<PeerId>(), Err(IdError::Text(TextError::Cut)));
        }

        #[test]
        fn no_text_panics(text: String, tail in "[ a-z0-9\u{a0}é]{0,80}") {
            let _ = text.parse::<PeerId>();
            let _ = format!("p2pid1{tail}").parse::<PeerId>();
        }
    }
}
