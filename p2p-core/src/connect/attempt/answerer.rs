//! The answerer's side of an attempt: a caller asked us to dial it, to punch, or to go through a relay.

use std::time::{Duration, Instant};

use super::super::relaying::RelayProgress;
use super::super::{DIAL_DELAY, Event, HappyEyeballs, Lane, RelayAct, WayFailure};
use super::common::Common;
use crate::Deadline;
use crate::attempt::{AttemptId, RefusalReason, Trust, Way};
use crate::candidate::Filter;
use crate::peer::PeerAddr;
use crate::punch::{self, MOST_PAIRS, Message, Punch, Step, View};
use crate::relay::RelayOffer;
use crate::signal::{Body, Refusal, Signal};

/// The time that we dial for somebody else's sake.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The configuration of an answerer's [`Attempt`](super::Attempt).
#[derive(Clone, Debug)]
pub struct AnswerConfig {
    /// The caller, and where it says it is.
    pub peer: PeerAddr,
    /// The name of the attempt at both ends.
    pub attempt: AttemptId,
    /// The trust in the caller: it bounds what a punch may cost.
    pub trust: Trust,
}

/// The part of an attempt that only an answerer has.
#[derive(Clone, Debug)]
pub(super) struct Answerer {
    /// The end of the attempt, the punches included.
    until: Instant,
    /// The time at which dialling for a `DialMe` stops.
    dial_until: Option<Instant>,
    /// Tells whether a punch or a relay was offered: more may follow in its place.
    is_offered: bool,
    /// The time until which another offer is waited for, when there is nothing left to do.
    linger: Option<Instant>,
}

impl Answerer {
    pub(super) fn new(now: Instant) -> Self {
        Self { until: now + MOST_TIME, dial_until: None, is_offered: false, linger: None }
    }

    pub(super) fn on_signal(
        &mut self,
        common: &mut Common,
        signal: &Signal,
        has_moved: bool,
        view: &View<'_>,
        now: Instant,
    ) {
        if has_moved {
            self.on_moved(common, view, now);
        }
        match &signal.body {
            Body::DialMe(_) => self.on_dial_me(common, view, now),
            Body::Punch(message) => self.on_punch(common, message, view, now),
            Body::Relay(offer) => self.on_relay(common, offer, now),
            Body::Bye => {
                common.over(None, now);
                common.tell(Event::Lost);
            }
            _ => {}
        }
    }

    /// Dials the caller where it is by now, if it is dialled at all.
    pub(super) fn on_moved(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        if self.dial_until.is_some() {
            let more = common.candidates(&Filter::default(), view);
            common.dials.iter_mut().for_each(|dials| dials.handle_more(more.clone(), now));
        }
    }

    /// Takes in that the caller chose this connection.
    pub(super) fn on_kept(&mut self, common: &mut Common, lane: Lane, now: Instant) {
        if !common.is_over {
            common.over(Some(lane), now);
            common.tell(Event::Won(lane));
        }
    }

    /// Returns whether the attempt is out of time.
    pub(super) fn on_timeout(&mut self, common: &mut Common, now: Instant) -> bool {
        let is_over = now >= self.until || self.linger.is_some_and(|until| now >= until);
        if is_over {
            common.over(None, now);
            common.tell(Event::Lost);
        } else if self.dial_until.is_some_and(|until| now >= until) {
            self.give_up_dialling(common, now);
        }
        is_over
    }

    /// Drains the parts, and ends what cannot go on.
    pub(super) fn step(&mut self, common: &mut Common, now: Instant) {
        common.drain(now);
        if self.dial_until.is_some() && common.dials.as_ref().is_some_and(HappyEyeballs::is_exhausted) {
            self.give_up_dialling(common, now);
            common.drain(now);
        }
        let is_idle = self.dial_until.is_none() && common.punches.are_over() && !common.relay.is_running();
        if !is_idle {
            self.linger = None;
        } else if self.is_offered {
            // The offers of one attempt come one after the other, and the next may be a better one.
            self.linger.get_or_insert(now + LINGER);
        } else {
            common.over(None, now);
            common.tell(Event::Lost);
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        Deadline::earliest([
            Some(Deadline::new(self.until, "stop answering")),
            self.dial_until.map(|at| Deadline::new(at, "stop dialling for the caller")),
            self.linger.map(|at| Deadline::new(at, "the caller makes no other offer")),
        ])
    }

    /// Dials the caller. The first wish counts.
    fn on_dial_me(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        if common.dials.is_none() {
            let found = common.candidates(&Filter::default(), view);
            common.dials = Some(HappyEyeballs::new(found, DIAL_DELAY, now));
            common.records.begin(Way::Reverse, now);
            self.dial_until = Some(now + ANSWER_WITHIN);
        }
    }

    /// Punches, or goes on with it. What may not be answered is declined; it dials nothing.
    fn on_punch(&mut self, common: &mut Common, message: &Message, view: &View<'_>, now: Instant) {
        self.is_offered = true;
        if matches!(message.step, Step::Offer(_)) {
            common.punches.retire(message.pair);
        }
        if common.punches.has(message.pair) {
            common.punches.handle_message(message, now);
        } else if matches!(message.step, Step::Offer(_)) && message.pair < MOST_PAIRS {
            match punch::answerable(view, &common.peer, common.id, message, common.trust()) {
                Some(config) if common.punches.have_room() => {
                    common.records.forget_punched(message.pair);
                    common.records.begin(Way::Punch, now);
                    common.punches.add(Punch::answer(config, message, now));
                }
                _ => {
                    let declined =
                        Message::declined(message.pair, RefusalReason::NoRoute, view.clock.unix(now));
                    common.signal(Body::Punch(declined));
                }
            }
        }
    }

    /// Goes through a relay, or goes on with it.
    fn on_relay(&mut self, common: &mut Common, offer: &RelayOffer, now: Instant) {
        if offer.refusal.is_some() {
            return;
        }
        self.is_offered = true;
        let sources = common.peer.sources();
        if common.relay == RelayProgress::NotBegun {
            let act = common.relay.begin(sources.clone());
            common.records.begin(Way::Relay, now);
            common.relay_act(Some(act));
        }
        if common.relay.is_running() {
            common.relay_act(Some(RelayAct::Hear(offer.clone(), sources)));
        }
    }

    /// Tells the caller that nothing can be dialled, whatever becomes of the punches.
    fn give_up_dialling(&mut self, common: &mut Common, now: Instant) {
        if self.dial_until.take().is_some() {
            let is_empty = common.dials.as_ref().is_none_or(HappyEyeballs::is_empty);
            let failure = if is_empty { WayFailure::NoCandidates } else { WayFailure::AllFailed };
            common.records.end(Way::Reverse, failure, now);
            common.dials.iter_mut().for_each(|dials| dials.close(now));
            common.signal(Body::Refuse(Refusal { reason: RefusalReason::NoRoute }));
        }
    }
}

/// The time that all of it takes at most, the punches included.
const MOST_TIME: Duration = Duration::from_secs(40);
/// The time that an answerer with nothing left to do waits for another offer of its caller.
const LINGER: Duration = Duration::from_secs(1);
