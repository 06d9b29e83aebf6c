//! A whole [`Node`] on a simulated host.
//!
//! [`NodeRunner`] is to the simulated world what the actors of `p2p-actors` are to a real system: it owns sockets, timers
//! and channels, and decides nothing. Nothing is faked: proofs, seals, sessions with brokers, questions to STUN and NTP
//! servers and circuits are those of a real node. What differs is the wire between a session and its broker (see
//! [`BrokerServer`](super::broker::BrokerServer)), and that TLS takes no round trips.
//!
//! | part | what it is |
//! |---|---|
//! | `sockets` | the sockets of the host, and what each is for |
//! | `connection` | connections by their numbers, and those of the user ([`KeptPipe`]) |
//! | `channel` | the session with a broker, over a connection |
//! | `circuit` | a relayed connection with its sockets |
//! | `time` | the NTP client with its sockets |
//! | `names` | what the host can look up |

mod act;
mod channel;
mod circuit;
mod connection;
mod event;
mod names;
mod sockets;
mod subject;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use channel::BrokerChannel;
pub(crate) use circuit::CircuitDriver;
#[cfg(test)]
pub(crate) use circuit::CircuitNews;
use connection::DrivenConnection;
pub use connection::KeptPipe;
pub(crate) use connection::{ReadResult, read_tcp};
pub use names::Names;
pub(crate) use sockets::HostSockets;
#[cfg(test)]
pub(crate) use sockets::UdpUse;
pub(crate) use sockets::{Meaning, TcpUse, dial_error, local_error};
pub use subject::NodeSubject;
use time::TimeClient;

use super::host::HostEvent;
use super::ntp::true_time;
use super::world::{Context, Program};
use crate::attempt::AttemptId;
use crate::clock::ntp::Report as NtpReport;
use crate::node::{
    ChannelId, CircuitEvent, ConfigFault, ConnectError, ConnectOptions, ConnectionId, Event, Nic, NicAddress,
    NicId, Node, NodeConfig, Owner, SocketEvent, StunServer,
};
use crate::peer::{BrokerUrl, PeerAddr, PeerId};
use crate::proof::Claim;
use crate::signal::link::Event as ChannelEvent;
use crate::turn::Server as TurnRelay;
use crate::{Clock, Machine, Output, Reach, Seed, UnixTime};

/// What a machine knows beside its sockets.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The microseconds by which its clock is ahead of the true time.
    pub ahead: i64,
    /// The names it can look up.
    pub names: Names,
}

/// A call of the user's, and what came of it.
#[derive(Debug)]
pub struct CallRecord {
    /// When it began.
    pub began: Instant,
    /// When it ended, and the number of the pipe it led to, or the reason why it led to none.
    pub outcome: Option<(Instant, Result<usize, ConnectError>)>,
}

/// Turns a [`Node`] with the sockets, the clock and the names of its host.
#[derive(Debug)]
pub struct NodeRunner {
    node: Node,
    surroundings: Surroundings,
    seed: Seed,
    sockets: HostSockets,
    connections: BTreeMap<ConnectionId, DrivenConnection>,
    next_connection: u64,
    channels: BTreeMap<ChannelId, (BrokerChannel, BrokerUrl)>,
    circuits: BTreeMap<AttemptId, CircuitDriver>,
    time: Option<TimeClient>,
    inputs: VecDeque<NodeInput>,
    /// What takes its time, by when it is there.
    later: BTreeMap<(Instant, u64), DelayedInput>,
    next_later: u64,
    wait: Option<Instant>,
    calls: BTreeMap<AttemptId, CallRecord>,
    pipes: Vec<KeptPipe>,
    is_closed: bool,
}

/// Something to be told to the node.
#[derive(Debug)]
enum NodeInput {
    Socket(Owner, SocketEvent),
    Channel(ChannelId, ChannelEvent),
    ChannelClosed(ChannelId),
    Circuit(AttemptId, CircuitEvent),
    Resolved(NicId, StunServer, Result<Vec<SocketAddr>, String>),
    TurnServers(Vec<TurnRelay>, Vec<String>),
    Nics(Vec<Nic>),
    Clock(Clock),
    Ntp(NtpReport),
    /// The user has taken an accepted connection.
    Taken(Claim),
    /// The user has let go of an accepted connection.
    PipeClosed(PeerId),
}

/// Something that takes its time.
#[derive(Debug)]
enum DelayedInput {
    Input(NodeInput),
    Channel(ChannelId, Result<Vec<SocketAddr>, String>),
    Ntp(usize, Result<Vec<SocketAddr>, String>),
}

