//! What two nodes of a topology can do at all, by what their networks are: the oracle of `world_figures`.
//!
//! It reads the plan of a topology, never what a node has found out, and shares no rule with [`nat::meets`](crate::nat::meets),
//! which it is to judge. It is written down plainly, for TCP, by the words of RFC 4787 and RFC 5382:
//!
//! 1. Two interfaces **on one network** can dial each other.
//! 2. An interface **can be dialled** when every gate in front of it lets strangers in at the port listened on: there is no
//!    gate, or it is open, or it filters endpoint-independently. Where a gate translates, the port must be known, and
//!    only a live STUN server can tell it.
//! 3. A **simultaneous open by informed ends** works when both ends know, before the first SYN, which external port the
//!    other's SYN will come from: the mapping is endpoint-independent, or the port can be computed, or counted. Both gates
//!    must not refuse a SYN that crosses their own: one of them may. An end that filters by address alone needs only
//!    that its own port is known: it opens with one SYN to any port.
//! 4. Where a port is **given out at random**, it takes guesses, `GUESSES` of each end at most. A guess at a set of open
//!    ports hits with 1 - exp(-guesses * open / pool). An end whose mappings are all open at once to one target hits
//!    that target with min(1, dials / pool).
//! 5. **Below one carrier** the ends meet inside of it, by their addresses there, or through it where it turns packets round.
//! 6. **A relay** works when one TURN server lives, and both ends reach it, over UDP or TCP.
//! 7. Everything but dialling needs a live broker that both ends reach.

use std::fmt;

use super::topology::{GatePlan, NicPlan, ServerPlan, SharedPlan, Topology};
use crate::Family;
use crate::attempt::Way;
use crate::nat::{Filtering, Mapping};
use crate::sim::nat::{FlowConfig, Hairpin, NatConfig, Policy, PortChoice, Unsolicited};

/// What two nodes can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// The caller can dial the other node.
    pub direct: bool,
    /// The other node can dial the caller.
    pub reverse: bool,
    /// How probably a punch by informed ends works, 0.0 to 1.0.
    pub punch: f64,
    /// What kind of punch that is.
    pub kind: PunchKind,
    /// A TURN server can relay.
    pub relay: bool,
    /// There is a broker that both reach.
    pub signals: bool,
}

/// What makes a punch easy or hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PunchKind {
    /// None works.
    Impossible,
    /// Both ports are known, and neither gate answers SYNs.
    Quiet,
    /// Both ports are known, and one gate answers SYNs.
    OneAnswers,
    /// Both ports are known, and both gates answer SYNs: they must cross.
    BothAnswer,
    /// A port has to be counted.
    Counted,
    /// A port has to be guessed.
    Birthday,
    /// It works inside of the carrier that is above both.
    InsideCarrier,
    /// It works because the carrier above both turns packets round.
    Hairpin,
}

/// What the gates in front of an interface come to, for one family.
#[derive(Clone, Copy, Debug)]
struct OuterView {
    passes: bool,
    /// Strangers are let in at the port listened on.
    is_open: bool,
    translates: bool,
    filtering: Filtering,
    port: PortTruth,
    /// One port here is seen as one port, whatever the destination.
    is_one_for_all: bool,
    answers: bool,
    /// A SYN that comes in while one goes out is refused.
    refuses_crossing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum PortTruth {
    /// It is known before the first SYN.
    Known,
    /// A counter gives it, that others move, too.
    Counted,
    /// Any of so many.
    Random(u32),
}

impl Truth {
    /// Works out the truth about a topology.
    pub fn of(topology: &Topology) -> Self {
        let [a, b] = &topology.sides;
        let mut truth = Self {
            direct: false,
            reverse: false,
            punch: 0.0,
            kind: PunchKind::Impossible,
            relay: false,
            signals: false,
        };
        for (i, ours) in a.nics.iter().enumerate() {
            for (j, theirs) in b.nics.iter().enumerate() {
                let is_first = i == 0 && j == 0;
                for family in both(ours, theirs) {
                    truth.add(topology, (ours, theirs), is_first, family);
                }
            }
        }
        let reach = |side: usize, is_udp| topology.reaches(side, is_udp);
        let (brokers, turn) = (&topology.servers.brokers, &topology.servers.turn);
        truth.signals = alive(brokers) > 0 && (0..2).all(|side| !reach(side, false).is_empty());
        // TURN servers listen at IPv4 and IPv6 addresses in turn, and relay both.
        let turn_families: Vec<Family> = living_turn(&topology.servers, turn.0);
        let reaches_turn = |side| {
            let reached = [reach(side, true), reach(side, false)].concat();
            turn_families.iter().any(|family| reached.contains(family))
        };
        truth.relay = truth.signals && (0..2).all(reaches_turn);
        if !truth.signals {
            (truth.reverse, truth.punch, truth.kind) = (false, 0.0, PunchKind::Impossible);
        }
        truth
    }

