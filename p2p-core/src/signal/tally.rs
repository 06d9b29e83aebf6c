//! The fate of one signal that was given to several brokers at once.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::link::Subscribers;
use crate::{Deadline, Machine, Output};

/// The time that the other brokers still have after one says that nobody listens.
const NOBODY_GRACE: Duration = Duration::from_secs(1);
/// The time that brokers have to come back before the sender is told that all are down.
const TROUBLE_GRACE: Duration = Duration::from_secs(3);

/// The fate of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// At least one broker has a subscriber for the signal.
    Told,
    /// A broker took the signal and cannot say whether anybody listens (MQTT 3.1.1).
    Unknown,
    /// Every broker that answered says that nobody listens.
    Offline,
    /// No broker took the signal.
    NoBroker(Vec<BrokerTrouble>),
}

/// A broker that was of no use, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokerTrouble {
    /// The URL of the broker.
    pub broker: String,
    /// The reason why it was of no use.
    pub reason: String,
}

#[derive(Clone, Debug)]
enum Vote {
    /// The broker has not answered yet. The text is its trouble at the moment, if any.
    Pending(Option<String>),
    Delivered(Subscribers),
    Failed(String),
}

/// A machine that counts the brokers' answers for one signal and decides as early as it can.
#[derive(Clone, Debug)]
pub struct Tally {
    votes: Vec<(u32, String, Vote)>,
    began: Instant,
    within: Duration,
    verdict: Option<Delivery>,
    told: bool,
}

impl Tally {
    /// Makes a tally for a signal given to these brokers (channel number, URL), which have `within` to take it.
    pub fn new(brokers: Vec<(u32, String)>, within: Duration, now: Instant) -> Self {
        let votes = brokers.into_iter().map(|(channel, url)| (channel, url, Vote::Pending(None))).collect();
        let mut tally = Self { votes, began: now, within, verdict: None, told: false };
        tally.handle_timeout(now);
        tally
    }

    /// Notes that a broker took the signal.
    pub fn handle_delivered(&mut self, channel: u32, subscribers: Subscribers, now: Instant) {
        self.vote(channel, Vote::Delivered(subscribers), now);
    }

    /// Notes that a broker will not take the signal.
    pub fn handle_failed(&mut self, channel: u32, reason: String, now: Instant) {
        self.vote(channel, Vote::Failed(reason), now);
    }

    /// Notes that a broker cannot be reached at the moment.
    pub fn handle_trouble(&mut self, channel: u32, reason: String, now: Instant) {
        self.vote(channel, Vote::Pending(Some(reason)), now);
    }

    /// Stops counting. No event follows.
    pub fn close(&mut self, _now: Instant) {
        self.told = true;
    }

    fn vote(&mut self, channel: u32, vote: Vote, now: Instant) {
        for (known, _, old) in &mut self.votes {
            if *known == channel && matches!(old, Vote::Pending(_)) {
                *old = vote.clone();
            }
        }
        self.handle_timeout(now);
    }

    fn any(&self, wanted: Subscribers) -> bool {
        self.votes.iter().any(|(_, _, vote)| matches!(vote, Vote::Delivered(said) if *said == wanted))
    }

    /// Returns the verdict on the answers so far, and the time after the start from which it holds.
    fn patience(&self) -> (Duration, Delivery) {
        let open = self.votes.iter().filter(|(_, _, vote)| matches!(vote, Vote::Pending(_))).count();
        let slow = self.votes.iter().filter(|(_, _, vote)| matches!(vote, Vote::Pending(None))).count();
        if self.any(Subscribers::Someone) {
            (Duration::ZERO, Delivery::Told)
        } else if self.any(Subscribers::Unknown) {
            (Duration::ZERO, Delivery::Unknown)
        } else if self.any(Subscribers::Nobody) {
            (if slow == 0 { Duration::ZERO } else { NOBODY_GRACE }, Delivery::Offline)
        } else if open == 0 {
            (Duration::ZERO, Delivery::NoBroker(self.troubles()))
        } else if slow == 0 {
            (TROUBLE_GRACE.min(self.within), Delivery::NoBroker(self.troubles()))
        } else {
            (self.within, Delivery::NoBroker(self.troubles()))
        }
    }

