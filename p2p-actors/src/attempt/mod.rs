//! One actor per connection attempt, on either side of it: it turns a [`connect::Attempt`](p2p_core::connect::Attempt),
//! owns the sockets, and hands over the connection that is kept.

mod lane;
mod punch;
mod relay;
mod sited;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    SpawnHandle, WrapFuture,
};
use p2p_core::attempt::{AttemptId, RefusalReason, Role, Trust};
use p2p_core::candidate::Candidate;
use p2p_core::connect::{self, Act, AnswerConfig, CallConfig, Event, Lane, LaneFailure, LaneInput};
use p2p_core::peer::PeerAddr;
use p2p_core::proof::{Claim, ProofError, Stage};
use p2p_core::signal::{Body, Signal};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{Span, debug, debug_span, info};

use punch::Punching;
use relay::Relaying;
use sited::Sited;

use crate::carrier::CarrierStream;
use crate::config::ConnectOptions;
use crate::drive::{Driven, Drives, now, turn};
use crate::error::ConnectError;
use crate::established::Established;
use crate::prove::Proving;
use crate::shared::{Draft, Shared};
use crate::signal::{Delivered, Router, SendSignal};

/// Where the outcome of a call goes. Dropping the other end cancels the attempt.
type Reply = oneshot::Sender<Result<Established, ConnectError>>;

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
    /// Proven, and waiting for the attempt's word.
    Proven(Box<Proving>),
}

/// An attempt, on either side.
pub(crate) struct Attempt {
    shared: Rc<Shared>,
    router: Addr<Router>,
    driven: Driven<Sited>,
    id: AttemptId,
    role: Role,
    plain: bool,
    /// The channel the caller spoke on, when it began.
    back_on: Option<u32>,
    began: Instant,
    lanes: BTreeMap<Lane, Work>,
    punching: Punching,
    relaying: Relaying,
    reply: Option<Reply>,
    span: Span,
    ended: Ended,
}

/// An attempt is over. What an answerer has kept is handed over with it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AttemptEnded {
    pub(crate) id: AttemptId,
    pub(crate) role: Role,
    pub(crate) established: Option<Box<Established>>,
}

/// Says so when the actor is gone, whatever ended it: a panic too.
struct Ended {
    owner: Recipient<AttemptEnded>,
    id: AttemptId,
    role: Role,
    established: Option<Box<Established>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let (id, role, established) = (self.id, self.role, self.established.take());
        self.owner.do_send(AttemptEnded { id, role, established });
    }
}

impl Attempt {
    /// Makes `call`, and tells `owner` when it is over.
    pub(crate) fn call(
        shared: Rc<Shared>,
        router: Addr<Router>,
        owner: Recipient<AttemptEnded>,
        id: AttemptId,
        call: Call,
    ) -> Self {
        let Call { peer, options, reply } = call;
        let span = debug_span!("attempt", attempt = %id, peer = %peer.id().short());
        let plain = options.plain;
        let config = CallConfig {
            peer,
            attempt: id,
            ways: options.ways,
            filter: options.filter,
            plain,
            head_start: options.head_start,
            dial_delay: options.dial_delay,
            within: options.within,
        };
        let attempt = shared.with_view(|view| connect::Attempt::call(config, view, now()));
        let attempt = Self::new(shared, router, owner, attempt, Trust::Known, span);
        Self { plain, reply: Some(reply), ..attempt }
    }

    /// Answers the sender of `signal`, which came over `channel`.
    pub(crate) fn answer(
        shared: Rc<Shared>,
        router: Addr<Router>,
        owner: Recipient<AttemptEnded>,
        signal: &Signal,
        channel: u32,
        trust: Trust,
    ) -> Self {
        let peer = signal.sender.clone();
        let span = debug_span!("answer", attempt = %signal.attempt, caller = %peer.id().short());
        let config = AnswerConfig { peer, attempt: signal.attempt, trust };
        let mut attempt = connect::Attempt::answer(config, now());
        shared.with_view(|view| attempt.handle_signal(signal, view, now()));
        let plain = shared.plain;
        let attempt = Self::new(shared, router, owner, attempt, trust, span);
        Self { plain, back_on: Some(channel), ..attempt }
    }

