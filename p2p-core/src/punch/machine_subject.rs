//! A [`Punch`] for the laws and the fuzzer.

use std::net::IpAddr;

use super::*;
use crate::attempt::AttemptId;
use crate::nat::forecast::PortForecast;
use crate::nat::{Delta, DeltaKind, Filtering, NatFacts, NatType, SynAnswer};
use crate::punch::message::Answer;
use crate::punch::schedule::Mode;
use crate::punch::syn_sender::with_port;
use crate::punch::timing::Stamps;
use crate::punch::{Limits, PathTiming};
use crate::sim::laws::{Dice, Subject};
use crate::{Clock, Seed, UnixTime};

/// A [`Punch`] and all that its peer, its sockets and NATs can tell it.
#[derive(Debug)]
pub struct PunchSubject(Punch);

const OURS: [u8; 4] = [198, 51, 100, 1];
const THEIRS: [u8; 4] = [203, 0, 113, 1];
const BEGIN: UnixTime = UnixTime::from_secs(1_800_000_000);

fn config(facts: NatFacts, now: Instant) -> PunchConfig {
    PunchConfig {
        attempt: AttemptId([7; 16]),
        pair: 0,
        role: Role::Caller,
        mode: Mode::Remote,
        local: Local(SocketAddr::from(([192, 168, 1, 2], 0))),
        address: OURS.into(),
        remote: SocketAddr::from((THEIRS, 0)),
        at: [192, 168, 2, 2].into(),
        facts,
        theirs: NatFacts::default(),
        can_observe: true,
        silent_hop: None,
        path_timing: PathTiming::default(),
        clock: Clock::new(now, BEGIN),
        limits: Limits::default(),
    }
}

fn their_side() -> Endpoint {
    Endpoint {
        address: THEIRS.into(),
        ports: PortForecast::Fixed(vec![6_000, 6_001]),
        filtering: Filtering::AddressAndPortDependent,
        syn: Some(SynAnswer::Silence),
        low_ttl: false,
        sockets: 96,
    }
}

fn message(round: u8, step: Step) -> Message {
    Message { pair: 0, round, stamps: Stamps { transmit: BEGIN, ..Stamps::default() }, step }
}

fn offer() -> Message {
    let at = IpAddr::from([192, 168, 1, 2]);
    message(0, Step::Offer(Offer { mode: Mode::Remote, at, side: their_side(), error: None }))
}

impl Subject for PunchSubject {
    type Machine = Punch;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let kind = if seed.chance(0.5) { DeltaKind::Equal } else { DeltaKind::Random };
        let mut facts = NatFacts {
            nat: Some(NatType::PortRestricted),
            delta: Some(Delta { kind, value: 0 }),
            syn: Some(SynAnswer::Silence),
            ..NatFacts::default()
        };
        if seed.chance(0.4) {
            facts.nat = Some(NatType::Symmetric);
            facts.rate = Some(seed.below(50) as u16);
        }
        let config = config(facts, now);
        Self(match seed.chance(0.5) {
            true => Punch::call(config, now),
            false => Punch::answer(config, &offer(), now),
        })
    }

    fn machine(&mut self) -> &mut Punch {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let punch = &mut self.0;
        let socket = Socket::numbered(dice.below(20) as u32);
        let bound: Vec<u16> = punch.ports.listening.iter().copied().collect();
        let port = dice.pick(&bound).copied().unwrap_or(1);
        let local = Local(with_port(punch.config.local.0, port));
        match dice.below(18) {
            0 => {
                punch.handle(Input::Share(Share { sockets: dice.below(600) as u16, per_second: 500 }), now);
            }
            1..5 => {
                let outcome = if dice.chance(0.9) { Ok(()) } else { Err(DialError::TimedOut) };
                punch.handle(Input::Listening(local, outcome), now);
            }
            5..9 => {
                let mapped = Mapped(SocketAddr::from((OURS, dice.below(60_000) as u16)));
                punch.handle(Input::Observed(local, dice.chance(0.9).then_some(mapped)), now);
            }
            9 => {
                let round = dice.below(3) as u8;
                let start = BEGIN.after(Duration::from_secs(4 * u64::from(round)));
                let timing = Timing { start, lead: 50, spread: 50, step: 32 };
                let answer = Step::Answer(Answer { side: their_side(), timing });
                punch.handle_message(&message(round, answer), now);
            }
            10 => punch.handle_message(&offer(), now),
            11 => {
                let remote = SocketAddr::from((THEIRS, 6_000));
                punch.handle(Input::Connected { socket, remote }, now);
            }
            12 => {
                let remote = SocketAddr::from((THEIRS, dice.below(9) as u16));
                punch.handle(Input::Accepted { at: local, remote }, now);
            }
            13 if dice.chance(0.02) => punch.handle_kept(socket, now),
            14 => punch.handle_message(&message(dice.below(3) as u8, Step::Renew), now),
            15 => {
                let kind = *dice.pick(&DeltaKind::ALL).unwrap_or(&DeltaKind::Random);
                let nat = *dice.pick(&NatType::ALL).unwrap_or(&NatType::Symmetric);
                punch.config.facts.nat = Some(nat);
                punch.config.facts.delta = Some(Delta { kind, value: 1 });
                punch.reconsider(now);
            }
            _ => drop(punch.handle(Input::Failed(socket, DialError::Refused), now)),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}
