//! The reasons for which a call leads to no connection.

use crate::connect::AttemptReport;

/// Says why a connection did not come to be.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Every way failed: the report says how.
    #[error("no connection: {0}")]
    Failed(Box<AttemptReport>),
    /// The brokers say nobody is subscribed for this peer, and nothing else worked.
    #[error("the peer is offline: {0}")]
    Offline(Box<AttemptReport>),
    /// The address is this node's own.
    #[error("that is this node's own address: give it to the other side")]
    Ourselves,
    /// The caller allowed no way at all.
    #[error("no way is allowed: name at least one strategy, one family and one path")]
    NothingAllowed,
    /// This node already has as many attempts under way as it may.
    #[error("{limit} attempts are under way already: wait for one to end")]
    TooManyAttempts {
        /// The attempts it may have.
        limit: usize,
    },
    /// The connection was made, and this program's runtime could not take it.
    #[error("the connection could not be used: {0}")]
    Socket(String),
    /// The node was closed while the attempt was under way: the report says how far it was.
    #[error("the node was closed meanwhile: {0}")]
    Cancelled(Box<AttemptReport>),
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}

impl ConnectError {
    /// All words that [`code`](Self::code) says.
    pub const CODES: [&'static str; 10] = [
        "offline",
        "refused",
        "timed_out",
        "no_connection",
        "ourselves",
        "nothing_allowed",
        "too_many_attempts",
        "socket",
        "cancelled",
        "closed",
    ];

    /// Returns a word for programs, which never changes: `offline`, `refused` (the peer said no on some way),
    /// `timed_out` (the time was up while some way still had hope), `no_connection` (every way failed), `ourselves`,
    /// `nothing_allowed`, `too_many_attempts`, `socket`, `cancelled` or `closed`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Offline(_) => "offline",
            Self::Failed(report) if report.is_refused() => "refused",
            Self::Failed(report) if report.is_timed_out() => "timed_out",
            Self::Failed(_) => "no_connection",
            Self::Ourselves => "ourselves",
            Self::NothingAllowed => "nothing_allowed",
            Self::TooManyAttempts { .. } => "too_many_attempts",
            Self::Socket(_) => "socket",
            Self::Cancelled(_) => "cancelled",
            Self::Closed => "closed",
        }
    }

    /// Returns the story of the attempt, if there was one.
    pub fn report(&self) -> Option<&AttemptReport> {
        match self {
            Self::Failed(report) | Self::Offline(report) | Self::Cancelled(report) => Some(report),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_names_each_code() {
        let text = include_str!("error.rs");
        let (_, text) = text.split_once("/// Returns a word for programs").expect("the documentation");
        let (text, code) = text.split_once("pub fn code").expect("what it documents");
        let (code, _) = code.split_once("\n    }").expect("its end");
        let said: Vec<_> = code.split('"').skip(1).step_by(2).collect();
        assert_eq!(said.len(), ConnectError::CODES.len());
        for word in ConnectError::CODES {
            assert!(text.contains(&format!("`{word}`")), "{word} is not documented");
            assert!(said.contains(&word), "{word} is never said");
        }
    }
}