    fn new(
        shared: Rc<Shared>,
        router: Addr<Router>,
        owner: Recipient<AttemptEnded>,
        attempt: connect::Attempt,
        trust: Trust,
        span: Span,
    ) -> Self {
        let (id, role) = (attempt.id(), attempt.role());
        Self {
            driven: Driven::new(Sited::new(attempt, Rc::clone(&shared))),
            id,
            role,
            plain: false,
            back_on: None,
            began: now(),
            lanes: BTreeMap::new(),
            punching: Punching::new(trust),
            relaying: Relaying::new(Rc::clone(&shared), trust, role),
            reply: None,
            span,
            ended: Ended { owner, id, role, established: None },
            shared,
            router,
        }
    }

    fn attempt(&mut self) -> &connect::Attempt {
        self.driven.machine().attempt()
    }

    fn tell_lane(&mut self, lane: Lane, input: LaneInput) {
        self.driven.machine().feed(|attempt, view| attempt.handle_lane(lane, input, view, now()));
    }

    fn dial(&mut self, lane: Lane, candidate: Candidate, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, %lane, %candidate, "dial");
        let (shared, role) = (Rc::clone(&self.shared), self.role);
        let dialled = async move {
            // Others' wishes wait for each other, never for ours.
            let permit = match role {
                Role::Caller => None,
                Role::Answerer => {
                    let permit = Arc::clone(&shared.dials_for_peers).acquire_owned().await;
                    Some(permit.map_err(|_| LaneFailure::NotTried)?)
                }
            };
            Ok((lane::dial(candidate).await?, permit))
        };
        let work = ctx.spawn(dialled.into_actor(self).map(move |dialled, this, ctx| match dialled {
            Ok((stream, permit)) => {
                this.tell_lane(lane, LaneInput::Connected);
                this.introduce(lane, stream, permit, ctx);
            }
            Err(failure) => this.fail(lane, failure, ctx),
        }));
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
        let peer = self.attempt().peer().id();
        let proof = self.shared.proof_dialled(peer, self.id, self.role, self.plain);
        self.prove(lane, Proving::new(stream, proof), seat, ctx);
    }

    /// Begins a proof on a connection that a punch or a relay brought about. Whichever side's SYN came first, or
    /// whoever lends the relay, the caller speaks first.
    fn meet(
        &mut self,
        lane: Lane,
        stream: CarrierStream,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        if self.role == Role::Caller {
            return self.introduce(lane, stream, seat, ctx);
        }
        let wanted = Claim { peer: self.attempt().peer().id(), attempt: self.id, role: self.role };
        let (proof, plain) = (self.shared.proof_arrived(), self.plain);
        let proved = async move {
            let mut proving = Proving::new(stream, proof);
            let stage = proving.advance().await?;
            match (stage, proving.proof.claim()) {
                (Stage::Deciding, Some(claim)) if claim == wanted => proving.proof.welcome(plain, now())?,
                _ => return Err(ProofError::Stranger),
            }
            let stage = proving.advance().await?;
            drop(seat);
            Ok((stage, proving))
        };
        self.spawn_proof(lane, proved, ctx);
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
            let stage = proving.advance().await?;
            drop(seat);
            Ok((stage, proving))
        };
        self.spawn_proof(lane, proved, ctx);
    }

    fn spawn_proof(
        &mut self,
        lane: Lane,
        proof: impl Future<Output = Result<(Stage, Proving), ProofError>> + 'static,
        ctx: &mut Context<Self>,
    ) {
        let work = ctx.spawn(proof.into_actor(self).map(move |proved, this, ctx| match proved {
            Ok((Stage::Proven, proving)) => {
                this.lanes.insert(lane, Work::Proven(Box::new(proving)));
                this.tell_lane(lane, LaneInput::Proven);
                turn(this, ctx);
            }
            Ok((Stage::Kept, proving)) => this.kept(lane, proving, ctx),
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
            Ok((proving.advance().await?, *proving))
        };
        self.spawn_proof(lane, kept, ctx);
    }

    fn kept(&mut self, lane: Lane, proving: Proving, ctx: &mut Context<Self>) {
        let path = self.attempt().candidate(lane).map(|candidate| candidate.path);
        let way = self.attempt().way(lane);
        match self.shared.established(proving, Draft { way, path, began: self.began }) {
            Some(established) => {
                self.ended.established = Some(Box::new(established));
                self.tell_lane(lane, LaneInput::Kept);
                turn(self, ctx);
            }
            None => self.fail(lane, ProofError::Lost.into(), ctx),
        }
    }

    fn fail(&mut self, lane: Lane, failure: LaneFailure, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, %lane, %failure, "lane failed");
        self.lanes.remove(&lane);
        self.relaying.on_failed(lane);
        self.tell_lane(lane, LaneInput::Failed(failure));
        turn(self, ctx);
    }

    fn drop_lane(&mut self, lane: Lane, ctx: &mut Context<Self>) {
        if let Some(Work::Busy(work)) = self.lanes.remove(&lane) {
            ctx.cancel_future(work);
        }
    }

    fn tell(&mut self, outcome: Result<Established, ConnectError>) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits any more: then the connection is closed by being dropped.
            let _ = reply.send(outcome);
        }
    }

    /// A caller who drops the future of `connect` has changed their mind.
    fn mind_the_caller(&mut self, ctx: &mut Context<Self>) {
        let Some(mut reply) = self.reply.take() else { return };
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
}

