//! The budget of half open connections and dials a second that all punches of a node share.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Deadline;
use crate::attempt::{AttemptId, Trust};
use crate::punch::{Budget, Limits, Share};

/// Names one punch of a node: its attempt, and the number of its pair of addresses.
pub(super) type PunchId = (AttemptId, u8);

/// Lends shares of the budget of a node to its punches. Strangers can have a quarter of it at most.
///
/// A punch that finds it empty waits for what comes back, for a few seconds.
#[derive(Debug)]
pub(super) struct SharedBudget {
    whole: Budget,
    strangers: Budget,
    waiting: VecDeque<Waiting>,
    held: Vec<(PunchId, Share, Trust)>,
}

#[derive(Debug)]
struct Waiting {
    punch: PunchId,
    wanted: Share,
    trust: Trust,
    until: Instant,
}

impl SharedBudget {
    /// Has all of `limits` to lend.
    pub(super) fn new(limits: Limits) -> Self {
        let part = Limits {
            sockets: limits.sockets / STRANGERS,
            per_second: limits.per_second / STRANGERS,
            ..limits
        };
        let (whole, strangers) = (Budget::new(limits), Budget::new(part));
        Self { whole, strangers, waiting: VecDeque::new(), held: Vec::new() }
    }

    /// Asks for a share. It is told by [`poll`](Self::poll).
    pub(super) fn reserve(&mut self, punch: PunchId, wanted: Share, trust: Trust, now: Instant) {
        self.give_back(punch);
        self.waiting.push_back(Waiting { punch, wanted, trust, until: now + RESERVE_WITHIN });
    }

    /// Takes back the share of a punch, or its wish for one.
    pub(super) fn give_back(&mut self, punch: PunchId) {
        self.waiting.retain(|waiting| waiting.punch != punch);
        for (_, share, trust) in self.held.extract_if(.., |(holder, ..)| *holder == punch) {
            self.whole.give_back(share);
            if trust == Trust::Stranger {
                self.strangers.give_back(share);
            }
        }
    }

    /// Takes back all shares of an attempt.
    pub(super) fn forget(&mut self, attempt: AttemptId) {
        let waiting = self.waiting.iter().map(|waiting| waiting.punch);
        let punches: Vec<PunchId> = waiting
            .chain(self.held.iter().map(|(holder, ..)| *holder))
            .filter(|punch| punch.0 == attempt)
            .collect();
        punches.into_iter().for_each(|punch| self.give_back(punch));
    }

    /// Returns the next punch that gets its share; an empty one when it has waited in vain.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(PunchId, Share)> {
        for index in 0..self.waiting.len() {
            let Waiting { punch, wanted, trust, until } = self.waiting[index];
            let share = self.take(wanted, trust);
            if share != Share::default() || until <= now {
                self.waiting.remove(index);
                if share != Share::default() {
                    self.held.push((punch, share, trust));
                }
                return Some((punch, share));
            }
        }
        None
    }

    /// Returns when somebody will have waited in vain.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let until = self.waiting.iter().map(|waiting| waiting.until).min()?;
        Some(Deadline::new(until, "stop waiting for a share of the budget"))
    }

    fn take(&mut self, wanted: Share, trust: Trust) -> Share {
        if trust == Trust::Known {
            return self.whole.take(wanted);
        }
        let part = self.strangers.take(wanted);
        let share = self.whole.take(part);
        self.strangers.give_back(Share {
            sockets: part.sockets - share.sockets,
            per_second: part.per_second - share.per_second,
        });
        share
    }
}

/// The part of the whole that strangers share: half open connections and dials a second.
const STRANGERS: u16 = 4;
/// How long a punch waits for others to end. The caller of one believes for 7 s that an answer will come.
const RESERVE_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    fn share(sockets: u16, per_second: u16) -> Share {
        Share { sockets, per_second }
    }

    fn budget() -> SharedBudget {
        SharedBudget::new(Limits { sockets: 100, per_second: 100, ..Limits::default() })
    }

    fn punch(number: u8) -> PunchId {
        (AttemptId([number; 16]), 0)
    }

    fn reserve(budget: &mut SharedBudget, number: u8, wanted: Share, trust: Trust) -> Option<Share> {
        budget.reserve(punch(number), wanted, trust, epoch());
        budget.poll(epoch()).map(|(_, share)| share)
    }

    #[test]
    fn who_finds_it_empty_waits_for_what_comes_back() {
        let mut budget = budget();
        assert_eq!(reserve(&mut budget, 1, share(80, 50), Trust::Known), Some(share(80, 50)));
        assert_eq!(reserve(&mut budget, 2, share(80, 20), Trust::Known), Some(share(20, 20)), "the rest");
        assert_eq!(reserve(&mut budget, 3, share(10, 10), Trust::Stranger), None);
        budget.give_back(punch(1));
        assert_eq!(budget.poll(epoch()), Some((punch(3), share(10, 10))));
        budget.forget(punch(3).0);
        budget.give_back(punch(2));
        assert_eq!(reserve(&mut budget, 4, share(200, 200), Trust::Known), Some(share(100, 100)));
        assert_eq!(reserve(&mut budget, 5, share(1, 1), Trust::Known), None);
        let until = budget.deadline().unwrap().at;
        assert_eq!(budget.poll(until), Some((punch(5), Share::default())), "nobody waits for ever");
        assert_eq!(budget.deadline(), None);
    }

    #[test]
    fn strangers_leave_most_to_others() {
        let mut budget = budget();
        let one = reserve(&mut budget, 1, share(20, 10), Trust::Stranger);
        let two = reserve(&mut budget, 2, share(20, 10), Trust::Stranger);
        assert_eq!((one, two), (Some(share(20, 10)), Some(share(5, 10))));
        assert_eq!(reserve(&mut budget, 3, share(1, 1), Trust::Stranger), None);
        budget.give_back(punch(3));
        assert_eq!(reserve(&mut budget, 4, share(100, 100), Trust::Known), Some(share(75, 80)));
        budget.give_back(punch(1));
        budget.give_back(punch(2));
        // The part that strangers may still have is not there any more.
        assert_eq!(reserve(&mut budget, 5, share(100, 100), Trust::Stranger), Some(share(25, 20)));
    }
}
