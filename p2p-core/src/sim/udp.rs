//! The UDP sockets of a simulated host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::packet::unspecified;
use super::tcp::SocketError;
use crate::Seed;

/// The most sockets of one host.
const MOST_SOCKETS: usize = 65_536;

/// A UDP socket of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpSocket(u32);

impl fmt::Display for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp#{}", self.0)
    }
}

/// All UDP sockets of one host.
#[derive(Debug)]
pub(super) struct UdpStack {
    seed: Seed,
    by_address: BTreeMap<SocketAddr, UdpSocket>,
    bound: BTreeMap<UdpSocket, SocketAddr>,
    next: u32,
}

impl UdpStack {
    pub(super) fn new(seed: Seed) -> Self {
        Self { seed, by_address: BTreeMap::new(), bound: BTreeMap::new(), next: 0 }
    }

    pub(super) fn bind(&mut self, mut local: SocketAddr) -> Result<UdpSocket, SocketError> {
        if self.bound.len() >= MOST_SOCKETS {
            return Err(SocketError::TooMany);
        }
        if local.port() == 0 {
            let start = self.seed.below(28_232) as u16;
            let port = (0..28_232_u16)
                .map(|step| 32_768 + (start + step) % 28_232)
                .find(|port| !self.is_in_use(SocketAddr::new(local.ip(), *port)))
                .ok_or(SocketError::NoPort)?;
            local.set_port(port);
        } else if self.is_in_use(local) {
            return Err(SocketError::AddressInUse);
        }
        // Numbers repeat only after 2³² sockets, and one that is still in use is skipped.
        while self.bound.contains_key(&UdpSocket(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let socket = UdpSocket(self.next);
        self.next = self.next.wrapping_add(1);
        self.by_address.insert(local, socket);
        self.bound.insert(socket, local);
        Ok(socket)
    }

    /// Tells whether the address is taken, or its port on an address that overlaps it.
    fn is_in_use(&self, local: SocketAddr) -> bool {
        let any = SocketAddr::new(unspecified(local.ip()), local.port());
        let taken = |address| self.by_address.contains_key(address);
        if local != any {
            return taken(&local) || taken(&any);
        }
        let family = |other: &&SocketAddr| other.is_ipv4() == local.is_ipv4();
        self.by_address.keys().filter(family).any(|other| other.port() == local.port())
    }

    pub(super) fn close(&mut self, socket: UdpSocket) {
        if let Some(local) = self.bound.remove(&socket) {
            self.by_address.remove(&local);
        }
    }

    pub(super) fn close_all(&mut self) {
        self.bound.clear();
        self.by_address.clear();
    }

    pub(super) fn local(&self, socket: UdpSocket) -> Option<SocketAddr> {
        self.bound.get(&socket).copied()
    }

    /// Returns the socket that receives datagrams to `ip:port`.
    pub(super) fn at(&self, ip: IpAddr, port: u16) -> Option<UdpSocket> {
        let exact = self.by_address.get(&SocketAddr::new(ip, port));
        exact.or_else(|| self.by_address.get(&SocketAddr::new(unspecified(ip), port))).copied()
    }
}
