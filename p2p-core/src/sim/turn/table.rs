//! What a server remembers of its clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::stun::TransactionId;

/// One client's allocation.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) relayed: Vec<SocketAddr>,
    pub(super) is_tcp: bool,
    pub(super) user: String,
    pub(super) ends: Instant,
    /// The request that made it and what it was answered, for when it comes again.
    pub(super) made_by: (TransactionId, Vec<u8>),
    pub(super) permissions: BTreeMap<IpAddr, Instant>,
    /// Numbers, whose they are, and until when.
    pub(super) channels: BTreeMap<u16, (SocketAddr, Instant)>,
}

impl Entry {
    pub(super) fn is_permitted(&self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.get(&ip).is_some_and(|until| *until > now)
    }

    /// The number bound to a peer now.
    pub(super) fn number(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let bound = |(_, (whose, until)): &(&u16, &(SocketAddr, Instant))| *whose == peer && *until > now;
        self.channels.iter().find(bound).map(|(number, _)| *number)
    }

    /// The relayed address of the peer's family.
    pub(super) fn relayed_for(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.relayed.iter().find(|relayed| relayed.is_ipv4() == peer.is_ipv4()).copied()
    }
}
