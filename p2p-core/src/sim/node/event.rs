//! What happens on the host.

use std::net::SocketAddr;

use bytes::Bytes;

use super::sockets::{Meaning, UdpUse, dial_error};
use super::{DelayedInput, NodeInput, NodeRunner};
use crate::Machine;
use crate::node::{ChannelId, ConnectionId, SocketEvent};
use crate::sim::packet::IcmpKind;
use crate::sim::tcp::TcpEvent;
use crate::sim::udp::UdpSocket;
use crate::sim::world::Context;

impl NodeRunner {
    pub(super) fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        match self.sockets.on_tcp(event, context) {
            Meaning::Node(owner, event) => self.inputs.push_back(NodeInput::Socket(owner, event)),
            Meaning::Connection(number, event) => self.on_connection(number, event, context),
            Meaning::Arrived { owner, at, socket, remote } => {
                let connection = self.take_in(owner, socket, Bytes::new());
                let arrived = SocketEvent::Accepted { connection, at, remote };
                self.inputs.push_back(NodeInput::Socket(owner, arrived));
            }
            Meaning::Channel(id, event) => {
                let Some((channel, _)) = self.channels.get_mut(&id) else { return };
                let news = channel.on_tcp(event, &mut self.sockets, context);
                self.on_channel(id, news, context);
            }
            Meaning::Circuit(attempt, event) => {
                let Some(circuit) = self.circuits.get_mut(&attempt) else { return };
                let news = circuit.on_tcp(event, &mut self.sockets, context);
                news.into_iter().for_each(|news| self.on_circuit(attempt, news, context));
            }
            Meaning::Nothing => {}
        }
    }

    fn on_connection(&mut self, number: ConnectionId, event: TcpEvent, context: &mut Context<'_>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match (event, connection.owner) {
            (TcpEvent::Connected(socket), Some(owner)) => {
                connection.is_up = true;
                let tcp = context.host.tcp();
                if let (Some(local), Some(remote)) = (tcp.local(socket), tcp.remote(socket)) {
                    let event = SocketEvent::Connected { connection: number, local, remote };
                    self.inputs.push_back(NodeInput::Socket(owner, event));
                }
            }
            (TcpEvent::Readable(_) | TcpEvent::PeerClosed(_), _) => self.hear(number, context),
            (TcpEvent::Failed(_, failure), Some(owner)) => {
                let event = match connection.is_up {
                    true => SocketEvent::Lost { connection: number },
                    false => SocketEvent::DialFailed { connection: number, error: dial_error(failure) },
                };
                self.inputs.push_back(NodeInput::Socket(owner, event));
                self.let_go(number, context);
            }
            (TcpEvent::Failed(..), None) => {
                if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.connection == number) {
                    pipe.is_ended = true;
                }
            }
            (TcpEvent::Connected(_) | TcpEvent::Accepted { .. }, _) => {}
        }
    }

    pub(super) fn on_datagram(
        &mut self,
        socket: UdpSocket,
        from: SocketAddr,
        payload: Bytes,
        context: &mut Context<'_>,
    ) {
        match self.sockets.use_of(socket) {
            Some(UdpUse::Datagrams { owner, at }) => {
                let event = SocketEvent::Datagram { at, from, bytes: payload };
                self.inputs.push_back(NodeInput::Socket(owner, event));
            }
            Some(UdpUse::Circuit(attempt)) => {
                let Some(circuit) = self.circuits.get_mut(&attempt) else { return };
                let news = circuit.on_datagram(socket, from, &payload, &mut self.sockets, context);
                news.into_iter().for_each(|news| self.on_circuit(attempt, news, context));
            }
            Some(UdpUse::Ntp(server)) => {
                if let Some(time) = &mut self.time {
                    time.on_datagram(server, from, &payload, context.now);
                    self.turn_time(context);
                }
            }
            None => {}
        }
    }

    pub(super) fn on_unreachable(
        &mut self,
        socket: UdpSocket,
        to: SocketAddr,
        kind: IcmpKind,
        context: &mut Context<'_>,
    ) {
        if kind == IcmpKind::TooBig {
            // No datagram of a node is.
            return;
        }
        match self.sockets.use_of(socket) {
            Some(UdpUse::Datagrams { owner, at }) => {
                let why = std::io::ErrorKind::HostUnreachable;
                self.inputs.push_back(NodeInput::Socket(owner, SocketEvent::Unreachable { at, to, why }));
            }
            Some(UdpUse::Circuit(attempt)) => {
                let Some(circuit) = self.circuits.get_mut(&attempt) else { return };
                let news = circuit.on_unreachable(socket, &mut self.sockets, context);
                news.into_iter().for_each(|news| self.on_circuit(attempt, news, context));
            }
            Some(UdpUse::Ntp(server)) => {
                if let Some(time) = &mut self.time {
                    time.on_unreachable(server, context.now);
                    self.turn_time(context);
                }
            }
            None => {}
        }
    }

    pub(super) fn on_timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                DelayedInput::Input(input) => self.inputs.push_back(input),
                DelayedInput::Channel(id, found) => {
                    let Some((channel, _)) = self.channels.get_mut(&id) else { continue };
                    channel.dial(found, &mut self.sockets, context);
                    let news = channel.turn(&mut self.sockets, context);
                    self.on_channel(id, news, context);
                }
                DelayedInput::Ntp(server, found) => {
                    if let Some(time) = &mut self.time {
                        time.handle_resolved(server, found, now);
                        self.turn_time(context);
                    }
                }
            }
        }
        let is_due = |wait: Option<std::time::Instant>| wait.is_some_and(|at| at <= now);
        let channels: Vec<ChannelId> = self
            .channels
            .iter()
            .filter(|(_, (channel, _))| is_due(channel.wait()))
            .map(|(id, _)| *id)
            .collect();
        for id in channels {
            let Some((channel, _)) = self.channels.get_mut(&id) else { continue };
            channel.handle_timeout(&mut self.sockets, context);
            let news = channel.turn(&mut self.sockets, context);
            self.on_channel(id, news, context);
        }
        let circuits: Vec<_> = self
            .circuits
            .iter()
            .filter(|(_, circuit)| is_due(circuit.wait()))
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in circuits {
            self.with_circuit(attempt, context, |circuit, now| circuit.circuit().handle_timeout(now));
        }
        if let Some(time) = self.time.as_mut().filter(|time| is_due(time.wait())) {
            time.handle_timeout(now);
            self.turn_time(context);
        }
        if is_due(self.wait) {
            self.node.handle_timeout(now);
        }
    }
}
