//! The relayed way of a race: last to be kept.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::{Act, Lane, LaneFailure, Path, RelayAct, Way, WayFailure};
use super::{Race, State};
use crate::peer::PeerAddr;
use crate::relay::RelayOffer;
use crate::relay::circuit::{CircuitFailure, RelayKind};
use crate::signal::Delivery;
use crate::{Deadline, Output};

/// When a relay is asked for, if nothing else has led to the peer: on most paths a dial or a punch has by then, and no
/// server is troubled.
pub const RELAY_AFTER: Duration = Duration::from_millis(300);
/// Until when a relayed connection that is ready waits for a better one: a punch through the worst of NATs takes a
/// second and a half.
pub const RELAY_PATIENCE: Duration = Duration::from_secs(2);

impl Race {
    pub(super) fn relay_due(&self) -> Instant {
        self.began + self.config.head_start.max(RELAY_AFTER)
    }

    pub(super) fn start_relay(&mut self, now: Instant) {
        if !self.config.can_signal {
            self.records.end(Way::Relay, WayFailure::NoSignalling, now);
        } else if self.is_offline {
            self.records.end(Way::Relay, WayFailure::Offline, now);
        } else if !self.config.filter.paths.contains(&Path::External) {
            self.records.end(Way::Relay, WayFailure::NotAllowed, now);
        } else {
            let act = self.relaying.begin(self.config.peer.sources());
            self.relay(Some(act));
        }
    }

    pub(super) fn relay(&mut self, act: Option<RelayAct>) {
        self.output.extend(act.map(|act| Output::Act(Act::Relay(act))));
    }

    /// Whether this proven lane must wait, as a better way may yet lead somewhere.
    pub(super) fn must_wait(&self, lane: Lane, now: Instant) -> bool {
        lane.way() == Way::Relay && now < self.began + RELAY_PATIENCE && self.records.hopes_beside(Way::Relay)
    }

    /// Keeps what waited, if it need not wait any more.
    pub(super) fn keep_waiting(&mut self, now: Instant) {
        if self.state == State::Racing
            && let Some(lane) = self.records.proven()
            && !self.must_wait(lane, now)
        {
            self.keep(lane);
        }
    }

    pub(super) fn waiting_deadline(&self) -> Option<Deadline> {
        let waits = self.state == State::Racing && self.records.proven().is_some();
        waits.then(|| Deadline::new(self.began + RELAY_PATIENCE, "nothing better than a relay"))
    }

    /// Something has come through a relay: it is a lane from now on. `None`: close it.
    pub fn handle_relayed(&mut self, kind: RelayKind, remote: SocketAddr, now: Instant) -> Option<Lane> {
        if self.state == State::Over {
            return None;
        }
        let (lane, candidate) = self.relaying.open(kind, remote)?;
        self.records.open(lane, candidate, now);
        self.handle_connected(lane, now);
        self.step(now);
        Some(lane)
    }

    /// Nothing came, or will come, through a relay. What is a lane goes on.
    pub fn handle_relay_failed(&mut self, failure: CircuitFailure, now: Instant) {
        self.end_relay(failure.into(), now);
        if self.state != State::Over {
            self.step(now);
        }
    }

    /// The circuit is over, if it has not led anywhere.
    pub(super) fn end_relay(&mut self, failure: WayFailure, now: Instant) {
        if self.relaying.is_running() && self.state == State::Racing && !self.records.is_up(Way::Relay) {
            let act = self.relaying.end(None);
            self.relay(act);
            self.records.end(Way::Relay, failure, now);
        }
    }

    pub(super) fn on_relay_offer(&mut self, offer: &RelayOffer, sender: &PeerAddr, now: Instant) {
        match offer.refusal {
            Some(reason) => self.end_relay(WayFailure::Refused(reason), now),
            None if self.relaying.is_running() => {
                self.relay(Some(RelayAct::Hear(offer.clone(), sender.sources())))
            }
            None => {}
        }
    }

    pub(super) fn on_relay_delivery(&mut self, delivery: Delivery, now: Instant) {
        match delivery {
            Delivery::Offline => self.end_relay(WayFailure::Offline, now),
            Delivery::NoBroker(troubles) => self.end_relay(WayFailure::NoBroker(troubles), now),
            Delivery::Told | Delivery::Unknown => {}
        }
    }

    /// A relayed lane failed. Where connections are relayed, datagrams come after them; after datagrams nothing does.
    pub(super) fn on_relayed_failed(&mut self, lane: Lane, failure: &LaneFailure, now: Instant) {
        tracing::debug!(%lane, %failure, "a relayed connection failed");
        if lane.relayed_as() == Some(RelayKind::Datagrams) {
            self.end_relay(WayFailure::AllFailed, now);
        }
    }
}
