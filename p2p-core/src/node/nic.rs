//! Network interfaces, as a node is told of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use crate::{Family, Reach};

/// Numbers an interface of a node. An address that is published names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicId(pub u8);

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network prefix, in bits.
    pub prefix: u8,
    /// The zone a link-local IPv6 address is valid in; 0 for all others.
    pub scope: u32,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The name people know it by: `eth0`, `en0`; on Windows the name it is shown with.
    pub name: String,
    /// The number the system knows it by, never 0.
    pub index: u32,
    /// Its addresses, sorted.
    pub addresses: Vec<NicAddress>,
    /// Tells that it leads nowhere but to this machine.
    pub is_loopback: bool,
    /// Tells that it is switched on.
    pub is_up: bool,
    /// Its default gateways, which can be asked for a port mapping.
    pub gateways: Vec<IpAddr>,
}

impl Nic {
    /// Returns a loopback interface that has 127.0.0.1 and nothing else, for nodes that stay on their machine.
    pub fn loopback() -> Self {
        Self {
            name: "loopback".to_owned(),
            index: 1,
            addresses: vec![NicAddress { ip: Ipv4Addr::LOCALHOST.into(), prefix: 8, scope: 0 }],
            is_loopback: true,
            is_up: true,
            gateways: Vec::new(),
        }
    }

    /// Tells whether it is up and has an address of one of these families to listen on.
    pub fn is_usable(&self, families: &BTreeSet<Family>) -> bool {
        self.is_up && self.addresses.iter().any(|address| families.contains(&address.family()))
    }

    /// Tells whether both are one interface: the system may have given it other addresses in between.
    pub fn is_same(&self, other: &Self) -> bool {
        self.index == other.index && self.name == other.name
    }

    /// Returns the addresses to listen on: none while the interface is down.
    pub(super) fn wanted(&self, families: &BTreeSet<Family>) -> Vec<NicAddress> {
        let fits = |address: &&NicAddress| self.is_up && families.contains(&address.family());
        self.addresses.iter().filter(fits).copied().collect()
    }
}

impl NicAddress {
    /// Returns the socket address with this port, and with the zone where there is one.
    pub fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }

    /// Returns its family.
    pub fn family(self) -> Family {
        Family::of(self.ip)
    }

    /// Tells whether a server can be reached from it: an address that leads nowhere outside cannot ask outside.
    pub(super) fn can_ask(self, server: SocketAddr) -> bool {
        let reach = Reach::of(server.ip());
        self.family() == Family::of(server.ip())
            && match Reach::of(self.ip) {
                narrow @ (Reach::Loopback | Reach::Link) => reach == narrow,
                _ => reach != Reach::Nowhere,
            }
    }
}
