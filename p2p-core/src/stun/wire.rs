//! STUN messages as bytes (RFC 8489, sections 5 and 14).
//!
//! This is the guard in front of every parser. Header, lengths, order of attributes, HMAC and CRC are checked here,
//! over the bytes as they came, before any value is looked at. Time and memory are linear in the size of a message,
//! which is bounded by [`Transport::most_bytes`].

mod value;

use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::Transport;
use super::message::{Class, Message, Method, TransactionId};
use value::Value;

/// The bytes of a header.
pub const HEADER: usize = 20;

const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const FINGERPRINT: u16 = 0x8028;

/// The number the CRC is mixed with, so that it differs from the CRCs of other protocols (RFC 8489, section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// The most attributes of a message. RFC 5780 and TURN need less than twenty.
const MOST_ATTRIBUTES: usize = 64;

/// The lowest number of an attribute that need not be understood (RFC 8489, section 14).
const OPTIONAL: u16 = 0x8000;

/// A reason why bytes are not a STUN message, or why a message cannot be written as bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes are not STUN at all: they are too few, or the first two bits are set.
    #[error("the sender does not speak STUN: {0}")]
    NotStun(&'static str),
    /// The length in the header differs from the number of bytes.
    #[error("a STUN message of {actual} bytes claims to have {claimed}")]
    Length {
        /// The length that the header claims, in bytes, with the header.
        claimed: usize,
        /// The number of bytes that came.
        actual: usize,
    },
    /// The message is larger than [`Transport::most_bytes`].
    #[error("a STUN message of {actual} bytes is larger than the {most} bytes allowed here")]
    TooLarge {
        /// The size of the message, in bytes.
        actual: usize,
        /// The limit, in bytes.
        most: usize,
    },
    /// The message has more than 64 attributes.
    #[error("a STUN message with more than {MOST_ATTRIBUTES} attributes")]
    TooMany,
    /// An attribute reaches past the end of the message.
    #[error("STUN attribute {attribute:#06x} reaches past the end of its message")]
    Overrun {
        /// The number of the attribute.
        attribute: u16,
    },
    /// The value of an attribute that must be understood makes no sense.
    #[error("the sender's STUN attribute {attribute:#06x} makes no sense")]
    Malformed {
        /// The number of the attribute.
        attribute: u16,
    },
    /// FINGERPRINT is wrong: the message was damaged on the way, or is not STUN.
    #[error("the STUN fingerprint does not match: damaged on the way, or another protocol")]
    Fingerprint,
    /// The value of an attribute has no form on the wire, which is our own fault.
    #[error("STUN attribute {attribute:#06x} cannot be written with this value: too long or out of range")]
    Unencodable {
        /// The number of the attribute.
        attribute: u16,
    },
}

/// A reason why a message cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// The message is not signed.
    #[error("the STUN message carries no integrity")]
    Missing,
    /// The message was signed with another key, or changed on the way.
    #[error("the STUN message was signed with another key or changed on the way")]
    Wrong,
}

/// The algorithm of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// HMAC-SHA1, in MESSAGE-INTEGRITY.
    Sha1,
    /// HMAC-SHA256, in MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// A key for MESSAGE-INTEGRITY and its SHA-256 sibling.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// Returns a short-term key: the password itself (RFC 8489, section 9.1.1), already prepared as an OpaqueString.
    pub fn short_term(password: &str) -> Self {
        Self(password.as_bytes().to_vec())
    }

    /// Returns a long-term key: the MD5 of user, realm and password (RFC 8489, section 9.2.2), all already prepared.
    pub fn long_term(username: &str, realm: &str, password: &str) -> Self {
        Self(md5::compute(format!("{username}:{realm}:{password}")).0.to_vec())
    }

    /// Returns a long-term key by the newer algorithm: the SHA-256 of the same (RFC 8489, section 18.5.1.2).
    pub fn long_term_sha256(username: &str, realm: &str, password: &str) -> Self {
        Self(Sha256::digest(format!("{username}:{realm}:{password}")).to_vec())
    }
}

/// Never shows the key.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The first 20 bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The class: question or answer.
    pub class: Class,
    /// The subject of the message.
    pub method: Method,
    /// The bytes after the header: a multiple of four.
    pub length: u16,
    /// The id that ties an answer to its question.
    pub transaction: TransactionId,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`WireError::NotStun`] when there is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(WireError::NotStun("shorter than a header"))?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        if kind >> 14 != 0 {
            return Err(WireError::NotStun("the first two bits are set"));
        }
        let length = u16::from_be_bytes([header[2], header[3]]);
        if !length.is_multiple_of(4) {
            return Err(WireError::NotStun("its length is not a multiple of four"));
        }
        let (class, method) = split(kind);
        let mut transaction = [0; 16];
        transaction.copy_from_slice(&header[4..]);
        Ok(Self { class, method, length, transaction: TransactionId::from_bytes(transaction) })
    }
}

