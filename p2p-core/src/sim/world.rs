//! The world: hosts, routers and links on one virtual clock.
//!
//! Routers make a tree. At its root is the Internet, a plain router that everybody's addresses are known to;
//! below it are home routers, carriers, more routers; hosts hang on routers. An address is known at the
//! router it was given below, and above that as far as the first NAT that translates.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::broker::Broker;
use super::dump::{Fate, Loss, Record, write_pcap};
use super::epoch;
use super::host::{Host, HostEvent};
use super::link::{Link, LinkConfig, LinkConfigError, Sent};
use super::nat::NatConfigError;
use super::packet::Packet;
use super::router::{Router, RouterConfig};
use super::tcp::TcpTimers;
use crate::{Family, Seed};

/// A packet to an address of the host itself takes so long.
const LOOPBACK: Duration = Duration::from_micros(20);
/// Most packets, timers and scripted acts that wait for their time.
const MOST_QUEUED: usize = 1 << 20;

/// A node of a world, in the order of making; 0 is the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// A host of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u32);

/// A router of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(u32);

impl From<HostId> for NodeId {
    fn from(host: HostId) -> Self {
        Self(host.0)
    }
}

impl From<RouterId> for NodeId {
    fn from(router: RouterId) -> Self {
        Self(router.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EdgeId(u32);

/// A world that cannot be: the fault of who builds it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WorldError {
    /// An impossible NAT.
    #[error(transparent)]
    Nat(#[from] NatConfigError),
    /// An impossible link.
    #[error(transparent)]
    Link(#[from] LinkConfigError),
    /// Two owners of one address on one network.
    #[error("address {0} is taken already on this network")]
    AddressTaken(IpAddr),
    /// The NAT of one family has an address of the other.
    #[error("{ip} is an external address of the {family} NAT, but of the other family")]
    Family {
        /// The family of the NAT.
        family: Family,
        /// The address.
        ip: IpAddr,
    },
    /// The router has nothing for that family.
    #[error("the router has no NAT for {0}")]
    NoNat(Family),
}

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

struct Node {
    kind: Kind,
    /// When the node will be woken.
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

/// How a packet leaves a host.
enum Way {
    Link(EdgeId),
    /// To the host itself.
    Loopback,
    None,
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
    nodes: Vec<Node>,
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
            nodes: vec![Node { kind: Kind::Router(Box::new(internet)), wake: None }],
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

    /// Adds a router below another.
    ///
    /// # Errors
    /// When it cannot be, or one of its external addresses is taken; nothing is added then.
    pub fn add_router(
        &mut self,
        config: RouterConfig,
        above: RouterId,
        wire: impl Into<Wire>,
    ) -> Result<RouterId, WorldError> {
        let seed = self.seed.fork("router");
        let edge = EdgeId(self.edges.len() as u32);
        let router = Router::new(config, Some(edge), seed)?;
        let nats = [Family::V4, Family::V6].into_iter().filter_map(|family| router.nat(family));
        let external: Vec<IpAddr> = nats.flat_map(|nat| nat.config().external.clone()).collect();
        let id = self.nodes.len() as u32;
        self.connect(id, above, &external, wire.into())?;
        self.nodes.push(Node { kind: Kind::Router(Box::new(router)), wake: None });
        Ok(RouterId(id))
    }

    /// Adds a host without interfaces, with the TCP of a current Linux.
    pub fn add_host(&mut self, name: &str) -> HostId {
        self.add_host_with(name, TcpTimers::default())
    }

    /// Adds a host without interfaces.
    pub fn add_host_with(&mut self, name: &str, timers: TcpTimers) -> HostId {
        let host = Host::new(name, timers, self.seed.fork("host"));
        self.nodes.push(Node {
            kind: Kind::Host(Box::new(HostNode { host, edges: Vec::new(), program: None })),
            wake: None,
        });
        HostId(self.nodes.len() as u32 - 1)
    }

    /// Gives a host an interface below a router; its number.
    ///
    /// # Errors
    /// When an address is taken on that network, or the link cannot be; nothing is changed then.
    pub fn attach(
        &mut self,
        host: HostId,
        above: RouterId,
        addresses: &[IpAddr],
        wire: impl Into<Wire>,
    ) -> Result<usize, WorldError> {
        let edge = EdgeId(self.edges.len() as u32);
        self.connect(host.0, above, addresses, wire.into())?;
        let node = self.host_node_mut(host);
        node.edges.push(edge);
        Ok(node.host.add_interface(addresses.to_vec()))
    }

    fn connect(
        &mut self,
        lower: u32,
        above: RouterId,
        known: &[IpAddr],
        wire: Wire,
    ) -> Result<(), WorldError> {
        let edge = EdgeId(self.edges.len() as u32);
        let up = Link::new(wire.up, self.seed.fork("up"))?;
        let down = Link::new(wire.down, self.seed.fork("down"))?;
        for (index, ip) in known.iter().enumerate() {
            if known[..index].contains(ip) || self.ways_down(*ip, above, edge).any(|(_, way)| way.is_some()) {
                return Err(WorldError::AddressTaken(*ip));
            }
        }
        self.edges.push(Edge { lower, upper: above.0, up, down });
        for ip in known {
            self.announce(*ip, above, edge);
        }
        Ok(())
    }

    /// Each router that knows `ip` when it is below `edge` of `router`: the way it takes now, if any.
    fn ways_down(
        &self,
        ip: IpAddr,
        router: RouterId,
        edge: EdgeId,
    ) -> impl Iterator<Item = ((RouterId, EdgeId), Option<EdgeId>)> {
        let mut next = Some((router, edge));
        std::iter::from_fn(move || {
            let (id, edge) = next?;
            let router = self.router(id);
            next = match router.uplink {
                Some(uplink) if !router.hides(Family::of(ip)) => {
                    Some((RouterId(self.edges[uplink.0 as usize].upper), uplink))
                }
                _ => None,
            };
            Some(((id, edge), router.below.get(&ip).copied()))
        })
    }

    fn announce(&mut self, ip: IpAddr, router: RouterId, edge: EdgeId) {
        let ways: Vec<_> = self.ways_down(ip, router, edge).map(|(way, _)| way).collect();
        for (router, edge) in ways {
            self.router_mut(router).below.insert(ip, edge);
        }
    }

    fn withdraw(&mut self, ip: IpAddr, router: RouterId, edge: EdgeId) {
        let ways: Vec<_> = self.ways_down(ip, router, edge).map(|(way, _)| way).collect();
        for (router, _) in ways {
            self.router_mut(router).below.remove(&ip);
        }
    }

    /// Pulls the cables of a host: what is for it finds no way, what it sends is lost.
    pub fn detach(&mut self, host: HostId) {
        let node = self.host_node_mut(host);
        let edges = std::mem::take(&mut node.edges);
        let addresses: Vec<_> = (0..edges.len()).map(|index| node.host.addresses(index).to_vec()).collect();
        for (edge, addresses) in edges.into_iter().zip(addresses) {
            let above = RouterId(self.edges[edge.0 as usize].upper);
            for ip in addresses {
                self.withdraw(ip, above, edge);
            }
        }
    }

    /// Sends a packet of any content from a host, its own sockets aside: forgeries, scans, noise.
    pub fn inject(&mut self, host: HostId, packet: Packet) {
        if let Some(edge) = self.host_node(host).edges.first().copied() {
            self.record_ref(host.0, Fate::Sent, &packet);
            self.transmit(host.0, edge, packet);
        }
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

    /// Switches a router off and on.
    pub fn reboot(&mut self, router: RouterId) {
        for family in [Family::V4, Family::V6] {
            if let Some(nat) = self.router_mut(router).nat_mut(family) {
                nat.reboot();
            }
        }
    }

    /// Gives a NAT other external addresses.
    ///
    /// # Errors
    /// When there is no such NAT, or it cannot have these addresses; nothing is changed then.
    pub fn renumber(&mut self, router: RouterId, external: Vec<IpAddr>) -> Result<(), WorldError> {
        let family = external.first().map_or(Family::V4, |ip| Family::of(*ip));
        let (Some(nat), Some(uplink)) = (self.router(router).nat(family), self.router(router).uplink) else {
            return Err(WorldError::NoNat(family));
        };
        let old = nat.config().external.clone();
        let above = RouterId(self.edges[uplink.0 as usize].upper);
        for ip in external.iter().filter(|ip| !old.contains(ip)) {
            if self.ways_down(*ip, above, uplink).any(|(_, way)| way.is_some()) {
                return Err(WorldError::AddressTaken(*ip));
            }
        }
        if let Some(nat) = self.router_mut(router).nat_mut(family) {
            nat.renumber(external.clone())?;
        }
        for ip in old {
            self.withdraw(ip, above, uplink);
        }
        for ip in external {
            self.announce(ip, above, uplink);
        }
        Ok(())
    }

    /// Lets a script act on a host now.
    pub fn with<T>(&mut self, host: HostId, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let now = self.now;
        let Kind::Host(node) = &mut self.nodes[host.0 as usize].kind else {
            unreachable!("a HostId is made for hosts only")
        };
        let mut context = Context { host: &mut node.host, broker: &mut self.broker, id: host, now };
        let result = act(&mut context);
        self.settle_host(host.0);
        result
    }

    /// Lets a script act on a host later; at once when that time has passed.
    pub fn at(&mut self, when: Instant, host: HostId, act: impl FnOnce(&mut Context<'_>) + 'static) {
        self.push(when.max(self.now), Happening::Act(host.0, Box::new(act)));
    }

    /// Does the next thing that happens; when it was, or `None` when nothing will.
    pub fn step(&mut self) -> Option<Instant> {
        let Reverse((at, _, slot)) = self.queue.pop()?;
        self.now = at;
        let happening = self.slots[slot as usize].take();
        self.empty_slots.push(slot);
        match happening {
            Some(Happening::Arrival { node, edge, packet }) => self.arrive(node, edge, packet),
            Some(Happening::Wake(node)) => self.wake(node),
            Some(Happening::Act(host, act)) => self.with(HostId(host), act),
            Some(Happening::Broker) => self.deliver_signals(),
            None => (),
        }
        Some(at)
    }

    /// Lets everything happen up to and including `until`; then it is `until`.
    pub fn run_until(&mut self, until: Instant) {
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Lets things happen until `done`, or until a time has come; whether it is done.
    pub fn run_until_done(&mut self, until: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        while !done(self) {
            if self.queue.peek().is_none_or(|Reverse((at, ..))| *at > until) {
                self.now = self.now.max(until);
                return done(self);
            }
            self.step();
        }
        true
    }

    /// How much waits for its time.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        let slot = match self.empty_slots.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(happening);
                slot
            }
            None => {
                self.slots.push(Some(happening));
                self.slots.len() as u32 - 1
            }
        };
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, slot)));
    }

    fn arrive(&mut self, node: u32, edge: Option<EdgeId>, mut packet: Packet) {
        let now = self.now;
        match (&mut self.nodes[node as usize].kind, edge) {
            (Kind::Host(host), _) => {
                let taken = host.host.handle_packet(&packet, now);
                self.counters.received += u64::from(taken);
                let fate = if taken { Fate::Received } else { dropped(Loss::NotMine) };
                self.record(node, fate, packet);
                self.settle_host(node);
            }
            (Kind::Router(router), Some(edge)) => {
                let decision = router.handle_packet(edge, &mut packet, now);
                let late = router.next_timeout();
                self.record_ref(node, decision.fate, &packet);
                self.counters.lost += u64::from(decision.forward.is_none());
                if let Some(to) = decision.forward {
                    self.transmit(node, to, packet);
                }
                if let Some((to, answer)) = decision.answer {
                    self.record_ref(node, Fate::Sent, &answer.into());
                    self.transmit(node, to, answer.into());
                }
                self.schedule(node, late);
            }
            (Kind::Router(_), None) => (),
        }
    }

    /// Puts a packet on a link.
    fn transmit(&mut self, from: u32, over: EdgeId, packet: Packet) {
        let edge = &mut self.edges[over.0 as usize];
        let (link, to) =
            if edge.lower == from { (&mut edge.up, edge.upper) } else { (&mut edge.down, edge.lower) };
        let sent = link.send(packet.header.wire_len(), self.now);
        let over = Some(over);
        match sent {
            Sent::Never(why) => self.lose(from, why.into(), packet),
            _ if self.queue.len() >= MOST_QUEUED => self.lose(from, Loss::TooMany, packet),
            Sent::Once(at) => self.push(at, Happening::Arrival { node: to, edge: over, packet }),
            Sent::Twice(first, second) => {
                for (at, packet) in [(first, packet.clone()), (second, packet)] {
                    self.push(at, Happening::Arrival { node: to, edge: over, packet });
                }
            }
        }
    }

    fn lose(&mut self, node: u32, why: Loss, packet: Packet) {
        self.counters.lost += 1;
        self.record(node, dropped(why), packet);
    }

    fn wake(&mut self, node: u32) {
        let now = self.now;
        if self.nodes[node as usize].wake.is_none_or(|at| at > now) {
            return;
        }
        self.nodes[node as usize].wake = None;
        match &mut self.nodes[node as usize].kind {
            Kind::Host(host) => {
                host.host.handle_timeout(now);
                if let Some(program) = &mut host.program
                    && program.next_timeout().is_some_and(|at| at <= now)
                {
                    program.handle_timeout(&mut Context {
                        host: &mut host.host,
                        broker: &mut self.broker,
                        id: HostId(node),
                        now,
                    });
                }
                self.settle_host(node);
            }
            Kind::Router(router) => {
                let uplink = router.uplink;
                let mut answers = Vec::new();
                while let Some(answer) = router.poll_answer(now) {
                    answers.push(answer);
                }
                let next = router.next_timeout();
                for answer in answers {
                    self.record_ref(node, Fate::Sent, &answer.into());
                    if let Some(uplink) = uplink {
                        self.transmit(node, uplink, answer.into());
                    }
                }
                self.schedule(node, next);
            }
        }
    }

    /// Makes sure that a node is woken in time.
    fn schedule(&mut self, node: u32, at: Option<Instant>) {
        let Some(at) = at.map(|at| at.max(self.now)) else {
            return;
        };
        let wake = &mut self.nodes[node as usize].wake;
        if wake.is_none_or(|planned| at < planned) {
            *wake = Some(at);
            self.push(at, Happening::Wake(node));
        }
    }

    /// Carries out what a host wants, until it wants no more.
    fn settle_host(&mut self, node: u32) {
        let now = self.now;
        let next = loop {
            while let Some((packet, over)) = self.next_packet(node) {
                self.counters.sent += 1;
                self.record_ref(node, Fate::Sent, &packet);
                match over {
                    Way::Link(edge) => self.transmit(node, edge, packet),
                    Way::Loopback => {
                        self.push(now + LOOPBACK, Happening::Arrival { node, edge: None, packet })
                    }
                    Way::None => self.lose(node, Loss::NoRoute, packet),
                }
            }
            let Kind::Host(host) = &mut self.nodes[node as usize].kind else {
                return;
            };
            let Some(program) = &mut host.program else {
                break host.host.next_timeout();
            };
            let Some(event) = host.host.poll_event() else {
                let timers = [host.host.next_timeout(), program.next_timeout()];
                break timers.into_iter().flatten().min();
            };
            program.handle_event(
                event,
                &mut Context { host: &mut host.host, broker: &mut self.broker, id: HostId(node), now },
            );
        };
        self.schedule(node, next);
        self.schedule_broker();
    }

    /// The next packet of a host, and how it leaves.
    fn next_packet(&mut self, node: u32) -> Option<(Packet, Way)> {
        let Kind::Host(host) = &mut self.nodes[node as usize].kind else {
            return None;
        };
        let packet = host.host.poll_packet()?;
        let header = &packet.header;
        if host.host.interface_of(header.dst.ip()).is_some() {
            return Some((packet, Way::Loopback));
        }
        let interface = host.host.interface_of(header.src.ip());
        let edge = interface.and_then(|interface| host.edges.get(interface).copied());
        Some((packet, edge.map_or(Way::None, Way::Link)))
    }

    fn schedule_broker(&mut self) {
        let Some(at) = self.broker.next_delivery().map(|at| at.max(self.now)) else {
            return;
        };
        if self.broker_wake.is_none_or(|planned| at < planned) {
            self.broker_wake = Some(at);
            self.push(at, Happening::Broker);
        }
    }

    fn deliver_signals(&mut self) {
        self.broker_wake = None;
        while let Some(delivery) = self.broker.poll_delivery(self.now) {
            let host = delivery.client;
            self.host_node_mut(host)
                .host
                .push(HostEvent::Signal { topic: delivery.topic, payload: delivery.payload });
            self.settle_host(host.0);
        }
        self.schedule_broker();
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

fn dropped(why: Loss) -> Fate {
    Fate::Dropped { why, answered: false }
}
