//! Calls and answers as they drive their punches.

use super::*;
use crate::Local;
use crate::attempt::Path;
use crate::nat::{Delta, DeltaKind, NatFacts, NatType};
use crate::proof::ProofError;
use crate::punch::{Failed, Input, NetworkView, SocketAct};
use crate::signal::Refusal;

fn home() -> NatFacts {
    let delta = Some(Delta { kind: DeltaKind::Equal, value: 0 });
    NatFacts { nat: Some(NatType::PortRestricted), delta, ..NatFacts::default() }
}

fn host(ip: &str, external: &str) -> OwnedView {
    let mut host = ours(&[(ip, 24)]);
    host.addresses[0].external = Some(external.parse().unwrap());
    let network = NetworkView { facts: home(), can_observe: false, silent_hop: None };
    OwnedView { networks: [(ip.parse().unwrap(), network)].into(), ..facts(host) }
}

fn behind_nat(local: &str, external: &str) -> InterfaceAddr {
    let mut interface = interface(local, Some(external));
    interface.listen = 0;
    interface.nat.tcp = home();
    interface
}

fn punching() -> Call {
    let there = peer(vec![behind_nat("192.168.9.9", "203.0.113.9")]);
    Call { facts: host("192.168.1.5", "198.51.100.1"), ..call(there).only(&[Way::Punch]) }
}

