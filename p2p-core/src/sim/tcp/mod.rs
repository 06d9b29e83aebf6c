//! The TCP of a simulated host, as far as punching goes, and as Linux does it.
//!
//! Sockets are bound, listen and dial, also on one port at once. SYNs are sent again at the kernel's times; they
//! cross, and make one connection. A RST refuses, and an ICMP error aborts. A 4-tuple in use cannot be dialled, nor
//! can one in TIME_WAIT. Data is delivered in order and sent again when lost, with a fixed window and without
//! congestion control. That is good enough for handshakes, not for throughput. SYN times and the rules of shared
//! ports were compared with Linux 6.18.

mod bind;
mod connection;
mod error;
mod options;
mod state;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use connection::{Change, Connection, Io};
pub use error::{Failure, SocketError};
pub use options::{TcpOptions, TcpTimers};
pub use state::TcpState;

use super::packet::{Body, Header, IcmpKind, Packet, Quoted};
use crate::Seed;

/// The most connections of one listener that are half open, or open and not accepted.
const BACKLOG: usize = 4_096;
/// The most sockets of one host.
const MOST_SOCKETS: usize = 65_536;

/// A TCP socket of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpSocket(u32);

impl fmt::Display for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp#{}", self.0)
    }
}

/// An event of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEvent {
    /// A dial has succeeded.
    Connected(TcpSocket),
    /// A listener has a new connection.
    Accepted {
        /// The listener that accepted it.
        listener: TcpSocket,
        /// The new connection.
        socket: TcpSocket,
    },
    /// A connection or a dial has ended badly.
    Failed(TcpSocket, Failure),
    /// There are bytes to read.
    Readable(TcpSocket),
    /// The other side sends no more.
    PeerClosed(TcpSocket),
}

#[derive(Debug)]
struct Socket {
    options: TcpOptions,
    bound: Option<SocketAddr>,
    role: Role,
    /// The address that sent the last ICMP error about the socket.
    accused_by: Option<IpAddr>,
    /// The time under which the timer queue holds the socket.
    timer: Option<Instant>,
}

#[derive(Debug)]
enum Role {
    /// The socket neither listens nor is connected, or is no longer connected.
    Idle,
    Listener {
        /// The number of half-open connections, and of those not yet told of.
        pending: usize,
    },
    Connection {
        connection: Box<Connection>,
        listener: Option<TcpSocket>,
    },
}

/// All TCP sockets of one host.
#[derive(Debug)]
pub struct TcpStack {
    timers: TcpTimers,
    seed: Seed,
    sockets: BTreeMap<TcpSocket, Socket>,
    next: u32,
    by_port: BTreeSet<(u16, TcpSocket)>,
    by_tuple: BTreeMap<(SocketAddr, SocketAddr), TcpSocket>,
    deadlines: BTreeSet<(Instant, TcpSocket)>,
    io: Io,
    events: VecDeque<TcpEvent>,
}

impl TcpStack {
    /// Makes a stack without sockets.
    pub fn new(timers: TcpTimers, seed: Seed) -> Self {
        Self {
            timers,
            seed,
            sockets: BTreeMap::new(),
            next: 0,
            by_port: BTreeSet::new(),
            by_tuple: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            io: Io::default(),
            events: VecDeque::new(),
        }
    }

