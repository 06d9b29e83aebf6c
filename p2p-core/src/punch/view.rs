//! The facts of one moment, by which an attempt and its punches decide.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::budget::Limits;
use crate::attempt::Trust;
use crate::candidate::HostView;
use crate::clock::{Clock, Offset};
use crate::nat::NatFacts;

/// The facts of the network in front of one address of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// The facts of its NAT, over TCP.
    pub facts: NatFacts,
    /// Tells whether a STUN server can be asked over TCP.
    pub can_observe: bool,
    /// The TTL at which a SYN passes our NAT and dies at a hop that says nothing, if such a hop was found.
    pub silent_hop: Option<u8>,
}

/// Everything that is known of this host at one moment.
///
/// It is lent to each call and kept by nobody: what is found out while an attempt runs counts from the next offer and
/// the next round on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The addresses and the machine of this host.
    pub host: &'a HostView,
    /// The network in front of each address of ours; of one that is missing nothing is known.
    pub networks: &'a BTreeMap<IpAddr, NetworkView>,
    /// Tells whether this host listens on any address, so that a peer can dial it.
    pub listens: bool,
    /// The clock of this host.
    pub clock: Clock,
    /// The offset of the time that NTP servers tell from that clock; `None` when none are asked.
    pub served: Option<Offset>,
    /// The limits of one punch for a peer that we know.
    pub limits: Limits,
}

impl View<'_> {
    /// Returns the facts of the network in front of an address of ours.
    pub fn network(&self, address: IpAddr) -> NetworkView {
        self.networks.get(&address).copied().unwrap_or_default()
    }

    /// Returns the limits of one punch, by the trust in the peer that it is for.
    pub fn limits_for(&self, trust: Trust) -> Limits {
        match trust {
            Trust::Known => self.limits,
            Trust::Stranger => self.limits.at_most(Limits::stranger()),
        }
    }
}

/// A view that owns what it shows.
#[cfg(feature = "sim")]
#[derive(Clone, Debug)]
pub(crate) struct OwnedView {
    pub(crate) host: HostView,
    pub(crate) networks: BTreeMap<IpAddr, NetworkView>,
    pub(crate) listens: bool,
    pub(crate) clock: Clock,
    pub(crate) served: Option<Offset>,
    pub(crate) limits: Limits,
}

#[cfg(feature = "sim")]
impl OwnedView {
    /// Returns the view of a host that listens, and of whose networks nothing is known.
    pub(crate) fn new(host: HostView, clock: Clock) -> Self {
        let (networks, limits) = (BTreeMap::new(), Limits::default());
        Self { host, networks, listens: true, clock, served: None, limits }
    }

    pub(crate) fn view(&self) -> View<'_> {
        let Self { host, networks, listens, clock, served, limits } = self;
        View { host, networks, listens: *listens, clock: *clock, served: *served, limits: *limits }
    }
}
