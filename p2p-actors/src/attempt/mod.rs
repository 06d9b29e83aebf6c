//! One actor per connection attempt: it drives a [`Race`], owns the sockets, and hands over the winner.

mod answer;
mod lane;
mod punch;
mod relay;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    SpawnHandle, WrapFuture,
};
use p2p_core::attempt::{AttemptId, RefusalReason, Role, Trust};
use p2p_core::candidate::Candidate;
use p2p_core::peer::{PeerAddr, PeerId};
use p2p_core::proof::{ProofError, Stage};
use p2p_core::race::{Act, Event, Lane, LaneFailure, Race, RaceConfig};
use p2p_core::signal::{Body, Signal};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{Span, debug, debug_span, info};

pub(crate) use answer::{Answering, AnsweringEnded, Asked};
use punch::{Punches, Punching};
use relay::{Correspondence, Relaying, Relays};

use crate::carrier::CarrierStream;
use crate::config::ConnectOptions;
use crate::drive::{Driven, Drives, now, turn};
use crate::error::ConnectError;
use crate::prove::Proving;
use crate::shared::{Draft, Shared};
use crate::signal::{Delivered, Router, SendSignal};
use crate::winner::Winner;

/// Where the outcome of an attempt goes. Dropping the other end cancels the attempt.
type Reply = oneshot::Sender<Result<Winner, ConnectError>>;

/// What a user asked for.
pub(crate) struct Call {
    pub(crate) peer: PeerAddr,
    pub(crate) options: ConnectOptions,
    pub(crate) reply: Reply,
}

/// What is going on in one lane.
enum Work {
    /// Dialling, proving, or saying the last word.
    Busy(SpawnHandle),
    /// Proven, and waiting for the race's word.
    Proven(Box<Proving>),
}

/// A caller's attempt.
pub(crate) struct Attempt {
    shared: Rc<Shared>,
    router: Addr<Router>,
    driven: Driven<Race>,
    peer: PeerAddr,
    attempt: AttemptId,
    plain: bool,
    began: Instant,
    lanes: BTreeMap<Lane, Work>,
    punching: Punching,
    relaying: Relaying,
    reply: Option<Reply>,
    winner: Option<(Lane, Box<Winner>)>,
    span: Span,
    _ended: Ended,
}

/// An attempt is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AttemptEnded(pub(crate) AttemptId);

/// Says so when the actor is gone, whatever ended it: a panic too.
struct Ended {
    owner: Recipient<AttemptEnded>,
    attempt: AttemptId,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.owner.do_send(AttemptEnded(self.attempt));
    }
}

impl Attempt {
    /// An attempt for `call`, which tells `owner` when it is over. The peer can dial us only if this node
    /// `listens`.
    pub(crate) fn new(
        shared: Rc<Shared>,
        router: Addr<Router>,
        owner: Recipient<AttemptEnded>,
        attempt: AttemptId,
        call: Call,
        listens: bool,
    ) -> Self {
        let Call { peer, options, reply } = call;
        let span = debug_span!("attempt", %attempt, peer = %peer.id().short());
        let plain = options.plain;
        let config = RaceConfig {
            peer: peer.clone(),
            attempt,
            ours: shared.place.borrow().clone(),
            ways: options.ways,
            filter: options.filter,
            plain,
            can_signal: !peer.brokers().is_empty(),
            listens,
            punch: Some(shared.punch_setup(Trust::Known)),
            head_start: options.head_start,
            dial_delay: options.dial_delay,
            within: options.within,
        };
        let began = now();
        let driven = Driven::new(Race::new(config, began));
        Self {
            punching: Punching::new(Rc::clone(&shared), Trust::Known),
            relaying: Relaying::new(Rc::clone(&shared), Trust::Known, Role::Caller),
            shared,
            router,
            driven,
            peer,
            attempt,
            plain,
            began,
            lanes: BTreeMap::new(),
            reply: Some(reply),
            winner: None,
            span,
            _ended: Ended { owner, attempt },
        }
    }

