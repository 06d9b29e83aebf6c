use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::Seed;
use crate::nat::predict::{Last, Next, predict};
use crate::nat::{Delta, PortRange};
use crate::sim::epoch;
use crate::sim::nat::{Nat, NatConfig, Unsolicited, Verdict};
use crate::sim::packet::{Body, Flags, Header, TTL, TcpFacts};

const RANGE: PortRange = PortRange { first: 1_024, last: 65_535 };

/// All 7 types × 5 deltas.
fn presets() -> Vec<(NatType, Delta)> {
    let kinds = DeltaKind::ALL.map(|kind| Delta { kind, value: i16::from(kind != DeltaKind::Equal) * 3 });
    NatType::ALL.into_iter().flat_map(|nat| kinds.map(|delta| (nat, delta))).collect()
}

fn of(nat: NatType, delta: Delta) -> NatFacts {
    NatFacts { nat: Some(nat), delta: Some(delta), ..NatFacts::default() }
}

#[test]
fn the_table_in_the_documentation_is_current() {
    assert_eq!(include_str!("meets.md"), table(), "run: cargo run -p p2p-core --example meets");
}

#[test]
fn sides_can_be_swapped() {
    let mirrored = |plan: Option<Plan>| {
        let other = |side| if side == Side::A { Side::B } else { Side::A };
        plan.map(|plan| match plan {
            Plan::First(side) => Plan::First(other(side)),
            Plan::Open(side) => Plan::Open(other(side)),
            same => same,
        })
    };
    let syns = [SynAnswer::Silence, SynAnswer::Reset, SynAnswer::Icmp];
    let all = || {
        presets().into_iter().flat_map(move |(nat, delta)| {
            syns.map(|syn| NatFacts { syn: Some(syn), rate: Some(5), ..of(nat, delta) })
        })
    };
    for a in all() {
        for b in all() {
            let (one, two) = (meets(&a, &b), meets(&b, &a));
            let has = |meeting: &Meeting, way| meeting.ways.contains(&way);
            assert_eq!(has(&one, Way::Direct), has(&two, Way::Reverse), "{a:?} {b:?}");
            assert_eq!(has(&one, Way::Punch), has(&two, Way::Punch), "{a:?} {b:?}");
            assert_eq!((one.syns, one.probability), (two.syns, two.probability), "{a:?} {b:?}");
            // Where both could open for the other, either may.
            if !matches!(one.plan, Some(Plan::Open(_))) {
                assert_eq!(one.plan, mirrored(two.plan), "{a:?} {b:?}");
            }
            assert!((0.0..=1.0).contains(&one.probability));
            assert!(one.syns <= 2 * MOST_GUESSES);
        }
    }
}

#[test]
fn the_lab_said_so() {
    let home = of(NatType::PortRestricted, Delta { kind: DeltaKind::Equal, value: 0 });
    let random = of(NatType::Symmetric, Delta { kind: DeltaKind::Random, value: 0 });
    let reset = |facts: NatFacts| NatFacts { syn: Some(SynAnswer::Reset), ..facts };
    let block = |size: u16| NatFacts { block: PortRange::new(2_048, 2_047 + size), ..random };
    assert_eq!(meets(&home, &home).plan, Some(Plan::Now));
    assert_eq!(meets(&reset(home), &home).plan, Some(Plan::First(Side::A)));
    assert_eq!(meets(&reset(home), &reset(home)).plan, Some(Plan::Ladder));
    // 63 × 63 in a block of 512.
    let meeting = meets(&home, &block(512));
    assert_eq!((meeting.plan, meeting.syns), (Some(Plan::Birthday), 126));
    assert!(meeting.probability >= 0.999);
    // A block is used up by as many dials as it has ports: one of them comes from the port that the other dials.
    let equal = of(NatType::Symmetric, Delta { kind: DeltaKind::Equal, value: 0 });
    assert_eq!(meets(&equal, &block(512)).probability, 1.0);
    assert_eq!(meets(&block(512), &block(1_024)).probability, 0.5);
    // Where both count, or one does and the other's port is known, it takes a staircase.
    let counting = |rate| NatFacts {
        rate: Some(rate),
        ..of(NatType::Symmetric, Delta { kind: DeltaKind::Independent, value: 1 })
    };
    let stairs = meets(&counting(35), &counting(35));
    assert_eq!((stairs.plan, stairs.syns), (Some(Plan::Window), 165));
    assert!(meets(&counting(0), &equal).syns < 20);
    assert_eq!(meets(&random, &equal).ways, [Way::Relay]);
    assert_eq!(meets(&random, &random).ways, [Way::Relay]);
    assert_eq!(meets(&reset(home), &reset(random)).ways, [Way::Relay]);
    assert_eq!(meets(&NatFacts::default(), &NatFacts::default()).ways, [Way::Relay]);
}

