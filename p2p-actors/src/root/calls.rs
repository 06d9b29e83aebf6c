//! What peers ask of us by signal, and what brokers do.

use std::rc::Rc;

use actix::{Actor, AsyncContext, Context, Handler};
use p2p_core::attempt::{RefusalReason, Trust, Way};
use p2p_core::punch::{Message, Step};
use p2p_core::relay::RelayOffer;
use p2p_core::signal::{Body, Refusal, Signal};
use tracing::{debug, info, warn};

use super::Root;
use crate::attempt::{Attempt, Heard};
use crate::counters::Tallies;
use crate::drive::now;
use crate::signal::{BrokerState, FromRouter, SendSignal};

/// Attempts of one caller that we dial for at once.
pub(super) const ANSWERS_PER_CALLER: usize = 4;

impl Root {
    fn on_signal(&mut self, signal: Box<Signal>, channel: u32, ctx: &mut Context<Self>) {
        debug!(from = %signal.from.short(), attempt = %signal.attempt, body = signal.body.name(), "signal");
        let ours = self.attempts.get(&signal.attempt).filter(|(peer, _)| *peer == signal.from);
        match (&signal.body, ours) {
            (Body::DialMe(_), _) => self.answer(signal, channel, Way::Reverse, ctx),
            (Body::AskAddr, _) => self.reply(&signal, channel, Body::TellAddr),
            // The circuit may have outlived its attempt, as what carries a connection.
            (Body::Relay(offer), ours) if self.shared.ears.borrow().bring(offer, &signal) => {
                ours.iter().for_each(|(_, ours)| ours.do_send(Heard(signal.clone())));
            }
            (_, Some((_, ours))) => ours.do_send(Heard(signal)),
            (Body::Punch(_), None) => self.answer(signal, channel, Way::Punch, ctx),
            (Body::Relay(_), None) if self.shared.ears.borrow().has_begun(signal.attempt, signal.from) => {
                debug!("for a circuit that is over");
            }
            (Body::Relay(_), None) => self.answer(signal, channel, Way::Relay, ctx),
            (Body::Bye, None) => {
                if let Some((caller, answer)) = self.answers.get(&signal.attempt)
                    && *caller == signal.from
                {
                    answer.do_send(Heard(signal));
                }
            }
            (Body::Refuse(_) | Body::TellAddr, None) => debug!("for an attempt that is over"),
            (_, None) => self.refuse(&signal, channel, RefusalReason::Unsupported),
        }
    }

    /// Somebody asks us to dial them, to punch, or to meet at a relay, or goes on with it.
    fn answer(&mut self, signal: Box<Signal>, channel: u32, way: Way, ctx: &mut Context<Self>) {
        if let Some((caller, answer)) = self.answers.get(&signal.attempt) {
            if *caller != signal.from {
                debug!("an attempt of somebody else");
            } else if self.config.ways.contains(&way) {
                answer.do_send(Heard(signal));
            } else {
                self.refuse(&signal, channel, RefusalReason::Unsupported);
            }
            return;
        }
        if matches!(&signal.body, Body::Punch(message) if !matches!(message.step, Step::Offer(_))) {
            return debug!("for an attempt that is over");
        }
        if matches!(&signal.body, Body::Relay(offer) if offer.refusal.is_some()) {
            return debug!("a refusal of what was not asked");
        }
        let of_caller = self.answers.values().filter(|(caller, _)| *caller == signal.from).count();
        let full = self.answers.len() >= self.config.limits.answers || of_caller >= ANSWERS_PER_CALLER;
        let busy = full.then_some(RefusalReason::Busy);
        if let Some(reason) = self.objection(&signal.from, way).or(busy) {
            return self.refuse(&signal, channel, reason);
        }
        let Some(router) = self.router.clone() else { return };
        Tallies::count(&self.shared.tallies.answers);
        let owner = ctx.address().recipient();
        // A list of who may call speaks for those on it.
        let is_known = self.config.allowed.is_some() || self.shared.remembers(&signal.from);
        let trust = if is_known { Trust::Known } else { Trust::Stranger };
        let answer = Attempt::answer(Rc::clone(&self.shared), router, owner, &signal, channel, trust);
        self.answers.insert(signal.attempt, (signal.from, answer.start()));
    }

    fn refuse(&self, signal: &Signal, channel: u32, reason: RefusalReason) {
        Tallies::count(&self.shared.tallies.refused);
        let body = match &signal.body {
            // A refusal says nothing of what it refuses; the other ways of the attempt go on.
            Body::Punch(message) => {
                let now = self.shared.clock.get().unix(now());
                Body::Punch(Message::declined(message.pair, reason, now))
            }
            Body::Relay(_) => Body::Relay(RelayOffer::refused(reason, &mut self.shared.fork("refusal"))),
            _ => Body::Refuse(Refusal { reason }),
        };
        self.reply(signal, channel, body);
    }

    fn reply(&self, signal: &Signal, channel: u32, body: Body) {
        if let Some(router) = &self.router {
            router.do_send(SendSignal {
                to: signal.sender.clone(),
                attempt: signal.attempt,
                body,
                back_on: Some(channel),
                done: None,
            });
        }
    }
}

impl Handler<FromRouter> for Root {
    type Result = ();

    fn handle(&mut self, what: FromRouter, ctx: &mut Context<Self>) {
        match what {
            FromRouter::Signal { signal, channel } => self.on_signal(signal, channel, ctx),
            FromRouter::Broker(url, state) => {
                match &state {
                    BrokerState::Up => info!(%url, "broker up"),
                    BrokerState::Down(reason) => warn!(%url, %reason, "broker down"),
                    BrokerState::Connecting => {}
                }
                self.status.send_modify(|status| {
                    status.brokers.insert(url.to_string(), state);
                });
            }
        }
    }
}
