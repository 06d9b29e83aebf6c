//! An [`Attempt`] of either role and its parts, for the laws and the fuzzer.

use std::time::{Duration, Instant};

use super::*;
use crate::attempt::{AttemptId, DialError, RefusalReason, Trust, Way};
use crate::candidate::{Filter, HostView, OurAddress, candidates};
use crate::nat::forecast::PortForecast;
use crate::nat::{Filtering, Mapping, Nat, NatFacts, NatType};
use crate::peer::{BrokerUrl, Contents, Identity, InterfaceAddr, PeerAddr};
use crate::punch::{
    self, Endpoint, Input, Message, Mode, NetworkView, Offer, OwnedView, Share, Stamps, Step,
};
use crate::relay::circuit::CircuitFailure;
use crate::signal::{Delivery, DialMe, Refusal, Signal};
use crate::sim::epoch;
use crate::sim::laws::{Dice, Subject};
use crate::{Clock, Local, Machine, Mapped, Output, Seed, UnixTime};
use std::net::SocketAddr;

/// An [`Attempt`] on a host with its facts: a machine.
#[derive(Debug)]
pub struct Sited {
    pub(super) attempt: Attempt,
    pub(super) facts: OwnedView,
}

/// A caller's [`Attempt`], and all that peers, brokers and networks can do to it.
#[derive(Debug)]
pub struct CallSubject(Sited);

/// A caller's [`Attempt`] that punches.
#[derive(Debug)]
pub struct PunchingCallSubject(Sited);

/// An answerer's [`Attempt`] that dials.
#[derive(Debug)]
pub struct AnswerSubject(Sited);

/// An answerer's [`Attempt`] that punches.
#[derive(Debug)]
pub struct PunchingAnswerSubject(Sited);

/// A [`HappyEyeballs`] whose dials fail in any order.
#[derive(Debug)]
pub struct HappyEyeballsSubject(HappyEyeballs);

/// An [`AskPeer`], and all that can become of its question.
#[derive(Debug)]
pub struct AskPeerSubject(AskPeer);

impl Sited {
    pub(super) fn handle_lane(&mut self, lane: Lane, input: LaneInput, now: Instant) {
        self.attempt.handle_lane(lane, input, &self.facts.view(), now);
    }

    pub(super) fn handle_connected(&mut self, lane: Lane, now: Instant) {
        self.handle_lane(lane, LaneInput::Connected, now);
    }

    pub(super) fn handle_proven(&mut self, lane: Lane, now: Instant) {
        self.handle_lane(lane, LaneInput::Proven, now);
    }

    pub(super) fn handle_kept(&mut self, lane: Lane, now: Instant) {
        self.handle_lane(lane, LaneInput::Kept, now);
    }

    pub(super) fn handle_failed(&mut self, lane: Lane, failure: impl Into<LaneFailure>, now: Instant) {
        self.handle_lane(lane, LaneInput::Failed(failure.into()), now);
    }

    pub(super) fn handle_arrival(&mut self, remote: SocketAddr, now: Instant) -> Option<Lane> {
        self.attempt.handle_arrival(remote, &self.facts.view(), now)
    }

    pub(super) fn handle_delivery(&mut self, body: &Body, delivery: Delivery, now: Instant) {
        self.attempt.handle_delivery(body, delivery, &self.facts.view(), now);
    }

    pub(super) fn handle_signal(&mut self, signal: &Signal, now: Instant) {
        self.attempt.handle_signal(signal, &self.facts.view(), now);
    }

    pub(super) fn handle_punch(&mut self, pair: u8, input: Input, now: Instant) -> Option<Lane> {
        self.attempt.handle_punch(pair, input, &self.facts.view(), now)
    }

