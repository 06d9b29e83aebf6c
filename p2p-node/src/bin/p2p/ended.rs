//! The reasons for which a command ends early.

use std::fmt;

use p2p_node::ConnectError;

/// The reason for which a command ended early.
#[derive(Debug)]
pub(crate) enum Ended {
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The time was up.
    TimedOut,
    /// No STUN server answered.
    Offline,
    /// Whoever read our output does not any more.
    Unread,
    /// The user was told already.
    Told(ConnectError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::TimedOut => f.write_str("out of time"),
            Self::Offline => f.write_str("no STUN server answered"),
            Self::Unread => f.write_str("nobody reads the output"),
            Self::Told(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Ended {}
