//! The actor of one interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    SpawnHandle, WrapFuture,
};
use p2p_core::stun::query::Event;
use p2p_core::stun::{Server, Transport};
use p2p_core::{Family, Reach};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::external::{Again, Ask, External, FromExternal, Stop};
use super::facts::{Evidence, InterfaceFacts, Outcome, StunServer, agreed};
use super::listen::{Accepted, accept};
use super::resolve::resolve;
use super::{FromInterface, InterfaceConfig, Nic, NicAddress, bind};

/// How often to look for a port that is free on every address.
const TRIES: usize = 16;

/// An address that is listened on.
struct Place {
    local: SocketAddr,
    accepting: SpawnHandle,
    external: Addr<External>,
    /// Who said what last, in the order they first spoke: the first word counts.
    heard: Vec<(SocketAddr, Transport, Outcome)>,
}

impl Place {
    fn hear(&mut self, server: Server, outcome: Outcome) {
        let Server { address, transport } = server;
        let known =
            |heard: &&mut (SocketAddr, Transport, Outcome)| (heard.0, heard.1) == (address, transport);
        match self.heard.iter_mut().find(known) {
            Some(heard) => heard.2 = outcome,
            None => self.heard.push((address, transport, outcome)),
        }
    }
}

/// Listens on the addresses of one interface and keeps [`InterfaceFacts`] of them.
pub struct Interface {
    config: InterfaceConfig,
    owner: Recipient<FromInterface>,
    /// The port all addresses listen on if they can; 0 before the first does.
    port: u16,
    places: BTreeMap<NicAddress, Place>,
    /// What the servers' names resolved to last.
    resolved: BTreeMap<StunServer, Vec<SocketAddr>>,
    /// Names that never resolved.
    unresolved: BTreeMap<StunServer, String>,
    /// How often the servers were asked.
    round: u64,
    /// Names still being resolved in this round.
    resolving: usize,
    refresh: Option<SpawnHandle>,
    is_ready: bool,
    told: Option<Vec<InterfaceFacts>>,
}

impl Interface {
    pub(super) fn new(config: InterfaceConfig, owner: Recipient<FromInterface>) -> Self {
        Self {
            port: config.listen_port,
            config,
            owner,
            places: BTreeMap::new(),
            resolved: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            round: 0,
            resolving: 0,
            refresh: None,
            is_ready: false,
            told: None,
        }
    }

