//! The laws of a [`Machine`], as functions, and [`machine_laws!`](crate::machine_laws) that makes tests of
//! them.

use std::time::{Duration, Instant};

use super::epoch;
use crate::{Deadline, Machine, Output, Seed};

/// More outputs than any sane input can cause.
const MOST_OUTPUTS: usize = 10_000;
/// How many random inputs each law is tried with, in each of [`WORLDS`] seeds.
const DISTURBANCES: usize = 200;
const WORLDS: u64 = 25;

/// A machine under test: how to make it, how to bother it, how to end it.
pub trait Subject {
    /// The machine.
    type Machine: Machine;

    /// The shortest period, on the average of a day, at which a machine left alone may wake for ever. `None` when it must
    /// come to rest.
    const KEEPS_ALIVE: Option<Duration> = None;

    /// A machine in some interesting first state, chosen by `seed`.
    fn new(seed: Seed, now: Instant) -> Self::Machine;

    /// Calls one of its inputs with something valid, wrong or absurd, as `dice` says.
    fn disturb(machine: &mut Self::Machine, dice: &mut Seed, now: Instant);

    /// Calls `close`.
    fn close(machine: &mut Self::Machine, now: Instant);
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
    /// Whether nothing was said.
    pub fn is_quiet(&self) -> bool {
        self.acts.is_empty() && self.events.is_empty()
    }
}

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

/// Disturbs a fresh machine at random, in virtual time, showing each drain to `check`.
fn live<S: Subject>(
    number: u64,
    mut check: impl FnMut(&mut S::Machine, Instant, &Drain<S>),
) -> (S::Machine, Instant) {
    let mut dice = Seed::from_u64(number ^ 0x5eed);
    let mut now = epoch() + Duration::from_secs(3_600);
    let mut machine = S::new(Seed::from_u64(number), now);
    let first = drain(&mut machine);
    check(&mut machine, now, &first);
    let mut wait = first.wait;
    for _ in 0..DISTURBANCES {
        let due = wait.map(|deadline| deadline.at.max(now));
        if let Some(due) = due.filter(|_| dice.chance(0.4)) {
            now = due;
            machine.handle_timeout(now);
        } else {
            now += dice.up_to(Duration::from_millis(50));
            S::disturb(&mut machine, &mut dice, now);
        }
        let drained = drain(&mut machine);
        check(&mut machine, now, &drained);
        wait = drained.wait;
    }
    (machine, now)
}

type Drain<S> =
    Drained<<<S as Subject>::Machine as Machine>::Act, <<S as Subject>::Machine as Machine>::Event>;

/// A drain ends, whatever happened before it.
pub fn a_drain_ends<S: Subject>() {
    for world in 0..WORLDS {
        live::<S>(world, |_, _, _| ());
    }
}

/// A timeout nobody asked for says nothing and leaves the deadline where it was.
pub fn a_spurious_timeout_changes_nothing<S: Subject>() {
    for world in 0..WORLDS {
        live::<S>(world, |machine, now, drained| {
            if drained.wait.is_none_or(|deadline| deadline.at > now) {
                machine.handle_timeout(now);
                let again = drain(machine);
                assert!(again.is_quiet(), "a spurious timeout caused {again:?}");
                assert_eq!(again.wait, drained.wait, "a spurious timeout moved the deadline");
            }
        });
    }
}

/// After a timeout the next deadline is later than now: a driver can never spin.
pub fn a_timeout_moves_the_deadline<S: Subject>() {
    for world in 0..WORLDS {
        live::<S>(world, |machine, now, _| {
            machine.handle_timeout(now);
            if let Some(deadline) = drain(machine).wait {
                assert!(deadline.at > now, "after handle_timeout it wants to be woken at once: {deadline:?}");
            }
        });
    }
}