impl NodeRunner {
    /// Starts a node on the host of `context`. Run it there at once by [`World::run`](super::world::World::run).
    ///
    /// # Errors
    /// [`ConfigFault`], as a real node's.
    pub fn start(
        config: NodeConfig,
        surroundings: Surroundings,
        mut seed: Seed,
        context: &mut Context<'_>,
    ) -> Result<Self, ConfigFault> {
        let nics = nics(context);
        let clock = clock(&surroundings, context.now);
        let node = Node::new(config, &nics, clock, seed.fork("node"), context.now)?;
        let mut runner = Self {
            node,
            surroundings,
            seed,
            sockets: HostSockets::default(),
            connections: BTreeMap::new(),
            next_connection: 1,
            channels: BTreeMap::new(),
            circuits: BTreeMap::new(),
            time: None,
            inputs: VecDeque::new(),
            later: BTreeMap::new(),
            next_later: 0,
            wait: None,
            calls: BTreeMap::new(),
            pipes: Vec::new(),
            is_closed: false,
        };
        runner.turn(context);
        Ok(runner)
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Has something done by the node, and does what it wants.
    pub fn with<T>(&mut self, context: &mut Context<'_>, act: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let result = act(&mut self.node, context.now);
        self.turn(context);
        result
    }

    /// Begins to connect to a peer.
    ///
    /// # Errors
    /// [`ConnectError`], as [`Node::connect`].
    pub fn connect(
        &mut self,
        peer: PeerAddr,
        options: ConnectOptions,
        context: &mut Context<'_>,
    ) -> Result<AttemptId, ConnectError> {
        let attempt = self.node.connect(peer, options, context.now)?;
        self.calls.insert(attempt, CallRecord { began: context.now, outcome: None });
        self.turn(context);
        Ok(attempt)
    }

    /// Returns what came of a call.
    pub fn call(&self, attempt: AttemptId) -> Option<&CallRecord> {
        self.calls.get(&attempt)
    }

    /// Returns the connections of the user, those it has let go of included.
    pub fn pipes(&self) -> &[KeptPipe] {
        &self.pipes
    }

    /// Says something to the other end of a pipe.
    pub fn say(&mut self, pipe: usize, bytes: &[u8], context: &mut Context<'_>) {
        if let Some(connection) = self.pipes.get(pipe).map(|pipe| pipe.connection) {
            self.write(connection, bytes, context);
            self.turn(context);
        }
    }

    /// Lets go of a pipe.
    pub fn hang_up(&mut self, pipe: usize, context: &mut Context<'_>) {
        if let Some(connection) = self.pipes.get(pipe).map(|pipe| pipe.connection) {
            self.let_go(connection, context);
            self.turn(context);
        }
    }

    /// Tells the node of the interfaces as they are now, as systems do when one changes.
    pub fn tell_nics(&mut self, context: &mut Context<'_>) {
        self.inputs.push_back(NodeInput::Nics(nics(context)));
        self.turn(context);
    }

    /// Sets the clock of the machine. The node sees it when it looks next.
    pub fn set_clock(&mut self, ahead: i64) {
        self.surroundings.ahead = ahead;
    }

    /// Returns the names the machine can look up, to change them.
    pub fn names_mut(&mut self) -> &mut Names {
        &mut self.surroundings.names
    }

    /// Returns every target that a dial or a datagram of this node's was ever sent to, and how many were.
    pub fn reached(&self) -> &BTreeMap<SocketAddr, u64> {
        self.sockets.reached()
    }

    /// Returns the sockets it has open.
    pub fn sockets(&self) -> usize {
        self.sockets.count()
    }

    /// Tells whether the node was closed and has said its last word.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Does all that the node and the machines beside it want, until they rest.
    fn turn(&mut self, context: &mut Context<'_>) {
        for _ in 0..MOST_STEPS {
            self.drain(context);
            match self.inputs.pop_front() {
                Some(input) => self.feed(input, context.now),
                None => return,
            }
        }
        panic!("a node comes to rest");
    }

    fn drain(&mut self, context: &mut Context<'_>) {
        for _ in 0..MOST_STEPS {
            match self.node.poll_output() {
                Output::Act(act) => self.act(act, context),
                Output::Event(event) => self.on_event(event, context),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return;
                }
            }
        }
        panic!("a drain ends");
    }

