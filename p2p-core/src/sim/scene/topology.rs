//! Random topologies: two nodes, what lies between them, and the servers they know.

use std::fmt;
use std::time::Duration;

use super::Scene;
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, NatType, PortRange};
use crate::sim::link::LinkConfig;
use crate::sim::nat::{Fallback, Hairpin, NatConfig, Policy, PortChoice, StepScope, Unsolicited};
use crate::sim::packet::IcmpKind;
use crate::{Family, Seed};

/// Two nodes, what lies between them, and the servers they know, drawn from one number.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The number it was drawn from.
    pub number: u64,
    /// The caller's side and the other one.
    pub sides: [SidePlan; 2],
    /// What the first interfaces of both sides share.
    pub shared: SharedPlan,
    /// The loss of each access link, in each direction, 0.0 to 1.0.
    pub loss: f64,
    /// The jitter of each access link, in each direction.
    pub jitter: Duration,
    /// The servers.
    pub servers: ServerPlan,
    /// Tells that both nodes know their networks before the call. Else the call comes as soon as the caller has started.
    pub is_warm: bool,
    /// Tells that the other side lists the caller as one who may call.
    pub is_known: bool,
}

/// One side: a machine and a node on it.
#[derive(Clone, Debug, PartialEq)]
pub struct SidePlan {
    /// Its interfaces, the one with the default route first.
    pub nics: Vec<NicPlan>,
    /// The microseconds by which its clock is ahead of the true time.
    pub ahead: i64,
    /// The time from the beginning to its start.
    pub starts: Duration,
}

/// An interface, and what stands between it and the Internet.
#[derive(Clone, Debug, PartialEq)]
pub struct NicPlan {
    /// The families it has an address of.
    pub families: Vec<Family>,
    /// The gates in front of it, the outermost first. Those that both sides share are not among them.
    pub gates: Vec<GatePlan>,
    /// The delay of its access link, one way.
    pub leg: Duration,
}

/// A NAT or a firewall for each family.
#[derive(Clone, Debug, PartialEq)]
pub struct GatePlan {
    /// The name of what is done to IPv4.
    pub name: String,
    /// What is done to IPv4.
    pub v4: NatConfig,
    /// What is done to IPv6.
    pub v6: NatConfig,
}

/// What the first interfaces of both sides share.
#[derive(Clone, Debug, PartialEq)]
pub enum SharedPlan {
    /// Nothing: the Internet is between them.
    Nothing,
    /// One home network, behind this gate.
    Home(GatePlan),
    /// One carrier, and behind its gate a home for each.
    Carrier(GatePlan),
}

/// The servers there are. Those that are dead stand in the configurations all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerPlan {
    /// The delay from the middle of the Internet, one way.
    pub leg: Duration,
    /// Brokers, and how the first of them is dead.
    pub brokers: (u8, Option<Death>),
    /// STUN servers of each family.
    pub stun: (u8, Option<Death>),
    /// TURN servers; they listen at IPv4 and IPv6 addresses in turn.
    pub turn: (u8, Option<Death>),
    /// NTP servers.
    pub ntp: (u8, Option<Death>),
}

/// How a server is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nothing answers.
    Silent,
    /// The machine refuses connections.
    Refusing,
}

impl Topology {
    /// Draws a topology.
    pub fn draw(number: u64) -> Self {
        let mut dice = Seed::from_u64(number).fork("topology");
        let dice = &mut dice;
        let rtt = Duration::from_millis(dice.within(10..301));
        let share = dice.within(20..81) as f64 / 100.0;
        let legs = [share, 1.0 - share].map(|share| (rtt / 2).mul_f64(share));
        let shared = match dice.below(100) {
            0..8 => SharedPlan::Home(gate(dice)),
            8..20 => SharedPlan::Carrier(carrier(dice)),
            _ => SharedPlan::Nothing,
        };
        let families = families(dice);
        let mut sides = [0, 1].map(|index| side(families[index].clone(), legs[index], &shared, dice));
        sides[0].starts = dice.up_to(Duration::from_secs(1));
        let loss = if dice.chance(0.5) { 0.0 } else { dice.unit() * 0.02 };
        let jitter = if dice.chance(0.5) { Duration::ZERO } else { dice.up_to(rtt / 10) };
        let plan = |most: u64, dice: &mut Seed| {
            let count = 1 + dice.below(most) as u8;
            let death = *dice.pick(&[Death::Silent, Death::Refusing]).unwrap_or(&Death::Silent);
            (count, dice.chance(0.12).then_some(death))
        };
        let servers = ServerPlan {
            leg: Duration::from_millis(dice.within(2..61)),
            brokers: plan(2, dice),
            stun: (2, plan(1, dice).1),
            turn: plan(2, dice),
            ntp: if dice.chance(0.3) { plan(1, dice) } else { (0, None) },
        };
        let (is_warm, is_known) = (dice.chance(0.4), dice.chance(0.5));
        Self { number, sides, shared, loss, jitter, servers, is_warm, is_known }
    }