impl Actor for Attempt {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.mind_the_caller(ctx);
        turn(self, ctx);
    }
}

impl Drives for Attempt {
    type M = Sited;

    fn driven(&mut self) -> &mut Driven<Sited> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Dial(index, candidate) => self.dial(Lane::Dialled(index), candidate, ctx),
            Act::Drop(lane) => self.drop_lane(lane, ctx),
            Act::Keep(lane) => self.keep(lane, ctx),
            Act::Punch(pair, act) => self.punch(pair, act, ctx),
            Act::Relay(act) => self.relay(act, ctx),
            Act::Signal(body) => {
                let is_told = self.role == Role::Caller && body != Body::Bye;
                let done = is_told.then(|| ctx.address().recipient());
                let to = self.attempt().peer().clone();
                let (attempt, back_on) = (self.id, self.back_on);
                self.router.do_send(SendSignal { to, attempt, body, back_on, done });
            }
        }
    }

    fn on_event(&mut self, event: Event, ctx: &mut Context<Self>) {
        if self.role == Role::Answerer {
            debug!(parent: &self.span, ?event, "over");
            return ctx.stop();
        }
        let report = self.attempt().report(now());
        match (event, self.ended.established.take()) {
            (Event::Won(_), Some(mut established)) => {
                let info = &mut established.info;
                info!(parent: &self.span, way = %info.way, path = %info.path, took = ?report.took, "connected");
                info.report = Some(report);
                self.tell(Ok(*established));
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

/// The peer dialled us, and says it is for this attempt.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Arrived(pub(crate) Proving);

impl Handler<Arrived> for Attempt {
    type Result = ();

    fn handle(&mut self, Arrived(mut proving): Arrived, ctx: &mut Context<Self>) {
        let remote = proving.stream.peer_addr();
        let machine = self.driven.machine();
        let lane = remote
            .ok()
            .and_then(|remote| machine.feed(|attempt, view| attempt.handle_arrival(remote, view, now())));
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
        let machine = self.driven.machine();
        machine.feed(|attempt, view| attempt.handle_delivery(&body, delivery, view, now()));
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
        self.driven.machine().feed(|attempt, view| attempt.handle_signal(&signal, view, now()));
        turn(self, ctx);
    }
}

/// What is known of the networks of this node has changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct NetworkChanged;

impl Handler<NetworkChanged> for Attempt {
    type Result = ();

    fn handle(&mut self, _: NetworkChanged, ctx: &mut Context<Self>) {
        self.driven.machine().feed(|attempt, view| attempt.handle_network_changed(view, now()));
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
        match self.role {
            Role::Caller => {
                let report = self.attempt().report(now());
                self.tell(Err(ConnectError::Cancelled(Box::new(report))));
            }
            Role::Answerer => ctx.stop(),
        }
    }
}
