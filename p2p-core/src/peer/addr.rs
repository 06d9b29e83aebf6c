//! The signed statement in which a peer publishes where it can be met.

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

/// The version that is written and understood. Every version starts with itself (one byte) and the length of the rest
/// (two bytes, big-endian). So a text of a later version is still told from one that was cut off.
const VERSION: u8 = 1;
/// The most addresses in [`PeerAddr::sources`].
const MOST_SOURCES: usize = 16;
const ID: usize = 32;
const SIGNATURE: usize = 64;

/// The label at the start of the signed bytes, so that a signature cannot be taken for one of another kind.
const LABEL: &[u8] = b"p2p peer address\0";

/// The content of a peer's statement of where it can be met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The brokers on which it listens for signals, at most [`PeerAddr::MOST_BROKERS`].
    pub brokers: Vec<BrokerUrl>,
    /// The tag of the machine on which it runs.
    pub machine: Option<MachineTag>,
    /// Its interfaces, at most [`PeerAddr::MOST_INTERFACES`].
    pub interfaces: Vec<InterfaceAddr>,
    /// The time at which this was true, by its owner's clock. Of two addresses of a peer the later one counts.
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

/// The places where a peer can be met: a statement signed by the peer itself, so it may come by any way.
///
/// It cannot be changed, only replaced by a later one. A clone is cheap.
///
/// The bytes are the version, the length of the rest, the peer's id, the [`Contents`] in postcard, and a signature.
/// The signature covers a label and all bytes before it.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerAddr {
    id: PeerId,
    contents: Arc<Contents>,
    bytes: Bytes,
}

/// A reason why something is not a [`PeerAddr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// The text is not that of an address.
    #[error("no peer address: {0}")]
    Text(#[from] TextError),
    /// There are more bytes than an address may have.
    #[error(
        "a peer address of {len} bytes is too big: {} at most; publish fewer brokers or interfaces",
        PeerAddr::MOST_BYTES
    )]
    TooBig {
        /// The size, in bytes.
        len: usize,
    },
    /// The end of the bytes is missing.
    #[error("a peer address is cut off: {there} of {needed} bytes are there; it was damaged on the way")]
    Cut {
        /// The number of bytes that are there.
        there: usize,
        /// The number of bytes that the header announces.
        needed: usize,
    },
    /// More bytes follow the end of the address.
    #[error("{extra} bytes follow the end of a peer address; it was damaged on the way")]
    Trailing {
        /// The number of bytes that follow.
        extra: usize,
    },
    /// The address was made by a later version of this program.
    #[error(
        "a peer address of version {version}, and only version {VERSION} is known here: one side must be updated"
    )]
    Version {
        /// The version of the address.
        version: u8,
    },
    /// The key in the address is not a usable Ed25519 public key.
    #[error("the key in a peer address is no usable Ed25519 public key: it was damaged or forged")]
    Key,
    /// The signature does not fit the bytes before it.
    #[error("the signature of a peer address does not fit: it was changed after signing, or forged")]
    Signature,
    /// The bytes are signed and yet cannot be read.
    #[error("a peer address was signed but cannot be read: the program that made it is at fault")]
    Malformed,
    /// The address names more than [`PeerAddr::MOST_BROKERS`] brokers.
    #[error("{count} brokers in a peer address: {} at most", PeerAddr::MOST_BROKERS)]
    TooManyBrokers {
        /// The number of brokers there are.
        count: usize,
    },
    /// The address names more than [`PeerAddr::MOST_INTERFACES`] interfaces.
    #[error("{count} interfaces in a peer address: {} at most", PeerAddr::MOST_INTERFACES)]
    TooManyInterfaces {
        /// The number of interfaces there are.
        count: usize,
    },
    /// An interface contradicts itself or breaks a bound.
    #[error("interface {index} in a peer address cannot be: {reason}; its signer is at fault")]
    Interface {
        /// The number of the interface, counted from 0.
        index: usize,
        /// The fault of the interface.
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

    /// Signs `contents` with the key of `identity`.
    ///
    /// # Errors
    /// [`AddrError`] when `contents` break a bound or an interface contradicts itself.
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

    /// Returns the id of the peer that signed it.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns the whole content.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Returns the brokers on which the peer listens.
    pub fn brokers(&self) -> &[BrokerUrl] {
        &self.contents.brokers
    }

    /// Tells whether the peer runs on the machine of this id. An empty id is no machine's.
    pub fn is_on(&self, machine_id: &[u8]) -> bool {
        self.contents.machine.is_some_and(|tag| tag.is(machine_id, &self.id))
    }

    /// Returns the interfaces of the peer.
    pub fn interfaces(&self) -> &[InterfaceAddr] {
        &self.contents.interfaces
    }

    /// Returns the addresses that its packets may come from, as far as the peer knows, at most 16. They are those
    /// that servers see, and those of its interfaces.
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

    /// Returns the time at which it was true, by its owner's clock.
    pub fn issued(&self) -> UnixTime {
        self.contents.issued
    }

    /// Tells whether this is a later statement of the same peer than `other`.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.id == other.id && self.issued() > other.issued()
    }

    /// Returns the binary form, as it was signed.
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Reads the binary form. The signature is checked before anything else in it is believed.
    ///
    /// # Errors
    /// [`AddrError`] when any byte was changed, is missing or was added.
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

/// Reads contents, which have exactly one valid form.
fn unpack(packed: &[u8]) -> Result<Contents, AddrError> {
    let contents: Contents = match postcard::take_from_bytes(packed) {
        Ok((contents, [])) => contents,
        _ => return Err(AddrError::Malformed),
    };
    contents.check()?;
    // Postcard also reads numbers padded with zeros. One meaning must have one form, so those are refused.
    if postcard::to_stdvec(&contents).is_ok_and(|again| again == packed) {
        Ok(contents)
    } else {
        Err(AddrError::Malformed)
    }
}

/// Writes the one-line text form: `p2p1…`.
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
