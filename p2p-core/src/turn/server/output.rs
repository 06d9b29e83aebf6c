//! What a server wants done, what it tells, and what it has counted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::Family;
use crate::stun::Transport;
use crate::turn::Relaying;
use crate::turn::allocation::ConnectionId;

/// The 5-tuple of RFC 8656, section 2: which client talks to which of our addresses, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// The transport. Inside TLS it is TCP.
    pub transport: Transport,
    /// Our address.
    pub server: SocketAddr,
    /// The client's address.
    pub client: SocketAddr,
}

/// Why there is no relayed address of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRelayedAddress {
    /// We do not relay from this family.
    Family,
    /// No port is free, or the system refuses one.
    Exhausted,
}

/// What to do.
#[derive(Clone, PartialEq, Eq)]
pub enum Act {
    /// Send this to a client: one datagram, or a piece of its stream.
    Send {
        /// The client.
        client: FiveTuple,
        /// The bytes.
        bytes: Bytes,
    },
    /// Find out which of these addresses are this machine's own, and tell by
    /// [`handle_checked`](super::Relayer::handle_checked), at once: until then the client's requests wait.
    Check {
        /// The client whose request names them.
        client: FiveTuple,
        /// The addresses.
        ips: Vec<IpAddr>,
    },
    /// Open a relayed address, and tell by [`handle_bound`](super::Relayer::handle_bound), at once.
    Bind {
        /// For whom.
        client: FiveTuple,
        /// Its family.
        family: Family,
        /// For datagrams, or for connections.
        relaying: Relaying,
        /// Tells whether its port must be even.
        is_even: bool,
    },
    /// Close a relayed address.
    Release {
        /// For datagrams, or for connections.
        relaying: Relaying,
        /// The address.
        relayed: SocketAddr,
    },
    /// Send a datagram from a relayed address to a peer.
    Relay {
        /// From.
        relayed: SocketAddr,
        /// To.
        peer: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Dial a peer from a relayed address, and tell by [`handle_dialled`](super::Relayer::handle_dialled).
    Dial {
        /// From.
        relayed: SocketAddr,
        /// To.
        peer: SocketAddr,
        /// The name of the connection from now on.
        connection: ConnectionId,
    },
    /// Make one of the client's connection and the peer's: every byte goes through from now on. Tell of the end by
    /// [`handle_parted`](super::Relayer::handle_parted).
    Join {
        /// The client's connection.
        client: FiveTuple,
        /// The peer's.
        connection: ConnectionId,
    },
    /// Stop dialling a peer, or end its connection, joined or not.
    Hang {
        /// The connection.
        connection: ConnectionId,
    },
}

/// Payload and answers belong into no log.
impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { client, bytes } => write!(f, "Send({}, {} bytes)", client.client, bytes.len()),
            Self::Check { client, ips } => write!(f, "Check({}, {ips:?})", client.client),
            Self::Bind { client, family, relaying, is_even } => {
                write!(f, "Bind({}, {family}, {relaying:?}, even {is_even})", client.client)
            }
            Self::Release { relaying, relayed } => write!(f, "Release({relaying:?}, {relayed})"),
            Self::Relay { relayed, peer, data } => {
                write!(f, "Relay({relayed} to {peer}, {} bytes)", data.len())
            }
            Self::Dial { relayed, peer, connection } => {
                write!(f, "Dial({relayed} to {peer}, {connection:?})")
            }
            Self::Join { client, connection } => write!(f, "Join({}, {connection:?})", client.client),
            Self::Hang { connection } => write!(f, "Hang({connection:?})"),
        }
    }
}

/// What a server tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has relayed addresses from now on.
    Allocated {
        /// The client.
        client: FiveTuple,
        /// For datagrams, or for connections.
        relaying: Relaying,
        /// One address, or one of each family.
        relayed: Vec<SocketAddr>,
    },
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayerCounters {
    /// Allocations made.
    pub allocations: u64,
    /// Requests granted, allocations among them.
    pub granted: u64,
    /// Requests refused that were signed as they should be, or were broken.
    pub refused: u64,
    /// Requests answered with a realm and a nonce: unsigned, badly signed, with an old nonce.
    pub challenged: u64,
    /// Allocations refused because the credential had expired.
    pub expired: u64,
    /// Requests refused because of the peer they named.
    pub forbidden: u64,
    /// Datagrams and connections relayed to or from peers without permission, dropped.
    pub unpermitted: u64,
    /// Datagrams relayed, in both directions.
    pub relayed: u64,
    /// Datagrams dropped because the user or the server had used up its rate.
    pub throttled: u64,
    /// Connections with peers handed to clients (RFC 6062).
    pub joined: u64,
    /// Datagrams of peers too large for an indication, dropped.
    pub oversize: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// What was neither STUN nor ChannelData of an allocation, dropped.
    pub garbage: u64,
    /// Requests dropped because their source asked too often.
    pub limited: u64,
}
