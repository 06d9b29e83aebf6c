//! The machine that agrees on a plan: offer, answer, update.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::message::{Answer, Message, Step, Timing};
use super::timing::{Clocks, PathTiming, Stamps};
use crate::attempt::{RefusalReason, Role};
use crate::clock::Offset;
use crate::{Clock, Deadline, Machine, Output, UnixTime};

/// When a step that was not answered is said again, after the first time. Links repeat what a broker did not take;
/// this is for what was lost behind it.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// When to believe that no answer will come.
const GIVE_UP: Duration = Duration::from_secs(7);
/// An answer is given again so often when the question comes again.
const MOST_REPEATS: u8 = 4;
/// Times of our own messages that are remembered.
const MOST_TIMES: usize = 8;
/// The delay of a signal, one way, before anything is known of it; and what is believed at most and at least.
const LEAD: Duration = Duration::from_millis(60);
const LEADS: [u64; 2] = [10, 1_000];
/// How wrong clocks can be taken to be that were compared by one exchange of signals only: half its round trip.
const SPREAD: Duration = Duration::from_millis(150);
const SPREADS: [u64; 2] = [8, 1_500];
/// The delay of a path of which nothing is known: that of the shortest one worth a punch.
const DELAY: Duration = Duration::from_millis(20);
const STEPS: [u64; 2] = [8, 200];
/// An answer whose plan starts further away from now than this is absurd.
const MOST_AHEAD: Duration = Duration::from_secs(10);

/// What an [`Agree`] wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgreeAct {
    /// Send this to the peer.
    Send(Message),
}

/// What an [`Agree`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgreeEvent {
    /// The caller wants to start, or to start again. Say [`Agree::answer`] or [`Agree::decline`].
    Asked {
        /// Which time this is.
        round: u8,
        /// The caller.
        side: Endpoint,
    },
    /// The answerer agrees: both know the plan.
    Agreed {
        /// Which time this is.
        round: u8,
        /// The answerer.
        side: Endpoint,
        /// When; the start is by our clock.
        timing: Timing,
    },
    /// The other side will not, or sees no way.
    Declined(RefusalReason),
    /// Nothing was heard.
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for the owner, or for the caller.
    Idle,
    /// The caller has proposed.
    Proposed {
        step: Step,
        since: Instant,
        said: usize,
    },
    /// The answerer was asked, and its owner is thinking.
    Asked {
        error: Option<u32>,
        delay: Option<Duration>,
    },
    /// The answerer has answered.
    Answered {
        step: Step,
        repeats: u8,
    },
    Over,
}

/// Offer, answer, update: one pair of addresses of one attempt, on either side.
///
/// What comes late, twice, in another order, or is unsound, is dropped; what is lost is said again.
#[derive(Clone, Debug)]
pub struct Agree {
    role: Role,
    pair: u8,
    clock: Clock,
    clocks: Clocks,
    path_timing: PathTiming,
    state: State,
    /// The round that is being agreed on, or was last.
    round: Option<u8>,
    /// The transmit time of the last message of theirs, and when it came.
    heard: (UnixTime, UnixTime),
    /// When our last messages were written.
    written: VecDeque<UnixTime>,
    output: VecDeque<Output<AgreeAct, AgreeEvent>>,
}

impl Agree {
    /// Nothing was said yet.
    pub fn new(role: Role, pair: u8, clock: Clock, path_timing: PathTiming) -> Self {
        Self {
            role,
            pair,
            clock,
            clocks: Clocks::new(path_timing.served),
            path_timing,
            state: State::Idle,
            round: None,
            heard: (UnixTime(0), UnixTime(0)),
            written: VecDeque::new(),
            output: VecDeque::new(),
        }
    }

    /// Takes the clock and the path_timing of this moment. By another clock, all that was said of the old one is void.
    pub fn update(&mut self, clock: Clock, path_timing: PathTiming) {
        if clock != self.clock {
            self.clock = clock;
            self.clocks = Clocks::new(path_timing.served);
            self.heard = (UnixTime(0), UnixTime(0));
            self.written.clear();
        }
        self.path_timing = path_timing;
        self.clocks.serve(path_timing.served);
    }

    /// The caller's next step: the offer, then updates.
    pub fn propose(&mut self, round: u8, step: Step, now: Instant) {
        if self.role == Role::Caller && self.state != State::Over {
            self.round = Some(round);
            self.say(step.clone(), now);
            self.state = State::Proposed { step, since: now, said: 1 };
        }
    }

    /// The answerer agrees, and is ready to dial at once: the plan starts now.
    pub fn answer(&mut self, side: Endpoint, now: Instant) -> Option<Timing> {
        let State::Asked { error, delay } = self.state else { return None };
        let timing = self.timing(error, delay, now);
        let step = Step::Answer(Answer { side, timing });
        self.say(step.clone(), now);
        self.state = State::Answered { step, repeats: 0 };
        Some(timing)
    }

    /// The answerer sees no way, or has no room; or the caller, when it is told the answerer's side.
    pub fn decline(&mut self, reason: RefusalReason, now: Instant) {
        if self.state != State::Over {
            self.say(Step::Decline(reason), now);
            self.state = State::Over;
        }
    }

