//! A running lab.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use nix::sys::eventfd::{EfdFlags, EventFd};
use p2p_core::Seed;
use p2p_core::sim::link::LinkConfig;
use p2p_core::sim::nat::Nat;

use crate::error::LabError;
use crate::event::{Event, Log, Timed};
use crate::fabric::{self, Exit, Fabric, Gate, Order, Port, Report, Routes};
use crate::host::Host;
use crate::interface::{Setup, set_up};
use crate::kernel_router::{INNER, KernelRouter, OUTER};
use crate::namespace::{Namespace, kill_inside};
use crate::pcap::Captures;
use crate::registry::{Claim, HostRecord, is_privileged};
use crate::scenario::{Cable, Cidr, Router, RouterKind, Routing, Scenario};

/// How long the fabric may take to answer its owner.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a lab does besides carrying packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabOptions {
    /// Write the packets of each device to a file in this folder.
    pub pcap: Option<PathBuf>,
    /// Write what happens to this file, one JSON object a line.
    pub events: Option<PathBuf>,
    /// Let the hosts' kernels hand over TCP segments of up to 64 kB: several times the throughput, but what
    /// a cable loses or delays is then such a segment, not a packet.
    pub offload: bool,
}

/// Hosts in network namespaces, behind simulated routers. Dropping it ends all that runs inside and leaves
/// nothing behind.
pub struct Lab {
    // In the order in which they have to go.
    fabric: Option<JoinHandle<io::Result<()>>>,
    orders: Sender<Order>,
    bell: Arc<EventFd>,
    hosts: BTreeMap<String, Host>,
    routers: Vec<KernelRouter>,
    exits: Exits,
    seed: Seed,
    log: Log,
    claim: Claim,
}

/// Where the cables are plugged in.
#[derive(Debug, Default)]
struct Exits {
    /// Of each host's interfaces, in order.
    hosts: BTreeMap<String, Vec<Exit>>,
    routers: BTreeMap<String, Exit>,
}

/// What is put together before the fabric starts.
struct Parts {
    ports: Vec<Port>,
    gates: Vec<Gate>,
    routes: Routes,
    exits: Exits,
    seed: Seed,
}

impl Lab {
    /// Makes the lab and starts to carry its packets.
    ///
    /// # Errors
    /// When the system does not allow it, or a step fails; then nothing is left of it.
    pub fn new(scenario: &Scenario) -> Result<Self, LabError> {
        Self::with_options(scenario, &LabOptions::default())
    }

    /// The same, with options.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when a file cannot be written.
    pub fn with_options(scenario: &Scenario, options: &LabOptions) -> Result<Self, LabError> {
        crate::privilege::check()?;
        let mut claim = Claim::new().map_err(LabError::system("registering the lab"))?;
        let mut parts = Parts {
            ports: Vec::new(),
            gates: Vec::new(),
            routes: Routes::new(scenario.nets.len()).with_own(Parts::gateways(scenario, 0)),
            exits: Exits::default(),
            seed: Seed::from_u64(scenario.seed),
        };
        let mut hosts = BTreeMap::new();
        for host in &scenario.hosts {
            let made = parts.add_host(host, scenario, &claim, options.offload)?;
            hosts.insert(host.name.clone(), made);
        }
        let mut routers = Vec::new();
        for (index, router) in scenario.routers.iter().enumerate() {
            routers.extend(parts.add_router(index, router, scenario, &claim, options.offload)?);
        }
        let log = Log::new(options.events.as_deref());
        let log = log.map_err(LabError::system("opening the event log"))?;
        log.write(|| Event::Started { id: claim.id().to_owned(), hosts: hosts.keys().cloned().collect() });
        publish(&mut claim, &hosts).map_err(LabError::system("registering the lab"))?;
        let captures = match &options.pcap {
            None => None,
            Some(folder) => {
                let names = parts.ports.iter().map(|port| port.name.as_str());
                let captures = Captures::new(folder, names);
                Some(
                    captures
                        .map_err(LabError::system(format!("writing captures to {}", folder.display())))?,
                )
            }
        };
        let (orders, receiver) = mpsc::channel();
        let starting = || LabError::system("starting the lab's thread");
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bell = Arc::new(bell.map_err(io::Error::from).map_err(starting())?);
        let fabric = Fabric::new(
            parts.ports,
            parts.gates,
            parts.routes,
            options.offload,
            receiver,
            Arc::clone(&bell),
            log.clone(),
            captures,
        );
        let fabric =
            thread::Builder::new().name("natlab".to_owned()).spawn(|| fabric.run()).map_err(starting())?;
        Ok(Self {
            fabric: Some(fabric),
            orders,
            bell,
            hosts,
            routers,
            exits: parts.exits,
            seed: parts.seed,
            log,
            claim,
        })
    }

    /// What this lab is called; `natlab exec --lab` takes it.
    pub fn id(&self) -> &str {
        self.claim.id()
    }

