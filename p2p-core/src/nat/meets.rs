//! The truth table: which two networks can meet, how, and at what cost.
//!
#![doc = include_str!("meets.md")]

use std::fmt;

use super::predict::birthday;
use super::{DeltaKind, Filtering, Mapping, NatFacts, NatType, SynAnswer};

/// SYNs one side sends for a birthday at most: small routers hold a few thousand connections, and floods
/// have taken home networks down.
pub const MOST_SYNS: u32 = 512;
/// Pairs of ports in a ladder: twelve hit 11 times of 11 with clocks 300 ms apart (lab).
pub const LADDER: u32 = 12;
/// From the measurement to the punch, in seconds: what others may do to a counter in between.
const AGE: f64 = 0.3;
/// What is not more probable than this is not tried.
const WORTH_IT: f64 = 0.1;

/// How two peers get a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The first dials the second.
    Direct,
    /// The second dials the first.
    Reverse,
    /// Both dial.
    Punch,
    /// Through a third party.
    Relay,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Reverse => "reverse",
            Self::Punch => "punch",
            Self::Relay => "relay",
        })
    }
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// How a punch is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plan {
    /// Both dial the other's port at once; time does not matter.
    Now,
    /// As [`Now`](Self::Now), but this side first: its NAT would answer the other's SYN.
    First(Side),
    /// Both NATs answer SYNs, so both SYNs must be under way at once: several pairs of ports at several times.
    Ladder,
    /// This side sends one SYN to the other's address, whatever the port; its NAT then lets the other in.
    Open(Side),
    /// Several dials for the ports that are likely.
    Window,
    /// Many dials for ports that cannot be predicted.
    Birthday,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::First(side) => write!(f, "{side:?} first"),
            Self::Ladder => f.write_str("ladder"),
            Self::Open(side) => write!(f, "{side:?} opens"),
            Self::Window => f.write_str("window"),
            Self::Birthday => f.write_str("birthday"),
        }
    }
}

/// What two networks can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Meeting {
    /// The ways that can work, best first. Empty: neither gets out over this transport.
    pub ways: Vec<Way>,
    /// How to punch, if that can work.
    pub plan: Option<Plan>,
    /// SYNs of both sides together for the best way; 0 for a relay.
    pub syns: u32,
    /// How probably the best way works when the facts are right; for a relay 0, as a third party decides.
    pub probability: f64,
}

/// What one side is for the other.
#[derive(Clone, Copy, Debug)]
struct Seat {
    is_blocked: bool,
    /// Anybody who knows the address can dial it.
    is_reachable: bool,
    /// The external port towards the peer is known beforehand.
    is_known: bool,
    /// The peer comes in from any port, once something was sent to its address.
    is_lax: bool,
    /// An unsolicited SYN is answered.
    answers: bool,
    port: NextPort,
}

/// How much of the external port towards the peer is known.
#[derive(Clone, Copy, Debug)]
enum NextPort {
    /// One of so many, all but certainly.
    Window { ports: u32, probability: f64 },
    /// Any one of so many.
    Random { pool: u32 },
}

impl Seat {
    fn new(facts: &NatFacts) -> Self {
        let nat = facts.nat;
        let mapping = facts.mapping.or(match nat {
            Some(NatType::Symmetric) => Some(Mapping::AddressAndPortDependent),
            Some(_) => Some(Mapping::EndpointIndependent),
            None => None,
        });
        let filtering = facts.filtering.or(match nat {
            Some(NatType::Open | NatType::FullCone) => Some(Filtering::EndpointIndependent),
            Some(NatType::Restricted) => Some(Filtering::AddressDependent),
            _ => None,
        });
        let is_known = mapping == Some(Mapping::EndpointIndependent);
        Self {
            is_blocked: nat == Some(NatType::Blocked),
            is_reachable: filtering == Some(Filtering::EndpointIndependent),
            is_known,
            is_lax: is_known && filtering == Some(Filtering::AddressDependent),
            answers: !matches!(facts.syn, None | Some(SynAnswer::Silence)),
            port: if is_known {
                NextPort::Window { ports: 1, probability: 1.0 }
            } else {
                NextPort::new(facts)
            },
        }
    }
}

impl NextPort {
    fn new(facts: &NatFacts) -> Self {
        let pool = facts.block.or(facts.range).map_or(64_512, |range| range.size());
        let others = f64::from(facts.rate.unwrap_or(0)) * AGE;
        match facts.delta.map(|delta| delta.kind) {
            Some(DeltaKind::Equal | DeltaKind::Preserving) => Self::Window { ports: 1, probability: 1.0 },
            Some(DeltaKind::Independent) if others > 0.0 => {
                let ports = (others + 3.0 * others.sqrt()).ceil() as u32 + 1;
                Self::Window { ports, probability: 0.99 }
            }
            Some(DeltaKind::Independent) => Self::Window { ports: 1, probability: 1.0 },
            // Measured again at once before, so that only a round trip's worth of others can come between.
            Some(DeltaKind::Dependent) => Self::Window { ports: 1, probability: (-others).exp() },
            Some(DeltaKind::Random) | None => Self::Random { pool },
        }
    }
}

