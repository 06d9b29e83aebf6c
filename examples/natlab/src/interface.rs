//! The interfaces of a namespace: TUN devices with addresses and routes.

use std::fs;
use std::io;
use std::net::IpAddr;

use p2p_core::Family;

use crate::cidr::Cidr;
use crate::netlink::{MAIN, Netlink};
use crate::scenario::Routing;
use crate::tun::Tun;

/// The largest packet that the Internet carries, in bytes.
const MTU: u32 = 1_500;
/// The packets that the kernel holds while we are busy. The usual 500 overflow at a few hundred Mbit/s.
const QUEUE: u32 = 8_192;
/// The first of the routing tables that belong to one interface each.
const TABLES: u32 = 100;

/// The setup of an interface.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) addresses: Vec<Cidr>,
    /// The routers that forward to other networks.
    pub(crate) gateways: Vec<IpAddr>,
}

/// Makes these interfaces in the calling thread's namespace, which is empty.
pub(crate) fn set_up(interfaces: &[Setup], routing: Routing, offload: bool) -> io::Result<Vec<Tun>> {
    // A namespace starts with the machine's IPv4 settings, but a lab must be the same everywhere.
    for (key, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        // The kernel must add no link-local addresses, as only those of the scenario may be there.
        ("ipv6/conf/default/addr_gen_mode", "1"),
    ] {
        set(key, value)?;
    }
    let mut netlink = Netlink::new()?;
    netlink.up("lo", None, None)?;
    let mut tuns = Vec::new();
    for (number, interface) in (0..).zip(interfaces) {
        tuns.push(Tun::new(&interface.name, offload)?);
        let index = netlink.up(&interface.name, Some(MTU), Some(QUEUE))?;
        for address in &interface.addresses {
            netlink.address(index, *address)?;
        }
        for gateway in &interface.gateways {
            let everything = Cidr::everything(Family::of(*gateway));
            netlink.route(index, everything, Some(*gateway), MAIN, 100 * (number + 1))?;
        }
        if routing == Routing::Source && interfaces.len() > 1 {
            own_table(&mut netlink, index, TABLES + number, interface)?;
        }
    }
    Ok(tuns)
}

/// Makes a routing table for packets from this interface's addresses.
fn own_table(netlink: &mut Netlink, index: u32, table: u32, interface: &Setup) -> io::Result<()> {
    let mut networks: Vec<Cidr> = interface.addresses.iter().map(Cidr::network).collect();
    networks.dedup();
    for network in networks {
        netlink.route(index, network, None, table, 0)?;
    }
    for gateway in &interface.gateways {
        netlink.route(index, Cidr::everything(Family::of(*gateway)), Some(*gateway), table, 0)?;
    }
    for address in &interface.addresses {
        netlink.rule(address.ip(), table)?;
    }
    Ok(())
}

/// Writes one of the settings under `/proc/sys/net`. A kernel without IPv6 has none of its settings.
pub(crate) fn set(key: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{key}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && key.starts_with("ipv6") => Ok(()),
        other => other,
    }
}
