//! The assembly of a lab, before its packets are carried.

use std::collections::BTreeMap;
use std::net::IpAddr;

use p2p_core::Seed;
use p2p_core::sim::link::Link;
use p2p_core::sim::nat::Nat;

use crate::error::LabError;
use crate::fabric::{self, Exit, Gate, Port, Routes};
use crate::host::Host;
use crate::interface::{Setup, set_up};
use crate::kernel_router::{INNER, KernelRouter, OUTER};
use crate::namespace::Namespace;
use crate::registry::{Claim, is_privileged};
use crate::scenario::{Cable, Cidr, Router, RouterKind, Routing, Scenario};

/// The exits into which the cables are plugged.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    /// The exits of each host's interfaces, in order.
    pub(crate) hosts: BTreeMap<String, Vec<Exit>>,
    pub(crate) routers: BTreeMap<String, Exit>,
}

/// The parts that are assembled before the fabric starts.
pub(crate) struct Parts {
    pub(crate) ports: Vec<Port>,
    pub(crate) gates: Vec<Gate>,
    pub(crate) routes: Routes,
    pub(crate) exits: Exits,
    pub(crate) seed: Seed,
}

/// Makes the two directions of a cable.
pub(crate) fn links(cable: &Cable, seed: &mut Seed) -> Result<(Link, Link), LabError> {
    fabric::links(cable, seed).map_err(|error| LabError::Cable(error.to_string()))
}

impl Parts {
    fn namespace(claim: &Claim, name: &str) -> Result<Namespace, LabError> {
        let full = is_privileged().then(|| claim.name(name));
        Namespace::new(full.as_deref()).map_err(LabError::system(format!("making the namespace of `{name}`")))
    }

    /// Returns the gateways of a network: its first addresses, where a router forwards.
    pub(crate) fn gateways(scenario: &Scenario, net: usize) -> Vec<IpAddr> {
        let inner =
            scenario.routers.iter().find(|router| router.inside == net).map(|router| router.inner.clone());
        let own = || scenario.nets[net].prefixes().filter_map(|prefix| prefix.nth(1)).collect();
        let gateways: Vec<Cidr> = match inner {
            Some(inner) => inner,
            None if net == 0 => own(),
            None => Vec::new(),
        };
        gateways.iter().map(Cidr::ip).collect()
    }

    /// Returns the setup of an interface, with the gateways of its families only.
    fn setup(scenario: &Scenario, name: String, net: usize, addresses: &[Cidr]) -> Setup {
        let mut gateways = Self::gateways(scenario, net);
        gateways
            .retain(|gateway| addresses.iter().any(|address| address.ip().is_ipv4() == gateway.is_ipv4()));
        Setup { name, addresses: addresses.to_vec(), gateways }
    }

    fn plug(
        &mut self,
        name: String,
        tun: crate::tun::Tun,
        net: usize,
        addresses: &[Cidr],
        cable: &Cable,
    ) -> Result<Exit, LabError> {
        let (up, down) = links(cable, &mut self.seed)?;
        let exit = Exit::Port(self.ports.len());
        for address in addresses {
            self.routes.add(net, address.ip(), exit);
        }
        self.routes.join(net, self.ports.len());
        self.ports.push(Port { name, tun, net, up, down, is_gone: false });
        Ok(exit)
    }

    pub(crate) fn add_host(
        &mut self,
        host: &crate::scenario::Host,
        scenario: &Scenario,
        claim: &Claim,
        offload: bool,
    ) -> Result<Host, LabError> {
        let namespace = Self::namespace(claim, &host.name)?;
        let setups: Vec<Setup> = (host.interfaces.iter().enumerate())
            .map(|(index, interface)| {
                Self::setup(scenario, format!("eth{index}"), interface.net, &interface.addresses)
            })
            .collect();
        let tuns = namespace
            .run(|| set_up(&setups, host.routing, offload))
            .and_then(|outcome| outcome)
            .map_err(LabError::system(format!("setting up the host `{}`", host.name)))?;
        let mut exits = Vec::new();
        for ((tun, setup), interface) in tuns.into_iter().zip(setups).zip(&host.interfaces) {
            let name = format!("{}/{}", host.name, setup.name);
            exits.push(self.plug(name, tun, interface.net, &interface.addresses, &interface.cable)?);
        }
        self.exits.hosts.insert(host.name.clone(), exits);
        Ok(Host { name: host.name.clone(), namespace, addresses: scenario.addresses(&host.name) })
    }

