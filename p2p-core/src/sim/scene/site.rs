//! Networks that hosts are plugged into, and the addresses they get there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::{Scene, SceneNode};
use crate::Family;
use crate::sim::nat::NatConfig;
use crate::sim::router::RouterConfig;
use crate::sim::world::{HostId, RouterId, Wire};

/// Names a network of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SceneSite(usize);

/// What stands between a network and the one above it.
#[derive(Clone, Debug)]
pub struct SiteGate {
    /// The name in stories.
    pub name: &'static str,
    /// What is done to IPv4: `None` routes it. External addresses are given out by the scene, one for each that is named.
    pub v4: Option<NatConfig>,
    /// What is done to IPv6: `None` routes it.
    pub v6: Option<NatConfig>,
    /// The first two bytes of the IPv4 network inside, where IPv4 is translated.
    pub inside: [u8; 2],
    /// Tells that the router never says that a packet died there.
    pub has_silent_hop: bool,
}

impl SiteGate {
    /// Returns a home with this NAT.
    pub fn home(nat: NatConfig) -> Self {
        Self { name: "home", v4: Some(nat), v6: None, inside: [192, 168], has_silent_hop: false }
    }

    /// Returns a carrier with this NAT (RFC 6598).
    pub fn carrier(nat: NatConfig) -> Self {
        Self { name: "carrier", inside: [100, 64], ..Self::home(nat) }
    }

    /// Returns the same with this firewall for IPv6.
    pub fn with_v6(mut self, firewall: NatConfig) -> Self {
        self.v6 = Some(firewall);
        self
    }
}

/// A network: its router, and the addresses that are free.
#[derive(Debug)]
pub(super) struct SiteState {
    router: RouterId,
    above: Option<SceneSite>,
    /// The network that gives out its IPv4 addresses: itself, where they are translated.
    v4_of: usize,
    /// The first three bytes of the IPv4 network inside.
    v4: [u8; 3],
    v6: u16,
    /// The last IPv4 and the last IPv6 address that it has given out.
    last: [u16; 2],
    /// Interfaces plugged in here.
    plugged: Vec<(HostId, usize)>,
}

impl SiteState {
    pub(super) fn internet(router: RouterId) -> Self {
        Self { router, above: None, v4_of: 0, v4: [203, 0, 113], v6: 0, last: [1, 1], plugged: Vec::new() }
    }
}

impl Scene {
    /// Returns the Internet: who is plugged in there has a public address and nothing before it.
    pub fn internet(&self) -> SceneSite {
        SceneSite(0)
    }

    /// Returns the router of a site.
    pub fn router(&self, site: SceneSite) -> RouterId {
        self.sites[site.0].router
    }

    /// Adds a home on the Internet, a leg away from its middle.
    pub fn home(&mut self, nat: NatConfig) -> SceneSite {
        let (internet, leg) = (self.internet(), self.leg);
        self.site(internet, SiteGate::home(nat), leg)
    }

    /// Adds a network below another.
    ///
    /// # Panics
    /// When the gate or the wire cannot be, or there are more than 250 networks.
    pub fn site(&mut self, above: SceneSite, gate: SiteGate, wire: impl Into<Wire>) -> SceneSite {
        let number = self.sites.len();
        assert!(number < MOST_SITES, "a scene has {MOST_SITES} networks at most");
        let SiteGate { name, mut v4, v6, inside, has_silent_hop } = gate;
        let mut v4_of = self.sites[above.0].v4_of;
        if let Some(nat) = v4.as_mut().filter(|nat| nat.is_translating()) {
            nat.external = nat.external.iter().map(|_| self.free_v4(above)).collect();
            v4_of = number;
        }
        let mut config = RouterConfig::new(name);
        (config.v4, config.v6) = (v4, v6);
        config.time_exceeded = !has_silent_hop;
        let external = config.v4.iter().flat_map(|nat| nat.external.clone());
        self.known.extend(external);
        let router = self.sites[above.0].router;
        let router = self.world.add_router(config, router, wire).expect("a gate and a wire that can be");
        let (v4, v6) = ([inside[0], inside[1], number as u8], number as u16);
        self.sites.push(SiteState {
            router,
            above: Some(above),
            v4_of,
            v4,
            v6,
            last: [1, 1],
            plugged: Vec::new(),
        });
        SceneSite(number)
    }

