//! The words of an attempt to connect, which everything from a TURN server's client to a report speaks.
//!
//! Nothing here knows of any machine: this file is below all of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Seed;
use crate::text::UnknownName;

/// One attempt to connect, as both ends of it name it. Drawn by the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId(pub [u8; 16]);

impl AttemptId {
    /// Draws a new one.
    pub fn new(seed: &mut Seed) -> Self {
        Self(seed.array())
    }
}

/// Writes the first four bytes in hexadecimal: enough for a log.
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

/// The part that one end plays in an attempt. It says nothing of which end dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Began the attempt, and alone decides which connection is kept.
    Caller,
    /// Was asked for a connection, and follows the caller's choice.
    Answerer,
}

impl Role {
    /// Returns the role of the other end.
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Answerer,
            Self::Answerer => Self::Caller,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller",
            Self::Answerer => "answerer",
        })
    }
}

/// The trust in a peer: it decides where the peer may send us, and how much it may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// Our user named the peer, or a list of who may call does.
    Known,
    /// Nothing speaks for the peer. It signs its own address, and so could name a victim's: addresses inside our
    /// site are dialled for it only where it can be believed to be.
    Stranger,
}

/// A way to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Way {
    /// Dials what the peer publishes.
    Direct,
    /// Asks the peer, through a broker, to dial us.
    Reverse,
    /// Has both ends dial at once, as agreed through a broker.
    Punch,
    /// Goes through a TURN server of either end's.
    Relay,
}

impl Way {
    /// All of them, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Reverse, Self::Punch, Self::Relay];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Reverse => "reverse",
            Self::Punch => "punch",
            Self::Relay => "relay",
        })
    }
}

impl FromStr for Way {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        UnknownName::find(text, &Self::ALL, "a way is")
    }
}

/// The distance between two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Path {
    /// Both are on this machine.
    Machine,
    /// Both are on one local network.
    Local,
    /// The Internet is between them.
    External,
}

impl Path {
    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::Machine, Self::Local, Self::External];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Machine => "machine",
            Self::Local => "local",
            Self::External => "external",
        })
    }
}

impl FromStr for Path {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        UnknownName::find(text, &Self::ALL, "a path is")
    }
}

/// The reason for which one TCP dial, or one socket, came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// A RST came: nobody listens there, or a firewall says so.
    #[error("connection refused")]
    Refused,
    /// An ICMP error came, or there is no route from here.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer came.
    #[error("no answer")]
    TimedOut,
    /// This machine could not make the socket.
    #[error("could not dial from here: {0}")]
    Local(String),
}

codes!(DialError {
    Self::Refused => "connection_refused",
    Self::Unreachable(_) => "unreachable",
    Self::TimedOut => "timed_out",
    Self::Local(_) => "local",
});

/// The reason for which a peer refuses. A number on the wire, so that a reason of a later version is still a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
#[non_exhaustive]
pub enum RefusalReason {
    /// The peer has as many attempts or pipes as it can bear; later may do.
    Busy,
    /// We are not on the peer's list.
    NotAllowed,
    /// Nothing that was offered can be reached from the peer.
    NoRoute,
    /// The peer does not know this way, or was told not to use it.
    Unsupported,
    /// The peer is shutting down.
    Closing,
    /// The peer came to this too late.
    Expired,
    /// A number this version has no word for.
    Other(u8),
}

impl RefusalReason {
    const NUMBERS: [(u8, Self); 6] = [
        (1, Self::Busy),
        (2, Self::NotAllowed),
        (3, Self::NoRoute),
        (4, Self::Unsupported),
        (5, Self::Closing),
        (6, Self::Expired),
    ];
}

impl From<u8> for RefusalReason {
    fn from(number: u8) -> Self {
        let known = Self::NUMBERS.into_iter().find(|known| known.0 == number);
        known.map_or(Self::Other(number), |known| known.1)
    }
}

impl From<RefusalReason> for u8 {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::Other(number) => number,
            reason => {
                let known = RefusalReason::NUMBERS.into_iter().find(|known| known.1 == reason);
                known.map_or(0, |known| known.0)
            }
        }
    }
}

impl fmt::Display for RefusalReason {
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
            let reason = RefusalReason::from(number);
            assert_eq!(u8::from(reason), number);
            known += usize::from(!matches!(reason, RefusalReason::Other(_)));
        }
        assert_eq!(known, 6);
    }
}
