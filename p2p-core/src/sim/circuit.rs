//! A [`Circuit`] on a simulated host.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::host::HostEvent;
use super::tcp::{Failure, TcpEvent, TcpOptions, TcpSocket};
use super::udp::UdpSocket;
use super::world::{Context, Program};
use crate::attempt::Role;
use crate::relay::RelayOffer;
use crate::relay::circuit::{Act, Circuit, CircuitConfig, Event, Via, Way};
use crate::transport::Read;
use crate::turn::Carrier;
use crate::{Family, Machine, Output, Seed};

#[derive(Clone, Copy, Debug)]
enum Socket {
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpSocket),
}

/// Turns a [`Circuit`] with the sockets of its host: the caller from the start, the called one from the first offer.
/// What is to be said is said as soon as there is room, and what comes is read at once.
#[derive(Debug)]
pub struct CircuitRunner {
    config: CircuitConfig,
    seed: Seed,
    /// On which our offers come, and theirs.
    topics: [String; 2],
    circuit: Option<Circuit>,
    wait: Option<Instant>,
    sockets: BTreeMap<Way, Socket>,
    bare: BTreeMap<Family, UdpSocket>,
    dialling: BTreeMap<TcpSocket, SocketAddr>,
    to_say: VecDeque<u8>,
    /// Whether nothing follows what was said.
    is_finishing: bool,
    /// What the peer said on the stream.
    pub heard: Vec<u8>,
    /// The peer has said that nothing follows.
    pub is_ended: bool,
    /// Connections: the peer's through our server, and ours through the peer's.
    pub connections: Vec<TcpSocket>,
    /// What the machine told, and when.
    pub events: Vec<(Instant, Event)>,
    /// Notices sent.
    pub said: u32,
    /// Datagrams sent from sockets of our own, by their targets.
    pub bare_sent: BTreeMap<SocketAddr, u32>,
}

impl CircuitRunner {
    /// One end. Both ends name each other by `topics`: the own one first.
    pub fn new(config: CircuitConfig, topics: [&str; 2], seed: Seed) -> Self {
        Self {
            config,
            seed,
            topics: topics.map(str::to_owned),
            circuit: None,
            wait: None,
            sockets: BTreeMap::new(),
            bare: BTreeMap::new(),
            dialling: BTreeMap::new(),
            to_say: VecDeque::new(),
            is_finishing: false,
            heard: Vec::new(),
            is_ended: false,
            connections: Vec::new(),
            events: Vec::new(),
            said: 0,
            bare_sent: BTreeMap::new(),
        }
    }

    /// Subscribes, and begins if we are the caller.
    pub fn start(&mut self, context: &mut Context<'_>) {
        context.broker.subscribe(context.id, &self.topics[0]);
        if self.config.role == Role::Caller {
            self.begin(context.now);
            self.turn(context);
        }
    }

    /// Says this on the stream, now or when it is up.
    pub fn say(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        self.to_say.extend(bytes);
        self.turn(context);
    }

    /// Says that nothing follows.
    pub fn finish(&mut self, context: &mut Context<'_>) {
        self.is_finishing = true;
        self.turn(context);
    }

    /// Has something done by the machine.
    pub fn with<T>(
        &mut self,
        context: &mut Context<'_>,
        act: impl FnOnce(&mut Circuit, Instant) -> T,
    ) -> Option<T> {
        let result = self.circuit.as_mut().map(|circuit| act(circuit, context.now));
        self.turn(context);
        result
    }

    /// The machine, once there is one.
    pub fn circuit(&self) -> Option<&Circuit> {
        self.circuit.as_ref()
    }

    /// Whether the stream was told to be up.
    pub fn is_up(&self) -> bool {
        self.events.iter().any(|(_, event)| *event == Event::Up)
    }

