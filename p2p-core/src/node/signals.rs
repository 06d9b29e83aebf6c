//! Signals of peers, and circuits that speak by signals.

use std::time::Instant;

use super::attempts::Entry;
use super::curious::Asker;
use super::output::{Act, CircuitAct, CircuitEvent};
use super::router::{ChannelId, RouterEvent};
use super::{Node, Owner};
use crate::attempt::{AttemptId, RefusalReason, Role, Way};
use crate::punch::{Message, Step};
use crate::relay::RelayOffer;
use crate::signal::{Body, Refusal, Signal};
use crate::{Machine, Output};

impl Node {
    pub(super) fn drain_router(&mut self, now: Instant) -> bool {
        let mut is_busy = false;
        loop {
            match self.parts.router.poll_output() {
                Output::Act(act) => self.parts.act(Act::Channel(act)),
                Output::Event(event) => self.on_router(event, now),
                Output::Wait(_) => return is_busy,
            }
            is_busy = true;
        }
    }

    /// Takes up the effects of a router that is closed: nothing that comes in matters any more.
    pub(super) fn drain_router_acts(&mut self) {
        loop {
            match self.parts.router.poll_output() {
                Output::Act(act) => self.parts.act(Act::Channel(act)),
                Output::Event(_) => {}
                Output::Wait(_) => return,
            }
        }
    }

    fn on_router(&mut self, event: RouterEvent, now: Instant) {
        match event {
            RouterEvent::Signal { signal, channel } => self.on_signal(&signal, channel, now),
            RouterEvent::Broker(url, state) => {
                match &state {
                    super::BrokerState::Up => tracing::info!(%url, "broker up"),
                    super::BrokerState::Down(reason) => tracing::warn!(%url, %reason, "broker down"),
                    super::BrokerState::Connecting => {}
                }
                self.status.brokers.insert(url.to_string(), state);
                self.is_status_news = true;
            }
            RouterEvent::Delivered { attempt, body, delivery } => {
                if let Some(entry) = self.attempts.get_mut(&attempt) {
                    tracing::debug!(%attempt, ?delivery, "signal");
                    entry.handle_delivery(&body, delivery, &mut self.parts, now);
                    self.touched.insert(attempt);
                }
            }
        }
    }

    fn on_signal(&mut self, signal: &Signal, channel: ChannelId, now: Instant) {
        tracing::debug!(from = %signal.from.short(), attempt = %signal.attempt, body = signal.body.name(), "signal");
        if let Body::Relay(offer) = &signal.body
            && offer.refusal.is_none()
            && let Some(with) = self.parts.circuits.get_mut(signal.attempt, &signal.from)
        {
            // The circuit may have outlived its attempt, as the carrier of a connection.
            if signal.sender.is_newer_than(&with.peer) {
                with.peer = signal.sender.clone();
            }
            let hear = CircuitAct::Hear(offer.clone(), signal.sender.sources());
            self.parts.act(Act::Circuit(signal.attempt, hear));
            if !self.attempts.contains_key(&signal.attempt) {
                return;
            }
        }
        let known = self.attempts.get(&signal.attempt).map(|entry| (entry.peer.id(), entry.role));
        match (&signal.body, known) {
            (_, Some((peer, _))) if peer != signal.from => tracing::debug!("an attempt of somebody else"),
            (Body::AskAddr, _) => {
                self.reply(signal, channel, Body::TellAddr, now);
                if !self.parts.facts.is_placed() {
                    let (peer, attempt) = (signal.sender.clone(), signal.attempt);
                    self.curious.remember(Asker { peer, attempt, channel }, now);
                }
            }
            (Body::Bye, Some((_, Role::Answerer))) => self.stop(signal.attempt, now),
            (Body::DialMe(_), _) => self.answer(signal, channel, Way::Reverse, now),
            (_, Some((_, Role::Caller))) => self.feed(signal, now),
            (Body::Punch(_), _) => self.answer(signal, channel, Way::Punch, now),
            (Body::Relay(_), None) if self.parts.circuits.has_begun(signal.attempt, signal.from) => {
                tracing::debug!("for a circuit that is over");
            }
            (Body::Relay(_), _) => self.answer(signal, channel, Way::Relay, now),
            (Body::Refuse(_) | Body::TellAddr | Body::Bye, _) => {
                tracing::debug!("for an attempt that is over");
            }
        }
    }

