//! The channel to one MQTT broker.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFuture, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, WrapFuture,
};
use futures_util::{Sink, SinkExt, Stream as _};
use p2p_core::Seed;
use p2p_core::signal::link::{Act, Config, Event, FailReason, Link, LinkError, MqttVersion, Packet};
use tokio_util::codec::Framed;
use tracing::{debug, info, trace};

use super::codec::Codec;
use super::dial::{Stream, dial};
use super::{Check, Close, Endpoint, Owned, Publish};
use crate::drive::{Driven, Drives, now, turn};

/// Packets read at a turn; then other actors have theirs.
const READS: usize = 32;
/// No more is read while this many packets wait to be written.
const MAX_OUTBOX: usize = 64;
/// What was sent before a hang-up may take this long to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Drives a [`Link`] over a socket.
pub(super) struct Mqtt {
    owned: Owned,
    endpoint: Rc<Endpoint>,
    driven: Driven<Link>,
    dial: Option<SpawnHandle>,
    wire: Option<Wire>,
    wires: u64,
    farewells: u32,
    closing: bool,
}

impl Mqtt {
    pub(super) fn new(owned: Owned, endpoint: Endpoint, link: Config, seed: Seed) -> Self {
        Self {
            owned,
            endpoint: Rc::new(endpoint),
            driven: Driven::new(Link::new(link, seed, now())),
            dial: None,
            wire: None,
            wires: 0,
            farewells: 0,
            closing: false,
        }
    }

    fn start_dial(&mut self, protocol: MqttVersion, ctx: &mut Context<Self>) {
        let endpoint = self.endpoint.clone();
        let dialling = async move { dial(&endpoint).await };
        let dialling = dialling.into_actor(self).map(move |dialled, actor, ctx| {
            actor.dial = None;
            match dialled {
                Ok(stream) => {
                    actor.start_wire(stream, protocol, ctx);
                    actor.driven.machine().handle_connected(now());
                }
                Err(error) => actor.driven.machine().handle_lost(error, now()),
            }
            turn(actor, ctx);
        });
        self.dial = Some(ctx.spawn(dialling));
    }

    fn start_wire(&mut self, stream: Box<dyn Stream>, protocol: MqttVersion, ctx: &mut Context<Self>) {
        self.wires += 1;
        self.wire = Some(Wire {
            number: self.wires,
            framed: Framed::new(stream, Codec::new(protocol)),
            outbox: VecDeque::new(),
            flushed: true,
            waker: None,
        });
        ctx.spawn(Converse { wire: self.wires });
    }

    fn hang_up(&mut self, ctx: &mut Context<Self>) {
        if let Some(dial) = self.dial.take() {
            ctx.cancel_future(dial);
        }
        if let Some(wire) = self.wire.take() {
            self.farewells += 1;
            let farewell = wire.farewell().into_actor(self).map(|(), actor, ctx| {
                actor.farewells -= 1;
                actor.stop_when_closed(ctx);
            });
            ctx.spawn(farewell);
        }
    }

    fn stop_when_closed(&mut self, ctx: &mut Context<Self>) {
        if self.closing && self.farewells == 0 {
            let counters = self.driven.machine().counters();
            debug!(channel = self.owned.id, ?counters, "channel closed");
            ctx.stop();
        }
    }
}

impl Actor for Mqtt {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        turn(self, ctx);
    }
}

impl Drives for Mqtt {
    type M = Link;

    fn driven(&mut self) -> &mut Driven<Link> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Dial(protocol) => self.start_dial(protocol, ctx),
            Act::Send(packet) => {
                if let Some(wire) = &mut self.wire {
                    wire.send(packet);
                }
            }
            Act::HangUp => self.hang_up(ctx),
        }
    }

    fn on_event(&mut self, event: Event, _: &mut Context<Self>) {
        let Endpoint { host, port, .. } = &*self.endpoint;
        match &event {
            Event::Up => info!(channel = self.owned.id, host, port, "broker up"),
            Event::Down { reason, retry_in } => {
                info!(channel = self.owned.id, host, port, %reason, ?retry_in, "broker down");
            }
            Event::Delivered { .. } | Event::Failed { .. } => debug!(channel = self.owned.id, ?event),
            Event::Received { payload } => trace!(channel = self.owned.id, bytes = payload.len(), "received"),
        }
        self.owned.tell(event);
    }
}

