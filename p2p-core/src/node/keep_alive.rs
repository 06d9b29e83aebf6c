//! The settings that keep connections alive.

use std::time::Duration;

/// The settings that keep idle connections alive and find out dead ones. Zero switches each one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepAlive {
    /// The silence after which the system asks for a sign of life. Default 25 s: a dead path is then noticed 40 s after the
    /// last word, and routers keep a connection in mind for longer (RFC 5382, REQ-5). Zero: it never asks.
    pub idle: Duration,
    /// The pause between two such questions without an answer. Default 5 s.
    pub interval: Duration,
    /// The number of unanswered questions that end the connection. Default 3.
    pub probes: u32,
    /// The time data may stay unacknowledged before the connection ends, where the system offers it (Linux, Android).
    /// Default 30 s, 2 s at least. Zero: as long as the system likes, mostly a quarter of an hour.
    pub unacknowledged: Duration,
    /// The silence after which an encrypted pipe asks its peer for a sign of life. Default 15 s; from 5 s to an hour. Two
    /// questions without an answer end the pipe. Zero: it never asks, and still answers.
    pub ping: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(25),
            interval: Duration::from_secs(5),
            probes: 3,
            unacknowledged: Duration::from_secs(30),
            ping: Duration::from_secs(15),
        }
    }
}

impl KeepAlive {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks nobody and ends nothing: connections live and die as the system's own settings say.
    pub const OFF: Self = Self {
        idle: Duration::ZERO,
        interval: Duration::ZERO,
        probes: 0,
        unacknowledged: Duration::ZERO,
        ping: Duration::ZERO,
    };

    /// Returns the silence after which a pipe asks its peer, within the bounds; `None` if it never does.
    pub fn ping_after(&self) -> Option<Duration> {
        (!self.ping.is_zero()).then(|| self.ping.clamp(LEAST_PING, MOST_PING))
    }
}

crate::setters!(KeepAlive {
    with_idle(idle: Duration);
    with_interval(interval: Duration);
    with_probes(probes: u32);
    with_unacknowledged(unacknowledged: Duration);
    with_ping(ping: Duration);
});

const LEAST_PING: Duration = Duration::from_secs(5);
const MOST_PING: Duration = Duration::from_secs(3_600);