/// Left alone it comes to rest, or only keeps alive.
pub fn left_alone_it_rests<S: Subject>() {
    const DAY: Duration = Duration::from_secs(86_400);
    for world in 0..WORLDS {
        let (mut machine, start) = live::<S>(world, |_, _, _| ());
        let mut wait = drain(&mut machine).wait;
        let settle = start + Duration::from_secs(3_600);
        let (mut wakes, mut wakes_settled) = (0u32, 0u32);
        while let Some(deadline) = wait.filter(|deadline| deadline.at < start + DAY) {
            machine.handle_timeout(deadline.at);
            wait = drain(&mut machine).wait;
            wakes += 1;
            assert!(wakes < 1_000_000, "woken a million times in a day: {deadline:?}");
            if deadline.at > settle {
                wakes_settled += 1;
                let period =
                    S::KEEPS_ALIVE.unwrap_or_else(|| panic!("not at rest after an hour: {deadline:?}"));
                // A beginning is not a rate: what keeps alive may wake a few times in a row.
                let most = (DAY - (settle - start)).div_duration_f64(period);
                assert!(
                    f64::from(wakes_settled) <= most,
                    "more than one wake every {period:?}: {deadline:?}"
                );
            }
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
        let mut dice = Seed::from_u64(world);
        live::<S>(world, |machine, now, _| {
            let older = now.checked_sub(dice.up_to(Duration::from_secs(600))).unwrap_or(now);
            machine.handle_timeout(older);
            drain(machine);
            S::disturb(machine, &mut dice, older);
            drain(machine);
        });
    }
}

/// After `close` there are only farewells, then rest, whatever still arrives.
pub fn after_close_it_rests<S: Subject>() {
    for world in 0..WORLDS {
        let (mut machine, mut now) = live::<S>(world, |_, _, _| ());
        S::close(&mut machine, now);
        let mut wait = drain(&mut machine).wait;
        for farewells in 0.. {
            let Some(deadline) = wait else { break };
            assert!(farewells < 100, "closed, and still waiting: {deadline:?}");
            now = deadline.at.max(now);
            machine.handle_timeout(now);
            wait = drain(&mut machine).wait;
        }
        let mut dice = Seed::from_u64(world);
        for _ in 0..DISTURBANCES {
            now += Duration::from_millis(1);
            S::disturb(&mut machine, &mut dice, now);
            let after = drain(&mut machine);
            assert!(after.is_quiet(), "closed and at rest, it still said {after:?}");
            assert_eq!(after.wait, None, "closed and at rest, it wants to be woken");
        }
    }
}

/// Makes a module of tests that hold a [`Subject`](crate::sim::laws::Subject) to every law.
///
/// ```
/// use p2p_core::{Deadline, Machine, Output, Seed, sim::laws::Subject};
/// use std::time::{Duration, Instant};
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
/// struct Boiling;
/// impl Subject for Boiling {
///     type Machine = Egg;
///     fn new(_: Seed, _: Instant) -> Egg { Egg(None) }
///     fn disturb(_: &mut Egg, _: &mut Seed, _: Instant) {}
///     fn close(egg: &mut Egg, _: Instant) { egg.0 = None }
/// }
/// p2p_core::machine_laws!(egg: Boiling);
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

#[cfg(test)]
mod tests {
    //! The laws are worth something only if a lawless machine breaks them.
    use super::*;

    /// Counts down from an alarm, well or badly.
    struct Alarm {
        at: Option<Instant>,
        rang: bool,
        fault: Fault,
        nonce: u64,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        Chatters,
        HearsGhosts,
        Spins,
        NeverRests,
        Forgets,
        Panics,
        OutlivesClose,
    }

    impl Machine for Alarm {
        type Act = u64;
        type Event = &'static str;

        fn handle_timeout(&mut self, now: Instant) {
            assert!(
                self.fault != Fault::Panics || now >= epoch() + Duration::from_secs(3_600),
                "an older now"
            );
            if self.fault == Fault::HearsGhosts || self.at.is_some_and(|at| at <= now) {
                self.rang = true;
                self.at = match self.fault {
                    Fault::Spins => Some(now),
                    Fault::NeverRests => Some(now + Duration::from_secs(60)),
                    _ => None,
                };
            }
        }

        fn poll_output(&mut self) -> Output<u64, &'static str> {
            if self.fault == Fault::Chatters {
                return Output::Act(0);
            }
            if std::mem::take(&mut self.rang) {
                return Output::Act(self.nonce);
            }
            Output::Wait(self.at.map(|at| Deadline::new(at, "alarm")))
        }
    }

    trait Faulty {
        const FAULT: Fault;
    }

    struct Case<F>(F);

    impl<F: Faulty> Subject for Case<F> {
        type Machine = Alarm;

        fn new(mut seed: Seed, now: Instant) -> Alarm {
            static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
            let nonce = match F::FAULT {
                Fault::Forgets => COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                _ => seed.number(),
            };
            Alarm { at: Some(now + Duration::from_secs(1)), rang: false, fault: F::FAULT, nonce }
        }

        fn disturb(alarm: &mut Alarm, dice: &mut Seed, now: Instant) {
            if alarm.at.is_some() || alarm.fault == Fault::OutlivesClose {
                alarm.at = Some(now + dice.up_to(Duration::from_secs(2)) + Duration::from_millis(1));
            }
        }

        fn close(alarm: &mut Alarm, _: Instant) {
            alarm.at = None;
            alarm.rang = false;
        }
    }

    macro_rules! faults {
        ($($fault:ident breaks $law:ident as $test:ident,)*) => {
            $(
                struct $fault;
                impl Faulty for $fault {
                    const FAULT: Fault = Fault::$fault;
                }
                #[test]
                #[should_panic]
                fn $test() {
                    $law::<Case<$fault>>();
                }
            )*
        };
    }

    faults! {
        Chatters breaks a_drain_ends as chatter_is_caught,
        HearsGhosts breaks a_spurious_timeout_changes_nothing as ghosts_are_caught,
        Spins breaks a_timeout_moves_the_deadline as spinning_is_caught,
        NeverRests breaks left_alone_it_rests as restlessness_is_caught,
        Forgets breaks the_same_seed_gives_the_same_outputs as forgetting_is_caught,
        Panics breaks an_older_now_never_panics as panic_is_caught,
        OutlivesClose breaks after_close_it_rests as life_after_close_is_caught,
    }

    struct Lawful;
    impl Faulty for Lawful {
        const FAULT: Fault = Fault::None;
    }
    machine_laws!(alarm: Case<Lawful>);
}
