//! The actor of one interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle,
    WeakRecipient, WrapFuture,
};
use p2p_core::stun::{QueryConfig, Transport};
use p2p_core::{Family, Mapped, Reach};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::facts::{Evidence, InterfaceFacts, Outcome, Probed, StunServer, agreed};
use super::hop::{self, Seeker};
use super::listen::{Accepted, accept};
use super::observe::{Heard, Observer};
use super::probe::{Learned, LookedUp, Prober};
use super::resolve::resolve;
use super::{FromInterface, InterfaceConfig, Nic, NicAddress, bind};
use crate::descriptors::is_exhausted;
use crate::drive::now;

/// How often to look for a port that is free on every address.
const TRIES: usize = 16;
/// When to try again to listen where the system had nothing left for it.
const AGAIN: Duration = Duration::from_secs(1);

/// An address that is listened on.
struct Place {
    local: SocketAddr,
    accepting: SpawnHandle,
    observer: Observer,
    /// Who said what last, in the order they first spoke: the first word counts.
    heard: Vec<(SocketAddr, Outcome)>,
}

impl Place {
    fn hear(&mut self, server: SocketAddr, outcome: Outcome) {
        match self.heard.iter_mut().find(|heard| heard.0 == server) {
            Some(heard) => heard.1 = outcome,
            None => self.heard.push((server, outcome)),
        }
    }
}

/// What is known of the network of one family, or will be.
struct Survey {
    /// The address it is probed from.
    address: NicAddress,
    /// The round of asking it was begun for.
    round: u64,
    /// The probe under way.
    prober: Option<Prober>,
    /// What a UDP port was seen as.
    external_udp: Option<Mapped>,
    /// The last one that ended.
    probed: Option<Probed>,
    /// The search for a silent hop after it.
    seeker: Option<Seeker>,
    silent_hop: Option<u8>,
}

impl Survey {
    /// Whether what it says goes for another address of the interface, too.
    fn is_of(&self, address: NicAddress) -> bool {
        self.address.family() == address.family() && Reach::of(self.address.ip) == Reach::of(address.ip)
    }

    fn is_liar(&self, server: SocketAddr) -> bool {
        let servers = self.probed.iter().flat_map(|probed| &probed.report.servers);
        servers.filter(|report| report.is_liar).any(|report| report.server.ip() == server.ip())
    }
}

/// Listens on the addresses of one interface and keeps [`InterfaceFacts`] of them.
pub struct Interface {
    config: InterfaceConfig,
    owner: Recipient<FromInterface>,
    /// The port all addresses listen on if they can; 0 before the first does.
    port: u16,
    places: BTreeMap<NicAddress, Place>,
    surveys: BTreeMap<Family, Survey>,
    /// What the servers' names resolved to last.
    resolved: BTreeMap<StunServer, Vec<SocketAddr>>,
    /// Names that never resolved.
    unresolved: BTreeMap<StunServer, String>,
    /// How often the servers were asked.
    round: u64,
    /// Names still being resolved in this round.
    resolving: BTreeSet<StunServer>,
    refresh: Option<SpawnHandle>,
    is_ready: bool,
    /// The system had nothing left to listen with, which was told.
    is_wanting: bool,
    told: Option<Vec<InterfaceFacts>>,
}

