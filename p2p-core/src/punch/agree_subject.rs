//! An [`Agree`] for the laws and the fuzzer.

use std::net::IpAddr;

use super::*;
use crate::Seed;
use crate::attempt::{RefusalReason, Role};
use crate::nat::Filtering;
use crate::nat::forecast::PortForecast;
use crate::punch::message::{Offer, Update};
use crate::punch::schedule::Mode;
use crate::sim::laws::{Dice, Subject};

/// An [`Agree`] and all that its peer can say.
#[derive(Debug)]
pub struct AgreeSubject(Agree);

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

impl Subject for AgreeSubject {
    type Machine = Agree;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let role = if seed.chance(0.5) { Role::Caller } else { Role::Answerer };
        let mut agree = Agree::new(role, 0, Clock::new(now, UnixTime::from_secs(9)), PathTiming::default());
        agree.propose(0, offer(), now);
        Self(agree)
    }

    fn machine(&mut self) -> &mut Agree {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let agree = &mut self.0;
        let round = dice.below(4) as u8;
        let step = match dice.below(12) {
            0..4 => offer(),
            4..7 => update(),
            7 => return agree.propose(round, update(), now),
            8 if dice.chance(0.1) => Step::Decline(RefusalReason::Busy),
            8 if dice.chance(0.3) => Step::Renew,
            9 if dice.chance(0.3) => return agree.renew(now),
            8..10 => {
                agree.answer(side(), now);
                return;
            }
            _ => {
                let start = UnixTime::from_secs(dice.below(20));
                let timing = Timing { start, lead: 1, spread: 1, step: 1 };
                Step::Answer(Answer { side: side(), timing })
            }
        };
        let transmit = UnixTime(dice.below(20_000_000));
        let stamps = Stamps { origin: UnixTime::from_secs(9), receive: transmit, transmit, served: None };
        agree.handle_message(&Message { pair: 0, round, stamps, step }, now);
    }

    fn close(&mut self, _: Instant) {
        self.0.close();
    }
}