    fn on_event(&mut self, event: Event, context: &mut Context<'_>) {
        match event {
            Event::Connected { attempt, established, .. } => {
                let pipe = self.pipes.len();
                self.hand_over(*established, context);
                if let Some(call) = self.calls.get_mut(&attempt) {
                    call.outcome = Some((context.now, Ok(pipe)));
                }
            }
            Event::Accepted { established, .. } => {
                let claim = established.session.claim;
                self.hand_over(*established, context);
                self.inputs.push_back(NodeInput::Taken(claim));
            }
            Event::Failed { attempt, error } => {
                if let Some(call) = self.calls.get_mut(&attempt) {
                    call.outcome = Some((context.now, Err(error)));
                }
            }
            Event::Status => {}
            Event::Closed => {
                self.is_closed = true;
                if let Some(mut time) = self.time.take() {
                    time.close(&mut self.sockets, context);
                }
            }
        }
    }

    fn feed(&mut self, input: NodeInput, now: Instant) {
        match input {
            NodeInput::Socket(owner, event) => self.node.handle_socket(owner, event, now),
            NodeInput::Channel(channel, event) => self.node.handle_channel(channel, event, now),
            NodeInput::ChannelClosed(channel) => self.node.handle_channel_closed(channel, now),
            NodeInput::Circuit(attempt, event) => self.node.handle_circuit(attempt, event, now),
            NodeInput::Resolved(nic, server, found) => self.node.handle_resolved(nic, server, found, now),
            NodeInput::TurnServers(servers, useless) => {
                self.node.handle_turn_servers(&servers, &useless, now)
            }
            NodeInput::Nics(nics) => self.node.handle_nics(&nics, now),
            NodeInput::Clock(clock) => self.node.handle_clock(clock, now),
            NodeInput::Ntp(report) => self.node.handle_ntp(report, now),
            NodeInput::PipeClosed(peer) => self.node.handle_pipe_closed(&peer),
            NodeInput::Taken(claim) => self.node.handle_taken(&claim),
        }
    }

    fn later(&mut self, at: Instant, what: DelayedInput) {
        self.next_later += 1;
        self.later.insert((at, self.next_later), what);
    }
}

impl Program for NodeRunner {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            HostEvent::Datagram { socket, from, payload, .. } => {
                self.on_datagram(socket, from, payload, context);
            }
            HostEvent::Unreachable { socket, to, kind } => self.on_unreachable(socket, to, kind, context),
            HostEvent::EchoReply { .. } | HostEvent::Signal { .. } => {}
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.on_timeout(context);
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        let channels = self.channels.values().filter_map(|(channel, _)| channel.wait());
        let circuits = self.circuits.values().filter_map(CircuitDriver::wait);
        let time = self.time.as_ref().and_then(TimeClient::wait);
        channels.chain(circuits).chain(time).chain(later).chain(self.wait).min()
    }
}

/// Several nodes on one host.
#[derive(Debug)]
pub struct HostNodes(pub Vec<NodeRunner>);

impl Program for HostNodes {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        for runner in &mut self.0 {
            runner.handle_event(event.clone(), context);
        }
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        for runner in &mut self.0 {
            runner.handle_timeout(context);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.0.iter().filter_map(NodeRunner::next_timeout).min()
    }
}

/// Returns the interfaces of a host that have an address, as its system would tell of them.
fn nics(context: &Context<'_>) -> Vec<Nic> {
    let nic = |index: usize| {
        let mut addresses: Vec<NicAddress> = context
            .host
            .addresses(index)
            .iter()
            .map(|ip| NicAddress { ip: *ip, prefix: prefix(*ip), scope: 0 })
            .collect();
        addresses.sort();
        Nic {
            name: format!("eth{index}"),
            index: index as u32 + 1,
            addresses,
            is_loopback: false,
            is_up: true,
            gateways: Vec::new(),
        }
    };
    (0..context.host.interface_count()).map(nic).filter(|nic| !nic.addresses.is_empty()).collect()
}

/// Returns the prefix length of the network an address is in.
fn prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) if Reach::of(ip) == Reach::Site => 24,
        // Public addresses are given out one by one.
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 64,
    }
}

fn clock(surroundings: &Surroundings, now: Instant) -> Clock {
    let shown = true_time(now).0.saturating_add_signed(surroundings.ahead);
    Clock::new(now, UnixTime(shown))
}

/// Inputs and outputs of one turn at most.
const MOST_STEPS: usize = 100_000;
