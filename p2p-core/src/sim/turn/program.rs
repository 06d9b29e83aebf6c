//! A [`Desk`] behind simulated sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::config::TurnServerConfig;
use super::desk::{Deed, Desk, Tuple};
use crate::Seed;
use crate::sim::host::{Host, HostEvent};
use crate::sim::tcp::{SocketError, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::udp::UdpSocket;
use crate::sim::world::{Context, Program};
use crate::stun::Transport;
use crate::turn::frame::{Frame, Framer};

/// Most TCP connections of clients and peers at a time; more are reset.
const MOST_CONNECTIONS: usize = 4_096;

/// A connection of a client or a peer.
#[derive(Debug)]
enum Role {
    /// A client that talks to us.
    Client(Tuple, Box<Framer>),
    /// A peer that waits to be taken.
    Peer,
    /// Both ends are joined; what did not fit into the other yet.
    Joined(TcpSocket, BytesMut),
}

/// A TURN server over UDP and TCP.
#[derive(Debug)]
pub struct TurnServer {
    desk: Desk,
    udp: UdpSocket,
    connections: BTreeMap<TcpSocket, Role>,
    relays: BTreeMap<SocketAddr, UdpSocket>,
    listeners: BTreeMap<SocketAddr, TcpSocket>,
    dials: BTreeMap<TcpSocket, u32>,
    peers: BTreeMap<u32, TcpSocket>,
}

impl TurnServer {
    /// Binds the server's address on `host`, which must have it and all relay addresses.
    ///
    /// # Errors
    /// When the address is not the host's, or in use.
    pub fn bind(host: &mut Host, config: TurnServerConfig, seed: Seed) -> Result<Self, SocketError> {
        let udp = host.udp_bind(config.address)?;
        host.tcp_listen(config.address, TcpOptions::shared())?;
        Ok(Self {
            desk: Desk::new(config, seed),
            udp,
            connections: BTreeMap::new(),
            relays: BTreeMap::new(),
            listeners: BTreeMap::new(),
            dials: BTreeMap::new(),
            peers: BTreeMap::new(),
        })
    }

    /// Its mind, to look into.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Its mind, to change.
    pub fn desk_mut(&mut self) -> &mut Desk {
        &mut self.desk
    }

    /// The process ends and begins again: all connections are reset, the table is empty.
    pub fn restart(&mut self, context: &mut Context<'_>) {
        let dials = std::mem::take(&mut self.dials).into_keys();
        for socket in std::mem::take(&mut self.connections).into_keys().chain(dials) {
            context.host.tcp_mut().abort(socket);
        }
        self.peers.clear();
        self.desk.restart();
        self.work(context);
    }

    fn work(&mut self, context: &mut Context<'_>) {
        while let Some(deed) = self.desk.poll() {
            self.act(deed, context);
        }
    }

    fn act(&mut self, deed: Deed, context: &mut Context<'_>) {
        let now = context.now;
        match deed {
            // What cannot be sent is lost, as on any network.
            Deed::Tell(Tuple { client, transport: Transport::Udp }, bytes) => {
                let _ = context.host.udp_send(self.udp, client, bytes);
            }
            Deed::Tell(tuple, bytes) => {
                if let Some(socket) = self.socket(tuple) {
                    let _ = context.host.tcp_mut().send_whole(socket, &bytes, now);
                }
            }
            Deed::Relay { relayed, peer, data } => {
                if let Some(socket) = self.relays.get(&relayed) {
                    let _ = context.host.udp_send(*socket, peer, data);
                }
            }
            Deed::Open { relayed, is_tcp: false } => {
                if let Ok(socket) = context.host.udp_bind(relayed) {
                    self.relays.insert(relayed, socket);
                }
            }
            Deed::Open { relayed, is_tcp: true } => {
                if let Ok(socket) = context.host.tcp_listen(relayed, TcpOptions::shared()) {
                    self.listeners.insert(relayed, socket);
                }
            }
            Deed::Close(relayed) => {
                if let Some(socket) = self.relays.remove(&relayed) {
                    context.host.udp_close(socket);
                }
                if let Some(socket) = self.listeners.remove(&relayed) {
                    context.host.tcp_mut().close(socket, now);
                }
            }
            Deed::Dial { relayed, peer, connection } => {
                match context.host.tcp_dial(Some(relayed), TcpOptions::shared(), peer, now) {
                    Ok(socket) => {
                        self.dials.insert(socket, connection);
                    }
                    Err(_) => self.desk.handle_dialled(connection, false, now),
                }
            }
            Deed::Splice(tuple, connection) => {
                if let Some((client, peer)) = self.socket(tuple).zip(self.peers.remove(&connection)) {
                    self.connections.insert(client, Role::Joined(peer, BytesMut::new()));
                    self.connections.insert(peer, Role::Joined(client, BytesMut::new()));
                    self.on_bytes(peer, context);
                }
            }
            Deed::Hang(connection) => {
                if let Some(socket) = self.peers.remove(&connection) {
                    self.drop_connection(socket, context);
                }
            }
        }
    }

    fn socket(&self, tuple: Tuple) -> Option<TcpSocket> {
        let is_its = |role: &Role| matches!(role, Role::Client(whose, _) if *whose == tuple);
        self.connections.iter().find(|(_, role)| is_its(role)).map(|(socket, _)| *socket)
    }

    fn on_bytes(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        let now = context.now;
        // What a peer says before it is taken waits where it is.
        if matches!(self.connections.get(&socket), None | Some(Role::Peer)) {
            return;
        }
        let Ok(mut bytes) = context.host.tcp_mut().read(socket) else { return };
        while let Some(Role::Client(tuple, framer)) = self.connections.get_mut(&socket) {
            let tuple = *tuple;
            match framer.feed(&mut bytes) {
                Ok(Some(Frame::Stun(message))) => self.desk.handle_client(tuple, &message, now),
                Ok(Some(Frame::Channel(number, data))) => {
                    let head = number.header(data.len()).unwrap_or_default();
                    self.desk.handle_client(tuple, &[&head, &data[..]].concat(), now);
                }
                Ok(Some(Frame::Oversize(_))) => {}
                Ok(None) => break,
                Err(_) => {
                    self.drop_connection(socket, context);
                    break;
                }
            }
            self.work(context);
        }
        self.forward(socket, bytes, context);
    }

    /// Passes on what came, and what did not fit before.
    fn forward(&mut self, socket: TcpSocket, bytes: Bytes, context: &mut Context<'_>) {
        if let Some(Role::Joined(other, held)) = self.connections.get_mut(&socket) {
            held.extend_from_slice(&bytes);
            if let Ok(sent) = context.host.tcp_mut().send(*other, held, context.now) {
                held.advance(sent);
            }
        }
    }

    fn drop_connection(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        match self.connections.remove(&socket) {
            Some(Role::Client(tuple, _)) => self.desk.handle_gone(tuple),
            Some(Role::Joined(other, held)) => {
                let _ = context.host.tcp_mut().send(other, &held, context.now);
                self.connections.remove(&other);
                context.host.tcp_mut().close(other, context.now);
            }
            Some(Role::Peer) => self.peers.retain(|_, peer| *peer != socket),
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
            let tuple = Tuple { client, transport: Transport::Tcp };
            let mut framer = Framer::default();
            framer.allow_channels();
            self.connections.insert(socket, Role::Client(tuple, Box::new(framer)));
            return;
        };
        match self.desk.handle_dialled_by(relayed, client, now) {
            Some(connection) => {
                self.connections.insert(socket, Role::Peer);
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
                    self.connections.insert(socket, Role::Peer);
                    self.peers.insert(connection, socket);
                    self.desk.handle_dialled(connection, true, now);
                }
            }
            TcpEvent::Readable(socket) => self.on_bytes(socket, context),
            TcpEvent::PeerClosed(socket) | TcpEvent::Failed(socket, _) => match self.dials.remove(&socket) {
                Some(connection) => self.desk.handle_dialled(connection, false, now),
                None => {
                    self.on_bytes(socket, context);
                    self.drop_connection(socket, context);
                }
            },
        }
    }

    /// Tries again what did not fit, on every occasion: a simulated socket does not tell when there is room.
    fn flush(&mut self, context: &mut Context<'_>) {
        let is_full = |role: &Role| matches!(role, Role::Joined(_, held) if !held.is_empty());
        let full: Vec<_> =
            self.connections.iter().filter(|(_, role)| is_full(role)).map(|(socket, _)| *socket).collect();
        full.into_iter().for_each(|socket| self.forward(socket, Bytes::new(), context));
    }
}

impl Program for TurnServer {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Datagram { socket, from, payload, .. } if socket == self.udp => {
                let tuple = Tuple { client: from, transport: Transport::Udp };
                self.desk.handle_client(tuple, &payload, context.now);
            }
            HostEvent::Datagram { socket, from, payload, .. } => {
                let relayed = self.relays.iter().find(|(_, known)| **known == socket).map(|(at, _)| *at);
                if let Some(relayed) = relayed {
                    self.desk.handle_peer(relayed, from, payload, context.now);
                }
            }
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            _ => {}
        }
        self.work(context);
        self.flush(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.desk.handle_timeout(context.now);
        self.work(context);
        self.flush(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.desk.next_timeout()
    }
}
