//! The services that all attempts of a node and its doors share.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Counters;
use super::budget::SharedBudget;
use super::circuits::Circuits;
use super::clock_guard::ClockGuard;
use super::config::NodeConfig;
use super::connections::Connections;
use super::facts::Facts;
use super::io::{Owner, SocketAct};
use super::output::{Act, Event};
use super::pipes::Pipes;
use super::router::{ChannelId, Letter, Router};
use crate::attempt::{AttemptId, RefusalReason, Role};
use crate::connect::MOST_RELAY_PATIENCE;
use crate::peer::{PeerAddr, PeerId};
use crate::proof::{Counterpart, Proof, ProofConfig};
use crate::punch::View;
use crate::signal::Body;
use crate::{Output, Seed};

/// Everything of a node but its interfaces and its attempts.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: NodeConfig,
    pub(super) seed: Seed,
    pub(super) clock: ClockGuard,
    pub(super) facts: Facts,
    pub(super) connections: Connections,
    pub(super) budget: SharedBudget,
    pub(super) router: Router,
    pub(super) circuits: Circuits,
    pub(super) counters: Counters,
    /// Places for accepted connections that nobody has taken yet; `None` when nobody is taken in any more.
    pub(super) backlog: Option<usize>,
    pub(super) pipes: Pipes,
    pub(super) is_closing: bool,
    pub(super) out: VecDeque<Output<Act, Event>>,
}

impl Parts {
    pub(super) fn act(&mut self, act: Act) {
        self.out.push_back(Output::Act(act));
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    pub(super) fn socket(&mut self, owner: Owner, act: SocketAct) {
        self.act(Act::Socket(owner, act));
    }

    /// Returns the facts as they are now.
    pub(super) fn view(&self, now: Instant) -> View<'_> {
        self.facts.view(self.clock.clock(), now)
    }

    /// Returns a proof for a connection on which we speak first.
    pub(super) fn proof_dialled(
        &mut self,
        (peer, attempt): (PeerId, AttemptId),
        role: Role,
        plain: bool,
        now: Instant,
    ) -> Proof {
        let within = match role {
            Role::Caller => self.config.proof_within,
            Role::Answerer => self.choice_within(),
        };
        self.proof(Counterpart::Dialled { peer, attempt, role, plain }, within, now)
    }

    /// Returns a proof for a connection of an attempt that we answer, on which the caller speaks first.
    pub(super) fn proof_awaited(&mut self, now: Instant) -> Proof {
        self.proof(Counterpart::Unknown, self.choice_within(), now)
    }

    /// Returns the time in which a caller proves itself and chooses: a relayed connection may wait for a better one.
    fn choice_within(&self) -> Duration {
        self.config.proof_within.saturating_add(MOST_RELAY_PATIENCE)
    }

    /// Returns a proof for a connection on which the other end speaks first.
    pub(super) fn proof_arrived(&mut self, now: Instant) -> Proof {
        self.proof(Counterpart::Unknown, self.config.proof_within, now)
    }

    fn proof(&mut self, counterpart: Counterpart, within: Duration, now: Instant) -> Proof {
        let config = ProofConfig {
            identity: self.config.identity.clone(),
            counterpart,
            cipher: self.config.cipher,
            within,
        };
        Proof::new(config, self.seed.fork("proof"), now)
    }

    /// Sends a signal.
    pub(super) fn send(
        &mut self,
        to: &PeerAddr,
        attempt: AttemptId,
        body: Body,
        back_on: Option<ChannelId>,
        now: Instant,
    ) {
        // An answer is sent and not waited for; a farewell is of no interest to anybody.
        let wants_receipt = back_on.is_none() && body != Body::Bye;
        let letter = Letter { to: to.clone(), attempt, body, back_on, wants_receipt };
        self.router.send(letter, now);
    }

    /// Returns the reason why this peer may not reach us by this way, now.
    pub(super) fn objection(&self, peer: &PeerId, way: crate::attempt::Way) -> Option<RefusalReason> {
        let Some(places) = self.backlog.filter(|_| !self.is_closing) else {
            return Some(RefusalReason::Closing);
        };
        if self.config.allowed.as_ref().is_some_and(|allowed| !allowed.contains(peer)) {
            Some(RefusalReason::NotAllowed)
        } else if !self.config.ways.contains(&way) {
            Some(RefusalReason::Unsupported)
        } else if places <= self.connections.welcomed() || !self.pipes.has_room(peer, &self.config.limits) {
            // Each that was welcomed may yet need a place.
            Some(RefusalReason::Busy)
        } else {
            None
        }
    }
}
