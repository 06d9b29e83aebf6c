//! The one loop that turns a machine, and its one timer.
//!
//! An actor that drives a machine keeps it in a [`Driven`], implements [`Drives`], and calls [`turn`] after every
//! input it gave the machine. That is all: acts are performed, events told, and one timer is kept armed.

use std::time::{Instant, SystemTime};

use actix::{Actor, AsyncContext, Context, SpawnHandle};
use p2p_core::{Clock, Machine, Output};
use tracing::trace;

/// What time it is, by the clock of the runtime: it stands still where a test pauses it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What time it is, by the system's clock.
pub(crate) fn system_clock() -> Clock {
    Clock::new(now(), SystemTime::now().into())
}

/// A machine and the timer of its actor.
pub(crate) struct Driven<M> {
    machine: M,
    timer: Option<(Instant, SpawnHandle)>,
    /// A turn is under way further up the stack; it will drain what an act feeds into the machine.
    turning: bool,
}

impl<M> Driven<M> {
    /// A machine with no timer yet: the first [`turn`] arms it.
    pub(crate) fn new(machine: M) -> Self {
        Self { machine, timer: None, turning: false }
    }

    /// The machine, to feed it. Call [`turn`] afterwards.
    pub(crate) fn machine(&mut self) -> &mut M {
        &mut self.machine
    }
}

/// An actor that drives a machine.
pub(crate) trait Drives: Actor<Context = Context<Self>> {
    /// The machine.
    type M: Machine;

    /// Where it is kept.
    fn driven(&mut self) -> &mut Driven<Self::M>;

    /// Prepares the machine for its timer.
    fn before_timeout(&mut self) {}

    /// Looks at the machine after an input, before its outputs are taken up.
    fn before_turn(&mut self) {}

    /// Starts one effect. It may feed the machine at once; the turn under way goes on with the answer.
    fn on_act(&mut self, act: <Self::M as Machine>::Act, ctx: &mut Context<Self>);

    /// Tells others of one decision.
    fn on_event(&mut self, event: <Self::M as Machine>::Event, ctx: &mut Context<Self>);
}

/// Drains the machine of `actor` and arms its timer. Call it after every input, and once when the actor starts.
pub(crate) fn turn<A: Drives>(actor: &mut A, ctx: &mut Context<A>) {
    if std::mem::replace(&mut actor.driven().turning, true) {
        return;
    }
    actor.before_turn();
    let deadline = loop {
        match actor.driven().machine.poll_output() {
            Output::Act(act) => actor.on_act(act, ctx),
            Output::Event(event) => actor.on_event(event, ctx),
            Output::Wait(deadline) => break deadline,
        }
    };
    let driven = actor.driven();
    driven.turning = false;
    let armed = driven.timer.map(|(at, _)| at);
    if armed == deadline.map(|deadline| deadline.at) {
        return;
    }
    if let Some((_, timer)) = driven.timer.take() {
        ctx.cancel_future(timer);
    }
    if let Some(deadline) = deadline {
        let now = now();
        trace!(why = deadline.why, wait = ?deadline.at.saturating_duration_since(now), "timer armed");
        let timer = ctx.run_later(deadline.at.saturating_duration_since(now), |actor, ctx| {
            actor.before_timeout();
            let driven = actor.driven();
            driven.timer = None;
            driven.machine.handle_timeout(self::now());
            turn(actor, ctx);
        });
        actor.driven().timer = Some((deadline.at, timer));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use actix::{Handler, Message};
    use p2p_core::Deadline;

    use super::*;

    /// Counts down; echoes each answer it is fed.
    struct Countdown {
        left: u32,
        at: Instant,
        out: Vec<Output<u32, u32>>,
    }

    impl Countdown {
        fn handle_answer(&mut self, number: u32) {
            self.out.push(Output::Event(number));
        }
    }

    impl Machine for Countdown {
        type Act = u32;
        type Event = u32;

        fn handle_timeout(&mut self, now: Instant) {
            if self.left > 0 && self.at <= now {
                self.left -= 1;
                self.at = now + Duration::from_secs(3_600);
                self.out.push(Output::Act(self.left));
            }
        }

        fn poll_output(&mut self) -> Output<u32, u32> {
            let deadline = (self.left > 0).then(|| Deadline::new(self.at, "count"));
            self.out.pop().unwrap_or(Output::Wait(deadline))
        }
    }

    type Log = Rc<RefCell<Vec<(Duration, u32)>>>;

    struct Counting {
        driven: Driven<Countdown>,
        start: Instant,
        log: Log,
        told: Option<tokio::sync::oneshot::Sender<()>>,
    }

    impl Actor for Counting {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            turn(self, ctx);
        }
    }

    impl Drives for Counting {
        type M = Countdown;

        fn driven(&mut self) -> &mut Driven<Countdown> {
            &mut self.driven
        }

        fn on_act(&mut self, act: u32, ctx: &mut Context<Self>) {
            // Feeding the machine from an act, and even turning it, neither recurses nor is lost.
            self.driven.machine().handle_answer(act);
            turn(self, ctx);
        }

        fn on_event(&mut self, event: u32, _: &mut Context<Self>) {
            self.log.borrow_mut().push((now() - self.start, event));
            if event == 0 {
                self.told.take().map(|told| told.send(()));
            }
        }
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Hurry;

    impl Handler<Hurry> for Counting {
        type Result = ();

        fn handle(&mut self, _: Hurry, ctx: &mut Context<Self>) {
            self.driven.machine().at = now() + Duration::from_secs(1);
            turn(self, ctx);
        }
    }

    #[test]
    fn actors_live_in_a_local_set_without_a_system_and_in_paused_time() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let log = Log::default();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (told, done) = tokio::sync::oneshot::channel();
            let start = now();
            let counting = Counting {
                driven: Driven::new(Countdown {
                    left: 3,
                    at: start + Duration::from_secs(3_600),
                    out: Vec::new(),
                }),
                start,
                log: log.clone(),
                told: Some(told),
            };
            let addr = counting.start();
            addr.send(Hurry).await.unwrap();
            done.await.unwrap();
        });
        let hours = |hours: u64| Duration::from_secs(1 + hours * 3_600);
        // Tokio's timers have a resolution of one millisecond.
        let near = |at: Duration| Duration::from_secs((at.as_secs_f64() + 0.1) as u64);
        let log: Vec<_> = log.borrow().iter().map(|(at, number)| (near(*at), *number)).collect();
        assert_eq!(log, [(hours(0), 2), (hours(1), 1), (hours(2), 0)]);
    }
}
