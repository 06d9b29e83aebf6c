//! What a NAT says of a packet.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::nat::Filtering;
use crate::sim::packet::Header;

/// Why a NAT did not let a packet through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum DropReason {
    /// Configured so.
    #[error("all of this protocol is blocked")]
    Blocked,
    /// The address family of the packet is not that of the NAT.
    #[error("wrong address family")]
    WrongFamily,
    /// The destination is not one of the external addresses.
    #[error("not for this NAT")]
    NotForUs,
    /// Nobody inside uses the external port.
    #[error("no mapping")]
    NoMapping,
    /// There is a mapping, but not for this sender.
    #[error("filtered ({0:?})")]
    Filtered(Filtering),
    /// A TCP segment of an unknown connection that does not open one.
    #[error("no session, and no SYN")]
    NoSession,
    /// A TCP segment that cannot come now.
    #[error("invalid in this state of the connection")]
    OutOfState,
    /// A SYN with another sequence number on a 4-tuple where a SYN has come the other way.
    #[error("invalid: new sequence number after SYNs crossed")]
    NewIsn,
    /// A SYN against our own, where the NAT does not support that.
    #[error("simultaneous open not supported")]
    NoSimultaneousOpen,
    /// The connection is over.
    #[error("the session is closed")]
    Closed,
    /// All external ports are taken.
    #[error("no external port left")]
    NoPort,
    /// The table holds as many mappings as it may.
    #[error("mapping table full")]
    TableFull,
    /// The inside host has as many mappings as it may.
    #[error("mapping quota of the host used up")]
    HostFull,
    /// Too many new mappings in a short time.
    #[error("too many new mappings a second")]
    TooFast,
    /// From inside for an external address, without hairpinning.
    #[error("no hairpinning")]
    NoHairpin,
    /// An ICMP error about a flow that is not known.
    #[error("ICMP error about an unknown flow")]
    UnknownQuote,
    /// An echo reply that nobody asked for.
    #[error("echo reply without request")]
    NoRequest,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it on, with the header as it is now.
    Forward,
    /// It came from inside and goes back inside, with the header as it is now.
    Hairpin,
    /// Send it on though it was not translated: invalid for the NAT, but not stopped by it.
    Leak(DropReason),
    /// Drop it.
    Drop(DropReason),
    /// Drop it, and send this back the way it came.
    Answer(Header, DropReason),
}

/// What became of the packets so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent on.
    pub forwarded: u64,
    /// Sent back inside.
    pub hairpinned: u64,
    /// Sent on untranslated.
    pub leaked: u64,
    /// Answered with a RST or an ICMP error, late ones included.
    pub answered: u64,
    /// Dropped, answered or not, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}
