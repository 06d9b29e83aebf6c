//! The door for connections that come to us: who they are, what they are for, and whether there is room.

use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use p2p_core::proof::{Claim, ProofError, Stage};
use p2p_core::race::Way;
use p2p_core::signal::Reason;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};

use super::Root;
use crate::attempt::{Arrived, Proving};
use crate::counters::Tallies;
use crate::drive::now;
use crate::shared::Draft;
use crate::winner::Winner;

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
        let mut proving = Proving::new(stream, self.shared.proof_arrived());
        let ticket = self.lobby.ticket();
        let introduced = async move {
            let stage = proving.advance().await;
            drop(seat);
            (stage, proving)
        };
        let work = ctx.spawn(introduced.into_actor(self).map(move |(stage, proving), this, ctx| {
            this.lobby.leave(ticket);
            match (stage, proving.proof.claim()) {
                (Ok(Stage::Deciding), Some(claim)) => this.on_claim(claim, proving, began, ctx),
                (Ok(_), _) => this.shared.tallies.count_failure(ProofError::OutOfTurn),
                (Err(error), _) => {
                    debug!(%error, "a connection was turned away");
                    this.shared.tallies.count_failure(error);
                }
            }
        }));
        if let Some(evicted) = self.lobby.enter(ticket, work) {
            Tallies::count(&self.shared.tallies.evicted);
            ctx.cancel_future(evicted);
        }
    }

    /// Somebody said who they are and what for.
    fn on_claim(&mut self, claim: Claim, mut proving: Proving, began: Instant, ctx: &mut Context<Self>) {
        let refuse = if claim.caller {
            match self.attempts.get(&claim.attempt) {
                Some(ours) if ours.peer == claim.peer => {
                    ours.addr.do_send(Arrived(proving));
                    return;
                }
                _ => Some(Reason::Expired),
            }
        } else if self.config.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&claim.peer)) {
            Some(Reason::NotAllowed)
        } else if self.incoming.capacity() == 0 {
            Some(Reason::Busy)
        } else if self.shared.closing.get() {
            Some(Reason::Closing)
        } else {
            None
        };
        if refuse.is_some() {
            Tallies::count(&self.shared.tallies.refused);
        }
        let answered = match refuse {
            Some(reason) => proving.proof.refuse(reason, now()),
            None => proving.proof.welcome(self.shared.plain, now()),
        };
        if answered.is_err() {
            return self.shared.tallies.count_failure(ProofError::TimedOut);
        }
        debug!(peer = %claim.peer.short(), attempt = %claim.attempt, ?refuse, "claim");
        // A connection the caller does not choose ends here in silence: that is no failure.
        let kept = async move { (proving.advance().await, proving) };
        ctx.spawn(kept.into_actor(self).map(move |(stage, proving), this, _| {
            if let (Ok(Stage::Kept), Some(session)) = (stage, proving.proof.into_session()) {
                let draft = Draft { way: Way::Direct, path: None, peer: None, began, report: None };
                if let Some(winner) = this.shared.winner(proving.stream, session, draft) {
                    this.accept(winner);
                }
            }
        }));
    }

    /// Hands a connection to whoever accepts.
    pub(super) fn accept(&mut self, winner: Winner) {
        let (peer, way) = (winner.session.claim.peer.short(), winner.how.way);
        match self.incoming.try_reserve() {
            Ok(place) => {
                info!(%peer, %way, "accepted");
                // Counted before it is handed over: whoever has it also sees it counted.
                Tallies::count(&self.shared.tallies.accepted);
                place.send(winner);
            }
            Err(_) => {
                warn!(%peer, "nobody takes the accepted connections: dropped one");
                Tallies::count(&self.shared.tallies.refused);
            }
        }
    }
}
