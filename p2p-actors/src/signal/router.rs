//! All signalling of one node: which channels there are, what goes out on which, and who gets what comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{
    Actor, AsyncContext, Context, Handler, Message, Recipient, ResponseActFuture, SpawnHandle, WrapFuture,
};
use p2p_core::peer::{BrokerUrl, PeerAddr, PeerId, Scheme};
use p2p_core::signal::link::Login;
use p2p_core::signal::{
    AttemptId, Body, BrokerTrouble, Delivery, Inbox, InboxConfig, InboxEvent, InboxLimits, Scribe, Signal,
    Tally,
};
use p2p_core::{Machine, Output};
use tracing::{debug, warn};

use super::{Bind, Broker, Channel, ChannelConfig, ChannelEvent, Endpoint, FromChannel, MemoryBroker, Tls};
use crate::attempt::Delivered;
use crate::config::BrokerConfig;
use crate::drive::{Driven, Drives, now, turn};
use crate::shared::{Shared, entropy};

/// How long a signal means something.
const TTL: Duration = Duration::from_secs(30);
/// How long brokers may take to accept one.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Brokers of other peers that we hold a connection to for their sake.
const MOST_GUESTS: usize = 16;
/// How long such a connection is kept after it was last used.
const GUEST_LEASE: Duration = Duration::from_secs(60);
/// How often to look whether the channels are closed, while a node ends.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long the answers of a peer that we asked are heard, when it is on no list.
const HEARD_FOR: Duration = Duration::from_secs(120);
/// Signals on their way out at once.
const MOST_PENDING: usize = 512;

/// What a broker is to us.
struct Line {
    url: BrokerUrl,
    channel: Channel,
    state: BrokerState,
    /// For a broker of another peer's, when we last needed it. Our own are for ever.
    guest: Option<Instant>,
}

/// How a broker does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerState {
    /// The first connection is under way.
    Connecting,
    /// It takes and brings signals.
    Up,
    /// It does not, for this reason; it is tried again.
    Down(String),
}

/// One signal on its way out, over some channels.
struct Pending {
    tally: Tally,
    body: Body,
    done: Recipient<Delivered>,
    timer: Option<SpawnHandle>,
}

/// Owns every channel, the inbox and the pen.
pub(crate) struct Router {
    shared: Rc<Shared>,
    memory: Option<MemoryBroker>,
    own: Vec<BrokerConfig>,
    owner: Recipient<FromRouter>,
    inbox: Driven<Inbox>,
    scribe: Scribe,
    /// Whose signals are heard, apart from those we called.
    allowed: Option<BTreeSet<PeerId>>,
    /// Whom we asked something, and when: their answers are heard.
    called: BTreeMap<PeerId, Instant>,
    lines: BTreeMap<u32, Line>,
    pending: BTreeMap<u64, Pending>,
    next_channel: u32,
    next_ticket: u64,
}

/// What the router tells the root.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum FromRouter {
    /// A broker of our own configuration changed.
    Broker(BrokerUrl, BrokerState),
    /// Somebody sent us a signal.
    Signal { signal: Box<Signal>, channel: u32 },
}

/// Asks for a signal to be written and sent.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SendSignal {
    pub(crate) to: PeerAddr,
    pub(crate) attempt: AttemptId,
    pub(crate) body: Body,
    /// The channel the peer spoke on, for an answer. A question goes to every broker the peer publishes.
    pub(crate) back_on: Option<u32>,
    pub(crate) done: Option<Recipient<Delivered>>,
}

/// Our own address changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SetAddress(pub(crate) PeerAddr);

/// The shared clock was replaced.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SetClock;

/// The node is closing.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CloseRouter;

impl Router {
    pub(crate) fn new(
        shared: Rc<Shared>,
        own: Vec<BrokerConfig>,
        memory: Option<MemoryBroker>,
        allowed: Option<BTreeSet<PeerId>>,
        owner: Recipient<FromRouter>,
    ) -> Self {
        let config = InboxConfig {
            identity: shared.identity.clone(),
            clock: shared.clock.get(),
            limits: InboxLimits::default(),
        };
        let mut inbox = Inbox::new(config, shared.fork("inbox"), now());
        inbox.set_allowed(allowed.clone());
        let scribe = Scribe::new(shared.identity.clone(), shared.clock.get(), shared.fork("scribe"));
        Self {
            shared,
            memory,
            own,
            owner,
            inbox: Driven::new(inbox),
            scribe,
            allowed,
            called: BTreeMap::new(),
            lines: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_channel: 0,
            next_ticket: 0,
        }
    }

    /// Opens a channel to a broker.
    fn open(&mut self, config: &BrokerConfig, guest: bool, ctx: &mut Context<Self>) -> Option<u32> {
        let broker = self.endpoint(config)?;
        let id = self.next_channel;
        self.next_channel += 1;
        let topic = self.shared.identity.id().topic();
        let seed = self.shared.fork("channel");
        let channel = super::open(ChannelConfig { id, broker, topic, seed }, ctx.address().recipient());
        let guest = guest.then(now);
        let line = Line { url: config.url.clone(), channel, state: BrokerState::Connecting, guest };
        self.lines.insert(id, line);
        Some(id)
    }