    /// Returns the wire of an access link.
    pub fn wire(&self, leg: Duration) -> LinkConfig {
        LinkConfig { loss: self.loss, jitter: self.jitter, ..LinkConfig::with_latency(leg) }
    }

    /// Returns the round trip between both sides, by the way over their first interfaces.
    pub fn rtt(&self) -> Duration {
        self.sides.iter().map(|side| side.nics[0].leg * 2).sum()
    }
}

/// IPv4 on both sides mostly; IPv6 beside it; seldom IPv6 alone.
fn families(dice: &mut Seed) -> [Vec<Family>; 2] {
    let (v4, both, v6) = (vec![Family::V4], vec![Family::V4, Family::V6], vec![Family::V6]);
    let draw = |dice: &mut Seed| match dice.below(100) {
        0..60 => v4.clone(),
        60..93 => both.clone(),
        _ => v6.clone(),
    };
    [draw(dice), draw(dice)]
}

fn side(families: Vec<Family>, leg: Duration, shared: &SharedPlan, dice: &mut Seed) -> SidePlan {
    let first = match shared {
        SharedPlan::Home(_) => Vec::new(),
        SharedPlan::Carrier(_) => vec![gate(dice)],
        SharedPlan::Nothing => gates(dice),
    };
    let mut nics = vec![NicPlan { families: families.clone(), gates: first, leg }];
    if dice.chance(0.15) {
        nics.push(NicPlan { families, gates: gates(dice), leg: leg.mul_f64(0.5 + dice.unit()) });
    }
    let seconds =
        |dice: &mut Seed, most: u64| dice.within(0..2 * most * 1_000_000) as i64 - (most * 1_000_000) as i64;
    let ahead = if dice.chance(0.5) { 0 } else { seconds(dice, 10) };
    SidePlan { nics, ahead, starts: Duration::ZERO }
}

/// None for a public address, one mostly, two where a home is below a carrier or another home.
fn gates(dice: &mut Seed) -> Vec<GatePlan> {
    match dice.below(100) {
        0..6 => Vec::new(),
        6..88 => vec![gate(dice)],
        _ => vec![carrier(dice), gate(dice)],
    }
}

fn carrier(dice: &mut Seed) -> GatePlan {
    let block = *dice.pick(&[256, 512, 1_024, 4_096]).unwrap_or(&512);
    let mut v4 = NatConfig::carrier(vec![Scene::ANY], block);
    v4.hairpin = if dice.chance(0.5) { Hairpin::ExternalSource } else { Hairpin::None };
    let mapping =
        if dice.chance(0.6) { Mapping::EndpointIndependent } else { Mapping::AddressAndPortDependent };
    v4 = v4.with_flow(|flow| flow.mapping = mapping);
    let mapping = if mapping == Mapping::EndpointIndependent { "EIM" } else { "APDM" };
    let turns = if v4.hairpin == Hairpin::None { "" } else { " hairpin" };
    GatePlan { name: format!("carrier {mapping} block {block}{turns}"), v4, v6: firewall(dice) }
}

fn gate(dice: &mut Seed) -> GatePlan {
    let (name, v4) = match dice.below(100) {
        0..40 => preset(dice),
        40..60 => linux(dice),
        _ => fine(dice),
    };
    let (name, v4) = answering(name, v4, dice);
    GatePlan { name, v4, v6: firewall(dice) }
}