    fn begin(&mut self, now: Instant) {
        self.circuit = Some(Circuit::new(self.config.clone(), self.seed.fork("circuit"), now));
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        loop {
            self.talk(context.now);
            let Some(circuit) = &mut self.circuit else { return };
            match circuit.poll_output() {
                Output::Act(act) => self.act(act, context),
                Output::Event(event) => {
                    if let Event::Arrived { way, .. } = &event
                        && let Some(Socket::Tcp(tcp)) = self.sockets.remove(way)
                    {
                        self.connections.push(tcp);
                    }
                    self.events.push((context.now, event));
                }
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return;
                }
            }
        }
    }

    /// Writes and reads what can be.
    fn talk(&mut self, now: Instant) {
        if !self.is_up() {
            return;
        }
        let Some(circuit) = &mut self.circuit else { return };
        while !self.to_say.is_empty() {
            let (next, _) = self.to_say.as_slices();
            match circuit.write(next, now) {
                Ok(taken @ 1..) => drop(self.to_say.drain(..taken)),
                Ok(0) | Err(_) => break,
            }
        }
        if self.to_say.is_empty() && std::mem::take(&mut self.is_finishing) {
            // On a stream that is over nothing is to be said.
            let _ = circuit.finish(now);
        }
        let mut buffer = [0; 4_096];
        while let Ok(read) = circuit.read(&mut buffer, now) {
            match read {
                Read::Bytes(length) => self.heard.extend_from_slice(&buffer[..length]),
                Read::Nothing => break,
                Read::End => {
                    self.is_ended = true;
                    break;
                }
            }
        }
    }

    fn act(&mut self, act: Act, context: &mut Context<'_>) {
        let now = context.now;
        let Some(circuit) = &mut self.circuit else { return };
        match act {
            Act::Open { way, place } if place.carrier == Carrier::Udp => {
                let ip = context.host.address(Family::of(place.address.ip()));
                match ip.and_then(|ip| context.host.udp_bind(SocketAddr::new(ip, 0)).ok()) {
                    Some(socket) => {
                        self.sockets.insert(way, Socket::Udp(socket, place.address));
                        circuit.handle_opened(way, now);
                    }
                    None => circuit.handle_closed(way, Some(io::ErrorKind::NetworkUnreachable), now),
                }
            }
            Act::Open { way, place } => {
                match context.host.tcp_dial(None, TcpOptions::default(), place.address, now) {
                    Ok(tcp) => drop(self.sockets.insert(way, Socket::Tcp(tcp))),
                    Err(_) => circuit.handle_closed(way, Some(io::ErrorKind::NetworkUnreachable), now),
                }
            }
            Act::Transmit { way, packet } => self.send(way, packet.into_bytes(), context),
            Act::Datagram { via: Via::Server(way), bytes } => self.send(way, bytes, context),
            Act::Datagram { via: Via::Bare(to), bytes } => {
                let family = Family::of(to.ip());
                let Some(ip) = context.host.address(family) else { return };
                let bind = || context.host.udp_bind(SocketAddr::new(ip, 0)).expect("a host has free ports");
                let socket = *self.bare.entry(family).or_insert_with(bind);
                *self.bare_sent.entry(to).or_default() += 1;
                // What cannot be sent is lost.
                let _ = context.host.udp_send(socket, to, bytes);
            }
            Act::Close { way } => match self.sockets.remove(&way) {
                Some(Socket::Udp(socket, _)) => context.host.udp_close(socket),
                Some(Socket::Tcp(tcp)) => context.host.tcp_mut().close(tcp, now),
                None => {}
            },
            Act::Signal(offer) => {
                self.said += 1;
                if let Ok(bytes) = postcard::to_stdvec(&offer) {
                    context.broker.publish(&self.topics[1], &Bytes::from(bytes), now);
                }
            }
            Act::Dial(to) => match context.host.tcp_dial(None, TcpOptions::default(), to, now) {
                Ok(tcp) => drop(self.dialling.insert(tcp, to)),
                Err(_) => circuit.handle_dialled(to, false, now),
            },
        }
    }

    /// What cannot be sent is lost, or the connection breaks, which is told as an event.
    fn send(&mut self, way: Way, bytes: Bytes, context: &mut Context<'_>) {
        match self.sockets.get(&way) {
            Some(Socket::Udp(socket, server)) => drop(context.host.udp_send(*socket, *server, bytes)),
            Some(Socket::Tcp(tcp)) => drop(context.host.tcp_mut().send_whole(*tcp, &bytes, context.now)),
            None => {}
        }
    }

    fn way(&self, is_it: impl Fn(&Socket) -> bool) -> Option<Way> {
        self.sockets.iter().find(|(_, socket)| is_it(socket)).map(|(way, _)| *way)
    }

    fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        let now = context.now;
        let tcp = match event {
            TcpEvent::Connected(tcp) | TcpEvent::Readable(tcp) | TcpEvent::PeerClosed(tcp) => tcp,
            TcpEvent::Failed(tcp, _) => tcp,
            TcpEvent::Accepted { socket, .. } => return context.host.tcp_mut().abort(socket),
        };
        let way = self.way(|known| matches!(known, Socket::Tcp(known) if *known == tcp));
        let Some(circuit) = &mut self.circuit else { return };
        match (event, way, self.dialling.get(&tcp).copied()) {
            (TcpEvent::Connected(_), Some(way), _) => circuit.handle_opened(way, now),
            (TcpEvent::Connected(_), None, Some(to)) => {
                self.dialling.remove(&tcp);
                self.connections.push(tcp);
                circuit.handle_dialled(to, true, now);
            }
            (TcpEvent::Readable(_), Some(way), _) => {
                if let Ok(bytes) = context.host.tcp_mut().read(tcp) {
                    circuit.handle_data(way, bytes, now);
                }
            }
            (TcpEvent::PeerClosed(_) | TcpEvent::Failed(..), Some(way), _) => {
                let why = match event {
                    TcpEvent::Failed(_, Failure::Refused) => Some(io::ErrorKind::ConnectionRefused),
                    TcpEvent::Failed(..) => Some(io::ErrorKind::ConnectionReset),
                    _ => None,
                };
                self.sockets.remove(&way);
                context.host.tcp_mut().close(tcp, now);
                circuit.handle_closed(way, why, now);
            }
            (TcpEvent::PeerClosed(_) | TcpEvent::Failed(..), None, Some(to)) => {
                self.dialling.remove(&tcp);
                circuit.handle_dialled(to, false, now);
            }
            _ => {}
        }
    }

    fn on_datagram(&mut self, socket: UdpSocket, from: SocketAddr, payload: Bytes, now: Instant) {
        let is_server = |known: &Socket| matches!(known, Socket::Udp(known, server) if *known == socket && *server == from);
        let way = self.way(is_server);
        let is_bare = self.bare.values().any(|bare| *bare == socket);
        let Some(circuit) = &mut self.circuit else { return };
        match way {
            Some(way) => circuit.handle_slice(way, &payload, now),
            None if is_bare => circuit.handle_bare(from, &payload, now),
            None => {}
        }
        circuit.settle(now);
    }

    fn on_signal(&mut self, payload: &[u8], now: Instant) {
        let Ok(offer) = postcard::from_bytes::<RelayOffer>(payload) else { return };
        if self.circuit.is_none() {
            self.begin(now);
        }
        let addresses: Vec<IpAddr> = self.config.peer.clone();
        if let Some(circuit) = &mut self.circuit {
            circuit.handle_offer(&offer, &addresses, now);
        }
    }
}

impl Program for CircuitRunner {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Datagram { socket, from, payload, .. } => {
                self.on_datagram(socket, from, payload, context.now);
            }
            HostEvent::Unreachable { socket, .. } => {
                let way = self.way(|known| matches!(known, Socket::Udp(known, _) if *known == socket));
                if let (Some(way), Some(circuit)) = (way, &mut self.circuit) {
                    circuit.handle_closed(way, Some(io::ErrorKind::ConnectionRefused), context.now);
                }
            }
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            HostEvent::Signal { topic, payload } if topic == self.topics[0] => {
                self.on_signal(&payload, context.now);
            }
            HostEvent::Signal { .. } | HostEvent::EchoReply { .. } => {}
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        if let Some(circuit) = &mut self.circuit {
            circuit.handle_timeout(context.now);
        }
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.wait
    }
}
