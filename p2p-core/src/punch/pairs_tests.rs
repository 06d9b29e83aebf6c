use super::*;
use crate::candidate::HostView;
use crate::nat::forecast::PortForecast;
use crate::nat::{Delta, DeltaKind, Nat};
use crate::peer::{Contents, Identity, MachineTag};
use crate::punch::message::Offer;
use crate::punch::timing::Stamps;
use crate::punch::{Endpoint, OwnedView};
use crate::sim::epoch;
use crate::{Clock, Seed, UnixTime};

const ATTEMPT: AttemptId = AttemptId([3; 16]);

fn facts(nat: NatType) -> NatFacts {
    let delta = Some(Delta { kind: DeltaKind::Random, value: 0 });
    NatFacts { nat: Some(nat), delta, ..NatFacts::default() }
}

fn interface(local: &str, external: Option<&str>, nat: NatFacts) -> InterfaceAddr {
    let local: IpAddr = local.parse().unwrap();
    InterfaceAddr {
        nic: 0,
        local,
        prefix: if local.is_ipv4() { 24 } else { 64 },
        external: external.map(|ip| ip.parse().unwrap()),
        listen: 0,
        mapped: None,
        nat: Nat { tcp: nat, udp: NatFacts::default() },
    }
}

fn peer(interfaces: Vec<InterfaceAddr>, machine: Option<&[u8]>) -> PeerAddr {
    let identity = Identity::generate(&mut Seed::from_u64(7));
    let machine = machine.map(|id| MachineTag::new(id, &identity.id(), &mut Seed::from_u64(1)));
    let contents =
        Contents { brokers: Vec::new(), machine, interfaces, issued: UnixTime::from_secs(1_800_000_000) };
    PeerAddr::sign(&identity, contents).unwrap()
}

fn setup(addresses: &[(&str, Option<&str>, NatFacts)]) -> OwnedView {
    let ours = addresses.iter().map(|(ip, external, _)| OurAddress {
        ip: ip.parse().unwrap(),
        prefix: if ip.contains(':') { 64 } else { 24 },
        scope: 3,
        external: external.map(|ip| ip.parse().unwrap()),
    });
    let views = addresses.iter().map(|(ip, _, facts)| {
        (ip.parse().unwrap(), NetworkView { facts: *facts, can_observe: true, silent_hop: None })
    });
    let host = HostView { addresses: ours.collect(), machine_id: b"here".to_vec() };
    let clock = Clock::new(epoch(), UnixTime::from_secs(1_800_000_000));
    OwnedView { networks: views.collect(), ..OwnedView::new(host, clock) }
}

fn told(configs: &[PunchConfig]) -> Vec<String> {
    let tell =
        |config: &PunchConfig| format!("{} {} > {}", config.mode, config.local.0.ip(), config.remote.ip());
    configs.iter().map(tell).collect()
}

fn found(setup: &OwnedView, peer: &PeerAddr) -> Vec<String> {
    told(&worthwhile(&setup.view(), peer, &Filter::default(), ATTEMPT))
}

#[test]
fn near_ones_first_then_the_most_promising() {
    let home = facts(NatType::PortRestricted);
    let ours = setup(&[
        ("192.168.1.2", Some("198.51.100.1"), home),
        ("10.0.0.2", Some("198.51.100.2"), facts(NatType::Symmetric)),
        ("2001:db8::2", Some("2001:db8::2"), facts(NatType::SymmetricFirewall)),
    ]);
    let theirs = vec![
        interface("192.168.1.9", Some("203.0.113.9"), home),
        interface("2001:db9::9", Some("2001:db9::9"), facts(NatType::SymmetricFirewall)),
    ];
    assert_eq!(
        found(&ours, &peer(theirs.clone(), None)),
        [
            "lan 192.168.1.2 > 192.168.1.9",
            "remote 192.168.1.2 > 203.0.113.9",
            "remote 2001:db8::2 > 2001:db9::9",
            "remote 10.0.0.2 > 203.0.113.9",
        ]
    );
    let only_v6 = Filter { families: [Family::V6].into(), ..Filter::default() };
    let only = worthwhile(&ours.view(), &peer(theirs.clone(), None), &only_v6, ATTEMPT);
    assert_eq!(told(&only), ["remote 2001:db8::2 > 2001:db9::9"]);
    // One machine: no NAT between, whatever is in front.
    let ours = setup(&[("192.168.1.2", Some("198.51.100.1"), home), ("10.0.0.2", None, home)]);
    let theirs =
        vec![interface("192.168.1.2", Some("198.51.100.1"), home), interface("10.0.0.2", None, home)];
    assert_eq!(
        found(&ours, &peer(theirs, Some(b"here"))),
        [
            "on one interface 192.168.1.2 > 192.168.1.2",
            "between interfaces 192.168.1.2 > 10.0.0.2",
            "between interfaces 10.0.0.2 > 192.168.1.2",
            "on one interface 10.0.0.2 > 10.0.0.2",
        ]
    );
}

