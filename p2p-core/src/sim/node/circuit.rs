//! A [`Circuit`] with the sockets of its host.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::connection::ReadResult;
use super::sockets::{HostSockets, TcpUse, UdpUse, kind, kind_of};
use crate::attempt::AttemptId;
use crate::relay::circuit::{Act, Circuit, Event, Via, Way};
use crate::relay::{End, RelayOffer};
use crate::sim::packet::unspecified;
use crate::sim::tcp::{SocketError, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::udp::UdpSocket;
use crate::sim::world::Context;
use crate::transport::Read;
use crate::turn::{Carrier, Relaying};
use crate::{Family, Machine, Output};

#[derive(Clone, Copy, Debug)]
enum CircuitWire {
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpSocket),
}

/// A circuit, its ways to TURN servers, and its own sockets.
#[derive(Debug)]
pub(crate) struct CircuitDriver {
    attempt: AttemptId,
    circuit: Circuit,
    wires: BTreeMap<Way, CircuitWire>,
    bare: BTreeMap<Family, UdpSocket>,
    wait: Option<Instant>,
    /// What is to be said on the stream and found no room yet.
    unsaid: VecDeque<u8>,
    is_told: bool,
}

/// Tells what a circuit wants of its owner, or has told.
#[derive(Debug)]
pub(crate) enum CircuitNews {
    /// Dial this, and tell what comes of it.
    Dial(SocketAddr),
    /// Say this to the peer.
    Say(RelayOffer),
    /// It has told this.
    Told(Event),
    /// It is over, and everything is closed.
    Gone,
}

impl CircuitDriver {
    pub(crate) fn new(attempt: AttemptId, circuit: Circuit) -> Self {
        let (wires, bare) = (BTreeMap::new(), BTreeMap::new());
        Self { attempt, circuit, wires, bare, wait: None, unsaid: VecDeque::new(), is_told: false }
    }

    /// Returns the machine.
    #[cfg(test)]
    pub(crate) fn machine(&self) -> &Circuit {
        &self.circuit
    }

    /// Returns the machine, for what needs no socket. Call [`turn`](Self::turn) after it.
    pub(crate) fn circuit(&mut self) -> &mut Circuit {
        &mut self.circuit
    }

    pub(crate) fn wait(&self) -> Option<Instant> {
        self.wait
    }

