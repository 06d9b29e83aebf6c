//! What the two sides of a punch say to each other.
//!
//! ```text
//! caller ── Offer: where I will come from ────────▶ answerer     dials as soon as it has its own ports
//! caller ◀── Answer: where I will come from, when ─ answerer
//! dials
//! caller ◀── Renew: I have learned something ───── answerer     now and then
//! caller ── Update: other ports, once more ───────▶ answerer     and so on, a few times
//! ```
//!
//! A message goes sealed and signed, see [`signal`](crate::signal). Nothing in it names a target but ports of its
//! sender's own address.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::endpoint::{BadEndpoint, Endpoint};
use super::schedule::Mode;
use super::timing::Stamps;
use crate::UnixTime;
use crate::attempt::RefusalReason;

/// Rounds of one punch at most, whatever its limits say.
pub const MOST_ROUNDS: u8 = 8;
/// Pairs of addresses that one attempt punches between at most.
pub const MOST_PAIRS: u8 = 4;
/// The longest of the spans in a [`Timing`], in milliseconds.
const MOST_SPAN: u16 = 2_000;

/// A step of a punch, as a signal carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Which pair of addresses it is about, as the caller counts them; less than 4.
    pub pair: u8,
    /// Which time this is, from 0; less than 8.
    pub round: u8,
    /// When.
    pub stamps: Stamps,
    /// What is said.
    pub step: Step,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The caller begins.
    Offer(Offer),
    /// The answerer agrees.
    Answer(Answer),
    /// The caller begins again, with other ports or better predictions.
    Update(Update),
    /// There will be nothing between these two addresses, and why.
    Decline(RefusalReason),
    /// The answerer has learned what its answer to this round did not say: the caller begins again.
    Renew,
}

/// The caller begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What lies between, as the caller sees it.
    pub mode: Mode,
    /// Which of the answerer's own addresses is meant.
    pub at: IpAddr,
    /// The caller.
    pub side: Endpoint,
    /// How well the caller knows the answerer's clock, in microseconds; `None` when it does not.
    pub error: Option<u32>,
}

/// The answerer agrees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The answerer.
    pub side: Endpoint,
    /// When.
    pub timing: Timing,
}

/// The caller begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The caller.
    pub side: Endpoint,
    /// As in the [`Offer`].
    pub error: Option<u32>,
}

/// When a plan starts, and what it must allow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The start of the plan, by the answerer's clock.
    pub start: UnixTime,
    /// How much later than the start the caller is expected to know of it, in milliseconds; 2,000 at most.
    pub lead: u16,
    /// How wrong the two clocks can be, in milliseconds; 2,000 at most.
    pub spread: u16,
    /// The distance between two of the times that a ladder tries, in milliseconds; 1 … 2,000. Not above twice the
    /// delay of the path.
    pub step: u16,
}

/// The reason why a message of a punch cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// It is about a pair of addresses beyond the last there may be.
    #[error("pair {0} of addresses: there are {MOST_PAIRS} at most, from 0")]
    Pair(u8),
    /// Its step does not belong to this round, or no punch has so many.
    #[error("round {0}: an offer is for round 0, an update for a later one, and {MOST_ROUNDS} are allowed")]
    Round(u8),
    /// A span of its timing is longer than [`MOST_SPAN`], or a step of a ladder has no length.
    #[error("spans of time of up to {MOST_SPAN} ms are allowed, and a step of 1 at least")]
    Timing,
    /// The end that it describes cannot be.
    #[error(transparent)]
    Side(#[from] BadEndpoint),
}

impl Message {
    /// The answer to an offer of pair `pair` that is not gone into.
    pub fn declined(pair: u8, reason: RefusalReason, now: UnixTime) -> Self {
        let stamps = Stamps { transmit: now, ..Stamps::default() };
        Self { pair, round: 0, stamps, step: Step::Decline(reason) }
    }