/// What two networks can do for each other, over the transport that `a` and `b` were measured on.
///
/// What is not known is taken for what promises least, except that a NAT whose answer to SYNs is not known
/// is taken for silent, as RFC 5382 demands. Swapping the sides swaps direct with reverse and A with B, and
/// changes nothing else. Two hosts behind **one** NAT meet on the inside and are not the subject here.
pub fn meets(a: &NatFacts, b: &NatFacts) -> Meeting {
    let (a, b) = (Seat::new(a), Seat::new(b));
    if a.is_blocked || b.is_blocked {
        return Meeting { ways: Vec::new(), plan: None, syns: 0, probability: 0.0 };
    }
    let mut ways = Vec::new();
    if b.is_reachable {
        ways.push(Way::Direct);
    }
    if a.is_reachable {
        ways.push(Way::Reverse);
    }
    let punch = punch(&a, &b).filter(|punch| punch.probability >= WORTH_IT);
    if punch.is_some() {
        ways.push(Way::Punch);
    }
    ways.push(Way::Relay);
    let (syns, probability) = match (ways[0], &punch) {
        (Way::Direct | Way::Reverse, _) => (1, 1.0),
        (_, Some(punch)) => (punch.syns, punch.probability),
        (_, None) => (0, 0.0),
    };
    Meeting { ways, plan: punch.map(|punch| punch.plan), syns, probability }
}

struct Punch {
    plan: Plan,
    syns: u32,
    probability: f64,
}

fn punch(a: &Seat, b: &Seat) -> Option<Punch> {
    // A side that lets strangers in never answers their SYNs for the NAT.
    let answers = |side: &Seat| side.answers && !side.is_reachable;
    let both_answer = answers(a) && answers(b);
    match (a.is_known, b.is_known) {
        (true, true) => Some(pairs(1, 1.0, a, b)),
        (true, false) => Some(half_known(a, b, Side::A)),
        (false, true) => Some(half_known(b, a, Side::B)),
        (false, false) if both_answer => match (a.port, b.port) {
            (
                NextPort::Window { ports: 1, probability: p },
                NextPort::Window { ports: 1, probability: q },
            ) => Some(pairs(1, p * q, a, b)),
            _ => None,
        },
        (false, false) => Some(match (a.port, b.port) {
            (
                NextPort::Window { ports, probability },
                NextPort::Window { ports: others, probability: other },
            ) => match ports.saturating_mul(others) {
                1 => pairs(1, probability * other, a, b),
                // One side steps by one, the other by two: every pair of offsets comes up.
                all => {
                    let each = all.min(MOST_SYNS);
                    let covered = f64::from(each) / f64::from(all);
                    Punch { plan: Plan::Window, syns: 2 * each, probability: probability * other * covered }
                }
            },
            // Each dial has its own two ports, so both must be right at once: guesses do not multiply.
            (NextPort::Window { ports, probability }, NextPort::Random { pool })
            | (NextPort::Random { pool }, NextPort::Window { ports, probability }) => {
                let hit = birthday(MOST_SYNS, 1, pool.saturating_mul(ports));
                Punch { plan: Plan::Birthday, syns: 2 * MOST_SYNS, probability: probability * hit }
            }
            (NextPort::Random { pool }, NextPort::Random { pool: other }) => {
                let hit = birthday(MOST_SYNS, 1, pool.saturating_mul(other));
                Punch { plan: Plan::Birthday, syns: 2 * MOST_SYNS, probability: hit }
            }
        }),
    }
}

/// Both dial one port, or one of a few.
fn pairs(each: u32, probability: f64, a: &Seat, b: &Seat) -> Punch {
    let answers = |side: &Seat| side.answers && !side.is_reachable;
    match (answers(a), answers(b)) {
        // The ladder met 11 times of 11; its probability is that of rule of succession.
        (true, true) => {
            Punch { plan: Plan::Ladder, syns: 2 * LADDER * each, probability: probability * 12.0 / 13.0 }
        }
        (true, false) => Punch { plan: Plan::First(Side::A), syns: 2 * each, probability },
        (false, true) => Punch { plan: Plan::First(Side::B), syns: 2 * each, probability },
        (false, false) => Punch { plan: Plan::Now, syns: 2 * each, probability },
    }
}

