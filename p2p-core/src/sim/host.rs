//! A simulated host with interfaces, routes and sockets.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::packet::{Body, Header, IcmpKind, Packet, Protocol, TTL};
use super::tcp::{SocketError, TcpEvent, TcpOptions, TcpSocket, TcpStack, TcpTimers};
use super::udp::{UdpSocket, UdpStack};
use crate::{Family, Seed};

/// The most events that wait to be polled. Beyond that the oldest are dropped.
const MOST_EVENTS: usize = 65_536;

/// An event on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// An event of a TCP socket.
    Tcp(TcpEvent),
    /// A datagram has come.
    Datagram {
        /// The socket it came to.
        socket: UdpSocket,
        /// The address of the sender.
        from: SocketAddr,
        /// The address of ours that it came to.
        to: SocketAddr,
        /// The payload of the datagram.
        payload: Bytes,
    },
    /// An ICMP error about a datagram of ours.
    Unreachable {
        /// The socket that sent it.
        socket: UdpSocket,
        /// The destination of that datagram.
        to: SocketAddr,
        /// The meaning of the error.
        kind: IcmpKind,
    },
    /// An echo was answered.
    EchoReply {
        /// The address that answered.
        from: IpAddr,
        /// The identifier of the request.
        id: u16,
        /// The sequence number of the request.
        seq: u16,
    },
    /// The broker has brought a message.
    Signal {
        /// The topic that it was published on.
        topic: String,
        /// The bytes of the message.
        payload: Bytes,
    },
}

/// An interface of a host. Interfaces count from zero, in the order they were attached.
#[derive(Clone, Debug)]
struct Interface {
    addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    prefix: IpAddr,
    len: u8,
    interface: usize,
}

/// A host of the simulated world.
///
/// It sends each packet through the interface that has the source address, as p2p binds its sockets. For a socket
/// without a source it chooses one by route. The longest prefix wins, and otherwise the first interface with an
/// address of the family.
#[derive(Debug)]
pub struct Host {
    name: String,
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    tcp: TcpStack,
    udp: UdpStack,
    out: VecDeque<Packet>,
    events: VecDeque<HostEvent>,
    sent: u64,
}

fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

impl Route {
    fn covers(&self, ip: IpAddr) -> bool {
        let ((prefix, width), (ip_bits, _)) = (bits(self.prefix), bits(ip));
        let len = u32::from(self.len).min(width);
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        self.prefix.is_ipv4() == ip.is_ipv4() && prefix & mask == ip_bits & mask
    }
}

impl Host {
    /// Makes a host without interfaces.
    pub fn new(name: &str, timers: TcpTimers, mut seed: Seed) -> Self {
        Self {
            name: name.to_owned(),
            interfaces: Vec::new(),
            routes: Vec::new(),
            tcp: TcpStack::new(timers, seed.fork("tcp")),
            udp: UdpStack::new(seed.fork("udp")),
            out: VecDeque::new(),
            events: VecDeque::new(),
            sent: 0,
        }
    }

    /// Returns the name of the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds an interface, and returns its number.
    pub fn add_interface(&mut self, addresses: Vec<IpAddr>) -> usize {
        self.interfaces.push(Interface { addresses });
        self.interfaces.len() - 1
    }

    pub(super) fn set_addresses(&mut self, interface: usize, addresses: Vec<IpAddr>) {
        if let Some(interface) = self.interfaces.get_mut(interface) {
            interface.addresses = addresses;
        }
    }

    /// How many interfaces it has, those without an address included.
    pub fn interface_count(&self) -> usize {
        self.interfaces.len()
    }

    /// How many packets it has sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Routes packets to `prefix`/`len` through an interface, from sockets without an address of their own.
    pub fn add_route(&mut self, prefix: IpAddr, len: u8, interface: usize) {
        self.routes.push(Route { prefix, len, interface });
    }

    /// Returns all addresses of an interface.
    pub fn addresses(&self, interface: usize) -> &[IpAddr] {
        self.interfaces.get(interface).map_or(&[], |interface| &interface.addresses)
    }