    fn endpoint(&self, config: &BrokerConfig) -> Option<Broker> {
        let url = &config.url;
        if url.scheme() == Scheme::Memory {
            return self.memory.clone().map(Broker::Memory);
        }
        let login = config.login.clone();
        Some(Broker::Mqtt(Endpoint {
            host: url.host().to_string(),
            port: url.port()?,
            tls: url.is_tls().then(|| Tls { ca_file: config.ca_file.clone() }),
            protocol: url.version(),
            login: login.map(|(user, password)| Login { user, password }),
            bind: Bind { address: config.bind, device: None },
        }))
    }

    /// The channels over which a peer listens, opening those that are missing.
    fn channels_to(&mut self, peer: &PeerAddr, ctx: &mut Context<Self>) -> Vec<u32> {
        let mut found = Vec::new();
        for url in peer.brokers() {
            let known = self.lines.iter_mut().find(|(_, line)| line.url == *url);
            if let Some((id, line)) = known {
                line.guest = line.guest.map(|_| now());
                found.push(*id);
            } else {
                debug!(%url, "a broker of the peer's");
                self.make_room_for_guest(ctx);
                found.extend(self.open(&BrokerConfig::new(url.clone()), true, ctx));
            }
        }
        found
    }

    /// With an allow-list, strangers' signals are dropped unanswered: any answer would tell them where we are. Those
    /// we asked may answer.
    fn hear(&mut self, peer: PeerId) {
        let Some(mut allowed) = self.allowed.clone() else { return };
        let now = now();
        self.called.retain(|_, asked| now < *asked + HEARD_FOR);
        if self.called.len() < MOST_PENDING {
            self.called.insert(peer, now);
        }
        allowed.extend(self.called.keys());
        self.inbox.machine().set_allowed(Some(allowed));
    }

    /// Writes a signal once and gives it to every channel at once.
    fn send(&mut self, send: SendSignal, ctx: &mut Context<Self>) {
        let SendSignal { to, attempt, body, back_on, done } = send;
        let channels = match back_on {
            Some(channel) => vec![channel],
            None => {
                self.hear(to.id());
                self.channels_to(&to, ctx)
            }
        };
        let written = entropy().map_err(|error| error.to_string()).and_then(|entropy| {
            self.scribe.stir(entropy);
            let written = self.scribe.write(to.id(), attempt, body.clone(), TTL, now());
            written.map_err(|error| error.to_string())
        });
        let sealed = match written {
            Ok(sealed) => sealed,
            Err(error) => {
                warn!(%error, "a signal could not be written");
                let trouble = BrokerTrouble { broker: "this node".to_owned(), reason: error };
                return tell(done, body, Delivery::NoBroker(vec![trouble]));
            }
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let brokers = channels.iter().filter_map(|id| Some((*id, self.lines.get(id)?.url.to_string())));
        let mut tally = Tally::new(brokers.collect(), SEND_WITHIN, now());
        for id in channels {
            let Some(line) = self.lines.get(&id) else { continue };
            let topic = to.id().topic();
            let sent = line.channel.publish(ticket, topic, sealed.clone(), now() + SEND_WITHIN);
            if let Err(error) = sent {
                tally.handle_failed(id, error.to_string(), now());
            } else if let BrokerState::Down(reason) = &line.state {
                tally.handle_trouble(id, reason.clone(), now());
            }
        }
        let Some(done) = done else { return };
        if self.pending.len() >= MOST_PENDING {
            let reason = format!("{MOST_PENDING} signals are under way already");
            let trouble = BrokerTrouble { broker: "this node".to_owned(), reason };
            return tell(Some(done), body, Delivery::NoBroker(vec![trouble]));
        }
        self.pending.insert(ticket, Pending { tally, body, done, timer: None });
        self.settle(ticket, ctx);
    }

    /// Tells the sender, as soon as it is certain.
    fn settle(&mut self, ticket: u64, ctx: &mut Context<Self>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        if let Some(timer) = pending.timer.take() {
            ctx.cancel_future(timer);
        }
        match pending.tally.poll_output() {
            Output::Event(delivery) => {
                if let Some(pending) = self.pending.remove(&ticket) {
                    pending.done.do_send(Delivered { body: pending.body, delivery });
                }
            }
            Output::Wait(Some(deadline)) => {
                let wait = deadline.at.saturating_duration_since(now());
                pending.timer = Some(ctx.run_later(wait, move |this, ctx| {
                    if let Some(pending) = this.pending.get_mut(&ticket) {
                        pending.timer = None;
                        pending.tally.handle_timeout(now());
                    }
                    this.settle(ticket, ctx);
                }));
            }
            Output::Wait(None) => drop(self.pending.remove(&ticket)),
            Output::Act(never) => match never {},
        }
    }

    fn on_state(&mut self, channel: u32, state: BrokerState, ctx: &mut Context<Self>) {
        let Some(line) = self.lines.get_mut(&channel) else { return };
        if line.state == state {
            return;
        }
        line.state = state.clone();
        if line.guest.is_none() {
            self.owner.do_send(FromRouter::Broker(line.url.clone(), state.clone()));
        }
        if let BrokerState::Down(reason) = state {
            let tickets: Vec<u64> = self.pending.keys().copied().collect();
            for ticket in tickets {
                if let Some(pending) = self.pending.get_mut(&ticket) {
                    pending.tally.handle_trouble(channel, reason.clone(), now());
                }
                self.settle(ticket, ctx);
            }
        }
    }

    /// Lets the guest go that was used least recently, if there are too many, and looks after the others.
    fn make_room_for_guest(&mut self, ctx: &mut Context<Self>) {
        let guests: Vec<_> = self.lines.iter().filter_map(|(id, line)| Some((line.guest?, *id))).collect();
        if guests.is_empty() {
            ctx.run_later(GUEST_LEASE, Self::drop_idle_guests);
        }
        if guests.len() >= MOST_GUESTS
            && let Some((_, oldest)) = guests.iter().min()
        {
            self.lines.remove(oldest);
        }
    }

    fn drop_idle_guests(&mut self, ctx: &mut Context<Self>) {
        let now = now();
        self.lines.retain(|_, line| line.guest.is_none_or(|used| now < used + GUEST_LEASE));
        if self.lines.values().any(|line| line.guest.is_some()) {
            ctx.run_later(GUEST_LEASE, Self::drop_idle_guests);
        }
    }
}

/// Tells a sender, if it wants to know.
fn tell(done: Option<Recipient<Delivered>>, body: Body, delivery: Delivery) {
    if let Some(done) = done {
        done.do_send(Delivered { body, delivery });
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for config in std::mem::take(&mut self.own) {
            if self.open(&config, false, ctx).is_none() {
                let state = BrokerState::Down("this node was given no in-process broker".to_owned());
                self.owner.do_send(FromRouter::Broker(config.url.clone(), state));
            }
        }
        turn(self, ctx);
    }
}

impl Drives for Router {
    type M = Inbox;

