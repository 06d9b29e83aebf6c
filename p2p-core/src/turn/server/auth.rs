//! Who asks (RFC 8489, section 9.2.4; RFC 8656, section 5).

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::debug;

use super::config::{MD5, RelayerConfig, SHA256};
use super::error::ErrorResponse;
use super::nonce::Features;
use super::output::FiveTuple;
use crate::rate::{Source, SourceLimit};
use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Message, PasswordAlgorithm, Transport};

/// Somebody whose request was signed as it should be, and how answers to it are signed.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    /// The user name as given, or found from its hash.
    pub(super) username: Arc<str>,
    /// Under which its use is counted.
    pub(super) account: Arc<str>,
    algorithm: Algorithm,
    key: Key,
    fingerprint: bool,
    /// A time-limited credential whose time is over. What was allocated in time may be kept.
    pub(super) is_expired: bool,
}

impl Signer {
    /// The bytes of an answer to him.
    pub(super) fn sign(&self, message: &Message, transport: Transport) -> Option<Vec<u8>> {
        let ending = Ending { signature: Some((self.algorithm, &self.key)), fingerprint: self.fingerprint };
        message.encode_with(transport, ending).ok()
    }
}

/// What a request says about its sender. The first of each kind counts.
#[derive(Default)]
pub(super) struct AuthAttributes<'a> {
    username: Option<&'a str>,
    user_hash: Option<&'a [u8; 32]>,
    realm: Option<&'a str>,
    pub(super) nonce: Option<&'a str>,
    algorithm: Option<&'a PasswordAlgorithm>,
    algorithms: Option<&'a [PasswordAlgorithm]>,
}

impl<'a> AuthAttributes<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        let mut all = Self::default();
        for attribute in &message.attributes {
            match attribute {
                Attribute::Username(name) => all.username = all.username.or(Some(name)),
                Attribute::UserHash(hash) => all.user_hash = all.user_hash.or(Some(hash)),
                Attribute::Realm(realm) => all.realm = all.realm.or(Some(realm)),
                Attribute::Nonce(nonce) => all.nonce = all.nonce.or(Some(nonce)),
                Attribute::PasswordAlgorithm(one) => all.algorithm = all.algorithm.or(Some(one)),
                Attribute::PasswordAlgorithms(several) => all.algorithms = all.algorithms.or(Some(several)),
                _ => {}
            }
        }
        all
    }
}

impl RelayerConfig {
    /// The security features that nonces announce.
    pub(super) fn features(&self) -> Features {
        Features { password_algorithms: !self.algorithms.is_empty(), user_hash: self.takes_user_hash }
    }

    /// The algorithms offered, as an attribute.
    pub(super) fn offered(&self) -> Vec<PasswordAlgorithm> {
        let offer = |number: &u16| PasswordAlgorithm { number: *number, parameters: Vec::new() };
        self.algorithms.iter().map(offer).collect()
    }

    /// Tells whether the key was made with SHA-256. Who says so must repeat what we offered, or somebody in between could
    /// have struck the better one out.
    fn is_sha256(&self, asked: &AuthAttributes<'_>) -> Result<bool, ErrorResponse> {
        match (asked.algorithm, asked.algorithms) {
            (None, None) => Ok(false),
            (Some(one), Some(all)) if all == self.offered() && all.contains(one) => match one.number {
                SHA256 => Ok(true),
                MD5 => Ok(false),
                _ => Err(ErrorResponse::BAD_REQUEST),
            },
            _ => Err(ErrorResponse::BAD_REQUEST),
        }
    }

    /// The name a request gives, or that of the user whose hash it gives (RFC 8489, section 14.4).
    fn username<'a>(&'a self, asked: &AuthAttributes<'a>) -> Result<&'a str, ErrorResponse> {
        let (name, hash) = match (asked.username, asked.user_hash) {
            (Some(name), _) => return Ok(name),
            (None, None) => return Err(ErrorResponse::BAD_REQUEST),
            (None, Some(hash)) => (self.users.iter().filter(|_| self.takes_user_hash), hash),
        };
        let realm = &self.realm;
        let hashed = |name: &str| <[u8; 32]>::from(Sha256::digest(format!("{name}:{realm}")));
        let mut names = name.map(|user| user.username());
        names.find(|name| hashed(name) == *hash).ok_or(ErrorResponse::UNAUTHORIZED)
    }

    /// How a request is signed, if it is signed as it should be, whatever its nonce; and whether the credential has
    /// ended. For those who answer in a server's name.
    #[cfg(feature = "sim")]
    pub(crate) fn signature_of(&self, parsed: &Parsed<'_>, unix: u64) -> Option<((Algorithm, Key), bool)> {
        let asked = AuthAttributes::of(&parsed.message);
        let username = self.username(&asked).ok()?;
        let user = self.find_user(username, unix)?;
        let key = self.key(&asked, username, &user.password).ok()?;
        Some(((parsed.verify(&key).ok()?, key), user.is_expired))
    }

    fn key(&self, asked: &AuthAttributes<'_>, username: &str, password: &str) -> Result<Key, ErrorResponse> {
        Ok(match self.is_sha256(asked)? {
            true => Key::long_term_sha256(username, &self.realm, password),
            false => Key::long_term(username, &self.realm, password),
        })
    }

    /// Who signed `parsed`, a request whose nonce is good. `unix` is the time in seconds since the UNIX epoch.
    ///
    /// Wrong passwords are counted in `guesses`, by source and user name: who has used them up is not listened to.
    pub(super) fn authenticate(
        &self,
        parsed: &Parsed<'_>,
        client: &FiveTuple,
        guesses: &mut SourceLimit,
        unix: u64,
        now: std::time::Instant,
    ) -> Result<Signer, AuthError> {
        let asked = AuthAttributes::of(&parsed.message);
        self.is_sha256(&asked)?;
        let username = self.username(&asked)?;
        let guess = (Source::of(client.client.ip()), username);
        if !guesses.has_token(guess, now) {
            return Err(AuthError::TooManyGuesses);
        }
        let known = self.find_user(username, unix);
        // Somebody unknown costs as much time as a wrong password.
        let password = known.as_ref().map_or("", |known| &known.password);
        let key = self.key(&asked, username, password)?;
        let verified = parsed.verify(&key);
        let (Ok(algorithm), Some(known)) = (verified, known) else {
            guesses.take(guess, now);
            debug!(client = %client.client, username, "TURN: wrong user name or password");
            return Err(ErrorResponse::UNAUTHORIZED.into());
        };
        Ok(Signer {
            username: username.into(),
            account: known.account.into(),
            algorithm,
            key,
            fingerprint: parsed.is_fingerprinted,
            is_expired: known.is_expired,
        })
    }
}

/// Why nobody is known to have signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthError {
    /// Say this.
    Refused(ErrorResponse),
    /// Wrong passwords for this user from this source have used up their rate.
    TooManyGuesses,
}

impl From<ErrorResponse> for AuthError {
    fn from(response: ErrorResponse) -> Self {
        Self::Refused(response)
    }
}