    /// Returns the interface that has this address.
    pub fn interface_of(&self, ip: IpAddr) -> Option<usize> {
        self.interfaces.iter().position(|interface| interface.addresses.contains(&ip))
    }

    /// Returns the first address of this family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let mut all = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        all.find(|ip| Family::of(**ip) == family).copied()
    }

    pub(super) fn source_for(&self, remote: IpAddr) -> Result<IpAddr, SocketError> {
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4();
        let routes = self.routes.iter().filter(|route| route.covers(remote));
        let routed = routes
            .max_by_key(|route| route.len)
            .and_then(|route| self.addresses(route.interface).iter().find(of_family));
        let any = || self.interfaces.iter().flat_map(|i| &i.addresses).find(of_family);
        routed.or_else(any).copied().ok_or(SocketError::NoRoute)
    }

    fn is_ours(&self, local: SocketAddr) -> bool {
        local.ip().is_unspecified() || self.interface_of(local.ip()).is_some()
    }

    /// Returns the TCP sockets, to be looked at.
    pub fn tcp(&self) -> &TcpStack {
        &self.tcp
    }

    /// Returns the TCP sockets, for all calls that need no address: reading, sending, closing.
    pub fn tcp_mut(&mut self) -> &mut TcpStack {
        &mut self.tcp
    }

    /// Makes a bound TCP socket.
    ///
    /// # Errors
    /// [`SocketError`], as `socket` and `bind` of a kernel.
    pub fn tcp_bind(&mut self, local: SocketAddr, options: TcpOptions) -> Result<TcpSocket, SocketError> {
        if !self.is_ours(local) {
            return Err(SocketError::AddressNotAvailable);
        }
        let socket = self.tcp.socket(options)?;
        if let Err(error) = self.tcp.bind(socket, local) {
            self.tcp.abort(socket);
            return Err(error);
        }
        Ok(socket)
    }

    /// Makes a listening TCP socket.
    ///
    /// # Errors
    /// [`SocketError`], as `socket`, `bind` and `listen` of a kernel.
    pub fn tcp_listen(&mut self, local: SocketAddr, options: TcpOptions) -> Result<TcpSocket, SocketError> {
        let socket = self.tcp_bind(local, options)?;
        if let Err(error) = self.tcp.listen(socket) {
            self.tcp.abort(socket);
            return Err(error);
        }
        Ok(socket)
    }

    /// Dials from a socket, bound or not.
    ///
    /// # Errors
    /// [`SocketError`], as `connect` of a kernel.
    pub fn tcp_connect(
        &mut self,
        socket: TcpSocket,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<(), SocketError> {
        let source = self.source_for(remote.ip())?;
        self.tcp.connect(socket, source, remote, now)
    }

    /// Makes a socket, binds it to `local` if there is one, and dials `remote`.
    ///
    /// # Errors
    /// [`SocketError`], as `socket`, `bind` and `connect` of a kernel. There is no socket then.
    pub fn tcp_dial(
        &mut self,
        local: Option<SocketAddr>,
        options: TcpOptions,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<TcpSocket, SocketError> {
        let socket = match local {
            Some(local) => self.tcp_bind(local, options)?,
            None => self.tcp.socket(options)?,
        };
        if let Err(error) = self.tcp_connect(socket, remote, now) {
            self.tcp.abort(socket);
            return Err(error);
        }
        Ok(socket)
    }

    /// Makes a UDP socket; port 0 stands for any.
    ///
    /// # Errors
    /// [`SocketError`], as `socket` and `bind` of a kernel.
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<UdpSocket, SocketError> {
        if !self.is_ours(local) {
            return Err(SocketError::AddressNotAvailable);
        }
        self.udp.bind(local)
    }

    /// Returns the address a UDP socket is bound to.
    pub fn udp_local(&self, socket: UdpSocket) -> Option<SocketAddr> {
        self.udp.local(socket)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// [`SocketError`] when the socket is closed, the payload is longer than 65,507 bytes, or there is no route.
    pub fn udp_send(&mut self, socket: UdpSocket, to: SocketAddr, payload: Bytes) -> Result<(), SocketError> {
        let bound = self.udp.local(socket).ok_or(SocketError::NoSuchSocket)?;
        let ip = if bound.ip().is_unspecified() { self.source_for(to.ip())? } else { bound.ip() };
        if ip.is_ipv4() != to.is_ipv4() {
            return Err(SocketError::NoRoute);
        }
        let from = SocketAddr::new(ip, bound.port());
        let packet = Packet::udp(from, to, payload).ok_or(SocketError::TooLong)?;
        self.out.push_back(packet);
        Ok(())
    }

    /// Closes a UDP socket.
    pub fn udp_close(&mut self, socket: UdpSocket) {
        self.udp.close(socket);
    }

    /// Closes all UDP sockets, as the end of their program does.
    pub fn udp_close_all(&mut self) {
        self.udp.close_all();
    }

    /// Sends an ICMP echo request.
    ///
    /// # Errors
    /// [`SocketError`] when there is no route.
    pub fn ping(&mut self, to: IpAddr, id: u16, seq: u16) -> Result<(), SocketError> {
        let from = self.source_for(to)?;
        let body = Body::Echo { reply: false, seq, len: 0 };
        let header = Header { src: SocketAddr::new(from, id), dst: SocketAddr::new(to, 0), ttl: TTL, body };
        self.out.push_back(header.into());
        Ok(())
    }

    /// Takes a packet that has come. Returns true when it was for this host.
    pub fn handle_packet(&mut self, packet: &Packet, now: Instant) -> bool {
        let Header { src, dst, body, .. } = packet.header;
        if self.interface_of(dst.ip()).is_none() {
            return false;
        }
        match body {
            Body::Tcp(_) => self.tcp.handle_segment(packet, now),
            Body::Udp { .. } => match self.udp.at(dst.ip(), dst.port()) {
                Some(socket) => self.push(HostEvent::Datagram {
                    socket,
                    from: src,
                    to: dst,
                    payload: packet.payload.clone(),
                }),
                None => {
                    let error = packet.header.icmp_error(dst.ip(), IcmpKind::PortUnreachable);
                    self.out.extend(error.map(Packet::from));
                }
            },
            Body::Icmp { kind, quoted } => match quoted.protocol {
                Protocol::Tcp => self.tcp.handle_icmp(src.ip(), kind, &quoted),
                Protocol::Udp => {
                    if let Some(socket) = self.udp.at(quoted.src.ip(), quoted.src.port()) {
                        let to = quoted.dst;
                        self.push(HostEvent::Unreachable { socket, to, kind });
                    }
                }
                Protocol::Echo => (),
            },
            Body::Echo { reply: true, seq, .. } => {
                self.push(HostEvent::EchoReply { from: src.ip(), id: dst.port(), seq })
            }
            Body::Echo { reply: false, seq, len } => {
                let reply =
                    Header { src: dst, dst: src, ttl: TTL, body: Body::Echo { reply: true, seq, len } };
                self.out.push_back(Packet { header: reply, payload: packet.payload.clone() });
            }
        }
        true
    }

    pub(super) fn push(&mut self, event: HostEvent) {
        if self.events.len() >= MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.tcp.next_timeout()
    }

    /// Notes that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tcp.handle_timeout(now);
    }

    /// Returns the next packet to send.
    pub fn poll_packet(&mut self) -> Option<Packet> {
        let packet = self.tcp.poll_packet().or_else(|| self.out.pop_front());
        self.sent += u64::from(packet.is_some());
        packet
    }

    /// Returns the next event, unless a program of this host takes them.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        self.collect_events();
        self.events.pop_front()
    }

    /// Moves the events of sockets into the one bounded queue.
    pub(super) fn collect_events(&mut self) {
        while let Some(event) = self.tcp.poll_event() {
            self.push(HostEvent::Tcp(event));
        }
    }
}
