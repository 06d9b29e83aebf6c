//! Where this node is: its interfaces, its address, and what it tells of both.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use actix::{AsyncContext, Context, Handler};
use p2p_core::candidate::OurAddress;
use p2p_core::nat::{Nat, NatFacts};
use p2p_core::peer::{Contents, InterfaceAddr, PeerAddr};
use p2p_core::{Reach, UnixTime};
use tracing::{debug, warn};

use super::Root;
use crate::config::Interfaces;
use crate::drive::now;
use crate::interface::watch::NicChange;
use crate::interface::{
    self, Evidence, FromInterface, InterfaceConfig, InterfaceFacts, InterfaceHandle, Nic, Outcome,
};
use crate::shared::Outlook;
use crate::signal::SetAddress;

/// What is known of one interface.
pub(super) struct NicState {
    pub(super) nic: Nic,
    pub(super) handle: InterfaceHandle,
    pub(super) ready: bool,
    pub(super) facts: Vec<InterfaceFacts>,
}

impl NicState {
    /// Whether one of its external addresses is known.
    fn is_placed(&self) -> bool {
        self.facts.iter().any(|facts| facts.external.is_some() || facts.external_udp.is_some())
    }
}

impl Root {
    /// Writes, signs and publishes where we are.
    pub(super) fn publish_address(&mut self) {
        let facts = || {
            self.interfaces.iter().flat_map(|(nic, state)| state.facts.iter().map(move |facts| (*nic, facts)))
        };
        let ours = facts().map(|(_, facts)| OurAddress {
            ip: facts.local,
            prefix: facts.prefix,
            scope: facts.scope,
            external: external(facts),
        });
        self.shared.place.borrow_mut().addresses = ours.collect();
        self.shared.listens.set(facts().any(|(_, facts)| facts.listen != 0));
        *self.shared.outlooks.borrow_mut() =
            facts().map(|(_, facts)| (facts.local, outlook(facts))).collect();
        let mut interfaces: Vec<_> = facts()
            .map(|(nic, facts)| InterfaceAddr {
                nic,
                local: facts.local,
                prefix: facts.prefix,
                external: external(facts),
                listen: facts.listen,
                mapped: facts.external.map(|external| external.0.port()),
                nat: facts.probed.as_ref().map_or_else(Nat::default, |probed| probed.report.facts()),
            })
            .collect();
        // If there are more than fit, those go first that lead furthest.
        interfaces.sort_by_key(|address| Reverse((address.external.is_some(), Reach::of(address.local))));
        let now = self.shared.clock.get().unix(now());
        self.issued = now.max(UnixTime(self.issued.0 + 1));
        let contents = Contents {
            brokers: self
                .config
                .brokers
                .iter()
                .map(|broker| broker.url.clone())
                .take(PeerAddr::MOST_BROKERS)
                .collect(),
            machine: self.tag,
            interfaces: interfaces.into_iter().take(PeerAddr::MOST_INTERFACES).collect(),
            issued: self.issued,
        };
        match PeerAddr::sign(&self.shared.identity, contents) {
            Ok(address) => {
                debug!(interfaces = address.interfaces().len(), "own address");
                if let Some(router) = &self.router {
                    router.do_send(SetAddress(address.clone()));
                }
                self.status.send_modify(|status| status.address = Some(address));
            }
            Err(error) => warn!(%error, "own address"),
        }
        self.tell_attempts();
    }

    pub(super) fn start_interface(&mut self, nic: Nic, ctx: &mut Context<Self>) {
        let Some(number) = (0..=u8::MAX).find(|number| !self.interfaces.contains_key(number)) else { return };
        let config = InterfaceConfig {
            nic: nic.clone(),
            nic_number: number,
            families: self.config.families.iter().copied().collect(),
            listen_port: self.config.listen_port,
            stun: self.config.stun.clone(),
            seats: Arc::clone(&self.seats),
            refresh: interface::REFRESH,
            seed: self.shared.fork("interface"),
        };
        let handle = interface::start(config, ctx.address().recipient());
        self.interfaces.insert(number, NicState { nic, handle, ready: false, facts: Vec::new() });
    }

