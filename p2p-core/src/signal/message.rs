//! The messages that peers send each other through brokers.

use serde::{Deserialize, Serialize};

use crate::attempt::{AttemptId, RefusalReason};
use crate::peer::{PeerAddr, PeerId};
use crate::{UnixTime, punch, relay};

/// A message from one peer to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The peer that wrote the signal.
    pub from: PeerId,
    /// The peer that the signal is for.
    pub to: PeerId,
    /// The attempt it belongs to.
    pub attempt: AttemptId,
    /// A number that rises with every signal that `from` writes to any peer, though not always by one.
    pub seq: u64,
    /// The time at which it was written, by the clock of `from`.
    pub issued: UnixTime,
    /// The time at which it loses its meaning, by the clock of `from`; at most [`MOST_TTL`](super::MOST_TTL) later.
    pub expires: UnixTime,
    /// The address at which `from` can be met now. Its id is always `from`.
    pub sender: PeerAddr,
    /// The content of the signal.
    pub body: Body,
}

/// The content of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// Asks the receiver to dial the addresses in `sender`.
    DialMe(DialMe),
    /// A step towards a simultaneous open.
    Punch(punch::Message),
    /// A step towards a relayed connection.
    Relay(relay::RelayOffer),
    /// "Tell me where you are now." Answered by [`Body::TellAddr`].
    AskAddr,
    /// Tells that `sender` is the current address.
    TellAddr,
    /// Refuses the attempt, with the reason.
    Refuse(Refusal),
    /// Tells that the attempt is over for the sender.
    Bye,
}

impl Body {
    /// Returns the name of the content, for logs.
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
    /// True when the connection is wanted without encryption after the proof. Both ends must want it.
    pub plain: bool,
}

/// A refusal of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason for the refusal.
    pub reason: RefusalReason,
}