    fn add(&mut self, topology: &Topology, nics: (&NicPlan, &NicPlan), is_first: bool, family: Family) {
        if let (SharedPlan::Home(_), true) = (&topology.shared, is_first) {
            (self.direct, self.reverse) = (true, true);
            return self.consider(1.0, PunchKind::Quiet);
        }
        let is_told = alive(&topology.servers.stun) > 0;
        let gate = match &topology.shared {
            SharedPlan::Nothing => None,
            SharedPlan::Home(gate) | SharedPlan::Carrier(gate) => Some(gate),
        };
        if let (Some(gate), true) = (gate, is_first) {
            let inside = [nics.0, nics.1].map(|nic| OuterView::of(nic, None, family));
            if !nat(gate, family).is_translating() {
                // Inside of the carrier both have the addresses that they have everywhere.
                return self.add_pair(inside, is_told, None);
            }
            // Nobody tells an address inside of the carrier, so nobody dials there.
            self.consider(meet(inside[0], inside[1]).0, PunchKind::InsideCarrier);
            if nat(gate, family).hairpin == Hairpin::ExternalSource {
                let outside = [nics.0, nics.1].map(|nic| OuterView::of(nic, Some(gate), family));
                self.add_pair(outside, is_told, Some(PunchKind::Hairpin));
            }
            return;
        }
        let ends = [0, 1].map(|index| {
            let nic = if index == 0 { nics.0 } else { nics.1 };
            let is_shared = std::ptr::eq(nic, &topology.sides[index].nics[0]);
            OuterView::of(nic, gate.filter(|_| is_shared), family)
        });
        self.add_pair(ends, is_told, None);
    }

    fn add_pair(&mut self, [ours, theirs]: [OuterView; 2], is_told: bool, kind: Option<PunchKind>) {
        self.direct |= ours.passes && theirs.can_be_dialled(is_told);
        self.reverse |= theirs.passes && ours.can_be_dialled(is_told);
        let (punch, found) = meet(ours, theirs);
        self.consider(punch, kind.unwrap_or(found));
    }

    fn consider(&mut self, punch: f64, kind: PunchKind) {
        if punch > self.punch || punch == self.punch && punch > 0.0 && kind < self.kind {
            (self.punch, self.kind) = (punch, kind);
        }
    }

    /// Returns the best way there is, if there is any that is more likely than not.
    pub fn best(&self) -> Option<Way> {
        if self.direct {
            Some(Way::Direct)
        } else if self.reverse {
            Some(Way::Reverse)
        } else if self.punch >= LIKELY {
            Some(Way::Punch)
        } else {
            self.relay.then_some(Way::Relay)
        }
    }
}

fn both(ours: &NicPlan, theirs: &NicPlan) -> Vec<Family> {
    ours.families.iter().copied().filter(|family| theirs.families.contains(family)).collect()
}

fn alive((count, death): &(u8, Option<super::topology::Death>)) -> u8 {
    count - u8::from(death.is_some()).min(*count)
}

fn living_turn(servers: &ServerPlan, count: u8) -> Vec<Family> {
    let first = u8::from(servers.turn.1.is_some());
    (first..count).map(|number| if number % 2 == 0 { Family::V4 } else { Family::V6 }).collect()
}

fn nat(gate: &GatePlan, family: Family) -> &NatConfig {
    match family {
        Family::V4 => &gate.v4,
        Family::V6 => &gate.v6,
    }
}

impl Topology {
    /// Returns the families in which a side reaches the Internet, over UDP or TCP, by its first interface: that has the
    /// default route.
    fn reaches(&self, side: usize, is_udp: bool) -> Vec<Family> {
        let nic = &self.sides[side].nics[0];
        let shared = match &self.shared {
            SharedPlan::Nothing => None,
            SharedPlan::Home(gate) | SharedPlan::Carrier(gate) => Some(gate),
        };
        let passes = |family: &Family| {
            nic.gates.iter().chain(shared).all(|gate| {
                let nat = nat(gate, *family);
                let flow = if is_udp { &nat.udp.flow } else { &nat.tcp.flow };
                flow.policy != Policy::Blocked
            })
        };
        nic.families.iter().copied().filter(passes).collect()
    }
}

impl OuterView {
    fn of(nic: &NicPlan, above: Option<&GatePlan>, family: Family) -> Self {
        let nothing = Self {
            passes: true,
            is_open: true,
            translates: false,
            filtering: Filtering::EndpointIndependent,
            port: PortTruth::Known,
            is_one_for_all: true,
            answers: false,
            refuses_crossing: false,
        };
        above.into_iter().chain(&nic.gates).fold(nothing, |outside, gate| outside.behind(nat(gate, family)))
    }

    /// The same behind one more gate: the strictest counts.
    fn behind(self, nat: &NatConfig) -> Self {
        let flow = &nat.tcp.flow;
        if flow.policy == Policy::Open {
            return self;
        }
        let filtering = self.filtering.max(flow.filtering);
        Self {
            passes: self.passes && flow.policy != Policy::Blocked,
            is_open: self.is_open && flow.filtering == Filtering::EndpointIndependent,
            translates: self.translates || nat.is_translating(),
            filtering,
            port: self.port.behind(nat, flow),
            is_one_for_all: self.is_one_for_all
                && (!nat.is_translating() || flow.mapping == Mapping::EndpointIndependent),
            answers: self.answers || nat.tcp.unsolicited != Unsolicited::Silence,
            refuses_crossing: self.refuses_crossing || !nat.tcp.simultaneous_open,
        }
    }