/// Splits fourteen bits into class and method: M11-M7 C1 M6-M4 C0 M3-M0 (RFC 8489, figure 3).
fn split(kind: u16) -> (Class, Method) {
    let class = match (kind >> 8 & 1, kind >> 4 & 1) {
        (0, 0) => Class::Request,
        (0, _) => Class::Indication,
        (_, 0) => Class::Success,
        _ => Class::Error,
    };
    let number = kind & 0x000f | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2;
    let method = Method::new(number).expect("twelve bits are left of fourteen");
    (class, method)
}

fn join(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    let number = method.number();
    number & 0x000f | (number & 0x0070) << 1 | (number & 0x0f80) << 2 | class
}

/// The place of a signature in the bytes.
#[derive(Clone, Copy, Debug)]
struct Signature {
    algorithm: Algorithm,
    /// The offset of its attribute header.
    at: usize,
    /// The bytes of its value.
    length: usize,
}

/// A message as it was read, with the facts known about its bytes.
#[derive(Clone, Debug)]
pub struct Parsed<'a> {
    /// The content up to the signature. Attributes after a signature are not signed and were ignored.
    pub message: Message,
    /// The attributes that must be understood and are not, in order. A request with any of them deserves a 420; an
    /// answer with any of them is worthless (RFC 8489, section 6.3).
    pub unknown: Vec<u16>,
    /// True when there was a FINGERPRINT, and it was right.
    pub is_fingerprinted: bool,
    bytes: &'a [u8],
    signature: Option<Signature>,
}

impl<'a> Parsed<'a> {
    /// Reads one message that fills `bytes` exactly. Attributes that need not be understood are left out when they
    /// are unknown or make no sense.
    ///
    /// # Errors
    /// [`WireError`] when the bytes are not a STUN message fit for `transport`.
    pub fn decode(bytes: &'a [u8], transport: Transport) -> Result<Self, WireError> {
        let most = transport.most_bytes();
        if bytes.len() > most {
            return Err(WireError::TooLarge { actual: bytes.len(), most });
        }
        let header = Header::decode(bytes)?;
        let claimed = HEADER + usize::from(header.length);
        if claimed != bytes.len() {
            return Err(WireError::Length { claimed, actual: bytes.len() });
        }
        let mut parsed = Self {
            message: Message::new(header.class, header.method, header.transaction),
            unknown: Vec::new(),
            is_fingerprinted: false,
            bytes,
            signature: None,
        };
        let mut at = HEADER;
        let mut count = 0;
        while let Some((number, value, next)) = attribute_at(bytes, at)? {
            count += 1;
            if count > MOST_ATTRIBUTES {
                return Err(WireError::TooMany);
            }
            if number == FINGERPRINT {
                // FINGERPRINT is the last attribute by definition, so anything after it is ignored.
                check_fingerprint(bytes, at, value)?;
                parsed.is_fingerprinted = true;
                break;
            }
            parsed.take(number, value, at)?;
            at = next;
        }
        Ok(parsed)
    }

    fn take(&mut self, number: u16, value: &[u8], at: usize) -> Result<(), WireError> {
        let malformed = WireError::Malformed { attribute: number };
        let algorithm = match (number, self.signature.map(|signature| signature.algorithm)) {
            (MESSAGE_INTEGRITY, None) => Algorithm::Sha1,
            (MESSAGE_INTEGRITY_SHA256, None | Some(Algorithm::Sha1)) => Algorithm::Sha256,
            (_, Some(_)) => return Ok(()),
            (_, None) => {
                match value::decode(number, value, self.message.transaction) {
                    Value::Known(attribute)
                        if attribute.is_xored() && self.message.transaction.is_classic() => {}
                    Value::Known(attribute) => self.message.attributes.push(attribute),
                    Value::Malformed if number < OPTIONAL => return Err(malformed),
                    Value::Unknown if number < OPTIONAL => self.unknown.push(number),
                    Value::Malformed | Value::Unknown => tracing::trace!(number, "STUN attribute ignored"),
                }
                return Ok(());
            }
        };
        let fits = match algorithm {
            Algorithm::Sha1 => value.len() == 20,
            // The value may be cut, but not below half (RFC 8489, section 14.6).
            Algorithm::Sha256 => (16..=32).contains(&value.len()) && value.len().is_multiple_of(4),
        };
        if !fits {
            return Err(malformed);
        }
        self.signature = Some(Signature { algorithm, at, length: value.len() });
        Ok(())
    }