    /// A host by its name.
    ///
    /// # Errors
    /// When the scenario has none of that name.
    pub fn host(&self, name: &str) -> Result<&Host, LabError> {
        self.hosts.get(name).ok_or_else(|| LabError::Unknown(format!("host `{name}`")))
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Gives a host's interface (counted from zero) another cable, in both directions. What is under way
    /// arrives as before.
    ///
    /// # Errors
    /// When there is no such interface, or the cable is impossible.
    pub fn set_link(&mut self, host: &str, interface: usize, link: LinkConfig) -> Result<(), LabError> {
        let exits = self.exits.hosts.get(host).and_then(|exits| exits.get(interface));
        let exit =
            *exits.ok_or_else(|| LabError::Unknown(format!("interface {interface} of a host `{host}`")))?;
        self.set_cable(exit, link)
    }

    /// The same for the outer cable of a router.
    ///
    /// # Errors
    /// When there is no such router, or the cable is impossible.
    pub fn set_uplink(&mut self, router: &str, link: LinkConfig) -> Result<(), LabError> {
        let exit = self.router(router)?;
        self.set_cable(exit, link)
    }

    /// Switches a simulated router off and on: its mappings are gone.
    ///
    /// # Errors
    /// When there is no simulated router of that name.
    pub fn reboot(&mut self, router: &str) -> Result<(), LabError> {
        match self.router(router)? {
            Exit::Outside(gate) => self.order(Order::Reboot(gate)),
            _ => Err(LabError::Unknown(format!("simulated router `{router}`"))),
        }
    }

    fn router(&self, name: &str) -> Result<Exit, LabError> {
        let exit = self.exits.routers.get(name).copied();
        exit.ok_or_else(|| LabError::Unknown(format!("router `{name}`")))
    }

    fn set_cable(&mut self, exit: Exit, link: LinkConfig) -> Result<(), LabError> {
        let cable = Cable { up: link, down: link };
        let links = links(&cable, &mut self.seed)?;
        self.order(Order::Cable(exit, Box::new(links)))
    }

    fn order(&self, order: Order) -> Result<(), LabError> {
        let ended = || io::Error::other("the lab's thread has ended");
        self.orders
            .send(order)
            .map_err(|_| ended())
            .and_then(|()| self.bell.write(1).map_err(io::Error::from))
            .map(|_| ())
            .map_err(LabError::system("giving an order to the lab"))
    }

    /// The last events, oldest first: at most 10,000.
    pub fn events(&self) -> Vec<Timed> {
        self.log.kept()
    }

    /// What happened so far, and how late packets were.
    ///
    /// # Errors
    /// When the lab's thread has ended.
    pub fn report(&self) -> Result<Report, LabError> {
        let (sender, receiver) = mpsc::channel();
        self.order(Order::Report(sender))?;
        receiver
            .recv_timeout(PATIENCE)
            .map_err(io::Error::other)
            .map_err(LabError::system("asking the lab for its report"))
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab")
            .field("id", &self.claim.id())
            .field("hosts", &self.hosts.keys())
            .finish_non_exhaustive()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // First the programs, so that none of them sees the network break away.
        let inside = self.hosts.values().map(|host| &host.namespace);
        let inside = inside.chain(self.routers.iter().map(|router| &router.namespace));
        let inodes: Vec<u64> = inside.filter_map(|namespace| namespace.inode().ok()).collect();
        if let Err(error) = kill_inside(&inodes) {
            eprintln!("natlab: cannot end what runs in the lab: {error}");
        }
        self.log.write(|| Event::Stopped);
        // When its thread has ended already, that is what we want.
        let _ = self.order(Order::Stop);
        match self.fabric.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => (),
            Some(Ok(Err(error))) => eprintln!("natlab: the lab's thread failed: {error}"),
            Some(Err(_)) => eprintln!("natlab: the lab's thread panicked"),
        }
    }
}

fn publish(claim: &mut Claim, hosts: &BTreeMap<String, Host>) -> io::Result<()> {
    let mut records = BTreeMap::new();
    for (name, host) in hosts {
        let record = HostRecord { namespace: host.namespace.path(), inode: host.namespace.inode()? };
        records.insert(name.clone(), record);
    }
    claim.publish(records)
}

fn links(
    cable: &Cable,
    seed: &mut Seed,
) -> Result<(p2p_core::sim::link::Link, p2p_core::sim::link::Link), LabError> {
    fabric::links(cable, seed).map_err(|error| LabError::Cable(error.to_string()))
}

impl Parts {
    fn namespace(claim: &Claim, name: &str) -> Result<Namespace, LabError> {
        let full = is_privileged().then(|| claim.name(name));
        Namespace::new(full.as_deref()).map_err(LabError::system(format!("making the namespace of `{name}`")))
    }

    /// The gateways of a network: its first addresses, where somebody forwards.
    fn gateways(scenario: &Scenario, net: usize) -> Vec<IpAddr> {
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

    /// Only gateways of a family the interface has.
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
        self.ports.push(Port { name, tun, net, up, down });
        Ok(exit)
    }

    fn add_host(
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

    fn add_router(
        &mut self,
        index: usize,
        router: &Router,
        scenario: &Scenario,
        claim: &Claim,
        offload: bool,
    ) -> Result<Option<KernelRouter>, LabError> {
        match &router.kind {
            RouterKind::Simulated { v4, v6 } => {
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

    /// What a router does not translate is routed to it from outside, from as far as nobody else translates.
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