    /// Makes a socket.
    ///
    /// # Errors
    /// [`SocketError::TooMany`] when the host has as many as it may.
    pub fn socket(&mut self, options: TcpOptions) -> Result<TcpSocket, SocketError> {
        if self.sockets.len() >= MOST_SOCKETS {
            return Err(SocketError::TooMany);
        }
        while self.sockets.contains_key(&TcpSocket(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let id = TcpSocket(self.next);
        self.next = self.next.wrapping_add(1);
        self.sockets
            .insert(id, Socket { options, bound: None, role: Role::Idle, accused_by: None, timer: None });
        Ok(id)
    }

    /// Starts to listen on a bound socket.
    ///
    /// # Errors
    /// [`SocketError`] when the socket is not bound or already used, or the port is shared with sockets that do not
    /// agree.
    pub fn listen(&mut self, id: TcpSocket) -> Result<(), SocketError> {
        let socket = self.sockets.get(&id).ok_or(SocketError::NoSuchSocket)?;
        let local = socket.bound.ok_or(SocketError::NotBound)?;
        if !matches!(socket.role, Role::Idle) {
            return Err(SocketError::AlreadyUsed);
        }
        if self.is_in_use(id, local) {
            return Err(SocketError::AddressInUse);
        }
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.role = Role::Listener { pending: 0 };
        }
        Ok(())
    }

    /// Dials `remote` from `source`, or from the address the socket is bound to.
    ///
    /// # Errors
    /// [`SocketError::AddressNotAvailable`] when the 4-tuple is in use, in whatever state.
    pub fn connect(
        &mut self,
        id: TcpSocket,
        source: IpAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<(), SocketError> {
        let socket = self.sockets.get(&id).ok_or(SocketError::NoSuchSocket)?;
        if !matches!(socket.role, Role::Idle) {
            return Err(SocketError::AlreadyUsed);
        }
        let (options, bound) = (socket.options, socket.bound);
        let ip = match bound {
            Some(bound) if !bound.ip().is_unspecified() => bound.ip(),
            _ => source,
        };
        let port = match bound {
            Some(bound) => bound.port(),
            None => {
                let free = |stack: &Self, port| {
                    let local = SocketAddr::new(ip, port);
                    !stack.is_port_used(port) && !stack.by_tuple.contains_key(&(local, remote))
                };
                self.ephemeral(0, free).ok_or(SocketError::NoPort)?
            }
        };
        let local = SocketAddr::new(ip, port);
        if self.by_tuple.contains_key(&(local, remote)) {
            return Err(SocketError::AddressNotAvailable);
        }
        if bound.is_none() {
            self.set_bound(id, local);
        }
        let iss = self.isn();
        let connection = Connection::dial((local, remote), iss, options.ttl, self.timers, now, &mut self.io);
        self.install(id, connection, None);
        Ok(())
    }

    fn isn(&mut self) -> u32 {
        (self.seed.number() >> 32) as u32
    }

    fn install(&mut self, id: TcpSocket, connection: Connection, listener: Option<TcpSocket>) {
        self.by_tuple.insert((connection.local, connection.remote), id);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.role = Role::Connection { connection: Box::new(connection), listener };
        }
        self.settle(id);
    }

    fn connection(&self, id: TcpSocket) -> Option<&Connection> {
        match &self.sockets.get(&id)?.role {
            Role::Connection { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// Lets `act` work on a connection, and then handles what changed.
    fn with<T>(
        &mut self,
        id: TcpSocket,
        act: impl FnOnce(&mut Connection, &mut Io) -> T,
    ) -> Result<T, SocketError> {
        let socket = self.sockets.get_mut(&id).ok_or(SocketError::NoSuchSocket)?;
        let Role::Connection { connection, .. } = &mut socket.role else {
            return Err(SocketError::NotConnected);
        };
        let result = act(connection, &mut self.io);
        self.settle(id);
        Ok(result)
    }

    /// Turns changes into events, renews the timer, and removes a connection that is over.
    fn settle(&mut self, id: TcpSocket) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let Role::Connection { connection, listener } = &mut socket.role else {
            return;
        };
        let mut told = None;
        for change in self.io.changes.drain(..) {
            self.events.push_back(match (change, *listener) {
                (Change::Established, Some(listener)) => {
                    told = Some(listener);
                    TcpEvent::Accepted { listener, socket: id }
                }
                (Change::Established, None) => TcpEvent::Connected(id),
                (Change::Failed(why), _) => TcpEvent::Failed(id, why),
                (Change::Readable, _) => TcpEvent::Readable(id),
                (Change::PeerClosed, _) => TcpEvent::PeerClosed(id),
            });
        }
        let (over, detached) = (connection.is_over(), connection.is_detached);
        let unannounced = over && listener.is_some() && told.is_none();
        let tuple = (connection.local, connection.remote);
        let deadline = connection.deadline();
        if told.is_some() {
            *listener = None;
        }
        let orphan_of = if unannounced { *listener } else { told };
        if socket.timer != deadline {
            if let Some(old) = socket.timer {
                self.deadlines.remove(&(old, id));
            }
            if let Some(new) = deadline {
                self.deadlines.insert((new, id));
            }
            socket.timer = deadline;
        }
        if over {
            socket.role = Role::Idle;
            self.by_tuple.remove(&tuple);
            if detached || unannounced {
                self.bury(id);
            }
        }
        if let Some(listener) = orphan_of.and_then(|id| self.sockets.get_mut(&id))
            && let Role::Listener { pending } = &mut listener.role
        {
            *pending = pending.saturating_sub(1);
        }
    }

    fn bury(&mut self, id: TcpSocket) {
        if let Some(socket) = self.sockets.remove(&id) {
            if let Some(bound) = socket.bound {
                self.by_port.remove(&(bound.port(), id));
            }
            if let Some(timer) = socket.timer {
                self.deadlines.remove(&(timer, id));
            }
        }
    }

    /// Sets `IP_TTL` for the packets that the socket sends from now on.
    ///
    /// # Errors
    /// [`SocketError::NoSuchSocket`] when there is no such socket.
    pub fn set_ttl(&mut self, id: TcpSocket, ttl: u8) -> Result<(), SocketError> {
        let socket = self.sockets.get_mut(&id).ok_or(SocketError::NoSuchSocket)?;
        socket.options.ttl = ttl;
        if let Role::Connection { connection, .. } = &mut socket.role {
            connection.ttl = ttl;
        }
        Ok(())
    }

    /// Lets others share the port of this socket from now on, as `SO_REUSEPORT` set after `listen` does.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn share_port(&mut self, id: TcpSocket) -> Result<(), SocketError> {
        let socket = self.sockets.get_mut(&id).ok_or(SocketError::NoSuchSocket)?;
        socket.options.reuse_port = true;
        Ok(())
    }

    /// Queues bytes to be sent, and returns the number that there was room for.
    ///
    /// # Errors
    /// [`SocketError`] when the socket is not connected, or was shut.
    pub fn send(&mut self, id: TcpSocket, bytes: &[u8], now: Instant) -> Result<usize, SocketError> {
        if !self.connection(id).is_some_and(Connection::is_sendable) {
            return Err(SocketError::NotConnected);
        }
        self.with(id, |connection, io| connection.send(bytes, now, io))
    }

    /// Queues all of `bytes`, or none where there is no room. Returns true when they were taken. A message that is
    /// cut would spoil those that follow it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_whole(&mut self, id: TcpSocket, bytes: &[u8], now: Instant) -> Result<bool, SocketError> {
        match self.connection(id) {
            Some(connection) if connection.room() >= bytes.len() => self.send(id, bytes, now).map(|_| true),
            Some(_) => Ok(false),
            None => Err(SocketError::NotConnected),
        }
    }

    /// Returns all bytes that have come and were not read, which may be none.
    ///
    /// # Errors
    /// [`SocketError`] when the socket was never connected, or the connection has failed.
    pub fn read(&mut self, id: TcpSocket) -> Result<Bytes, SocketError> {
        self.with(id, |connection, _| connection.read())
    }

    /// The first bytes that have come and were not read, `most` at most; the rest stays. Empty when there are none.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_at_most(&mut self, id: TcpSocket, most: usize) -> Result<Bytes, SocketError> {
        self.with(id, |connection, _| connection.read_at_most(most))
    }

