//! The truth table: which two networks can meet, how, and at what cost.
//!
#![doc = include_str!("meets.md")]

use std::fmt;

use super::forecast::{self, PortForecast, PortRule, others};
use super::predict::{birthday, birthday_needed};
use super::{DeltaKind, Filtering, Mapping, NatFacts, NatType, SynAnswer};

/// SYNs a side sends at most that stay half open: small routers hold a few thousand connections, and floods have
/// taken home networks down.
pub const MOST_SYNS: u32 = 512;
/// SYNs each side sends for a birthday at most. Dials are given up before the kernel repeats them, so there may be
/// more of them than are half open.
pub const MOST_GUESSES: u32 = 576;
/// How surely the two sides of a birthday should meet, where that many SYNs are allowed.
const BIRTHDAY: f64 = 0.9995;
/// Dials that a side whose port counts on makes towards a known port.
pub(crate) const COUNTED: u32 = 6;
/// SYNs of ours that may be lost before they make a mapping, so that a counter is behind what we think.
pub(crate) const LOST: u32 = 2;
/// Pairs of ports in a ladder: twelve hit 11 times of 11 with clocks 300 ms apart (lab).
pub const LADDER: u32 = 12;
/// From the measurement to the punch, in seconds: what others may do to a counter in between.
const AGE: f64 = 0.3;
/// As many mappings of others as a ladder slides past at most: each costs a step of time.
pub(crate) const MOST_SLIDE: u32 = 12;
/// How surely a sliding ladder meets: others that come while it runs make it skip a step.
const SLIDES: f64 = 0.75;
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
pub(crate) struct Seat {
    is_blocked: bool,
    /// Anybody who knows the address can dial it.
    is_reachable: bool,
    /// The peer comes in from any port, once something was sent to its address.
    is_lax: bool,
    /// An unsolicited SYN is answered.
    answers: bool,
    port: NextPort,
}

/// How much of the external port towards the peer is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NextPort {
    /// The same for all destinations, and known.
    Fixed,
    /// Known for each local port, which serves one destination.
    Exact,
    /// That of a counter which up to so many others move too, all but certainly.
    Counted { others: u32, probability: f64 },
    /// Any one of so many.
    Random { pool: u32 },
}

impl Seat {
    pub(crate) fn new(facts: &NatFacts) -> Self {
        let mapping = facts.mapping_or_guess();
        let is_known = mapping == Some(Mapping::EndpointIndependent)
            || (mapping == Some(Mapping::AddressDependent)
                && matches!(PortRule::of(facts), PortRule::Moved { .. }));
        let filtering = facts.filtering_or_guess();
        let serves_all_ports = mapping != Some(Mapping::AddressAndPortDependent);
        Self {
            is_blocked: facts.nat == Some(NatType::Blocked),
            is_reachable: filtering == Some(Filtering::EndpointIndependent),
            is_lax: mapping.is_some() && serves_all_ports && filtering == Some(Filtering::AddressDependent),
            answers: !matches!(facts.syn, None | Some(SynAnswer::Silence)),
            port: if is_known { NextPort::Fixed } else { NextPort::new(facts) },
        }
    }

    /// The same, from what a side says of itself.
    pub(crate) fn announced(ports: &PortForecast, filtering: Filtering, syn: Option<SynAnswer>) -> Self {
        let port = NextPort::announced(ports);
        let is_known = matches!(port, NextPort::Fixed);
        let is_reachable = is_known && filtering == Filtering::EndpointIndependent;
        Self {
            is_blocked: false,
            is_reachable,
            is_lax: filtering == Filtering::AddressDependent,
            answers: !matches!(syn, None | Some(SynAnswer::Silence)) && !is_reachable,
            port,
        }
    }

    /// Returns true where its NAT ends a dial that it does not let in. One that lets strangers in never does.
    pub(crate) fn is_harsh(&self) -> bool {
        self.answers && !self.is_reachable
    }

    /// Returns true where anybody who knows the address gets in.
    pub(crate) fn is_reachable(&self) -> bool {
        self.is_reachable
    }

    /// Whether nothing can be wrong about its port but a SYN that was lost.
    fn is_sure(&self) -> bool {
        matches!(self.port, NextPort::Fixed | NextPort::Exact | NextPort::Counted { others: 0, .. })
    }
}

