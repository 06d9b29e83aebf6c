//! A race and an answer as they drive their punches.

use super::*;
use crate::nat::{Delta, DeltaKind, NatFacts, NatType};
use crate::punch::{self, Failed, Limits, Setup, Terms, View};
use crate::sim::laws::drain;
use crate::{Clock, Local, Output};

fn home() -> NatFacts {
    let delta = Some(Delta { kind: DeltaKind::Equal, value: 0 });
    NatFacts { nat: Some(NatType::PortRestricted), delta, ..NatFacts::default() }
}

fn setup(ip: &str, external: &str) -> Setup {
    let mut place = ours(&[(ip, 24)]);
    place.addresses[0].external = Some(external.parse().unwrap());
    let view = View { facts: home(), can_observe: false, silent_hop: None };
    Setup {
        ours: place,
        views: [(ip.parse().unwrap(), view)].into(),
        clock: Clock::new(epoch(), UnixTime::from_secs(1_800_000_000)),
        terms: Terms::default(),
        limits: Limits::default(),
    }
}

fn behind_nat(local: &str, external: &str) -> InterfaceAddr {
    let mut interface = interface(local, Some(external));
    interface.listen = 0;
    interface.nat.tcp = home();
    interface
}

fn call() -> RaceConfig {
    RaceConfig {
        ways: vec![Way::Punch],
        punch: Some(setup("192.168.1.5", "198.51.100.1")),
        ..config(peer(vec![behind_nat("192.168.9.9", "203.0.113.9")]))
    }
}

/// Answers what needs an answer; everything else is returned.
fn serve(race: &mut Race, now: Instant) -> Vec<Act> {
    let mut left = Vec::new();
    loop {
        match race.poll_output() {
            Output::Act(Act::Punch(pair, punch::Act::Reserve(share))) => {
                assert!(race.handle_punch_share(pair, share, now));
            }
            Output::Act(Act::Punch(pair, punch::Act::Listen(at))) => {
                race.handle_punch_listening(pair, at, Ok(()), now);
                left.push(Act::Punch(pair, punch::Act::Listen(at)));
            }
            Output::Act(act) => left.push(act),
            Output::Event(_) => {}
            Output::Wait(_) => return left,
        }
    }
}

fn offered(acts: &[Act]) -> punch::Message {
    let offer = |act: &Act| match act {
        Act::Signal(Body::Punch(message)) => Some(message.clone()),
        _ => None,
    };
    acts.iter().find_map(offer).unwrap()
}

fn listened(acts: &[Act]) -> Local {
    let listen = |act: &Act| match act {
        Act::Punch(_, punch::Act::Listen(at)) => Some(*at),
        _ => None,
    };
    acts.iter().find_map(listen).unwrap()
}

#[test]
fn a_punched_connection_is_a_lane_like_any_other() {
    let mut race = Race::new(call(), epoch());
    let acts = serve(&mut race, epoch());
    let at_port = listened(&acts);
    assert!(matches!(offered(&acts).step, punch::Step::Offer(_)));
    let remote = SocketAddr::from(([203, 0, 113, 9], 7_000));
    let lane = race.handle_punch_accepted(0, at_port, remote, at(60)).unwrap();
    assert_eq!((lane.way(), lane.to_string().as_str()), (Way::Punch, "punch#0"));
    let stranger =
        race.handle_punch_accepted(0, at_port, SocketAddr::from(([9, 9, 9, 9], 9)), at(61)).unwrap();
    race.handle_failed(stranger, ProofError::Garbled.into(), at(62));
    race.handle_proven(lane, at(80));
    assert_eq!(serve(&mut race, at(80)), [Act::Keep(lane)]);
    race.handle_kept(lane, at(81));
    let acts = serve(&mut race, at(81));
    assert!(race.is_over() && !acts.contains(&Act::Drop(lane)) && !acts.contains(&Act::Signal(Body::Bye)));
    assert!(acts.iter().any(|act| matches!(act, Act::Punch(0, punch::Act::GiveBack(_)))));
    let report = race.report(at(90));
    assert_eq!(report.won(), Some(Way::Punch));
    assert_eq!((report.ways[0].lanes.len(), report.ways[0].punches.len()), (2, 1));
    assert!(report.to_string().contains("2 connected, 1 to somebody else"), "{report}");
}

