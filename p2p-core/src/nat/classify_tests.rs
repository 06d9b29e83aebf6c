use super::*;
use crate::nat::observe::{FilterTest, Seen, SynProbe};
use crate::sim::epoch;
use crate::{Local, Mapped};

const LOCAL: &str = "192.168.1.2:40000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns evidence of one local port seen by several servers.
fn seen(local: &str, answers: &[(Purpose, &str, &str)]) -> Evidence {
    let mut evidence = Evidence::default();
    for (purpose, server, mapped) in answers {
        add(&mut evidence, Transport::Udp, *purpose, local, server, mapped);
    }
    evidence
}

fn add(
    evidence: &mut Evidence,
    transport: Transport,
    purpose: Purpose,
    local: &str,
    server: &str,
    mapped: &str,
) {
    let index = evidence.asked(transport, purpose, Local(at(local)), at(server), epoch()).unwrap();
    if !mapped.is_empty() {
        evidence.answered(index, Seen { at: epoch(), mapped: Mapped(at(mapped)) });
    }
}

fn judged(evidence: &Evidence) -> Verdicts {
    judge(evidence, &Vote::new(evidence), Transport::Udp)
}

const A: &str = "192.0.2.1:3478";
const A2: &str = "192.0.2.1:3479";
const B: &str = "192.0.2.2:3478";
const C: &str = "192.0.2.3:3478";
const D: &str = "192.0.2.4:3478";
const ONE: &str = "198.51.100.1:5000";
const TWO: &str = "198.51.100.1:6000";
const THREE: &str = "198.51.100.1:7000";

#[test]
fn mapping_by_the_majority() {
    use super::Mapping as M;
    use Purpose::{Mapping, OtherPort};
    for (answers, expected, least) in [
        (&[(Mapping, A, ONE), (Mapping, B, ONE), (Mapping, C, ONE)][..], M::EndpointIndependent, 0.95),
        (&[(Mapping, A, ONE), (Mapping, B, TWO), (Mapping, C, ONE)], M::EndpointIndependent, 0.8),
        (&[(Mapping, A, ONE), (Mapping, B, TWO), (Mapping, C, THREE)], M::AddressAndPortDependent, 0.7),
        (
            &[(Mapping, A, ONE), (Mapping, B, TWO), (Mapping, C, THREE), (OtherPort, A2, ONE)],
            M::AddressDependent,
            0.9,
        ),
        (&[(Mapping, A, ONE), (Mapping, B, TWO), (OtherPort, A2, THREE)], M::AddressAndPortDependent, 0.7),
        (&[(Mapping, A, ONE)], M::EndpointIndependent, 0.3),
        (&[(Mapping, A, ONE), (OtherPort, A2, TWO)], M::AddressAndPortDependent, 0.8),
    ] {
        let mapping = judged(&seen(LOCAL, answers)).mapping.unwrap();
        assert_eq!(mapping.value, expected, "{answers:?}");
        assert!(mapping.confidence >= least, "{answers:?} {mapping:?}");
    }
    let guessed = judged(&seen(LOCAL, &[(Mapping, A, ONE)])).mapping.unwrap();
    assert_eq!((guessed.how, guessed.confidence), (How::Assumed, 0.5));
}

#[test]
fn liars_are_out_voted_and_named() {
    use Purpose::Mapping;
    let elsewhere = "203.0.113.77:5000";
    let evidence =
        seen(LOCAL, &[(Mapping, A, ONE), (Mapping, B, elsewhere), (Mapping, C, ONE), (Mapping, D, TWO)]);
    let vote = Vote::new(&evidence);
    assert_eq!(vote.liars.iter().copied().collect::<Vec<_>>(), [at(B), at(D)]);
    assert_eq!(vote.address().unwrap().value, at(ONE).ip());
    assert_eq!(judged(&evidence).mapping.unwrap().value, super::Mapping::EndpointIndependent);
    // It is one word against another, so no server is called a liar and nothing is sure.
    let vote = Vote::new(&seen(LOCAL, &[(Mapping, A, ONE), (Mapping, B, elsewhere)]));
    assert!(vote.liars.is_empty());
    assert!(vote.address().unwrap().confidence <= 0.5);
    // On a symmetric NAT all ports differ, and no server lies.
    let vote = Vote::new(&seen(LOCAL, &[(Mapping, A, ONE), (Mapping, B, TWO), (Mapping, C, THREE)]));
    assert!(vote.liars.is_empty());
}

