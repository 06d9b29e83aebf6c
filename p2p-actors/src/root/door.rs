//! The door for connections that come to us: who they are, what they are for, and whether there is room.

use std::rc::Rc;
use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use p2p_core::attempt::Role;
use p2p_core::attempt::{RefusalReason, Way};
use p2p_core::peer::PeerId;
use p2p_core::proof::{Claim, ProofError, Stage};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};

use super::Root;
use crate::attempt::Arrived;
use crate::carrier::CarrierStream;
use crate::counters::Tallies;
use crate::drive::now;
use crate::established::Established;
use crate::prove::Proving;
use crate::shared::Draft;

/// Somebody in the waiting room who has said who they are.
struct Visitor {
    proving: Proving,
    ticket: u64,
    seat: OwnedSemaphorePermit,
    began: Instant,
}

impl Root {
    /// Somebody connected to a listener.
    pub(super) fn on_inbound(
        &mut self,
        stream: TcpStream,
        seat: OwnedSemaphorePermit,
        ctx: &mut Context<Self>,
    ) {
        if self.shared.closing.get() {
            return;
        }
        Tallies::count(&self.shared.tallies.arrived);
        let began = now();
        let mut proving = Proving::new(CarrierStream::tcp(stream), self.shared.proof_arrived());
        let ticket = self.lobby.ticket();
        let introduced = async move { (proving.advance().await, proving) };
        let work = ctx.spawn(introduced.into_actor(self).map(move |(stage, proving), this, ctx| {
            match (stage, proving.proof.claim()) {
                (Ok(Stage::Deciding), Some(claim)) => {
                    return this.on_claim(claim, Visitor { proving, ticket, seat, began }, ctx);
                }
                (Ok(_), _) => this.shared.tallies.count_failure(ProofError::OutOfTurn),
                (Err(error), _) => {
                    debug!(%error, "a connection was turned away");
                    this.shared.tallies.count_failure(error);
                }
            }
            this.lobby.leave(ticket);
        }));
        if let Some(evicted) = self.lobby.enter(ticket, work) {
            Tallies::count(&self.shared.tallies.evicted);
            ctx.cancel_future(evicted);
        }
    }

    /// Somebody said who they are and what for.
    fn on_claim(&mut self, claim: Claim, visitor: Visitor, ctx: &mut Context<Self>) {
        let Visitor { mut proving, ticket, seat, began } = visitor;
        let refuse = if claim.role == Role::Caller {
            match self.attempts.get(&claim.attempt) {
                Some((peer, ours)) if *peer == claim.peer => {
                    ours.do_send(Arrived(proving));
                    self.lobby.leave(ticket);
                    return;
                }
                _ => Some(RefusalReason::Expired),
            }
        } else {
            self.objection(&claim.peer, Way::Direct)
        };
        if refuse.is_some() {
            Tallies::count(&self.shared.tallies.refused);
        }
        let answered = match refuse {
            Some(reason) => proving.proof.refuse(reason, now()),
            None => proving.proof.welcome(self.shared.plain, now()),
        };
        if answered.is_err() {
            self.lobby.leave(ticket);
            return self.shared.tallies.count_failure(ProofError::TimedOut);
        }
        debug!(peer = %claim.peer.short(), attempt = %claim.attempt, ?refuse, "claim");
        // Until the caller's word there is only a claim, and an old Hello can be sent again by anybody: so long the
        // visitor stays in the waiting room, and may have to make room.
        let place = Rc::clone(&self.welcomed);
        let kept = async move {
            let stage = proving.advance().await;
            drop(place);
            (stage, proving, seat)
        };
        let work = ctx.spawn(kept.into_actor(self).map(move |(stage, proving, seat), this, _| {
            drop(seat);
            this.lobby.leave(ticket);
            match stage {
                Ok(Stage::Kept) => {
                    let draft = Draft { way: Way::Direct, path: None, began };
                    if let Some(established) = this.shared.established(proving, draft) {
                        this.accept(established);
                    }
                }
                // One that the caller did not choose, and one that was counted already.
                Err(ProofError::Lost | ProofError::Declined(_)) => {}
                Err(error) => this.shared.tallies.count_failure(error),
                Ok(_) => this.shared.tallies.count_failure(ProofError::OutOfTurn),
            }
        }));
        self.lobby.stay(ticket, work);
    }

    /// Why this peer may not reach us by this way, now.
    pub(super) fn objection(&self, peer: &PeerId, way: Way) -> Option<RefusalReason> {
        let Some(incoming) = self.incoming.as_ref().filter(|_| !self.shared.closing.get()) else {
            return Some(RefusalReason::Closing);
        };
        if self.config.allowed.as_ref().is_some_and(|allowed| !allowed.contains(peer)) {
            Some(RefusalReason::NotAllowed)
        } else if !self.config.ways.contains(&way) {
            Some(RefusalReason::Unsupported)
        } else if incoming.capacity() < Rc::strong_count(&self.welcomed) {
            Some(RefusalReason::Busy)
        } else {
            None
        }
    }

    /// Hands a connection to whoever accepts.
    pub(super) fn accept(&mut self, established: Established) {
        let (peer, way) = (established.session.claim.peer.short(), established.info.way);
        match self.incoming.as_ref().map(|incoming| incoming.try_reserve()) {
            Some(Ok(place)) => {
                info!(%peer, %way, "accepted");
                // Counted before it is handed over: whoever has it also sees it counted.
                Tallies::count(&self.shared.tallies.accepted);
                place.send(established);
            }
            Some(Err(_)) | None => {
                warn!(%peer, "nobody takes the accepted connections: dropped one");
                Tallies::count(&self.shared.tallies.refused);
            }
        }
    }
}