    /// Listens on the addresses there are, leaves those that are not any more.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let wanted = wanted(&self.config.nic, &self.config.families);
        let gone: Vec<NicAddress> =
            self.places.keys().filter(|known| !wanted.contains(known)).copied().collect();
        for address in gone {
            if let Some(place) = self.places.remove(&address) {
                info!(local = %place.local, "no longer listening");
                ctx.cancel_future(place.accepting);
                place.external.do_send(Stop);
            }
        }
        let missing: Vec<NicAddress> =
            wanted.into_iter().filter(|address| !self.places.contains_key(address)).collect();
        for (address, listener) in listen(&missing, self.port) {
            let local = address.with_port(self.port);
            match listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener))) {
                Ok((port, listener)) => self.stand(address, port, listener, ctx),
                Err(error) => {
                    warn!(%local, %error, "cannot listen");
                    let nic_number = self.config.nic_number;
                    self.owner.do_send(FromInterface::Failed { nic_number, local, error });
                }
            }
        }
        if !self.places.is_empty() && !std::mem::replace(&mut self.is_ready, true) {
            let nic_number = self.config.nic_number;
            self.owner.do_send(FromInterface::Ready { nic_number });
        }
    }

    fn stand(&mut self, address: NicAddress, port: u16, listener: TcpListener, ctx: &mut Context<Self>) {
        if self.port == 0 {
            self.port = port;
        }
        let local = address.with_port(port);
        info!(%local, nic = self.config.nic.name, "listening");
        let accepting =
            accept_all(listener, Arc::clone(&self.config.seats), self.owner.clone(), self.config.nic_number);
        let owner = ctx.address().downgrade().recipient();
        let seed = self.config.seed.fork("external");
        let place = Place {
            local,
            accepting: ctx.spawn(accepting.into_actor(self)),
            external: External::new(local, seed, owner).start(),
            heard: Vec::new(),
        };
        self.places.insert(address, place);
    }

    /// Asks every server anew, each as soon as its name is resolved.
    fn ask(&mut self, ctx: &mut Context<Self>) {
        self.round += 1;
        for place in self.places.values() {
            place.external.do_send(Again);
        }
        let servers: BTreeSet<StunServer> = self.config.stun.iter().cloned().collect();
        self.resolving = servers.len();
        let round = self.round;
        for server in servers {
            let resolving = async move {
                let found = resolve(&server).await;
                (server, found)
            };
            let resolving = resolving.into_actor(self).map(move |(server, found), actor, _| {
                if actor.round == round {
                    actor.on_resolved(server, found);
                }
            });
            ctx.spawn(resolving);
        }
        let later = ctx.run_later(self.config.refresh, |actor, ctx| actor.ask(ctx));
        if let Some(earlier) = self.refresh.replace(later) {
            ctx.cancel_future(earlier);
        }
    }

    fn on_resolved(&mut self, server: StunServer, found: Result<Vec<SocketAddr>, String>) {
        match found {
            Ok(found) => {
                self.unresolved.remove(&server);
                self.resolved.insert(server.clone(), found);
            }
            // What a name was good for a while ago is better than nothing: resolvers have their bad moments.
            Err(why) => {
                debug!(%server, why, "STUN server not found");
                if !self.resolved.contains_key(&server) {
                    self.unresolved.insert(server.clone(), why);
                }
            }
        }
        for address in self.resolved.get(&server).into_iter().flatten() {
            for (own, place) in &self.places {
                if is_askable(*own, *address) {
                    place.external.do_send(Ask(*address));
                }
            }
        }
        self.resolving -= 1;
        if self.resolving == 0 {
            // Servers that moved away have no say any more.
            let known: BTreeSet<SocketAddr> = self.resolved.values().flatten().copied().collect();
            for place in self.places.values_mut() {
                place.heard.retain(|(heard, ..)| known.contains(heard));
            }
        }
        self.tell();
    }

    fn facts(&self) -> Vec<InterfaceFacts> {
        self.places
            .iter()
            .map(|(address, place)| {
                let heard = place.heard.iter().map(|(server, transport, outcome)| Evidence {
                    server: self.name(*server),
                    asked: Some((*server, *transport)),
                    outcome: outcome.clone(),
                });
                let unresolved = self.unresolved.iter().map(|(server, why)| Evidence {
                    server: server.clone(),
                    asked: None,
                    outcome: Outcome::Unresolved(why.clone()),
                });
                let evidence: Vec<Evidence> = heard.chain(unresolved).collect();
                InterfaceFacts {
                    local: address.ip,
                    prefix: address.prefix,
                    scope: address.scope,
                    listen: place.local.port(),
                    external: agreed(&evidence, Transport::Tcp),
                    external_udp: agreed(&evidence, Transport::Udp),
                    evidence,
                }
            })
            .collect()
    }

    /// The name a server was configured with; its address once the name stands for another.
    fn name(&self, address: SocketAddr) -> StunServer {
        let named = self.resolved.iter().find(|(_, resolved)| resolved.contains(&address));
        named.map_or_else(
            || StunServer { host: address.ip().to_string(), port: address.port() },
            |(server, _)| server.clone(),
        )
    }

    /// Tells the owner, if there is news.
    fn tell(&mut self) {
        let facts = self.facts();
        if self.told.as_ref() != Some(&facts) {
            self.owner.do_send(FromInterface::Changed {
                nic_number: self.config.nic_number,
                addresses: facts.clone(),
            });
            self.told = Some(facts);
        }
    }
}

