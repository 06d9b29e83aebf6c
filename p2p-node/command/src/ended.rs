//! The reasons for which a command ends early.

use std::fmt;

use p2p_node::ConnectError;

/// The reason for which a command ended early.
#[derive(Debug)]
pub(crate) enum Ended {
    /// SIGINT or SIGTERM.
    Interrupted,
    /// SIGINT or SIGTERM, with the one connection that was to be served not over.
    InterruptedMidway,
    /// The time was up.
    TimedOut,
    /// No STUN server answered.
    Offline,
    /// Whoever read our output does not any more.
    Unread,
    /// The same, before everything was sent.
    Unsent,
    /// The user was told already.
    Told(ConnectError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::InterruptedMidway => f.write_str(
                "interrupted in the middle of a connection: neither side can rely on having got everything",
            ),
            Self::TimedOut => f.write_str("out of time"),
            Self::Offline => f.write_str("no STUN server answered"),
            Self::Unread => f.write_str("nobody reads the output"),
            Self::Unsent => f.write_str(
                "nobody reads the output any more, so we stop: what was to be sent may not have arrived",
            ),
            Self::Told(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Ended {}
