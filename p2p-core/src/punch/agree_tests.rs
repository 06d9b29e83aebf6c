use std::net::IpAddr;

use super::*;
use crate::attempt::Role;
use crate::nat::Filtering;
use crate::nat::forecast::PortForecast;
use crate::punch::message::{Offer, Update};
use crate::punch::schedule::Mode;
use crate::sim::epoch;
use crate::sim::laws::drain;

fn at(millis: u64) -> Instant {
    epoch() + Duration::from_millis(millis)
}

fn side() -> Endpoint {
    Endpoint {
        address: IpAddr::from([203, 0, 113, 1]),
        ports: PortForecast::Fixed(vec![5_000]),
        filtering: Filtering::AddressAndPortDependent,
        syn: None,
        low_ttl: false,
        sockets: 64,
    }
}

fn offer() -> Step {
    Step::Offer(Offer { mode: Mode::Remote, at: IpAddr::from([10, 0, 0, 1]), side: side(), error: None })
}

fn update() -> Step {
    Step::Update(Update { side: side(), error: None })
}

/// The answerer's clock is so many seconds ahead.
const AHEAD: u64 = 100;

fn pair() -> [Agree; 2] {
    let clock = |ahead| Clock::new(epoch(), UnixTime::from_secs(1_800_000_000 + ahead));
    [
        Agree::new(Role::Caller, 0, clock(0), PathTiming::default()),
        Agree::new(Role::Answerer, 0, clock(AHEAD), PathTiming::default()),
    ]
}

fn said(agree: &mut Agree) -> Vec<Message> {
    drain(agree).acts.into_iter().map(|AgreeAct::Send(message)| message).collect()
}

#[test]
fn one_message_for_the_answerer_one_round_trip_for_the_caller() {
    let [mut caller, mut answerer] = pair();
    caller.propose(0, offer(), at(0));
    let offered = said(&mut caller).remove(0);
    answerer.handle_message(&offered, at(40));
    assert_eq!(drain(&mut answerer).events, [AgreeEvent::Asked { round: 0, side: side() }]);
    let timing = answerer.answer(side(), at(41)).unwrap();
    assert_eq!((timing.lead, timing.spread, timing.step), (61, 151, 33));
    let answered = said(&mut answerer).remove(0);
    caller.handle_message(&answered, at(101));
    let events = drain(&mut caller).events;
    let [AgreeEvent::Agreed { round: 0, timing, .. }] = &events[..] else { panic!("{events:?}") };
    // It left at 41 and was 60 ms under way; the offer took 40: the offset is 10 ms off, and may be 50.
    let start = UnixTime(1_800_000_000_051_000);
    let off = timing.start.since(start).max(start.since(timing.start));
    assert!(off < Duration::from_micros(10), "{off:?}: what drift and rounding make of it");
    let known = caller.offset(at(101)).unwrap();
    assert!(known.contains(100_000_000_000), "{known}");
    assert_eq!(known.error.as_millis(), 50);
    // The next round tells the answerer too.
    caller.propose(1, update(), at(900));
    let again = said(&mut caller).remove(0);
    answerer.handle_message(&again, at(940));
    let known = answerer.offset(at(940)).unwrap();
    assert!(known.contains(-100_000_000_000), "{known}");
    let timing = answerer.answer(side(), at(940)).unwrap();
    assert_eq!((timing.lead, timing.spread), (51, 51), "the delay and the error are known by now");
}

#[test]
fn what_is_lost_is_said_again_and_what_comes_twice_counts_once() {
    let [mut caller, mut answerer] = pair();
    caller.propose(0, offer(), at(0));
    assert_eq!(said(&mut caller).len(), 1);
    caller.handle_timeout(at(1_000));
    let again = said(&mut caller).remove(0);
    answerer.handle_message(&again, at(1_040));
    answerer.handle_message(&again, at(1_050));
    assert_eq!(drain(&mut answerer).events.len(), 1);
    answerer.answer(side(), at(1_060));
    assert_eq!(said(&mut answerer).len(), 1);
    // The answer was lost: the question comes again, and is answered again, but not for ever.
    for _ in 0..20 {
        answerer.handle_message(&again, at(1_100));
    }
    let answers = said(&mut answerer);
    assert_eq!(answers.len(), usize::from(MOST_REPEATS));
    for answer in &answers {
        caller.handle_message(answer, at(1_140));
    }
    assert_eq!(drain(&mut caller).events.len(), 1);
}

#[test]
fn silence_ends_it() {
    let [mut caller, _] = pair();
    caller.propose(0, offer(), at(0));
    let mut said = 0;
    for millis in (0..8_000).step_by(100) {
        caller.handle_timeout(at(millis));
        let drained = drain(&mut caller);
        said += drained.acts.len();
        if !drained.events.is_empty() {
            assert_eq!((drained.events, said, millis), (vec![AgreeEvent::Silent], 3, 7_000));
            return;
        }
    }
    panic!("it waits for ever");
}

#[test]
fn the_absurd_the_stale_and_the_misdirected_are_dropped() {
    let [mut caller, mut answerer] = pair();
    caller.propose(0, offer(), at(0));
    let offered = said(&mut caller).remove(0);
    let changed = |change: fn(&mut Message)| {
        let mut message = offered.clone();
        change(&mut message);
        message
    };
    for absurd in [
        changed(|message| message.pair = 1),
        changed(|message| message.pair = 200),
        changed(|message| message.round = 3),
        changed(|message| message.round = 255),
        changed(|message| {
            let Step::Offer(offer) = &mut message.step else { return };
            offer.side.ports = PortForecast::Fixed(vec![5_000; 10_000]);
        }),
        changed(|message| {
            let Step::Offer(offer) = &mut message.step else { return };
            offer.side.ports = PortForecast::Fixed(vec![0]);
        }),
    ] {
        answerer.handle_message(&absurd, at(40));
        assert!(drain(&mut answerer).is_quiet());
    }
    answerer.handle_message(&offered, at(40));
    drain(&mut answerer);
    answerer.answer(side(), at(40));
    let answered = said(&mut answerer).remove(0);
    let late = |start: UnixTime| {
        let mut message = answered.clone();
        let Step::Answer(answer) = &mut message.step else { panic!() };
        answer.timing.start = start;
        message
    };
    let year = Duration::from_secs(365 * 86_400);
    let start = UnixTime::from_secs(1_800_000_000 + AHEAD);
    for absurd in
        [late(start.after(year)), late(start.before(year)), late(UnixTime(u64::MAX)), late(UnixTime(0))]
    {
        caller.handle_message(&absurd, at(80));
        assert!(drain(&mut caller).is_quiet());
    }
    // An answer to an earlier round comes late.
    caller.propose(1, update(), at(90));
    said(&mut caller);
    caller.handle_message(&answered, at(95));
    assert!(drain(&mut caller).is_quiet());
}