#[test]
fn seven_types() {
    use FilterOutcome::{Passed, Silence, Unsupported};
    type Case<'a> = (&'a str, &'a [(Stranger, FilterOutcome)], NatType);
    let cases: [Case<'_>; 6] = [
        (ONE, &[(Stranger::OtherAddress, Passed)], NatType::FullCone),
        (ONE, &[(Stranger::OtherAddress, Silence), (Stranger::OtherPort, Passed)], NatType::Restricted),
        (ONE, &[(Stranger::OtherAddress, Silence), (Stranger::OtherPort, Silence)], NatType::PortRestricted),
        (LOCAL, &[(Stranger::OtherAddress, Passed)], NatType::Open),
        (LOCAL, &[(Stranger::OtherAddress, Silence)], NatType::SymmetricFirewall),
        (ONE, &[(Stranger::OtherAddress, Unsupported)], NatType::PortRestricted),
    ];
    for (mapped, tests, expected) in cases {
        let mut evidence = seen(LOCAL, &[A, B, C].map(|server| (Purpose::Mapping, server, mapped)));
        let test = |(stranger, outcome): &(Stranger, FilterOutcome)| FilterTest {
            server: at(A),
            stranger: *stranger,
            outcome: *outcome,
        };
        evidence.filter_tests = tests.iter().map(test).collect();
        let verdicts = judged(&evidence);
        let nat = verdicts.nat.unwrap();
        assert_eq!(nat.value, expected, "{tests:?}");
        assert_eq!(verdicts.translates.unwrap().value, mapped != LOCAL);
        let is_known = tests.iter().all(|(_, outcome)| *outcome != Unsupported);
        assert_eq!(verdicts.filtering.is_some(), is_known);
        assert_eq!(
            nat.how == How::Assumed,
            !is_known || tests.len() == 1 && nat.value != NatType::Open && nat.value != NatType::FullCone
        );
    }
    let symmetric =
        seen(LOCAL, &[(Purpose::Mapping, A, ONE), (Purpose::Mapping, B, TWO), (Purpose::Mapping, C, THREE)]);
    assert_eq!(judged(&symmetric).nat.unwrap().value, NatType::Symmetric);
}

#[test]
fn an_ipv6_host_is_not_symmetric() {
    let local = "[2001:db8::2]:40000";
    let servers = ["[2001:db8:1::1]:3478", "[2001:db8:2::1]:3478"];
    let evidence = seen(local, &servers.map(|server| (Purpose::Mapping, server, local)));
    let verdicts = judged(&evidence);
    assert!(!verdicts.translates.unwrap().value);
    assert_eq!(verdicts.nat.unwrap().value, NatType::SymmetricFirewall);
    assert_eq!(verdicts.delta.unwrap().value.kind, DeltaKind::Equal);
}

#[test]
fn udp_blocked_is_not_offline() {
    let mut evidence = seen(LOCAL, &[A, B, C].map(|server| (Purpose::Mapping, server, "")));
    let offline = judged(&evidence).nat.unwrap();
    assert_eq!((offline.value, offline.how), (NatType::Blocked, How::Inferred));
    add(&mut evidence, Transport::Tcp, Purpose::Mapping, LOCAL, A, ONE);
    let blocked = judged(&evidence).nat.unwrap();
    assert_eq!((blocked.value, blocked.how), (NatType::Blocked, How::Measured));
    assert!(blocked.confidence > 0.95);
    assert_ne!(judge(&evidence, &Vote::new(&evidence), Transport::Tcp).nat.unwrap().value, NatType::Blocked);
    assert_eq!(judged(&Evidence::default()), Verdicts::default());
}

#[test]
fn a_syn_says_more_than_silence() {
    let mut evidence = seen(LOCAL, &[]);
    add(&mut evidence, Transport::Tcp, Purpose::Mapping, LOCAL, A, ONE);
    let mut probe = |outcome| {
        let (helper, stranger) = (at(B).ip(), Stranger::OtherAddress);
        evidence.syn_probes.push(SynProbe { helper, stranger, outcome });
        judge(&evidence, &Vote::new(&evidence), Transport::Tcp)
    };
    let none = probe(SynOutcome::Unavailable);
    assert_eq!((none.syn, none.filtering), (None, None));
    let silent = probe(SynOutcome::Kept(SynAnswer::Silence));
    assert_eq!(silent.syn.unwrap().value, SynAnswer::Silence);
    let reset = probe(SynOutcome::Kept(SynAnswer::Reset));
    assert_eq!(reset.syn.unwrap().value, SynAnswer::Reset);
    let open = probe(SynOutcome::Connected);
    assert_eq!(open.filtering.unwrap().value, Filtering::EndpointIndependent);
}

#[test]
fn what_one_transport_did_not_show_the_other_one_may() {
    let mut evidence = seen(LOCAL, &[A, B, C].map(|server| (Purpose::Mapping, server, ONE)));
    for server in [A, B, C] {
        add(&mut evidence, Transport::Tcp, Purpose::Mapping, LOCAL, server, ONE);
    }
    let passed =
        FilterTest { server: at(A), stranger: Stranger::OtherAddress, outcome: FilterOutcome::Passed };
    evidence.filter_tests.push(passed);
    let vote = Vote::new(&evidence);
    let mut tcp = judge(&evidence, &vote, Transport::Tcp);
    assert_eq!((tcp.filtering, tcp.nat.unwrap().value), (None, NatType::PortRestricted));
    borrow(&mut tcp, &judge(&evidence, &vote, Transport::Udp));
    let nat = tcp.nat.unwrap();
    assert_eq!((nat.value, nat.how), (NatType::FullCone, How::Inferred));
    assert!((0.5..0.8).contains(&nat.confidence), "{nat:?}");
    assert_eq!(tcp.facts().filtering, Some(Filtering::EndpointIndependent));
}