    fn dial(&mut self, lane: Lane, candidate: Candidate, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, %lane, %candidate, "dial");
        let dialling = lane::dial(candidate).into_actor(self).map(move |dialled, this, ctx| match dialled {
            Ok(stream) => {
                this.driven.machine().handle_connected(lane, now());
                this.introduce(lane, stream, None, ctx);
            }
            Err(error) => this.fail(lane, error.into(), ctx),
        });
        let work = ctx.spawn(dialling);
        self.lanes.insert(lane, Work::Busy(work));
    }

    /// Begins a proof on a connection on which we speak first.
    fn introduce(
        &mut self,
        lane: Lane,
        stream: CarrierStream,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        let proof = self.shared.proof_dialled(self.peer.id(), self.attempt, Role::Caller, self.plain);
        self.prove(lane, Proving::new(stream, proof), seat, ctx);
    }

    /// Goes on with a proof until the peer is proven, and then gives up the seat.
    fn prove(
        &mut self,
        lane: Lane,
        mut proving: Proving,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        let proved = async move {
            let stage = proving.advance().await;
            drop(seat);
            (stage, proving)
        };
        let work = ctx.spawn(proved.into_actor(self).map(move |(stage, proving), this, ctx| match stage {
            Ok(Stage::Proven) => {
                this.lanes.insert(lane, Work::Proven(Box::new(proving)));
                this.driven.machine().handle_proven(lane, now());
                turn(this, ctx);
            }
            Ok(_) => this.fail(lane, ProofError::OutOfTurn.into(), ctx),
            Err(error) => this.fail(lane, error.into(), ctx),
        }));
        self.lanes.insert(lane, Work::Busy(work));
    }

    /// Says Go.
    fn keep(&mut self, lane: Lane, ctx: &mut Context<Self>) {
        let Some(Work::Proven(mut proving)) = self.lanes.remove(&lane) else { return };
        let kept = async move {
            proving.proof.go(now())?;
            match proving.advance().await? {
                Stage::Kept => Ok(proving),
                _ => Err(ProofError::OutOfTurn),
            }
        };
        let work = ctx.spawn(kept.into_actor(self).map(move |kept, this, ctx| match kept {
            Ok(proving) => this.kept(lane, *proving, ctx),
            Err(error) => this.fail(lane, error.into(), ctx),
        }));
        self.lanes.insert(lane, Work::Busy(work));
    }

    fn kept(&mut self, lane: Lane, proving: Proving, ctx: &mut Context<Self>) {
        let path = self.driven.machine().candidate(lane).map(|candidate| candidate.path);
        match self.shared.winner(proving, Draft { way: lane.way(), path, began: self.began }) {
            Some(winner) => {
                self.winner = Some((lane, Box::new(winner)));
                self.driven.machine().handle_kept(lane, now());
                turn(self, ctx);
            }
            None => self.fail(lane, ProofError::Lost.into(), ctx),
        }
    }

    fn fail(&mut self, lane: Lane, failure: LaneFailure, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, %lane, %failure, "lane failed");
        self.lanes.remove(&lane);
        self.relaying.on_failed(lane);
        self.driven.machine().handle_failed(lane, failure, now());
        turn(self, ctx);
    }

    fn drop_lane(&mut self, lane: Lane, ctx: &mut Context<Self>) {
        if let Some(Work::Busy(work)) = self.lanes.remove(&lane) {
            ctx.cancel_future(work);
        }
    }

    fn tell(&mut self, outcome: Result<Winner, ConnectError>) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits any more: then the connection is closed by being dropped.
            let _ = reply.send(outcome);
        }
    }
}

impl Actor for Attempt {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // A caller who drops the future of `connect` has changed their mind.
        if let Some(mut reply) = self.reply.take() {
            let (forward, outcome) = oneshot::channel();
            self.reply = Some(forward);
            let relay = async move {
                tokio::select! {
                    outcome = outcome => {
                        if let Ok(outcome) = outcome {
                            let _ = reply.send(outcome);
                        }
                        false
                    }
                    () = reply.closed() => true,
                }
            };
            ctx.spawn(relay.into_actor(self).map(|cancelled, this, ctx| {
                if cancelled {
                    debug!(parent: &this.span, "cancelled");
                    this.driven.machine().close(now());
                    turn(this, ctx);
                }
                ctx.stop();
            }));
        }
        turn(self, ctx);
    }
}

impl Drives for Attempt {
    type M = Race;