    pub(super) fn handle_relayed(
        &mut self,
        kind: RelayKind,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<Lane> {
        self.attempt.handle_relay(RelayInput::Up(kind, remote), &self.facts.view(), now)
    }

    pub(super) fn handle_relay_failed(&mut self, failure: CircuitFailure, now: Instant) {
        self.attempt.handle_relay(RelayInput::Failed(failure), &self.facts.view(), now);
    }

    pub(super) fn handle_network_changed(&mut self, now: Instant) {
        self.attempt.handle_network_changed(&self.facts.view(), now);
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.attempt.close(now);
    }

    /// Feeds an attempt what sockets and NATs can tell its punches.
    fn feed_punch(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let pair = dice.below(4) as u8;
        let here = Local(SocketAddr::from((OURS, 10_000 + dice.below(3) as u16)));
        let there = SocketAddr::from((THEIR_OUTSIDE, 4_000 + dice.below(3) as u16));
        let socket = punch::Socket::numbered(dice.below(6) as u32);
        let lane = Lane::Punched { pair, socket };
        let input = match dice.below(9) {
            0 => Input::Share(Share { sockets: 96, per_second: 100 }),
            1 => Input::Listening(here, Ok(())),
            2 => Input::Observed(here, dice.chance(0.5).then_some(Mapped(there))),
            3 => Input::Connected { socket, remote: there },
            4 => Input::Accepted { at: here, remote: there },
            5 => Input::Failed(socket, DialError::Refused),
            6 => return self.handle_failed(lane, DialError::TimedOut, now),
            7 => {
                let facts = if dice.chance(0.5) { port_restricted() } else { NatFacts::default() };
                let network = NetworkView { facts, can_observe: dice.chance(0.5), silent_hop: None };
                self.facts.networks.insert(OURS.into(), network);
                return self.handle_network_changed(now);
            }
            _ => return self.handle_kept(lane, now),
        };
        self.handle_punch(pair, input, now);
    }
}

impl Machine for Sited {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.attempt.handle_timeout(&self.facts.view(), now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.attempt.poll_output()
    }
}

impl Subject for CallSubject {
    type Machine = Sited;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mut config = config(peer(1_000, homes(&mut Dice::new(seed.fork("homes")), 4)));
        if seed.chance(0.2) {
            config.peer = sign(2, 1_000, Vec::new(), config.peer.interfaces().to_vec());
        }
        seed.shuffle(&mut config.ways);
        config.ways.truncate(1 + seed.below(4) as usize);
        let mut facts = facts(OURS);
        facts.listens = seed.chance(0.9);
        Self(call(config, facts, now))
    }