impl Interface {
    pub(super) fn new(config: InterfaceConfig, owner: Recipient<FromInterface>) -> Self {
        Self {
            port: config.listen_port,
            config,
            owner,
            places: BTreeMap::new(),
            surveys: BTreeMap::new(),
            resolved: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            round: 0,
            resolving: BTreeSet::new(),
            refresh: None,
            is_ready: false,
            is_wanting: false,
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
            }
        }
        let missing: Vec<NicAddress> =
            wanted.into_iter().filter(|address| !self.places.contains_key(address)).collect();
        let mut wants_again = false;
        for (address, listener) in listen(&missing, self.port, self.config.last_port) {
            let local = address.with_port(self.port);
            match listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener))) {
                Ok((port, listener)) => self.stand(address, port, listener, ctx),
                // That is no word about the address.
                Err(error) if is_exhausted(&error) && self.is_ready => {
                    if !std::mem::replace(&mut self.is_wanting, true) {
                        warn!(%local, %error, "cannot listen now, trying again");
                    }
                    wants_again = true;
                }
                Err(error) => {
                    warn!(%local, %error, "cannot listen");
                    let nic_number = self.config.nic_number;
                    self.owner.do_send(FromInterface::Failed { nic_number, local, error });
                }
            }
        }
        if wants_again {
            ctx.run_later(AGAIN, |actor, ctx| ctx.notify(Update(actor.config.nic.clone())));
        } else {
            self.is_wanting = false;
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
        let told = ctx.address().downgrade().recipient();
        let tell = Box::new(move |heard| tell(&told, FromObserver { local, heard }));
        let place = Place {
            local,
            accepting: ctx.spawn(accepting.into_actor(self)),
            observer: Observer::start(local, QueryConfig::default(), self.config.seed.fork("observer"), tell),
            heard: Vec::new(),
        };
        self.places.insert(address, place);
    }

    /// Asks every server, each as soon as its name is resolved.
    fn ask(&mut self, ctx: &mut Context<Self>) {
        self.round += 1;
        let servers: BTreeSet<StunServer> = self.config.stun.iter().cloned().collect();
        self.resolving.clone_from(&servers);
        let round = self.round;
        for server in servers {
            let resolving = async move {
                let found = resolve(&server.host, server.port).await;
                (server, found)
            };
            let resolving = resolving.into_actor(self).map(move |(server, found), actor, _| {
                if actor.round == round {
                    actor.on_resolved(server, found);
                }
            });
            ctx.spawn(resolving);
        }
        let later = ctx.run_later(self.config.refresh, |actor, ctx| {
            if actor.is_elsewhere() {
                actor.probe(ctx);
            }
            actor.ask_again(ctx);
        });
        if let Some(earlier) = self.refresh.replace(later) {
            ctx.cancel_future(earlier);
        }
    }

    fn ask_again(&mut self, ctx: &mut Context<Self>) {
        self.places.values().for_each(|place| place.observer.again());
        self.ask(ctx);
    }

    /// Probes the network of each family anew, from the address that reaches furthest. Servers come with the next
    /// [`ask`](Self::ask).
    fn probe(&mut self, ctx: &mut Context<Self>) {
        let names = self.config.stun.iter().collect::<BTreeSet<_>>().len();
        let mut before = std::mem::take(&mut self.surveys);
        if names == 0 {
            return;
        }
        for family in [Family::V4, Family::V6] {
            let of_family = self.places.keys().filter(|address| address.family() == family);
            // `max_by_key` takes the last of equals.
            let best = of_family.rev().max_by_key(|address| Reach::of(address.ip)).copied();
            let Some(address) = best.filter(|address| Reach::of(address.ip) != Reach::Link) else { continue };
            let told = ctx.address().downgrade().recipient();
            let round = self.round + 1;
            let tell = Box::new(move |learned| tell(&told, FromProber { family, round, learned }));
            let seed = self.config.seed.fork("probe");
            let prober = Some(Prober::start(address, self.port, names, seed, tell));
            let before = before.remove(&family).filter(|before| before.address == address);
            let (external_udp, probed, silent_hop) = before.map_or_else(Default::default, |before| {
                (before.external_udp, before.probed, before.silent_hop)
            });
            let seeker = None;
            let survey = Survey { address, round, prober, external_udp, probed, seeker, silent_hop };
            self.surveys.insert(family, survey);
        }
    }

    /// Whether the last probes say something else than the servers do now, or nothing.
    fn is_elsewhere(&self) -> bool {
        self.surveys.values().any(|survey| {
            let known = survey.probed.as_ref().and_then(|probed| probed.report.external);
            let now = self.places.get(&survey.address).and_then(|place| {
                let evidence: Vec<Evidence> = self.evidence(place).collect();
                agreed(&evidence, |server| survey.is_liar(server))
            });
            known.is_none() || now.is_some_and(|now| Some(now.0.ip()) != known.map(|known| known.value))
        })
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
        let found: Vec<SocketAddr> = self.resolved.get(&server).into_iter().flatten().copied().collect();
        for (own, place) in &self.places {
            let askable = found.iter().filter(|address| is_askable(*own, **address));
            askable.for_each(|address| place.observer.ask(*address));
        }
        for survey in self.surveys.values() {
            let Some(prober) = &survey.prober else { continue };
            prober.looked_up(match self.unresolved.get(&server) {
                Some(why) => LookedUp::Unknown { name: server.to_string(), why: why.clone() },
                None => {
                    let askable = found.iter().filter(|address| is_askable(survey.address, **address));
                    LookedUp::Found(askable.copied().collect())
                }
            });
        }
        self.resolving.remove(&server);
        if self.resolving.is_empty() {
            // Servers that moved away have no say any more.
            let known: BTreeSet<SocketAddr> = self.resolved.values().flatten().copied().collect();
            for place in self.places.values_mut() {
                place.heard.retain(|(heard, ..)| known.contains(heard));
            }
        }
        self.tell();
    }

    /// Who said what of the port listened on.
    fn evidence(&self, place: &Place) -> impl Iterator<Item = Evidence> {
        let heard = place.heard.iter().map(|(server, outcome)| Evidence {
            server: self.name(*server),
            asked: Some(*server),
            outcome: outcome.clone(),
        });
        let unresolved = self.unresolved.iter().map(|(server, why)| Evidence {
            server: server.clone(),
            asked: None,
            outcome: Outcome::Unresolved(why.clone()),
        });
        heard.chain(unresolved)
    }

    fn facts(&self) -> Vec<InterfaceFacts> {
        self.places.iter().map(|(address, place)| self.facts_of(*address, place)).collect()
    }

    fn facts_of(&self, address: NicAddress, place: &Place) -> InterfaceFacts {
        let survey = self.surveys.get(&address.family()).filter(|survey| survey.is_of(address));
        let evidence: Vec<Evidence> = self.evidence(place).collect();
        let is_liar = |server| survey.is_some_and(|survey| survey.is_liar(server));
        let servers = self.resolved.values().flatten().filter(|server| is_askable(address, **server));
        InterfaceFacts {
            local: address.ip,
            prefix: address.prefix,
            scope: address.scope,
            listen: place.local.port(),
            external: agreed(&evidence, is_liar),
            external_udp: survey
                .filter(|survey| survey.address == address)
                .and_then(|survey| survey.external_udp),
            evidence,
            servers: servers.copied().collect(),
            pending: self.resolving.iter().cloned().collect(),
            probed: survey.and_then(|survey| survey.probed.clone()),
            silent_hop: survey.and_then(|survey| survey.silent_hop),
            is_surveyed: survey.is_none_or(|survey| survey.prober.is_none() && survey.seeker.is_none()),
        }
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

/// Listens on all of them, with `port` 0 on a port that is free on all, if one is found in a few tries: `last`, if it is not
/// 0, is the first that is tried.
fn listen(addresses: &[NicAddress], port: u16, last: u16) -> Vec<(NicAddress, io::Result<TcpListener>)> {
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
    for port in (last != 0).then_some(last).into_iter().chain([0; TRIES]) {
        let listeners = all(port);
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
        self.probe(ctx);
        self.tell();
        self.ask(ctx);
    }
}

/// Tells an interface, if there still is one.
fn tell<M: Message<Result = ()> + Send + 'static>(to: &WeakRecipient<M>, what: M) {
    if let Some(to) = to.upgrade() {
        to.do_send(what);
    }
}

