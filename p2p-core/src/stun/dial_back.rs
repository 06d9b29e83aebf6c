//! The outcome of a dial back: a STUN server of ours dials a port of the asker, and tells what the SYN met.

use serde::{Deserialize, Serialize};

/// The answer of a NAT to a SYN that it does not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SynAnswer {
    /// No answer: RFC 5382, REQ-4, at least for six seconds.
    Silence,
    /// A TCP RST: the dialler is refused.
    Reset,
    /// An ICMP error: the dialler is aborted.
    Icmp,
}

/// The outcome of a SYN that a helper outside sent to a throw-away port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SynOutcome {
    /// The connection stood: it was let in.
    Connected,
    /// It was not let in, and this was the answer.
    Kept(SynAnswer),
    /// The helper could not, or would not.
    Unavailable,
}
