//! The same scenario in virtual time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use p2p_core::Seed;
use p2p_core::sim::router::RouterConfig;
use p2p_core::sim::world::{HostId, RouterId, Wire, World, WorldError};
use thiserror::Error;

use super::{Cable, Cidr, RouterKind, Scenario};

/// A scenario as a simulated world.
#[derive(Debug)]
pub struct Simulated {
    /// The world, in which nothing has happened yet.
    pub world: World,
    /// The hosts by their names in the scenario.
    pub hosts: BTreeMap<String, HostId>,
    /// The routers by their names in the scenario.
    pub routers: BTreeMap<String, RouterId>,
}

/// A reason why only a lab can run a scenario.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SimulateError {
    /// A router is a real Linux.
    #[error("the router `{0}` is Linux itself, which cannot be simulated: give it `preset = \"linux\"`")]
    Kernel(String),
    /// A network has no router.
    #[error("the network `{0}` has no router: in the simulator every network hangs on one")]
    Isolated(String),
    /// The simulated world refuses a part.
    #[error(transparent)]
    World(#[from] WorldError),
}

impl From<Cable> for Wire {
    fn from(cable: Cable) -> Self {
        Self { up: cable.up, down: cable.down }
    }
}

impl Scenario {
    /// Builds the same hosts, routers and cables in virtual time, by the same seed.
    ///
    /// # Errors
    /// [`SimulateError`] when a part of the scenario has no counterpart in the simulator.
    pub fn simulate(&self) -> Result<Simulated, SimulateError> {
        let mut world = World::new(Seed::from_u64(self.seed));
        let mut above: BTreeMap<usize, RouterId> = BTreeMap::from([(0, world.internet())]);
        let mut routers = BTreeMap::new();
        // Routers are placed from the Internet inwards. A scenario has no cycles, so every round places one until
        // none is left.
        let mut waiting: Vec<_> = self.routers.iter().collect();
        while let Some(index) = waiting.iter().position(|router| above.contains_key(&router.outside)) {
            let router = waiting.swap_remove(index);
            let RouterKind::Simulated { v4, v6, is_silent } = &router.kind else {
                return Err(SimulateError::Kernel(router.name.clone()));
            };
            let config = RouterConfig {
                v4: v4.as_deref().cloned(),
                v6: v6.as_deref().cloned(),
                time_exceeded: !is_silent,
                address: router.inner.iter().map(Cidr::ip).find(|ip| ip.is_ipv4() && v4.is_none()),
                ..RouterConfig::new(&router.name)
            };
            let id = world.add_router(config, above[&router.outside], router.cable)?;
            above.insert(router.inside, id);
            routers.insert(router.name.clone(), id);
        }
        let mut hosts = BTreeMap::new();
        for host in &self.hosts {
            let id = world.add_host(&host.name);
            for interface in &host.interfaces {
                let isolated = || SimulateError::Isolated(self.nets[interface.net].name.clone());
                let router = above.get(&interface.net).copied().ok_or_else(isolated)?;
                let addresses: Vec<IpAddr> = interface.addresses.iter().map(Cidr::ip).collect();
                world.attach(id, router, &addresses, interface.cable)?;
            }
            hosts.insert(host.name.clone(), id);
        }
        Ok(Simulated { world, hosts, routers })
    }
}
