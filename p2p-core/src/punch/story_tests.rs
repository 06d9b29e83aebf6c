//! Two punch machines, two NATs, a broker, virtual time: every tactic and every mode.

use std::time::Duration;

use super::{Failed, Limits, Mode, Tactic};
use crate::Seed;
use crate::attempt::{RefusalReason, Role};
use crate::nat::{Delta, DeltaKind, NatFacts, NatType, SynAnswer};
use crate::sim::link::LinkConfig;
use crate::sim::meeting::{Home, Meeting, Outcome};
use crate::sim::nat::{Ending, NatConfig};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn of(kind: DeltaKind) -> Delta {
    Delta { kind, value: i16::from(!matches!(kind, DeltaKind::Equal | DeltaKind::Random)) }
}

fn home(syn: SynAnswer) -> Home {
    Home::of_type(NatType::PortRestricted, of(DeltaKind::Equal), syn)
}

fn symmetric(kind: DeltaKind) -> Home {
    Home::of_type(NatType::Symmetric, of(kind), SynAnswer::Silence)
}

fn met(meeting: Meeting) -> Outcome {
    let told = format!("{:?} {:?}", meeting.homes[0].facts, meeting.homes[1].facts);
    let outcome = meeting.run().unwrap();
    assert!(outcome.is_met(), "{told}: {:?}", outcome.reports);
    same_socket(&outcome);
    outcome
}

/// Both keep exactly one connection, and it is the same.
fn same_socket(outcome: &Outcome) {
    let [one, two] = &outcome.kept;
    assert!(one.len() == 1 && two.len() == 1 && one[0].is_with(&two[0]), "{one:?} {two:?}");
}

#[test]
fn silent_nats_meet_within_one_and_a_half_round_trips_however_late_the_caller_hears() {
    for delay in [0, 30, 200, 500, 1_000] {
        for number in 0..3 {
            // A NAT whose ports must be asked for: the caller cannot dial before it hears.
            let asked = || Home::of_type(NatType::PortRestricted, of(DeltaKind::Random), SynAnswer::Silence);
            let mut meeting = Meeting::new([asked(), asked()], number);
            meeting.signals = LinkConfig::with_latency(ms(delay));
            let outcome = met(meeting);
            assert_eq!(outcome.tactic, Some(Tactic::Now));
            assert!(outcome.opened.unwrap() <= ms(150), "{delay} ms: {:?}", outcome.opened);
        }
    }
}

#[test]
fn one_message_for_the_answerer_one_round_trip_for_the_caller_or_none() {
    let kept = met(Meeting::new([home(SynAnswer::Silence), home(SynAnswer::Silence)], 1));
    assert_eq!(kept.first_syn, [Some(ms(0)), Some(ms(30))], "its ports can be foreseen");
    let unknown = || {
        let mut home = home(SynAnswer::Silence);
        home.facts.syn = None;
        home
    };
    let kept = met(Meeting::new([unknown(), unknown()], 1));
    assert_eq!(kept.first_syn, [Some(ms(60)), Some(ms(30))]);
}

#[test]
fn nats_that_answer_are_met_in_every_combination_and_with_wrong_clocks() {
    use SynAnswer::{Icmp, Reset, Silence};
    let answers = [Silence, Reset, Icmp];
    for (one, two) in answers.into_iter().flat_map(|one| answers.map(|two| (one, two))) {
        for skew in [-300, -90, 0, 45, 300] {
            let mut meeting = Meeting::new([home(one), home(two)], 5);
            meeting.skew = Some((skew, 300));
            let outcome = met(meeting);
            assert!(outcome.took.unwrap() < ms(1_500), "{one:?} {two:?} {skew}: {:?}", outcome.took);
        }
    }
}