    /// Says this on the stream as soon as there is room.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.unsaid.extend(bytes);
    }

    /// Reads from the stream once.
    pub(crate) fn read(&mut self, at_most: usize, now: Instant) -> ReadResult {
        let mut bytes = vec![0; at_most];
        match self.circuit.read(&mut bytes, now) {
            Ok(Read::Bytes(length)) => {
                bytes.truncate(length);
                ReadResult::Bytes(bytes.into())
            }
            Ok(Read::Nothing) => ReadResult::Nothing,
            Ok(Read::End) | Err(_) => ReadResult::End,
        }
    }

    /// Performs what the circuit wants until it rests, and returns what it tells.
    pub(crate) fn turn(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) -> Vec<CircuitNews> {
        let mut news = Vec::new();
        loop {
            self.speak(context.now);
            match self.circuit.poll_output() {
                Output::Act(act) => news.extend(self.act(act, sockets, context)),
                Output::Event(event) => news.push(CircuitNews::Told(event)),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    break;
                }
            }
        }
        if self.circuit.is_over() && !std::mem::replace(&mut self.is_told, true) {
            self.end(sockets, context);
            news.push(CircuitNews::Gone);
        }
        news
    }

    /// Closes whatever it has open.
    pub(crate) fn end(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) {
        for wire in std::mem::take(&mut self.wires).into_values() {
            Self::cut(wire, sockets, context);
        }
        for socket in std::mem::take(&mut self.bare).into_values() {
            sockets.close_udp(socket, context);
        }
    }

    fn cut(wire: CircuitWire, sockets: &mut HostSockets, context: &mut Context<'_>) {
        match wire {
            CircuitWire::Udp(socket, _) => sockets.close_udp(socket, context),
            CircuitWire::Tcp(socket) => sockets.close(socket, context),
        }
    }

    fn speak(&mut self, now: Instant) {
        while !self.unsaid.is_empty() {
            let (next, _) = self.unsaid.as_slices();
            match self.circuit.write(next, now) {
                Ok(taken @ 1..) => drop(self.unsaid.drain(..taken)),
                Ok(0) => return,
                // A stream that is over takes nothing more.
                Err(_) => self.unsaid.clear(),
            }
        }
    }

    fn act(&mut self, act: Act, sockets: &mut HostSockets, context: &mut Context<'_>) -> Option<CircuitNews> {
        let now = context.now;
        match act {
            Act::Open { way, place } => {
                if let Err(error) = self.open(way, place.address, place.carrier, sockets, context) {
                    self.circuit.handle_closed(way, Some(kind(error)), now);
                }
            }
            Act::Transmit { way, packet } => self.send(way, packet.into_bytes(), sockets, context),
            Act::Datagram { via: Via::Server(way), bytes } => self.send(way, bytes, sockets, context),
            Act::Datagram { via: Via::Bare(to), bytes } => {
                let (family, used) = (Family::of(to.ip()), UdpUse::Circuit(self.attempt));
                let any = SocketAddr::new(unspecified(to.ip()), 0);
                let known = self.bare.get(&family).copied();
                let bound = known.map_or_else(|| sockets.bind(used, any, context), Ok);
                if let Ok(socket) = bound {
                    self.bare.insert(family, socket);
                    // What cannot be sent is lost.
                    let _ = sockets.send(socket, to, bytes, context);
                }
            }
            Act::Close { way } => {
                if let Some(wire) = self.wires.remove(&way) {
                    Self::cut(wire, sockets, context);
                }
            }
            Act::Signal(offer) => return Some(CircuitNews::Say(offer)),
            Act::Dial(to) => return Some(CircuitNews::Dial(to)),
        }
        None
    }

    /// TLS is played by TCP.
    fn open(
        &mut self,
        way: Way,
        address: SocketAddr,
        carrier: Carrier,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) -> Result<(), SocketError> {
        if carrier == Carrier::Udp {
            let any = SocketAddr::new(unspecified(address.ip()), 0);
            let socket = sockets.bind(UdpUse::Circuit(self.attempt), any, context)?;
            self.wires.insert(way, CircuitWire::Udp(socket, address));
            self.circuit.handle_opened(way, context.now);
        } else {
            let used = TcpUse::Circuit(self.attempt);
            let socket = sockets.dial(used, (None, address), TcpOptions::default(), context)?;
            self.wires.insert(way, CircuitWire::Tcp(socket));
        }
        Ok(())
    }

    /// What cannot be sent is lost, or the connection breaks, which is told as an event.
    fn send(&mut self, way: Way, bytes: Bytes, sockets: &mut HostSockets, context: &mut Context<'_>) {
        match self.wires.get(&way) {
            Some(CircuitWire::Udp(socket, server)) => drop(sockets.send(*socket, *server, bytes, context)),
            Some(CircuitWire::Tcp(tcp)) => drop(context.host.tcp_mut().send_whole(*tcp, &bytes, context.now)),
            None => {}
        }
    }

    /// Gives away a connection that has arrived, with our end of it.
    pub(crate) fn take(
        &mut self,
        way: Way,
        peer: SocketAddr,
        context: &Context<'_>,
    ) -> Option<(TcpSocket, SocketAddr)> {
        let Some(CircuitWire::Tcp(socket)) = self.wires.remove(&way) else { return None };
        let relayed = self.circuit.relayed(Relaying::Tcp, Family::of(peer.ip()));
        Some((socket, relayed.or_else(|| context.host.tcp().local(socket)).unwrap_or(peer)))
    }

    /// Returns our end of the stream, and the peer's.
    pub(crate) fn ends(&self, context: &Context<'_>) -> Option<(SocketAddr, SocketAddr)> {
        let route = self.circuit.route()?;
        let family = Family::of(route.to.ip());
        let local = match route.from {
            End::Relayed => self.circuit.relayed(Relaying::Udp, family)?,
            End::Bare => {
                let port = context.host.udp_local(*self.bare.get(&family)?)?.port();
                SocketAddr::new(context.host.source_for(route.to.ip()).ok()?, port)
            }
        };
        Some((local, route.to))
    }

    fn way(&self, is_it: impl Fn(&CircuitWire) -> bool) -> Option<Way> {
        self.wires.iter().find(|(_, wire)| is_it(wire)).map(|(way, _)| *way)
    }

    /// Something happened on one of its connections to a server.
    pub(crate) fn on_tcp(
        &mut self,
        event: TcpEvent,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) -> Vec<CircuitNews> {
        let now = context.now;
        let (TcpEvent::Connected(socket)
        | TcpEvent::Readable(socket)
        | TcpEvent::PeerClosed(socket)
        | TcpEvent::Failed(socket, _)) = event
        else {
            return Vec::new();
        };
        let way = self.way(|wire| matches!(wire, CircuitWire::Tcp(known) if *known == socket));
        let Some(way) = way else { return Vec::new() };
        match event {
            TcpEvent::Connected(_) => self.circuit.handle_opened(way, now),
            TcpEvent::Readable(_) => {
                if let Ok(bytes) = context.host.tcp_mut().read(socket) {
                    self.circuit.handle_data(way, bytes, now);
                }
            }
            _ => {
                let why = match event {
                    TcpEvent::Failed(_, failure) => Some(kind_of(failure)),
                    _ => None,
                };
                self.wires.remove(&way);
                sockets.close(socket, context);
                self.circuit.handle_closed(way, why, now);
            }
        }
        self.turn(sockets, context)
    }

    /// A datagram came to one of its sockets.
    pub(crate) fn on_datagram(
        &mut self,
        socket: UdpSocket,
        from: SocketAddr,
        payload: &Bytes,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) -> Vec<CircuitNews> {
        let now = context.now;
        let is_server = |wire: &CircuitWire| matches!(wire, CircuitWire::Udp(known, server) if *known == socket && *server == from);
        match self.way(is_server) {
            Some(way) => self.circuit.handle_slice(way, payload, now),
            None if self.bare.values().any(|bare| *bare == socket) => {
                self.circuit.handle_bare(from, payload, now);
            }
            None => {}
        }
        self.circuit.settle(now);
        self.turn(sockets, context)
    }

    /// An ICMP error came about a datagram. What was sent from a bare socket is lost, and that is all.
    pub(crate) fn on_unreachable(
        &mut self,
        socket: UdpSocket,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) -> Vec<CircuitNews> {
        let way = self.way(|wire| matches!(wire, CircuitWire::Udp(known, _) if *known == socket));
        if let Some(way) = way {
            self.circuit.handle_closed(way, Some(io::ErrorKind::ConnectionRefused), context.now);
        }
        self.turn(sockets, context)
    }
}