    /// Checks what a peer has written, before it is used.
    ///
    /// # Errors
    /// [`BadMessage`] says what cannot be.
    pub fn validate(&self) -> Result<(), BadMessage> {
        if self.pair >= MOST_PAIRS {
            return Err(BadMessage::Pair(self.pair));
        }
        let is_first = self.round == 0;
        let is_misplaced = match &self.step {
            Step::Offer(_) => !is_first,
            Step::Update(_) => is_first,
            Step::Answer(_) | Step::Decline(_) | Step::Renew => false,
        };
        if is_misplaced || self.round >= MOST_ROUNDS {
            return Err(BadMessage::Round(self.round));
        }
        match &self.step {
            Step::Answer(answer) if !answer.timing.is_within_bounds() => Err(BadMessage::Timing),
            _ => Ok(self.side().map_or(Ok(()), Endpoint::validate)?),
        }
    }

    /// The side it describes, if any.
    pub fn side(&self) -> Option<&Endpoint> {
        match &self.step {
            Step::Offer(offer) => Some(&offer.side),
            Step::Answer(answer) => Some(&answer.side),
            Step::Update(update) => Some(&update.side),
            Step::Decline(_) | Step::Renew => None,
        }
    }
}

impl Timing {
    fn is_within_bounds(&self) -> bool {
        let spans = [self.lead, self.spread, self.step];
        spans.into_iter().all(|span| span <= MOST_SPAN) && self.step > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Offset;
    use crate::nat::forecast::PortForecast;
    use crate::nat::{Filtering, PortRange, SynAnswer};

    fn any_message() -> impl Strategy<Value = Message> {
        let ports = prop_oneof![
            proptest::collection::vec(any::<u16>(), 0..12).prop_map(PortForecast::Fixed),
            any::<(u16, u16)>().prop_map(|(first, count)| PortForecast::Run { first, count }),
            any::<(u16, i16, u16, u16, u16)>().prop_map(|(next, step, others, first, last)| {
                PortForecast::Counter { next, step, others, pool: PortRange { first, last } }
            }),
            any::<(u16, u16)>()
                .prop_map(|(first, last)| PortForecast::Random { pool: PortRange { first, last } }),
        ];
        let side = (any::<IpAddr>(), ports, any::<(bool, bool, u16)>()).prop_map(|(address, ports, rest)| {
            Endpoint {
                address,
                ports,
                filtering: if rest.0 { Filtering::AddressDependent } else { Filtering::EndpointIndependent },
                syn: rest.1.then_some(SynAnswer::Icmp),
                low_ttl: rest.0,
                sockets: rest.2,
            }
        });
        let step = (side, any::<(u8, IpAddr, Option<u32>)>(), any::<(u64, u16, u16, u16)>()).prop_map(
            |(side, (which, at, error), (start, lead, spread, step))| match which % 4 {
                0 => Step::Offer(Offer { mode: Mode::Lan, at, side, error }),
                1 => Step::Update(Update { side, error }),
                2 => {
                    let timing = Timing { start: UnixTime(start), lead, spread, step };
                    Step::Answer(Answer { side, timing })
                }
                _ => Step::Decline(RefusalReason::NoRoute),
            },
        );
        (any::<(u8, u8)>(), any::<[u64; 3]>(), any::<Option<(i64, u64)>>(), step).prop_map(
            |((pair, round), times, served, step)| {
                let [origin, receive, transmit] = times.map(UnixTime);
                let served = served.map(|(nanos, error)| Offset::new(nanos, Duration::from_nanos(error)));
                Message { pair, round, stamps: Stamps { origin, receive, transmit, served }, step }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in any_message()) {
            let bytes = postcard::to_stdvec(&message).unwrap();
            prop_assert!(bytes.len() < 192, "{} bytes", bytes.len());
            prop_assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = postcard::from_bytes::<Message>(&bytes) {
                let _ = message.validate();
            }
        }
    }
}