    /// Gives a host an interface in a site, with an address of each of these families. Returns its number.
    ///
    /// # Panics
    /// When the site is full.
    pub fn plug(&mut self, host: HostId, site: SceneSite, families: &[Family]) -> usize {
        self.plug_over(host, site, families, Duration::ZERO)
    }

    /// As [`plug`](Self::plug), over this wire.
    ///
    /// # Panics
    /// When the site is full, or the wire cannot be.
    pub fn plug_over(
        &mut self,
        host: HostId,
        site: SceneSite,
        families: &[Family],
        wire: impl Into<Wire>,
    ) -> usize {
        let addresses = self.free(site, families);
        self.known.extend(&addresses);
        let router = self.sites[site.0].router;
        let interface = self.world.attach(host, router, &addresses, wire).expect("free addresses, a wire");
        self.sites[site.0].plugged.push((host, interface));
        interface
    }

    /// Gives the gate of a network another external IPv4 address, as providers do at night.
    ///
    /// # Panics
    /// When it translates nothing.
    pub fn renumber_gate(&mut self, site: SceneSite) {
        let external = match self.sites[site.0].above {
            Some(above) => self.free_v4(above),
            None => return,
        };
        self.known.insert(external);
        let router = self.sites[site.0].router;
        self.world.renumber(router, vec![external]).expect("a NAT and a free address");
    }

    /// Pulls an interface out, and tells the node if it is to know at once.
    ///
    /// # Panics
    /// When there is no such interface.
    pub fn unplug(&mut self, node: SceneNode, interface: usize, is_told: bool) {
        self.set_addresses(node, interface, &[], is_told);
    }

    /// Gives an interface other addresses of the network it is in, and tells the node if it is to know at once.
    ///
    /// # Panics
    /// When there is no such interface.
    pub fn renumber(&mut self, node: SceneNode, interface: usize, families: &[Family], is_told: bool) {
        let host = self.members[node.0].host;
        let is_it = |room: &SiteState| room.plugged.contains(&(host, interface));
        let site = self.sites.iter().position(is_it).expect("an interface of the scene");
        let addresses = self.free(SceneSite(site), families);
        self.set_addresses(node, interface, &addresses, is_told);
    }

    fn set_addresses(&mut self, node: SceneNode, interface: usize, addresses: &[IpAddr], is_told: bool) {
        let host = self.members[node.0].host;
        self.known.extend(addresses);
        self.world.set_addresses(host, interface, addresses).expect("free addresses");
        if is_told {
            self.with(node, |runner, context| runner.tell_nics(context));
        }
    }

    /// Returns an address of each of these families that nobody has there.
    fn free(&mut self, site: SceneSite, families: &[Family]) -> Vec<IpAddr> {
        let addresses = families.iter().map(|family| match family {
            Family::V4 => self.free_v4(site),
            Family::V6 => {
                let room = &mut self.sites[site.0];
                room.last[1] += 1;
                Ipv6Addr::new(0x2001, 0xdb8, room.v6, 0, 0, 0, 0, room.last[1]).into()
            }
        });
        addresses.collect()
    }

    fn free_v4(&mut self, site: SceneSite) -> IpAddr {
        let owner = self.sites[site.0].v4_of;
        let room = &mut self.sites[owner];
        room.last[0] += 1;
        let [a, b, c] = room.v4;
        // What does not fit goes on in the next network of 256.
        Ipv4Addr::from_bits(Ipv4Addr::new(a, b, c, 0).to_bits() + u32::from(room.last[0])).into()
    }
}

/// Networks of a scene at most.
const MOST_SITES: usize = 250;
