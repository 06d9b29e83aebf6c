//! A [`FaultyServer`] behind simulated sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::config::FaultyServerConfig;
use super::faulty::FaultyServer;
use crate::sim::host::{Host, HostEvent};
use crate::sim::tcp::{SocketError, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::udp::UdpSocket;
use crate::sim::world::{Context, Program};
use crate::stun::Transport;
use crate::turn::Relaying;
use crate::turn::allocation::ConnectionId;
use crate::turn::frame::{Frame, Framer};
use crate::turn::server::{Act, Event, FiveTuple};
use crate::{Machine, Output, Seed};

/// Most TCP connections of clients and peers at a time; more are reset.
const MOST_CONNECTIONS: usize = 4_096;

/// A connection of a client or a peer.
#[derive(Debug)]
enum ConnectionRole {
    /// A client that talks to us.
    Client(FiveTuple, Box<Framer>),
    /// A peer that waits to be taken.
    Peer,
    /// Both ends are joined; what did not fit into the other yet.
    Joined(TcpSocket, ConnectionId, BytesMut),
}

/// A TURN server over UDP and TCP.
#[derive(Debug)]
pub struct TurnHost {
    server: FaultyServer,
    udp: UdpSocket,
    wait: Option<Instant>,
    connections: BTreeMap<TcpSocket, ConnectionRole>,
    relays: BTreeMap<SocketAddr, UdpSocket>,
    listeners: BTreeMap<SocketAddr, TcpSocket>,
    dials: BTreeMap<TcpSocket, ConnectionId>,
    /// Connections of peers, waiting or joined.
    peers: BTreeMap<ConnectionId, TcpSocket>,
}

impl TurnHost {
    /// Binds the server's address on `host`, which must have it and all relay addresses.
    ///
    /// # Errors
    /// [`SocketError`] when the address is not the host's, or in use.
    pub fn bind(
        host: &mut Host,
        config: FaultyServerConfig,
        seed: Seed,
        now: Instant,
    ) -> Result<Self, SocketError> {
        let udp = host.udp_bind(config.address)?;
        host.tcp_listen(config.address, TcpOptions::shared())?;
        Ok(Self {
            server: FaultyServer::new(config, seed, now),
            udp,
            wait: None,
            connections: BTreeMap::new(),
            relays: BTreeMap::new(),
            listeners: BTreeMap::new(),
            dials: BTreeMap::new(),
            peers: BTreeMap::new(),
        })
    }

    /// Returns the server, to look into.
    pub fn server(&self) -> &FaultyServer {
        &self.server
    }

    /// Returns the server, to change it.
    pub fn server_mut(&mut self) -> &mut FaultyServer {
        &mut self.server
    }

    /// Ends the process and begins it again: all connections are reset, nothing is remembered.
    pub fn restart(&mut self, context: &mut Context<'_>) {
        let dials = std::mem::take(&mut self.dials).into_keys();
        for socket in std::mem::take(&mut self.connections).into_keys().chain(dials) {
            context.host.tcp_mut().abort(socket);
        }
        self.peers.clear();
        self.server.restart(context.now);
        self.turn(context);
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        loop {
            match self.server.poll_output() {
                Output::Act(act) => self.act(act, context),
                Output::Event(Event::Allocated { relaying, relayed, .. }) => {
                    relayed.into_iter().for_each(|relayed| self.open(relaying, relayed, context));
                }
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return;
                }
            }
        }
    }

    fn open(&mut self, relaying: Relaying, relayed: SocketAddr, context: &mut Context<'_>) {
        match relaying {
            Relaying::Udp => {
                if let Ok(socket) = context.host.udp_bind(relayed) {
                    self.relays.insert(relayed, socket);
                }
            }
            Relaying::Tcp => {
                if let Ok(socket) = context.host.tcp_listen(relayed, TcpOptions::shared()) {
                    self.listeners.insert(relayed, socket);
                }
            }
        }
    }

    fn act(&mut self, act: Act, context: &mut Context<'_>) {
        let now = context.now;
        match act {
            // What cannot be sent is lost, as on any network.
            Act::Send { client: FiveTuple { transport: Transport::Udp, client, .. }, bytes } => {
                let _ = context.host.udp_send(self.udp, client, bytes);
            }
            Act::Send { client, bytes } => {
                if let Some(socket) = self.socket(client) {
                    let _ = context.host.tcp_mut().send_whole(socket, &bytes, now);
                }
            }
            Act::Relay { relayed, peer, data } => {
                if let Some(socket) = self.relays.get(&relayed) {
                    let _ = context.host.udp_send(*socket, peer, data);
                }
            }
            Act::Release { relaying: Relaying::Udp, relayed } => {
                if let Some(socket) = self.relays.remove(&relayed) {
                    context.host.udp_close(socket);
                }
            }
            Act::Release { relaying: Relaying::Tcp, relayed } => {
                if let Some(socket) = self.listeners.remove(&relayed) {
                    context.host.tcp_mut().close(socket, now);
                }
            }
            Act::Dial { relayed, peer, connection } => {
                match context.host.tcp_dial(Some(relayed), TcpOptions::shared(), peer, now) {
                    Ok(socket) => drop(self.dials.insert(socket, connection)),
                    Err(_) => self.server.handle_dialled(connection, false, now),
                }
            }
            Act::Join { client, connection } => {
                if let Some((client, peer)) = self.socket(client).zip(self.peers.get(&connection).copied()) {
                    self.connections
                        .insert(client, ConnectionRole::Joined(peer, connection, BytesMut::new()));
                    self.connections
                        .insert(peer, ConnectionRole::Joined(client, connection, BytesMut::new()));
                    self.on_bytes(peer, context);
                }
            }
            Act::Hang { connection } => {
                let dialled = self.dials.iter().find(|(_, known)| **known == connection);
                if let Some(socket) = dialled.map(|(socket, _)| *socket) {
                    self.dials.remove(&socket);
                    context.host.tcp_mut().abort(socket);
                }
                if let Some(socket) = self.peers.remove(&connection) {
                    self.drop_connection(socket, context);
                }
            }
            // A faulty server does these itself.
            Act::Check { .. } | Act::Bind { .. } => {}
        }
    }

    fn socket(&self, client: FiveTuple) -> Option<TcpSocket> {
        let is_its =
            |role: &ConnectionRole| matches!(role, ConnectionRole::Client(whose, _) if *whose == client);
        self.connections.iter().find(|(_, role)| is_its(role)).map(|(socket, _)| *socket)
    }

    fn on_bytes(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        let now = context.now;
        // What a peer says before it is taken waits where it is.
        if matches!(self.connections.get(&socket), None | Some(ConnectionRole::Peer)) {
            return;
        }
        let Ok(mut bytes) = context.host.tcp_mut().read(socket) else { return };
        while let Some(ConnectionRole::Client(tuple, framer)) = self.connections.get_mut(&socket) {
            let tuple = *tuple;
            match framer.feed(&mut bytes) {
                Ok(Some(Frame::Stun(message))) => self.server.handle_client(tuple, &message, now),
                Ok(Some(Frame::Channel(number, data))) => {
                    let head = number.header(data.len()).unwrap_or_default();
                    self.server.handle_client(tuple, &[&head, &data[..]].concat(), now);
                }
                Ok(Some(Frame::Oversize(_))) => {}
                Ok(None) => break,
                Err(_) => {
                    self.drop_connection(socket, context);
                    break;
                }
            }
            self.turn(context);
        }
        self.forward(socket, bytes, context);
    }

    /// Passes on what came, and what did not fit before.
    fn forward(&mut self, socket: TcpSocket, bytes: Bytes, context: &mut Context<'_>) {
        if let Some(ConnectionRole::Joined(other, _, held)) = self.connections.get_mut(&socket) {
            held.extend_from_slice(&bytes);
            if let Ok(sent) = context.host.tcp_mut().send(*other, held, context.now) {
                held.advance(sent);
            }
        }
    }

    fn drop_connection(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        match self.connections.remove(&socket) {
            Some(ConnectionRole::Client(tuple, _)) => self.server.handle_gone(tuple, context.now),
            Some(ConnectionRole::Joined(other, connection, held)) => {
                let _ = context.host.tcp_mut().send(other, &held, context.now);
                self.connections.remove(&other);
                context.host.tcp_mut().close(other, context.now);
                self.peers.remove(&connection);
                self.server.handle_parted(connection);
            }
            Some(ConnectionRole::Peer) => self.peers.retain(|_, peer| *peer != socket),
            None => {}
        }
        context.host.tcp_mut().close(socket, context.now);
    }

    fn on_accepted(&mut self, listener: TcpSocket, socket: TcpSocket, context: &mut Context<'_>) {
        let now = context.now;
        let Some(client) = context.host.tcp().remote(socket) else { return };
        if self.connections.len() >= MOST_CONNECTIONS {
            return context.host.tcp_mut().abort(socket);
        }
        let relayed = self.listeners.iter().find(|(_, known)| **known == listener).map(|(at, _)| *at);
        let Some(relayed) = relayed else {
            let tuple = self.server.tuple(Transport::Tcp, client);
            let mut framer = Framer::default();
            framer.allow_channels();
            self.connections.insert(socket, ConnectionRole::Client(tuple, Box::new(framer)));
            return;
        };
        match self.server.handle_accepted(relayed, client, now) {
            Some(connection) => {
                self.connections.insert(socket, ConnectionRole::Peer);
                self.peers.insert(connection, socket);
            }
            None => context.host.tcp_mut().abort(socket),
        }
    }

    fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        let now = context.now;
        match event {
            TcpEvent::Accepted { listener, socket } => self.on_accepted(listener, socket, context),
            TcpEvent::Connected(socket) => {
                if let Some(connection) = self.dials.remove(&socket) {
                    self.connections.insert(socket, ConnectionRole::Peer);
                    self.peers.insert(connection, socket);
                    self.server.handle_dialled(connection, true, now);
                }
            }
            TcpEvent::Readable(socket) => self.on_bytes(socket, context),
            TcpEvent::PeerClosed(socket) | TcpEvent::Failed(socket, _) => match self.dials.remove(&socket) {
                Some(connection) => self.server.handle_dialled(connection, false, now),
                None => {
                    self.on_bytes(socket, context);
                    self.drop_connection(socket, context);
                }
            },
        }
    }

    /// Tries again what did not fit, on every occasion: a simulated socket does not tell when there is room.
    fn flush(&mut self, context: &mut Context<'_>) {
        let is_full =
            |role: &ConnectionRole| matches!(role, ConnectionRole::Joined(_, _, held) if !held.is_empty());
        let full: Vec<_> =
            self.connections.iter().filter(|(_, role)| is_full(role)).map(|(socket, _)| *socket).collect();
        full.into_iter().for_each(|socket| self.forward(socket, Bytes::new(), context));
    }
}

impl Program for TurnHost {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Datagram { socket, from, payload, .. } if socket == self.udp => {
                let tuple = self.server.tuple(Transport::Udp, from);
                self.server.handle_client(tuple, &payload, context.now);
            }
            HostEvent::Datagram { socket, from, payload, .. } => {
                let relayed = self.relays.iter().find(|(_, known)| **known == socket).map(|(at, _)| *at);
                if let Some(relayed) = relayed {
                    self.server.handle_peer(relayed, from, payload, context.now);
                }
            }
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            _ => {}
        }
        self.turn(context);
        self.flush(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.server.handle_timeout(context.now);
        self.turn(context);
        self.flush(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.wait
    }
}
