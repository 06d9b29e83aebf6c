//! Calls that dial, and that ask to be dialled; and the answers to them.

use super::*;
use crate::attempt::DialError;
use crate::candidate::MOST_CANDIDATES;
use crate::proof::ProofError;
use crate::signal::Refusal;

#[test]
fn direct_wins_within_its_head_start_and_troubles_no_broker() {
    let mut story = Story::begin(call(two_homes()));
    let lane = story.dials()[0];
    story.happens(10, |race, now| race.handle_connected(lane, now));
    story.happens(20, |race, now| race.handle_proven(lane, now));
    assert_eq!(story.acts.last(), Some(&Act::Keep(lane)));
    story.happens(21, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
    assert_eq!(story.asked(), 0);
    let report = story.attempt.attempt.report(at(99));
    assert_eq!((report.won(), report.took), (Some(Way::Direct), ms(21)));
    assert_eq!(report.ways[0].lanes[0].proven, Some(ms(20)));
    story.until(100_000);
    assert_eq!(story.events.len(), 1);
}

#[test]
fn ipv6_first_then_ipv4_and_a_refusal_hurries_the_next() {
    let mut story = Story::begin(call(two_homes()));
    assert_eq!(
        story.attempt.attempt.candidate(story.dials()[0]).unwrap().target,
        "[2001:db8::7]:4000".parse().unwrap()
    );
    story.until(99);
    assert_eq!(story.dials().len(), 1);
    let mut hurried = Story::begin(call(two_homes()));
    hurried.happens(5, |race, now| race.handle_failed(Lane::Dialled(0), DialError::Refused, now));
    assert_eq!(hurried.dials().len(), 2);
    story.until(100);
    assert_eq!(story.dials().len(), 2);
}

#[test]
fn behind_a_firewall_the_peer_is_asked_and_comes() {
    let mut story = Story::begin(call(two_homes()));
    story.until(30);
    assert_eq!(story.asked(), 1);
    let remote: SocketAddr = "203.0.113.7:50000".parse().unwrap();
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    story.happens(40, |race, now| race.handle_delivery(&body, Delivery::Told, now));
    story.until(80);
    let lane = story.attempt.handle_arrival(remote, at(80)).unwrap();
    story.happens(90, |race, now| race.handle_proven(lane, now));
    story.happens(91, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
    assert!(story.acts.contains(&Act::Drop(Lane::Dialled(0))));
    assert_eq!(story.outcome(Way::Direct), WayOutcome::Overtaken);
}

#[test]
fn a_peer_that_was_asked_in_vain_is_told_to_stop() {
    let bye = Act::Signal(Body::Bye);
    let mut story = Story::begin(call(two_homes()));
    story.until(30);
    let lane = story.dials()[0];
    story.happens(40, |race, now| race.handle_proven(lane, now));
    story.happens(41, |race, now| race.handle_kept(lane, now));
    assert!(story.acts.contains(&bye));
    let mut cancelled = Story::begin(call(two_homes()));
    cancelled.happens(10, |race, now| race.close(now));
    assert!(!cancelled.acts.contains(&bye), "it was never asked");
    let mut cancelled = Story::begin(call(two_homes()));
    cancelled.happens(50, |race, now| race.close(now));
    assert!(cancelled.acts.contains(&bye));
}

#[test]
fn a_failed_direct_way_gives_its_head_start_away() {
    let mut story = Story::begin(call(peer(vec![])));
    assert_eq!(story.asked(), 0, "news of the peer's address may still come");
    story.happens(1, |race, now| race.handle_delivery(&Body::AskAddr, Delivery::Offline, now));
    assert_eq!(story.asked(), 1);
    assert_eq!(story.outcome(Way::Direct), WayOutcome::Failed(WayFailure::NoCandidates));
}

#[test]
fn offline_is_told_at_once() {
    let mut story = Story::begin(call(peer(vec![])));
    story.happens(1, |race, now| race.handle_delivery(&Body::AskAddr, Delivery::Offline, now));
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    story.happens(2, |race, now| race.handle_delivery(&body, Delivery::Offline, now));
    assert_eq!(story.events, [Event::Lost]);
    let report = story.attempt.attempt.report(at(3));
    assert!(report.is_offline());
    assert!(report.to_string().contains("nobody is subscribed"), "{report}");
}

#[test]
fn a_repeat_that_finds_nobody_counts_unless_the_peer_has_heard() {
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    for (first, is_offline) in [(Delivery::Unknown, true), (Delivery::Told, false)] {
        let only = call(two_homes()).only(&[Way::Reverse]);
        let mut story = Story::begin(only);
        story.happens(1, |race, now| race.handle_delivery(&body, first, now));
        story.until(2_000);
        assert_eq!(story.asked(), 2);
        story.happens(2_001, |race, now| race.handle_delivery(&body, Delivery::Offline, now));
        assert_eq!(story.attempt.attempt.is_over(), is_offline);
        // What a dead broker says of a later one says nothing of an earlier one that got through.
        story.happens(2_002, |race, now| race.handle_delivery(&body, Delivery::NoBroker(Vec::new()), now));
        assert_eq!(story.attempt.attempt.is_over(), is_offline);
    }
}

#[test]
fn a_refusal_ends_the_reverse_way_with_its_reason() {
    let only = call(two_homes()).only(&[Way::Reverse]);
    let mut story = Story::begin(only);
    assert_eq!(story.asked(), 1);
    let refusal = Body::Refuse(Refusal { reason: RefusalReason::NotAllowed });
    story.happens(50, |race, now| race.handle_signal(&from_peer(two_homes(), refusal), now));
    assert_eq!(story.events, [Event::Lost]);
    assert_eq!(
        story.outcome(Way::Reverse),
        WayOutcome::Failed(WayFailure::Refused(RefusalReason::NotAllowed))
    );
}

#[test]
fn a_peer_that_could_not_dial_us_has_not_refused() {
    for (reason, is_refusal) in [(RefusalReason::NoRoute, false), (RefusalReason::NotAllowed, true)] {
        let only = call(two_homes()).only(&[Way::Reverse]);
        let mut story = Story::begin(only);
        let refusal = Body::Refuse(Refusal { reason });
        story.happens(50, |race, now| race.handle_signal(&from_peer(two_homes(), refusal), now));
        let report = story.attempt.attempt.report(epoch() + Duration::from_millis(60));
        assert_eq!(report.is_refused(), is_refusal, "{report}");
        assert_eq!(report.to_string().contains("refused"), is_refusal, "{report}");
    }
}

#[test]
fn a_peer_that_says_no_to_one_connection_says_no_to_all() {
    let mut story = Story::begin(call(two_homes()));
    let no = LaneFailure::Proof(ProofError::Refused(RefusalReason::NotAllowed));
    story.happens(5, |race, now| race.handle_failed(Lane::Dialled(0), no, now));
    assert_eq!(story.events, [Event::Lost]);
    assert_eq!((story.dials().len(), story.asked()), (1, 0));
    for way in Way::ALL {
        assert_eq!(story.outcome(way), WayOutcome::Failed(WayFailure::Refused(RefusalReason::NotAllowed)));
    }
}

#[test]
fn a_stale_address_is_mended() {
    let only = call(two_homes()).only(&[Way::Direct]);
    let mut story = Story::begin(only);
    for index in 0..2 {
        story.happens(5, |race, now| race.handle_failed(Lane::Dialled(index), DialError::TimedOut, now));
    }
    assert!(story.events.is_empty());
    assert_eq!(story.acts.last(), Some(&Act::Signal(Body::AskAddr)));
    let moved = peer_at(2_000, vec![interface("203.0.113.99", None)], None);
    story.happens(60, |race, now| race.handle_signal(&from_peer(moved, Body::TellAddr), now));
    let lane = *story.dials().last().unwrap();
    assert_eq!(story.attempt.attempt.candidate(lane).unwrap().target, "203.0.113.99:4000".parse().unwrap());
    story.happens(70, |race, now| race.handle_proven(lane, now));
    story.happens(71, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
}

#[test]
fn a_silent_peer_is_asked_again_and_then_given_up() {
    let only = call(two_homes()).only(&[Way::Reverse]);
    let mut story = Story::begin(only);
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    story.happens(10, |race, now| race.handle_delivery(&body, Delivery::Told, now));
    story.until(13_999);
    assert_eq!((story.asked(), story.events.len()), (3, 0));
    story.until(14_000);
    assert_eq!(story.outcome(Way::Reverse), WayOutcome::Failed(WayFailure::Silent));
}

#[test]
fn a_winner_lost_in_the_last_moment_is_replaced() {
    let mut story = Story::begin(call(two_homes()));
    story.until(120);
    let [first, second] = story.dials()[..] else { panic!("{:?}", story.acts) };
    story.happens(130, |race, now| race.handle_proven(first, now));
    story.happens(131, |race, now| race.handle_proven(second, now));
    story.happens(132, |race, now| race.handle_failed(first, LaneFailure::Proof(ProofError::Lost), now));
    assert_eq!(story.acts.last(), Some(&Act::Keep(second)));
    story.happens(133, |race, now| race.handle_kept(second, now));
    assert_eq!(story.events, [Event::Won(second)]);
}

#[test]
fn one_connection_is_kept_however_many_are_proven() {
    let mut story = Story::begin(call(two_homes()));
    story.until(120);
    for lane in story.dials() {
        story.happens(130, |race, now| race.handle_proven(lane, now));
    }
    assert_eq!(story.acts.iter().filter(|act| matches!(act, Act::Keep(_))).count(), 1);
}

#[test]
fn out_of_time_names_every_way() {
    let mut short = call(two_homes());
    short.config.within = ms(500);
    let mut story = Story::begin(short);
    story.until(500);
    assert_eq!(story.events, [Event::Lost]);
    for way in Way::ALL {
        assert_eq!(story.outcome(way), WayOutcome::Failed(WayFailure::TimedOut));
    }
}

#[test]
fn for_ever_is_a_day() {
    let mut patient = call(two_homes());
    (patient.config.within, patient.config.head_start, patient.config.dial_delay) =
        (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut story = Story::begin(patient);
    story.until(86_400_000);
    assert_eq!(story.events, [Event::Lost]);
}

#[test]
fn without_broker_or_listener_reverse_says_so() {
    let silent = call(two_homes()).only(&[Way::Reverse]).mute();
    let mut deaf = call(two_homes()).only(&[Way::Reverse]);
    deaf.facts.listens = false;
    for (call, failure) in [(silent, WayFailure::NoSignalling), (deaf, WayFailure::NotListening)] {
        let story = Story::begin(call);
        assert_eq!(story.events, [Event::Lost]);
        assert_eq!(story.outcome(Way::Reverse), WayOutcome::Failed(failure));
    }
}

#[test]
fn somebody_elses_signal_changes_nothing() {
    let mut story = Story::begin(call(two_homes()));
    let mut forged = from_peer(two_homes(), Body::Refuse(Refusal { reason: RefusalReason::Busy }));
    forged.from = Identity::generate(&mut Seed::from_u64(77)).id();
    story.happens(40, |race, now| race.handle_signal(&forged, now));
    assert_eq!(story.outcome(Way::Reverse), WayOutcome::Overtaken);
    assert!(story.events.is_empty());
}

#[test]
fn arrivals_are_bounded() {
    let mut story = Story::begin(call(two_homes()));
    story.until(30);
    let remote: SocketAddr = "203.0.113.7:50000".parse().unwrap();
    let taken = (0..100).filter(|_| story.attempt.handle_arrival(remote, at(40)).is_some()).count();
    assert_eq!(taken, MOST_CANDIDATES);
}

/// An answer to a peer that wants to be dialled.
pub(super) fn dialling(peer: PeerAddr, now: Instant) -> Sited {
    let mut answer = answer(&facts(HostView::default()), peer.clone(), now);
    answer.handle_signal(&from_peer(peer, Body::DialMe(crate::signal::DialMe { plain: false })), now);
    answer
}

#[test]
fn an_answer_that_reaches_nobody_says_so_at_once() {
    let mut answer = dialling(two_homes(), epoch());
    let mut acts = drain(&mut answer).acts;
    for index in 0..2 {
        answer.handle_failed(Lane::Dialled(index), DialError::Refused, at(5));
        let drained = drain(&mut answer);
        acts.extend(drained.acts);
        assert_eq!(drained.events.is_empty(), index == 0);
    }
    assert_eq!(acts.last(), Some(&Act::Signal(Body::Refuse(Refusal { reason: RefusalReason::NoRoute }))));
    assert_eq!(answer.outcome(Way::Reverse), WayOutcome::Failed(WayFailure::AllFailed));
}

#[test]
fn an_answer_drops_what_the_caller_did_not_choose() {
    let mut answer = dialling(two_homes(), epoch());
    drain(&mut answer);
    answer.handle_timeout(at(100));
    assert!(matches!(drain(&mut answer).acts[..], [Act::Dial(..)]));
    answer.handle_kept(Lane::Dialled(1), at(150));
    let drained = drain(&mut answer);
    assert_eq!(drained.acts, [Act::Drop(Lane::Dialled(0))]);
    assert_eq!(drained.events, [Event::Won(Lane::Dialled(1))]);
    assert_eq!(drained.wait, None);
}

#[test]
fn an_answer_ends_when_the_caller_says_that_it_is_over() {
    let mut answer = dialling(two_homes(), epoch());
    drain(&mut answer);
    answer.handle_signal(&from_peer(two_homes(), Body::Bye), at(20));
    let drained = drain(&mut answer);
    assert_eq!(drained.acts, [Act::Drop(Lane::Dialled(0))]);
    assert_eq!((drained.events, drained.wait), (vec![Event::Lost], None));
}