/// One side's port is known; the other's is not.
fn half_known(known: &Seat, other: &Seat, side: Side) -> Punch {
    if known.is_lax || known.is_reachable {
        // The opening SYN meets no mapping at the other's NAT. If that one answers, some NATs forget what
        // was opened.
        let probability = if other.answers { 0.9 } else { 1.0 };
        return Punch { plan: Plan::Open(side), syns: 2, probability };
    }
    let both_answer = known.answers && other.answers;
    match other.port {
        NextPort::Window { ports: 1, probability } => match side {
            Side::A => pairs(1, probability, known, other),
            Side::B => pairs(1, probability, other, known),
        },
        NextPort::Window { ports, probability } => {
            // Most of the dials are answered, and so end, before the right one is sent.
            let probability = if both_answer { probability * 0.5 } else { probability };
            Punch { plan: Plan::Window, syns: ports.min(MOST_SYNS) + 1, probability }
        }
        NextPort::Random { pool } => {
            let each = super::predict::birthday_needed(pool, 0.99)
                .and_then(|each| u32::try_from(each).ok())
                .map_or(MOST_SYNS, |each| each.min(MOST_SYNS));
            // With answers on both sides each SYN ends the dial it meets.
            let probability = if both_answer { 0.0 } else { birthday(each, each, pool) };
            Punch { plan: Plan::Birthday, syns: 2 * each, probability }
        }
    }
}

/// The classes of networks that the table tells apart, by name.
pub fn classes() -> Vec<(String, NatFacts)> {
    let mut classes = Vec::new();
    for nat in NatType::ALL {
        let deltas: &[DeltaKind] =
            if nat == NatType::Symmetric { &DeltaKind::ALL } else { &[DeltaKind::Equal] };
        for kind in deltas {
            let name = if nat == NatType::Symmetric { format!("{nat} {kind}") } else { nat.to_string() };
            let delta = Some(super::Delta { kind: *kind, value: i16::from(*kind != DeltaKind::Equal) });
            classes.push((name, NatFacts { nat: Some(nat), delta, ..NatFacts::default() }));
        }
    }
    classes
}

/// The table for people, as Markdown: what stands at the top of this module.
pub fn table() -> String {
    use fmt::Write;
    let classes = classes();
    let mut out = String::from(
        "# Who can meet whom\n\nThe first peer is the row, the second the column. Both NATs are silent towards strangers and nobody\n\
         else uses them. In each cell: the best way, or the plan of the punch; the SYNs of both together; the\n\
         probability. Of the 35 types × deltas only these differ: the delta matters where the mapping changes\n\
         with the destination, and nowhere else. Made by `cargo run -p p2p-core --example meets`.\n\n|  |",
    );
    for (name, _) in &classes {
        let _ = write!(out, " {name} |");
    }
    let _ = write!(out, "\n|---|{}\n", "---|".repeat(classes.len()));
    for (name, a) in &classes {
        let _ = write!(out, "| **{name}** |");
        for (_, b) in &classes {
            let meeting = meets(a, b);
            let _ = write!(out, " {} |", cell(&meeting));
        }
        out.push('\n');
    }
    out.push_str(
        "\nWith other answers to an unsolicited SYN (RST or ICMP), first and second port-restricted:\n\n",
    );
    out.push_str("| first | second | plan | SYNs | probability |\n|---|---|---|---|---|\n");
    let answers = [SynAnswer::Silence, SynAnswer::Reset];
    for (a, b) in answers.iter().flat_map(|a| answers.iter().map(move |b| (*a, *b))) {
        let seat =
            |syn| NatFacts { nat: Some(NatType::PortRestricted), syn: Some(syn), ..NatFacts::default() };
        let meeting = meets(&seat(a), &seat(b));
        let plan = meeting.plan.map_or(String::new(), |plan| plan.to_string());
        let (syns, percent) = (meeting.syns, percent(meeting.probability));
        let _ = writeln!(out, "| {a:?} | {b:?} | {plan} | {syns} | {percent} |");
    }
    out
}

fn cell(meeting: &Meeting) -> String {
    match (meeting.ways.first(), meeting.plan) {
        (None, _) => "none".to_owned(),
        (Some(Way::Punch), Some(plan)) => {
            format!("{plan}, {}, {}", meeting.syns, percent(meeting.probability))
        }
        (Some(way), _) if meeting.syns > 0 => {
            format!("{way}, {}, {}", meeting.syns, percent(meeting.probability))
        }
        (Some(way), _) => way.to_string(),
    }
}

fn percent(probability: f64) -> String {
    format!("{:.0} %", probability * 100.0)
}

#[cfg(test)]
#[path = "meets_tests.rs"]
mod tests;
