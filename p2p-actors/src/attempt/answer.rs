//! The mirror side: one actor per attempt of a peer that asked us to dial it, to punch, or to meet at a relay.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    SpawnHandle, WrapFuture,
};
use p2p_core::attempt::{AttemptId, Path, Role, Trust, Way};
use p2p_core::candidate::{Candidate, Filter, candidates};
use p2p_core::peer::PeerAddr;
use p2p_core::proof::{Claim, ProofError, Stage};
use p2p_core::race::{Act, Answer, DIAL_DELAY, Event, Lane, LaneFailure};
use p2p_core::signal::{Body, Signal};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Span, debug, debug_span};

use super::punch::{self, Punches, Punching};
use super::relay::{self, Correspondence, Relaying, Relays};
use super::{Stop, lane};
use crate::carrier::CarrierStream;
use crate::drive::{Driven, Drives, now, turn};
use crate::prove::Proving;
use crate::shared::{Draft, Shared};
use crate::signal::{Router, SendSignal};
use crate::winner::Winner;

/// An actor with nothing left to do waits so long for another offer of its caller.
const LINGER: Duration = Duration::from_secs(1);

/// Dials somebody who asked for it, punches with them, or meets them at a relay.
pub(crate) struct Answering {
    shared: Rc<Shared>,
    router: Addr<Router>,
    driven: Driven<Answer>,
    caller: PeerAddr,
    attempt: AttemptId,
    channel: u32,
    began: Instant,
    lanes: BTreeMap<Lane, SpawnHandle>,
    trust: Trust,
    /// A punch or a relay was offered: more may follow in its place.
    is_offered: bool,
    punching: Punching,
    relaying: Relaying,
    ended: Ended,
    span: Span,
}

/// An answer is over, with or without a connection.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AnsweringEnded {
    pub(crate) attempt: AttemptId,
    pub(crate) winner: Option<Box<Winner>>,
}

/// Says so when the actor is gone, whatever ended it: a panic too.
struct Ended {
    owner: Recipient<AnsweringEnded>,
    attempt: AttemptId,
    winner: Option<Box<Winner>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.owner.do_send(AnsweringEnded { attempt: self.attempt, winner: self.winner.take() });
    }
}

impl Answering {
    /// Answers the `DialMe`, the offer to punch or the offer of a relay in `signal`, which came over `channel`. `sake` says whether anything
    /// speaks for its sender.
    pub(crate) fn new(
        shared: Rc<Shared>,
        router: Addr<Router>,
        owner: Recipient<AnsweringEnded>,
        signal: &Signal,
        channel: u32,
        trust: Trust,
    ) -> Self {
        let caller = signal.sender.clone();
        let span = debug_span!("answer", attempt = %signal.attempt, caller = %caller.id().short());
        let began = now();
        let mut answer = Answer::new(began);
        ask(&mut answer, &shared, signal, trust);
        Self {
            punching: Punching::new(Rc::clone(&shared), trust),
            relaying: Relaying::new(Rc::clone(&shared), trust, Role::Answerer),
            trust,
            is_offered: matches!(signal.body, Body::Punch(_) | Body::Relay(_)),
            shared,
            router,
            driven: Driven::new(answer),
            caller,
            attempt: signal.attempt,
            channel,
            began,
            lanes: BTreeMap::new(),
            ended: Ended { owner, attempt: signal.attempt, winner: None },
            span,
        }
    }