    fn feed(&mut self, signal: &Signal, now: Instant) {
        if let Some(entry) = self.attempts.get_mut(&signal.attempt) {
            entry.handle_signal(signal, &mut self.parts, now);
            self.touched.insert(signal.attempt);
        }
    }

    /// Somebody asks us to dial them, to punch, or to meet at a relay, or goes on with it.
    fn answer(&mut self, signal: &Signal, channel: ChannelId, way: Way, now: Instant) {
        if self.attempts.contains_key(&signal.attempt) {
            if self.parts.config.ways.contains(&way) {
                self.feed(signal, now);
            } else {
                self.refuse(signal, channel, RefusalReason::Unsupported, now);
            }
            return;
        }
        if matches!(&signal.body, Body::Punch(message) if !matches!(message.step, Step::Offer(_))) {
            return tracing::debug!("for an attempt that is over");
        }
        if matches!(&signal.body, Body::Relay(offer) if offer.refusal.is_some()) {
            return tracing::debug!("a refusal of what was not asked");
        }
        let answers = || self.attempts.values().filter(|entry| entry.role == Role::Answerer);
        let of_caller = answers().filter(|entry| entry.peer.id() == signal.from).count();
        let limits = &self.parts.config.limits;
        let is_full = answers().count() >= limits.answers || of_caller >= limits.answers_for_one;
        let busy = is_full.then_some(RefusalReason::Busy);
        if let Some(reason) = self.parts.objection(&signal.from, way).or(busy) {
            return self.refuse(signal, channel, reason, now);
        }
        self.parts.counters.answers += 1;
        let trust = self.parts.facts.trust(&signal.from);
        self.parts.act(Act::Begin(Owner::Attempt(signal.attempt)));
        let entry = Entry::answer(signal, channel, trust, &mut self.parts, now);
        self.insert(entry);
    }

    fn refuse(&mut self, signal: &Signal, channel: ChannelId, reason: RefusalReason, now: Instant) {
        self.parts.counters.refused += 1;
        let body = match &signal.body {
            // A refusal says nothing of what it refuses; the other ways of the attempt go on.
            Body::Punch(message) => {
                let now = self.parts.clock.clock().unix(now);
                Body::Punch(Message::declined(message.pair, reason, now))
            }
            Body::Relay(_) => Body::Relay(RelayOffer::refused(reason, &mut self.parts.seed.fork("refusal"))),
            _ => Body::Refuse(Refusal { reason }),
        };
        self.reply(signal, channel, body, now);
    }

    fn reply(&mut self, signal: &Signal, channel: ChannelId, body: Body, now: Instant) {
        self.parts.send(&signal.sender, signal.attempt, body, Some(channel), now);
    }

    pub(super) fn on_circuit(&mut self, attempt: AttemptId, event: CircuitEvent, now: Instant) {
        match event {
            CircuitEvent::Say(offer) => {
                if let Some(with) = self.parts.circuits.of(attempt).cloned() {
                    self.parts.send(&with.peer, attempt, Body::Relay(offer), with.back_on, now);
                }
            }
            CircuitEvent::Gone => self.parts.circuits.gone(attempt),
            event => match self.attempts.get_mut(&attempt) {
                Some(entry) => {
                    entry.handle_circuit(event, &mut self.parts, now);
                    self.touched.insert(attempt);
                }
                None => {
                    if let CircuitEvent::Up { connection, .. } | CircuitEvent::Arrived { connection, .. } =
                        event
                    {
                        let close = super::SocketAct::Close { connection };
                        self.parts.socket(Owner::Attempt(attempt), close);
                    }
                }
            },
        }
    }
}
