//! Stories of attempts that punch.

use std::collections::BTreeSet;

use super::*;
use crate::attempt::{DialError, Path, Role};
use crate::nat::forecast::PortForecast;
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, NatFacts, NatType};
use crate::punch::{
    Endpoint, Failed, Input, MOST_PAIRS, Message, Mode, NetworkView, Offer, Share, SocketAct, Stamps, Step,
};
use crate::signal::DialMe;
use crate::{Local, Mapped};

pub(super) const OURS: &str = "192.168.1.5";
pub(super) const OUR_OUTSIDE: &str = "198.51.100.1";
const THEIRS: &str = "192.168.1.9";
pub(super) const THEIR_OUTSIDE: &str = "203.0.113.7";

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The owner of the peer's key at some address, as it sees itself.
pub(super) fn them(local: &str, outside: Option<&str>) -> PeerAddr {
    peer_at(1_000, vec![interface(local, outside)], None)
}

/// Who calls, with a signed address of its own.
fn us() -> PeerAddr {
    let identity = Identity::generate(&mut Seed::from_u64(1));
    let interfaces = vec![InterfaceAddr { mapped: None, ..interface(OURS, Some(OUR_OUTSIDE)) }];
    let contents =
        Contents { brokers: Vec::new(), machine: None, interfaces, issued: UnixTime::from_secs(1_000) };
    PeerAddr::sign(&identity, contents).unwrap()
}

pub(super) fn port_restricted() -> NatFacts {
    NatFacts {
        nat: Some(NatType::PortRestricted),
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        ..NatFacts::default()
    }
}

/// A call to a peer behind a NAT elsewhere; what is known of both NATs.
pub(super) fn remote(facts: NatFacts) -> Call {
    let mut theirs = interface("10.1.1.1", Some(THEIR_OUTSIDE));
    theirs.nat.tcp = facts;
    let mut call = call(peer_at(1_000, vec![theirs], None));
    let network = NetworkView { facts, can_observe: true, silent_hop: None };
    call.facts.networks.insert(ip(OURS), network);
    call
}

fn only(call: Call) -> Call {
    call.only(&[Way::Punch])
}

fn reserves(acts: &[Act]) -> usize {
    acts.iter().filter(|act| matches!(act, Act::Punch(_, SocketAct::Reserve(_)))).count()
}

/// One side of an attempt with sockets that always work, and what it has open.
pub(super) struct End {
    pub(super) machine: Sited,
    shares: BTreeSet<u8>,
    listening: BTreeSet<(u8, Local)>,
    dials: Vec<(u8, punch::Socket, Local, SocketAddr)>,
    signals: Vec<Body>,
    dropped: Vec<Lane>,
    kept: Option<Lane>,
    events: Vec<Event>,
}

impl End {
    pub(super) fn new(machine: Sited, now: Instant) -> Self {
        let (shares, listening, dials) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let (signals, dropped, events) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = Self { machine, shares, listening, dials, signals, dropped, kept: None, events };
        end.turn(now);
        end
    }

    pub(super) fn turn(&mut self, now: Instant) {
        loop {
            match self.machine.poll_output() {
                Output::Act(Act::Punch(pair, act)) => match act {
                    SocketAct::Reserve(share) => {
                        self.shares.insert(pair);
                        self.machine.handle_punch(pair, Input::Share(share), now);
                    }
                    SocketAct::GiveBack(_) => assert!(self.shares.remove(&pair)),
                    SocketAct::Listen(at) => {
                        self.listening.insert((pair, at));
                        self.machine.handle_punch(pair, Input::Listening(at, Ok(())), now);
                    }
                    SocketAct::Unlisten(at) => assert!(self.listening.remove(&(pair, at))),
                    SocketAct::Observe(from) => {
                        let mapped = SocketAddr::new(ip(OUR_OUTSIDE), from.0.port());
                        self.machine.handle_punch(pair, Input::Observed(from, Some(Mapped(mapped))), now);
                    }
                    SocketAct::Forget(_) | SocketAct::Drop(_) => {}
                    SocketAct::Dial { socket, from, to, .. } => self.dials.push((pair, socket, from, to)),
                },
                Output::Act(Act::Signal(body)) => self.signals.push(body),
                Output::Act(Act::Drop(lane)) => self.dropped.push(lane),
                Output::Act(Act::Keep(lane)) => self.kept = Some(lane),
                Output::Act(Act::Dial(..) | Act::Relay(_)) => {}
                Output::Event(event) => self.events.push(event),
                Output::Wait(_) => return,
            }
        }
    }

