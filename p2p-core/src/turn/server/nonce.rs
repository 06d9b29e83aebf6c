//! Nonces that need no memory: each proves that this server made it, for which 5-tuple, and when.
//!
//! A nonce is eight characters: the low byte of the time it was made at and 40 bits of a code over the whole time and
//! the 5-tuple. Forging one takes 2⁴⁰ attempts and gains nothing but a larger share of answers: what it guards, the
//! request, is signed. It is short because a challenge must not be much larger than the request it answers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::output::FiveTuple;

/// The start of a nonce that is followed by four characters of security features (RFC 8489, section 9.2).
const COOKIE: &str = "obMatJos2";
/// Steps of time in the life of a nonce.
const STEPS: u32 = 16;
/// Bytes of the code.
const CODE: usize = 5;

/// What a nonce proves about who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceProof {
    /// It was given to this 5-tuple, not long ago.
    Fresh,
    /// It was given to this 5-tuple, too long ago.
    Stale,
    /// Nothing.
    Foreign,
}

/// The security features of RFC 8489, section 18.1, that a nonce announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) password_algorithms: bool,
    pub(super) user_hash: bool,
}

impl Features {
    /// What goes before the nonce. Bits are numbered from the left, as in the example of RFC 8656, section 20.
    fn prefix(self) -> String {
        let bits = u8::from(self.password_algorithms) << 7 | u8::from(self.user_hash) << 6;
        if bits == 0 { String::new() } else { format!("{COOKIE}{}", BASE64.encode(&[bits, 0, 0])) }
    }
}

/// Makes nonces and knows its own again.
pub(super) struct Nonces {
    key: [u8; 32],
    born: Instant,
}

/// Never shows the key.
impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces(..)")
    }
}

impl Nonces {
    /// `key` is random and secret.
    pub(super) fn new(key: [u8; 32], now: Instant) -> Self {
        Self { key, born: now }
    }

    /// A nonce for `tuple`, good for `lifetime`.
    pub(super) fn make(
        &self,
        tuple: &FiveTuple,
        features: Features,
        lifetime: Duration,
        now: Instant,
    ) -> String {
        let (prefix, step) = (features.prefix(), self.step(lifetime, now));
        let code = self.code(&prefix, step, tuple).finalize().into_bytes();
        let mut bytes = [0; 1 + CODE];
        bytes[0] = step as u8;
        bytes[1..].copy_from_slice(&code[..CODE]);
        format!("{prefix}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// What `nonce` proves, when it comes from `tuple`.
    pub(super) fn judge(
        &self,
        nonce: &str,
        tuple: &FiveTuple,
        lifetime: Duration,
        now: Instant,
    ) -> NonceProof {
        let Some((prefix, text)) = nonce.len().checked_sub(8).and_then(|at| nonce.split_at_checked(at))
        else {
            return NonceProof::Foreign;
        };
        let mut bytes = [0; 1 + CODE];
        if BASE64URL_NOPAD.decode_mut(text.as_bytes(), &mut bytes).is_err() {
            return NonceProof::Foreign;
        }
        let step = self.step(lifetime, now);
        // The latest step that ends in this byte: one that is older cannot pass for it, as the code is over all of it.
        let age = u64::from((step as u8).wrapping_sub(bytes[0]));
        let Some(made) = step.checked_sub(age) else { return NonceProof::Foreign };
        if self.code(prefix, made, tuple).verify_truncated_left(&bytes[1..]).is_err() {
            NonceProof::Foreign
        } else if age < u64::from(STEPS) && !lifetime.is_zero() {
            NonceProof::Fresh
        } else {
            NonceProof::Stale
        }
    }

    fn step(&self, lifetime: Duration, now: Instant) -> u64 {
        let length = (lifetime / STEPS).max(Duration::from_millis(1));
        (now.saturating_duration_since(self.born).as_nanos() / length.as_nanos()) as u64
    }

    /// The code over what a nonce vouches for.
    fn code(&self, prefix: &str, step: u64, tuple: &FiveTuple) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&step.to_be_bytes());
        mac.update(&[tuple.transport as u8]);
        for end in [tuple.server, tuple.client] {
            mac.update(&end.port().to_be_bytes());
            match end.ip() {
                IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => mac.update(&ip.octets()),
            }
        }
        mac.update(prefix.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;
    use crate::stun::Transport;

    const MINUTE: Duration = Duration::from_secs(60);

    fn tuple(client: &str) -> FiveTuple {
        let server = "203.0.113.1:3478".parse().unwrap();
        FiveTuple { transport: Transport::Udp, server, client: client.parse().unwrap() }
    }

    #[test]
    fn it_knows_its_own_while_they_are_fresh_and_long_after() {
        let nonces = Nonces::new([1; 32], epoch());
        let [anna, bert] = ["192.0.2.1:5", "192.0.2.1:6"].map(tuple);
        let at = |seconds| epoch() + Duration::from_secs(seconds);
        for features in [Features::default(), Features { password_algorithms: true, user_hash: true }] {
            let nonce = nonces.make(&anna, features, MINUTE, at(30));
            let judge = |who: &FiveTuple, seconds| nonces.judge(&nonce, who, MINUTE, at(seconds));
            assert_eq!([30, 60, 85].map(|seconds| judge(&anna, seconds)), [NonceProof::Fresh; 3]);
            assert_eq!([91, 300, 900].map(|seconds| judge(&anna, seconds)), [NonceProof::Stale; 3]);
            assert_eq!([20, 1_000, 9_000].map(|seconds| judge(&anna, seconds)), [NonceProof::Foreign; 3]);
            assert_eq!(judge(&bert, 30), NonceProof::Foreign, "somebody else's");
            let tcp = FiveTuple { transport: Transport::Tcp, ..anna };
            assert_eq!(judge(&tcp, 30), NonceProof::Foreign, "from elsewhere");
            let others = Nonces::new([2; 32], epoch());
            assert_eq!(others.judge(&nonce, &anna, MINUTE, at(30)), NonceProof::Foreign);
            for place in 0..nonce.len() {
                let mut changed = nonce.clone().into_bytes();
                changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert_eq!(nonces.judge(&changed, &anna, MINUTE, at(30)), NonceProof::Foreign, "{changed}");
            }
        }
        for nonsense in ["", "A", "ÄÖÜäöü", COOKIE, "AAAAAAAAAAAA"] {
            assert_eq!(nonces.judge(nonsense, &anna, MINUTE, at(0)), NonceProof::Foreign, "{nonsense}");
        }
    }

    #[test]
    fn it_is_as_short_as_said_and_announces_features_from_the_left() {
        let nonces = Nonces::new([1; 32], epoch());
        let anna = tuple("192.0.2.1:5");
        let make = |password_algorithms, user_hash| {
            nonces.make(&anna, Features { password_algorithms, user_hash }, MINUTE, epoch())
        };
        assert_eq!(make(false, false).len(), 8);
        assert!(make(true, false).starts_with("obMatJos2gAAA") && make(true, false).len() == 21);
        assert!(make(false, true).starts_with("obMatJos2QAAA"));
        assert!(make(true, true).starts_with("obMatJos2wAAA"));
    }

    #[test]
    fn without_a_life_it_is_never_fresh() {
        let nonces = Nonces::new([1; 32], epoch());
        let anna = tuple("192.0.2.1:5");
        let nonce = nonces.make(&anna, Features::default(), Duration::ZERO, epoch());
        assert_eq!(nonces.judge(&nonce, &anna, Duration::ZERO, epoch()), NonceProof::Stale);
    }
}