#[test]
fn they_are_met_too_when_nobody_knows_that_they_answer_and_when_refusals_delete_what_was_opened() {
    use SynAnswer::{Icmp, Reset, Silence};
    for (one, two) in [(Reset, Reset), (Silence, Reset), (Icmp, Silence), (Icmp, Icmp)] {
        for ending in [Ending::Keep, Ending::Close, Ending::Delete] {
            let unknown = |syn| {
                let mut home = home(syn);
                home.facts.syn = None;
                home.nat.tcp.on_rst = ending;
                home.nat.tcp.icmp_deletes = ending == Ending::Delete;
                home
            };
            met(Meeting::new([unknown(one), unknown(two)], 9));
        }
    }
}

#[test]
fn linux_routers_are_met() {
    for number in 0..3 {
        let linux = |syn| {
            let mut home = home(syn);
            let unsolicited = home.nat.tcp.unsolicited;
            home.nat = NatConfig::linux_masquerade([198, 51, 100, 1].into()).with_unsolicited(unsolicited);
            home
        };
        met(Meeting::new([linux(SynAnswer::Silence), linux(SynAnswer::Silence)], number));
        met(Meeting::new([linux(SynAnswer::Reset), linux(SynAnswer::Silence)], number));
        met(Meeting::new([linux(SynAnswer::Reset), linux(SynAnswer::Reset)], number));
    }
}

#[test]
fn a_restricted_nat_opens_for_one_whose_ports_nobody_knows() {
    let lax = || Home::of_type(NatType::Restricted, of(DeltaKind::Random), SynAnswer::Silence);
    let outcome = met(Meeting::new([lax(), symmetric(DeltaKind::Random)], 2));
    assert_eq!(outcome.tactic, Some(Tactic::Open(Role::Caller)));
    let outcome = met(Meeting::new([symmetric(DeltaKind::Random), lax()], 2));
    assert_eq!(outcome.tactic, Some(Tactic::Open(Role::Answerer)));
}

#[test]
fn counting_nats_are_met_whatever_others_do() {
    for rate in [0, 10, 35] {
        let counting = || {
            let mut home = symmetric(DeltaKind::Independent);
            home.nat = home.nat.with_flow(|flow| flow.background = f64::from(rate));
            home.facts.rate = Some(rate);
            home
        };
        let outcome = met(Meeting::new([counting(), counting()], 4));
        assert_eq!(outcome.tactic, Some(Tactic::Window));
        met(Meeting::new([counting(), home(SynAnswer::Silence)], 4));
        met(Meeting::new([symmetric(DeltaKind::Preserving), counting()], 4));
    }
    met(Meeting::new([symmetric(DeltaKind::Dependent), symmetric(DeltaKind::Dependent)], 4));
}

#[test]
fn random_ports_take_many_dials_but_not_more_than_allowed() {
    let mut meeting = Meeting::new([symmetric(DeltaKind::Random), home(SynAnswer::Silence)], 3);
    meeting.counts = true;
    let outcome = met(meeting);
    assert_eq!(outcome.tactic, Some(Tactic::Birthday));
    assert!(outcome.syns <= 1_300, "{}", outcome.syns);
    let mut meeting = Meeting::new([home(SynAnswer::Silence), Home::in_block(512)], 3);
    meeting.counts = true;
    assert!(met(meeting).syns <= 128);
    met(Meeting::new([Home::in_block(512), Home::in_block(512)], 3));
    // For a stranger's sake nobody's ports are scanned.
    let mut meeting = Meeting::new([symmetric(DeltaKind::Random), home(SynAnswer::Silence)], 3);
    meeting.limits = Limits::stranger();
    let outcome = meeting.run().unwrap();
    let dialled = outcome.reports.map(|report| report.unwrap().tally.dialled);
    assert!(dialled.iter().all(|dialled| *dialled <= 128), "{dialled:?}");
}

#[test]
fn what_cannot_be_guessed_is_told_at_once_and_dials_nothing() {
    let outcome =
        Meeting::new([symmetric(DeltaKind::Random), symmetric(DeltaKind::Random)], 1).run().unwrap();
    assert_eq!(outcome.failed, [Some(Failed::Declined(RefusalReason::NoRoute)), Some(Failed::NoPlan)]);
    assert_eq!(outcome.first_syn, [None; 2]);
}