    fn dial(&mut self, lane: Lane, candidate: Candidate, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, %lane, %candidate, "dial");
        let shared = Rc::clone(&self.shared);
        let (caller, attempt) = (self.caller.id(), self.attempt);
        let proved = async move {
            // Others' wishes wait for each other, never for ours.
            let _errand = shared.errands.acquire().await.map_err(|_| LaneFailure::NotTried)?;
            let stream = lane::dial(candidate).await?;
            let proof = shared.proof_dialled(caller, attempt, Role::Answerer, shared.plain);
            let mut proving = Proving::new(stream, proof);
            match proving.advance().await? {
                Stage::Kept => Ok(proving),
                _ => Err(LaneFailure::Proof(ProofError::OutOfTurn)),
            }
        };
        let work = ctx.spawn(proved.into_actor(self).map(move |proved, this, ctx| match proved {
            Ok(proving) => this.kept(lane, proving, Way::Reverse, Some(candidate.path), ctx),
            Err(failure) => this.fail(lane, failure, ctx),
        }));
        self.lanes.insert(lane, work);
    }

    /// Whichever side's SYN came first, or whoever lends the relay, the caller speaks first.
    fn welcome(
        &mut self,
        lane: Lane,
        stream: CarrierStream,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        let path = self.driven.machine().candidate(lane).map(|candidate| candidate.path);
        let wanted = Claim { peer: self.caller.id(), attempt: self.attempt, caller: false };
        let (proof, plain) = (self.shared.proof_arrived(), self.shared.plain);
        let proved = async move {
            let mut proving = Proving::new(stream, proof);
            let stage = proving.advance().await?;
            match (stage, proving.proof.claim()) {
                (Stage::Deciding, Some(claim)) if claim == wanted => proving.proof.welcome(plain, now())?,
                _ => return Err(ProofError::Stranger),
            }
            match proving.advance().await? {
                Stage::Kept => Ok((proving, seat)),
                _ => Err(ProofError::OutOfTurn),
            }
        };
        let work = ctx.spawn(proved.into_actor(self).map(move |proved, this, ctx| match proved {
            Ok((proving, _seat)) => this.kept(lane, proving, lane.way(), path, ctx),
            Err(error) => this.fail(lane, error.into(), ctx),
        }));
        self.lanes.insert(lane, work);
    }

    fn kept(&mut self, lane: Lane, proving: Proving, way: Way, path: Option<Path>, ctx: &mut Context<Self>) {
        let draft = Draft { way, path, began: self.began };
        match self.shared.winner(proving, draft) {
            Some(winner) => {
                self.ended.winner = Some(Box::new(winner));
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
}

impl Actor for Answering {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        turn(self, ctx);
    }
}

impl Drives for Answering {
    type M = Answer;

    fn driven(&mut self) -> &mut Driven<Answer> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Dial(lane, candidate) => self.dial(lane, candidate, ctx),
            Act::Drop(lane) => {
                if let Some(work) = self.lanes.remove(&lane) {
                    ctx.cancel_future(work);
                }
            }
            Act::Signal(body) => self.router.do_send(SendSignal {
                to: self.caller.clone(),
                attempt: self.attempt,
                body,
                back_on: Some(self.channel),
                done: None,
            }),
            Act::Punch(pair, act) => punch::perform(self, pair, act, ctx),
            Act::Relay(act) => {
                let with = Correspondence {
                    router: self.router.clone(),
                    peer: self.caller.clone(),
                    attempt: self.attempt,
                    back_on: Some(self.channel),
                    done: None,
                };
                relay::perform(self, act, with, ctx);
            }
            Act::Keep(lane) => debug!(parent: &self.span, %lane, "only a caller keeps"),
        }
    }

    fn on_event(&mut self, event: Event, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, ?event, "over");
        if event != Event::Lost || !self.is_offered {
            return ctx.stop();
        }
        // The offers of one attempt come one after the other, and the next may be a better one.
        ctx.run_later(LINGER, |this, ctx| {
            if this.driven.machine().is_over() {
                ctx.stop();
            }
        });
    }
}

/// Takes up what `signal` asks for.
fn ask(answer: &mut Answer, shared: &Shared, signal: &Signal, trust: Trust) {
    match &signal.body {
        Body::DialMe(_) => {
            let place = shared.place.borrow();
            let found = candidates(&place, &signal.sender, &Filter::default(), Trust::Stranger);
            answer.handle_dial_me(found, DIAL_DELAY, now());
        }
        Body::Relay(_) => answer.handle_relay(signal, now()),
        _ => answer.handle_punch(&shared.punch_setup(trust), signal, now()),
    }
}

impl Punches for Answering {
    fn punching(&mut self) -> &mut Punching {
        &mut self.punching
    }

    fn on_punched(
        &mut self,
        lane: Lane,
        stream: CarrierStream,
        seat: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        self.welcome(lane, stream, seat, ctx);
    }
}

impl Relays for Answering {
    fn relaying(&mut self) -> &mut Relaying {
        &mut self.relaying
    }

    fn on_relayed(&mut self, lane: Lane, stream: CarrierStream, ctx: &mut Context<Self>) {
        self.welcome(lane, stream, None, ctx);
    }
}

/// The caller has more to say in this attempt.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Asked(pub(crate) Box<Signal>);

impl Handler<Asked> for Answering {
    type Result = ();

    fn handle(&mut self, Asked(signal): Asked, ctx: &mut Context<Self>) {
        if signal.sender.is_newer_than(&self.caller) {
            self.caller = signal.sender.clone();
        }
        self.is_offered |= matches!(signal.body, Body::Punch(_) | Body::Relay(_));
        if self.driven.machine().is_over() {
            *self.driven.machine() = Answer::new(now());
        }
        ask(self.driven.machine(), &self.shared, &signal, self.trust);
        turn(self, ctx);
    }
}

impl Handler<Stop> for Answering {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
        ctx.stop();
    }
}
