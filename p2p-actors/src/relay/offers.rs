//! The way by which a circuit speaks to its peer, for as long as both it and the node that made it live.

use actix::{Message, WeakRecipient};
use p2p_core::attempt::AttemptId;
use p2p_core::node::CircuitEvent;
use p2p_core::relay::RelayOffer;

/// Tells the node what a circuit wants or has brought.
pub(crate) struct FromCircuit {
    pub(crate) attempt: AttemptId,
    pub(crate) event: CircuitEvent,
}

impl Message for FromCircuit {
    type Result = ();
}

/// Takes offers to the node, which says them to the peer. When the node is closed they go nowhere.
pub(crate) struct OfferSender {
    attempt: AttemptId,
    /// `None` when the circuit is over.
    node: Option<WeakRecipient<FromCircuit>>,
}

impl OfferSender {
    /// Returns that of the circuit of `attempt`.
    pub(crate) fn new(attempt: AttemptId, node: WeakRecipient<FromCircuit>) -> Self {
        Self { attempt, node: Some(node) }
    }

    pub(super) fn say(&self, offer: RelayOffer) {
        self.tell(CircuitEvent::Say(offer));
    }

    /// Tells the node that the circuit is over, once.
    pub(super) fn end(&mut self) {
        self.tell(CircuitEvent::Gone);
        self.node = None;
    }

    fn tell(&self, event: CircuitEvent) {
        if let Some(node) = self.node.as_ref().and_then(WeakRecipient::upgrade) {
            node.do_send(FromCircuit { attempt: self.attempt, event });
        }
    }
}

impl Drop for OfferSender {
    fn drop(&mut self) {
        self.end();
    }
}