#[test]
fn a_silent_hop_opens_a_way_that_takes_no_clock() {
    for (hops, low_ttl) in [([Some(2), None], Role::Caller), ([None, Some(2)], Role::Answerer)] {
        let mut meeting = Meeting::new([home(SynAnswer::Reset), home(SynAnswer::Reset)], 6);
        meeting.silent_hops = hops;
        let outcome = met(meeting);
        assert_eq!(outcome.tactic, Some(Tactic::LowTtl(low_ttl)));
    }
}

#[test]
fn where_the_hop_is_not_what_it_was_the_next_wave_is_a_ladder() {
    let mut meeting = Meeting::new([home(SynAnswer::Reset), home(SynAnswer::Reset)], 6);
    // Our own NAT: it says that the SYN has died, and lets nobody in.
    meeting.silent_hops = [Some(1), None];
    let outcome = met(meeting);
    assert_eq!(outcome.tactic, Some(Tactic::Ladder));
    assert!(outcome.reports.iter().all(|report| report.as_ref().is_some_and(|report| report.rounds == 2)));
}

#[test]
fn neighbours_meet_within_three_round_trips() {
    for mode in [Mode::Lan, Mode::Machine, Mode::Interface] {
        for number in 0..5 {
            let outcome = met(Meeting::nearby(mode, ms(1), number));
            assert!(outcome.answered.unwrap() <= ms(3 + 20), "{mode}: {:?}", outcome.answered);
        }
    }
}

#[test]
fn signals_may_be_late_lost_twice_and_out_of_order() {
    for number in 0..20 {
        let mut meeting = Meeting::new([home(SynAnswer::Silence), home(SynAnswer::Reset)], number);
        meeting.signals = LinkConfig {
            jitter: ms(200),
            loss: 0.2,
            duplicate: 0.3,
            reorder: 0.3,
            ..LinkConfig::with_latency(ms(30))
        };
        let outcome = meeting.run().unwrap();
        // Three offers and as many answers: one in 200 attempts loses all of either.
        if outcome.is_met() {
            same_socket(&outcome);
        } else {
            assert!(outcome.failed.contains(&Some(Failed::Silent)), "{:?}", outcome.failed);
        }
    }
}

#[test]
fn facts_that_are_wrong_are_put_right_by_the_next_wave() {
    for number in 0..5 {
        // It is said to keep ports, and does not.
        let mut wrong = Home::of_type(NatType::PortRestricted, of(DeltaKind::Random), SynAnswer::Silence);
        wrong.facts.delta = Some(of(DeltaKind::Equal));
        let outcome = met(Meeting::new([wrong.clone(), wrong], number));
        assert_eq!(outcome.reports[0].as_ref().map(|report| report.rounds), Some(2), "{:?}", outcome.reports);
    }
}

#[test]
fn any_two_known_networks_meet_or_say_why_not() {
    let mut dice = Seed::from_u64(11);
    for number in 0..60 {
        let mut pick = || {
            let nat = *dice.pick(&NatType::ALL[..6]).unwrap();
            let kind = *dice.pick(&DeltaKind::ALL).unwrap();
            Home::of_type(nat, of(kind), SynAnswer::Silence)
        };
        let homes = [pick(), pick()];
        let facts: [NatFacts; 2] = [homes[0].facts, homes[1].facts];
        let ways = crate::nat::meets::meets(&facts[0], &facts[1]).ways;
        let mut meeting = Meeting::new(homes, number);
        meeting.loss = 0.01;
        let outcome = meeting.run().unwrap();
        let can = ways.iter().any(|way| *way != crate::nat::meets::Way::Relay);
        assert_eq!(outcome.is_met(), can, "{facts:?}: {:?}", outcome.reports);
    }
}
