//! The history of a world, as text for people and as pcap for Wireshark.

use std::fmt;
use std::io;
use std::time::Instant;

use thiserror::Error;

use super::ids::NodeId;
use super::link::LinkDrop;
use super::nat::DropReason;
use super::packet::{Header, Packet};
use super::{epoch, wire};

/// The reason why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Loss {
    /// A NAT or firewall dropped it.
    #[error(transparent)]
    Nat(#[from] DropReason),
    /// A link lost it.
    #[error(transparent)]
    Link(#[from] LinkDrop),
    /// A router had no route for it.
    #[error("no route")]
    NoRoute,
    /// A router found its time to live exceeded.
    #[error("time to live exceeded")]
    Expired,
    /// A host does not have the destination address.
    #[error("not this host's address")]
    NotMine,
    /// Too many packets were under way in the whole world.
    #[error("too many packets under way in this world")]
    TooMany,
}

/// The treatment of a packet by a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A host or a router made it and sent it.
    Sent,
    /// A host received it.
    Received,
    /// A router passed it on.
    Passed {
        /// The header as it came, before translation.
        before: Header,
    },
    /// A NAT turned it round.
    TurnedRound {
        /// The header as it came, before translation.
        before: Header,
    },
    /// A NAT passed it on untranslated, as invalid.
    Leaked(DropReason),
    /// A node dropped it.
    Dropped {
        /// The reason why it was dropped.
        why: Loss,
        /// True when the sender was told, by a RST or an ICMP error.
        answered: bool,
    },
}

/// The record of one packet at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The time at which the node had the packet.
    pub at: Instant,
    /// The node that had the packet.
    pub node: NodeId,
    /// The treatment of the packet.
    pub fate: Fate,
    /// The packet as it left the node if it did, otherwise as it came.
    pub packet: Packet,
}

impl Record {
    /// Returns this record as a line of text without line end: seconds since the world began, node, fate, packet.
    pub fn line<'a>(&'a self, node: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            let secs = self.at.saturating_duration_since(epoch()).as_secs_f64();
            let header = &self.packet.header;
            write!(f, "{secs:>11.6} {node:<12} ")?;
            match &self.fate {
                Fate::Sent => write!(f, "sends    {header}"),
                Fate::Received => write!(f, "receives {header}"),
                Fate::Passed { before } => {
                    write!(f, "passes   {header}")?;
                    write_was(f, before, header)
                }
                Fate::TurnedRound { before } => {
                    write!(f, "turns    {header}")?;
                    write_was(f, before, header)
                }
                Fate::Leaked(why) => write!(f, "leaks    {header}: {why}"),
                Fate::Dropped { why, answered } => {
                    let told = if *answered { ", and says so" } else { "" };
                    write!(f, "drops    {header}: {why}{told}")
                }
            }
        })
    }
}

fn write_was(f: &mut fmt::Formatter<'_>, before: &Header, after: &Header) -> fmt::Result {
    if before.src != after.src {
        write!(f, " (source was {})", before.src)?;
    }
    if before.dst != after.dst {
        write!(f, " (destination was {})", before.dst)?;
    }
    Ok(())
}

/// The UNIX time at which every world begins, in seconds: 2001-09-09 01:46:40 UTC.
const BEGINNING: u64 = 1_000_000_000;

/// Writes packets as a pcap file: nanosecond times, raw IP (LINKTYPE_RAW).
///
/// It holds packets that were sent, received or passed on, each as it left the node, and no dropped ones. A packet
/// shows once for each node among `records`, so those of one node give a clear picture.
///
/// # Errors
/// [`io::Error`] when `out` fails.
pub fn write_pcap<'a>(
    out: &mut impl io::Write,
    records: impl IntoIterator<Item = &'a Record>,
) -> io::Result<()> {
    let mut header = Vec::with_capacity(24);
    header.extend(0xa1b2_3c4d_u32.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(4_u16.to_le_bytes());
    header.extend([0; 8]);
    header.extend(65_535_u32.to_le_bytes());
    header.extend(101_u32.to_le_bytes());
    out.write_all(&header)?;
    for record in records {
        if matches!(record.fate, Fate::Dropped { .. }) {
            continue;
        }
        let bytes = wire::emit(&record.packet);
        let since = record.at.saturating_duration_since(epoch());
        let mut head = Vec::with_capacity(16);
        head.extend(((BEGINNING + since.as_secs()) as u32).to_le_bytes());
        head.extend(since.subsec_nanos().to_le_bytes());
        head.extend((bytes.len() as u32).to_le_bytes());
        head.extend((bytes.len() as u32).to_le_bytes());
        out.write_all(&head)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}
