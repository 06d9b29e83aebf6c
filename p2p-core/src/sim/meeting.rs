//! Two homes, a STUN server and a broker: where punches are tried.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dump::Fate;
use super::link::LinkConfig;
use super::nat::{NatConfig, Unsolicited};
use super::packet::{Body, Protocol};
use super::puncher::{Kept, Puncher};
use super::router::RouterConfig;
use super::stun::StunServer;
use super::tcp::TcpOptions;
use super::world::{HostId, RouterId, Wire, World, WorldError};
use crate::nat::{Delta, NatFacts, NatType, PortRange, SynAnswer};
use crate::punch::{Failed, Limits, Mode, Part, PunchConfig, PunchReport, Tactic, Terms};
use crate::signal::AttemptId;
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
    /// The chance of it all.
    pub number: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the caller and the answerer keep.
    pub kept: [Vec<Kept>; 2],
    /// From when both had the plan to when both keep a connection.
    pub took: Option<Duration>,
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
            number,
        }
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// When a NAT or a link cannot be.
    pub fn run(self) -> Result<Outcome, WorldError> {
        let mut seed = Seed::from_u64(self.number);
        let mut world = World::new(seed.fork("world"));
        world.set_broker(self.signals)?;
        let internet = world.internet();
        // The way from home to home is half a round trip, and mostly not halved by the Internet.
        let shares = seed.within(20..81) as f64 / 100.0;
        let mut hosts = Vec::new();
        let mut routers = Vec::new();
        let mut addresses = Vec::new();
        let mut all_facts = Vec::new();
        for (index, home) in self.homes.iter().enumerate() {
            let mut nat = home.nat.clone();
            let is_translating = nat.is_translating();
            if is_translating {
                nat.external = vec![OUTSIDE[index]];
            }
            let local = if is_translating { INSIDE[index] } else { OUTSIDE[index] };
            let share = if index == 0 { shares } else { 1.0 - shares };
            let link =
                LinkConfig { loss: self.loss, ..LinkConfig::with_latency((self.rtt / 2).mul_f64(share)) };
            let name = ["nat-a", "nat-b"][index];
            let router =
                world.add_router(RouterConfig::new(name).with_v4(nat), internet, Wire::from(link))?;
            let host = world.add_host(["a", "b"][index]);
            world.attach(host, router, &[local], Duration::ZERO)?;
            hosts.push(host);
            routers.push(router);
            addresses.push(local);
            all_facts.push(home.facts);
        }
        let server = world.add_host("server");
        world.attach(server, internet, &[SERVER], Duration::from_millis(5))?;
        let stun = SocketAddr::new(SERVER, 3_478);
        let responder = world
            .with(server, |context| StunServer::bind(context.host, Responder::new(stun)))
            .expect("a new host has all its ports");
        world.run(server, responder);
        for index in [0, 1] {
            if self.homes[index].nat.block.is_some() {
                all_facts[index].block =
                    learn_block(&mut world, hosts[index], routers[index], addresses[index], OUTSIDE[index]);
            }
        }
        if self.counts {
            world.set_recording(200_000);
        }
        let start = world.now();
        let attempt = AttemptId::new(&mut seed);
        for index in [1, 0] {
            let other = 1 - index;
            let clock = Clock::new(start, UnixTime(1_800_000_000_000_000 + index as u64 * 7_000_000));
            let terms = match self.skew {
                // The answerer's clock is seven seconds ahead.
                Some((error, bound)) if index == 0 => Terms {
                    offset: Some((7_000_000_000 + error * 1_000_000, bound * 1_000_000)),
                    delay: None,
                },
                Some((_, bound)) => Terms { offset: Some((-7_000_000_000, bound * 1_000_000)), delay: None },
                None => Terms::default(),
            };
            let config = PunchConfig {
                attempt,
                pair: 0,
                part: [Part::Caller, Part::Answerer][index],
                mode: Mode::Remote,
                local: Local(SocketAddr::new(addresses[index], 0)),
                address: OUTSIDE[index],
                remote: SocketAddr::new(OUTSIDE[other], 0),
                at: addresses[other],
                facts: all_facts[index],
                theirs: all_facts[other],
                can_observe: true,
                silent_hop: None,
                terms,
                clock,
                limits: self.limits,
            };
            let topics = [TOPICS[index], TOPICS[other]];
            let mut puncher = Puncher::new(config, Some(stun), topics, seed.fork("puncher"));
            world.with(hosts[index], |context| puncher.start(context));
            world.run(hosts[index], puncher);
        }
        let hosts = [hosts[0], hosts[1]];
        world.run_until_done(start + LONGEST, |world| is_over(world, hosts));
        // What is still under way must not change it.
        let after = world.now() + Duration::from_millis(300);
        world.run_until(after);
        Ok(outcome(&world, hosts, start))
    }
}

fn is_over(world: &World, hosts: [HostId; 2]) -> bool {
    let sides = hosts.map(|host| world.program::<Puncher>(host));
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
    let sides = hosts.map(|host| world.program::<Puncher>(host).expect("it was given one"));
    let since = |at: Instant| at.saturating_duration_since(start);
    let kept = sides.map(|side| side.kept.clone());
    let planned = sides[0].planned.zip(sides[1].planned).map(|(a, b)| a.max(b));
    let both = kept[0].first().zip(kept[1].first()).map(|(a, b)| a.at.max(b.at));
    let is_syn = |body: &Body| matches!(body, Body::Tcp(tcp) if tcp.flags.is_syn());
    let syns = world.records().iter().filter(|record| {
        let header = &record.packet.header;
        record.fate == Fate::Sent
            && hosts.map(Into::into).contains(&record.node)
            && header.dst.ip() != SERVER
            && is_syn(&header.body)
    });
    Outcome {
        took: both.zip(planned).map(|(both, planned)| both.saturating_duration_since(planned)),
        whole: both.map(since),
        first_syn: sides.map(|side| side.dialled.map(since)),
        tactic: sides[0].punch().and_then(|punch| punch.report().tactic),
        reports: sides.map(|side| side.punch().map(|punch| punch.report())),
        failed: sides.map(|side| side.failed),
        syns: syns.count(),
        kept,
    }
}