impl NextPort {
    fn new(facts: &NatFacts) -> Self {
        let rate = facts.rate.unwrap_or(0);
        match PortRule::of(facts) {
            PortRule::Moved { .. } => Self::Exact,
            PortRule::Counter { is_dependent: false, .. } => {
                let others = u32::from(others(rate, AGE));
                Self::Counted { others, probability: if others == 0 { 1.0 } else { 0.99 } }
            }
            // Measured again at once before, so that only a round trip's worth of others can come between.
            PortRule::Counter { is_dependent: true, .. } => {
                Self::Counted { others: 0, probability: (-f64::from(rate) * AGE).exp() }
            }
            PortRule::Random => Self::Random { pool: forecast::pool(facts).size() },
        }
    }

    /// The same, from what a side says of itself.
    pub(crate) fn announced(ports: &PortForecast) -> Self {
        match ports {
            PortForecast::Fixed(_) => Self::Fixed,
            PortForecast::Run { .. } => Self::Exact,
            PortForecast::Counter { others, .. } => {
                Self::Counted { others: u32::from(*others), probability: 0.99 }
            }
            PortForecast::Random { pool } => Self::Random { pool: pool.size() },
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
    let punch = choose(&a, &b);
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

pub(crate) struct Punch {
    pub(crate) plan: Plan,
    pub(crate) syns: u32,
    pub(crate) probability: f64,
}

/// How the two punch, if that is worth it.
pub(crate) fn choose(a: &Seat, b: &Seat) -> Option<Punch> {
    punch(a, b).filter(|punch| punch.probability >= WORTH_IT)
}

/// How many dials each side makes where both must guess the other's port and at least one counts: the first steps
/// by two, the second by one, so that whatever number of others comes between, one pair of dials meets. `a` and
/// `b` are how many others there may be; see `punch::plan`.
pub(crate) fn stairs(a: u32, b: u32) -> (u32, u32) {
    // Half as many again, for those that come while both dial.
    let first = (2 * LOST + a + b) * 3 / 2 + LOST;
    (first, first + a + LOST)
}

/// How many dials the side with random ports and the one with a known port make for a birthday.
pub(crate) fn birthday_sizes(pool: u32) -> (u32, u32) {
    let each = birthday_needed(pool, BIRTHDAY).and_then(|each| u32::try_from(each).ok()).unwrap_or(u32::MAX);
    (each.min(MOST_GUESSES), each.min(MOST_GUESSES))
}

/// How many dials a side makes, all to one port, so that one of them comes from the port that the other side
/// dials; and how probably one does. Where mappings are given out without repetition, as many dials as there are
/// ports are certain to make that one.
pub(crate) fn sweep(port: NextPort) -> (u32, f64) {
    match port {
        NextPort::Fixed | NextPort::Exact => (1, 1.0),
        NextPort::Counted { others, probability } => (others + 2 * LOST + 1, probability),
        NextPort::Random { pool } => {
            let dials = pool.min(MOST_SYNS);
            (dials, f64::from(dials) / f64::from(pool.max(1)))
        }
    }
}

fn punch(a: &Seat, b: &Seat) -> Option<Punch> {
    use NextPort::{Counted, Exact, Fixed, Random};
    let both_answer = a.is_harsh() && b.is_harsh();
    match (a.port, b.port) {
        (Counted { .. } | Random { .. }, Counted { .. } | Random { .. } | Exact) if a.is_lax => {
            Some(lax(a, b))
        }
        (Counted { .. } | Random { .. } | Exact, Counted { .. } | Random { .. }) if b.is_lax => {
            Some(lax(b, a))
        }
        (Fixed, Fixed) => Some(pairs(1.0, a, b)),
        (Fixed, _) => Some(half_known(a, b, Side::A)),
        (_, Fixed) => Some(half_known(b, a, Side::B)),
        (Exact, Exact) => Some(pairs(1.0, a, b)),
        _ if both_answer => both_answering(a, b),
        // Each dial has its own two ports, and both must be right at once: then it is best if all dials of a side
        // go to one port of the other's.
        (Random { .. }, _) | (_, Random { .. }) => {
            let ((one, p), (two, q)) = (sweep(a.port), sweep(b.port));
            Some(Punch { plan: Plan::Birthday, syns: one + two, probability: p * q })
        }
        (Counted { .. }, _) | (_, Counted { .. }) => {
            let counted = |port| match port {
                Counted { others, probability } => (others, probability),
                _ => (0, 1.0),
            };
            let ((one, p), (two, q)) = (counted(a.port), counted(b.port));
            let (first, second) = stairs(one.min(two), one.max(two));
            Some(Punch { plan: Plan::Window, syns: first + second, probability: p * q })
        }
    }
}

/// One NAT lets the peer in from any port of its address, but at which port is not known: its side opens several, and
/// the other one guesses them.
fn lax(opener: &Seat, other: &Seat) -> Punch {
    let doubt = if other.answers { 0.9 } else { 1.0 };
    match opener.port {
        NextPort::Random { pool } => {
            let (opened, guessed) = birthday_sizes(pool);
            let probability = birthday(opened, guessed, pool) * doubt;
            Punch { plan: Plan::Birthday, syns: opened + guessed, probability }
        }
        NextPort::Counted { others, probability } => {
            let syns = others + 2 * COUNTED + LOST;
            Punch { plan: Plan::Window, syns, probability: probability * doubt }
        }
        NextPort::Fixed | NextPort::Exact => {
            Punch { plan: Plan::Window, syns: 2 * COUNTED, probability: doubt }
        }
    }
}

/// Both NATs end what they do not let in, and neither port is the same for all destinations.
fn both_answering(a: &Seat, b: &Seat) -> Option<Punch> {
    let probability = |seat: &Seat| match seat.port {
        NextPort::Counted { probability, .. } => probability,
        _ => 1.0,
    };
    let probability = probability(a) * probability(b);
    if a.is_sure() && b.is_sure() {
        return Some(pairs(probability, a, b));
    }
    match (a.port, b.port) {
        (NextPort::Counted { others, .. }, NextPort::Exact)
        | (NextPort::Exact, NextPort::Counted { others, .. })
            if others <= MOST_SLIDE =>
        {
            Some(sliding(probability, others))
        }
        _ => None,
    }
}

/// A ladder towards one port of a NAT that answers, from a counter that others move too: see `punch::layout`.
fn sliding(probability: f64, others: u32) -> Punch {
    Punch { plan: Plan::Ladder, syns: 2 * (LADDER + others), probability: probability * SLIDES }
}

/// Both dial one port that is all but certain.
fn pairs(probability: f64, a: &Seat, b: &Seat) -> Punch {
    match (a.is_harsh(), b.is_harsh()) {
        // The ladder met 11 times of 11; its probability is that of the rule of succession.
        (true, true) => {
            Punch { plan: Plan::Ladder, syns: 2 * LADDER, probability: probability * 12.0 / 13.0 }
        }
        (true, false) => Punch { plan: Plan::First(Side::A), syns: 2, probability },
        (false, true) => Punch { plan: Plan::First(Side::B), syns: 2, probability },
        (false, false) => Punch { plan: Plan::Now, syns: 2, probability },
    }
}

/// One side's port is known for all destinations; the other's is not.
fn half_known(known: &Seat, other: &Seat, side: Side) -> Punch {
    if known.is_lax || known.is_reachable {
        // The opening SYN meets no mapping at the other's NAT. If that one answers, some NATs forget what
        // was opened.
        let probability = if other.answers { 0.9 } else { 1.0 };
        return Punch { plan: Plan::Open(side), syns: 2, probability };
    }
    let both_answer = known.answers && other.answers;
    match other.port {
        NextPort::Fixed | NextPort::Exact => half_known_pair(1.0, known, other, side),
        NextPort::Counted { others: 0, probability } if both_answer => {
            half_known_pair(probability, known, other, side)
        }
        NextPort::Counted { others, probability } if both_answer && others <= MOST_SLIDE => {
            sliding(probability, others)
        }
        NextPort::Counted { others, probability } => {
            // With answers on both sides most of the dials end before the right one is sent.
            let probability = if both_answer { probability * 0.5 } else { probability };
            let guesses = others + COUNTED + LOST;
            Punch { plan: Plan::Window, syns: guesses.min(MOST_GUESSES) + COUNTED, probability }
        }
        NextPort::Random { pool } => {
            let (theirs, ours) = birthday_sizes(pool);
            // With answers on both sides each SYN ends the dial it meets.
            let probability = if both_answer { 0.0 } else { birthday(ours, theirs, pool) };
            Punch { plan: Plan::Birthday, syns: ours + theirs, probability }
        }
    }
}

fn half_known_pair(probability: f64, known: &Seat, other: &Seat, side: Side) -> Punch {
    match side {
        Side::A => pairs(probability, known, other),
        Side::B => pairs(probability, other, known),
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
