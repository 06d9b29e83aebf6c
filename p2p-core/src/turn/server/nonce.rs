//! Nonces that need no memory: each proves that this server made it, for whom and when.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The nonce cookie with the bit "password algorithms" set (RFC 8489, section 9.2).
const COOKIE: &str = "obMatJos2gAAA";

/// Makes nonces and knows its own again.
#[derive(Debug)]
pub struct Nonces {
    key: [u8; 32],
    lifetime: Duration,
}

impl Nonces {
    /// Good for `lifetime`. `seed` is random and secret.
    pub fn new(seed: [u8; 32], lifetime: Duration) -> Self {
        Self { key: seed, lifetime }
    }

    /// A nonce for whoever asks from `client`. `unix` is the time in seconds since the UNIX epoch.
    pub fn make(&self, client: SocketAddr, unix: u64) -> String {
        let mut bytes = unix.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.mac(client, unix).finalize().into_bytes());
        format!("{COOKIE}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Whether `nonce` was made here for `client`, and not too long ago.
    pub fn is_fresh(&self, nonce: &str, client: SocketAddr, unix: u64) -> bool {
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let Some(bytes) = nonce.strip_prefix(COOKIE).and_then(decode) else {
            return false;
        };
        let Some((made, mac)) = bytes.split_first_chunk::<8>() else {
            return false;
        };
        let made = u64::from_be_bytes(*made);
        // A clock that was set back a little does not make everybody ask again.
        let age = unix.saturating_sub(made);
        self.mac(client, made).verify_slice(mac).is_ok() && age <= self.lifetime.as_secs()
    }

    /// The code over what a nonce vouches for.
    fn mac(&self, client: SocketAddr, unix: u64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&unix.to_be_bytes());
        mac.update(&client.port().to_be_bytes());
        match client.ip() {
            IpAddr::V4(ip) => mac.update(&ip.octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_its_own_while_they_are_fresh() {
        let nonces = Nonces::new([1; 32], Duration::from_secs(60));
        let [anna, bert]: [SocketAddr; 2] = ["192.0.2.1:5", "192.0.2.1:6"].map(|at| at.parse().unwrap());
        let nonce = nonces.make(anna, 1_000);
        assert!(nonce.len() < 128, "RFC 8489, section 14.10");
        assert!(nonces.is_fresh(&nonce, anna, 1_000) && nonces.is_fresh(&nonce, anna, 1_060));
        assert!(nonces.is_fresh(&nonce, anna, 990), "the clock was set back");
        assert!(!nonces.is_fresh(&nonce, anna, 1_061), "too old");
        assert!(!nonces.is_fresh(&nonce, bert, 1_000), "somebody else's");
        assert!(!Nonces::new([2; 32], Duration::from_secs(60)).is_fresh(&nonce, anna, 1_000));
        for at in 0..nonce.len() {
            let changed = format!(
                "{}{}{}",
                &nonce[..at],
                if &nonce[at..=at] == "A" { "B" } else { "A" },
                &nonce[at + 1..]
            );
            assert!(!nonces.is_fresh(&changed, anna, 1_000), "{changed}");
        }
        assert!(!nonces.is_fresh("", anna, 0) && !nonces.is_fresh(COOKIE, anna, 0));
    }
}