/// What servers say of one port listened on.
struct FromObserver {
    /// Which, as it was given to the observer.
    local: SocketAddr,
    heard: Heard,
}

impl Message for FromObserver {
    type Result = ();
}

impl Handler<FromObserver> for Interface {
    type Result = ();

    fn handle(&mut self, FromObserver { local, heard }: FromObserver, _: &mut Context<Self>) {
        let Some(place) = self.places.values_mut().find(|place| place.local == local) else {
            return;
        };
        match heard {
            Heard::Answer(seen) => place.hear(seen.server, Outcome::Mapped(seen)),
            Heard::Failure { server, failure } => place.hear(server, Outcome::Failed(failure)),
            Heard::Done => {}
        }
        self.tell();
    }
}

/// What the probe of a family learned.
struct FromProber {
    family: Family,
    /// The round of asking it was begun for: an earlier one has no say any more.
    round: u64,
    learned: Learned,
}

impl Message for FromProber {
    type Result = ();
}

impl Handler<FromProber> for Interface {
    type Result = ();

    fn handle(&mut self, FromProber { family, round, learned }: FromProber, ctx: &mut Context<Self>) {
        let Some(survey) = self.surveys.get_mut(&family).filter(|survey| survey.round == round) else {
            return;
        };
        match learned {
            Learned::External { transport: Transport::Udp, mapped } => survey.external_udp = Some(mapped),
            // Over TCP the port listened on is asked about at the same time, and that is the better answer.
            Learned::External { .. } => {}
            Learned::Done(report) => {
                info!(nic = self.config.nic.name, %report, "network");
                survey.seeker = hop::wanted(&report).map(|config| {
                    let owner = ctx.address().downgrade().recipient();
                    let told = move |silent_hop| tell(&owner, FromSeeker { family, round, silent_hop });
                    Seeker::start(survey.address, config, Box::new(told))
                });
                if survey.seeker.is_none() {
                    survey.silent_hop = None;
                }
                survey.probed = Some(Probed { at: now(), report });
                survey.prober = None;
            }
        }
        self.tell();
    }
}

/// What the search for a silent hop came to.
struct FromSeeker {
    family: Family,
    /// As in [`FromProber`].
    round: u64,
    silent_hop: Option<u8>,
}

impl Message for FromSeeker {
    type Result = ();
}

impl Handler<FromSeeker> for Interface {
    type Result = ();

    fn handle(&mut self, told: FromSeeker, _: &mut Context<Self>) {
        let survey = self.surveys.get_mut(&told.family).filter(|survey| survey.round == told.round);
        if let Some(survey) = survey {
            survey.seeker = None;
            survey.silent_hop = told.silent_hop;
            self.tell();
        }
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
        self.places.values().for_each(|place| place.observer.anew());
        self.settle(ctx);
        self.probe(ctx);
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
        self.probe(ctx);
        self.tell();
        self.ask_again(ctx);
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
        self.places.clear();
        self.surveys.clear();
        ctx.stop();
    }
}
