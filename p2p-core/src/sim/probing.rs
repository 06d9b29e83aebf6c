//! A home behind a NAT, four STUN servers and two helpers: where probes are tried.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::link::LinkConfig;
use super::nat::NatConfig;
use super::prober::{Prober, SynHelper};
use super::router::RouterConfig;
use super::stun::StunServer;
use super::world::{HostId, RouterId, World, WorldError};
use crate::Seed;
use crate::nat::probe::{Probe, ProbeConfig};
use crate::nat::report::NatReport;
use crate::stun::query::{Server, TooManyServers};
use crate::stun::{Responder, Transport};

/// Servers of a scene.
pub const SERVERS: u8 = 4;
/// The host at home, where the NAT translates.
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
/// The host at home, where it does not.
const NAKED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// A helper that is no server.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
/// No probe takes longer.
const LONGEST: Duration = Duration::from_secs(20);

/// The scene before the probe begins; everything can be changed until then.
#[derive(Debug)]
pub struct ProbeScene {
    /// The world.
    pub world: World,
    /// The host at home.
    pub host: HostId,
    /// Its router.
    pub router: RouterId,
    /// The probe to be run there.
    pub config: ProbeConfig,
    /// Its chance.
    pub seed: Seed,
}

impl ProbeScene {
    /// A home behind `nat`, `rtt` away from the servers, of which the last `dead` do not exist. The first server
    /// and a stranger help with SYNs and take one and a half `rtt` without an answer for silence.
    ///
    /// # Errors
    /// When the NAT cannot be.
    pub fn new(nat: NatConfig, rtt: Duration, dead: u8, number: u64) -> Result<Self, WorldError> {
        let leg = rtt / 4;
        let mut seed = Seed::from_u64(number);
        let mut world = World::new(seed.fork("world"));
        world.set_broker(LinkConfig::with_latency(leg))?;
        let internet = world.internet();
        let local = if nat.is_translating() { INSIDE } else { NAKED };
        let router = world.add_router(RouterConfig::new("nat").with_v4(nat), internet, leg)?;
        let host = world.add_host("home");
        world.attach(host, router, &[local], Duration::ZERO)?;
        let mut config = ProbeConfig::new(local);
        let silence = rtt.mul_f64(1.5);
        for index in 0..SERVERS {
            let [first, second] = [0, 1].map(|last| IpAddr::from([192, 0, 2, 10 * (index + 1) + last]));
            let address = SocketAddr::new(first, 3_478);
            config
                .servers
                .extend([Transport::Udp, Transport::Tcp].map(|transport| Server { address, transport }));
            if index == 0 {
                config.helpers.push(first);
            }
            if index + dead >= SERVERS {
                continue;
            }
            let server = world.add_host("server");
            world.attach(server, internet, &[first, second], leg)?;
            let responder = Responder::new(address).with_alternate(SocketAddr::new(second, 3_479));
            let stun = world
                .with(server, |context| StunServer::bind(context.host, responder))
                .expect("a new host has all its ports");
            add_helper(&mut world, server, SynHelper::new(first, silence, Some(stun)));
        }
        config.helpers.push(STRANGER);
        let stranger = world.add_host("stranger");
        world.attach(stranger, internet, &[STRANGER], leg)?;
        add_helper(&mut world, stranger, SynHelper::new(STRANGER, silence, None));
        Ok(Self { world, host, router, config, seed })
    }

    /// Runs the probe to its end: the report, how long it took, and the world then.
    ///
    /// # Errors
    /// When the configuration names too many servers.
    ///
    /// # Panics
    /// When the probe has not ended after twenty seconds.
    pub fn probed(mut self) -> Result<(NatReport, Duration, World), TooManyServers> {
        let start = self.world.now();
        let host = self.host;
        let mut prober = Prober::new(Probe::new(self.config, self.seed, start)?);
        self.world.with(host, |context| prober.start(context));
        self.world.run(host, prober);
        let report = |world: &World| {
            let (at, report) = world.program::<Prober>(host)?.report()?;
            Some((report.clone(), at - start))
        };
        self.world.run_until_done(start + LONGEST, |world| report(world).is_some());
        let (report, took) = report(&self.world).expect("a probe ends within twenty seconds");
        Ok((report, took, self.world))
    }
}

fn add_helper(world: &mut World, host: HostId, helper: SynHelper) {
    world.with(host, |context| helper.start(context));
    world.run(host, helper);
}
