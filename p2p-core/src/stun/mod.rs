//! STUN (RFC 8489): ask a server outside what address it sees us come from.
//!
//! | part | what it is |
//! |---|---|
//! | [`message`] | what a message says, in types of our own |
//! | [`wire`] | its bytes: the guard in front of every parser |
//! | [`frame`] | messages out of a TCP stream |
//! | [`transaction`] | machine: one request until its answer or the end of patience |
//! | [`query`] | machine: several servers asked at once, over UDP and TCP |
//! | [`responder`] | pure: the server's side, with RFC 5780 and RFC 3489 |
//!
//! Left out on purpose: RESPONSE-ADDRESS of RFC 3489, with which anybody could aim a server's answers at
//! anybody, and the shared-secret exchange that was to guard it.

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

/// The port servers listen on when none is named (RFC 8489, section 8).
pub const DEFAULT_PORT: u16 = 3478;

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// Datagrams: one message each.
    Udp,
    /// A stream of messages.
    Tcp,
}

impl Transport {
    /// The largest message accepted or made, in bytes with its header. Over UDP what fits an Ethernet frame,
    /// over TCP what the longest credentials of RFC 8489 need, with room.
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
