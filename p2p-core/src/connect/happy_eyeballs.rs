//! Dialling several addresses at once, politely.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::candidate::{Candidate, MOST_CANDIDATES};
use crate::{Deadline, Machine, Output};

/// The pause between two dials, unless the first fails sooner.
///
/// RFC 8305, section 5, recommends 250 ms and allows 100 ms. A SYN to a machine that may not be there costs
/// little, and a black-holed first address should not be felt: 100 ms.
pub const DIAL_DELAY: Duration = Duration::from_millis(100);

/// No more addresses than this are dialled in one attempt, however often the peer or this host moves.
const MOST_DIALS: usize = 2 * MOST_CANDIDATES;

/// An effect of [`HappyEyeballs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialAct {
    /// Connects, and proves.
    Dial(usize, Candidate),
    /// Gives up on this one, whatever it is doing.
    Drop(usize),
}

/// A decision of [`HappyEyeballs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialEvent {
    /// Nothing is left to try: every candidate failed.
    Exhausted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Queued,
    Busy,
    Ended,
}

/// Happy Eyeballs (RFC 8305): one candidate after another, each a little later than the last, sooner when one
/// fails, none stopped because another began.
///
/// It knows its candidates by their index, in the order they were given.
#[derive(Clone, Debug)]
pub struct HappyEyeballs {
    lines: Vec<(Candidate, Line)>,
    next_at: Option<Instant>,
    delay: Duration,
    output: VecDeque<Output<DialAct, DialEvent>>,
    exhausted: bool,
    closed: bool,
}

impl HappyEyeballs {
    /// Begins with the first candidate at once.
    pub fn new(candidates: Vec<Candidate>, delay: Duration, now: Instant) -> Self {
        let mut dials = Self {
            lines: candidates.into_iter().map(|candidate| (candidate, Line::Queued)).collect(),
            next_at: Some(now),
            delay,
            output: VecDeque::new(),
            exhausted: false,
            closed: false,
        };
        dials.lines.truncate(MOST_DIALS);
        dials.handle_timeout(now);
        dials
    }

    /// Takes in more addresses, learned later. Those already known are skipped.
    pub fn handle_more(&mut self, candidates: Vec<Candidate>, now: Instant) {
        if self.closed {
            return;
        }
        let before = self.lines.len();
        for candidate in candidates {
            let is_same =
                |known: &Candidate| known.target == candidate.target && known.from == candidate.from;
            if self.lines.len() < MOST_DIALS && !self.lines.iter().any(|(known, _)| is_same(known)) {
                self.lines.push((candidate, Line::Queued));
            }
        }
        if self.lines.len() > before {
            self.exhausted = false;
            self.next_at = self.next_at.or(Some(now));
            self.handle_timeout(now);
        }
    }

    /// Takes note that this one failed: the next need not wait.
    pub fn handle_failed(&mut self, index: usize, now: Instant) {
        if let Some((_, line @ Line::Busy)) = self.lines.get_mut(index).filter(|_| !self.closed) {
            *line = Line::Ended;
            self.next_at = Some(now);
            self.handle_timeout(now);
        }
    }

    /// Stops everything.
    pub fn close(&mut self, _now: Instant) {
        self.closed = true;
        self.next_at = None;
        for (index, (_, line)) in self.lines.iter_mut().enumerate() {
            if *line == Line::Busy {
                self.output.push_back(Output::Act(DialAct::Drop(index)));
            }
            *line = Line::Ended;
        }
    }

    /// Returns whether there never was anything to dial.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns whether nothing is under way and nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.lines.iter().all(|(_, line)| *line == Line::Ended)
    }

    /// Returns when the next dial is due.
    pub fn deadline(&self) -> Option<Deadline> {
        self.next_at.map(|at| Deadline::new(at, "dial the next address"))
    }
}

impl Machine for HappyEyeballs {
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