    fn driven(&mut self) -> &mut Driven<Inbox> {
        &mut self.inbox
    }

    fn on_act(&mut self, act: <Inbox as Machine>::Act, _: &mut Context<Self>) {
        match act {}
    }

    fn on_event(&mut self, event: InboxEvent, _: &mut Context<Self>) {
        let InboxEvent::Signal { signal, channel } = event;
        self.owner.do_send(FromRouter::Signal { signal, channel });
    }
}

impl Handler<FromChannel> for Router {
    type Result = ();

    fn handle(&mut self, FromChannel { channel, what }: FromChannel, ctx: &mut Context<Self>) {
        match what {
            ChannelEvent::Up => self.on_state(channel, BrokerState::Up, ctx),
            ChannelEvent::Down { reason, .. } => {
                self.on_state(channel, BrokerState::Down(reason.to_string()), ctx);
            }
            ChannelEvent::Delivered { ticket, subscribers } => {
                if let Some(pending) = self.pending.get_mut(&ticket) {
                    pending.tally.handle_delivered(channel, subscribers, now());
                    self.settle(ticket, ctx);
                }
            }
            ChannelEvent::Failed { ticket, reason } => {
                if let Some(pending) = self.pending.get_mut(&ticket) {
                    pending.tally.handle_failed(channel, reason.to_string(), now());
                    self.settle(ticket, ctx);
                }
            }
            ChannelEvent::Received { payload } => {
                self.inbox.machine().handle_sealed(channel, &payload, now());
                turn(self, ctx);
            }
        }
    }
}

impl Handler<SendSignal> for Router {
    type Result = ();

    fn handle(&mut self, send: SendSignal, ctx: &mut Context<Self>) {
        self.send(send, ctx);
    }
}

impl Handler<SetAddress> for Router {
    type Result = ();

    fn handle(&mut self, SetAddress(address): SetAddress, _: &mut Context<Self>) {
        if let Err(error) = self.scribe.set_address(address) {
            warn!(%error, "own address");
        }
    }
}

impl Handler<SetClock> for Router {
    type Result = ();

    fn handle(&mut self, _: SetClock, ctx: &mut Context<Self>) {
        let clock = self.shared.clock.get();
        self.scribe.set_clock(clock);
        self.inbox.machine().handle_clock(clock, now());
        turn(self, ctx);
    }
}

impl Handler<CloseRouter> for Router {
    type Result = ResponseActFuture<Self, ()>;

    /// Answers when every channel has said its farewell.
    fn handle(&mut self, _: CloseRouter, _: &mut Context<Self>) -> Self::Result {
        self.inbox.machine().close(now());
        let lines = std::mem::take(&mut self.lines);
        lines.values().for_each(|line| line.channel.close());
        let gone = async move {
            let mut look = tokio::time::interval(LOOK_AGAIN);
            while lines.values().any(|line| line.channel.is_open()) {
                look.tick().await;
            }
        };
        Box::pin(gone.into_actor(self))
    }
}
