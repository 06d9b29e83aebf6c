//! A network interface of this machine, and its addresses, in our own words.

use std::net::IpAddr;

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
    /// Its name for people: `eth0`, `en0`; on Windows the name it is shown with.
    pub name: String,
    /// Its number for the system, never 0.
    pub index: u32,
    /// Its addresses, sorted.
    pub addresses: Vec<NicAddress>,
    /// Whether it leads nowhere but here.
    pub is_loopback: bool,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Its default gateways: where a port mapping can be asked for.
    pub gateways: Vec<IpAddr>,
}
