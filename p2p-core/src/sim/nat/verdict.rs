//! The verdicts of a NAT on packets, and their counts.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::nat::Filtering;
use crate::sim::packet::Header;

/// The reason why a NAT did not let a packet through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum DropReason {
    /// The configuration blocks all of this protocol.
    #[error("all of this protocol is blocked")]
    Blocked,
    /// The address family of the packet is not that of the NAT.
    #[error("wrong address family")]
    WrongFamily,
    /// The destination is not one of the external addresses.
    #[error("not for this NAT")]
    NotForUs,
    /// No inside host uses the external port.
    #[error("no mapping")]
    NoMapping,
    /// A mapping exists, but not for this sender.
    #[error("filtered ({0:?})")]
    Filtered(Filtering),
    /// A TCP segment belongs to no known connection and does not open one.
    #[error("no session, and no SYN")]
    NoSession,
    /// A TCP segment is not valid in the present state.
    #[error("invalid in this state of the connection")]
    OutOfState,
    /// A SYN has another sequence number on a 4-tuple where a SYN has come the other way.
    #[error("invalid: new sequence number after SYNs crossed")]
    NewIsn,
    /// A SYN came against our own, and the NAT does not support that.
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
    /// There were too many new mappings in a short time.
    #[error("too many new mappings a second")]
    TooFast,
    /// A packet came from inside for an external address, and the NAT does no hairpinning.
    #[error("no hairpinning")]
    NoHairpin,
    /// An ICMP error is about a flow that is not known.
    #[error("ICMP error about an unknown flow")]
    UnknownQuote,
    /// An echo reply came that nobody asked for.
    #[error("echo reply without request")]
    NoRequest,
}

/// The treatment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sends it on, with the header as it is now.
    Forward,
    /// Sends it back inside, where it came from, with the header as it is now.
    Hairpin,
    /// Sends it on untranslated: it is invalid for the NAT, but not stopped by it.
    Leak(DropReason),
    /// Drops it without an answer.
    Drop(DropReason),
    /// Drops it, and sends this back the way it came.
    Answer(Header, DropReason),
}

/// The numbers of packets by their treatment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The packets that were sent on.
    pub forwarded: u64,
    /// The packets that were sent back inside.
    pub hairpinned: u64,
    /// The packets that were sent on untranslated.
    pub leaked: u64,
    /// The packets that were answered with a RST or an ICMP error, late answers included.
    pub answered: u64,
    /// The packets that were dropped, answered or not, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}
