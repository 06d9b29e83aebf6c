//! Everything a peer publishes about where it can be met, signed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::{self, HEADER, TextError, announced_size};
use super::{BrokerUrl, Identity, InterfaceAddr, MachineTag, PeerId};
use crate::UnixTime;

/// The version written and understood. Every version starts with itself (one byte) and the length of the
/// rest (two bytes, big-endian), so that a text of a later version is still told from one that was cut off.
const VERSION: u8 = 1;
/// Addresses in [`PeerAddr::sources`].
const MOST_SOURCES: usize = 16;
const ID: usize = 32;
const SIGNATURE: usize = 64;

/// What a signature is over starts with this, so that it cannot be taken for a signature of another kind.
const LABEL: &[u8] = b"p2p peer address\0";

/// What a peer says of where it can be met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The brokers on which it listens for signals, at most [`PeerAddr::MOST_BROKERS`].
    pub brokers: Vec<BrokerUrl>,
    /// The machine it runs on.
    pub machine: Option<MachineTag>,
    /// Its interfaces, at most [`PeerAddr::MOST_INTERFACES`].
    pub interfaces: Vec<InterfaceAddr>,
    /// When this was true, by its owner's clock. Of two addresses of a peer the later one counts.
    pub issued: UnixTime,
}

impl Contents {
    fn check(&self) -> Result<(), AddrError> {
        if self.brokers.len() > PeerAddr::MOST_BROKERS {
            return Err(AddrError::TooManyBrokers { count: self.brokers.len() });
        }
        if self.interfaces.len() > PeerAddr::MOST_INTERFACES {
            return Err(AddrError::TooManyInterfaces { count: self.interfaces.len() });
        }
        for (index, interface) in self.interfaces.iter().enumerate() {
            interface.check().map_err(|reason| AddrError::Interface { index, reason })?;
        }
        Ok(())
    }
}

/// Where a peer can be met: a statement signed by the peer itself, so it may come by any way.
///
/// It cannot be changed, only replaced by a later one. A clone is cheap.
///
/// The bytes are the version, the length of the rest, the peer's id, the [`Contents`] in postcard, and the
/// signature over a label and all that.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerAddr {
    id: PeerId,
    contents: Arc<Contents>,
    bytes: Bytes,
}

