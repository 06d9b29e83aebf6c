//! A [`Race`], an [`Answer`] and their parts for the laws and the fuzzer.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;
use crate::nat::{Filtering, Mapping, Nat, NatFacts, NatType};
use crate::peer::{Contents, Identity, InterfaceAddr, PeerAddr};
use crate::punch::{Limits, Message, Mode, Offer, Ports, Setup, Share, Side, Stamps, Step, Terms, View};
use crate::relay::circuit::CircuitFailure;
use crate::signal::{AttemptId, Delivery, DialMe, Reason, Refusal, Signal};
use crate::sim::epoch;
use crate::sim::laws::{Dice, Subject};
use crate::{Clock, Local, Mapped, Seed, UnixTime};

/// What sockets and NATs can tell a punch of a race or of an answer.
macro_rules! feed_punch {
    ($machine:expr, $dice:expr, $now:expr) => {{
        let (machine, dice, now) = ($machine, $dice, $now);
        let pair = dice.below(4) as u8;
        let here = Local(SocketAddr::from((OURS, 10_000 + dice.below(3) as u16)));
        let there = SocketAddr::from((THEIR_OUTSIDE, 4_000 + dice.below(3) as u16));
        let socket = Socket::numbered(dice.below(6) as u32);
        let lane = Lane::punched(pair, socket);
        match dice.below(8) {
            0 => drop(machine.handle_punch_share(pair, Share { sockets: 96, per_second: 100 }, now)),
            1 => machine.handle_punch_listening(pair, here, Ok(()), now),
            2 => machine.handle_punch_observed(pair, here, dice.chance(0.5).then_some(Mapped(there)), now),
            3 => drop(machine.handle_punch_connected(pair, socket, there, now)),
            4 => drop(machine.handle_punch_accepted(pair, here, there, now)),
            5 => machine.handle_punch_failed(pair, socket, &LaneFailure::Refused, now),
            6 => machine.handle_failed(lane, LaneFailure::TimedOut, now),
            _ => machine.handle_kept(lane, now),
        }
    }};
}

/// A [`Race`] and all that peers, brokers and networks can do to it.
#[derive(Debug)]
pub struct RaceSubject(Race);

/// A [`Race`] that punches.
#[derive(Debug)]
pub struct PunchingRaceSubject(Race);

/// An [`Answer`] that dials.
#[derive(Debug)]
pub struct AnswerSubject(Answer);

/// An [`Answer`] that punches.
#[derive(Debug)]
pub struct PunchingAnswerSubject(Answer);

/// A [`Dialler`] whose dials fail in any order.
#[derive(Debug)]
pub struct DiallerSubject(Dialler);

/// A [`Reverse`] and all that can become of its question.
#[derive(Debug)]
pub struct ReverseSubject(Reverse);

