//! A [`Broker`] behind simulated sockets: what sessions of whole nodes talk to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::wire::{PacketReader, encode};
use super::{Broker, BrokerCounters};
use crate::signal::link::{ConnAck, ConnectCode, Packet};
use crate::sim::host::{Host, HostEvent};
use crate::sim::tcp::{SocketError, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::world::{Context, Program};

/// PUBACK: accepted, and nobody is subscribed (MQTT 5, section 3.4.2.1).
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
/// Sessions at a time; more are reset.
const MOST_SESSIONS: usize = 4_096;

/// The ways in which a broker fails those who rely on it. Everything may be changed while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerFaults {
    /// Messages from these addresses are acknowledged and thrown away.
    pub deaf_to: BTreeSet<IpAddr>,
    /// Messages for subscribers at these addresses are thrown away.
    pub mute_to: BTreeSet<IpAddr>,
    /// Clients are told to go away, by CONNACK.
    pub refuses: bool,
}

/// A session with one client.
#[derive(Debug, Default)]
struct BrokerSession {
    reader: PacketReader,
    next_id: u16,
}

/// A message broker over TCP.
#[derive(Debug)]
pub struct BrokerServer {
    broker: Broker<TcpSocket>,
    sessions: BTreeMap<TcpSocket, BrokerSession>,
    faults: BrokerFaults,
}

impl BrokerServer {
    /// Listens at `addresses` on `host`, which must have them. What `broker` does to messages comes on top of what the
    /// network does to both connections.
    ///
    /// # Errors
    /// When an address is not the host's, or in use.
    pub fn bind(
        host: &mut Host,
        addresses: &[SocketAddr],
        broker: Broker<TcpSocket>,
    ) -> Result<Self, SocketError> {
        for address in addresses {
            host.tcp_listen(*address, TcpOptions::shared())?;
        }
        Ok(Self { broker, sessions: BTreeMap::new(), faults: BrokerFaults::default() })
    }

    /// Returns what became of the messages so far.
    pub fn counters(&self) -> BrokerCounters {
        self.broker.counters()
    }

    /// Returns the sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns its faults, to change them.
    pub fn faults_mut(&mut self) -> &mut BrokerFaults {
        &mut self.faults
    }

    /// The process ends and begins again: all connections are reset, subscriptions are forgotten.
    pub fn restart(&mut self, context: &mut Context<'_>) {
        for socket in std::mem::take(&mut self.sessions).into_keys() {
            self.broker.forget(socket);
            context.host.tcp_mut().abort(socket);
        }
    }

    fn on_bytes(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        let Ok(bytes) = context.host.tcp_mut().read(socket) else { return };
        let Some(session) = self.sessions.get_mut(&socket) else { return };
        session.reader.push(&bytes);
        while let Some(session) = self.sessions.get_mut(&socket) {
            match session.reader.next() {
                Ok(Some(packet)) => self.on_packet(socket, packet, context),
                Ok(None) => return,
                Err(_) => return self.drop_session(socket, context),
            }
        }
    }

    fn on_packet(&mut self, socket: TcpSocket, packet: Packet, context: &mut Context<'_>) {
        match packet {
            Packet::Connect(_) => {
                let code = match self.faults.refuses {
                    true => ConnectCode::NotAuthorised,
                    false => ConnectCode::Accepted,
                };
                let (receive_max, max_packet, keep_alive) = (None, None, None);
                let ack = ConnAck { code, session_present: false, receive_max, max_packet, keep_alive };
                self.say(socket, &Packet::ConnAck(ack), context);
            }
            Packet::Subscribe { id, topic } => {
                self.broker.subscribe(socket, &topic);
                self.say(socket, &Packet::SubAck { id, code: 1 }, context);
            }
            Packet::Publish { topic, payload, id, .. } => {
                let from = context.host.tcp().remote(socket).map(|remote| remote.ip());
                let is_deaf = from.is_some_and(|from| self.faults.deaf_to.contains(&from));
                let count = match is_deaf {
                    true => 1,
                    false => self.broker.publish(&topic, &payload, context.now),
                };
                let reason = if count == 0 { NO_MATCHING_SUBSCRIBERS } else { 0 };
                if let Some(id) = id {
                    self.say(socket, &Packet::PubAck { id, reason }, context);
                }
            }
            Packet::PingReq => self.say(socket, &Packet::PingResp, context),
            Packet::Disconnect { .. } => self.drop_session(socket, context),
            Packet::ConnAck(_) | Packet::SubAck { .. } | Packet::PubAck { .. } | Packet::PingResp => {}
        }
    }

    /// A connection that cannot take it breaks, which is told as an event.
    fn say(&self, socket: TcpSocket, packet: &Packet, context: &mut Context<'_>) {
        let _ = context.host.tcp_mut().send_whole(socket, &encode(packet), context.now);
    }

    fn deliver(&mut self, socket: TcpSocket, topic: String, payload: Bytes, context: &mut Context<'_>) {
        let to = context.host.tcp().remote(socket).map(|remote| remote.ip());
        if to.is_some_and(|to| self.faults.mute_to.contains(&to)) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&socket) else { return };
        session.next_id = session.next_id.wrapping_add(1).max(1);
        let packet = Packet::Publish { topic, payload, id: Some(session.next_id), dup: false };
        self.say(socket, &packet, context);
    }

    fn drop_session(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        if self.sessions.remove(&socket).is_some() {
            self.broker.forget(socket);
            context.host.tcp_mut().close(socket, context.now);
        }
    }
}

impl Program for BrokerServer {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Tcp(TcpEvent::Accepted { socket, .. }) => {
                if self.sessions.len() < MOST_SESSIONS {
                    self.sessions.insert(socket, BrokerSession::default());
                } else {
                    context.host.tcp_mut().abort(socket);
                }
            }
            HostEvent::Tcp(TcpEvent::Readable(socket)) => self.on_bytes(socket, context),
            HostEvent::Tcp(TcpEvent::PeerClosed(socket) | TcpEvent::Failed(socket, _)) => {
                self.on_bytes(socket, context);
                self.drop_session(socket, context);
            }
            _ => {}
        }
        self.handle_timeout(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        while let Some(delivery) = self.broker.poll_delivery(context.now) {
            self.deliver(delivery.client, delivery.topic, delivery.payload, context);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.broker.next_delivery()
    }
}
