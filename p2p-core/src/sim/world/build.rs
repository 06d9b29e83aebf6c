//! Making a world, and changing it.

use std::net::IpAddr;

use super::{Edge, EdgeId, HostId, HostNode, Kind, RouterId, Vertex, Wire, World, WorldError};
use crate::Family;
use crate::sim::host::Host;
use crate::sim::link::Link;
use crate::sim::router::{Router, RouterConfig};
use crate::sim::tcp::TcpTimers;

impl World {
    /// Adds a router below another.
    ///
    /// # Errors
    /// When it cannot be, or one of its external addresses is taken; nothing is added then.
    pub fn add_router(
        &mut self,
        config: RouterConfig,
        above: RouterId,
        wire: impl Into<Wire>,
    ) -> Result<RouterId, WorldError> {
        let seed = self.seed.fork("router");
        let edge = EdgeId(self.edges.len() as u32);
        let router = Router::new(config, Some(edge), seed)?;
        let nats = [Family::V4, Family::V6].into_iter().filter_map(|family| router.nat(family));
        let external: Vec<IpAddr> = nats.flat_map(|nat| nat.config().external.clone()).collect();
        let id = self.nodes.len() as u32;
        self.connect(id, above, &external, wire.into())?;
        self.nodes.push(Vertex { kind: Kind::Router(Box::new(router)), wake: None });
        Ok(RouterId(id))
    }

    /// Adds a host without interfaces, with the TCP of a current Linux.
    pub fn add_host(&mut self, name: &str) -> HostId {
        self.add_host_with(name, TcpTimers::default())
    }

    /// Adds a host without interfaces.
    pub fn add_host_with(&mut self, name: &str, timers: TcpTimers) -> HostId {
        let host = Host::new(name, timers, self.seed.fork("host"));
        self.nodes.push(Vertex {
            kind: Kind::Host(Box::new(HostNode { host, edges: Vec::new(), program: None })),
            wake: None,
        });
        HostId(self.nodes.len() as u32 - 1)
    }

    /// Gives a host an interface below a router; its number.
    ///
    /// # Errors
    /// When an address is taken on that network, or the link cannot be; nothing is changed then.
    pub fn attach(
        &mut self,
        host: HostId,
        above: RouterId,
        addresses: &[IpAddr],
        wire: impl Into<Wire>,
    ) -> Result<usize, WorldError> {
        let edge = EdgeId(self.edges.len() as u32);
        self.connect(host.0, above, addresses, wire.into())?;
        let node = self.host_node_mut(host);
        node.edges.push(edge);
        Ok(node.host.add_interface(addresses.to_vec()))
    }

    fn connect(
        &mut self,
        lower: u32,
        above: RouterId,
        known: &[IpAddr],
        wire: Wire,
    ) -> Result<(), WorldError> {
        let edge = EdgeId(self.edges.len() as u32);
        let up = Link::new(wire.up, self.seed.fork("up"))?;
        let down = Link::new(wire.down, self.seed.fork("down"))?;
        for (index, ip) in known.iter().enumerate() {
            if known[..index].contains(ip) || self.ways_down(*ip, above, edge).any(|(_, way)| way.is_some()) {
                return Err(WorldError::AddressTaken(*ip));
            }
        }
        self.edges.push(Edge { lower, upper: above.0, up, down });
        for ip in known {
            self.announce(*ip, above, edge);
        }
        Ok(())
    }

    /// Each router that knows `ip` when it is below `edge` of `router`: the way it takes now, if any.
    fn ways_down(
        &self,
        ip: IpAddr,
        router: RouterId,
        edge: EdgeId,
    ) -> impl Iterator<Item = ((RouterId, EdgeId), Option<EdgeId>)> {
        let mut next = Some((router, edge));
        std::iter::from_fn(move || {
            let (id, edge) = next?;
            let router = self.router(id);
            next = match router.uplink {
                Some(uplink) if !router.hides(Family::of(ip)) => {
                    Some((RouterId(self.edges[uplink.0 as usize].upper), uplink))
                }
                _ => None,
            };
            Some(((id, edge), router.below.get(&ip).copied()))
        })
    }

    fn announce(&mut self, ip: IpAddr, router: RouterId, edge: EdgeId) {
        let ways: Vec<_> = self.ways_down(ip, router, edge).map(|(way, _)| way).collect();
        for (router, edge) in ways {
            self.router_mut(router).below.insert(ip, edge);
        }
    }

