//! Who asks (RFC 8489, section 9.2.4; RFC 8656, section 5).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId, Transport};
use tracing::debug;

use super::credential::Users;
use super::nonce::Nonces;

/// Password algorithms by their numbers in the registry (RFC 8489, section 18.5).
const MD5: u16 = 1;
const SHA256: u16 = 2;

/// Somebody whose question was signed as it should be, and how answers to it are signed.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The user name as given.
    pub username: Arc<str>,
    /// Under which his use is counted.
    pub account: Arc<str>,
    algorithm: Algorithm,
    key: Key,
    fingerprint: bool,
    /// A time-limited credential whose time is over. What was allocated in time may be kept.
    pub is_expired: bool,
}

/// What an answer needs to know of its question.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub method: Method,
    pub transaction: TransactionId,
    pub fingerprint: bool,
}

impl Question {
    pub fn of(parsed: &Parsed<'_>) -> Self {
        let Message { method, transaction, .. } = parsed.message;
        Self { method, transaction, fingerprint: parsed.is_fingerprinted }
    }

    /// A success, that says nothing yet.
    pub fn success(self) -> Message {
        Message::new(Class::Success, self.method, self.transaction)
    }
}

/// No, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
}

impl Refusal {
    pub const BAD_REQUEST: Self = Self { code: 400, reason: "Bad Request" };
    pub const UNAUTHORIZED: Self = Self { code: 401, reason: "Unauthorized" };
    pub const EXPIRED: Self = Self { code: 401, reason: "Credential Expired" };
    pub const FORBIDDEN: Self = Self { code: 403, reason: "Forbidden" };
    pub const UNKNOWN_ATTRIBUTE: Self = Self { code: 420, reason: "Unknown Attribute" };
    pub const MISMATCH: Self = Self { code: 437, reason: "Allocation Mismatch" };
    pub const STALE_NONCE: Self = Self { code: 438, reason: "Stale Nonce" };
    pub const NO_FAMILY: Self = Self { code: 440, reason: "Address Family not Supported" };
    pub const WRONG_CREDENTIALS: Self = Self { code: 441, reason: "Wrong Credentials" };
    pub const NO_TRANSPORT: Self = Self { code: 442, reason: "Unsupported Transport Protocol" };
    pub const PEER_FAMILY: Self = Self { code: 443, reason: "Peer Address Family Mismatch" };
    pub const EXISTS: Self = Self { code: 446, reason: "Connection Already Exists" };
    pub const NO_CONNECTION: Self = Self { code: 447, reason: "Connection Timeout or Failure" };
    pub const QUOTA: Self = Self { code: 486, reason: "Allocation Quota Reached" };
    pub const CAPACITY: Self = Self { code: 508, reason: "Insufficient Capacity" };

    pub fn answer(self, question: Question) -> Message {
        Message::new(Class::Error, question.method, question.transaction)
            .with(Attribute::ErrorCode { code: self.code, reason: self.reason.into() })
    }

    /// Whether the client is told how to sign.
    pub fn is_challenge(self) -> bool {
        matches!(self.code, 401 | 438)
    }
}

impl Signer {
    /// The bytes of an answer to him.
    pub fn sign(&self, message: &Message, transport: Transport) -> Option<Vec<u8>> {
        let ending = Ending { signature: Some((self.algorithm, &self.key)), fingerprint: self.fingerprint };
        message.encode_with(transport, ending).ok()
    }
}

/// Who may come in.
#[derive(Debug)]
pub struct Gate {
    realm: String,
    users: Users,
    nonces: Nonces,
}

impl Gate {
    pub fn new(realm: String, users: Users, nonces: Nonces) -> Self {
        Self { realm, users, nonces }
    }

