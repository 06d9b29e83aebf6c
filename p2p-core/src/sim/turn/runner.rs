//! A [`Client`] on a simulated host.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::sim::host::HostEvent;
use crate::sim::tcp::{Failure, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::udp::UdpSocket;
use crate::sim::world::{Context, Program};
use crate::turn::client::{Act, Conn, Event};
use crate::turn::{Carrier, Client};
use crate::{Family, Machine, Output};

#[derive(Clone, Copy, Debug)]
enum Socket {
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpSocket),
}

/// Turns a [`Client`] with the sockets of its host. TLS is played by TCP. Connections of peers are handed over
/// as [`Event::Stream`]; what they bring is kept in [`streams`](Self::streams).
#[derive(Debug)]
pub struct TurnRunner {
    client: Client,
    wait: Option<Instant>,
    sockets: BTreeMap<Conn, Socket>,
    streams: BTreeMap<TcpSocket, Vec<u8>>,
    events: Vec<(Instant, Event)>,
}

impl TurnRunner {
    /// Takes the machine over.
    pub fn new(client: Client) -> Self {
        Self { client, wait: None, sockets: BTreeMap::new(), streams: BTreeMap::new(), events: Vec::new() }
    }

    /// Has something done by the machine, and does what it wants.
    pub fn with<T>(&mut self, context: &mut Context<'_>, act: impl FnOnce(&mut Client, Instant) -> T) -> T {
        let result = act(&mut self.client, context.now);
        self.turn(context);
        result
    }

    /// What the machine told, and when.
    pub fn events(&self) -> &[(Instant, Event)] {
        &self.events
    }

    /// The machine.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What came on connections of peers.
    pub fn streams(&self) -> &BTreeMap<TcpSocket, Vec<u8>> {
        &self.streams
    }

    /// Ways that are open.
    pub fn open(&self) -> usize {
        self.sockets.len()
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        loop {
            match self.client.poll_output() {
                Output::Act(act) => self.act(act, context),
                Output::Event(event) => {
                    if let Event::Stream { conn, early, .. } = &event
                        && let Some(Socket::Tcp(socket)) = self.sockets.remove(conn)
                    {
                        self.streams.insert(socket, early.to_vec());
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

    fn act(&mut self, act: Act, context: &mut Context<'_>) {
        let now = context.now;
        match act {
            Act::Open { conn, place } if place.carrier == Carrier::Udp => {
                let ip = context.host.address(Family::of(place.address.ip()));
                let bound = ip.and_then(|ip| context.host.udp_bind(SocketAddr::new(ip, 0)).ok());
                match bound {
                    Some(socket) => {
                        self.sockets.insert(conn, Socket::Udp(socket, place.address));
                        self.client.handle_opened(conn, now);
                    }
                    None => self.client.handle_closed(conn, Some(io::ErrorKind::NetworkUnreachable), now),
                }
            }
            Act::Open { conn, place } => {
                match context.host.tcp_dial(None, TcpOptions::default(), place.address, now) {
                    Ok(socket) => {
                        self.sockets.insert(conn, Socket::Tcp(socket));
                    }
                    Err(_) => self.client.handle_closed(conn, Some(io::ErrorKind::NetworkUnreachable), now),
                }
            }
            // What cannot be sent is lost, or the connection breaks, which is told as an event.
            Act::Transmit { conn, packet } => match self.sockets.get(&conn) {
                Some(Socket::Udp(socket, server)) => {
                    let _ = context.host.udp_send(*socket, *server, packet.into_bytes());
                }
                Some(Socket::Tcp(socket)) => {
                    let _ = context.host.tcp_mut().send_whole(*socket, &packet.into_bytes(), now);
                }
                None => {}
            },
            Act::Close { conn } => match self.sockets.remove(&conn) {
                Some(Socket::Udp(socket, _)) => context.host.udp_close(socket),
                Some(Socket::Tcp(socket)) => context.host.tcp_mut().close(socket, now),
                None => {}
            },
        }
    }

    fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        let now = context.now;
        let name = |sockets: &BTreeMap<Conn, Socket>, socket: TcpSocket| {
            let is_it = |known: &Socket| matches!(known, Socket::Tcp(known) if *known == socket);
            sockets.iter().find(|(_, known)| is_it(known)).map(|(conn, _)| *conn)
        };
        match event {
            TcpEvent::Connected(socket) => {
                if let Some(conn) = name(&self.sockets, socket) {
                    self.client.handle_opened(conn, now);
                }
            }
            TcpEvent::Readable(socket) => {
                let Ok(bytes) = context.host.tcp_mut().read(socket) else { return };
                match (name(&self.sockets, socket), self.streams.get_mut(&socket)) {
                    (Some(conn), _) => self.client.handle_data(conn, bytes, now),
                    (None, Some(stream)) => stream.extend_from_slice(&bytes),
                    (None, None) => {}
                }
            }
            TcpEvent::PeerClosed(socket) | TcpEvent::Failed(socket, _) => {
                if let Some(conn) = name(&self.sockets, socket) {
                    let why = match event {
                        TcpEvent::Failed(_, Failure::Refused) => Some(io::ErrorKind::ConnectionRefused),
                        TcpEvent::Failed(_, Failure::Reset) => Some(io::ErrorKind::ConnectionReset),
                        TcpEvent::Failed(_, Failure::TimedOut) => Some(io::ErrorKind::TimedOut),
                        TcpEvent::Failed(_, Failure::Unreachable(_)) => Some(io::ErrorKind::HostUnreachable),
                        _ => None,
                    };
                    self.sockets.remove(&conn);
                    context.host.tcp_mut().close(socket, now);
                    self.client.handle_closed(conn, why, now);
                }
            }
            TcpEvent::Accepted { socket, .. } => context.host.tcp_mut().abort(socket),
        }
    }

    fn on_datagram(&mut self, socket: UdpSocket, from: SocketAddr, payload: Bytes, now: Instant) {
        let is_it = |known: &Socket| matches!(known, Socket::Udp(known, server) if *known == socket && *server == from);
        let conn = self.sockets.iter().find(|(_, known)| is_it(known)).map(|(conn, _)| *conn);
        if let Some(conn) = conn {
            self.client.handle_data(conn, payload, now);
        }
    }
}

impl Program for TurnRunner {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Datagram { socket, from, payload, .. } => {
                self.on_datagram(socket, from, payload, context.now);
            }
            HostEvent::Unreachable { socket, .. } => {
                let is_it = |known: &Socket| matches!(known, Socket::Udp(known, _) if *known == socket);
                let conn = self.sockets.iter().find(|(_, known)| is_it(known)).map(|(conn, _)| *conn);
                if let Some(conn) = conn {
                    self.client.handle_closed(conn, Some(io::ErrorKind::HostUnreachable), context.now);
                }
            }
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            HostEvent::EchoReply { .. } | HostEvent::Signal { .. } => {}
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.client.handle_timeout(context.now);
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.wait
    }
}
