//! A world with whole nodes in it, and what stories need to tell of them.
//!
//! ```
//! use p2p_core::sim::nat::NatConfig;
//! use p2p_core::sim::scene::Scene;
//!
//! let mut scene = Scene::with_servers(7);
//! let homes = [(); 2].map(|()| scene.home(NatConfig::home(Scene::ANY)));
//! let a = scene.node("a", homes[0], |_| {});
//! let b = scene.node("b", homes[1], |_| {});
//! let call = scene.connect(a, b);
//! let ends = scene.meet(call, b).expect("a connection that both keep");
//! assert_eq!(scene.echo(ends, b"hello"), b"hello");
//! ```

mod servers;
mod site;
mod small;
mod story;
pub mod topology;
mod trial;
pub mod truth;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub use servers::ServerKind;
use servers::Servers;
pub use site::{SceneSite, SiteGate};
pub use small::SmallWorld;
pub use story::{BothEnds, SceneCall};
pub use trial::{Met, Trial};

use super::node::{NodeRunner, Surroundings};
use super::world::{Context, HostId, World};
use crate::node::{ConfigFault, NodeConfig};
use crate::peer::{Identity, PeerId};
use crate::{Family, Seed};

/// Names a whole node of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SceneNode(usize);

/// A world, its servers, and its nodes.
#[derive(Debug)]
pub struct Scene {
    /// The world, for all that a scene has no word for.
    pub world: World,
    seed: Seed,
    /// The delay from a home to the middle of the Internet, and from there to a server.
    leg: Duration,
    sites: Vec<site::SiteState>,
    servers: Servers,
    members: Vec<Member>,
    /// Addresses that belong to a node, to a NAT before one, or to a server, now or once.
    known: BTreeSet<IpAddr>,
}

/// A node, and where it runs.
#[derive(Debug)]
struct Member {
    host: HostId,
    identity: Identity,
}

impl Scene {
    /// Stands for the external address of a NAT, which the scene gives out.
    pub const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    /// Makes a world without servers, whose legs take 10 ms: 40 ms from home to home and back.
    pub fn new(number: u64) -> Self {
        let mut seed = Seed::from_u64(number);
        let world = World::new(seed.fork("world"));
        let internet = site::SiteState::internet(world.internet());
        Self {
            world,
            seed,
            leg: Duration::from_millis(10),
            sites: vec![internet],
            servers: Servers::default(),
            members: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    /// Makes a world with a broker, two STUN servers and a TURN server, whose legs take 10 ms.
    ///
    /// # Panics
    /// Never: servers find room in a new world.
    pub fn with_servers(number: u64) -> Self {
        let mut scene = Self::new(number);
        scene.add_broker();
        scene.add_stun(Family::V4);
        scene.add_stun(Family::V4);
        scene.add_turn(Family::V4);
        scene
    }

    /// Sets the delay of the legs that are made from now on.
    pub fn set_leg(&mut self, leg: Duration) {
        self.leg = leg;
    }

    /// Adds a host without interfaces.
    pub fn host(&mut self, name: &str) -> HostId {
        self.world.add_host(name)
    }

    /// Adds a host with an IPv4 address in a site, and starts a node on it. `adjust` may change its configuration, which
    /// names all servers of the scene.
    ///
    /// # Panics
    /// When the configuration cannot be.
    pub fn node(&mut self, name: &str, site: SceneSite, adjust: impl FnOnce(&mut NodeConfig)) -> SceneNode {
        let host = self.host(name);
        self.plug(host, site, &[Family::V4]);
        self.start(host, Surroundings::default(), adjust).expect("a configuration that can be")
    }

    /// Starts a node on a host whose interfaces are plugged in.
    ///
    /// # Errors
    /// [`ConfigFault`] when the configuration cannot be.
    pub fn start(
        &mut self,
        host: HostId,
        surroundings: Surroundings,
        adjust: impl FnOnce(&mut NodeConfig),
    ) -> Result<SceneNode, ConfigFault> {
        let node = self.enlist(host);
        self.launch(node, surroundings, adjust)?;
        Ok(node)
    }

    /// Gives the node that is to run on a host its identity.
    pub fn enlist(&mut self, host: HostId) -> SceneNode {
        let identity = Identity::generate(&mut self.seed);
        self.members.push(Member { host, identity });
        SceneNode(self.members.len() - 1)
    }

    /// Starts a node that was enlisted; or starts it anew, with the identity it had: the process ended without a word.
    ///
    /// # Errors
    /// [`ConfigFault`] when the configuration cannot be.
    pub fn launch(
        &mut self,
        node: SceneNode,
        mut surroundings: Surroundings,
        adjust: impl FnOnce(&mut NodeConfig),
    ) -> Result<(), ConfigFault> {
        self.servers.tell_names(&mut surroundings.names);
        let Member { host, identity, .. } = &self.members[node.0];
        let host = *host;
        let mut config = NodeConfig::new(identity.clone());
        config.machine_id = self.world.host(host).name().as_bytes().to_vec();
        config.can_see_hops = true;
        self.servers.name_in(&mut config);
        adjust(&mut config);
        let seed = self.seed.fork("runner");
        let runner = self.world.with(host, |context| {
            // A process that ends takes its sockets with it.
            let old: Vec<_> = context.host.tcp().sockets().collect();
            old.into_iter().for_each(|socket| context.host.tcp_mut().abort(socket));
            context.host.udp_close_all();
            NodeRunner::start(config, surroundings, seed, context)
        })?;
        self.world.run(host, runner);
        Ok(())
    }

    /// Returns the identity that peers know a node by.
    pub fn id(&self, node: SceneNode) -> PeerId {
        self.members[node.0].identity.id()
    }

    /// Returns the host of a node.
    pub fn host_of(&self, node: SceneNode) -> HostId {
        self.members[node.0].host
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = SceneNode> + use<> {
        (0..self.members.len()).map(SceneNode)
    }

    /// Returns what turns a node.
    ///
    /// # Panics
    /// When the handle is of another scene.
    pub fn runner(&self, node: SceneNode) -> &NodeRunner {
        self.world.program(self.members[node.0].host).expect("every member of a scene runs a node")
    }

    /// Lets a script act on what turns a node.
    ///
    /// # Panics
    /// When the handle is of another scene.
    pub fn with<T>(
        &mut self,
        node: SceneNode,
        act: impl FnOnce(&mut NodeRunner, &mut Context<'_>) -> T,
    ) -> T {
        let host = self.members[node.0].host;
        self.world.with_program(host, act).expect("every member of a scene runs a node")
    }
}
