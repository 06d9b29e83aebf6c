//! STUN (RFC 8489), by which a server outside tells the address from which it sees us come.
//!
//! | part | meaning |
//! |---|---|
//! | [`message`] | the content of a message, in types of our own |
//! | [`wire`] | the bytes of a message, and the guard in front of every parser |
//! | [`frame`] | messages out of a TCP stream |
//! | [`transaction`] | a machine: one request until its answer, or until it is given up |
//! | [`query`] | a machine: several servers asked at once, over UDP and TCP |
//! | [`responder`] | the server's side, with RFC 5780 and RFC 3489; pure |
//!
//! Two parts of RFC 3489 are left out on purpose. With RESPONSE-ADDRESS anybody could aim a server's answers at
//! anybody. The shared-secret exchange was to guard that.

pub mod dial_back;
pub mod frame;
pub mod message;
pub mod query;
pub mod responder;
pub mod transaction;
pub mod wire;

#[cfg(test)]
mod rfc5769_tests;
#[cfg(test)]
mod wire_tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use message::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId};
pub use query::{Answer, Failure, Query, QueryConfig, Server};
pub use responder::Responder;
pub use transaction::{Transaction, TransactionConfig};

/// The port that servers listen on when none is named (RFC 8489, section 8).
pub const DEFAULT_PORT: u16 = 3478;

/// The transport that carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// Datagrams of one message each.
    Udp,
    /// A stream of messages.
    Tcp,
}

impl Transport {
    /// Returns the most bytes of a message accepted or made, with its header. Over UDP that is what fits an Ethernet
    /// frame. Over TCP it is what the longest credentials of RFC 8489 need, with room.
    pub const fn most_bytes(self) -> usize {
        match self {
            Self::Udp => 1_500,
            Self::Tcp => 4_096,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}