    fn driven(&mut self) -> &mut Driven<Race> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Dial(lane, candidate) => self.dial(lane, candidate, ctx),
            Act::Drop(lane) => self.drop_lane(lane, ctx),
            Act::Keep(lane) => self.keep(lane, ctx),
            Act::Punch(pair, act) => punch::perform(self, pair, act, ctx),
            Act::Relay(act) => {
                let with = Correspondence {
                    router: self.router.clone(),
                    peer: self.peer.clone(),
                    attempt: self.attempt,
                    back_on: None,
                    done: Some(ctx.address().recipient()),
                };
                relay::perform(self, act, with, ctx);
            }
            Act::Signal(body) => {
                let done = (body != Body::Bye).then(|| ctx.address().recipient());
                let (to, attempt) = (self.peer.clone(), self.attempt);
                self.router.do_send(SendSignal { to, attempt, body, back_on: None, done });
            }
        }
    }

    fn on_event(&mut self, event: Event, _: &mut Context<Self>) {
        let report = self.driven.machine().report(now());
        match (event, self.winner.take()) {
            (Event::Won(_), Some((_, mut winner))) => {
                info!(parent: &self.span, way = %winner.how.way, path = %winner.how.path, took = ?report.took, "connected");
                winner.how.report = Some(report);
                self.tell(Ok(*winner));
            }
            _ => {
                info!(parent: &self.span, took = ?report.took, "no connection");
                let offline = report.is_offline();
                let report = Box::new(report);
                self.tell(Err(if offline {
                    ConnectError::Offline(report)
                } else {
                    ConnectError::Failed(report)
                }));
            }
        }
    }
}

impl Punches for Attempt {
    fn punching(&mut self) -> &mut Punching {
        &mut self.punching
    }

    /// Whichever side's SYN came first, the caller speaks first.
    fn on_punched(
        &mut self,
        lane: Lane,
        stream: CarrierStream,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        self.introduce(lane, stream, seat, ctx);
    }
}

impl Relays for Attempt {
    fn relaying(&mut self) -> &mut Relaying {
        &mut self.relaying
    }

    /// Whoever lends the relay, the caller speaks first.
    fn on_relayed(&mut self, lane: Lane, stream: CarrierStream, ctx: &mut Context<Self>) {
        self.introduce(lane, stream, None, ctx);
    }
}

/// The peer dialled us, and says it is for this attempt.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Arrived(pub(crate) Proving);

impl Handler<Arrived> for Attempt {
    type Result = ();

    fn handle(&mut self, Arrived(mut proving): Arrived, ctx: &mut Context<Self>) {
        let remote = proving.stream.peer_addr();
        let lane = remote.ok().and_then(|remote| self.driven.machine().handle_arrival(remote, now()));
        let welcomed = match lane {
            Some(_) => proving.proof.welcome(self.plain, now()),
            None => proving.proof.refuse(RefusalReason::Expired, now()),
        };
        match (lane, welcomed) {
            (Some(lane), Ok(())) => self.prove(lane, proving, None, ctx),
            (Some(lane), Err(error)) => self.fail(lane, error.into(), ctx),
            // Nobody waits for the end of a refusal.
            (None, _) => drop(tokio::task::spawn_local(async move { proving.advance().await.is_ok() })),
        }
        turn(self, ctx);
    }
}

impl Handler<Delivered> for Attempt {
    type Result = ();

    fn handle(&mut self, Delivered { body, delivery }: Delivered, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, ?delivery, "signal");
        self.driven.machine().handle_delivery(&body, delivery, now());
        turn(self, ctx);
    }
}

/// The peer sent a signal for this attempt.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Heard(pub(crate) Box<Signal>);

impl Handler<Heard> for Attempt {
    type Result = ();

    fn handle(&mut self, Heard(signal): Heard, ctx: &mut Context<Self>) {
        if signal.sender.is_newer_than(&self.peer) {
            self.peer = signal.sender.clone();
        }
        self.driven.machine().handle_signal(&signal, now());
        turn(self, ctx);
    }
}

/// The node is closing.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

impl Handler<Stop> for Attempt {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
        let report = self.driven.machine().report(now());
        self.tell(Err(ConnectError::Cancelled(Box::new(report))));
    }
}

/// Which peer an attempt is for: what the root needs to route arrivals.
pub(crate) struct Registered {
    pub(crate) peer: PeerId,
    pub(crate) addr: Addr<Attempt>,
}