/// What home routers do to IPv6: mostly they let nobody in who was not asked for (RFC 6092).
fn firewall(dice: &mut Seed) -> NatConfig {
    match dice.below(100) {
        0..15 => NatConfig::open(),
        15..60 => NatConfig::linux_firewall(),
        _ => NatConfig::firewall(*dice.pick(&FILTERINGS).unwrap_or(&Filtering::AddressAndPortDependent)),
    }
}

/// One of the 7 types by 5 deltas.
fn preset(dice: &mut Seed) -> (String, NatConfig) {
    let types = [
        NatType::Open,
        NatType::SymmetricFirewall,
        NatType::FullCone,
        NatType::Restricted,
        NatType::PortRestricted,
        NatType::Symmetric,
    ];
    // Where nothing passes there is nothing to see; still it must not hang.
    let nat = if dice.chance(0.02) { NatType::Blocked } else { *dice.pick(&types).unwrap_or(&types[0]) };
    let kind = *dice.pick(&DeltaKind::ALL).unwrap_or(&DeltaKind::Random);
    let value = match kind {
        DeltaKind::Independent | DeltaKind::Dependent => dice.within(1..5) as i16,
        _ => 0,
    };
    let delta = Delta { kind, value };
    (
        format!("{nat}/{kind}{}", if value == 0 { String::new() } else { format!(" {value}") }),
        NatConfig::of_type(nat, delta, RANGE, Scene::ANY),
    )
}

fn linux(dice: &mut Seed) -> (String, NatConfig) {
    match dice.chance(0.75) {
        true => ("linux".into(), NatConfig::linux_masquerade(Scene::ANY)),
        false => ("linux random".into(), NatConfig::linux_fully_random(Scene::ANY)),
    }
}

/// Behaviours of RFC 4787 and 5382, each drawn by itself.
fn fine(dice: &mut Seed) -> (String, NatConfig) {
    let mapping = *dice.pick(&MAPPINGS).unwrap_or(&MAPPINGS[0]);
    let filtering = *dice.pick(&FILTERINGS).unwrap_or(&FILTERINGS[0]);
    let by = dice.within(1..4) as i16;
    let scopes = [StepScope::Global, StepScope::PerHost, StepScope::PerDestination];
    let scope = *dice.pick(&scopes).unwrap_or(&scopes[0]);
    let ports = match dice.below(6) {
        0 => PortChoice::Preserve { or: Fallback::Random },
        1 => PortChoice::Preserve { or: Fallback::Next },
        2 => PortChoice::Offset { by: dice.within(1..5_000) as i16 },
        3 => PortChoice::Step { by, scope },
        4 => PortChoice::StepWhileLocalSteps { by },
        _ => PortChoice::Random,
    };
    let background = if dice.chance(0.3) { dice.unit() * 10.0 } else { 0.0 };
    let range = match dice.below(3) {
        0 => PortRange { first: 32_768, last: 60_999 },
        _ => RANGE,
    };
    let mut nat = NatConfig::home(Scene::ANY).with_flow(|flow| {
        flow.mapping = mapping;
        flow.filtering = filtering;
        flow.ports = ports;
        flow.background = background;
        flow.range = range;
    });
    nat.hairpin = if dice.chance(0.4) { Hairpin::ExternalSource } else { Hairpin::None };
    nat.tcp.simultaneous_open = !dice.chance(0.03);
    let mut name =
        format!("{}M {}F {}", short_mapping(mapping), short_filtering(filtering), short_ports(ports));
    if background > 0.0 {
        name.push_str(&format!(" +{background:.0}/s"));
    }
    if nat.hairpin != Hairpin::None {
        name.push_str(" hairpin");
    }
    if !nat.tcp.simultaneous_open {
        name.push_str(" no-crossing");
    }
    (name, nat)
}