#[test]
fn copies_of_one_machine_meet_across_the_internet() {
    let home = facts(NatType::PortRestricted);
    let ours = setup(&[("192.168.1.2", Some("198.51.100.1"), home)]);
    let theirs = |external| peer(vec![interface("192.168.7.7", external, home)], Some(b"here"));
    let near = "between interfaces 192.168.1.2 > 192.168.7.7";
    assert_eq!(found(&ours, &theirs(Some("203.0.113.9"))), [near, "remote 192.168.1.2 > 203.0.113.9"]);
    for same in [None, Some("198.51.100.1")] {
        assert_eq!(found(&ours, &theirs(same)), [near]);
    }
    // The copy answers.
    let at = "192.168.1.2";
    let offer = offer(Mode::Remote, at, "203.0.113.9");
    assert!(answerable(&ours.view(), &theirs(Some("203.0.113.9")), ATTEMPT, &offer, Trust::Known).is_some());
    // However many interfaces both have, one pair is left for that.
    let ours = ["192.168.1.2", "10.0.0.2", "10.1.0.2"].map(|ip| (ip, Some("198.51.100.1"), home));
    let theirs = ["192.168.7.7", "10.7.0.2"].map(|ip| interface(ip, Some("203.0.113.9"), home));
    let found = found(&setup(&ours), &peer(theirs.into(), Some(b"here")));
    assert_eq!(found.len(), usize::from(MOST_PAIRS));
    assert_eq!(found.iter().filter(|pair| pair.starts_with("remote")).count(), 1, "{found:?}");
}

#[test]
fn the_hopeless_is_not_tried_and_numbers_are_bounded() {
    let (home, wild) = (facts(NatType::PortRestricted), facts(NatType::Symmetric));
    let one = |facts| setup(&[("192.168.1.2", Some("198.51.100.1"), facts)]);
    let of = |external, facts| peer(vec![interface("192.168.9.9", Some(external), facts)], None);
    assert!(found(&one(wild), &of("203.0.113.9", wild)).is_empty());
    assert!(found(&one(facts(NatType::Blocked)), &of("203.0.113.9", home)).is_empty());
    assert_eq!(found(&one(wild), &of("203.0.113.9", home)).len(), 1);
    assert_eq!(found(&one(NatFacts::default()), &of("203.0.113.9", wild)).len(), 1, "nothing is known: try");
    let still = NatFacts { hairpin: Some(false), ..home };
    assert_eq!(
        found(&one(still), &of("198.51.100.1", still)).len(),
        1,
        "whether a carrier's NAT turns round for two homes, no home finds out alone"
    );
    let many = (0..16).map(|n| interface("192.168.9.9", Some(&format!("203.0.113.{n}")), home)).collect();
    assert_eq!(found(&one(home), &peer(many, None)).len(), usize::from(MOST_PAIRS));
}

fn offer(mode: Mode, at: &str, address: &str) -> Message {
    let side = Endpoint {
        address: address.parse().unwrap(),
        ports: PortForecast::Fixed(vec![5_000]),
        filtering: crate::nat::Filtering::AddressAndPortDependent,
        syn: None,
        low_ttl: false,
        sockets: 64,
    };
    let offer = Offer { mode, at: at.parse().unwrap(), side, error: None };
    Message { pair: 2, round: 0, stamps: Stamps::default(), step: Step::Offer(offer) }
}

#[test]
fn an_offer_leads_only_to_what_its_sender_publishes_and_may_be_dialled_for() {
    let home = facts(NatType::PortRestricted);
    let ours = setup(&[("192.168.1.2", Some("198.51.100.1"), home)]);
    let answer = |peer: &PeerAddr, mode, at: &str, address: &str| {
        let config = answerable(&ours.view(), peer, ATTEMPT, &offer(mode, at, address), Trust::Known);
        config.map(|config| (config.pair, config.role, config.remote.ip().to_string()))
    };
    let at = "192.168.1.2";
    let honest = peer(vec![interface("192.168.9.9", Some("203.0.113.9"), home)], None);
    let good = Some((2, Role::Answerer, "203.0.113.9".to_owned()));
    assert_eq!(answer(&honest, Mode::Remote, at, "203.0.113.9"), good);
    // Not what it publishes, not an address of ours, not what lies between.
    assert_eq!(answer(&honest, Mode::Remote, at, "203.0.113.10"), None);
    assert_eq!(answer(&honest, Mode::Remote, "192.168.1.3", "203.0.113.9"), None);
    for mode in [Mode::Lan, Mode::Machine, Mode::Interface] {
        assert_eq!(answer(&honest, mode, at, "203.0.113.9"), None);
    }
    // What nobody may have us dial: our own machine, groups, other people's sites.
    for victim in
        ["127.0.0.1", "224.0.0.251", "0.0.0.0", "255.255.255.255", "10.1.2.3", "100.64.0.1", "169.254.1.1"]
    {
        let liar = peer(vec![interface(victim, Some(victim), home)], None);
        for mode in [Mode::Remote, Mode::Lan, Mode::Machine, Mode::Interface] {
            assert_eq!(answer(&liar, mode, at, victim), None, "{victim}");
        }
    }
    // A neighbour.
    let neighbour = peer(vec![interface("192.168.1.7", None, home)], None);
    let good = Some((2, Role::Answerer, "192.168.1.7".to_owned()));
    assert_eq!(answer(&neighbour, Mode::Lan, at, "192.168.1.7"), good);
    // Somebody else's machine tag says nothing.
    let copied = Identity::generate(&mut Seed::from_u64(8)).id();
    let tag = MachineTag::new(b"here", &copied, &mut Seed::from_u64(1));
    let identity = Identity::generate(&mut Seed::from_u64(7));
    let contents = Contents {
        brokers: Vec::new(),
        machine: Some(tag),
        interfaces: vec![interface("127.0.0.1", None, home)],
        issued: UnixTime::from_secs(1_800_000_000),
    };
    let liar = PeerAddr::sign(&identity, contents).unwrap();
    assert_eq!(answer(&liar, Mode::Machine, at, "127.0.0.1"), None);
}
