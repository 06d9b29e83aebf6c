//! Stories of attempts that may end at a relay.

use super::*;
use crate::attempt::Path;
use crate::proof::ProofError;
use crate::relay::RelayOffer;
use crate::signal::Refusal;
use crate::transport::Token;

fn peer() -> PeerAddr {
    peer_at(1_000, vec![interface("10.9.9.9", Some("203.0.113.7"))], None)
}

fn only(ways: &[Way]) -> Call {
    call(peer()).only(ways)
}

fn lent() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 49_152))
}

fn offer(refusal: Option<RefusalReason>) -> RelayOffer {
    let (datagrams, connections) = (vec![lent()], Vec::new());
    RelayOffer { serial: 1, token: Token([1; 8]), datagrams, connections, has_more: false, refusal }
}

fn relayed(story: &Story) -> Vec<&RelayAct> {
    story.acts.iter().filter_map(|act| if let Act::Relay(act) = act { Some(act) } else { None }).collect()
}

fn sources() -> Vec<IpAddr> {
    ["203.0.113.7".parse().unwrap(), "10.9.9.9".parse().unwrap()].to_vec()
}

fn begin() -> RelayAct {
    RelayAct::Begin(sources())
}

fn datagrams_up(story: &mut Story, millis: u64) -> Lane {
    let mut lane = None;
    story.happens(millis, |race, now| lane = race.handle_relayed(RelayKind::Datagrams, lent(), now));
    lane.expect("a lane")
}

#[test]
fn a_relay_is_asked_for_when_nothing_else_was_quick() {
    let mut story = Story::begin(only(&[Way::Direct, Way::Reverse, Way::Relay]));
    story.until(149);
    assert!(relayed(&story).is_empty());
    story.until(150);
    assert_eq!(relayed(&story), [&begin()]);
    let alone = Story::begin(only(&[Way::Relay]));
    assert_eq!(relayed(&alone), [&begin()], "there is nothing to wait for");
    let mut failed = Story::begin(only(&[Way::Reverse, Way::Relay]));
    let refusal = Body::Refuse(Refusal { reason: RefusalReason::NoRoute });
    failed.happens(50, |race, now| race.handle_signal(&from_peer(peer(), refusal), now));
    assert_eq!(relayed(&failed), [&begin()], "nor is there here");
}

