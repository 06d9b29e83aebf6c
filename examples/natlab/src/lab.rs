//! A running lab.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use nix::sys::eventfd::{EfdFlags, EventFd};
use p2p_core::Seed;
use p2p_core::sim::link::LinkConfig;

use crate::assembly::{Exits, Parts, links};
use crate::error::LabError;
use crate::event::{Event, Log, Timed};
use crate::fabric::{Exit, Fabric, Order, Report, Routes};
use crate::host::Host;
use crate::kernel_router::KernelRouter;
use crate::namespace::kill_inside;
use crate::pcap::Captures;
use crate::registry::{Claim, HostRecord};
use crate::scenario::{Cable, Scenario};

/// The most time for the fabric to answer its owner.
const PATIENCE: Duration = Duration::from_secs(10);

/// The options of a lab besides carrying packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabOptions {
    /// The folder to write the packets of each device to, if any.
    pub pcap: Option<PathBuf>,
    /// The file to write events to, one JSON object a line, if any.
    pub events: Option<PathBuf>,
    /// True to let the hosts' kernels hand over TCP segments of up to 64 kB. That gives several times the throughput.
    /// But a cable then loses or delays such a segment, not a packet.
    pub offload: bool,
}

/// Hosts in network namespaces, behind simulated routers. Dropping the lab ends everything that runs inside and
/// leaves nothing behind.
pub struct Lab {
    // The fields are in the order in which they must be dropped.
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

impl Lab {
    /// Makes the lab and starts to carry its packets.
    ///
    /// # Errors
    /// [`LabError`] when the system does not allow it, or a step fails. Then nothing is left of the lab.
    pub fn new(scenario: &Scenario) -> Result<Self, LabError> {
        Self::with_options(scenario, &LabOptions::default())
    }

    /// Makes a lab with options.
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

    /// Returns the id of this lab, which `natlab exec --lab` takes.
    pub fn id(&self) -> &str {
        self.claim.id()
    }

    /// Returns a host by its name.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when the scenario has no host of that name.
    pub fn host(&self, name: &str) -> Result<&Host, LabError> {
        self.hosts.get(name).ok_or_else(|| LabError::Unknown(format!("host `{name}`")))
    }

    /// Returns all hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Gives a host's interface (counted from zero) another cable, in both directions. Packets under way arrive as
    /// before.
    ///
    /// # Errors
    /// [`LabError`] when there is no such interface, or the cable is impossible.
    pub fn set_link(&mut self, host: &str, interface: usize, link: LinkConfig) -> Result<(), LabError> {
        let exits = self.exits.hosts.get(host).and_then(|exits| exits.get(interface));
        let exit =
            *exits.ok_or_else(|| LabError::Unknown(format!("interface {interface} of a host `{host}`")))?;
        self.set_cable(exit, link)
    }

    /// Gives a router another outer cable, in both directions.
    ///
    /// # Errors
    /// [`LabError`] when there is no such router, or the cable is impossible.
    pub fn set_uplink(&mut self, router: &str, link: LinkConfig) -> Result<(), LabError> {
        let exit = self.router(router)?;
        self.set_cable(exit, link)
    }

    /// Switches a simulated router off and on, so its mappings are gone.
    ///
    /// # Errors
    /// [`LabError`] when there is no simulated router of that name.
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

    /// Returns the last events, oldest first, at most 10,000.
    pub fn events(&self) -> Vec<Timed> {
        self.log.kept()
    }

    /// Returns the counts so far, and the lateness of packets.
    ///
    /// # Errors
    /// [`LabError`] when the lab's thread has ended.
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
        // The programs are ended first, so that none of them sees the network break.
        let inside = self.hosts.values().map(|host| &host.namespace);
        let inside = inside.chain(self.routers.iter().map(|router| &router.namespace));
        let inodes: Vec<u64> = inside.filter_map(|namespace| namespace.inode().ok()).collect();
        if let Err(error) = kill_inside(&inodes) {
            eprintln!("natlab: cannot end what runs in the lab: {error}");
        }
        self.log.write(|| Event::Stopped);
        // A thread that has ended already is as good as a stopped one.
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
