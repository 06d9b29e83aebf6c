//! Attempts that begin before anything is known of the networks of this host.

use super::punching::{End, OUR_OUTSIDE, OURS, THEIR_OUTSIDE, ip, offer, port_restricted, remote, them};
use super::*;
use crate::nat::forecast::PortForecast;
use crate::nat::{Delta, DeltaKind, NatFacts, NatType, PortRange};
use crate::punch::{Message, Mode, NetworkView, Step, Timing};
use crate::signal::DialMe;

/// What a probe finds out a moment later: a NAT that counts, whose ports must be asked for.
fn counting() -> NetworkView {
    let delta = Some(Delta { kind: DeltaKind::Dependent, value: 2 });
    let range = Some(PortRange { first: 1_024, last: 65_000 });
    let facts = NatFacts { nat: Some(NatType::Symmetric), delta, range, ..NatFacts::default() };
    NetworkView { facts, can_observe: true, silent_hop: None }
}

/// The messages of punches among what was said.
fn said(end: &mut End) -> Vec<Message> {
    let message = |body| match body {
        Body::Punch(message) => message,
        other => panic!("{other:?}"),
    };
    end.punch_signals().into_iter().map(message).collect()
}

fn ports(message: &Message) -> &PortForecast {
    &message.side().expect("a side").ports
}

/// The answer of a peer whose ports are as they should be.
fn agreed(offer: &Message) -> Message {
    let side = super::punching::their_side();
    let start = UnixTime::from_secs(1_000_000);
    let timing = Timing { start, lead: 10, spread: 10, step: 10 };
    let step = Step::Answer(punch::Answer { side, timing });
    Message { step, ..offer.clone() }
}

#[test]
fn a_caller_that_begins_with_no_facts_offers_by_those_that_come_later() {
    let mut call = remote(port_restricted()).only(&[Way::Punch]);
    call.facts.networks.clear();
    let peer = call.config.peer.clone();
    let mut end = End::new(call.begin(epoch()), epoch());
    let first = said(&mut end).remove(0);
    assert!(matches!(ports(&first), PortForecast::Fixed(_)), "a guess: most routers keep ports");

    // The probe ends while the first round is under way, which leads nowhere.
    end.machine.facts.networks.insert(ip(OURS), counting());
    end.machine.handle_network_changed(at(200));
    end.machine.handle_signal(&from_peer(peer, Body::Punch(agreed(&first))), at(210));
    end.turn(at(210));
    end.until(6_000);
    let next = said(&mut end).into_iter().find(|message| message.round == 1).expect("another round");
    assert!(matches!(ports(&next), PortForecast::Counter { step: 2, .. }), "{next:?}");
}

#[test]
fn an_answerer_that_begins_with_no_facts_answers_by_those_that_come_later() {
    let mut here = facts(ours(&[(OURS, 24)]));
    here.host.addresses[0].external = Some(ip(OUR_OUTSIDE));
    let caller = them("10.1.1.1", Some(THEIR_OUTSIDE));
    let mut end = End::new(answer(&here, caller.clone(), epoch()), epoch());
    // The caller wants to be dialled first, and then to punch.
    end.machine.handle_signal(&from_peer(caller.clone(), Body::DialMe(DialMe { plain: false })), at(1));
    end.turn(at(1));
    let offer = Message { pair: 0, ..offer(Mode::Remote, OURS, THEIR_OUTSIDE) };
    let round = |round, step| Body::Punch(Message { round, step, ..offer.clone() });
    end.machine.handle_signal(&from_peer(caller.clone(), round(0, offer.step.clone())), at(2));
    end.turn(at(2));
    let first = said(&mut end).remove(0);
    assert!(matches!(ports(&first), PortForecast::Fixed(_)));

    end.machine.facts.networks.insert(ip(OURS), counting());
    let Step::Offer(said_before) = &offer.step else { unreachable!() };
    let update = punch::Update { side: said_before.side.clone(), error: None };
    end.machine.handle_signal(&from_peer(caller, round(1, Step::Update(update))), at(3_000));
    end.turn(at(3_000));
    let [news, next] = &said(&mut end)[..] else { panic!("it tells that it knows more, and answers") };
    assert_eq!(news.step, Step::Renew);
    assert!(matches!(ports(next), PortForecast::Counter { step: 2, .. }), "{next:?}");
}

#[test]
fn a_caller_that_does_not_know_where_it_is_punches_once_it_does() {
    let mut call = remote(port_restricted()).only(&[Way::Direct, Way::Punch]);
    call.facts.host.addresses[0].external = None;
    let mut story = Story::begin(call);
    story.until(100);
    assert_eq!(story.outcome(Way::Punch), WayOutcome::Failed(WayFailure::NoExternalAddress));
    story.attempt.facts.host.addresses[0].external = Some(ip(OUR_OUTSIDE));
    story.happens(200, |call, now| call.handle_network_changed(now));
    assert_eq!(story.outcome(Way::Punch), WayOutcome::Overtaken, "it is under way");
    let reserves = story.acts.iter().filter(|act| matches!(act, Act::Punch(..))).count();
    assert_eq!(reserves, 1);
    story.happens(300, |call, now| call.handle_network_changed(now));
    let reserves = story.acts.iter().filter(|act| matches!(act, Act::Punch(..))).count();
    assert_eq!(reserves, 1, "nothing new has come");
}

#[test]
fn an_interface_that_comes_late_is_dialled_from() {
    let mut call = call(peer(vec![interface("fe80::9", None)])).only(&[Way::Direct]);
    call.facts.host = ours(&[("192.168.1.5", 24)]);
    let mut story = Story::begin(call);
    assert_eq!(story.dials().len(), 0, "no address of ours is on such a link");
    story.attempt.facts.host = ours(&[("192.168.1.5", 24), ("fe80::5", 64)]);
    story.happens(20, |call, now| call.handle_network_changed(now));
    let [lane] = story.dials()[..] else { panic!("{:?}", story.acts) };
    let target = story.attempt.attempt.candidate(lane).unwrap().target;
    assert_eq!(target.ip(), ip("fe80::9"));
}

#[test]
fn a_network_that_never_rests_cannot_make_us_dial_for_ever() {
    let mut story = Story::begin(call(peer(vec![interface("fe80::9", None)])));
    for n in 0..1_000 {
        story.attempt.facts.host = ours(&[(&format!("fe80::{n:x}"), 64)]);
        story.happens(n, |call, now| call.handle_network_changed(now));
    }
    assert!(story.dials().len() <= 32, "{}", story.dials().len());
}
