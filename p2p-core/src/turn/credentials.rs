//! The login at a server (RFC 8489, section 9.2), and credentials with a limited time.

use std::fmt;

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::UnixTime;
use crate::stun::wire::{Algorithm, Key};
use crate::stun::{Attribute, Message, PasswordAlgorithm};

/// The most bytes of a user name (RFC 8489, section 14.3).
pub const MOST_USERNAME: usize = 508;
/// The most bytes of a password, which is a bound of ours.
pub const MOST_PASSWORD: usize = 1_024;

/// The prefix of a nonce whose next four characters are features (RFC 8489, section 9.2).
const COOKIE: &str = "obMatJos2";
/// Bits 0 and 1 of the features (RFC 8489, section 18.1), counted from both ends. RFC 8656, section 20, has the first
/// on the left, and erratum 6290 of RFC 8489 on the right. There are servers of both kinds.
const PASSWORD_ALGORITHMS: u32 = 0x80_0001;
const ANONYMITY: u32 = 0x40_0002;
/// The numbers of password algorithms (RFC 8489, section 18.5).
const MD5: u16 = 1;
const SHA256: u16 = 2;

/// A reason why credentials are impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The user name is empty, or longer than [`MOST_USERNAME`].
    #[error("a TURN user name has 1 … {MOST_USERNAME} bytes, not {0}")]
    Username(usize),
    /// The password is longer than [`MOST_PASSWORD`].
    #[error("a TURN password has at most {MOST_PASSWORD} bytes, not {0}")]
    Password(usize),
}

/// A user name and its password, both already prepared as an OpaqueString (RFC 8265). For ASCII there is nothing to
/// prepare.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: Zeroizing<String>,
}

impl Credentials {
    /// Makes credentials of a user name and its password.
    ///
    /// # Errors
    /// [`CredentialsError`] when the name is empty or one of them is too long.
    pub fn new(username: &str, password: &str) -> Result<Self, CredentialsError> {
        if username.is_empty() || username.len() > MOST_USERNAME {
            return Err(CredentialsError::Username(username.len()));
        }
        if password.len() > MOST_PASSWORD {
            return Err(CredentialsError::Password(password.len()));
        }
        Ok(Self { username: username.to_owned(), password: Zeroizing::new(password.to_owned()) })
    }

    /// Makes credentials that a server with this `secret` accepts until `expiry`, without knowing of them. The user
    /// name is `expiry:name`, in seconds since 1970. The password is the Base64 of its HMAC-SHA1
    /// (draft-uberti-behave-turn-rest-00, section 2.2). It is for the owner of the secret, which is no client.
    ///
    /// # Errors
    /// [`CredentialsError`] when `name` is too long.
    pub fn time_limited(secret: &[u8], name: &str, expiry: UnixTime) -> Result<Self, CredentialsError> {
        let username = format!("{}:{name}", expiry.0 / 1_000_000);
        Self::new(&username, &time_limited_password(secret, &username))
    }

    /// Returns the user name.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns the password, which belongs into no log.
    pub fn password(&self) -> &str {
        &self.password
    }
}

/// Shows the user name and never the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, ..)", self.username)
    }
}

/// Returns the password that belongs to a time-limited user name: base64(HMAC-SHA1(secret, username))
/// (draft-uberti-behave-turn-rest-00, section 2.2).
pub(super) fn time_limited_password(secret: &[u8], username: &str) -> Zeroizing<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    Zeroizing::new(BASE64.encode(&mac.finalize().into_bytes()))
}

/// The scheme by which a server wants its requests signed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scheme {
    /// MD5 and HMAC-SHA1, as RFC 5389 has it.
    Classic,
    /// One of several algorithms, and HMAC-SHA256. All that were offered go back with each request, so that nobody on
    /// the path can strike some out (RFC 8489, section 9.2.1).
    Offered { all: Vec<PasswordAlgorithm>, chosen: PasswordAlgorithm },
}

/// The last challenge of a server.
#[derive(Clone, Debug)]
struct Challenge {
    realm: String,
    nonce: String,
    scheme: Scheme,
    is_anonymous: bool,
    key: Key,
}

/// Credentials and the server's last challenge.
#[derive(Clone, Debug)]
pub(super) struct LongTermAuth {
    credentials: Credentials,
    challenge: Option<Challenge>,
}