    fn can_be_dialled(&self, is_told: bool) -> bool {
        self.passes && self.is_open && (is_told || !self.translates)
    }
}

impl PortTruth {
    fn behind(self, nat: &NatConfig, flow: &FlowConfig) -> Self {
        let own = if !nat.is_translating() || flow.mapping == Mapping::EndpointIndependent {
            Self::Known
        } else {
            match flow.ports {
                // A carrier's block is known by one port of it.
                PortChoice::Random => Self::Random(nat.block.map_or(flow.range.size(), u32::from)),
                PortChoice::Preserve { .. } | PortChoice::Offset { .. } if nat.block.is_none() => Self::Known,
                PortChoice::Preserve { .. } | PortChoice::Offset { .. } => {
                    Self::Random(nat.block.map_or(flow.range.size(), u32::from))
                }
                PortChoice::Step { .. } | PortChoice::StepWhileLocalSteps { .. } => Self::Counted,
            }
        };
        match (self, own) {
            (Self::Random(one), Self::Random(two)) => Self::Random(one.max(two)),
            (random @ Self::Random(_), _) | (_, random @ Self::Random(_)) => random,
            (Self::Counted, _) | (_, Self::Counted) => Self::Counted,
            (Self::Known, Self::Known) => Self::Known,
        }
    }
}

/// Returns how probably two informed ends meet by a punch, and what it takes.
fn meet(a: OuterView, b: OuterView) -> (f64, PunchKind) {
    if !a.passes || !b.passes {
        return (0.0, PunchKind::Impossible);
    }
    let answers = match (a.answers && !a.is_open, b.answers && !b.is_open) {
        (false, false) => PunchKind::Quiet,
        (true, true) => PunchKind::BothAnswer,
        _ => PunchKind::OneAnswers,
    };
    let one = slip_in(b).max(slip_in(a));
    let (both, kind) = match a.refuses_crossing && b.refuses_crossing {
        true => (0.0, PunchKind::Impossible),
        false => cross(a, b, answers),
    };
    match one > both {
        true => (one, if one == 1.0 { answers } else { PunchKind::Birthday }),
        false => (both, kind),
    }
}

/// Returns how probably both SYNs come to the very port that the other left from, and what that takes.
fn cross(a: OuterView, b: OuterView, answers: PunchKind) -> (f64, PunchKind) {
    match (a.port, b.port) {
        (PortTruth::Known, PortTruth::Known) => (1.0, answers),
        (PortTruth::Random(pool), PortTruth::Known) | (PortTruth::Known, PortTruth::Random(pool)) => {
            let known = if a.port == PortTruth::Known { a } else { b };
            // One port that is the same for all destinations guesses as often as it likes. Else each guess comes from
            // another port, and all that is open must lead to that one.
            let p = if known.is_one_for_all { guess(pool) } else { sweep(pool) };
            (p, PunchKind::Birthday)
        }
        (PortTruth::Random(one), PortTruth::Random(two)) => (sweep(one) * sweep(two), PunchKind::Birthday),
        (PortTruth::Random(pool), PortTruth::Counted) | (PortTruth::Counted, PortTruth::Random(pool)) => {
            (sweep(pool), PunchKind::Birthday)
        }
        (PortTruth::Counted, _) | (_, PortTruth::Counted) => (1.0, PunchKind::Counted),
    }
}

/// Returns how probably a peer gets in, from whatever port, at a side that has sent something to its address.
fn slip_in(at: OuterView) -> f64 {
    match (at.filtering, at.port) {
        (Filtering::AddressAndPortDependent, _) => 0.0,
        (_, PortTruth::Known | PortTruth::Counted) => 1.0,
        (_, PortTruth::Random(pool)) => guess(pool),
    }
}

/// Returns how probably one of `GUESSES` ports is one of as many that are open.
fn guess(pool: u32) -> f64 {
    let tries = f64::from(GUESSES.min(pool));
    1.0 - (-tries * tries / f64::from(pool)).exp()
}

/// Returns how probably one given port is among those that as many dials were given.
fn sweep(pool: u32) -> f64 {
    (f64::from(GUESSES) / f64::from(pool)).min(1.0)
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |name: &'static str, is: bool| is.then_some(name);
        let known = [
            yes("direct", self.direct),
            yes("reverse", self.reverse),
            yes("relay", self.relay),
            yes("no broker", !self.signals),
        ];
        let words: Vec<_> = known.into_iter().flatten().collect();
        write!(f, "{}", words.join(", "))?;
        if self.punch > 0.0 {
            write!(f, ", punch {:.1} % ({:?})", self.punch * 100.0, self.kind)?;
        }
        Ok(())
    }
}

/// Dials of each end at most, open at once or one after the other.
const GUESSES: u32 = 576;
/// A punch that works at least as often should not be missed.
const LIKELY: f64 = 0.9;