    fn troubles(&self) -> Vec<BrokerTrouble> {
        let trouble = |broker: &String, vote: &Vote| BrokerTrouble {
            broker: broker.clone(),
            reason: match vote {
                Vote::Failed(reason) | Vote::Pending(Some(reason)) => reason.clone(),
                Vote::Pending(None) | Vote::Delivered(_) => "no answer".to_owned(),
            },
        };
        self.votes.iter().map(|(_, broker, vote)| trouble(broker, vote)).collect()
    }
}

impl Machine for Tally {
    type Act = Infallible;
    type Event = Delivery;

    fn handle_timeout(&mut self, now: Instant) {
        let (patience, verdict) = self.patience();
        if self.verdict.is_none() && now >= self.began + patience {
            self.verdict = Some(verdict);
        }
    }

    fn poll_output(&mut self) -> Output<Infallible, Delivery> {
        if self.told {
            return Output::Wait(None);
        }
        if let Some(verdict) = self.verdict.clone() {
            self.told = true;
            return Output::Event(verdict);
        }
        let (patience, _) = self.patience();
        Output::Wait(Some(Deadline::new(self.began + patience, "the brokers had their time")))
    }
}

#[cfg(feature = "sim")]
#[path = "tally_subject.rs"]
pub(super) mod subject;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;
    use crate::sim::laws::drain;

    fn tally(brokers: u32) -> Tally {
        let brokers = (0..brokers).map(|channel| (channel, format!("mqtt://broker{channel}"))).collect();
        Tally::new(brokers, Duration::from_secs(10), epoch())
    }

    fn after(tally: &mut Tally, millis: u64) -> Vec<Delivery> {
        tally.handle_timeout(epoch() + Duration::from_millis(millis));
        drain(tally).events
    }

    #[test]
    fn one_listener_anywhere_is_enough() {
        let mut tally = tally(3);
        tally.handle_delivered(1, Subscribers::Nobody, epoch());
        assert!(drain(&mut tally).events.is_empty());
        tally.handle_delivered(2, Subscribers::Someone, epoch());
        assert_eq!(drain(&mut tally).events, [Delivery::Told]);
        assert_eq!(drain(&mut tally).wait, None);
    }

    #[test]
    fn offline_at_once_when_every_broker_says_so() {
        let mut tally = tally(2);
        tally.handle_delivered(0, Subscribers::Nobody, epoch());
        tally.handle_delivered(1, Subscribers::Nobody, epoch());
        assert_eq!(drain(&mut tally).events, [Delivery::Offline]);
    }

    #[test]
    fn a_dead_broker_does_not_delay_the_verdict_of_the_living() {
        let mut tally = tally(2);
        tally.handle_trouble(1, "connection refused".into(), epoch());
        tally.handle_delivered(0, Subscribers::Nobody, epoch());
        assert_eq!(drain(&mut tally).events, [Delivery::Offline]);
    }

    #[test]
    fn a_slow_broker_gets_a_second() {
        let mut tally = tally(2);
        tally.handle_delivered(0, Subscribers::Nobody, epoch());
        assert_eq!(after(&mut tally, 999), []);
        assert_eq!(after(&mut tally, 1_000), [Delivery::Offline]);
    }

    #[test]
    fn a_restarting_broker_gets_three() {
        let mut tally = tally(1);
        tally.handle_trouble(0, "connection lost".into(), epoch());
        assert_eq!(after(&mut tally, 2_900), []);
        tally.handle_delivered(0, Subscribers::Someone, epoch());
        assert_eq!(drain(&mut tally).events, [Delivery::Told]);
    }

    #[test]
    fn every_dead_broker_is_named_with_its_reason() {
        let mut tally = tally(2);
        tally.handle_failed(0, "wrong password".into(), epoch());
        tally.handle_trouble(1, "connection refused".into(), epoch());
        let events = after(&mut tally, 3_000);
        let [Delivery::NoBroker(troubles)] = &events[..] else { panic!("{events:?}") };
        let told: Vec<_> =
            troubles.iter().map(|trouble| (trouble.broker.as_str(), trouble.reason.as_str())).collect();
        assert_eq!(told, [("mqtt://broker0", "wrong password"), ("mqtt://broker1", "connection refused")]);
    }

    #[test]
    fn silence_is_told_in_the_end() {
        let mut tally = tally(1);
        assert_eq!(after(&mut tally, 9_999), []);
        assert!(matches!(&after(&mut tally, 10_000)[..], [Delivery::NoBroker(_)]));
    }

    #[test]
    fn no_broker_at_all_is_told_at_once() {
        assert_eq!(drain(&mut tally(0)).events, [Delivery::NoBroker(vec![])]);
    }
}