    /// Lets time pass, waking the machine whenever it wants.
    pub(super) fn until(&mut self, millis: u64) {
        while let Some(deadline) = wait(&mut self.machine).filter(|deadline| deadline.at <= at(millis)) {
            self.machine.handle_timeout(deadline.at);
            self.turn(deadline.at);
        }
    }

    fn accept(&mut self, pair: u8, at: Local, remote: SocketAddr, now: Instant) -> Option<Lane> {
        self.machine.handle_punch(pair, Input::Accepted { at, remote }, now)
    }

    fn connect(&mut self, pair: u8, socket: punch::Socket, remote: SocketAddr, now: Instant) -> Option<Lane> {
        self.machine.handle_punch(pair, Input::Connected { socket, remote }, now)
    }

    fn report(&self, now: Instant) -> AttemptReport {
        self.machine.attempt.report(now)
    }

    pub(super) fn punch_signals(&mut self) -> Vec<Body> {
        let (punches, others) =
            std::mem::take(&mut self.signals).into_iter().partition(|body| matches!(body, Body::Punch(_)));
        self.signals = others;
        punches
    }

    fn has_nothing(&self) -> bool {
        self.shares.is_empty() && self.listening.is_empty()
    }
}

/// The facts of the peer at [`THEIRS`], on the network of ours.
fn their_facts() -> OwnedView {
    facts(ours(&[(THEIRS, 24)]))
}

fn offered(facts: &OwnedView, signal: &Signal, now: Instant) -> Sited {
    let mut answerer = answer(facts, signal.sender.clone(), now);
    answerer.handle_signal(signal, now);
    answerer
}

/// Both sides of a punch on one network up to the moment when SYNs are out.
fn on_one_network() -> (End, End) {
    let mut caller = End::new(only(call(them(THEIRS, None))).begin(epoch()), epoch());
    let mut answerer = End::new(answer(&their_facts(), us(), epoch()), epoch());
    for body in caller.punch_signals() {
        answerer.machine.handle_signal(&from_peer(us(), body), at(1));
        answerer.turn(at(1));
    }
    for body in answerer.punch_signals() {
        caller.machine.handle_signal(&from_peer(them(THEIRS, None), body), at(2));
        caller.turn(at(2));
    }
    (caller, answerer)
}

#[test]
fn both_sides_of_a_punch_end_with_one_connection_and_nothing_else() {
    let (mut caller, mut answerer) = on_one_network();
    // The answerer's SYN comes to a port the caller listens on.
    let (pair, socket, from, to) = answerer.dials[0];
    assert!(caller.listening.contains(&(pair, Local(to))), "{to} is one of {:?}", caller.listening);
    let here = caller.accept(pair, Local(to), from.0, at(3)).unwrap();
    let there = answerer.connect(pair, socket, to, at(3)).unwrap();
    assert_eq!((here.way(Role::Caller), there.way(Role::Answerer)), (Way::Punch, Way::Punch));
    assert_eq!(answerer.machine.attempt.candidate(there).unwrap().path, Path::Local);
    caller.machine.handle_proven(here, at(5));
    caller.turn(at(5));
    assert_eq!(caller.kept, Some(here));
    caller.machine.handle_kept(here, at(6));
    answerer.machine.handle_kept(there, at(7));
    caller.turn(at(6));
    answerer.turn(at(7));
    assert_eq!(caller.events, [Event::Won(here)]);
    assert_eq!(answerer.events, [Event::Won(there)]);
    assert!(caller.has_nothing() && answerer.has_nothing());
    assert_eq!(caller.signals, [], "the peer knows that it is over");
    let report = caller.report(at(9));
    assert_eq!((report.won(), report.ways[0].punches.len()), (Some(Way::Punch), 1));
    assert!(report.to_string().contains("192.168.1.5 to 192.168.1.9 (lan), now"), "{report}");
}

#[test]
fn where_nothing_else_can_work_a_punch_does_not_wait() {
    let mut race = remote(port_restricted()).begin(epoch());
    assert_eq!(reserves(&drain(&mut race).acts), 1, "direct and punch at once");
    let open = NatFacts { nat: Some(NatType::Open), ..NatFacts::default() };
    for facts in [open, NatFacts::default()] {
        let mut race = remote(facts).begin(epoch());
        assert_eq!(reserves(&drain(&mut race).acts), 0, "another way may be faster");
        race.handle_timeout(at(30));
        assert_eq!(reserves(&drain(&mut race).acts), 1);
    }
}