    /// Whether the configuration wants an interface that was not there at the start.
    fn wants(&self, nic: &Nic) -> bool {
        match &self.config.interfaces {
            Interfaces::All => !nic.is_loopback && nic.is_usable(&self.config.families),
            Interfaces::Only(names) => names.contains(&nic.name),
        }
    }

    fn publish_status(&self) {
        // An interface is ready a moment before its addresses are known here, and published.
        let listening = self.interfaces.values().all(|state| state.ready && !state.facts.is_empty());
        let surveyed = self.interfaces.values().flat_map(|state| &state.facts).all(|facts| facts.is_surveyed);
        let placed = surveyed || self.interfaces.values().any(NicState::is_placed);
        let networks = self.interfaces.values().map(|state| (state.nic.name.clone(), state.facts.clone()));
        let networks = networks.collect();
        self.status.send_modify(|status| {
            status.listening = listening;
            status.placed = listening && placed;
            status.surveyed = listening && surveyed;
            status.networks = networks;
        });
    }
}

/// What is published as the external address: that of the port listened on if it is known, else what most servers
/// of the probe say, else what the first one said.
fn external(facts: &InterfaceFacts) -> Option<IpAddr> {
    let own = facts.probed.as_ref().filter(|probed| probed.report.local == facts.local);
    facts
        .external
        .map(|external| external.0.ip())
        .or_else(|| own.and_then(|probed| Some(probed.report.external?.value)))
        .or(facts.external_udp.map(|external| external.0.ip()))
}

/// What punches from an address have to go by.
fn outlook(facts: &InterfaceFacts) -> Outlook {
    let has_answered = |server: &SocketAddr| {
        let is_answer = |evidence: &&Evidence| matches!(evidence.outcome, Outcome::Mapped(_));
        facts.evidence.iter().filter(is_answer).any(|evidence| evidence.asked == Some(*server))
    };
    let mut servers = facts.servers.clone();
    servers.sort_by_key(|server| !has_answered(server));
    let silent_hop = facts.silent_hop;
    let facts = facts.probed.as_ref().map_or_else(NatFacts::default, |probed| probed.report.facts().tcp);
    Outlook { facts, servers, silent_hop }
}

impl Handler<FromInterface> for Root {
    type Result = ();

    fn handle(&mut self, what: FromInterface, ctx: &mut Context<Self>) {
        match what {
            FromInterface::Inbound { stream, seat, .. } => self.on_inbound(stream, seat, ctx),
            FromInterface::Changed { nic_number, addresses } => {
                if let Some(state) = self.interfaces.get_mut(&nic_number) {
                    state.facts = addresses;
                }
                self.publish_address();
                self.publish_status();
            }
            FromInterface::Ready { nic_number } => {
                if let Some(state) = self.interfaces.get_mut(&nic_number) {
                    state.ready = true;
                }
                self.publish_status();
            }
            FromInterface::Failed { local, error, .. } => {
                warn!(%local, %error, "cannot listen");
                self.status.send_modify(|status| status.refused = Some((local, error.to_string())));
            }
        }
    }
}

impl Handler<NicChange> for Root {
    type Result = ();

    fn handle(&mut self, change: NicChange, ctx: &mut Context<Self>) {
        let (NicChange::Appeared(nic) | NicChange::Changed(nic) | NicChange::Vanished(nic)) = &change;
        let same = |state: &NicState| state.nic.index == nic.index && state.nic.name == nic.name;
        let number = self.interfaces.iter().find(|(_, state)| same(state)).map(|(number, _)| *number);
        match (change, number) {
            (NicChange::Appeared(nic) | NicChange::Changed(nic), None) if self.wants(&nic) => {
                self.start_interface(nic, ctx);
            }
            // It may also have changed between the start and the first look of the watch.
            (NicChange::Appeared(nic) | NicChange::Changed(nic), Some(number)) => {
                if let Some(state) = self.interfaces.get_mut(&number).filter(|state| state.nic != nic) {
                    state.nic = nic.clone();
                    state.handle.update(nic);
                }
            }
            (NicChange::Vanished(_), Some(number)) => {
                self.interfaces.remove(&number);
                self.publish_address();
                self.publish_status();
            }
            _ => {}
        }
    }
}