    /// Whether the other side sends no more, and all that it sent was read. A connection that is gone has ended, too.
    pub fn is_ended(&self, id: TcpSocket) -> bool {
        self.connection(id).is_none_or(Connection::is_ended)
    }

    /// Ends our direction: a FIN follows what is queued.
    ///
    /// # Errors
    /// [`SocketError`] when the socket is not connected.
    pub fn shut(&mut self, id: TcpSocket, now: Instant) -> Result<(), SocketError> {
        self.with(id, |connection, io| connection.shut(now, io))
    }

    /// Closes a socket: with FIN and TIME_WAIT where there is a connection, and with a RST when bytes were not read.
    pub fn close(&mut self, id: TcpSocket, now: Instant) {
        self.end(id, |connection, io| connection.detach(now, io));
    }

    /// Closes a socket with a RST where there is a connection (`SO_LINGER` of zero).
    pub fn abort(&mut self, id: TcpSocket) {
        self.end(id, |connection, io| {
            connection.is_detached = true;
            connection.abort(io);
        });
    }

    fn end(&mut self, id: TcpSocket, act: impl FnOnce(&mut Connection, &mut Io)) {
        match self.sockets.get(&id).map(|socket| &socket.role) {
            None => (),
            Some(Role::Idle) => self.bury(id),
            Some(Role::Connection { .. }) => {
                // The socket is there, so this cannot fail.
                let _ = self.with(id, act);
            }
            Some(Role::Listener { .. }) => {
                self.bury(id);
                let is_child = |(child, socket): (&TcpSocket, &Socket)| match &socket.role {
                    Role::Connection { listener: Some(of), .. } if *of == id => Some(*child),
                    _ => None,
                };
                let children: Vec<_> = self.sockets.iter().filter_map(is_child).collect();
                for child in children {
                    self.abort(child);
                }
            }
        }
    }

