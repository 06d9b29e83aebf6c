//! What peers say to each other.

use serde::{Deserialize, Serialize};

use crate::attempt::{AttemptId, RefusalReason};
use crate::peer::{PeerAddr, PeerId};
use crate::{UnixTime, punch, relay};

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
    pub reason: RefusalReason,
}
