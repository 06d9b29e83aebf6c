//! What peers say to each other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::peer::{PeerAddr, PeerId};
use crate::{Seed, UnixTime, punch, relay};

/// One attempt to connect, on both sides of it. Drawn by who starts it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId(pub [u8; 16]);

impl AttemptId {
    /// A new one.
    pub fn new(seed: &mut Seed) -> Self {
        Self(seed.array())
    }
}

/// The first four bytes in hexadecimal: enough for a log.
impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttemptId({self})")
    }
}

/// A message from one peer to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Who says it.
    pub from: PeerId,
    /// Whom it is for.
    pub to: PeerId,
    /// The attempt it belongs to.
    pub attempt: AttemptId,
    /// Rises with every signal that `from` writes, to whomever. Not necessarily by one.
    pub seq: u64,
    /// When it was written, by the clock of `from`.
    pub issued: UnixTime,
    /// When it means nothing any more, by the clock of `from`; at most [`MOST_TTL`](super::MOST_TTL) later.
    pub expires: UnixTime,
    /// Where `from` can be met now. Its id is always `from`.
    pub sender: PeerAddr,
    /// What is said.
    pub body: Body,
}

/// What a signal says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// "Dial me at the addresses in `sender`."
    DialMe(DialMe),
    /// A step towards a simultaneous open.
    Punch(punch::Message),
    /// A step towards a relayed connection.
    Relay(relay::RelayOffer),
    /// "Tell me where you are now." Answered by [`Body::TellAddr`].
    AskAddr,
    /// "I am where `sender` says."
    TellAddr,
    /// "No", and why.
    Refuse(Refusal),
    /// "This attempt is over for me."
    Bye,
}

impl Body {
    /// Its name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DialMe(_) => "dial-me",
            Self::Punch(_) => "punch",
            Self::Relay(_) => "relay",
            Self::AskAddr => "ask-addr",
            Self::TellAddr => "tell-addr",
            Self::Refuse(_) => "refuse",
            Self::Bye => "bye",
        }
    }
}

/// A wish to be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialMe {
    /// Whether the connection is wanted without encryption after the proof. Both must want it.
    pub plain: bool,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
}

/// Why a peer refuses. On the wire a number, so that a reason of a later version is still a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
#[non_exhaustive]
pub enum Reason {
    /// As many attempts or pipes as it can bear; later may do.
    Busy,
    /// We are not on its list.
    NotAllowed,
    /// Nothing that was offered can be reached from there.
    NoRoute,
    /// It does not know this way, or was told not to use it.
    Unsupported,
    /// It is shutting down.
    Closing,
    /// It came to this too late.
    Expired,
    /// A number this version has no word for.
    Other(u8),
}

impl Reason {
    const NUMBERS: [(u8, Self); 6] = [
        (1, Self::Busy),
        (2, Self::NotAllowed),
        (3, Self::NoRoute),
        (4, Self::Unsupported),
        (5, Self::Closing),
        (6, Self::Expired),
    ];
}

impl From<u8> for Reason {
    fn from(number: u8) -> Self {
        let known = Self::NUMBERS.into_iter().find(|known| known.0 == number);
        known.map_or(Self::Other(number), |known| known.1)
    }
}

impl From<Reason> for u8 {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Other(number) => number,
            reason => {
                let known = Reason::NUMBERS.into_iter().find(|known| known.1 == reason);
                known.map_or(0, |known| known.0)
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("it is busy"),
            Self::NotAllowed => f.write_str("it does not allow us"),
            Self::NoRoute => f.write_str("it has no route to us"),
            Self::Unsupported => f.write_str("it does not support this"),
            Self::Closing => f.write_str("it is closing"),
            Self::Expired => f.write_str("we asked too long ago"),
            Self::Other(number) => write!(f, "reason {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_reason_and_comes_back() {
        let mut known = 0;
        for number in 0..=u8::MAX {
            let reason = Reason::from(number);
            assert_eq!(u8::from(reason), number);
            known += usize::from(!matches!(reason, Reason::Other(_)));
        }
        assert_eq!(known, 6);
    }
}
