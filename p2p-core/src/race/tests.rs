//! Stories of races, in virtual time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;
use crate::nat::Nat;
use crate::peer::{Contents, Identity, InterfaceAddr, MachineTag, PeerAddr};
use crate::proof::ProofError;
use crate::punch::{Limits, Setup, Terms};
use crate::signal::{AttemptId, Body, Delivery, Reason, Refusal, Signal};
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::{Clock, Local, Machine, Seed, UnixTime};

pub(super) const ATTEMPT: AttemptId = AttemptId([1; 16]);

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn at(millis: u64) -> Instant {
    epoch() + ms(millis)
}

pub(super) fn interface(local: &str, external: Option<&str>) -> InterfaceAddr {
    InterfaceAddr {
        nic: 0,
        local: local.parse().unwrap(),
        prefix: 24,
        external: external.map(|ip| ip.parse().unwrap()),
        listen: 4_000,
        mapped: external.map(|_| 5_000),
        nat: Nat::default(),
    }
}

pub(super) fn peer_at(issued: u64, interfaces: Vec<InterfaceAddr>, machine: Option<&[u8]>) -> PeerAddr {
    let identity = Identity::generate(&mut Seed::from_u64(2));
    let contents = Contents {
        brokers: vec!["mqtt://broker.example".parse().unwrap()],
        machine: machine.map(|id| MachineTag::new(id, &identity.id(), &mut Seed::from_u64(5))),
        interfaces,
        issued: UnixTime::from_secs(issued),
    };
    PeerAddr::sign(&identity, contents).unwrap()
}

fn peer(interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    peer_at(1_000, interfaces, None)
}

pub(super) fn ours(addresses: &[(&str, u8)]) -> OurPlace {
    let address = |(ip, prefix): &(&str, u8)| OurAddress {
        ip: ip.parse().unwrap(),
        prefix: *prefix,
        scope: 3,
        external: Some("198.51.100.1".parse().unwrap()),
    };
    OurPlace { addresses: addresses.iter().map(address).collect(), machine_id: b"this machine".to_vec() }
}

fn targets(candidates: &[Candidate]) -> Vec<String> {
    candidates.iter().map(ToString::to_string).collect()
}

pub(super) fn setup(ours: OurPlace) -> Setup {
    let clock = Clock::new(epoch(), UnixTime::from_secs(1_000_000));
    let (views, terms, limits) = (Default::default(), Terms::default(), Limits::default());
    Setup { ours, views, clock, terms, limits }
}

pub(super) fn config(peer: PeerAddr) -> RaceConfig {
    let ours = ours(&[("192.168.1.5", 24)]);
    RaceConfig {
        peer,
        attempt: ATTEMPT,
        punch: Some(setup(ours.clone())),
        ours,
        ways: Way::ALL.to_vec(),
        filter: Filter::default(),
        plain: false,
        can_signal: true,
        listens: true,
        head_start: HEAD_START,
        dial_delay: DIAL_DELAY,
        within: Duration::from_secs(30),
    }
}

fn two_homes() -> PeerAddr {
    peer(vec![interface("203.0.113.7", None), interface("2001:db8::7", None)])
}

/// A race, what it asked for and what it told.
pub(super) struct Story {
    pub(super) race: Race,
    pub(super) acts: Vec<Act>,
    pub(super) events: Vec<Event>,
}

impl Story {
    pub(super) fn begin(config: RaceConfig) -> Self {
        let mut story = Self { race: Race::new(config, epoch()), acts: Vec::new(), events: Vec::new() };
        story.drain();
        story
    }

    fn drain(&mut self) {
        let drained = drain(&mut self.race);
        self.acts.extend(drained.acts);
        self.events.extend(drained.events);
    }

    /// Lets time pass, waking the race whenever it wants.
    pub(super) fn until(&mut self, millis: u64) {
        while let Some(deadline) = drain(&mut self.race).wait.filter(|deadline| deadline.at <= at(millis)) {
            self.race.handle_timeout(deadline.at);
            self.drain();
        }
        self.race.handle_timeout(at(millis));
        self.drain();
    }

