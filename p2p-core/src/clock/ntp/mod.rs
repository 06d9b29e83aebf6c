//! NTP (RFC 5905), as far as it is needed by a client that only wants to know the offset of its clock.
//!
//! | part | meaning |
//! |---|---|
//! | [`packet`] | the 48 bytes of a packet, in both directions |
//! | [`client`] | a machine that asks several servers and weighs their answers |
//!
//! Left out on purpose are authentication, symmetric and broadcast modes, and the discipline that sets a clock and
//! steers its speed. A server is believed only as far as most of those asked agree with it, so three should be named.

pub mod client;
pub mod packet;
mod server;

#[cfg(test)]
mod client_tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{ImpossibleExchange, Offset, Ppm};

pub use client::{Act, Client, ClientConfig, Counters, TooManyServers};
pub use packet::Packet;

/// The port that servers listen on (RFC 5905, section 7.2).
pub const DEFAULT_PORT: u16 = 123;
/// The most servers that one client asks. More would not make the result surer.
pub const MOST_SERVERS: usize = 8;
/// The most addresses of one server that are tried.
pub const MOST_ADDRESSES: usize = 4;

/// A measured offset: the time by which true time was ahead of our clock, and the moment of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    offset: Offset,
    at: Instant,
    drift: Ppm,
}

impl Measured {
    /// Returns the measurement of `offset` at `at`, by a clock that drifts by `drift` at most.
    pub fn new(offset: Offset, at: Instant, drift: Ppm) -> Self {
        Self { offset, at, drift }
    }

    /// Returns the offset as it is known at `now`. Its error grows with the time since the measurement.
    pub fn offset(&self, now: Instant) -> Offset {
        self.offset.aged(now.saturating_duration_since(self.at), self.drift)
    }

    /// Returns the time of the measurement.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// The result of all servers together, and of each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The offset that most servers agree on. `None` while they are being asked, and when there is no majority.
    pub measured: Option<Measured>,
    /// The result of each server, in the order of the configuration.
    pub servers: Vec<ServerReport>,
}

/// The result of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// The address that was asked last.
    pub asked: Option<SocketAddr>,
    /// The last answer of use. It is kept while the server is silent, until it is too old to be of use.
    pub word: Option<Word>,
    /// The reason why the server gave no answer of use when it was last asked.
    pub failure: Option<Failure>,
}

/// The offset that one server tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The time by which true time is ahead of our clock.
    pub offset: Offset,
    /// The shortest round trip to the server.
    pub rtt: Duration,
    /// True when most servers agree with this offset.
    pub is_agreed: bool,
}

/// A reason why a server gave no answer of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The name of the server has no address.
    #[error("not found: {0}")]
    Unresolved(String),
    /// All addresses of the server belong to another server of the list, which has a voice already.
    #[error("it is the same as another server of the list")]
    Twin,
    /// The system reports that the server cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(io::ErrorKind),
    /// The server did not answer.
    #[error("no answer")]
    NoAnswer,
    /// The server does not know the time itself.
    #[error("it does not know the time itself")]
    Unsynchronised,
    /// The server's own time has an error that is too large, namely this.
    #[error("its own time may be off by {:.1} s", .0.as_secs_f64())]
    Distant(Duration),
    /// The server asks us to ask less often, which we do.
    #[error("it wants to be asked less often")]
    RateLimited,
    /// The server refuses to serve us, and is left alone from now on.
    #[error("it refuses to serve us ({0})")]
    Denied(Kiss),
    /// The server gave another reason for not telling the time.
    #[error("it tells no time ({0})")]
    Kissed(Kiss),
    /// The server's time stamps contradict each other or ours.
    #[error("an absurd answer: {0}")]
    Absurd(#[from] ImpossibleExchange),
    /// The answer lacks a time stamp.
    #[error("an answer without the time")]
    NoTime,
}

/// The code of a kiss-o'-death (RFC 5905, section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kiss(pub [u8; 4]);

impl Kiss {
    /// Access is denied.
    pub const DENY: Self = Self(*b"DENY");
    /// Access is denied by the server's policy.
    pub const RSTR: Self = Self(*b"RSTR");
    /// The server is asked too often.
    pub const RATE: Self = Self(*b"RATE");
}

impl fmt::Display for Kiss {
    /// Writes the code with anything unprintable escaped, because a stranger wrote it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
