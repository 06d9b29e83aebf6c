//! The mirror side: one actor per peer that asked us to dial it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient,
    SpawnHandle, WrapFuture,
};
use p2p_core::peer::PeerAddr;
use p2p_core::proof::{ProofError, Role, Stage};
use p2p_core::race::{
    Act, Answer, Candidate, DIAL_DELAY, Event, Filter, Lane, LaneFailure, Motive, Way, candidates,
};
use p2p_core::signal::{AttemptId, Signal};
use tracing::{Span, debug, debug_span};

use super::{Proving, Stop, lane};
use crate::drive::{Driven, Drives, now, turn};
use crate::shared::{Draft, Shared};
use crate::signal::{Router, SendSignal};
use crate::winner::Winner;

/// Dials somebody who asked for it.
pub(crate) struct Answering {
    shared: Rc<Shared>,
    router: Addr<Router>,
    driven: Driven<Answer>,
    caller: PeerAddr,
    attempt: AttemptId,
    channel: u32,
    began: Instant,
    lanes: BTreeMap<Lane, (Candidate, SpawnHandle)>,
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
    /// Answers the `DialMe` in `signal`, which came over `channel`.
    pub(crate) fn new(
        shared: Rc<Shared>,
        router: Addr<Router>,
        owner: Recipient<AnsweringEnded>,
        signal: &Signal,
        channel: u32,
    ) -> Self {
        let caller = signal.sender.clone();
        let span = debug_span!("answer", attempt = %signal.attempt, caller = %caller.id().short());
        let found = candidates(&shared.place.borrow(), &caller, &Filter::default(), Motive::TheirWish);
        let began = now();
        Self {
            shared,
            router,
            driven: Driven::new(Answer::new(found, DIAL_DELAY, began)),
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
            let proof = shared.proof_dialled(caller, attempt, Role::Called, shared.plain);
            let mut proving = Proving::new(stream, proof);
            match proving.advance().await? {
                Stage::Kept => Ok(proving),
                _ => Err(LaneFailure::Proof(ProofError::OutOfTurn)),
            }
        };
        let work = ctx.spawn(proved.into_actor(self).map(move |proved, this, ctx| match proved {
            Ok(proving) => this.kept(lane, candidate, proving, ctx),
            Err(failure) => this.fail(lane, failure, ctx),
        }));
        self.lanes.insert(lane, (candidate, work));
    }

    fn kept(&mut self, lane: Lane, candidate: Candidate, proving: Proving, ctx: &mut Context<Self>) {
        let draft = Draft {
            way: Way::Reverse,
            path: Some(candidate.path),
            peer: None,
            began: self.began,
            report: None,
        };
        let winner = proving
            .proof
            .into_session()
            .and_then(|session| self.shared.winner(proving.stream, session, draft));
        match winner {
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
                if let Some((_, work)) = self.lanes.remove(&lane) {
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
            Act::Punch(pair, act) => debug!(parent: &self.span, pair, ?act, "this node does not punch"),
            Act::Keep(lane) => debug!(parent: &self.span, %lane, "only a caller keeps"),
        }
    }

    fn on_event(&mut self, event: Event, ctx: &mut Context<Self>) {
        debug!(parent: &self.span, ?event, "over");
        ctx.stop();
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
