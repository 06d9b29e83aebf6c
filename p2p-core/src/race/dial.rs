//! Dialling several places at once, politely.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Candidate, LaneFailure};
use crate::{Deadline, Machine, Output};

/// How long after one dial the next begins, unless the first fails sooner.
///
/// RFC 8305, section 5, recommends 250 ms and allows 100 ms. A SYN to a machine that may not be there costs
/// little, and a black-holed first address should not be felt: 100 ms.
pub const DIAL_DELAY: Duration = Duration::from_millis(100);

/// What a [`Dialler`] wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialAct {
    /// Connect, and prove.
    Dial(usize, Candidate),
    /// Give up on this one, whatever it is doing.
    Drop(usize),
}

/// What a [`Dialler`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialEvent {
    /// Nothing left to try: every candidate failed.
    Exhausted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Queued,
    Busy,
    Failed(LaneFailure),
    Dropped,
}

/// Happy Eyeballs (RFC 8305): one candidate after another, each a little later than the last, sooner when one
/// fails, none stopped because another began.
///
/// It knows its candidates by their index, in the order they were given.
#[derive(Clone, Debug)]
pub struct Dialler {
    lines: Vec<(Candidate, Line)>,
    next_at: Option<Instant>,
    delay: Duration,
    output: VecDeque<Output<DialAct, DialEvent>>,
    exhausted: bool,
    closed: bool,
}

impl Dialler {
    /// Begins with the first candidate at once.
    pub fn new(candidates: Vec<Candidate>, delay: Duration, now: Instant) -> Self {
        let mut dialler = Self {
            lines: candidates.into_iter().map(|candidate| (candidate, Line::Queued)).collect(),
            next_at: Some(now),
            delay,
            output: VecDeque::new(),
            exhausted: false,
            closed: false,
        };
        dialler.handle_timeout(now);
        dialler
    }

    /// More places, learned later. Those already known are skipped.
    pub fn handle_more(&mut self, candidates: Vec<Candidate>, now: Instant) {
        if self.closed {
            return;
        }
        let before = self.lines.len();
        for candidate in candidates {
            if self.lines.len() < 2 * super::MOST_CANDIDATES
                && self
                    .lines
                    .iter()
                    .all(|(known, _)| known.target != candidate.target || known.from != candidate.from)
            {
                self.lines.push((candidate, Line::Queued));
            }
        }
        if self.lines.len() > before {
            self.exhausted = false;
            self.next_at = self.next_at.or(Some(now));
            self.handle_timeout(now);
        }
    }

    /// This one failed: the next need not wait.
    pub fn handle_failed(&mut self, line: usize, failure: LaneFailure, now: Instant) {
        if let Some((_, state @ Line::Busy)) = self.lines.get_mut(line) {
            *state = Line::Failed(failure);
            self.next_at = Some(now);
            self.handle_timeout(now);
        }
    }

    /// Stops everything but `except`.
    pub fn close(&mut self, except: Option<usize>) {
        self.closed = true;
        self.next_at = None;
        for (index, (_, line)) in self.lines.iter_mut().enumerate() {
            if Some(index) == except {
                continue;
            }
            if *line == Line::Busy {
                self.output.push_back(Output::Act(DialAct::Drop(index)));
            }
            if matches!(line, Line::Busy | Line::Queued) {
                *line = Line::Dropped;
            }
        }
    }

    /// Whether nothing is under way and nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.lines.iter().all(|(_, line)| !matches!(line, Line::Queued | Line::Busy))
    }

    /// When the next dial is due.
    pub fn deadline(&self) -> Option<Deadline> {
        self.next_at.map(|at| Deadline::new(at, "dial the next address"))
    }

    /// Every candidate and how it ended, if it did.
    pub fn lines(&self) -> impl Iterator<Item = (Candidate, Option<LaneFailure>)> {
        self.lines.iter().map(|(candidate, line)| {
            let failure = match line {
                Line::Failed(failure) => Some(failure.clone()),
                Line::Queued => Some(LaneFailure::NotTried),
                Line::Dropped => Some(LaneFailure::Dropped),
                Line::Busy => None,
            };
            (*candidate, failure)
        })
    }
}

impl Machine for Dialler {
    type Act = DialAct;
    type Event = DialEvent;

    fn handle_timeout(&mut self, now: Instant) {
        if self.closed || self.next_at.is_none_or(|at| at > now) {
            return;
        }
        let next = self.lines.iter().position(|(_, line)| *line == Line::Queued);
        if let Some(index) = next {
            let (candidate, line) = &mut self.lines[index];
            *line = Line::Busy;
            self.output.push_back(Output::Act(DialAct::Dial(index, *candidate)));
        }
        let more = self.lines.iter().any(|(_, line)| *line == Line::Queued);
        self.next_at = more.then_some(now + self.delay);
        if self.is_exhausted() && !self.exhausted {
            self.exhausted = true;
            self.output.push_back(Output::Event(DialEvent::Exhausted));
        }
    }

    fn poll_output(&mut self) -> Output<DialAct, DialEvent> {
        self.output.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}
