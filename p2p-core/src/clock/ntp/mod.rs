//! NTP (RFC 5905), as far as a client needs it that only wants to know how far its clock is off.
//!
//! | part | what it is |
//! |---|---|
//! | [`packet`] | the 48 bytes, both ways |
//! | [`client`] | machine: several servers asked, their words weighed |
//!
//! Left out on purpose: the discipline that sets a clock and steers its speed (nothing here sets a clock), symmetric
//! and broadcast modes, and authentication. A server is believed as far as most of those asked allow what it says,
//! so name three.

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

/// The port servers listen on (RFC 5905, section 7.2).
pub const DEFAULT_PORT: u16 = 123;
/// Servers one client asks at most: more would not make it surer.
pub const MOST_SERVERS: usize = 8;
/// Addresses of one server that are tried at most.
pub const MOST_ADDRESSES: usize = 4;

/// How far the true time was ahead of our clock when it was last asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    offset: Offset,
    at: Instant,
    drift: Ppm,
}

impl Measured {
    /// It was `offset` at `at`, and our clock drifts by `drift` at most.
    pub fn new(offset: Offset, at: Instant, drift: Ppm) -> Self {
        Self { offset, at, drift }
    }

    /// What is known of it at `now`: the error grows with the time since.
    pub fn offset(&self, now: Instant) -> Offset {
        self.offset.aged(now.saturating_duration_since(self.at), self.drift)
    }

    /// When it was measured.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// What all servers together say, and each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What most of them agree on. `None` while they are being asked, and when there is no majority.
    pub measured: Option<Measured>,
    /// Each server, in the order of the configuration.
    pub servers: Vec<ServerReport>,
}

/// What one server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// The address asked last.
    pub asked: Option<SocketAddr>,
    /// What it said; remembered when it falls silent, until that is too long ago to be of use.
    pub word: Option<Word>,
    /// Why it said nothing of use when it was last asked.
    pub failure: Option<Failure>,
}

/// What one server says of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// How far the true time is ahead of our clock.
    pub offset: Offset,
    /// The shortest round trip to it.
    pub rtt: Duration,
    /// Whether most servers can agree to that.
    pub is_agreed: bool,
}

/// Why a server said nothing of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its name has no address.
    #[error("not found: {0}")]
    Unresolved(String),
    /// Its name leads to nothing but the address of another one: it has a voice already.
    #[error("it is the same as another server of the list")]
    Twin,
    /// The system says that it cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(io::ErrorKind),
    /// Silence.
    #[error("no answer")]
    NoAnswer,
    /// It does not know the time itself.
    #[error("it does not know the time itself")]
    Unsynchronised,
    /// It knows the time only as well as this.
    #[error("its own time may be off by {:.1} s", .0.as_secs_f64())]
    Distant(Duration),
    /// It asks us to ask less often, which we do.
    #[error("it wants to be asked less often")]
    RateLimited,
    /// It wants nothing to do with us, and is left alone from now on.
    #[error("it refuses to serve us ({0})")]
    Denied(Kiss),
    /// It gave another reason for not telling the time.
    #[error("it tells no time ({0})")]
    Kissed(Kiss),
    /// Its time stamps cannot be.
    #[error("an absurd answer: {0}")]
    Absurd(#[from] ImpossibleExchange),
    /// A time stamp is missing.
    #[error("an answer without the time")]
    NoTime,
}

/// The code of a kiss-o'-death (RFC 5905, section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kiss(pub [u8; 4]);

impl Kiss {
    /// Access denied.
    pub const DENY: Self = Self(*b"DENY");
    /// Access denied.
    pub const RSTR: Self = Self(*b"RSTR");
    /// Asked too often.
    pub const RATE: Self = Self(*b"RATE");
}

impl fmt::Display for Kiss {
    /// The code, with anything odd escaped: a stranger wrote it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
