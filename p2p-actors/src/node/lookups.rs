//! What the node asks of this machine: its interfaces, the addresses behind names, the time.

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use p2p_core::Clock;
use p2p_core::node::{NicId, StunServer};
use tracing::{error, warn};

use super::NodeActor;
use crate::drive::{now, turn};
use crate::interface::nics;
use crate::ntp::{Again, FromNtp, Measure, Ntp};
use crate::resolve::resolve;
use crate::turn;

/// The look-ups that are under way, of those that are made one at a time.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// Interfaces are being read.
    is_reading: bool,
    /// They may have changed since that was begun.
    is_stale: bool,
    /// TURN servers are being looked up, for all who want to know.
    is_resolving_turn: bool,
}

impl NodeActor {
    pub(super) fn read_nics(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.lookups.is_reading, true) {
            self.lookups.is_stale = true;
            return;
        }
        // It may take a millisecond, and other actors have work to do.
        let reading = tokio::task::spawn_blocking(nics).into_actor(self);
        ctx.spawn(reading.map(|found, actor, ctx| {
            actor.lookups.is_reading = false;
            match found {
                Ok(found) => actor.feed(|node, now| node.handle_nics(&found, now), ctx),
                Err(error) => warn!(%error, "the network interfaces cannot be read"),
            }
            if std::mem::take(&mut actor.lookups.is_stale) {
                actor.read_nics(ctx);
            }
        }));
    }

    pub(super) fn resolve(&mut self, nic: NicId, server: StunServer, ctx: &mut Context<Self>) {
        let resolving = async move {
            let found = resolve(&server.host, server.port).await;
            (server, found)
        };
        ctx.spawn(resolving.into_actor(self).map(move |(server, found), actor, ctx| {
            actor.feed(|node, now| node.handle_resolved(nic, server, found, now), ctx);
        }));
    }

    pub(super) fn resolve_turn(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.lookups.is_resolving_turn, true) {
            return;
        }
        let configured = self.driven.machine().config().turn.clone();
        let resolving = async move { turn::servers(&configured).await };
        ctx.spawn(resolving.into_actor(self).map(|(servers, useless), actor, ctx| {
            actor.lookups.is_resolving_turn = false;
            actor.feed(|node, now| node.handle_turn_servers(&servers, &useless, now), ctx);
        }));
    }

    pub(super) fn measure_time(&mut self, clock: Clock, ctx: &mut Context<Self>) {
        match &mut self.ntp {
            Some((known, ntp)) if *known == clock => ntp.do_send(Again),
            Some((known, ntp)) => {
                *known = clock;
                ntp.do_send(Measure(clock));
            }
            None => {
                let config = self.driven.machine().config();
                let (servers, families) = (config.ntp.clone(), config.families.iter().copied().collect());
                let owner = ctx.address().downgrade().recipient();
                match Ntp::new(servers, families, clock, self.seed.fork("ntp"), owner) {
                    Ok(ntp) => self.ntp = Some((clock, ntp.start())),
                    Err(why) => error!(%why, "NTP is not used"),
                }
            }
        }
    }
}

impl Handler<FromNtp> for NodeActor {
    type Result = ();

    fn handle(&mut self, FromNtp(report): FromNtp, ctx: &mut Context<Self>) {
        self.node().handle_ntp(report, now());
        turn(self, ctx);
    }
}