/// Why something is not a [`PeerAddr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// The text is not that of an address.
    #[error("no peer address: {0}")]
    Text(#[from] TextError),
    /// More bytes than an address may have.
    #[error(
        "a peer address of {len} bytes is too big: {} at most; publish fewer brokers or interfaces",
        PeerAddr::MOST_BYTES
    )]
    TooBig {
        /// How many, in bytes.
        len: usize,
    },
    /// The end is missing.
    #[error("a peer address is cut off: {there} of {needed} bytes are there; it was damaged on the way")]
    Cut {
        /// Bytes that are there.
        there: usize,
        /// Bytes that it says it has.
        needed: usize,
    },
    /// Something follows its end.
    #[error("{extra} bytes follow the end of a peer address; it was damaged on the way")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Made by a later version of this program.
    #[error(
        "a peer address of version {version}, and only version {VERSION} is known here: one side must be updated"
    )]
    Version {
        /// Its version.
        version: u8,
    },
    /// The key in it is no key.
    #[error("the key in a peer address is no usable Ed25519 public key: it was damaged or forged")]
    Key,
    /// The signature does not fit.
    #[error("the signature of a peer address does not fit: it was changed after signing, or forged")]
    Signature,
    /// Signed, and yet not readable.
    #[error("a peer address was signed but cannot be read: the program that made it is at fault")]
    Malformed,
    /// Too many brokers.
    #[error("{count} brokers in a peer address: {} at most", PeerAddr::MOST_BROKERS)]
    TooManyBrokers {
        /// How many there are.
        count: usize,
    },
    /// Too many interfaces.
    #[error("{count} interfaces in a peer address: {} at most", PeerAddr::MOST_INTERFACES)]
    TooManyInterfaces {
        /// How many there are.
        count: usize,
    },
    /// An interface that cannot be.
    #[error("interface {index} in a peer address cannot be: {reason}; its signer is at fault")]
    Interface {
        /// Which, counted from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

fn signed_message(statement: &[u8]) -> Vec<u8> {
    [LABEL, statement].concat()
}

impl PeerAddr {
    /// The most bytes an address may have in its binary form.
    pub const MOST_BYTES: usize = 2_048;
    /// The most brokers in one address.
    pub const MOST_BROKERS: usize = 8;
    /// The most interfaces in one address.
    pub const MOST_INTERFACES: usize = 16;

    /// Signs a statement.
    ///
    /// # Errors
    /// [`AddrError`] when `contents` break a bound or an interface cannot be.
    pub fn sign(identity: &Identity, contents: Contents) -> Result<Self, AddrError> {
        contents.check()?;
        let id = identity.id();
        let packed = postcard::to_stdvec(&contents).map_err(|_| AddrError::Malformed)?;
        let size = HEADER + ID + packed.len() + SIGNATURE;
        if size > Self::MOST_BYTES {
            return Err(AddrError::TooBig { len: size });
        }
        let rest = u16::try_from(size - HEADER).expect("MOST_BYTES fits");
        let mut bytes = Vec::with_capacity(size);
        bytes.push(VERSION);
        bytes.extend_from_slice(&rest.to_be_bytes());
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&packed);
        let signature = identity.sign(&signed_message(&bytes));
        bytes.extend_from_slice(&signature);
        Ok(Self { id, contents: Arc::new(contents), bytes: bytes.into() })
    }

    /// Whose it is.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// All it says.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The brokers on which the peer listens.
    pub fn brokers(&self) -> &[BrokerUrl] {
        &self.contents.brokers
    }

    /// Whether it runs on the machine of this id. An empty id is no machine's.
    pub fn is_on(&self, machine_id: &[u8]) -> bool {
        self.contents.machine.is_some_and(|tag| tag.is(machine_id, &self.id))
    }

    /// Its interfaces.
    pub fn interfaces(&self) -> &[InterfaceAddr] {
        &self.contents.interfaces
    }

    /// Every address that its packets may come from, as far as it knows: those that servers see, and its own. At most 16.
    pub fn sources(&self) -> Vec<IpAddr> {
        let all = self.interfaces().iter().flat_map(|one| one.external.into_iter().chain([one.local]));
        let mut sources: Vec<IpAddr> = Vec::new();
        for source in all.map(|source| source.to_canonical()) {
            if !sources.contains(&source) && sources.len() < MOST_SOURCES {
                sources.push(source);
            }
        }
        sources
    }

    /// When it was true, by its owner's clock.
    pub fn issued(&self) -> UnixTime {
        self.contents.issued
    }

    /// Whether this is a later statement of the same peer than `other`.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.id == other.id && self.issued() > other.issued()
    }

    /// The binary form, as it was signed.
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// From the binary form. The signature is checked before anything in it is believed.
    ///
    /// # Errors
    /// [`AddrError`]: any changed, missing or added byte is one of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AddrError> {
        let there = bytes.len();
        if there > Self::MOST_BYTES {
            return Err(AddrError::TooBig { len: there });
        }
        let shortest = HEADER + ID + SIGNATURE;
        let needed = announced_size(bytes).unwrap_or(shortest);
        if let Some(version) = bytes.first().copied().filter(|version| *version != VERSION) {
            return Err(AddrError::Version { version });
        }
        if there < needed {
            return Err(AddrError::Cut { there, needed });
        }
        if there > needed {
            return Err(AddrError::Trailing { extra: there - needed });
        }
        let Some((statement, signature)) = bytes.split_last_chunk().filter(|_| there >= shortest) else {
            return Err(AddrError::Cut { there, needed: shortest });
        };
        let (id, packed) =
            statement[HEADER..].split_first_chunk::<ID>().expect("not shorter than the shortest");
        let id = PeerId::from_bytes(*id).map_err(|_| AddrError::Key)?;
        id.verify(&signed_message(statement), signature).map_err(|_| AddrError::Signature)?;
        Ok(Self { id, contents: Arc::new(unpack(packed)?), bytes: Bytes::copy_from_slice(bytes) })
    }
}

/// Reads contents in their one and only form.
fn unpack(packed: &[u8]) -> Result<Contents, AddrError> {
    let contents: Contents = match postcard::take_from_bytes(packed) {
        Ok((contents, [])) => contents,
        _ => return Err(AddrError::Malformed),
    };
    contents.check()?;
    // Postcard also reads numbers padded with zeros. One meaning, one form.
    if postcard::to_stdvec(&contents).is_ok_and(|again| again == packed) {
        Ok(contents)
    } else {
        Err(AddrError::Malformed)
    }
}

/// The one-line text form: `p2p1…`.
impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::ADDRESS.write(&self.bytes))
    }
}

impl fmt::Debug for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAddr")
            .field("id", &self.id)
            .field("contents", &self.contents)
            .finish_non_exhaustive()
    }
}

impl FromStr for PeerAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        Self::from_bytes(&text::ADDRESS.read(text)?)
    }
}

impl Serialize for PeerAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.bytes)
        }
    }
}

impl<'de> Deserialize<'de> for PeerAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Packed;

        impl Visitor<'_> for Packed {
            type Value = PeerAddr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a peer address")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<PeerAddr, E> {
                PeerAddr::from_bytes(bytes).map_err(E::custom)
            }
        }

        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            deserializer.deserialize_bytes(Packed)
        }
    }
}