/// Answers what needs an answer; everything else is returned.
fn serve(attempt: &mut Sited, now: Instant) -> Vec<Act> {
    let mut left = Vec::new();
    loop {
        match attempt.poll_output() {
            Output::Act(Act::Punch(pair, SocketAct::Reserve(share))) => {
                attempt.handle_punch(pair, Input::Share(share), now);
            }
            Output::Act(Act::Punch(pair, SocketAct::Listen(at))) => {
                attempt.handle_punch(pair, Input::Listening(at, Ok(())), now);
                left.push(Act::Punch(pair, SocketAct::Listen(at)));
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
        Act::Punch(_, SocketAct::Listen(at)) => Some(*at),
        _ => None,
    };
    acts.iter().find_map(listen).unwrap()
}

#[test]
fn a_punched_connection_is_a_lane_like_any_other() {
    let mut race = punching().begin(epoch());
    let acts = serve(&mut race, epoch());
    let at_port = listened(&acts);
    assert!(matches!(offered(&acts).step, punch::Step::Offer(_)));
    let remote = SocketAddr::from(([203, 0, 113, 9], 7_000));
    let lane = race.handle_punch(0, Input::Accepted { at: at_port, remote }, at(60)).unwrap();
    assert_eq!((race.attempt.way(lane), lane.to_string().as_str()), (Way::Punch, "punched#0#0"));
    let stranger = race
        .handle_punch(0, Input::Accepted { at: at_port, remote: SocketAddr::from(([9, 9, 9, 9], 9)) }, at(61))
        .unwrap();
    race.handle_failed(stranger, LaneFailure::Proof(ProofError::Garbled), at(62));
    race.handle_proven(lane, at(80));
    assert_eq!(serve(&mut race, at(80)), [Act::Keep(lane)]);
    race.handle_kept(lane, at(81));
    let acts = serve(&mut race, at(81));
    assert!(
        race.attempt.is_over() && !acts.contains(&Act::Drop(lane)) && !acts.contains(&Act::Signal(Body::Bye))
    );
    assert!(acts.iter().any(|act| matches!(act, Act::Punch(0, SocketAct::GiveBack(_)))));
    let report = race.attempt.report(at(90));
    assert_eq!(report.won(), Some(Way::Punch));
    assert_eq!((report.ways[0].lanes.len(), report.ways[0].punches.len()), (2, 1));
    assert!(report.to_string().contains("2 connected, 1 to somebody else"), "{report}");
}

#[test]
fn losing_ends_say_why() {
    let failure = |mut race: Sited| {
        serve(&mut race, epoch());
        let mut now = epoch();
        while let Some(deadline) = drain(&mut race).wait.filter(|_| !race.attempt.is_over()) {
            now = now.max(deadline.at);
            race.handle_timeout(now);
            serve(&mut race, now);
        }
        let WayOutcome::Failed(failure) = race.attempt.report(now).ways[0].outcome.clone() else { panic!() };
        failure
    };
    assert_eq!(failure(punching().begin(epoch())), WayFailure::Punch(Failed::Silent));
    assert_eq!(failure(punching().mute().begin(epoch())), WayFailure::NoSignalling);
    let mut nowhere = punching();
    nowhere.config.peer = peer(vec![interface("192.168.9.9", None)]);
    assert_eq!(failure(nowhere.begin(epoch())), WayFailure::NoExternalAddress);
    let mut offline = punching().begin(epoch());
    let body = Body::Punch(offered(&serve(&mut offline, epoch())));
    offline.handle_delivery(&body, Delivery::Offline, at(40));
    assert_eq!(failure(offline), WayFailure::Offline);
    let mut refused = punching().begin(epoch());
    serve(&mut refused, epoch());
    let no = |reason| Body::Refuse(Refusal { reason });
    let theirs = peer(vec![behind_nat("192.168.9.9", "203.0.113.9")]);
    refused.handle_signal(&from_peer(theirs.clone(), no(RefusalReason::Unsupported)), at(40));
    assert!(!refused.attempt.is_over(), "that was about being dialled");
    refused.handle_signal(&from_peer(theirs, no(RefusalReason::NotAllowed)), at(41));
    assert_eq!(failure(refused), WayFailure::Refused(RefusalReason::NotAllowed));
}

#[test]
fn the_answer_dials_and_punches_side_by_side_and_declines_what_it_may_not_do() {
    let mut race = punching().begin(epoch());
    let offer = offered(&serve(&mut race, epoch()));
    let caller = peer(vec![behind_nat("192.168.1.5", "198.51.100.1")]);
    let mut signal = from_peer(caller, Body::Punch(offer.clone()));
    let here = host("192.168.9.9", "203.0.113.9");
    let mut answerer = answer(&here, signal.sender.clone(), at(30));
    answerer.handle_signal(&signal, at(30));
    let acts = serve(&mut answerer, at(30));
    let listens = acts.iter().filter(|act| matches!(act, Act::Punch(_, SocketAct::Listen(_)))).count();
    assert!(listens > 0);
    let others: Vec<_> =
        acts.into_iter().filter(|act| !matches!(act, Act::Punch(_, SocketAct::Listen(_)))).collect();
    assert!(matches!(
        &others[0],
        Act::Signal(Body::Punch(punch::Message { step: punch::Step::Answer(_), .. }))
    ));
    let Act::Punch(0, SocketAct::Dial { to, socket, .. }) = others[1] else { panic!("{others:?}") };
    assert_eq!(to.ip(), IpAddr::from([198, 51, 100, 1]));
    // The caller wants to be dialled too, which fails: it is told, and the punch goes on.
    let wish = Body::DialMe(crate::signal::DialMe { plain: false });
    let unreachable = InterfaceAddr { mapped: None, ..behind_nat("192.168.1.5", "198.51.100.1") };
    let nowhere = peer_at(2_000, vec![unreachable], None);
    answerer.handle_signal(&from_peer(nowhere, wish), at(31));
    let refusal = Refusal { reason: RefusalReason::NoRoute };
    assert_eq!(drain(&mut answerer).acts, [Act::Signal(Body::Refuse(refusal))]);
    let lane = answerer.handle_punch(0, Input::Connected { socket, remote: to }, at(90)).unwrap();
    let path = answerer.attempt.candidate(lane).map(|candidate| candidate.path);
    assert_eq!(path, Some(Path::External));
    answerer.handle_kept(lane, at(150));
    let drained = drain(&mut answerer);
    assert_eq!(drained.events, [Event::Won(lane)]);
    assert!(!drained.acts.contains(&Act::Drop(lane)) && drained.wait.is_none());

    // Somebody who publishes nothing that it names.
    signal.sender = peer(vec![behind_nat("192.168.1.5", "198.51.100.9")]);
    let mut answerer = answer(&here, signal.sender.clone(), at(30));
    answerer.handle_signal(&signal, at(30));
    let drained = drain(&mut answerer);
    assert!(matches!(
        &drained.acts[..],
        [Act::Signal(Body::Punch(punch::Message { step: punch::Step::Decline(RefusalReason::NoRoute), .. }))]
    ));
    assert_eq!(drained.events, [], "a better offer may follow");
    answerer.handle_timeout(at(1_030));
    let drained = drain(&mut answerer);
    assert_eq!((drained.events, drained.wait), (vec![Event::Lost], None));
}