    /// A message of the peer for this pair.
    pub fn handle_message(&mut self, message: &Message, now: Instant) {
        if message.validate().is_err() || message.pair != self.pair || self.state == State::Over {
            return tracing::trace!(?message, "dropped");
        }
        let is_old = self.round.is_some_and(|round| message.round < round);
        let arrival = self.clock.unix(now);
        if !is_old {
            self.learn(message.stamps, arrival, now);
        }
        match (&message.step, self.role, &mut self.state) {
            _ if is_old => {}
            (Step::Offer(_) | Step::Update(_), Role::Answerer, State::Answered { step, repeats })
                if self.round == Some(message.round) =>
            {
                if *repeats < MOST_REPEATS {
                    *repeats += 1;
                    let step = step.clone();
                    self.say(step, now);
                }
            }
            (Step::Offer(_) | Step::Update(_), Role::Answerer, _) if self.round != Some(message.round) => {
                let (side, error) = match &message.step {
                    Step::Offer(offer) => (offer.side.clone(), offer.error),
                    Step::Update(update) => (update.side.clone(), update.error),
                    Step::Answer(_) | Step::Decline(_) => return,
                };
                self.round = Some(message.round);
                self.state = State::Asked { error, delay: self.delay_of(message.stamps, arrival, now) };
                self.output.push_back(Output::Event(AgreeEvent::Asked { round: message.round, side }));
            }
            (Step::Answer(answer), Role::Caller, State::Proposed { .. })
                if self.round == Some(message.round) =>
            {
                let start = self.clocks.ours(answer.timing.start, now);
                let off = start.since(arrival).max(arrival.since(start));
                if off > MOST_AHEAD {
                    return tracing::debug!(?off, "dropped an answer for another time");
                }
                let timing = Timing { start, ..answer.timing };
                let (round, side) = (message.round, answer.side.clone());
                self.state = State::Idle;
                self.output.push_back(Output::Event(AgreeEvent::Agreed { round, side, timing }));
            }
            (Step::Decline(reason), ..) if self.round == Some(message.round) => {
                self.state = State::Over;
                self.output.push_back(Output::Event(AgreeEvent::Declined(*reason)));
            }
            _ => tracing::trace!(?message, "dropped"),
        }
    }

    /// Says no more.
    pub fn close(&mut self) {
        self.state = State::Over;
        self.output.clear();
    }

    /// How far the peer's clock is ahead of ours, as far as is known by now.
    pub fn offset(&self, now: Instant) -> Option<Offset> {
        self.clocks.offset(now)
    }

    /// How well the peer's clock is known, as an offer says it.
    pub fn error(&self, now: Instant) -> Option<u32> {
        self.clocks.error(now).map(|error| u32::try_from(error.as_micros()).unwrap_or(u32::MAX))
    }

    /// The next deadline.
    pub fn deadline(&self) -> Option<Deadline> {
        let State::Proposed { since, said, .. } = &self.state else { return None };
        Some(match AGAIN.get(said - 1) {
            Some(after) => Deadline::new(*since + *after, "propose again"),
            None => Deadline::new(*since + GIVE_UP, "the peer should have answered by now"),
        })
    }

    fn say(&mut self, step: Step, now: Instant) {
        let transmit = self.clock.unix(now);
        let (origin, receive) = self.heard;
        let stamps = Stamps { origin, receive, transmit, served: self.path_timing.served };
        if self.written.len() == MOST_TIMES {
            self.written.pop_front();
        }
        self.written.push_back(transmit);
        let message = Message { pair: self.pair, round: self.round.unwrap_or(0), stamps, step };
        self.output.push_back(Output::Act(AgreeAct::Send(message)));
    }

    fn learn(&mut self, stamps: Stamps, arrival: UnixTime, now: Instant) {
        self.heard = (stamps.transmit, arrival);
        self.clocks.hear(stamps, self.written.contains(&stamps.origin), arrival, now);
    }

    /// How long a message took, where the clocks are known; else half of the fastest exchange.
    fn delay_of(&self, stamps: Stamps, arrival: UnixTime, now: Instant) -> Option<Duration> {
        if self.clocks.error(now).is_some_and(|error| error <= LEAD) {
            return Some(arrival.since(self.clocks.ours(stamps.transmit, now)));
        }
        self.clocks.delay()
    }

    fn timing(&self, error: Option<u32>, delay: Option<Duration>, now: Instant) -> Timing {
        let millis =
            |span: Duration, [least, most]: [u64; 2]| (span.as_millis() as u64 + 1).clamp(least, most) as u16;
        let theirs = error.map(|error| Duration::from_micros(u64::from(error)));
        let spread = [theirs, self.clocks.error(now)].into_iter().flatten().min().unwrap_or(SPREAD);
        let path = self.path_timing.delay.unwrap_or(DELAY);
        Timing {
            start: self.clock.unix(now),
            lead: millis(delay.unwrap_or(LEAD), LEADS),
            spread: millis(spread, SPREADS),
            step: millis(path.mul_f64(1.6), STEPS),
        }
    }
}

impl Machine for Agree {
    type Act = AgreeAct;
    type Event = AgreeEvent;

    fn handle_timeout(&mut self, now: Instant) {
        let State::Proposed { step, since, said } = &mut self.state else { return };
        if now >= *since + GIVE_UP {
            self.state = State::Over;
            self.output.push_back(Output::Event(AgreeEvent::Silent));
            return;
        }
        let due = AGAIN.iter().filter(|after| now >= *since + **after).count() + 1;
        if due > *said {
            *said = due;
            let step = step.clone();
            self.say(step, now);
        }
    }

    fn poll_output(&mut self) -> Output<AgreeAct, AgreeEvent> {
        self.output.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "agree_subject.rs"]
pub(super) mod subject;

#[cfg(test)]
#[path = "agree_tests.rs"]
mod tests;