/// A host behind a NAT that knows packets only.
struct Peer {
    nat: Nat,
    ip: IpAddr,
    external: IpAddr,
    facts: NatFacts,
}

const STUN: &str = "192.0.2.1:3478";

impl Peer {
    fn new(number: u64, (nat, delta): (NatType, Delta), digit: u8) -> Self {
        let is_translating = !matches!(nat, NatType::Open | NatType::SymmetricFirewall | NatType::Blocked);
        let ip: IpAddr = format!("203.0.113.{digit}").parse().unwrap();
        let config = NatConfig::of_type(nat, delta, RANGE, ip).with_unsolicited(Unsolicited::Silence);
        let inside = if is_translating { "192.168.1.2".parse().unwrap() } else { ip };
        let nat_box = Nat::new(config, Seed::from_u64(number)).unwrap();
        Self { nat: nat_box, ip: inside, external: ip, facts: of(nat, delta) }
    }

    fn syn(src: SocketAddr, dst: SocketAddr) -> Header {
        let body = Body::Tcp(TcpFacts { flags: Flags::SYN, seq: 1, ack: 0, len: 0 });
        Header { src, dst, ttl: TTL, body }
    }

    /// What leaves the NAT when a SYN is sent.
    fn send(&mut self, local: u16, to: SocketAddr) -> Option<Header> {
        let mut header = Self::syn(SocketAddr::new(self.ip, local), to);
        matches!(self.nat.outbound(&mut header, epoch()), Verdict::Forward).then_some(header)
    }

    fn is_reached_by(&mut self, mut header: Header) -> bool {
        matches!(self.nat.inbound(&mut header, epoch()), Verdict::Forward)
    }

    /// Asks a server from `local`; the port it was mapped to.
    fn measure(&mut self, local: u16) -> Option<u16> {
        Some(self.send(local, STUN.parse().unwrap())?.src.port())
    }

    fn is_symmetric(&self) -> bool {
        self.facts.nat == Some(NatType::Symmetric)
    }
}

/// Tries what the meeting says; whether one side's SYN reached the other host.
fn punched(a: &mut Peer, b: &mut Peer) -> bool {
    // Where the port is known, the mapping that was measured is used; otherwise the next one is predicted.
    let prepare = |peer: &mut Peer| -> Option<(u16, Option<u16>)> {
        let mapped = peer.measure(40_000)?;
        if !peer.is_symmetric() {
            return Some((40_000, Some(mapped)));
        }
        let last = Last { at: epoch(), local: 40_000, mapped };
        let next = Next { at: epoch(), local: 40_001, ours: 1 };
        Some((40_001, predict(&peer.facts, Some(last), next).ports().next()))
    };
    let (Some((a_local, a_port)), Some((b_local, b_port))) = (prepare(a), prepare(b)) else { return false };
    // Nothing better is known of a random port than any other.
    let (to_b, to_a) =
        (SocketAddr::new(b.external, b_port.unwrap_or(7)), SocketAddr::new(a.external, a_port.unwrap_or(7)));
    let (from_a, from_b) = (a.send(a_local, to_b), b.send(b_local, to_a));
    let reaches_b = from_a.is_some_and(|syn| syn.dst == to_b && b.is_reached_by(syn));
    reaches_b || from_b.is_some_and(|syn| a.is_reached_by(syn))
}

#[test]
fn simulated_nats_agree_with_all_35_by_35() {
    let mut punches = 0;
    for (row, a) in presets().into_iter().enumerate() {
        for (column, b) in presets().into_iter().enumerate() {
            let meeting = meets(&of(a.0, a.1), &of(b.0, b.1));
            let fresh = || (Peer::new(row as u64, a, 1), Peer::new(99 + column as u64, b, 2));
            let name = format!("{a:?} {b:?}: {meeting:?}");
            let dials = |from: &mut Peer, to: &mut Peer| {
                let port = to.measure(40_000);
                let target = port.map(|port| SocketAddr::new(to.external, port));
                let syn = target.and_then(|target| from.send(45_000, target));
                syn.is_some_and(|syn| to.is_reached_by(syn))
            };
            let (mut one, mut two) = fresh();
            assert_eq!(dials(&mut one, &mut two), meeting.ways.contains(&Way::Direct), "{name}");
            let (mut one, mut two) = fresh();
            assert_eq!(dials(&mut two, &mut one), meeting.ways.contains(&Way::Reverse), "{name}");
            let (mut one, mut two) = fresh();
            let punched = punched(&mut one, &mut two);
            match meeting.plan {
                // A birthday takes many; one dial fails.
                Some(Plan::Birthday) | None => assert!(!punched, "{name}"),
                Some(_) => assert!(punched, "{name}"),
            }
            punches += u32::from(punched);
        }
    }
    assert!(punches > 600, "{punches} of 1,225");
}