impl Subject for RaceSubject {
    type Machine = Race;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let interfaces = (0..seed.below(4) as u8).map(|last| interface([203, 0, 113, last], None)).collect();
        let mut config = config(peer(1_000, interfaces));
        config.can_signal = seed.chance(0.8);
        config.listens = seed.chance(0.9);
        seed.shuffle(&mut config.ways);
        config.ways.truncate(1 + seed.below(4) as usize);
        Self(Race::new(config, now))
    }

    fn machine(&mut self) -> &mut Race {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let race = &mut self.0;
        let lane = match dice.below(3) {
            0 => Lane::dialled(dice.below(4) as usize),
            1 => Lane::relayed(dice.below(3) as usize),
            _ => Lane::arrived(dice.below(3) as usize),
        };
        let body = match dice.chance(0.5) {
            true => Body::AskAddr,
            false => Body::DialMe(DialMe { plain: false }),
        };
        let relayed = SocketAddr::from(([192, 0, 2, 9], 1));
        match dice.below(64) {
            60 => race.handle_relay_failed(CircuitFailure::Silent, now),
            61 | 62 => drop(race.handle_relayed(Kept::Connection, relayed, now)),
            63 => drop(race.handle_relayed(Kept::Datagrams, relayed, now)),
            0 => race.handle_proven(lane, now),
            1 => race.handle_kept(lane, now),
            2..6 => race.handle_failed(lane, LaneFailure::TimedOut, now),
            6..10 => race.handle_connected(lane, now),
            10 => race.handle_delivery(&body, Delivery::Offline, now),
            11..14 => race.handle_delivery(&body, Delivery::Told, now),
            14 => race.handle_delivery(&body, Delivery::NoBroker(Vec::new()), now),
            15 => {
                let issued = 1_000 + dice.below(2_000);
                let moved = peer(issued, vec![interface([203, 0, 113, dice.below(250) as u8], None)]);
                let body = match dice.chance(0.5) {
                    true => Body::TellAddr,
                    false => Body::Refuse(Refusal { reason: Reason::Busy }),
                };
                race.handle_signal(&signal(moved, body), now);
            }
            _ => {
                let from = SocketAddr::from(([203, 0, 113, 9], dice.below(60_000) as u16));
                race.handle_arrival(from, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for AnswerSubject {
    type Machine = Answer;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let interfaces = (0..seed.below(9) as u8).map(|last| interface([203, 0, 113, last], None)).collect();
        let peer = peer(1_000, interfaces);
        let found = candidates(&OurPlace::default(), &peer, &Filter::default(), Motive::TheirWish);
        let mut answer = Answer::new(now);
        answer.handle_dial_me(found, DIAL_DELAY, now);
        Self(answer)
    }

    fn machine(&mut self) -> &mut Answer {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let lane = Lane::dialled(dice.below(9) as usize);
        match dice.below(20) {
            0 => self.0.handle_kept(lane, now),
            _ => self.0.handle_failed(lane, LaneFailure::Refused, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for PunchingRaceSubject {
    type Machine = Race;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let facts = match seed.chance(0.5) {
            true => NatFacts {
                nat: Some(NatType::PortRestricted),
                mapping: Some(Mapping::EndpointIndependent),
                filtering: Some(Filtering::AddressAndPortDependent),
                ..NatFacts::default()
            },
            false => NatFacts::default(),
        };
        let mut theirs = interface([10, 1, 1, 1], Some(THEIR_OUTSIDE));
        theirs.nat.tcp = facts;
        let mut config = config(peer(1_000, vec![theirs]));
        let view = View { facts, can_observe: true, silent_hop: None };
        if let Some(setup) = &mut config.punch {
            setup.views.insert(OURS.into(), view);
        }
        if seed.chance(0.3) {
            config.peer = peer(1_000, vec![interface(THEIRS, None)]);
        }
        config.ways = if seed.chance(0.5) { vec![Way::Punch] } else { Way::ALL.to_vec() };
        config.within = Duration::from_secs(60);
        Self(Race::new(config, now))
    }

    fn machine(&mut self) -> &mut Race {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(12) {
            0 => {
                let start = UnixTime::from_secs(1_000_000).after(now.saturating_duration_since(epoch()));
                let timing = punch::Timing { start, lead: 10, spread: 10, step: 10 };
                let step = Step::Answer(punch::Answer { side: side(THEIR_OUTSIDE), timing });
                let message = Message { pair: dice.below(2) as u8, wave: 0, stamps: Stamps::default(), step };
                let sender = peer(1_000, vec![interface([10, 1, 1, 1], Some(THEIR_OUTSIDE))]);
                self.0.handle_signal(&signal(sender, Body::Punch(message)), now);
            }
            1 if dice.chance(0.2) => {
                let body = Body::Punch(offer(Mode::Remote, OURS, THEIR_OUTSIDE));
                self.0.handle_delivery(&body, Delivery::Offline, now);
            }
            2 if dice.chance(0.2) => {
                let lane = Lane::punched(dice.below(2) as u8, Socket::numbered(dice.below(6) as u32));
                self.0.handle_proven(lane, now);
            }
            _ => feed_punch!(&mut self.0, dice, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for PunchingAnswerSubject {
    type Machine = Answer;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mode = if seed.chance(0.5) { Mode::Lan } else { Mode::Remote };
        let address = if mode == Mode::Lan { OURS } else { OUR_OUTSIDE };
        let mut answer = Answer::new(now);
        let offer = Body::Punch(offer(mode, THEIRS, address));
        answer.handle_punch(&setup(THEIRS), &signal(us(), offer), now);
        Self(answer)
    }

    fn machine(&mut self) -> &mut Answer {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(12) {
            0 => {
                let message = Message { pair: dice.below(5) as u8, ..offer(Mode::Lan, THEIRS, OURS) };
                self.0.handle_punch(&setup(THEIRS), &signal(us(), Body::Punch(message)), now);
            }
            1 => {
                let found = candidates(&setup(THEIRS).ours, &us(), &Filter::default(), Motive::TheirWish);
                self.0.handle_dial_me(found, Duration::from_millis(100), now);
            }
            _ => feed_punch!(&mut self.0, dice, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

impl Subject for DiallerSubject {
    type Machine = Dialler;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let delay = seed.up_to(Duration::from_millis(300)) + Duration::from_millis(1);
        let some = some_candidates(seed.below(5) as u8);
        Self(Dialler::new(some, delay, now))
    }

    fn machine(&mut self) -> &mut Dialler {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(8) {
            0 => self.0.handle_more(some_candidates(dice.below(9) as u8), now),
            _ => self.0.handle_failed(dice.below(10) as usize, LaneFailure::Refused, now),
        }
    }

    fn close(&mut self, _: Instant) {
        self.0.close(None);
    }
}

impl Subject for ReverseSubject {
    type Machine = Reverse;

    fn new(_: Seed, now: Instant) -> Self {
        Self(Reverse::new(now))
    }

    fn machine(&mut self) -> &mut Reverse {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(20) {
            0 => self.0.handle_refused(Reason::Busy, now),
            1 => self.0.handle_delivery(Delivery::Offline, now),
            2 => self.0.handle_delivery(Delivery::NoBroker(Vec::new()), now),
            3..8 => self.0.handle_delivery(Delivery::Unknown, now),
            _ => self.0.handle_delivery(Delivery::Told, now),
        }
    }

    fn close(&mut self, _: Instant) {
        self.0.close();
    }
}

const OURS: [u8; 4] = [192, 168, 1, 5];
const OUR_OUTSIDE: [u8; 4] = [198, 51, 100, 1];
const THEIRS: [u8; 4] = [192, 168, 1, 9];
const THEIR_OUTSIDE: [u8; 4] = [203, 0, 113, 7];
const ATTEMPT: AttemptId = AttemptId([1; 16]);

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

/// An address signed by the peer.
fn peer(issued: u64, interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    sign(2, issued, interfaces)
}

/// Our own, signed.
fn us() -> PeerAddr {
    sign(1, 1_000, vec![InterfaceAddr { mapped: None, ..interface(OURS, Some(OUR_OUTSIDE)) }])
}

fn sign(number: u64, issued: u64, interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    let identity = Identity::generate(&mut Seed::from_u64(number));
    let brokers = vec!["mqtt://broker.example".parse().expect("a broker")];
    let issued = UnixTime::from_secs(issued);
    PeerAddr::sign(&identity, Contents { brokers, machine: None, interfaces, issued }).expect("few of each")
}

fn signal(sender: PeerAddr, body: Body) -> Signal {
    let to = Identity::generate(&mut Seed::from_u64(1)).id();
    let (issued, expires) = (UnixTime::from_secs(1), UnixTime::from_secs(2));
    Signal { from: sender.id(), to, attempt: ATTEMPT, seq: 1, issued, expires, sender, body }
}

fn setup(ours: [u8; 4]) -> Setup {
    let address = OurAddress { ip: ours.into(), prefix: 24, scope: 3, external: Some(OUR_OUTSIDE.into()) };
    Setup {
        ours: OurPlace { addresses: vec![address], machine_id: b"this machine".to_vec() },
        views: Default::default(),
        clock: Clock::new(epoch(), UnixTime::from_secs(1_000_000)),
        terms: Terms::default(),
        limits: Limits::default(),
    }
}

fn config(peer: PeerAddr) -> RaceConfig {
    let setup = setup(OURS);
    RaceConfig {
        peer,
        attempt: ATTEMPT,
        ours: setup.ours.clone(),
        punch: Some(setup),
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

fn side(address: [u8; 4]) -> Side {
    Side {
        address: address.into(),
        ports: Ports::Fixed(vec![4_000]),
        filtering: Filtering::EndpointIndependent,
        syn: None,
        quiet: false,
        sockets: 1,
    }
}

fn offer(mode: Mode, at: [u8; 4], address: [u8; 4]) -> Message {
    let step = Step::Offer(Offer { mode, at: at.into(), side: side(address), error: None });
    Message { pair: 0, wave: 0, stamps: Stamps::default(), step }
}

fn some_candidates(count: u8) -> Vec<Candidate> {
    let interfaces = (0..count).map(|last| interface([203, 0, 113, last], None)).collect();
    candidates(&OurPlace::default(), &peer(1_000, interfaces), &Filter::default(), Motive::OurWish)
}