/// The addresses to listen on: none while the interface is down.
fn wanted(nic: &Nic, families: &[Family]) -> Vec<NicAddress> {
    let fits = |address: &&NicAddress| nic.is_up && families.contains(&address.family());
    nic.addresses.iter().filter(fits).copied().collect()
}

/// Whether a server can be reached from an address: what leads nowhere outside cannot ask outside.
fn is_askable(own: NicAddress, server: SocketAddr) -> bool {
    let reach = Reach::of(server.ip());
    own.family() == Family::of(server.ip())
        && match Reach::of(own.ip) {
            narrow @ (Reach::Loopback | Reach::Link) => reach == narrow,
            _ => reach != Reach::Nowhere,
        }
}

/// Listens on all of them, with `port` 0 on a port that is free on all, if one is found in a few tries.
fn listen(addresses: &[NicAddress], port: u16) -> Vec<(NicAddress, io::Result<TcpListener>)> {
    let all = |port: u16| {
        let mut common = port;
        let one = |address: &NicAddress| {
            let listener = bind::listen(address.with_port(common));
            if common == 0 {
                let bound = listener.as_ref().ok().and_then(|listener| listener.local_addr().ok());
                common = bound.map_or(0, |bound| bound.port());
            }
            (*address, listener)
        };
        addresses.iter().map(one).collect::<Vec<_>>()
    };
    if port != 0 {
        return all(port);
    }
    let is_taken = |listener: &io::Result<TcpListener>| matches!(listener, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let listeners = all(0);
        if !listeners.iter().any(|(_, listener)| is_taken(listener)) {
            return listeners;
        }
    }
    let any = |address: &NicAddress| (*address, bind::listen(address.with_port(0)));
    addresses.iter().map(any).collect()
}

/// Hands every connection to the owner, until the seats are closed.
async fn accept_all(
    listener: TcpListener,
    seats: Arc<Semaphore>,
    owner: Recipient<FromInterface>,
    nic_number: u8,
) {
    while let Some(accepted) = accept(&listener, &seats).await {
        let Accepted { stream, local, remote, seat } = accepted;
        debug!(%local, %remote, "somebody connected");
        owner.do_send(FromInterface::Inbound { nic_number, stream, local, remote, seat });
    }
}

impl Actor for Interface {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.settle(ctx);
        self.tell();
        self.ask(ctx);
    }
}

impl Handler<FromExternal> for Interface {
    type Result = ();

    fn handle(&mut self, FromExternal { local, event }: FromExternal, _: &mut Context<Self>) {
        let Some(place) = self.places.values_mut().find(|place| place.local == local) else {
            return;
        };
        match event {
            Event::Answer(answer) => place.hear(answer.server, Outcome::Mapped(answer.mapped)),
            Event::Failure(server, failure) => place.hear(server, Outcome::Failed(failure)),
            Event::Done(report) => debug!(%local, counters = ?report.counters, "all STUN servers were heard"),
        }
        self.tell();
    }
}

/// The interface has changed.
pub(super) struct Update(pub(super) Nic);

impl Message for Update {
    type Result = ();
}

impl Handler<Update> for Interface {
    type Result = ();

    fn handle(&mut self, Update(nic): Update, ctx: &mut Context<Self>) {
        self.config.nic = nic;
        self.settle(ctx);
        self.tell();
        self.ask(ctx);
    }
}

/// Ask again.
pub(super) struct Refresh;

impl Message for Refresh {
    type Result = ();
}

impl Handler<Refresh> for Interface {
    type Result = ();

    fn handle(&mut self, _: Refresh, ctx: &mut Context<Self>) {
        self.ask(ctx);
    }
}

/// End.
pub(super) struct Close;

impl Message for Close {
    type Result = ();
}

impl Handler<Close> for Interface {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Context<Self>) {
        for place in self.places.values() {
            place.external.do_send(Stop);
        }
        ctx.stop();
    }
}
