//! The world: hosts, routers and links on one virtual clock.
//!
//! Routers make a tree. At its root is the Internet, a plain router that everybody's addresses are known to;
//! below it are home routers, carriers, more routers; hosts hang on routers. An address is known at the
//! router it was given below, and above that as far as the first NAT that translates.

mod build;
mod run;

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::dump::{Fate, Record, write_pcap};
use super::epoch;
pub use super::error::WorldError;
use super::host::{Host, HostEvent};
pub(super) use super::ids::EdgeId;
pub use super::ids::{HostId, NodeId, RouterId};
use super::link::{Link, LinkConfig};
use super::packet::Packet;
use super::router::{Router, RouterConfig};
use crate::Seed;

/// Both directions of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wire {
    /// Towards the Internet.
    pub up: LinkConfig,
    /// Away from it.
    pub down: LinkConfig,
}

impl From<LinkConfig> for Wire {
    fn from(both: LinkConfig) -> Self {
        Self { up: both, down: both }
    }
}

/// A perfect link of this one-way delay.
impl From<Duration> for Wire {
    fn from(latency: Duration) -> Self {
        LinkConfig::with_latency(latency).into()
    }
}

/// What runs on a host. It is woken by events and by time, and acts through its [`Context`].
pub trait Program: Any {
    /// Something happened on the host.
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>);

    /// The time of [`next_timeout`](Self::next_timeout) has come, or some other.
    fn handle_timeout(&mut self, _context: &mut Context<'_>) {}

    /// When the program wants to be woken.
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

/// What a program or a script may touch.
#[derive(Debug)]
pub struct Context<'a> {
    /// The host it runs on.
    pub host: &'a mut Host,
    /// The broker of this world.
    pub broker: &'a mut Broker<HostId>,
    /// Which host that is, as the broker knows it.
    pub id: HostId,
    /// Now.
    pub now: Instant,
}

type Act = Box<dyn FnOnce(&mut Context<'_>)>;

struct HostNode {
    host: Host,
    /// For each interface, its link.
    edges: Vec<EdgeId>,
    program: Option<Box<dyn Program>>,
}

enum Kind {
    Host(Box<HostNode>),
    Router(Box<Router>),
}

struct Vertex {
    kind: Kind,
    /// When it will be woken.
    wake: Option<Instant>,
}

struct Edge {
    lower: u32,
    upper: u32,
    up: Link,
    down: Link,
}

enum Happening {
    Arrival { node: u32, edge: Option<EdgeId>, packet: Packet },
    Wake(u32),
    Act(u32, Act),
    Broker,
}

/// When, which one of that time, and where in the slots.
type Queued = Reverse<(Instant, u64, u32)>;

/// What became of all packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorldCounters {
    /// Packets that hosts have sent.
    pub sent: u64,
    /// Packets that hosts have received.
    pub received: u64,
    /// Packets that went no further than a router or a link.
    pub lost: u64,
}