#[test]
fn what_is_ready_at_a_relay_waits_for_something_better() {
    // Nothing better comes. The peer's dial gets half as long again as the relay took.
    let mut story = Story::begin(only(&[Way::Reverse, Way::Relay]));
    let lane = datagrams_up(&mut story, 500);
    story.happens(600, |race, now| race.handle_proven(lane, now));
    story.until(899);
    assert!(!story.acts.contains(&Act::Keep(lane)));
    story.until(900);
    assert!(story.acts.contains(&Act::Keep(lane)));
    story.happens(910, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
    assert_eq!(relayed(&story).last(), Some(&&RelayAct::Keep(RelayKind::Datagrams)));

    // The other way is over.
    let mut story = Story::begin(only(&[Way::Reverse, Way::Relay]));
    let lane = datagrams_up(&mut story, 500);
    story.happens(600, |race, now| race.handle_proven(lane, now));
    let refusal = Body::Refuse(Refusal { reason: RefusalReason::NoRoute });
    story.happens(700, |race, now| race.handle_signal(&from_peer(peer(), refusal), now));
    assert!(story.acts.contains(&Act::Keep(lane)));

    // The other way leads there.
    let mut story = Story::begin(only(&[Way::Reverse, Way::Relay]));
    let lane = datagrams_up(&mut story, 500);
    story.happens(600, |race, now| race.handle_proven(lane, now));
    let mut better = None;
    story.happens(700, |race, now| {
        better = race.handle_arrival(SocketAddr::from(([203, 0, 113, 7], 9)), now);
        race.handle_proven(better.unwrap(), now);
    });
    let better = better.unwrap();
    assert!(story.acts.contains(&Act::Keep(better)));
    story.happens(710, |race, now| race.handle_kept(better, now));
    assert!(story.acts.contains(&Act::Drop(lane)));
    assert_eq!(relayed(&story).last(), Some(&&RelayAct::End));
}

#[test]
fn what_the_peer_says_is_passed_on_with_where_it_is() {
    let mut story = Story::begin(only(&[Way::Relay]));
    let said = offer(None);
    story.happens(50, |race, now| race.handle_signal(&from_peer(peer(), Body::Relay(said.clone())), now));
    assert_eq!(relayed(&story).last(), Some(&&RelayAct::Hear(said, sources())));
}

#[test]
fn each_way_to_fail_has_its_reason() {
    let refused = |body: Body| {
        let mut story = Story::begin(only(&[Way::Relay]));
        story.happens(50, |race, now| race.handle_signal(&from_peer(peer(), body), now));
        story
    };
    for body in
        [Body::Relay(offer(Some(RefusalReason::Busy))), Body::Refuse(Refusal { reason: RefusalReason::Busy })]
    {
        let story = refused(body);
        let outcome = story.outcome(Way::Relay);
        assert_eq!(outcome, WayOutcome::Failed(WayFailure::Refused(RefusalReason::Busy)));
        assert_eq!(story.events, [Event::Lost]);
    }
    let mut story = Story::begin(only(&[Way::Relay]));
    let said = Body::Relay(offer(None));
    story.happens(50, |race, now| race.handle_delivery(&said, Delivery::Offline, now));
    assert_eq!(story.outcome(Way::Relay), WayOutcome::Failed(WayFailure::Offline));

    let mut story = Story::begin(only(&[Way::Relay]));
    story.happens(50, |race, now| race.handle_relay_failed(CircuitFailure::NoServer, now));
    let failure = WayFailure::Relay(CircuitFailure::NoServer);
    assert_eq!(failure.code(), "no_turn_server");
    assert_eq!(story.outcome(Way::Relay), WayOutcome::Failed(failure));

    let mut inside = only(&[Way::Relay]);
    inside.config.filter.paths.remove(&Path::External);
    assert_eq!(Story::begin(inside).outcome(Way::Relay), WayOutcome::Failed(WayFailure::NotAllowed));
    let mute = only(&[Way::Relay]).mute();
    assert_eq!(Story::begin(mute).outcome(Way::Relay), WayOutcome::Failed(WayFailure::NoSignalling));
}

#[test]
fn after_a_connection_that_is_not_the_peers_datagrams_go_and_after_those_nothing() {
    let mut story = Story::begin(only(&[Way::Relay]));
    let mut lane = None;
    story.happens(50, |race, now| lane = race.handle_relayed(RelayKind::Connection, lent(), now));
    let stranger = LaneFailure::Proof(ProofError::Stranger);
    story.happens(60, |race, now| race.handle_failed(lane.unwrap(), stranger.clone(), now));
    assert!(story.events.is_empty());
    let lane = datagrams_up(&mut story, 70);
    story.happens(80, |race, now| race.handle_failed(lane, stranger, now));
    assert_eq!(story.events, [Event::Lost]);
    assert_eq!(story.outcome(Way::Relay), WayOutcome::Failed(WayFailure::AllFailed));
}

#[test]
fn a_refusal_of_one_way_leaves_the_relay_alone() {
    let mut story = Story::begin(only(&[Way::Reverse, Way::Relay]));
    story.until(400);
    let refusal = Body::Refuse(Refusal { reason: RefusalReason::Unsupported });
    story.happens(450, |race, now| race.handle_signal(&from_peer(peer(), refusal), now));
    assert!(story.events.is_empty());
    let lane = datagrams_up(&mut story, 500);
    story.happens(600, |race, now| race.handle_proven(lane, now));
    assert!(story.acts.contains(&Act::Keep(lane)));
}

#[test]
fn the_mirror_side_begins_once_and_ends_with_its_circuit() {
    let here = facts(HostView::default());
    let mut answerer = answer(&here, peer(), at(0));
    let said = offer(None);
    let signal = from_peer(peer(), Body::Relay(said));
    for _ in 0..2 {
        answerer.handle_signal(&signal, at(0));
    }
    let acts = drain(&mut answerer).acts;
    let begins = acts.iter().filter(|act| **act == Act::Relay(begin())).count();
    assert_eq!((begins, acts.len()), (1, 3));
    let lane = answerer.handle_relayed(RelayKind::Connection, lent(), at(100)).unwrap();
    assert_eq!(answerer.attempt.candidate(lane).unwrap().target, lent());
    answerer.handle_timeout(at(100) + ms(100));
    assert!(drain(&mut answerer).events.is_empty());
    answerer.handle_kept(lane, at(300));
    let drained = drain(&mut answerer);
    assert!(drained.acts.contains(&Act::Relay(RelayAct::Keep(RelayKind::Connection))));
    assert_eq!(drained.events, [Event::Won(lane)]);

    let mut failed = answer(&here, peer(), at(0));
    failed.handle_signal(&signal, at(0));
    failed.handle_relay_failed(CircuitFailure::Silent, at(10));
    assert_eq!(drain(&mut failed).events, [], "another offer may follow");
    failed.handle_timeout(at(1_010));
    assert_eq!(drain(&mut failed).events, [Event::Lost]);
    assert!(failed.attempt.is_over());
}

#[test]
fn a_refusal_has_no_other_content() {
    let refusal = RelayOffer::refused(RefusalReason::Unsupported, &mut Seed::from_u64(1));
    assert!(refusal.validate().is_ok() && refusal.is_empty());
}