/// What strangers get, and whether UDP passes at all.
fn answering(mut name: String, nat: NatConfig, dice: &mut Seed) -> (String, NatConfig) {
    let unsolicited = match dice.below(100) {
        0..70 => nat.tcp.unsolicited,
        70..85 => Unsolicited::Reset,
        85..93 => Unsolicited::Icmp(IcmpKind::Prohibited),
        _ => Unsolicited::Icmp(IcmpKind::PortUnreachable),
    };
    let mut nat = nat.with_unsolicited(unsolicited);
    match unsolicited {
        Unsolicited::Reset => name.push_str(" rst"),
        Unsolicited::Icmp(_) => name.push_str(" icmp"),
        _ => {}
    }
    if dice.chance(0.05) && nat.udp.flow.policy == Policy::Stateful {
        nat.udp.flow.policy = Policy::Blocked;
        name.push_str(" no-udp");
    }
    (name, nat)
}

fn short_mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::EndpointIndependent => "EI",
        Mapping::AddressDependent => "AD",
        Mapping::AddressAndPortDependent => "APD",
    }
}

fn short_filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "EI",
        Filtering::AddressDependent => "AD",
        Filtering::AddressAndPortDependent => "APD",
    }
}

fn short_ports(ports: PortChoice) -> String {
    match ports {
        PortChoice::Preserve { or: Fallback::Random } => "preserve".into(),
        PortChoice::Preserve { .. } => "preserve|next".into(),
        PortChoice::Offset { by } => format!("offset {by}"),
        PortChoice::Step { by, scope: StepScope::Global } => format!("step {by}"),
        PortChoice::Step { by, scope: StepScope::PerHost } => format!("step {by} per host"),
        PortChoice::Step { by, scope: StepScope::PerDestination } => format!("step {by} per destination"),
        PortChoice::StepWhileLocalSteps { by } => format!("step {by} with local"),
        PortChoice::Random => "random".into(),
    }
}

impl fmt::Display for NicPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<_> = self.families.iter().map(ToString::to_string).collect();
        write!(f, "{}, {:.0?}", families.join("+"), self.leg)?;
        if self.gates.is_empty() {
            f.write_str(", bare")?;
        }
        for gate in self.gates.iter().rev() {
            write!(f, ", {gate}")?;
        }
        Ok(())
    }
}

impl fmt::Display for GatePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = match (self.v6.tcp.flow.policy, self.v6.tcp.flow.filtering) {
            (Policy::Open, _) => "open",
            (_, Filtering::EndpointIndependent) => "EIF",
            (_, Filtering::AddressDependent) => "ADF",
            (_, Filtering::AddressAndPortDependent) => "APDF",
        };
        write!(f, "[{} | v6 {v6}]", self.name)
    }
}

/// A line for each side, one for what lies between, and one for the servers.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_warm { "warm" } else { "cold" };
        let trust = if self.is_known { "known" } else { "stranger" };
        writeln!(f, "topology {}: {state}, {trust}", self.number)?;
        for (name, side) in ["caller", "called"].iter().zip(&self.sides) {
            let nics: Vec<_> = side.nics.iter().map(ToString::to_string).collect();
            let ahead = side.ahead as f64 / 1e6;
            writeln!(f, "  {name}: {} (clock {ahead:+.1} s, from {:.0?})", nics.join("; "), side.starts)?;
        }
        match &self.shared {
            SharedPlan::Nothing => {}
            SharedPlan::Home(gate) => writeln!(f, "  both in one home: {gate}")?,
            SharedPlan::Carrier(gate) => writeln!(f, "  both below one carrier: {gate}")?,
        }
        writeln!(f, "  rtt {:.0?}, loss {:.1} %, jitter {:.0?}", self.rtt(), self.loss * 100.0, self.jitter)?;
        let ServerPlan { leg, brokers, stun, turn, ntp } = &self.servers;
        let shown = |(count, death): &(u8, Option<Death>)| match death {
            Some(death) => format!("{count} (one {death:?})"),
            None => count.to_string(),
        };
        let [brokers, stun, turn, ntp] = [brokers, stun, turn, ntp].map(shown);
        write!(f, "  servers {leg:.0?} away: brokers {brokers}, stun {stun}, turn {turn}, ntp {ntp}")
    }
}

const MAPPINGS: [Mapping; 3] =
    [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];
const FILTERINGS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
/// The ports that preset NATs give out.
const RANGE: PortRange = PortRange { first: 1_024, last: u16::MAX };