    /// Returns the algorithm of the signature, and the stronger one when the message is signed twice.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.signature.map(|signature| signature.algorithm)
    }

    /// Checks the signature over the bytes as they came, in constant time, and returns its algorithm.
    ///
    /// # Errors
    /// [`IntegrityError`] when there is no signature, or it was not made with `key`.
    pub fn verify(&self, key: &Key) -> Result<Algorithm, IntegrityError> {
        let signature = self.signature.ok_or(IntegrityError::Missing)?;
        let value = &self.bytes[signature.at + 4..signature.at + 4 + signature.length];
        let end = signature.at + 4 + signature.length;
        let signed = [&self.bytes[..2], &length_field(end), &self.bytes[4..signature.at]];
        let right = match signature.algorithm {
            Algorithm::Sha1 => mac::<Hmac<Sha1>>(key, &signed).verify_slice(value).is_ok(),
            Algorithm::Sha256 => mac::<Hmac<Sha256>>(key, &signed).verify_truncated_left(value).is_ok(),
        };
        if right { Ok(signature.algorithm) } else { Err(IntegrityError::Wrong) }
    }
}

/// The number and the value of an attribute, and the offset of the next one.
type Tlv<'a> = (u16, &'a [u8], usize);

/// Returns the attribute at `at` and the offset of the next one, or `None` at the end.
fn attribute_at(bytes: &[u8], at: usize) -> Result<Option<Tlv<'_>>, WireError> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((head, rest)) = rest.split_first_chunk::<4>() else {
        // Lengths are multiples of four, so nothing is left over here.
        return Ok(None);
    };
    let number = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let value = rest.get(..length).ok_or(WireError::Overrun { attribute: number })?;
    Ok(Some((number, value, at + 4 + length.next_multiple_of(4))))
}

/// Returns the length field of a message that ends at `end`, as HMAC and CRC are made over it.
fn length_field(end: usize) -> [u8; 2] {
    // The cast never wraps, as `end` is at most `most_bytes`.
    ((end - HEADER) as u16).to_be_bytes()
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &Key, parts: &[&[u8]]) -> M {
    let mut mac = <M as Mac>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

fn fingerprint(bytes: &[u8], at: usize) -> [u8; 4] {
    let mut digest = CRC.digest();
    digest.update(&bytes[..2]);
    digest.update(&length_field(at + 8));
    digest.update(&bytes[4..at]);
    (digest.finalize() ^ FINGERPRINT_XOR).to_be_bytes()
}

fn check_fingerprint(bytes: &[u8], at: usize, value: &[u8]) -> Result<(), WireError> {
    if value == fingerprint(bytes, at) { Ok(()) } else { Err(WireError::Fingerprint) }
}

/// The attributes to add behind the others when a message is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending<'a> {
    /// The algorithm and key to sign with, if any.
    pub signature: Option<(Algorithm, &'a Key)>,
    /// True to add FINGERPRINT.
    pub fingerprint: bool,
}

impl Message {
    /// Encodes the message, with nothing behind the attributes.
    ///
    /// # Errors
    /// [`WireError`] when an attribute cannot be written or the whole is too large for `transport`.
    pub fn encode(&self, transport: Transport) -> Result<Vec<u8>, WireError> {
        self.encode_with(transport, Ending::default())
    }

    /// Encodes the message, with `ending` behind the attributes.
    ///
    /// # Errors
    /// [`WireError`] when an attribute cannot be written or the whole is too large for `transport`.
    pub fn encode_with(&self, transport: Transport, ending: Ending<'_>) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&join(self.class, self.method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(self.transaction.as_bytes());
        let most = transport.most_bytes();
        for attribute in &self.attributes {
            let value = value::encode(attribute, self.transaction)?;
            push(&mut bytes, value::number(attribute), &value, most)?;
        }
        match ending.signature {
            None => {}
            Some((Algorithm::Sha1, key)) => {
                let hmac = sign::<Hmac<Sha1>>(&bytes, key, 20);
                push(&mut bytes, MESSAGE_INTEGRITY, &hmac, most)?;
            }
            Some((Algorithm::Sha256, key)) => {
                let hmac = sign::<Hmac<Sha256>>(&bytes, key, 32);
                push(&mut bytes, MESSAGE_INTEGRITY_SHA256, &hmac, most)?;
            }
        }
        if ending.fingerprint {
            let crc = fingerprint(&bytes, bytes.len());
            push(&mut bytes, FINGERPRINT, &crc, most)?;
        }
        let length = length_field(bytes.len());
        bytes[2..4].copy_from_slice(&length);
        Ok(bytes)
    }
}

fn sign<M: Mac + hmac::digest::KeyInit>(bytes: &[u8], key: &Key, length: usize) -> Vec<u8> {
    let signed = [&bytes[..2], &length_field(bytes.len() + 4 + length), &bytes[4..]];
    mac::<M>(key, &signed).finalize().into_bytes().to_vec()
}

fn push(bytes: &mut Vec<u8>, number: u16, value: &[u8], most: usize) -> Result<(), WireError> {
    let end = bytes.len() + 4 + value.len().next_multiple_of(4);
    if end > most {
        return Err(WireError::TooLarge { actual: end, most });
    }
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(end, 0);
    Ok(())
}
