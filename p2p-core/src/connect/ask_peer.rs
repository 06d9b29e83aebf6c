//! Asking the peer to dial us.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::WayFailure;
use crate::attempt::RefusalReason;
use crate::signal::Delivery;
use crate::{Deadline, Machine, Output};

/// The times at which the question is asked again, after the first one. The signal layer already repeats what a broker
/// did not acknowledge; these repeats are for what was lost behind the broker.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
/// The time after which nothing is expected to come. A peer that was told dials within milliseconds, and its own dials
/// give up after ten seconds.
const GIVE_UP: Duration = Duration::from_secs(14);

/// An effect of [`AskPeer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskPeerAct {
    /// Sends the peer a `DialMe`.
    Ask,
}

/// The caller's side of the reverse way: it asks, asks again, and knows when it is hopeless.
#[derive(Clone, Debug)]
pub struct AskPeer {
    state: State,
    output: VecDeque<Output<AskPeerAct, WayFailure>>,
}

#[derive(Clone, Debug)]
enum State {
    Asking { began: Instant, asked: usize, heard: Heard },
    Over,
}

/// The best that is known of the questions so far, the most hopeful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    /// By a subscriber.
    BySomebody,
    /// By a broker that did not say whether anybody is subscribed.
    Perhaps,
    NotYet,
}

impl AskPeer {
    /// Asks at once.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Asking { began: now, asked: 1, heard: Heard::NotYet },
            output: [Output::Act(AskPeerAct::Ask)].into(),
        }
    }

    /// Takes in what became of the last question.
    pub fn handle_delivery(&mut self, delivery: Delivery, _now: Instant) {
        let State::Asking { heard, .. } = &mut self.state else {
            return;
        };
        match delivery {
            Delivery::Told => *heard = Heard::BySomebody,
            Delivery::Unknown => *heard = Heard::Perhaps.min(*heard),
            // A repeat that finds nobody proves nothing when an earlier one was heard.
            Delivery::Offline if *heard > Heard::BySomebody => self.fail(WayFailure::Offline),
            Delivery::NoBroker(troubles) if *heard > Heard::Perhaps => {
                self.fail(WayFailure::NoBroker(troubles));
            }
            Delivery::Offline | Delivery::NoBroker(_) => {}
        }
    }

    /// Takes in that the peer will not, or cannot.
    pub fn handle_refused(&mut self, reason: RefusalReason, _now: Instant) {
        self.fail(WayFailure::Refused(reason));
    }

    /// Stops asking.
    pub fn close(&mut self, _now: Instant) {
        self.state = State::Over;
        self.output.clear();
    }

    /// Returns when to ask again, or to give up.
    pub fn deadline(&self) -> Option<Deadline> {
        let State::Asking { began, asked, .. } = &self.state else {
            return None;
        };
        Some(match ASK_AGAIN.get(asked - 1) {
            Some(after) => Deadline::new(*began + *after, "ask the peer again to dial us"),
            None => Deadline::new(*began + GIVE_UP, "the peer should have dialled by now"),
        })
    }

    fn fail(&mut self, failure: WayFailure) {
        if !matches!(self.state, State::Over) {
            self.state = State::Over;
            self.output.push_back(Output::Event(failure));
        }
    }
}

impl Machine for AskPeer {
    type Act = AskPeerAct;
    type Event = WayFailure;

    fn handle_timeout(&mut self, now: Instant) {
        let State::Asking { began, asked, .. } = &mut self.state else {
            return;
        };
        if now >= *began + GIVE_UP {
            return self.fail(WayFailure::Silent);
        }
        let due = ASK_AGAIN.iter().filter(|after| now >= *began + **after).count() + 1;
        if due > *asked {
            *asked = due;
            self.output.push_back(Output::Act(AskPeerAct::Ask));
        }
    }

    fn poll_output(&mut self) -> Output<AskPeerAct, WayFailure> {
        self.output.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}