impl Handler<Publish> for Mqtt {
    type Result = ();

    fn handle(&mut self, message: Publish, ctx: &mut Self::Context) {
        self.owned.door.leave();
        let Publish { ticket, topic, payload, until } = message;
        let link = self.driven.machine();
        if let Err(error) = link.publish(ticket, topic, payload, until, now()) {
            self.owned.tell(Event::Failed { ticket, reason: FailReason::NotTaken(error) });
        }
        turn(self, ctx);
    }
}

impl Handler<Check> for Mqtt {
    type Result = ();

    fn handle(&mut self, _: Check, ctx: &mut Self::Context) {
        self.driven.machine().handle_network_changed(now());
        turn(self, ctx);
    }
}

impl Handler<Close> for Mqtt {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        self.closing = true;
        self.driven.machine().close(now());
        turn(self, ctx);
        self.stop_when_closed(ctx);
    }
}

/// One connection. It lives in the actor, so that no channel of any size lies between.
struct Wire {
    number: u64,
    framed: Framed<Box<dyn Stream>, Codec>,
    /// Bounded by what the link may have under way, and by [`MAX_OUTBOX`] for answers to what is read.
    outbox: VecDeque<Packet>,
    flushed: bool,
    waker: Option<Waker>,
}

impl Wire {
    fn send(&mut self, packet: Packet) {
        trace!(?packet, "to the broker");
        self.outbox.push_back(packet);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Writes all it can, then reads one packet.
    fn poll_packet(&mut self, task: &mut Task<'_>) -> Poll<Result<Packet, LinkError>> {
        self.waker = Some(task.waker().clone());
        let mut framed = Pin::new(&mut self.framed);
        while !self.outbox.is_empty() {
            match framed.as_mut().poll_ready(task) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(packet) = self.outbox.pop_front()
                && let Err(error) = framed.as_mut().start_send(packet)
            {
                return Poll::Ready(Err(error.into()));
            }
            self.flushed = false;
        }
        if !self.flushed {
            match framed.as_mut().poll_flush(task) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) => self.flushed = true,
            }
        }
        if self.outbox.len() >= MAX_OUTBOX {
            return Poll::Pending;
        }
        framed.poll_next(task).map(|read| match read {
            Some(Ok(packet)) => Ok(packet),
            Some(Err(error)) => Err(error.into()),
            None => Err(LinkError::Lost("closed by the broker".into())),
        })
    }

    /// Sends what is left and closes, or gives up after [`FAREWELL`].
    async fn farewell(mut self) {
        let rest = async {
            for packet in self.outbox {
                self.framed.feed(packet).await?;
            }
            self.framed.close().await
        };
        match tokio::time::timeout(FAREWELL, rest).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "no farewell"),
            Err(_) => debug!("no farewell in time"),
        }
    }
}

/// Reads and writes one wire as long as the actor has it.
struct Converse {
    wire: u64,
}

impl ActorFuture<Mqtt> for Converse {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut Mqtt,
        ctx: &mut Context<Mqtt>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        for _ in 0..READS {
            let Some(wire) = actor.wire.as_mut().filter(|wire| wire.number == self.wire) else {
                return Poll::Ready(());
            };
            match wire.poll_packet(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(packet)) => actor.driven.machine().handle_packet(packet, now()),
                Poll::Ready(Err(error)) => {
                    actor.wire = None;
                    actor.driven.machine().handle_lost(error, now());
                }
            }
            turn(actor, ctx);
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