impl LongTermAuth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, challenge: None }
    }

    /// Signs further requests with these credentials. Realm and nonce stay.
    pub(super) fn renew(&mut self, credentials: Credentials) {
        self.credentials = credentials;
        if let Some(challenge) = &mut self.challenge {
            challenge.key = key(&self.credentials, &challenge.realm, &challenge.scheme);
        }
    }

    /// Returns the attributes and the signature of a request; nothing before the first challenge.
    pub(super) fn answer(&self) -> (Vec<Attribute>, Option<(Algorithm, Key)>) {
        let Some(challenge) = &self.challenge else { return (Vec::new(), None) };
        let Credentials { username, .. } = &self.credentials;
        let who = if challenge.is_anonymous {
            let hash = Sha256::digest(format!("{username}:{}", challenge.realm));
            Attribute::UserHash(hash.into())
        } else {
            Attribute::Username(username.clone())
        };
        let mut words =
            vec![who, Attribute::Realm(challenge.realm.clone()), Attribute::Nonce(challenge.nonce.clone())];
        let algorithm = match &challenge.scheme {
            Scheme::Classic => Algorithm::Sha1,
            Scheme::Offered { all, chosen } => {
                words.push(Attribute::PasswordAlgorithms(all.clone()));
                words.push(Attribute::PasswordAlgorithm(chosen.clone()));
                Algorithm::Sha256
            }
        };
        (words, Some((algorithm, challenge.key.clone())))
    }

    /// Takes the challenge in a 401 or 438.
    ///
    /// # Errors
    /// [`Failure`] when there is none in it, or it asks for less than the one before. Nothing is changed then.
    pub(super) fn challenge(&mut self, refusal: &Message) -> Result<(), Failure> {
        let old = self.challenge.as_ref();
        let word = |pick: fn(&Attribute) -> Option<&String>| refusal.find(pick).cloned();
        let realm = word(|attribute| match attribute {
            Attribute::Realm(realm) => Some(realm),
            _ => None,
        });
        let nonce = word(|attribute| match attribute {
            Attribute::Nonce(nonce) => Some(nonce),
            _ => None,
        });
        let realm = realm.or_else(|| old.map(|old| old.realm.clone())).ok_or(Failure::NoChallenge)?;
        let nonce = nonce.ok_or(Failure::NoChallenge)?;
        if let Some(old) = old.filter(|old| old.realm != realm) {
            return Err(Failure::RealmChanged { from: old.realm.as_str().into(), to: realm.into() });
        }
        let features = features(&nonce);
        let offered = refusal.find(|attribute| match attribute {
            Attribute::PasswordAlgorithms(all) => Some(all.clone()),
            _ => None,
        });
        let scheme = match (features & PASSWORD_ALGORITHMS != 0, offered, old.map(|old| &old.scheme)) {
            (true, Some(all), _) => choose(all)?,
            (true, None, Some(scheme @ Scheme::Offered { .. })) => scheme.clone(),
            (true, None, _) | (false, _, Some(Scheme::Offered { .. })) => return Err(Failure::SteppedDown),
            (false, _, _) => Scheme::Classic,
        };
        let key = key(&self.credentials, &realm, &scheme);
        let is_anonymous = features & ANONYMITY != 0;
        self.challenge = Some(Challenge { realm, nonce, scheme, is_anonymous, key });
        Ok(())
    }
}

/// Chooses the first algorithm that we know, as the server's order is its preference (RFC 8489, section 9.2.5).
fn choose(all: Vec<PasswordAlgorithm>) -> Result<Scheme, Failure> {
    let is_known = |one: &&PasswordAlgorithm| matches!(one.number, MD5 | SHA256) && one.parameters.is_empty();
    let chosen = all.iter().find(is_known).cloned().ok_or(Failure::SteppedDown)?;
    Ok(Scheme::Offered { all, chosen })
}

fn key(credentials: &Credentials, realm: &str, scheme: &Scheme) -> Key {
    let Credentials { username, password } = credentials;
    match scheme {
        Scheme::Offered { chosen, .. } if chosen.number == SHA256 => {
            Key::long_term_sha256(username, realm, password)
        }
        Scheme::Classic | Scheme::Offered { .. } => Key::long_term(username, realm, password),
    }
}

/// Returns the security features in a nonce; none in one without the cookie.
fn features(nonce: &str) -> u32 {
    let bits = nonce.strip_prefix(COOKIE).and_then(|rest| rest.get(..4));
    match bits.and_then(|bits| BASE64.decode(bits.as_bytes()).ok()).as_deref() {
        Some([a, b, c]) => u32::from_be_bytes([0, *a, *b, *c]),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
