//! The laws of a [`Machine`], as functions: [`machine_laws!`](crate::machine_laws) makes tests of them, and
//! [`steer`] lets a fuzzer look for what breaks them.
//!
//! A [`Subject`] is a machine, its surroundings, and all that can happen to it. There is one for each machine, in
//! [`subjects`](super::subjects).

mod dice;
mod steer;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use dice::Dice;
pub use steer::steer;

use super::epoch;
use crate::{Deadline, Machine, Output, Seed};

/// A machine under test, with its surroundings.
pub trait Subject: Sized {
    /// The machine.
    type Machine: Machine;

    /// The shortest period, on the average of a day, at which a machine left alone may wake for ever. `None` when it must
    /// come to rest.
    const KEEPS_ALIVE: Option<Duration> = None;

    /// Returns a machine in some interesting first state, chosen by `seed`.
    fn new(seed: Seed, now: Instant) -> Self;

    /// Returns the machine itself.
    fn machine(&mut self) -> &mut Self::Machine;

    /// Calls one of the inputs with something valid, wrong or absurd, as `dice` says.
    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant);

    /// Takes up what the machine wants done. Most surroundings do nothing before they are fed.
    fn on_act(&mut self, act: &<Self::Machine as Machine>::Act, now: Instant) {
        let _ = (act, now);
    }

    /// Calls `close`.
    fn close(&mut self, now: Instant);
}

/// Everything a machine said in one drain.
#[derive(Debug)]
pub struct Drained<A, E> {
    /// Effects, in order.
    pub acts: Vec<A>,
    /// Decisions, in order.
    pub events: Vec<E>,
    /// What it waits for now.
    pub wait: Option<Deadline>,
}

impl<A, E> Drained<A, E> {
    /// Tells whether nothing was said.
    pub fn is_quiet(&self) -> bool {
        self.acts.is_empty() && self.events.is_empty()
    }
}

/// Everything the machine of a subject said in one drain.
type DrainedOf<S> =
    Drained<<<S as Subject>::Machine as Machine>::Act, <<S as Subject>::Machine as Machine>::Event>;

/// Drains a machine until it waits.
///
/// # Panics
/// When it never does.
pub fn drain<M: Machine>(machine: &mut M) -> Drained<M::Act, M::Event> {
    let mut drained = Drained { acts: Vec::new(), events: Vec::new(), wait: None };
    for _ in 0..MOST_OUTPUTS {
        match machine.poll_output() {
            Output::Act(act) => drained.acts.push(act),
            Output::Event(event) => drained.events.push(event),
            Output::Wait(wait) => {
                drained.wait = wait;
                return drained;
            }
        }
    }
    panic!("a drain must end, this one said {MOST_OUTPUTS} things");
}

/// Drains the machine of a subject, whose surroundings see each act.
fn drain_subject<S: Subject>(subject: &mut S, now: Instant) -> DrainedOf<S> {
    let drained = drain(subject.machine());
    drained.acts.iter().for_each(|act| subject.on_act(act, now));
    drained
}

/// Feeds a fresh subject at random, in virtual time, showing each drain to `check`.
fn live<S: Subject>(number: u64, mut check: impl FnMut(&mut S, Instant, &DrainedOf<S>)) -> (S, Instant) {
    let mut dice = Dice::new(Seed::from_u64(number ^ 0x5eed));
    let mut now = epoch() + Duration::from_secs(3_600);
    let mut subject = S::new(Seed::from_u64(number), now);
    let first = drain_subject(&mut subject, now);
    check(&mut subject, now, &first);
    let mut wait = first.wait;
    for _ in 0..DISTURBANCES {
        let due = wait.map(|deadline| deadline.at.max(now));
        if let Some(due) = due.filter(|_| dice.chance(0.4)) {
            now = due;
            subject.machine().handle_timeout(now);
        } else {
            now += dice.up_to(Duration::from_millis(50));
            subject.feed(&mut dice, now);
        }
        let drained = drain_subject(&mut subject, now);
        check(&mut subject, now, &drained);
        wait = drained.wait;
    }
    (subject, now)
}

/// A drain ends, whatever happened before it.
pub fn a_drain_ends<S: Subject>() {
    for world in 0..WORLDS {
        live::<S>(world, |_, _, _| ());
    }
}

/// A timeout nobody asked for says nothing and leaves the deadline where it was.
pub fn a_spurious_timeout_changes_nothing<S: Subject>() {
    for world in 0..WORLDS {
        live::<S>(world, |subject, now, drained| check_spurious_timeout(subject, drained.wait, now));
    }
}

fn check_spurious_timeout<S: Subject>(subject: &mut S, wait: Option<Deadline>, now: Instant) {
    if wait.is_none_or(|deadline| deadline.at > now) {
        subject.machine().handle_timeout(now);
        let again = drain_subject(subject, now);
        assert!(again.is_quiet(), "a spurious timeout caused {again:?}");
        assert_eq!(again.wait, wait, "a spurious timeout moved the deadline");
    }
}

/// After a timeout the next deadline is later than now: a driver can never spin.
pub fn a_timeout_moves_the_deadline<S: Subject>() {
    for world in 0..WORLDS {
        live::<S>(world, |subject, now, _| {
            subject.machine().handle_timeout(now);
            check_later(drain_subject(subject, now).wait, now);
        });
    }
}

fn check_later(wait: Option<Deadline>, now: Instant) {
    if let Some(deadline) = wait {
        assert!(deadline.at > now, "after handle_timeout it wants to be woken at once: {deadline:?}");
    }
}