    fn machine(&mut self) -> &mut Sited {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let call = &mut self.0;
        let lane = match dice.below(3) {
            0 => Lane::Dialled(dice.below(4) as usize),
            1 => {
                let kind = if dice.chance(0.3) { RelayKind::Datagrams } else { RelayKind::Connection };
                Lane::Relayed { kind, number: dice.below(3) as usize }
            }
            _ => Lane::Arrived(dice.below(3) as usize),
        };
        let body = if dice.chance(0.5) { Body::AskAddr } else { Body::DialMe(DialMe { plain: false }) };
        let relayed = SocketAddr::from(([192, 0, 2, 9], 1));
        match dice.below(66) {
            0 => call.handle_proven(lane, now),
            1 => call.handle_kept(lane, now),
            2..6 => call.handle_failed(lane, DialError::TimedOut, now),
            6..10 => call.handle_connected(lane, now),
            10 => call.handle_delivery(&body, Delivery::Offline, now),
            11..14 => call.handle_delivery(&body, Delivery::Told, now),
            14 => call.handle_delivery(&body, Delivery::NoBroker(Vec::new()), now),
            15 => {
                let issued = 1_000 + dice.below(2_000);
                let moved = peer(issued, vec![interface([203, 0, 113, dice.below(250) as u8], None)]);
                let body = match dice.chance(0.5) {
                    true => Body::TellAddr,
                    false => Body::Refuse(Refusal { reason: RefusalReason::Busy }),
                };
                call.handle_signal(&from_peer(moved, body), now);
            }
            60 => call.handle_relay_failed(CircuitFailure::Silent, now),
            61 | 62 => drop(call.handle_relayed(RelayKind::Connection, relayed, now)),
            63 => drop(call.handle_relayed(RelayKind::Datagrams, relayed, now)),
            64 => call.handle_network_changed(now),
            65 => {
                call.facts.host.addresses.push(our_address([10, 0, 0, 5]));
                call.facts.host.addresses.truncate(2);
                call.handle_network_changed(now);
            }
            _ => {
                let from = SocketAddr::from(([203, 0, 113, 9], dice.below(60_000) as u16));
                call.handle_arrival(from, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for PunchingCallSubject {
    type Machine = Sited;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let known = if seed.chance(0.5) { port_restricted() } else { NatFacts::default() };
        let mut theirs = interface([10, 1, 1, 1], Some(THEIR_OUTSIDE));
        theirs.nat.tcp = known;
        let mut config = config(peer(1_000, vec![theirs]));
        if seed.chance(0.3) {
            config.peer = peer(1_000, vec![interface(THEIRS, None)]);
        }
        if seed.chance(0.5) {
            config.ways = vec![Way::Punch];
        }
        config.within = Duration::from_secs(60);
        let mut facts = facts(OURS);
        let network = NetworkView { facts: known, can_observe: true, silent_hop: None };
        facts.networks.insert(OURS.into(), network);
        Self(call(config, facts, now))
    }

    fn machine(&mut self) -> &mut Sited {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let call = &mut self.0;
        match dice.below(12) {
            0 => {
                let start = UnixTime::from_secs(1_000_000).after(now.saturating_duration_since(epoch()));
                let timing = punch::Timing { start, lead: 10, spread: 10, step: 10 };
                let step = Step::Answer(punch::Answer { side: side(THEIR_OUTSIDE), timing });
                let pair = dice.below(2) as u8;
                let message = Message { pair, round: 0, stamps: Stamps::default(), step };
                let sender = peer(1_000, vec![interface([10, 1, 1, 1], Some(THEIR_OUTSIDE))]);
                call.handle_signal(&from_peer(sender, Body::Punch(message)), now);
            }
            1 if dice.chance(0.2) => {
                let body = Body::Punch(offer(Mode::Remote, OURS, THEIR_OUTSIDE));
                call.handle_delivery(&body, Delivery::Offline, now);
            }
            2 if dice.chance(0.2) => {
                let socket = punch::Socket::numbered(dice.below(6) as u32);
                call.handle_proven(Lane::Punched { pair: dice.below(2) as u8, socket }, now);
            }
            _ => call.feed_punch(dice, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for AnswerSubject {
    type Machine = Sited;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let peer = peer(1_000, homes(&mut Dice::new(seed.fork("homes")), 9));
        let mut facts = facts(OURS);
        facts.host = HostView::default();
        Self(answer(&from_peer(peer, Body::DialMe(DialMe { plain: false })), facts, now))
    }

    fn machine(&mut self) -> &mut Sited {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let lane = Lane::Dialled(dice.below(9) as usize);
        match dice.below(40) {
            0 => self.0.handle_kept(lane, now),
            1 => self.0.handle_signal(&from_peer(peer(1_000, homes(dice, 9)), Body::Bye), now),
            2 => self.0.handle_network_changed(now),
            _ => self.0.handle_failed(lane, DialError::Refused, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for PunchingAnswerSubject {
    type Machine = Sited;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mode = if seed.chance(0.5) { Mode::Lan } else { Mode::Remote };
        let address = if mode == Mode::Lan { OURS } else { OUR_OUTSIDE };
        let signal = from_peer(us(), Body::Punch(offer(mode, THEIRS, address)));
        Self(answer(&signal, facts(THEIRS), now))
    }

    fn machine(&mut self) -> &mut Sited {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let body = match dice.below(12) {
            0 => Body::Punch(Message { pair: dice.below(5) as u8, ..offer(Mode::Lan, THEIRS, OURS) }),
            1 => Body::DialMe(DialMe { plain: false }),
            _ => return self.0.feed_punch(dice, now),
        };
        self.0.handle_signal(&from_peer(us(), body), now);
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for HappyEyeballsSubject {
    type Machine = HappyEyeballs;

    fn new(seed: Seed, now: Instant) -> Self {
        Self(HappyEyeballs::new(targets(&mut Dice::new(seed)), DIAL_DELAY, now))
    }

    fn machine(&mut self) -> &mut HappyEyeballs {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(4) {
            0 => self.0.handle_more(targets(dice), now),
            _ => self.0.handle_failed(dice.below(12) as usize, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for AskPeerSubject {
    type Machine = AskPeer;

    fn new(_: Seed, now: Instant) -> Self {
        Self(AskPeer::new(now))
    }

    fn machine(&mut self) -> &mut AskPeer {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(40) {
            0 => self.0.handle_delivery(Delivery::Offline, now),
            1 => self.0.handle_delivery(Delivery::NoBroker(Vec::new()), now),
            2 => self.0.handle_refused(RefusalReason::Busy, now),
            3..20 => self.0.handle_delivery(Delivery::Told, now),
            _ => self.0.handle_delivery(Delivery::Unknown, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

fn config(peer: PeerAddr) -> CallConfig {
    CallConfig {
        peer,
        attempt: ATTEMPT,
        ways: Way::ALL.to_vec(),
        filter: Filter::default(),
        plain: false,
        head_start: HEAD_START,
        dial_delay: DIAL_DELAY,
        within: Duration::from_secs(30),
    }
}

fn call(config: CallConfig, facts: OwnedView, now: Instant) -> Sited {
    Sited { attempt: Attempt::call(config, &facts.view(), now), facts }
}

/// Returns an answer that has heard the first signal of its caller.
fn answer(signal: &Signal, facts: OwnedView, now: Instant) -> Sited {
    let config = AnswerConfig { peer: signal.sender.clone(), attempt: ATTEMPT, trust: Trust::Known };
    let mut answer = Sited { attempt: Attempt::answer(config, now), facts };
    answer.handle_signal(signal, now);
    answer
}

/// Returns the facts of a host with this address, of whose networks nothing is known.
fn facts(address: [u8; 4]) -> OwnedView {
    let host = HostView { addresses: vec![our_address(address)], machine_id: b"this machine".to_vec() };
    OwnedView::new(host, Clock::new(epoch(), UnixTime::from_secs(1_000_000)))
}

fn our_address(ip: [u8; 4]) -> OurAddress {
    OurAddress { ip: ip.into(), prefix: 24, scope: 3, external: Some(OUR_OUTSIDE.into()) }
}

fn port_restricted() -> NatFacts {
    NatFacts {
        nat: Some(NatType::PortRestricted),
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        ..NatFacts::default()
    }
}

fn interface(local: [u8; 4], external: Option<[u8; 4]>) -> InterfaceAddr {
    InterfaceAddr {
        nic: 0,
        local: local.into(),
        prefix: 24,
        external: external.map(IpAddr::from),
        listen: 4_000,
        mapped: external.map(|_| 5_000),
        nat: Nat::default(),
    }
}

/// Returns fewer interfaces than `end`.
fn homes(dice: &mut Dice<'_>, end: u64) -> Vec<InterfaceAddr> {
    (0..dice.below(end) as u8).map(|last| interface([203, 0, 113, last], None)).collect()
}

fn targets(dice: &mut Dice<'_>) -> Vec<Candidate> {
    candidates(&HostView::default(), &peer(1_000, homes(dice, 9)), &Filter::default(), Trust::Known)
}

/// Returns an address that the peer has signed at this time, in seconds since 1970.
fn peer(issued: u64, interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    sign(2, issued, vec!["mqtt://broker.example".parse().expect("a URL")], interfaces)
}

/// Returns the signed address of a caller at [`OURS`].
fn us() -> PeerAddr {
    let ours = InterfaceAddr { mapped: None, ..interface(OURS, Some(OUR_OUTSIDE)) };
    sign(1, 1_000, Vec::new(), vec![ours])
}

fn sign(number: u64, issued: u64, brokers: Vec<BrokerUrl>, interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    let identity = Identity::generate(&mut Seed::from_u64(number));
    let issued = UnixTime::from_secs(issued);
    PeerAddr::sign(&identity, Contents { brokers, machine: None, interfaces, issued }).expect("few of each")
}

fn from_peer(sender: PeerAddr, body: Body) -> Signal {
    let to = Identity::generate(&mut Seed::from_u64(1)).id();
    let (issued, expires) = (UnixTime::from_secs(1), UnixTime::from_secs(2));
    Signal { from: sender.id(), to, attempt: ATTEMPT, seq: 1, issued, expires, sender, body }
}

fn side(address: [u8; 4]) -> Endpoint {
    Endpoint {
        address: address.into(),
        ports: PortForecast::Fixed(vec![4_000]),
        filtering: Filtering::EndpointIndependent,
        syn: None,
        low_ttl: false,
        sockets: 1,
    }
}

fn offer(mode: Mode, at: [u8; 4], address: [u8; 4]) -> Message {
    let step = Step::Offer(Offer { mode, at: at.into(), side: side(address), error: None });
    Message { pair: 0, round: 0, stamps: Stamps::default(), step }
}

const OURS: [u8; 4] = [192, 168, 1, 5];
const OUR_OUTSIDE: [u8; 4] = [198, 51, 100, 1];
const THEIRS: [u8; 4] = [192, 168, 1, 9];
const THEIR_OUTSIDE: [u8; 4] = [203, 0, 113, 7];
const ATTEMPT: AttemptId = AttemptId([1; 16]);