#[test]
fn a_peer_that_does_not_punch_says_so_and_the_other_ways_go_on() {
    let call = remote(port_restricted()).only(&[Way::Reverse, Way::Punch]);
    let peer = call.config.peer.clone();
    let mut end = End::new(call.begin(epoch()), epoch());
    let declined = Message::declined(0, RefusalReason::Unsupported, UnixTime::from_secs(1));
    let body = Body::Punch(declined);
    end.machine.handle_signal(&from_peer(peer, body), at(40));
    end.turn(at(40));
    let refused = WayOutcome::Failed(WayFailure::Refused(RefusalReason::Unsupported));
    assert_eq!(end.machine.outcome(Way::Punch), refused);
    assert!(end.has_nothing() && end.events.is_empty());
    assert_eq!(end.machine.outcome(Way::Reverse), WayOutcome::Overtaken, "it is under way");
}

#[test]
fn a_refusal_of_another_way_leaves_a_punch_alone() {
    for (reason, goes_on) in
        [(RefusalReason::NoRoute, true), (RefusalReason::Unsupported, true), (RefusalReason::Busy, false)]
    {
        let mut end = End::new(remote(port_restricted()).begin(epoch()), epoch());
        let body = Body::Refuse(crate::signal::Refusal { reason });
        end.machine.handle_signal(&from_peer(remote(port_restricted()).config.peer, body), at(40));
        end.turn(at(40));
        assert_eq!(end.shares.len(), usize::from(goes_on), "{reason}");
    }
}

#[test]
fn why_there_is_no_punch_is_told() {
    let told = |config: Call| {
        let race = only(config).begin(epoch());
        match race.outcome(Way::Punch) {
            WayOutcome::Failed(failure) => failure,
            outcome => panic!("{outcome:?}"),
        }
    };
    assert_eq!(told(remote(port_restricted()).mute()), WayFailure::NoSignalling);
    assert_eq!(told(call(them("10.1.1.1", None))), WayFailure::NoExternalAddress);
    let random = Delta { kind: DeltaKind::Random, value: 0 };
    let hopeless = NatFacts { nat: Some(NatType::Symmetric), delta: Some(random), ..NatFacts::default() };
    assert_eq!(told(remote(hopeless)), WayFailure::NothingToPunch);
    let nobody = only(remote(port_restricted())).begin(epoch());
    let mut end = End::new(nobody, epoch());
    let offer = end.punch_signals().remove(0);
    end.machine.handle_delivery(&offer, Delivery::Offline, at(5));
    end.turn(at(5));
    assert_eq!(end.machine.outcome(Way::Punch), WayOutcome::Failed(WayFailure::Offline));
    assert!(end.has_nothing());
    let mut poor = only(remote(port_restricted())).begin(epoch());
    drain(&mut poor);
    poor.handle_punch(0, Input::Share(Share::default()), at(1));
    let failed = WayOutcome::Failed(WayFailure::Punch(Failed::NoBudget));
    assert_eq!(poor.outcome(Way::Punch), failed);
    assert_eq!(drain(&mut poor).events, [Event::Lost]);
}

#[test]
fn a_peer_that_has_moved_is_punched_where_it_is() {
    let config = only(remote(port_restricted()));
    let mut end = End::new(config.begin(epoch()), epoch());
    let mut moved = interface("10.1.1.1", Some("203.0.113.99"));
    moved.nat.tcp = port_restricted();
    let moved = peer_at(2_000, vec![moved], None);
    end.machine.handle_signal(&from_peer(moved, Body::TellAddr), at(40));
    end.turn(at(40));
    let reports = end.report(at(41)).ways.remove(0).punches;
    let remotes: Vec<_> = reports.iter().map(|report| report.remote.to_string()).collect();
    assert_eq!(remotes, [THEIR_OUTSIDE, "203.0.113.99"]);
    for issued in 3_000..3_020 {
        let moved = interface("10.1.1.1", Some(&format!("203.0.113.{}", issued - 2_900)));
        let moved = peer_at(issued, vec![moved], None);
        end.machine.handle_signal(&from_peer(moved, Body::TellAddr), at(50));
        end.turn(at(50));
    }
    assert_eq!(end.shares.len(), usize::from(MOST_PAIRS), "however often it moves");
    // Where it was nobody knows of this; where it is there is room then.
    for (pair, issued) in [(0, 4_000), (1, 4_001)] {
        let there = peer_at(issued, vec![interface("10.1.1.1", Some(&format!("203.0.113.{pair}")))], None);
        let declined = Message::declined(pair, RefusalReason::NoRoute, UnixTime::from_secs(1));
        end.machine.handle_signal(&from_peer(there, Body::Punch(declined)), at(60));
        end.turn(at(60));
    }
    let reports = end.report(at(61)).ways.remove(0).punches;
    let remotes: Vec<_> = reports.iter().map(|report| report.remote.to_string()).collect();
    assert_eq!(remotes[..2], [THEIR_OUTSIDE, "203.0.113.99"], "those are told of, too");
    assert_eq!(remotes[4..], ["203.0.113.0", "203.0.113.1"]);
}