    /// Who signed `parsed`, a request that came from `client`. Its nonce may also be one that `other` was given.
    /// `unix` is the time in seconds since the UNIX epoch.
    pub fn admit(
        &self,
        parsed: &Parsed<'_>,
        (client, other): (SocketAddr, Option<SocketAddr>),
        unix: u64,
    ) -> Result<Signer, Refusal> {
        if parsed.algorithm().is_none() {
            return Err(Refusal::UNAUTHORIZED);
        }
        let told = Told::of(&parsed.message);
        let (Some(_), Some(nonce)) = (told.realm, told.nonce) else {
            return Err(Refusal::BAD_REQUEST);
        };
        let is_sha256 = told.is_sha256()?;
        let username = match told.username {
            Some(username) => username,
            // We do not offer to know users by their hash: a time-limited name cannot be found from it.
            None if told.is_hashed => return Err(Refusal::UNAUTHORIZED),
            None => return Err(Refusal::BAD_REQUEST),
        };
        let is_fresh = |client| self.nonces.is_fresh(nonce, client, unix);
        if !is_fresh(client) && !other.is_some_and(is_fresh) {
            return Err(Refusal::STALE_NONCE);
        }
        let known = self.users.find(username, unix);
        // Somebody unknown costs as much time as a wrong password.
        let password = known.as_ref().map_or("", |known| &known.password);
        let key = match is_sha256 {
            true => Key::long_term_sha256(username, &self.realm, password),
            false => Key::long_term(username, &self.realm, password),
        };
        let verified = parsed.verify(&key);
        let (Ok(algorithm), Some(known)) = (verified, known) else {
            debug!(%client, username, "TURN: wrong user name or password");
            return Err(Refusal::UNAUTHORIZED);
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

    /// The bytes of a refusal to somebody who is not known to have signed.
    pub fn refuse(
        &self,
        refusal: Refusal,
        question: Question,
        (client, transport): (SocketAddr, Transport),
        unix: u64,
    ) -> Option<Vec<u8>> {
        let mut message = refusal.answer(question);
        if refusal.is_challenge() {
            message = message
                .with(Attribute::Realm(self.realm.clone()))
                .with(Attribute::Nonce(self.nonces.make(client, unix)))
                .with(Attribute::PasswordAlgorithms(offered()));
        }
        message.encode_with(transport, Ending { signature: None, fingerprint: question.fingerprint }).ok()
    }
}

fn offered() -> Vec<PasswordAlgorithm> {
    [SHA256, MD5].map(|number| PasswordAlgorithm { number, parameters: Vec::new() }).into()
}

/// What a request says about its sender. The first of each kind counts.
#[derive(Default)]
struct Told<'a> {
    username: Option<&'a str>,
    is_hashed: bool,
    realm: Option<&'a str>,
    nonce: Option<&'a str>,
    algorithm: Option<&'a PasswordAlgorithm>,
    algorithms: Option<&'a [PasswordAlgorithm]>,
}

impl<'a> Told<'a> {
    fn of(message: &'a Message) -> Self {
        let mut told = Self::default();
        for attribute in &message.attributes {
            match attribute {
                Attribute::Username(name) => told.username = told.username.or(Some(name)),
                Attribute::UserHash(_) => told.is_hashed = true,
                Attribute::Realm(realm) => told.realm = told.realm.or(Some(realm)),
                Attribute::Nonce(nonce) => told.nonce = told.nonce.or(Some(nonce)),
                Attribute::PasswordAlgorithm(one) => told.algorithm = told.algorithm.or(Some(one)),
                Attribute::PasswordAlgorithms(all) => told.algorithms = told.algorithms.or(Some(all)),
                _ => {}
            }
        }
        told
    }

    /// Whether the key was made with SHA-256. Who says so must repeat what we offered, or somebody in between
    /// could have struck the better one out.
    fn is_sha256(&self) -> Result<bool, Refusal> {
        match (self.algorithm, self.algorithms) {
            (None, None) => Ok(false),
            (Some(one), Some(all)) if all == offered() && all.contains(one) => Ok(one.number == SHA256),
            _ => Err(Refusal::BAD_REQUEST),
        }
    }
}