#[test]
fn losing_ends_say_why() {
    let failure = |mut race: Race| {
        serve(&mut race, epoch());
        let mut now = epoch();
        while let Some(deadline) = drain(&mut race).wait.filter(|_| !race.is_over()) {
            now = now.max(deadline.at);
            race.handle_timeout(now);
            serve(&mut race, now);
        }
        let WayOutcome::Failed(failure) = race.report(now).ways[0].outcome.clone() else { panic!() };
        failure
    };
    assert_eq!(failure(Race::new(call(), epoch())), WayFailure::Punch(Failed::Silent));
    let unable = RaceConfig { punch: None, ..call() };
    assert_eq!(failure(Race::new(unable, epoch())), WayFailure::Unsupported);
    let mute = RaceConfig { can_signal: false, ..call() };
    assert_eq!(failure(Race::new(mute, epoch())), WayFailure::NoSignalling);
    let nowhere = RaceConfig { peer: peer(vec![interface("192.168.9.9", None)]), ..call() };
    assert_eq!(failure(Race::new(nowhere, epoch())), WayFailure::NotPlaced);
    let mut offline = Race::new(call(), epoch());
    let body = Body::Punch(offered(&serve(&mut offline, epoch())));
    offline.handle_delivery(&body, Delivery::Offline, at(40));
    assert_eq!(failure(offline), WayFailure::Offline);
    let mut refused = Race::new(call(), epoch());
    serve(&mut refused, epoch());
    let no = |reason| Body::Refuse(Refusal { reason });
    let theirs = peer(vec![behind_nat("192.168.9.9", "203.0.113.9")]);
    refused.handle_signal(&from_peer(theirs.clone(), no(RefusalReason::Unsupported)), at(40));
    assert!(!refused.is_over(), "that was about being dialled");
    refused.handle_signal(&from_peer(theirs, no(RefusalReason::NotAllowed)), at(41));
    assert_eq!(failure(refused), WayFailure::Refused(RefusalReason::NotAllowed));
}

#[test]
fn the_answer_dials_and_punches_side_by_side_and_declines_what_it_may_not_do() {
    let mut race = Race::new(call(), epoch());
    let offer = offered(&serve(&mut race, epoch()));
    let caller = peer(vec![behind_nat("192.168.1.5", "198.51.100.1")]);
    let mut signal = from_peer(caller, Body::Punch(offer.clone()));
    let here = setup("192.168.9.9", "203.0.113.9");
    let mut answer = Answer::new(at(30));
    answer.handle_punch(&here, &signal, at(30));
    let mut listens = Vec::new();
    let mut others = Vec::new();
    loop {
        match answer.poll_output() {
            Output::Act(Act::Punch(pair, punch::Act::Reserve(share))) => {
                assert!(answer.handle_punch_share(pair, share, at(30)));
            }
            Output::Act(Act::Punch(pair, punch::Act::Listen(local))) => {
                answer.handle_punch_listening(pair, local, Ok(()), at(30));
                listens.push(local);
            }
            Output::Act(act) => others.push(act),
            Output::Event(event) => panic!("{event:?}"),
            Output::Wait(_) => break,
        }
    }
    assert!(matches!(
        &others[0],
        Act::Signal(Body::Punch(punch::Message { step: punch::Step::Answer(_), .. }))
    ));
    let Act::Punch(0, punch::Act::Dial { to, socket, .. }) = others[1] else { panic!("{others:?}") };
    assert_eq!(to.ip(), IpAddr::from([198, 51, 100, 1]));
    // The caller wants to be dialled too, which fails: it is told, and the punch goes on.
    answer.handle_dial_me(Vec::new(), DIAL_DELAY, at(31));
    let refusal = Refusal { reason: RefusalReason::NoRoute };
    assert_eq!(drain(&mut answer).acts, [Act::Signal(Body::Refuse(refusal))]);
    let lane = answer.handle_punch_connected(0, socket, to, at(90)).unwrap();
    assert_eq!(answer.candidate(lane).map(|candidate| candidate.path), Some(Path::External));
    answer.handle_kept(lane, at(150));
    let drained = drain(&mut answer);
    assert_eq!(drained.events, [Event::Won(lane)]);
    assert!(!drained.acts.contains(&Act::Drop(lane)) && drained.wait.is_none());

    // Somebody who publishes nothing that it names.
    signal.sender = peer(vec![behind_nat("192.168.1.5", "198.51.100.9")]);
    let mut answer = Answer::new(at(30));
    answer.handle_punch(&here, &signal, at(30));
    let drained = drain(&mut answer);
    assert!(matches!(
        &drained.acts[..],
        [Act::Signal(Body::Punch(punch::Message { step: punch::Step::Decline(RefusalReason::NoRoute), .. }))]
    ));
    assert_eq!((drained.events, drained.wait), (vec![Event::Lost], None));
}
