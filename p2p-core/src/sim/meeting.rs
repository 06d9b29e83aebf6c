//! Two homes, a STUN server and a broker: where punches are tried.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dump::Fate;
use super::link::LinkConfig;
use super::nat::{NatConfig, Unsolicited};
use super::packet::{Body, Protocol};
use super::puncher::{Kept, PunchNeighbours, Puncher};
use super::router::RouterConfig;
use super::stun::StunServer;
use super::tcp::TcpOptions;
use super::world::{HostId, RouterId, Wire, World, WorldError};
use crate::attempt::{AttemptId, Role};
use crate::clock::Offset;
use crate::nat::{Delta, NatFacts, NatType, PortRange, SynAnswer};
use crate::punch::{Failed, Limits, Mode, PathTiming, PunchConfig, PunchReport, Tactic};
use crate::stun::Responder;
use crate::{Clock, Family, Local, Seed, UnixTime};

const INSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2)), IpAddr::V4(Ipv4Addr::new(192, 168, 2, 2))];
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1))];
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The ports that preset NATs give out.
pub const RANGE: PortRange = PortRange { first: 1_024, last: u16::MAX };
/// No punch takes longer.
const LONGEST: Duration = Duration::from_secs(40);
const TOPICS: [&str; 2] = ["caller", "answerer"];

/// One of the two homes.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its NAT; the external address is filled in.
    pub nat: NatConfig,
    /// What is known of it.
    pub facts: NatFacts,
}

impl Home {
    /// One of the 35, with this answer to SYNs, of which all is known.
    pub fn of_type(nat: NatType, delta: Delta, syn: SynAnswer) -> Self {
        let facts = NatFacts { nat: Some(nat), delta: Some(delta), syn: Some(syn), ..NatFacts::default() };
        let unsolicited = match syn {
            SynAnswer::Silence => Unsolicited::Silence,
            SynAnswer::Reset => Unsolicited::Reset,
            SynAnswer::Icmp => Unsolicited::Icmp(super::packet::IcmpKind::Prohibited),
        };
        let nat = NatConfig::of_type(nat, delta, RANGE, OUTSIDE[0]).with_unsolicited(unsolicited);
        Self { nat, facts }
    }

    /// A carrier's: symmetric, random ports inside a block of this size, which the home has been given and knows.
    pub fn in_block(size: u16) -> Self {
        let random = Delta { kind: crate::nat::DeltaKind::Random, value: 0 };
        let mut home = Self::of_type(NatType::Symmetric, random, SynAnswer::Silence);
        home.nat.block = Some(size);
        home
    }
}

/// What happens, and how.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// The caller's home and the answerer's.
    pub homes: [Home; 2],
    /// The path between them, there and back.
    pub rtt: Duration,
    /// The share of packets lost on each of the two access links, in each direction (0.0 … 1.0).
    pub loss: f64,
    /// What messages through the broker suffer, one way.
    pub signals: LinkConfig,
    /// What is said of the clocks: how much the caller is wrong, and the bound it states; `None`: they say nothing,
    /// and the messages tell.
    pub skew: Option<(i64, u64)>,
    /// Whether packets are recorded, so that SYNs can be counted.
    pub counts: bool,
    /// What a punch may do.
    pub limits: Limits,
    /// What lies between.
    pub mode: Mode,
    /// The TTL of a silent hop that each side has found: one that stands above its NAT, if it is 2.
    pub silent_hops: [Option<u8>; 2],
    /// The chance of it all.
    pub number: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the caller and the answerer keep.
    pub kept: [Vec<Kept>; 2],
    /// From when both had the plan to when TCP was up at both ends, on the connection that both keep.
    pub opened: Option<Duration>,
    /// From when both had the plan to when both have proven and keep it.
    pub took: Option<Duration>,
    /// From the answerer's first SYN to when both have proven and keep it.
    pub answered: Option<Duration>,
    /// From the start.
    pub whole: Option<Duration>,
    /// When each side's first SYN was sent, after the start.
    pub first_syn: [Option<Duration>; 2],
    /// How it was tried.
    pub tactic: Option<Tactic>,
    /// What each side says.
    pub reports: [Option<PunchReport>; 2],
    /// Why not.
    pub failed: [Option<Failed>; 2],
    /// SYNs that both hosts sent to each other, those of the kernel included, where they were counted.
    pub syns: usize,
}

impl Outcome {
    /// Whether both keep one connection.
    pub fn is_met(&self) -> bool {
        self.took.is_some()
    }
}

impl Meeting {
    /// Two homes 100 ms apart, nothing lost, signals 30 ms each way.
    pub fn new(homes: [Home; 2], number: u64) -> Self {
        Self {
            homes,
            rtt: Duration::from_millis(100),
            loss: 0.0,
            signals: LinkConfig::with_latency(Duration::from_millis(30)),
            skew: None,
            counts: false,
            limits: Limits::default(),
            mode: Mode::Remote,
            silent_hops: [None; 2],
            number,
        }
    }