/// A network in virtual time.
pub struct World {
    seed: Seed,
    now: Instant,
    nodes: Vec<Vertex>,
    edges: Vec<Edge>,
    queue: BinaryHeap<Queued>,
    slots: Vec<Option<Happening>>,
    empty_slots: Vec<u32>,
    sequence: u64,
    broker: Broker<HostId>,
    broker_wake: Option<Instant>,
    records: Vec<Record>,
    most_records: usize,
    counters: WorldCounters,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now.saturating_duration_since(epoch()))
            .field("nodes", &self.nodes.len())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world with nothing but the Internet, at [`epoch`], with a broker that takes no time.
    pub fn new(mut seed: Seed) -> Self {
        let internet = Router::new(RouterConfig::new("internet"), None, seed.fork("internet"))
            .expect("a router without NAT cannot be wrong");
        let broker = Broker::new(LinkConfig::default(), seed.fork("broker"))
            .expect("the default link cannot be wrong");
        Self {
            seed,
            now: epoch(),
            nodes: vec![Vertex { kind: Kind::Router(Box::new(internet)), wake: None }],
            edges: Vec::new(),
            queue: BinaryHeap::new(),
            slots: Vec::new(),
            empty_slots: Vec::new(),
            sequence: 0,
            broker,
            broker_wake: None,
            records: Vec::new(),
            most_records: 0,
            counters: WorldCounters::default(),
        }
    }

    /// The Internet.
    pub fn internet(&self) -> RouterId {
        RouterId(0)
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How long this world has been running.
    pub fn elapsed(&self) -> Duration {
        self.now.saturating_duration_since(epoch())
    }

    /// What became of all packets so far.
    pub fn counters(&self) -> WorldCounters {
        self.counters
    }

    /// Replaces the broker by one that treats messages like this. Subscriptions are gone.
    ///
    /// # Errors
    /// When the configuration is impossible.
    pub fn set_broker(&mut self, config: LinkConfig) -> Result<(), WorldError> {
        self.broker = Broker::new(config, self.seed.fork("broker"))?;
        Ok(())
    }

    /// Runs a program on a host from now on, in place of the one that ran there.
    pub fn run(&mut self, host: HostId, program: impl Program) {
        self.host_node_mut(host).program = Some(Box::new(program));
        self.settle_host(host.0);
    }

    /// The program of a host, if it is of this type.
    pub fn program<P: Program>(&self, host: HostId) -> Option<&P> {
        let program: &dyn Any = self.host_node(host).program.as_deref()?;
        program.downcast_ref()
    }

    fn host_node(&self, id: HostId) -> &HostNode {
        match &self.nodes[id.0 as usize].kind {
            Kind::Host(node) => node,
            Kind::Router(_) => unreachable!("a HostId is made for hosts only"),
        }
    }

    fn host_node_mut(&mut self, id: HostId) -> &mut HostNode {
        match &mut self.nodes[id.0 as usize].kind {
            Kind::Host(node) => node,
            Kind::Router(_) => unreachable!("a HostId is made for hosts only"),
        }
    }

    /// A host.
    ///
    /// # Panics
    /// Here and elsewhere when the handle is of another world.
    pub fn host(&self, id: HostId) -> &Host {
        &self.host_node(id).host
    }

    /// A router.
    pub fn router(&self, id: RouterId) -> &Router {
        match &self.nodes[id.0 as usize].kind {
            Kind::Router(router) => router,
            Kind::Host(_) => unreachable!("a RouterId is made for routers only"),
        }
    }

    fn router_mut(&mut self, id: RouterId) -> &mut Router {
        match &mut self.nodes[id.0 as usize].kind {
            Kind::Router(router) => router,
            Kind::Host(_) => unreachable!("a RouterId is made for routers only"),
        }
    }

    /// Keeps a record of each packet at each node from now on, `most` at most; zero for none.
    pub fn set_recording(&mut self, most: usize) {
        self.most_records = most;
    }

    /// What was recorded.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    fn record(&mut self, node: u32, fate: Fate, packet: Packet) {
        if self.records.len() < self.most_records {
            self.records.push(Record { at: self.now, node: NodeId(node), fate, packet });
        }
    }

    fn record_ref(&mut self, node: u32, fate: Fate, packet: &Packet) {
        if self.records.len() < self.most_records {
            self.record(node, fate, packet.clone());
        }
    }

    /// The name of a node.
    pub fn name(&self, node: impl Into<NodeId>) -> &str {
        match &self.nodes[node.into().0 as usize].kind {
            Kind::Host(node) => node.host.name(),
            Kind::Router(router) => router.name(),
        }
    }

    /// All that was recorded, a line for each event.
    pub fn story(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            for record in &self.records {
                writeln!(f, "{}", record.line(self.name(record.node)))?;
            }
            Ok(())
        })
    }

    /// What was recorded at one node, as a pcap file.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_pcap(&self, node: impl Into<NodeId>, out: &mut impl io::Write) -> io::Result<()> {
        let node = node.into();
        write_pcap(out, self.records.iter().filter(|record| record.node == node))
    }
}
