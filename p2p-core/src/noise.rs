//! The Noise protocol framework (revision 34) by way of `snow`, with [`Seed`] as its source of randomness.

use std::cell::RefCell;

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error};

use crate::Seed;

/// The pattern for one message to a receiver whose key is known. It shows the sender's key to the receiver only.
pub(crate) const X: &str = "Noise_X_25519_ChaChaPoly_BLAKE2s";

/// The pattern for a handshake in one round trip with a peer whose key is known. It shows the caller's key to the
/// called peer only.
pub(crate) const IK: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// The bytes that a message of pattern [`X`] has beyond its payload: an ephemeral key, a sealed static key, a tag.
pub(crate) const X_OVERHEAD: usize = 32 + (32 + 16) + 16;

/// Returns the builder of a handshake of `pattern`. Without a `seed` it can only read: drawing a key is an error.
pub(crate) fn builder<'a>(pattern: &'static str, seed: Option<Seed>) -> Builder<'a> {
    let params = pattern.parse().expect("one of the constants of this file");
    Builder::with_resolver(params, Box::new(Resolver(seed.map(RefCell::new))))
}

/// A resolver of the primitives of [`DefaultResolver`], with randomness from a [`Seed`] if there is one.
struct Resolver(Option<RefCell<Seed>>);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(match &self.0 {
            Some(seed) => Box::new(Chance(seed.borrow_mut().fork("noise"))),
            None => Box::new(NoChance),
        })
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Chance(Seed);

impl Random for Chance {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.0.fill(out);
        Ok(())
    }
}

struct NoChance;

impl Random for NoChance {
    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Error> {
        Err(Error::Rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Identity;

    fn write(seed: Option<Seed>) -> Result<Vec<u8>, Error> {
        let identity = Identity::generate(&mut Seed::from_u64(1));
        let mut handshake = builder(X, seed)
            .local_private_key(&identity.noise_secret())?
            .remote_public_key(&identity.id().noise_public())?
            .build_initiator()?;
        let mut out = vec![0; X_OVERHEAD];
        let len = handshake.write_message(b"", &mut out)?;
        assert_eq!(len, X_OVERHEAD);
        Ok(out)
    }

    #[test]
    fn chance_comes_from_the_seed_alone() {
        let one = write(Some(Seed::from_u64(1))).unwrap();
        assert_eq!(one, write(Some(Seed::from_u64(1))).unwrap());
        assert_ne!(one, write(Some(Seed::from_u64(2))).unwrap());
        assert_eq!(write(None), Err(Error::Rng));
    }

    #[test]
    fn one_builder_never_draws_the_same_key_twice() {
        let builder = builder(X, Some(Seed::from_u64(1)));
        let draw = || builder.generate_keypair().unwrap().private;
        assert_ne!(draw(), draw());
    }

    #[test]
    fn both_halves_of_an_identity_belong_together() {
        let identity = Identity::generate(&mut Seed::from_u64(9));
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&identity.noise_secret());
        assert_eq!(dh.pubkey(), identity.id().noise_public());
    }
}
