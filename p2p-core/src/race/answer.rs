//! The mirror side of the reverse way: somebody asked us to dial them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Act, Candidate, Dialler, Event, Lane, LaneFailure};
use crate::race::dial::{DialAct, DialEvent};
use crate::signal::{Body, Reason, Refusal};
use crate::{Deadline, Machine, Output};

/// How long we dial for somebody else's sake.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Dials a caller, proves each connection, and lets the caller choose. If nothing can be dialled, it tells
/// the caller at once instead of letting it wait.
///
/// It speaks the language of [`Race`](super::Race), but never says `Keep`: that is the caller's word.
#[derive(Clone, Debug)]
pub struct Answer {
    dialler: Dialler,
    state: State,
    output: VecDeque<Output<Act, Event>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Dialling { until: Instant },
    Over,
}

impl Answer {
    /// Dials `candidates`, as chosen by [`candidates`](super::candidates) with
    /// [`Motive::TheirWish`](super::Motive::TheirWish).
    pub fn new(candidates: Vec<Candidate>, delay: Duration, now: Instant) -> Self {
        let mut answer = Self {
            dialler: Dialler::new(candidates, delay, now),
            state: State::Dialling { until: now + ANSWER_WITHIN },
            output: VecDeque::new(),
        };
        answer.drain();
        answer
    }

    /// A connection failed, in TCP or in its proof.
    pub fn handle_failed(&mut self, lane: Lane, failure: LaneFailure, now: Instant) {
        self.dialler.handle_failed(lane.index(), failure, now);
        self.drain();
    }

    /// The caller chose this connection.
    pub fn handle_kept(&mut self, lane: Lane, _now: Instant) {
        if self.state != State::Over {
            self.state = State::Over;
            self.dialler.close(Some(lane.index()));
            self.drain();
            self.output.push_back(Output::Event(Event::Won(lane)));
        }
    }

    /// Stops all of it.
    pub fn close(&mut self, _now: Instant) {
        if self.state != State::Over {
            self.state = State::Over;
            self.dialler.close(None);
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            match self.dialler.poll_output() {
                Output::Act(DialAct::Dial(line, candidate)) => {
                    self.output.push_back(Output::Act(Act::Dial(Lane::dialled(line), candidate)));
                }
                Output::Act(DialAct::Drop(line)) => {
                    self.output.push_back(Output::Act(Act::Drop(Lane::dialled(line))));
                }
                Output::Event(DialEvent::Exhausted) => self.give_up(),
                Output::Wait(_) => return,
            }
        }
    }

    fn give_up(&mut self) {
        if self.state != State::Over {
            self.state = State::Over;
            self.dialler.close(None);
            let refusal = Refusal { reason: Reason::NoRoute };
            self.output.push_back(Output::Act(Act::Signal(Body::Refuse(refusal))));
            self.output.push_back(Output::Event(Event::Lost));
        }
    }
}

impl Machine for Answer {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Dialling { until } if now >= until => self.give_up(),
            State::Dialling { .. } => self.dialler.handle_timeout(now),
            State::Over => {}
        }
        self.drain();
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(output) = self.output.pop_front() {
            return output;
        }
        Output::Wait(match self.state {
            State::Dialling { until } => {
                let give_up = Deadline::new(until, "stop dialling for the caller");
                Deadline::earliest([self.dialler.deadline(), Some(give_up)])
            }
            State::Over => None,
        })
    }
}