/// Left alone it comes to rest, or only keeps alive.
pub fn left_alone_it_rests<S: Subject>() {
    for world in 0..WORLDS {
        let (mut subject, start) = live::<S>(world, |_, _, _| ());
        check_rest(&mut subject, start, MOST_WAKES);
    }
}

/// Wakes a subject for a day, but at most so many times.
fn check_rest<S: Subject>(subject: &mut S, start: Instant, most_wakes: u32) {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut wait = drain_subject(subject, start).wait;
    let settle = start + Duration::from_secs(3_600);
    let (mut wakes, mut wakes_settled) = (0u32, 0u32);
    while let Some(deadline) = wait.filter(|deadline| deadline.at < start + DAY) {
        if wakes == most_wakes {
            assert!(most_wakes < MOST_WAKES, "woken a million times in a day: {deadline:?}");
            return;
        }
        subject.machine().handle_timeout(deadline.at);
        wait = drain_subject(subject, deadline.at).wait;
        wakes += 1;
        if deadline.at > settle {
            wakes_settled += 1;
            let period = S::KEEPS_ALIVE.unwrap_or_else(|| panic!("not at rest after an hour: {deadline:?}"));
            // A beginning is not a rate: what keeps alive may wake a few times in a row.
            let most = (DAY - (settle - start)).div_duration_f64(period);
            assert!(f64::from(wakes_settled) <= most, "more than one wake every {period:?}: {deadline:?}");
        }
    }
}

/// The same seed and the same inputs give the same outputs.
pub fn the_same_seed_gives_the_same_outputs<S: Subject>() {
    for world in 0..WORLDS {
        let record = || {
            let mut story = String::new();
            live::<S>(world, |_, _, drained| story.push_str(&format!("{drained:?}\n")));
            story
        };
        assert_eq!(record(), record());
    }
}

/// A clock that steps back never panics.
pub fn an_older_now_never_panics<S: Subject>() {
    for world in 0..WORLDS {
        let mut dice = Dice::new(Seed::from_u64(world));
        live::<S>(world, |subject, now, _| {
            let older = now.checked_sub(dice.up_to(Duration::from_secs(600))).unwrap_or(now);
            subject.machine().handle_timeout(older);
            drain_subject(subject, older);
            subject.feed(&mut dice, older);
            drain_subject(subject, older);
        });
    }
}

/// After `close` there are only farewells, then rest, whatever still arrives.
pub fn after_close_it_rests<S: Subject>() {
    for world in 0..WORLDS {
        let (mut subject, now) = live::<S>(world, |_, _, _| ());
        check_close(&mut subject, &mut Dice::new(Seed::from_u64(world)), DISTURBANCES, now);
    }
}

fn check_close<S: Subject>(subject: &mut S, dice: &mut Dice<'_>, disturbances: usize, mut now: Instant) {
    subject.close(now);
    let mut wait = drain_subject(subject, now).wait;
    for farewells in 0.. {
        let Some(deadline) = wait else { break };
        assert!(farewells < 100, "closed, and still waiting: {deadline:?}");
        now = deadline.at.max(now);
        subject.machine().handle_timeout(now);
        wait = drain_subject(subject, now).wait;
    }
    for _ in 0..disturbances {
        now += Duration::from_millis(1);
        subject.feed(dice, now);
        let after = drain_subject(subject, now);
        assert!(after.is_quiet(), "closed and at rest, it still said {after:?}");
        assert_eq!(after.wait, None, "closed and at rest, it wants to be woken");
    }
}

/// Makes a module of tests that hold a [`Subject`](crate::sim::laws::Subject) to every law.
///
/// ```
/// use p2p_core::sim::laws::{Dice, Subject};
/// use p2p_core::{Deadline, Machine, Output, Seed};
/// use std::time::Instant;
///
/// /// Rings once.
/// struct Egg(Option<Instant>);
/// impl Machine for Egg {
///     type Act = ();
///     type Event = &'static str;
///     fn handle_timeout(&mut self, _: Instant) {}
///     fn poll_output(&mut self) -> Output<(), &'static str> {
///         Output::Wait(self.0.map(|at| Deadline::new(at, "the egg is done")))
///     }
/// }
/// struct EggSubject(Egg);
/// impl Subject for EggSubject {
///     type Machine = Egg;
///     fn new(_: Seed, _: Instant) -> Self { Self(Egg(None)) }
///     fn machine(&mut self) -> &mut Egg { &mut self.0 }
///     fn feed(&mut self, _: &mut Dice<'_>, _: Instant) {}
///     fn close(&mut self, _: Instant) { self.0.0 = None }
/// }
/// p2p_core::machine_laws!(egg: EggSubject);
/// ```
#[macro_export]
macro_rules! machine_laws {
    ($name:ident: $subject:ty) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::machine_laws!(@each $subject:
                a_drain_ends,
                a_spurious_timeout_changes_nothing,
                a_timeout_moves_the_deadline,
                left_alone_it_rests,
                the_same_seed_gives_the_same_outputs,
                an_older_now_never_panics,
                after_close_it_rests,
            );
        }
    };
    (@each $subject:ty: $($law:ident,)*) => {
        $(
            #[test]
            fn $law() {
                $crate::sim::laws::$law::<$subject>();
            }
        )*
    };
}

/// More outputs than any sane input can cause.
const MOST_OUTPUTS: usize = 10_000;
/// More wakes than any machine needs in a day.
const MOST_WAKES: u32 = 1_000_000;
/// Random inputs each law is tried with, in each of [`WORLDS`] seeds.
const DISTURBANCES: usize = 200;
const WORLDS: u64 = 25;