#[test]
fn strangers_at_a_punched_port_cost_little_and_change_nothing() {
    let (mut caller, answerer) = on_one_network();
    let (pair, _, from, to) = answerer.dials[0];
    let mut most = 0;
    for number in 0..1_000 {
        let stranger = SocketAddr::from(([192, 168, 1, 66], 1_000 + number));
        let lane = caller.accept(pair, Local(to), stranger, at(10)).unwrap();
        caller.machine.handle_failed(lane, LaneFailure::Proof(crate::proof::ProofError::Garbled), at(10));
        caller.turn(at(10));
        most = most.max(caller.report(at(10)).ways[0].lanes.len());
    }
    assert!(most <= 64, "{most} lanes are remembered");
    let silent = (0..1_000).filter(|number| {
        let stranger = SocketAddr::from(([192, 168, 1, 67], 1_000 + number));
        caller.accept(pair, Local(to), stranger, at(11)).is_some()
    });
    assert!(silent.count() <= 8, "those who say nothing are few");
    let lane = caller.accept(pair, Local(to), from.0, at(12)).unwrap();
    caller.machine.handle_proven(lane, at(13));
    caller.machine.handle_kept(lane, at(14));
    caller.turn(at(14));
    assert_eq!(caller.events, [Event::Won(lane)]);
    assert_eq!(caller.report(at(15)).ways[0].punches[0].tally.strange, 1_000);
}

/// The peer's side of a punch, as it describes itself.
pub(super) fn their_side() -> Endpoint {
    match offer(Mode::Remote, OURS, THEIR_OUTSIDE).step {
        Step::Offer(offer) => offer.side,
        step => panic!("{step:?}"),
    }
}

/// An offer as somebody could write it.
pub(super) fn offer(mode: Mode, at: &str, address: &str) -> Message {
    let side = Endpoint {
        address: ip(address),
        ports: PortForecast::Fixed(vec![4_000]),
        filtering: Filtering::EndpointIndependent,
        syn: None,
        low_ttl: false,
        sockets: 1,
    };
    let step = Step::Offer(Offer { mode, at: ip(at), side, error: None });
    Message { pair: 0, round: 0, stamps: Stamps::default(), step }
}

#[test]
fn no_offer_sends_us_to_anybody_else() {
    let absurd = [
        (Mode::Remote, THEIRS, "203.0.113.200"),
        (Mode::Remote, THEIRS, "127.0.0.1"),
        (Mode::Remote, THEIRS, "224.0.0.1"),
        (Mode::Remote, "10.0.0.1", OUR_OUTSIDE),
        (Mode::Lan, THEIRS, "192.168.1.1"),
        (Mode::Lan, THEIRS, "127.0.0.1"),
        (Mode::Machine, THEIRS, OURS),
        (Mode::Interface, THEIRS, THEIRS),
    ];
    for (mode, meant, address) in absurd {
        let signal = from_peer(us(), Body::Punch(offer(mode, meant, address)));
        let mut end = End::new(offered(&their_facts(), &signal, epoch()), epoch());
        let [Body::Punch(Message { step: Step::Decline(RefusalReason::NoRoute), .. })] = &end.signals[..]
        else {
            panic!("{mode} {meant} {address}: {:?}", end.signals)
        };
        assert_eq!((end.dials.len(), end.events.as_slice()), (0, &[][..]));
        end.until(1_000);
        assert_eq!(end.events, [Event::Lost]);
        assert!(end.has_nothing());
    }
    let signal = from_peer(us(), Body::Punch(offer(Mode::Lan, THEIRS, OURS)));
    let end = End::new(offered(&their_facts(), &signal, epoch()), epoch());
    assert!(end.dials.iter().all(|(.., to)| to.ip() == ip(OURS)) && !end.dials.is_empty());
}

#[test]
fn an_answer_punches_and_dials_in_one_attempt() {
    let (_, mut answerer) = on_one_network();
    answerer.machine.handle_signal(&from_peer(us(), Body::DialMe(DialMe { plain: false })), at(10));
    answerer.turn(at(10));
    answerer.machine.handle_failed(Lane::Dialled(0), DialError::Refused, at(11));
    answerer.turn(at(11));
    assert_eq!(answerer.events, [], "a way that fails is not the end of the others");
    assert!(answerer.signals.iter().any(|body| matches!(body, Body::Refuse(_))), "but the caller knows");
    answerer.machine.close(at(12));
    answerer.turn(at(12));
    assert!(answerer.has_nothing());
}