    /// Returns the state of a connection; [`TcpState::Closed`] when there is none.
    pub fn state(&self, id: TcpSocket) -> TcpState {
        self.connection(id).map_or(TcpState::Closed, |connection| connection.state)
    }

    /// Tells whether the connection came from SYNs that crossed.
    pub fn is_crossed(&self, id: TcpSocket) -> bool {
        self.connection(id).is_some_and(|connection| connection.is_crossed)
    }

    /// Returns the address a socket is bound to, or the own end of its connection.
    pub fn local(&self, id: TcpSocket) -> Option<SocketAddr> {
        let connected = self.connection(id).map(|connection| connection.local);
        connected.or_else(|| self.sockets.get(&id)?.bound)
    }

    /// Returns the other end of a connection.
    pub fn remote(&self, id: TcpSocket) -> Option<SocketAddr> {
        self.connection(id).map(|connection| connection.remote)
    }

    /// Returns all sockets, in the order of their numbers.
    pub fn sockets(&self) -> impl Iterator<Item = TcpSocket> {
        self.sockets.keys().copied()
    }

    /// Returns the number of sockets, those in TIME_WAIT included.
    pub fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    /// Takes a segment for this host.
    pub fn handle_segment(&mut self, packet: &Packet, now: Instant) {
        let Header { src, dst, body, .. } = packet.header;
        let Body::Tcp(tcp) = body else { return };
        let existing = self.by_tuple.get(&(dst, src)).copied();
        if let Some(id) = existing {
            if !self.connection(id).is_some_and(|connection| connection.gives_way_to(tcp)) {
                // The socket is there, so this cannot fail.
                let _ = self.with(id, |connection, io| {
                    connection.handle_segment(tcp, &packet.payload, now, io);
                });
                return;
            }
            self.abort(id);
        }
        let listener = tcp.flags.is_syn().then(|| self.listener(dst)).flatten();
        match listener {
            Some(listener) => self.answer(listener, dst, src, packet, now),
            None => self.io.packets.extend(packet.header.reset().map(Packet::from)),
        }
    }

    fn listener(&self, local: SocketAddr) -> Option<TcpSocket> {
        let listens = |ip: IpAddr| {
            self.on_port(local.port()).find(|(_, socket)| {
                let here = socket.bound.is_some_and(|bound| bound.ip() == ip);
                here && matches!(socket.role, Role::Listener { .. })
            })
        };
        let any = super::packet::unspecified(local.ip());
        listens(local.ip()).or_else(|| listens(any)).map(|(id, _)| id)
    }

    fn answer(
        &mut self,
        listener: TcpSocket,
        local: SocketAddr,
        remote: SocketAddr,
        syn: &Packet,
        now: Instant,
    ) {
        let Body::Tcp(tcp) = syn.header.body else { return };
        let Some(socket) = self.sockets.get_mut(&listener) else {
            return;
        };
        let options = socket.options;
        let Role::Listener { pending } = &mut socket.role else {
            return;
        };
        if *pending >= BACKLOG {
            return;
        }
        *pending += 1;
        // A host without room for a socket is silent, like one with a full backlog.
        let Ok(id) = self.socket(options) else { return };
        self.set_bound(id, local);
        let iss = self.isn();
        let ends = (local, remote);
        let connection = Connection::answer(ends, tcp, iss, options.ttl, self.timers, now, &mut self.io);
        self.install(id, connection, Some(listener));
    }

    /// Returns the sender of the last ICMP error about a packet of this socket, as the error queue of Linux tells it
    /// (`IP_RECVERR`).
    pub fn accused_by(&self, id: TcpSocket) -> Option<IpAddr> {
        self.sockets.get(&id)?.accused_by
    }

    /// Takes an ICMP error of `from` about a segment of this host.
    pub fn handle_icmp(&mut self, from: IpAddr, kind: IcmpKind, quoted: &Quoted) {
        if let Some(id) = self.by_tuple.get(&(quoted.src, quoted.dst)).copied() {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.accused_by = Some(from);
            }
            // The socket is there, so this cannot fail.
            let _ = self.with(id, |connection, io| connection.handle_icmp(kind, quoted.seq, io));
        }
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Notes that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            let handled = self.with(id, |connection, io| connection.handle_timeout(now, io));
            if handled.is_err() {
                self.deadlines.remove(&(at, id));
            }
        }
    }

    /// Returns the next packet to send.
    pub fn poll_packet(&mut self) -> Option<Packet> {
        self.io.packets.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<TcpEvent> {
        self.events.pop_front()
    }
}
