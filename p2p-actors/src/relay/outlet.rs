//! How a circuit speaks to its peer, for as long as it lives: by signals of the node that made it.

use actix::{Recipient, WeakAddr};
use p2p_core::attempt::AttemptId;
use p2p_core::peer::PeerAddr;
use p2p_core::relay::RelayOffer;
use p2p_core::signal::Body;

use crate::signal::{Delivered, Router, SendSignal};

/// Where offers go. When the node is closed they go nowhere.
pub(crate) struct Outlet {
    pub(crate) router: WeakAddr<Router>,
    /// Where the peer is, as it said last.
    pub(crate) to: PeerAddr,
    pub(crate) attempt: AttemptId,
    /// The channel the peer spoke on, when it began.
    pub(crate) back_on: Option<u32>,
    /// Who wants to know what becomes of them.
    pub(crate) done: Option<Recipient<Delivered>>,
}

impl Outlet {
    pub(super) fn say(&self, offer: RelayOffer) {
        let Some(router) = self.router.upgrade() else { return };
        router.do_send(SendSignal {
            to: self.to.clone(),
            attempt: self.attempt,
            body: Body::Relay(offer),
            back_on: self.back_on,
            done: self.done.clone(),
        });
    }

    /// The peer is there now.
    pub(super) fn follow(&mut self, sender: &PeerAddr) {
        if sender.is_newer_than(&self.to) {
            self.to = sender.clone();
        }
    }
}