    pub(crate) fn add_router(
        &mut self,
        index: usize,
        router: &Router,
        scenario: &Scenario,
        claim: &Claim,
        offload: bool,
    ) -> Result<Option<KernelRouter>, LabError> {
        match &router.kind {
            RouterKind::Simulated { v4, v6, is_silent } => {
                let mut nat = |config: &Option<Box<_>>| {
                    let config = config.as_deref().cloned();
                    let made = config.map(|config| Nat::new(config, self.seed.fork(&router.name)));
                    made.transpose().map_err(|error| LabError::Cable(error.to_string()))
                };
                let (v4, v6) = (nat(v4)?, nat(v6)?);
                let (up, down) = links(&router.cable, &mut self.seed)?;
                let gate = self.gates.len();
                let translates = v4.as_ref().is_some_and(|nat| nat.config().is_translating());
                self.gates.push(Gate {
                    name: router.name.clone(),
                    inside: router.inside,
                    outside: router.outside,
                    inner: router.inner.iter().map(Cidr::ip).collect(),
                    outer: router.outer.iter().map(Cidr::ip).collect(),
                    up,
                    down,
                    v4,
                    v6,
                    is_silent: *is_silent,
                });
                for address in &router.inner {
                    self.routes.add(router.inside, address.ip(), Exit::Itself(gate));
                }
                self.routes.set_usual(router.inside, Exit::Inside(gate));
                for address in &router.outer {
                    self.routes.add(router.outside, address.ip(), Exit::Outside(gate));
                }
                self.route_back(index, scenario, Exit::Outside(gate), !translates);
                self.exits.routers.insert(router.name.clone(), Exit::Outside(gate));
                Ok(None)
            }
            RouterKind::Kernel { is_fully_random, has_upnp, refusal } => {
                let namespace = Self::namespace(claim, &router.name)?;
                let inner =
                    Setup { name: INNER.to_owned(), addresses: router.inner.clone(), gateways: Vec::new() };
                let outer = Self::setup(scenario, OUTER.to_owned(), router.outside, &router.outer);
                let tuns = namespace
                    .run(|| set_up(&[inner, outer], Routing::Metric, offload))
                    .and_then(|outcome| outcome)
                    .map_err(LabError::system(format!("setting up the router `{}`", router.name)))?;
                let mut tuns = tuns.into_iter();
                let sides = [
                    (INNER, router.inside, &router.inner, Cable::default()),
                    (OUTER, router.outside, &router.outer, router.cable),
                ];
                for ((device, net, addresses, cable), tun) in sides.into_iter().zip(&mut tuns) {
                    let exit = self.plug(format!("{}/{device}", router.name), tun, net, addresses, &cable)?;
                    if device == INNER {
                        self.routes.set_usual(net, exit);
                    } else {
                        self.exits.routers.insert(router.name.clone(), exit);
                    }
                }
                let folder = has_upnp.then(|| claim.folder().join(&router.name));
                KernelRouter::start(namespace, *is_fully_random, *refusal, folder.as_deref()).map(Some)
            }
        }
    }

    /// Routes prefixes that a router does not translate to it from outside, as far as no other router translates.
    fn route_back(&mut self, index: usize, scenario: &Scenario, exit: Exit, with_v4: bool) {
        let inside: Vec<Cidr> = {
            let mut nets = vec![scenario.routers[index].inside];
            let mut at = 0;
            while let Some(net) = nets.get(at).copied() {
                nets.extend(
                    scenario
                        .routers
                        .iter()
                        .filter(|router| router.outside == net)
                        .map(|router| router.inside),
                );
                at += 1;
            }
            let prefixes = nets.iter().flat_map(|net| scenario.nets[*net].prefixes());
            prefixes.filter(|prefix| with_v4 || !prefix.ip().is_ipv4()).collect()
        };
        for prefix in inside {
            self.routes.add_prefix(scenario.routers[index].outside, prefix, exit);
        }
    }
}
