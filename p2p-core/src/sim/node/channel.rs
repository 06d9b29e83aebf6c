//! The session with one broker, over a connection of the host.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::sockets::{HostSockets, TcpUse};
use crate::node::ChannelId;
use crate::signal::link::{Act, Event, FailReason, Link, LinkError};
use crate::sim::broker::wire::{PacketReader, encode};
use crate::sim::tcp::{TcpEvent, TcpOptions, TcpSocket};
use crate::sim::world::Context;
use crate::{Machine, Output};

/// A [`Link`], and the connection it speaks over. TLS is played by TCP.
#[derive(Debug)]
pub(super) struct BrokerChannel {
    id: ChannelId,
    link: Link,
    socket: Option<TcpSocket>,
    reader: PacketReader,
    /// Dials under way, of which the first to lead to a connection counts.
    dials: Vec<TcpSocket>,
    /// Addresses of the broker that were not dialled yet, and when the next one is.
    left: VecDeque<SocketAddr>,
    next_at: Option<Instant>,
    wait: Option<Instant>,
}

/// Tells what a channel wants of its owner.
#[derive(Debug)]
pub(super) enum ChannelNews {
    /// Tell the node.
    Event(Event),
    /// Look the broker's name up, and call [`BrokerChannel::dial`].
    LookUp,
}

impl BrokerChannel {
    pub(super) fn new(id: ChannelId, link: Link) -> Self {
        Self {
            id,
            link,
            socket: None,
            reader: PacketReader::default(),
            dials: Vec::new(),
            left: VecDeque::new(),
            next_at: None,
            wait: None,
        }
    }

    pub(super) fn wait(&self) -> Option<Instant> {
        [self.wait, self.next_at].into_iter().flatten().min()
    }

    /// Has something published.
    pub(super) fn publish(
        &mut self,
        ticket: u64,
        topic: String,
        payload: Bytes,
        until: Instant,
        now: Instant,
    ) -> Option<Event> {
        let taken = self.link.publish(ticket, topic, payload, until, now);
        taken.err().map(|error| Event::Failed { ticket, reason: FailReason::NotTaken(error) })
    }

    pub(super) fn handle_network_changed(&mut self, now: Instant) {
        self.link.handle_network_changed(now);
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.link.close(now);
    }

    pub(super) fn handle_timeout(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) {
        if self.next_at.is_some_and(|at| at <= context.now) {
            self.dial_next("no address".into(), sockets, context);
        }
        self.link.handle_timeout(context.now);
    }

    /// Dials the broker at these addresses, families by turns, one after the other (RFC 8305).
    pub(super) fn dial(
        &mut self,
        found: Result<Vec<SocketAddr>, String>,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) {
        match found {
            Ok(found) => {
                self.left = found.into();
                self.dial_next("no address".into(), sockets, context);
            }
            Err(why) => self.link.handle_lost(LinkError::Unresolved(why), context.now),
        }
    }

    fn dial_next(&mut self, mut why: String, sockets: &mut HostSockets, context: &mut Context<'_>) {
        self.next_at = None;
        while let Some(to) = self.left.pop_front() {
            match sockets.dial(TcpUse::Channel(self.id), (None, to), TcpOptions::default(), context) {
                Ok(socket) => {
                    self.dials.push(socket);
                    self.next_at = (!self.left.is_empty()).then(|| context.now + STAGGER);
                    return;
                }
                Err(error) => why = error.to_string(),
            }
        }
        if self.dials.is_empty() {
            self.link.handle_lost(LinkError::Unreachable(why), context.now);
        }
    }

    /// Performs what the session wants until it rests, and returns what it tells.
    pub(super) fn turn(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) -> Vec<ChannelNews> {
        let mut news = Vec::new();
        loop {
            match self.link.poll_output() {
                Output::Act(Act::Dial(_)) => {
                    self.hang_up(sockets, context);
                    news.push(ChannelNews::LookUp);
                }
                Output::Act(Act::Send(packet)) => {
                    if let Some(socket) = self.socket {
                        // A connection that cannot take it breaks, which is told as an event.
                        let _ = context.host.tcp_mut().send_whole(socket, &encode(&packet), context.now);
                    }
                }
                Output::Act(Act::HangUp) => self.hang_up(sockets, context),
                Output::Event(event) => news.push(ChannelNews::Event(event)),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return news;
                }
            }
        }
    }

    fn hang_up(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) {
        self.left.clear();
        self.next_at = None;
        for socket in self.dials.drain(..) {
            sockets.close(socket, context);
        }
        if let Some(socket) = self.socket.take() {
            // What came and was not read would turn the farewell into a RST.
            let _ = context.host.tcp_mut().read(socket);
            sockets.close(socket, context);
        }
    }

    /// Something happened on its connection. Returns what the session tells.
    pub(super) fn on_tcp(
        &mut self,
        event: TcpEvent,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) -> Vec<ChannelNews> {
        let (TcpEvent::Connected(socket)
        | TcpEvent::Readable(socket)
        | TcpEvent::PeerClosed(socket)
        | TcpEvent::Failed(socket, _)) = event
        else {
            return Vec::new();
        };
        if let Some(index) = self.dials.iter().position(|dial| *dial == socket) {
            self.dials.remove(index);
            match event {
                TcpEvent::Connected(_) => {
                    self.hang_up(sockets, context);
                    (self.socket, self.reader) = (Some(socket), PacketReader::default());
                    self.link.handle_connected(context.now);
                }
                _ => {
                    sockets.close(socket, context);
                    let why = match event {
                        TcpEvent::Failed(_, failure) => failure.to_string(),
                        _ => "closed".into(),
                    };
                    self.dial_next(why, sockets, context);
                }
            }
            return self.turn(sockets, context);
        }
        if self.socket != Some(socket) {
            return Vec::new();
        }
        let mut news = Vec::new();
        match event {
            TcpEvent::Readable(_) => news = self.on_bytes(socket, sockets, context),
            TcpEvent::PeerClosed(_) => {
                news = self.on_bytes(socket, sockets, context);
                self.lose(LinkError::Lost("closed by the broker".into()), sockets, context);
            }
            TcpEvent::Failed(_, failure) => {
                self.lose(LinkError::Lost(failure.to_string().into()), sockets, context);
            }
            TcpEvent::Connected(_) | TcpEvent::Accepted { .. } => {}
        }
        news.extend(self.turn(sockets, context));
        news
    }

    fn lose(&mut self, why: LinkError, sockets: &mut HostSockets, context: &mut Context<'_>) {
        if let Some(socket) = self.socket.take() {
            sockets.close(socket, context);
            self.link.handle_lost(why, context.now);
        }
    }

    fn on_bytes(
        &mut self,
        socket: TcpSocket,
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) -> Vec<ChannelNews> {
        let mut news = Vec::new();
        let Ok(bytes) = context.host.tcp_mut().read(socket) else { return news };
        self.reader.push(&bytes);
        while self.socket == Some(socket) {
            match self.reader.next() {
                Ok(Some(packet)) => {
                    self.link.handle_packet(packet, context.now);
                    news.extend(self.turn(sockets, context));
                }
                Ok(None) => break,
                Err(_) => self.lose(LinkError::Malformed("no packet".into()), sockets, context),
            }
        }
        news
    }
}

/// The pause before the next address is dialled (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