    /// Two peers with no NAT between: on one network, `rtt` apart, or on one machine.
    pub fn nearby(mode: Mode, rtt: Duration, number: u64) -> Self {
        let equal = Delta { kind: crate::nat::DeltaKind::Equal, value: 0 };
        let home = || Home::of_type(NatType::PortRestricted, equal, SynAnswer::Silence);
        Self { mode, rtt, ..Self::new([home(), home()], number) }
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// When a NAT or a link cannot be.
    pub fn run(self) -> Result<Outcome, WorldError> {
        let mut seed = Seed::from_u64(self.number);
        let mut world = World::new(seed.fork("world"));
        world.set_broker(self.signals)?;
        let mut scene = match self.mode {
            Mode::Remote => self.homes(&mut world, &mut seed)?,
            mode => self.neighbours(mode, &mut world)?,
        };
        let internet = world.internet();
        let server = world.add_host("server");
        world.attach(server, internet, &[SERVER], Duration::from_millis(5))?;
        let stun = SocketAddr::new(SERVER, 3_478);
        let responder = world
            .with(server, |context| StunServer::bind(context.host, Responder::new(stun)))
            .expect("a new host has all its ports");
        world.run(server, responder);
        for (index, router) in scene.routers.iter().enumerate() {
            if self.homes[index].nat.block.is_some() {
                let (host, local) = (scene.hosts[index], scene.locals[index]);
                scene.facts[index].block = learn_block(&mut world, host, *router, local, OUTSIDE[index]);
            }
        }
        if self.counts {
            world.set_recording(200_000);
        }
        let start = world.now();
        let attempt = AttemptId::new(&mut seed);
        let mut sides = [0, 1].map(|index| {
            let config = self.config(index, &scene, attempt, start);
            let topics = [TOPICS[index], TOPICS[1 - index]];
            Puncher::new(config, Some(stun), topics, seed.fork("puncher"))
        });
        for index in [1, 0] {
            world.with(scene.hosts[index], |context| sides[index].start(context));
        }
        let hosts = scene.hosts;
        if hosts[0] == hosts[1] {
            world.run(hosts[0], PunchNeighbours(sides));
        } else {
            for (host, side) in hosts.into_iter().zip(sides) {
                world.run(host, side);
            }
        }
        world.run_until_done(start + LONGEST, |world| is_over(world, hosts));
        // What is still under way must not change it.
        let after = world.now() + Duration::from_millis(300);
        world.run_until(after);
        Ok(outcome(&world, hosts, start))
    }

    fn homes(&self, world: &mut World, seed: &mut Seed) -> Result<MeetingPlace, WorldError> {
        let internet = world.internet();
        // The way from home to home is half a round trip, and mostly not halved by the Internet.
        let share = seed.within(20..81) as f64 / 100.0;
        let (mut hosts, mut routers) = (Vec::new(), Vec::new());
        let mut locals = OUTSIDE;
        for (index, home) in self.homes.iter().enumerate() {
            let mut nat = home.nat.clone();
            if nat.is_translating() {
                nat.external = vec![OUTSIDE[index]];
                locals[index] = INSIDE[index];
            }
            let share = if index == 0 { share } else { 1.0 - share };
            let delay = (self.rtt / 2).mul_f64(share);
            let link = LinkConfig { loss: self.loss, ..LinkConfig::with_latency(delay) };
            let name = ["nat-a", "nat-b"][index];
            let above = match self.silent_hops[index] {
                Some(_) => {
                    let hop = RouterConfig::new("hop").with_silent_hops();
                    world.add_router(hop, internet, Duration::ZERO)?
                }
                None => internet,
            };
            let router = world.add_router(RouterConfig::new(name).with_v4(nat), above, Wire::from(link))?;
            let host = world.add_host(["a", "b"][index]);
            world.attach(host, router, &[locals[index]], Duration::ZERO)?;
            hosts.push(host);
            routers.push(router);
        }
        let facts = [self.homes[0].facts, self.homes[1].facts];
        Ok(MeetingPlace { hosts: [hosts[0], hosts[1]], routers, locals, addresses: OUTSIDE, facts })
    }

    fn neighbours(&self, mode: Mode, world: &mut World) -> Result<MeetingPlace, WorldError> {
        let internet = world.internet();
        let home = world.add_router(RouterConfig::new("switch"), internet, Duration::from_millis(5))?;
        let locals = match mode {
            Mode::Interface => [INSIDE[0]; 2],
            _ => INSIDE,
        };
        let leg = self.rtt / 4;
        let host = world.add_host("a");
        world.attach(host, home, &[locals[0]], leg)?;
        let hosts = match mode {
            Mode::Interface => [host, host],
            Mode::Machine => {
                world.attach(host, home, &[locals[1]], leg)?;
                [host, host]
            }
            Mode::Lan | Mode::Remote => {
                let other = world.add_host("b");
                world.attach(other, home, &[locals[1]], leg)?;
                [host, other]
            }
        };
        let facts = [NatFacts::default(); 2];
        Ok(MeetingPlace { hosts, routers: Vec::new(), locals, addresses: locals, facts })
    }

    fn config(&self, index: usize, scene: &MeetingPlace, attempt: AttemptId, start: Instant) -> PunchConfig {
        let other = 1 - index;
        // The answerer's clock is seven seconds ahead.
        let clock = Clock::new(start, UnixTime(1_800_000_000_000_000 + index as u64 * 7_000_000));
        // What a server told the caller is wrong; the answerer's clock shows true time.
        let served = self.skew.map(|(error, bound)| match index {
            0 => Offset::new((7_000 + error) * 1_000_000, Duration::from_millis(bound)),
            _ => Offset::new(0, Duration::ZERO),
        });
        PunchConfig {
            attempt,
            pair: 0,
            role: [Role::Caller, Role::Answerer][index],
            mode: self.mode,
            local: Local(SocketAddr::new(scene.locals[index], 0)),
            address: scene.addresses[index],
            remote: SocketAddr::new(scene.addresses[other], 0),
            at: scene.locals[other],
            facts: scene.facts[index],
            theirs: scene.facts[other],
            can_observe: true,
            silent_hop: self.silent_hops[index],
            path_timing: PathTiming { served, delay: None },
            clock,
            limits: self.limits,
        }
    }
}

/// Who stands where.
struct MeetingPlace {
    hosts: [HostId; 2],
    routers: Vec<RouterId>,
    locals: [IpAddr; 2],
    addresses: [IpAddr; 2],
    facts: [NatFacts; 2],
}

/// The two sides, wherever they run.
fn sides(world: &World, hosts: [HostId; 2]) -> [Option<&Puncher>; 2] {
    if let Some(PunchNeighbours([one, two])) = world.program(hosts[0]) {
        return [Some(one), Some(two)];
    }
    hosts.map(|host| world.program(host))
}

fn is_over(world: &World, hosts: [HostId; 2]) -> bool {
    let sides = sides(world, hosts);
    let has_kept = |side: &Option<&Puncher>| side.is_some_and(|side| !side.kept.is_empty());
    sides.iter().all(has_kept) || sides.iter().all(|side| side.is_some_and(|side| side.failed.is_some()))
}

/// One mapping is enough for a NAT to hand out a block; which one it is, a probe would find out.
fn learn_block(
    world: &mut World,
    host: HostId,
    router: RouterId,
    local: IpAddr,
    external: IpAddr,
) -> Option<PortRange> {
    world.with(host, |context| {
        let from = SocketAddr::new(local, 9_999);
        let to = SocketAddr::new(SERVER, 3_478);
        let dialled = context.host.tcp_dial(Some(from), TcpOptions::shared(), to, context.now);
        if let Ok(socket) = dialled {
            let _ = context.host.tcp_mut().send(socket, &Bytes::new(), context.now);
        }
    });
    world.run_for(Duration::from_millis(50));
    world.router(router).nat(Family::V4)?.block(Protocol::Tcp, external, local)
}

fn outcome(world: &World, hosts: [HostId; 2], start: Instant) -> Outcome {
    let sides = sides(world, hosts).map(|side| side.expect("each host was given one"));
    let since = |at: Instant| at.saturating_duration_since(start);
    let kept = sides.map(|side| side.kept.clone());
    let planned = sides[0].planned.or(sides[1].planned).max(sides[1].planned);
    let both = kept[0].first().zip(kept[1].first()).map(|(a, b)| a.at.max(b.at));
    let up = kept[0].first().zip(kept[1].first()).map(|(a, b)| a.up.max(b.up));
    let is_syn = |body: &Body| matches!(body, Body::Tcp(tcp) if tcp.flags.is_syn());
    let syns = world.records().iter().filter(|record| {
        let header = &record.packet.header;
        record.fate == Fate::Sent
            && hosts.map(Into::into).contains(&record.node)
            && header.dst.ip() != SERVER
            && is_syn(&header.body)
    });
    Outcome {
        opened: up.zip(planned).map(|(up, planned)| up.saturating_duration_since(planned)),
        took: both.zip(planned).map(|(both, planned)| both.saturating_duration_since(planned)),
        answered: both.zip(sides[1].dialled).map(|(both, first)| both.saturating_duration_since(first)),
        whole: both.map(since),
        first_syn: sides.map(|side| side.dialled.map(since)),
        tactic: sides[0].punch().and_then(|punch| punch.report().tactic),
        reports: sides.map(|side| side.punch().map(|punch| punch.report())),
        failed: sides.map(|side| side.failed),
        syns: syns.count(),
        kept,
    }
}
