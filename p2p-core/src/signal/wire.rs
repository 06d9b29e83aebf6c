//! Signals as bytes: a header of our own, then postcard.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | magic `p2pS` |
//! | 1 | version |
//! | 2 | type of the body, big-endian |
//! | 2 | length of what follows, big-endian |
//! | … | receiver, attempt, sequence, issued, expires, sender's address, body |
//!
//! Postcard has no field evolution. So a changed body gets a new type number, and a change of all signals a new
//! version. `from` is not written: it is the id in the sender's address, so the two cannot disagree.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Body, Signal};
use crate::UnixTime;
use crate::attempt::AttemptId;
use crate::peer::{PeerAddr, PeerId};
use crate::punch;
use crate::relay::{BadRelayOffer, RelayOffer};

/// The version that is written and understood.
pub(super) const VERSION: u8 = 1;
const MAGIC: [u8; 4] = *b"p2pS";
const HEADER: usize = 9;

/// A reason why bytes are not a [`Signal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The end of the bytes is missing.
    #[error("a signal is cut off: {there} of {needed} bytes are there")]
    Cut {
        /// The number of bytes that are there.
        there: usize,
        /// The least number of bytes that there must be.
        needed: usize,
    },
    /// More bytes follow the end of the signal.
    #[error("{extra} bytes follow the end of a signal")]
    Trailing {
        /// The number of bytes that follow.
        extra: usize,
    },
    /// The bytes do not start as a signal does.
    #[error("these bytes are no signal")]
    Magic,
    /// The signal was written by a later version of this program.
    #[error(
        "a signal of version {version}, and only version {VERSION} is known here: one side must be updated"
    )]
    Version {
        /// The version of the signal.
        version: u8,
    },
    /// The body is of a type that only a later version knows.
    #[error("a signal of the unknown type {kind}: the sender is of a later version")]
    Kind {
        /// The type number of the body.
        kind: u16,
    },
    /// The bytes cannot be read.
    #[error("a signal cannot be read: the program that wrote it is at fault")]
    Malformed,
    /// It says what cannot be of a punch.
    #[error("a signal about a punch that cannot be: {0}; the program that wrote it is at fault")]
    Punch(#[from] punch::BadMessage),
    /// It says what cannot be of a relayed connection.
    #[error("a signal about a relay that cannot be: {0}; the program that wrote it is at fault")]
    Relay(#[from] BadRelayOffer),
}

impl Body {
    fn kind(&self) -> u16 {
        match self {
            Self::DialMe(_) => 1,
            Self::Punch(_) => 2,
            Self::Relay(_) => 3,
            Self::AskAddr => 4,
            Self::TellAddr => 5,
            Self::Refuse(_) => 6,
            Self::Bye => 7,
        }
    }

    fn pack(&self) -> Vec<u8> {
        match self {
            Self::DialMe(body) => pack(body),
            Self::Punch(body) => pack(body),
            Self::Relay(body) => pack(body),
            Self::Refuse(body) => pack(body),
            Self::AskAddr | Self::TellAddr | Self::Bye => Vec::new(),
        }
    }

    fn unpack(kind: u16, packed: &[u8]) -> Result<Self, WireError> {
        Ok(match kind {
            1 => Self::DialMe(unpack_all(packed)?),
            2 => {
                let message: punch::Message = unpack_all(packed)?;
                message.validate()?;
                Self::Punch(message)
            }
            3 => {
                let offer: RelayOffer = unpack_all(packed)?;
                offer.validate()?;
                Self::Relay(offer)
            }
            4 => unpack_all(packed).map(|()| Self::AskAddr)?,
            5 => unpack_all(packed).map(|()| Self::TellAddr)?,
            6 => Self::Refuse(unpack_all(packed)?),
            7 => unpack_all(packed).map(|()| Self::Bye)?,
            kind => return Err(WireError::Kind { kind }),
        })
    }
}

fn pack(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data, and a Vec always has room")
}

fn unpack_all<T: DeserializeOwned>(packed: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(packed) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(WireError::Trailing { extra: rest.len() }),
        Err(_) => Err(WireError::Malformed),
    }
}

/// Returns the length in bytes that the signal at the start of `bytes` announces.
pub(super) fn announced_size(bytes: &[u8]) -> Result<usize, WireError> {
    let there = bytes.len();
    let Some(&[a, b, c, d, version, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Err(WireError::Cut { there, needed: HEADER });
    };
    if [a, b, c, d] != MAGIC {
        return Err(WireError::Magic);
    }
    if version != VERSION {
        return Err(WireError::Version { version });
    }
    let needed = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if there < needed {
        return Err(WireError::Cut { there, needed });
    }
    Ok(needed)
}

impl Signal {
    /// Returns the binary form, in the clear.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut packed = pack(&(self.to, self.attempt, self.seq, self.issued, self.expires, &self.sender));
        packed.extend(self.body.pack());
        let len = u16::try_from(packed.len()).expect("an address has 2 KiB at most, a body less");
        let mut bytes = Vec::with_capacity(HEADER + packed.len());
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.extend(self.body.kind().to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(packed);
        bytes
    }

    /// Reads the binary form. Only the seal proves that `from` wrote it.
    ///
    /// # Errors
    /// [`WireError`] when these are not the bytes of exactly one signal.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        type Common = (PeerId, AttemptId, u64, UnixTime, UnixTime, PeerAddr);
        let needed = announced_size(bytes)?;
        if bytes.len() > needed {
            return Err(WireError::Trailing { extra: bytes.len() - needed });
        }
        let kind = u16::from_be_bytes([bytes[5], bytes[6]]);
        let (common, rest) =
            postcard::take_from_bytes::<Common>(&bytes[HEADER..]).map_err(|_| WireError::Malformed)?;
        let (to, attempt, seq, issued, expires, sender) = common;
        Ok(Self {
            from: sender.id(),
            to,
            attempt,
            seq,
            issued,
            expires,
            sender,
            body: Body::unpack(kind, rest)?,
        })
    }
}
