//! What the node asks of this machine: its interfaces, the addresses behind names, the time.

use std::io;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use p2p_core::Clock;
use p2p_core::node::{Nic, NicId, StunServer};
use tracing::{error, info, warn};

use super::NodeActor;
use crate::drive::{now, turn};
use crate::interface::NicSource;
use crate::ntp::{Again, FromNtp, Measure, Ntp};
use crate::resolve::resolve;
use crate::turn;

/// The look-ups that are under way, of those that are made one at a time.
#[derive(Debug)]
pub(super) struct Lookups {
    /// Whoever tells of the interfaces; elsewhere while it is asked.
    nics: Option<NicSource>,
    /// The last look at the interfaces failed, which was told.
    is_blind: bool,
    /// They may have changed since that was begun.
    is_stale: bool,
    /// TURN servers are being looked up, for all who want to know.
    is_resolving_turn: bool,
}

impl Lookups {
    pub(super) fn new(nics: NicSource) -> Self {
        Self { nics: Some(nics), is_blind: false, is_stale: false, is_resolving_turn: false }
    }
}

impl NodeActor {
    pub(super) fn read_nics(&mut self, ctx: &mut Context<Self>) {
        let Some(mut source) = self.lookups.nics.take() else {
            self.lookups.is_stale = true;
            return;
        };
        // It may take a millisecond, and other actors have work to do.
        let reading = tokio::task::spawn_blocking(move || (source.nics(), source)).into_actor(self);
        ctx.spawn(reading.map(|read, actor, ctx| {
            let (found, source) = read.unwrap_or_else(|error| (Err(error.into()), NicSource::default()));
            actor.lookups.nics = Some(source);
            actor.on_nics(found, ctx);
            if std::mem::take(&mut actor.lookups.is_stale) {
                actor.read_nics(ctx);
            }
        }));
    }

    /// That the system could not be asked says nothing of the interfaces: what was known still is.
    fn on_nics(&mut self, found: io::Result<Vec<Nic>>, ctx: &mut Context<Self>) {
        match found {
            Ok(found) => {
                if std::mem::take(&mut self.lookups.is_blind) {
                    info!("the network interfaces can be read again");
                }
                self.feed(|node, now| node.handle_nics(&found, now), ctx);
            }
            Err(error) if !std::mem::replace(&mut self.lookups.is_blind, true) => {
                warn!(%error, "the network interfaces cannot be read now");
            }
            Err(_) => {}
        }
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