    fn withdraw(&mut self, ip: IpAddr, router: RouterId, edge: EdgeId) {
        let ways: Vec<_> = self.ways_down(ip, router, edge).map(|(way, _)| way).collect();
        for (router, _) in ways {
            self.router_mut(router).below.remove(&ip);
        }
    }

    /// Gives an interface another link: the weather changes, the laptop moves. What is under way arrives.
    ///
    /// # Errors
    /// When the link cannot be; the old one stays then.
    ///
    /// # Panics
    /// When the host has no such interface.
    pub fn rewire(
        &mut self,
        host: HostId,
        interface: usize,
        wire: impl Into<Wire>,
    ) -> Result<(), WorldError> {
        let wire = wire.into();
        let up = Link::new(wire.up, self.seed.fork("up"))?;
        let down = Link::new(wire.down, self.seed.fork("down"))?;
        let edge = self.host_node(host).edges[interface];
        let edge = &mut self.edges[edge.0 as usize];
        (edge.up, edge.down) = (up, down);
        Ok(())
    }

    /// Gives an interface other addresses, or none: the network it was in is left, or numbered anew. Sockets that are bound
    /// to an address that is gone stay, and nothing comes or goes there any more.
    ///
    /// # Errors
    /// When one of them is taken on that network; nothing is changed then.
    ///
    /// # Panics
    /// When the host has no such interface.
    pub fn set_addresses(
        &mut self,
        host: HostId,
        interface: usize,
        addresses: &[IpAddr],
    ) -> Result<(), WorldError> {
        let edge = self.host_node(host).edges[interface];
        let above = RouterId(self.edges[edge.0 as usize].upper);
        let old = self.host_node(host).host.addresses(interface).to_vec();
        for (index, ip) in addresses.iter().enumerate() {
            let is_new = !old.contains(ip);
            let is_twice = addresses[..index].contains(ip);
            if is_twice || is_new && self.ways_down(*ip, above, edge).any(|(_, way)| way.is_some()) {
                return Err(WorldError::AddressTaken(*ip));
            }
        }
        for ip in old {
            self.withdraw(ip, above, edge);
        }
        for ip in addresses {
            self.announce(*ip, above, edge);
        }
        self.host_node_mut(host).host.set_addresses(interface, addresses.to_vec());
        Ok(())
    }

    /// Pulls the cables of a host: what is for it finds no way, what it sends is lost.
    pub fn detach(&mut self, host: HostId) {
        let node = self.host_node_mut(host);
        let edges = std::mem::take(&mut node.edges);
        let addresses: Vec<_> = (0..edges.len()).map(|index| node.host.addresses(index).to_vec()).collect();
        for (edge, addresses) in edges.into_iter().zip(addresses) {
            let above = RouterId(self.edges[edge.0 as usize].upper);
            for ip in addresses {
                self.withdraw(ip, above, edge);
            }
        }
    }

    /// Switches a router off and on.
    pub fn reboot(&mut self, router: RouterId) {
        for family in [Family::V4, Family::V6] {
            if let Some(nat) = self.router_mut(router).nat_mut(family) {
                nat.reboot();
            }
        }
    }

    /// Gives a NAT other external addresses.
    ///
    /// # Errors
    /// When there is no such NAT, or it cannot have these addresses; nothing is changed then.
    pub fn renumber(&mut self, router: RouterId, external: Vec<IpAddr>) -> Result<(), WorldError> {
        let family = external.first().map_or(Family::V4, |ip| Family::of(*ip));
        let (Some(nat), Some(uplink)) = (self.router(router).nat(family), self.router(router).uplink) else {
            return Err(WorldError::NoNat(family));
        };
        let old = nat.config().external.clone();
        let above = RouterId(self.edges[uplink.0 as usize].upper);
        for ip in external.iter().filter(|ip| !old.contains(ip)) {
            if self.ways_down(*ip, above, uplink).any(|(_, way)| way.is_some()) {
                return Err(WorldError::AddressTaken(*ip));
            }
        }
        if let Some(nat) = self.router_mut(router).nat_mut(family) {
            nat.renumber(external.clone())?;
        }
        for ip in old {
            self.withdraw(ip, above, uplink);
        }
        for ip in external {
            self.announce(ip, above, uplink);
        }
        Ok(())
    }
}