    pub(super) fn happens(&mut self, millis: u64, what: impl FnOnce(&mut Race, Instant)) {
        self.until(millis);
        what(&mut self.race, at(millis));
        self.drain();
    }

    fn dials(&self) -> Vec<Lane> {
        self.acts
            .iter()
            .filter_map(|act| if let Act::Dial(lane, _) = act { Some(*lane) } else { None })
            .collect()
    }

    fn asked(&self) -> usize {
        self.acts.iter().filter(|act| matches!(act, Act::Signal(Body::DialMe(_)))).count()
    }

    pub(super) fn outcome(&self, way: Way) -> WayOutcome {
        let report = self.race.report(at(60_000));
        report.ways.into_iter().find(|report| report.way == way).unwrap().outcome
    }
}

pub(super) fn from_peer(peer: PeerAddr, body: Body) -> Signal {
    let from = peer.id();
    let to = Identity::generate(&mut Seed::from_u64(1)).id();
    let (issued, expires) = (UnixTime::from_secs(1), UnixTime::from_secs(2));
    Signal { from, to, attempt: ATTEMPT, seq: 1, issued, expires, sender: peer, body }
}

#[test]
fn direct_wins_within_its_head_start_and_troubles_no_broker() {
    let mut story = Story::begin(config(two_homes()));
    let lane = story.dials()[0];
    story.happens(10, |race, now| race.handle_connected(lane, now));
    story.happens(20, |race, now| race.handle_proven(lane, now));
    assert_eq!(story.acts.last(), Some(&Act::Keep(lane)));
    story.happens(21, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
    assert_eq!(story.asked(), 0);
    let report = story.race.report(at(99));
    assert_eq!((report.won(), report.took), (Some(Way::Direct), ms(21)));
    assert_eq!(report.ways[0].lanes[0].proven, Some(ms(20)));
    story.until(100_000);
    assert_eq!(story.events.len(), 1);
}

#[test]
fn ipv6_first_then_ipv4_and_a_refusal_hurries_the_next() {
    let mut story = Story::begin(config(two_homes()));
    assert_eq!(story.race.candidate(story.dials()[0]).unwrap().target, "[2001:db8::7]:4000".parse().unwrap());
    story.until(99);
    assert_eq!(story.dials().len(), 1);
    let mut hurried = Story::begin(config(two_homes()));
    hurried.happens(5, |race, now| race.handle_failed(Lane::dialled(0), LaneFailure::Refused, now));
    assert_eq!(hurried.dials().len(), 2);
    story.until(100);
    assert_eq!(story.dials().len(), 2);
}

#[test]
fn behind_a_firewall_the_peer_is_asked_and_comes() {
    let mut story = Story::begin(config(two_homes()));
    story.until(30);
    assert_eq!(story.asked(), 1);
    let remote: SocketAddr = "203.0.113.7:50000".parse().unwrap();
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    story.happens(40, |race, now| race.handle_delivery(&body, Delivery::Told, now));
    story.until(80);
    let lane = story.race.handle_arrival(remote, at(80)).unwrap();
    story.happens(90, |race, now| race.handle_proven(lane, now));
    story.happens(91, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
    assert!(story.acts.contains(&Act::Drop(Lane::dialled(0))));
    assert_eq!(story.outcome(Way::Direct), WayOutcome::Overtaken);
}

#[test]
fn a_peer_that_was_asked_in_vain_is_told_to_stop() {
    let bye = Act::Signal(Body::Bye);
    let mut story = Story::begin(config(two_homes()));
    story.until(30);
    let lane = story.dials()[0];
    story.happens(40, |race, now| race.handle_proven(lane, now));
    story.happens(41, |race, now| race.handle_kept(lane, now));
    assert!(story.acts.contains(&bye));
    let mut cancelled = Story::begin(config(two_homes()));
    cancelled.happens(10, |race, now| race.close(now));
    assert!(!cancelled.acts.contains(&bye), "it was never asked");
    let mut cancelled = Story::begin(config(two_homes()));
    cancelled.happens(50, |race, now| race.close(now));
    assert!(cancelled.acts.contains(&bye));
}

#[test]
fn a_failed_direct_way_gives_its_head_start_away() {
    let mut story = Story::begin(config(peer(vec![])));
    assert_eq!(story.asked(), 0, "news of the peer's address may still come");
    story.happens(1, |race, now| race.handle_delivery(&Body::AskAddr, Delivery::Offline, now));
    assert_eq!(story.asked(), 1);
    assert_eq!(story.outcome(Way::Direct), WayOutcome::Failed(WayFailure::NoCandidates));
}

#[test]
fn offline_is_told_at_once() {
    let mut story = Story::begin(config(peer(vec![])));
    story.happens(1, |race, now| race.handle_delivery(&Body::AskAddr, Delivery::Offline, now));
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    story.happens(2, |race, now| race.handle_delivery(&body, Delivery::Offline, now));
    assert_eq!(story.events, [Event::Lost]);
    let report = story.race.report(at(3));
    assert!(report.is_offline());
    assert!(report.to_string().contains("nobody is subscribed"), "{report}");
}

#[test]
fn a_repeat_that_finds_nobody_counts_unless_the_peer_has_heard() {
    let body = Body::DialMe(crate::signal::DialMe { plain: false });
    for (first, is_offline) in [(Delivery::Unknown, true), (Delivery::Told, false)] {
        let mut only = config(two_homes());
        only.ways = vec![Way::Reverse];
        let mut story = Story::begin(only);
        story.happens(1, |race, now| race.handle_delivery(&body, first, now));
        story.until(2_000);
        assert_eq!(story.asked(), 2);
        story.happens(2_001, |race, now| race.handle_delivery(&body, Delivery::Offline, now));
        assert_eq!(story.race.is_over(), is_offline);
        // What a dead broker says of a later one says nothing of an earlier one that got through.
        story.happens(2_002, |race, now| race.handle_delivery(&body, Delivery::NoBroker(Vec::new()), now));
        assert_eq!(story.race.is_over(), is_offline);
    }
}

#[test]
fn a_refusal_ends_the_reverse_way_with_its_reason() {
    let mut only = config(two_homes());
    only.ways = vec![Way::Reverse];
    let mut story = Story::begin(only);
    assert_eq!(story.asked(), 1);
    let refusal = Body::Refuse(Refusal { reason: Reason::NotAllowed });
    story.happens(50, |race, now| race.handle_signal(&from_peer(two_homes(), refusal), now));
    assert_eq!(story.events, [Event::Lost]);
    assert_eq!(story.outcome(Way::Reverse), WayOutcome::Failed(WayFailure::Refused(Reason::NotAllowed)));
}

#[test]
fn a_peer_that_could_not_dial_us_has_not_refused() {
    for (reason, is_refusal) in [(Reason::NoRoute, false), (Reason::NotAllowed, true)] {
        let mut only = config(two_homes());
        only.ways = vec![Way::Reverse];
        let mut story = Story::begin(only);
        let refusal = Body::Refuse(Refusal { reason });
        story.happens(50, |race, now| race.handle_signal(&from_peer(two_homes(), refusal), now));
        let report = story.race.report(epoch() + Duration::from_millis(60));
        assert_eq!(report.is_refused(), is_refusal, "{report}");
        assert_eq!(report.to_string().contains("refused"), is_refusal, "{report}");
    }
}

#[test]
fn a_peer_that_says_no_to_one_connection_says_no_to_all() {
    let mut story = Story::begin(config(two_homes()));
    let no = LaneFailure::Proof(ProofError::Refused(Reason::NotAllowed));
    story.happens(5, |race, now| race.handle_failed(Lane::dialled(0), no, now));
    assert_eq!(story.events, [Event::Lost]);
    assert_eq!((story.dials().len(), story.asked()), (1, 0));
    for way in Way::ALL {
        assert_eq!(story.outcome(way), WayOutcome::Failed(WayFailure::Refused(Reason::NotAllowed)));
    }
}

#[test]
fn a_stale_address_is_mended() {
    let mut only = config(two_homes());
    only.ways = vec![Way::Direct];
    let mut story = Story::begin(only);
    for index in 0..2 {
        story.happens(5, |race, now| race.handle_failed(Lane::dialled(index), LaneFailure::TimedOut, now));
    }
    assert!(story.events.is_empty());
    assert_eq!(story.acts.last(), Some(&Act::Signal(Body::AskAddr)));
    let moved = peer_at(2_000, vec![interface("203.0.113.99", None)], None);
    story.happens(60, |race, now| race.handle_signal(&from_peer(moved, Body::TellAddr), now));
    let lane = *story.dials().last().unwrap();
    assert_eq!(story.race.candidate(lane).unwrap().target, "203.0.113.99:4000".parse().unwrap());
    story.happens(70, |race, now| race.handle_proven(lane, now));
    story.happens(71, |race, now| race.handle_kept(lane, now));
    assert_eq!(story.events, [Event::Won(lane)]);
}

#[test]
fn a_silent_peer_is_asked_again_and_then_given_up() {
    let mut only = config(two_homes());
    only.ways = vec![Way::Reverse];
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
    let mut story = Story::begin(config(two_homes()));
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
    let mut story = Story::begin(config(two_homes()));
    story.until(120);
    for lane in story.dials() {
        story.happens(130, |race, now| race.handle_proven(lane, now));
    }
    assert_eq!(story.acts.iter().filter(|act| matches!(act, Act::Keep(_))).count(), 1);
}

#[test]
fn out_of_time_names_every_way() {
    let mut short = config(two_homes());
    short.within = ms(500);
    let mut story = Story::begin(short);
    story.until(500);
    assert_eq!(story.events, [Event::Lost]);
    for way in Way::ALL {
        assert_eq!(story.outcome(way), WayOutcome::Failed(WayFailure::TimedOut));
    }
}

#[test]
fn for_ever_is_a_day() {
    let mut patient = config(two_homes());
    (patient.within, patient.head_start, patient.dial_delay) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut story = Story::begin(patient);
    story.until(86_400_000);
    assert_eq!(story.events, [Event::Lost]);
}

#[test]
fn without_broker_or_listener_reverse_says_so() {
    for (can_signal, listens, failure) in
        [(false, true, WayFailure::NoSignalling), (true, false, WayFailure::NotListening)]
    {
        let mut config = config(two_homes());
        (config.ways, config.can_signal, config.listens) = (vec![Way::Reverse], can_signal, listens);
        let story = Story::begin(config);
        assert_eq!(story.events, [Event::Lost]);
        assert_eq!(story.outcome(Way::Reverse), WayOutcome::Failed(failure));
    }
}

#[test]
fn somebody_elses_signal_changes_nothing() {
    let mut story = Story::begin(config(two_homes()));
    let mut forged = from_peer(two_homes(), Body::Refuse(Refusal { reason: Reason::Busy }));
    forged.from = Identity::generate(&mut Seed::from_u64(77)).id();
    story.happens(40, |race, now| race.handle_signal(&forged, now));
    assert_eq!(story.outcome(Way::Reverse), WayOutcome::Overtaken);
    assert!(story.events.is_empty());
}

#[test]
fn arrivals_are_bounded() {
    let mut story = Story::begin(config(two_homes()));
    story.until(30);
    let remote: SocketAddr = "203.0.113.7:50000".parse().unwrap();
    let taken = (0..100).filter(|_| story.race.handle_arrival(remote, at(40)).is_some()).count();
    assert_eq!(taken, MOST_CANDIDATES);
}

#[test]
fn neighbours_are_dialled_before_the_internet() {
    let peer = peer(vec![interface("203.0.113.7", None), interface("192.168.1.9", Some("198.51.100.1"))]);
    let found = candidates(&ours(&[("192.168.1.5", 24)]), &peer, &Filter::default(), Motive::TheirWish);
    assert_eq!(
        targets(&found),
        ["192.168.1.9:4000 (local)", "203.0.113.7:4000 (external)", "198.51.100.1:5000 (external)"]
    );
}

#[test]
fn a_stranger_cannot_send_us_to_our_neighbours() {
    let scan = peer(vec![
        interface("10.9.9.1", None),
        interface("127.0.0.1", None),
        interface("169.254.169.254", None),
        interface("224.0.0.1", None),
        interface("0.0.0.0", None),
        interface("172.16.0.1", Some("10.0.0.1")),
    ]);
    let place = ours(&[("192.168.1.5", 24), ("169.254.7.7", 16)]);
    assert_eq!(targets(&candidates(&place, &scan, &Filter::default(), Motive::TheirWish)), [""; 0]);
    // Our own user may try what the peer publishes, but never this machine's loopback.
    let wish = targets(&candidates(&place, &scan, &Filter::default(), Motive::OurWish));
    assert!(wish.contains(&"10.9.9.1:4000 (local)".to_owned()), "{wish:?}");
    assert!(!wish.iter().any(|target| target.starts_with("127.") || target.starts_with("224.")), "{wish:?}");
}

#[test]
fn loopback_is_for_this_machine_only() {
    let lo = vec![interface("127.0.0.1", None)];
    let here = peer_at(1, lo.clone(), Some(b"this machine"));
    let there = peer_at(1, lo, Some(b"that machine"));
    let place = ours(&[("127.0.0.1", 8)]);
    assert_eq!(
        targets(&candidates(&place, &here, &Filter::default(), Motive::TheirWish)),
        ["127.0.0.1:4000 (machine)"]
    );
    assert_eq!(targets(&candidates(&place, &there, &Filter::default(), Motive::OurWish)), [""; 0]);
}

#[test]
fn link_local_targets_carry_our_scope_and_our_address() {
    let peer = peer(vec![interface("fe80::9", None)]);
    let found = candidates(&ours(&[("fe80::5", 64)]), &peer, &Filter::default(), Motive::OurWish);
    let [Candidate { target: SocketAddr::V6(target), from: Some(Local(from)), path: Path::Local }] =
        found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((target.scope_id(), from.ip()), (3, "fe80::5".parse::<IpAddr>().unwrap()));
}

#[test]
fn the_filter_is_kept() {
    let peer = peer(vec![
        interface("203.0.113.7", None),
        interface("2001:db8::7", None),
        interface("192.168.1.9", None),
    ]);
    let place = ours(&[("192.168.1.5", 24)]);
    let only = |families: &[crate::Family], paths: &[Path]| {
        let filter =
            Filter { families: families.iter().copied().collect(), paths: paths.iter().copied().collect() };
        targets(&candidates(&place, &peer, &filter, Motive::OurWish))
    };
    assert_eq!(only(&[crate::Family::V6], &Path::ALL), ["[2001:db8::7]:4000 (external)"]);
    assert_eq!(only(&[crate::Family::V4], &[Path::Local]), ["192.168.1.9:4000 (local)"]);
}

fn dialling(candidates: Vec<Candidate>, now: Instant) -> Answer {
    let mut answer = Answer::new(now);
    answer.handle_dial_me(candidates, DIAL_DELAY, now);
    answer
}

#[test]
fn an_answer_that_reaches_nobody_says_so_at_once() {
    let peer = two_homes();
    let found = candidates(&OurPlace::default(), &peer, &Filter::default(), Motive::TheirWish);
    let mut answer = dialling(found, epoch());
    let mut acts = drain(&mut answer).acts;
    for index in 0..2 {
        answer.handle_failed(Lane::dialled(index), LaneFailure::Refused, at(5));
        let drained = drain(&mut answer);
        acts.extend(drained.acts);
        assert_eq!(drained.events.is_empty(), index == 0);
    }
    assert_eq!(acts.last(), Some(&Act::Signal(Body::Refuse(Refusal { reason: Reason::NoRoute }))));
}

#[test]
fn an_answer_drops_what_the_caller_did_not_choose() {
    let found = candidates(&OurPlace::default(), &two_homes(), &Filter::default(), Motive::TheirWish);
    let mut answer = dialling(found, epoch());
    drain(&mut answer);
    answer.handle_timeout(at(100));
    assert!(matches!(drain(&mut answer).acts[..], [Act::Dial(..)]));
    answer.handle_kept(Lane::dialled(1), at(150));
    let drained = drain(&mut answer);
    assert_eq!(drained.acts, [Act::Drop(Lane::dialled(0))]);
    assert_eq!(drained.events, [Event::Won(Lane::dialled(1))]);
    assert_eq!(drained.wait, None);
}

#[path = "punch_tests.rs"]
mod punching;
