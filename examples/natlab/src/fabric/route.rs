//! The forwarding of packets on a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use p2p_core::Family;

use crate::cidr::Cidr;

/// An exit from a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The exit to a device.
    Port(usize),
    /// The exit into a router, from its inside.
    Inside(usize),
    /// The exit into a router, from its outside.
    Outside(usize),
    /// The exit to the router's own inner address, where no services run.
    Itself(usize),
}

/// The forwarding tables of all networks.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    nets: Vec<Table>,
    own: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    exact: BTreeMap<IpAddr, Exit>,
    routed: Vec<(Cidr, Exit)>,
    usual: Option<Exit>,
    /// The devices that a multicast reaches.
    members: Vec<usize>,
}

impl Routes {
    pub(crate) fn new(nets: usize) -> Self {
        Self { nets: vec![Table::default(); nets], own: Vec::new() }
    }

    /// Sets the Internet's own addresses, from which it sends errors.
    pub(crate) fn with_own(mut self, own: Vec<IpAddr>) -> Self {
        self.own = own;
        self
    }

    pub(super) fn own(&self, family: Family) -> Option<IpAddr> {
        self.own.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// Adds an address on this network.
    pub(crate) fn add(&mut self, net: usize, ip: IpAddr, exit: Exit) {
        self.nets[net].exact.insert(ip, exit);
    }

    /// Adds a prefix that is behind a router on this network.
    pub(crate) fn add_prefix(&mut self, net: usize, prefix: Cidr, exit: Exit) {
        self.nets[net].routed.push((prefix, exit));
    }

    /// Sets the exit for all other addresses.
    pub(crate) fn set_usual(&mut self, net: usize, exit: Exit) {
        self.nets[net].usual = Some(exit);
    }

    pub(crate) fn join(&mut self, net: usize, port: usize) {
        self.nets[net].members.push(port);
    }

    pub(super) fn members(&self, net: usize) -> &[usize] {
        &self.nets[net].members
    }

    pub(super) fn find(&self, net: usize, to: IpAddr) -> Option<Exit> {
        let table = &self.nets[net];
        let routed = || {
            let matching = table.routed.iter().filter(|(prefix, _)| prefix.contains(to));
            matching.max_by_key(|(prefix, _)| prefix.length()).map(|(_, exit)| *exit)
        };
        table.exact.get(&to).copied().or_else(routed).or(table.usual)
    }
}

/// Tells whether an address is multicast, or the IPv4 broadcast.
pub(super) fn is_for_all(ip: IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_way_wins() {
        let mut routes = Routes::new(1);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        routes.set_usual(0, Exit::Inside(0));
        routes.add_prefix(0, "2a0f::/16".parse().unwrap(), Exit::Outside(1));
        routes.add_prefix(0, "2a0f:1::/64".parse().unwrap(), Exit::Outside(2));
        routes.add(0, ip("2a0f:1::7"), Exit::Port(3));
        for (to, exit) in [
            ("2a0f:1::7", Exit::Port(3)),
            ("2a0f:1::8", Exit::Outside(2)),
            ("2a0f:2::8", Exit::Outside(1)),
            ("45.1.0.1", Exit::Inside(0)),
        ] {
            assert_eq!(routes.find(0, ip(to)), Some(exit), "{to}");
        }
        assert_eq!(Routes::new(1).find(0, ip("45.1.0.1")), None);
    }
}
