//! TURN (RFC 8656): an address on a server that stands for us, the means to keep it, and the server.
//!
//! | part | meaning |
//! |---|---|
//! | [`credentials`] | the login at a server, and the answer to its challenge |
//! | [`channel`], [`frame`] | relayed data on the wire, out of datagrams and streams |
//! | [`allocation`] | a machine: one relayed address on one server, over one transport |
//! | [`data`] | a machine: one TCP connection of a peer, through the server (RFC 6062) |
//! | [`client`] | a machine: several servers and transports raced, the first that works kept |
//! | [`server`] | a machine: the other side, which answers and relays |
//!
//! # Trust
//!
//! Every request but the first is signed, and so must its answer be. An unsigned answer can come from anybody who
//! sees our packets. Others cannot guess 96 bits of transaction id. So an unsigned answer never ends an allocation:
//!
//! - A challenge (401, 438) only makes us sign again, as often as [`MOST_CHALLENGES`] in a row.
//! - Any other unsigned refusal makes us ask for a new allocation from the same port. A server that still has the old
//!   one must refuse that, signed.
//!
//! Before credentials are exchanged there is nothing to lose yet. An unsigned refusal, or a redirection, only turns
//! us to another server, which must then prove that it knows the password.
//!
//! Data indications and ChannelData are signed by nobody, by design of the protocol. Their payload is proven and
//! sealed end to end.
//!
//! Left out are EVEN-PORT and RESERVATION-TOKEN (RTP only), and DONT-FRAGMENT and ICMP (we send 1,200 bytes at most).
//! Also left out are mobility (RFC 8016), third-party authorisation (RFC 7635), and DTLS to the server.

pub mod allocation;
pub mod channel;
pub mod client;
pub mod credentials;
pub mod data;
mod errand;
mod failure;
pub mod frame;
pub mod server;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod wire_tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use allocation::{Allocation, AllocationConfig};
pub use channel::{ChannelNumber, Packet};
pub use client::{Client, ClientConfig, Server};
pub use credentials::Credentials;
pub use errand::MOST_CHALLENGES;
pub use failure::Failure;

use crate::Family;
use crate::stun::Transport;

/// The transport of messages to the server. The order is that of trying: UDP relays best, and TLS on port 443 gets
/// through where nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Carrier {
    /// Datagrams over UDP.
    Udp,
    /// A TCP stream.
    Tcp,
    /// A TCP stream inside TLS.
    Tls,
}

impl Carrier {
    /// Returns the transport as STUN sees it.
    pub const fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp | Self::Tls => Transport::Tcp,
        }
    }

    /// Tells whether it is a stream, in which messages must be found and ChannelData filled up to four bytes.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        })
    }
}

/// The transport that is relayed between the server and the peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Relaying {
    /// Datagrams (RFC 8656).
    #[default]
    Udp,
    /// Connections (RFC 6062), which need a stream to the server.
    Tcp,
}

impl Relaying {
    /// Returns the IP protocol that REQUESTED-TRANSPORT names.
    pub(crate) const fn protocol(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }
}

/// The families of the relayed addresses that are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Families {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only (RFC 8656, section 18.6).
    V6,
    /// IPv4, and IPv6 where the server has it (RFC 8656, section 18.11).
    Both,
}

impl Families {
    /// Tells whether an address of this family is asked for.
    pub const fn wants(self, family: Family) -> bool {
        match (self, family) {
            (Self::Both, _) => true,
            (Self::V4, family) => matches!(family, Family::V4),
            (Self::V6, family) => matches!(family, Family::V6),
        }
    }
}
