//! The facts that attempts read whenever they need them, and the address that is published.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::config::NodeConfig;
use super::interface::NetworkView;
use super::nic::NicId;
use crate::attempt::Trust;
use crate::candidate::{HostView, OurAddress};
use crate::clock::ntp::Measured;
use crate::nat::Nat;
use crate::peer::{Contents, InterfaceAddr, MachineTag, PeerAddr, PeerId};
use crate::punch::{self, Limits, View};
use crate::{Clock, Reach, Seed, UnixTime};

/// Everything attempts need to know of this node. Nothing of it is copied when an attempt begins.
#[derive(Debug)]
pub(super) struct Facts {
    host: HostView,
    networks: BTreeMap<IpAddr, punch::NetworkView>,
    servers: BTreeMap<IpAddr, Vec<SocketAddr>>,
    ntp: Option<Measured>,
    limits: Limits,
    tag: Option<MachineTag>,
    issued: UnixTime,
    /// Peers that our user has called, the last ones.
    called: VecDeque<PeerId>,
    has_allow_list: bool,
}

impl Facts {
    pub(super) fn new(config: &NodeConfig, seed: &mut Seed) -> Self {
        let tag = (!config.machine_id.is_empty())
            .then(|| MachineTag::new(&config.machine_id, &config.identity.id(), seed));
        Self {
            host: HostView { addresses: Vec::new(), machine_id: config.machine_id.clone() },
            networks: BTreeMap::new(),
            servers: BTreeMap::new(),
            ntp: None,
            limits: config.punch,
            tag,
            issued: UnixTime::default(),
            called: VecDeque::new(),
            has_allow_list: config.allowed.is_some(),
        }
    }

    /// Returns the facts as they are now.
    pub(super) fn view(&self, clock: Clock, now: Instant) -> View<'_> {
        View {
            host: &self.host,
            networks: &self.networks,
            clock,
            served: self.ntp.map(|measured| measured.offset(now)),
            listens: !self.host.addresses.is_empty(),
            limits: self.limits,
        }
    }

    /// Returns where this host is.
    pub(super) fn host(&self) -> &HostView {
        &self.host
    }

    /// Tells whether it is known where this host is seen from outside, at any of its addresses.
    pub(super) fn is_placed(&self) -> bool {
        let is_placed = |ours: &OurAddress| ours.external.is_some() || Reach::of(ours.ip) == Reach::Global;
        self.host.addresses.iter().any(is_placed)
    }

    /// Returns where this host is seen from outside.
    pub(super) fn externals(&self) -> BTreeSet<IpAddr> {
        self.host.addresses.iter().filter_map(|ours| ours.external).collect()
    }

    /// Returns the STUN servers to ask from an address, those first that have answered.
    pub(super) fn servers(&self, from: IpAddr) -> &[SocketAddr] {
        self.servers.get(&from).map_or(&[], Vec::as_slice)
    }

    /// Takes the offset of our clock as NTP servers see it.
    pub(super) fn set_ntp(&mut self, measured: Option<Measured>) {
        self.ntp = measured;
    }

    /// Remembers a peer that our user called.
    pub(super) fn remember(&mut self, peer: PeerId) {
        self.called.retain(|known| *known != peer);
        if self.called.len() == MOST_REMEMBERED {
            self.called.pop_front();
        }
        self.called.push_back(peer);
    }

    /// Tells whether anything speaks for a peer: an allow-list does for those it let through, and so does a call of our
    /// user's, not too many calls ago.
    pub(super) fn trust(&self, peer: &PeerId) -> Trust {
        let is_known = self.has_allow_list || self.called.contains(peer);
        if is_known { Trust::Known } else { Trust::Stranger }
    }

    /// Takes up what is known of the networks, and writes and signs our address anew.
    pub(super) fn publish<'a>(
        &mut self,
        views: impl Iterator<Item = (NicId, &'a NetworkView)> + Clone,
        config: &NodeConfig,
        clock: Clock,
        now: Instant,
    ) -> Option<PeerAddr> {
        let each = || views.clone().map(|(_, view)| view);
        self.host.addresses = each()
            .map(|view| OurAddress {
                ip: view.local,
                prefix: view.prefix,
                scope: view.scope,
                external: view.external_ip(),
            })
            .collect();
        self.servers = each().map(|view| (view.local, view.servers_by_merit())).collect();
        self.networks = each()
            .map(|view| {
                let can_observe = !view.servers.is_empty();
                let silent_hop = view.silent_hop;
                (view.local, punch::NetworkView { facts: view.facts(), can_observe, silent_hop })
            })
            .collect();
        let mut interfaces: Vec<_> = views
            .map(|(nic, view)| InterfaceAddr {
                nic: nic.0,
                local: view.local,
                prefix: view.prefix,
                external: view.external_ip(),
                listen: view.listen,
                mapped: view.external.map(|external| external.0.port()),
                nat: view.probed.as_ref().map_or_else(Nat::default, |probed| probed.report.facts()),
            })
            .collect();
        // If there are more than fit, those go first that lead furthest.
        interfaces.sort_by_key(|address| Reverse((address.external.is_some(), Reach::of(address.local))));
        self.issued = clock.unix(now).max(UnixTime(self.issued.0 + 1));
        let brokers = config.brokers.iter().map(|broker| broker.url.clone());
        let contents = Contents {
            brokers: brokers.take(PeerAddr::MOST_BROKERS).collect(),
            machine: self.tag,
            interfaces: interfaces.into_iter().take(PeerAddr::MOST_INTERFACES).collect(),
            issued: self.issued,
        };
        PeerAddr::sign(&config.identity, contents)
            .inspect_err(|error| tracing::warn!(%error, "own address"))
            .ok()
    }
}

/// Peers our user has called that are remembered at most.
const MOST_REMEMBERED: usize = 1_024;
