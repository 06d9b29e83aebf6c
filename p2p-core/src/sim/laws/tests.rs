//! The laws are worth something only if a lawless machine breaks them.
use std::marker::PhantomData;

use super::*;
use crate::machine_laws;

/// Counts down from an alarm, well or badly.
struct Countdown {
    at: Option<Instant>,
    rang: bool,
    fault: LawFault,
    nonce: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum LawFault {
    None,
    Chatters,
    HearsGhosts,
    Spins,
    NeverRests,
    Forgets,
    Panics,
    OutlivesClose,
}

impl Machine for Countdown {
    type Act = u64;
    type Event = &'static str;

    fn handle_timeout(&mut self, now: Instant) {
        assert!(
            self.fault != LawFault::Panics || now >= epoch() + Duration::from_secs(3_600),
            "an older now"
        );
        if self.fault == LawFault::HearsGhosts || self.at.is_some_and(|at| at <= now) {
            self.rang = true;
            self.at = match self.fault {
                LawFault::Spins => Some(now),
                LawFault::NeverRests => Some(now + Duration::from_secs(60)),
                _ => None,
            };
        }
    }

    fn poll_output(&mut self) -> Output<u64, &'static str> {
        if self.fault == LawFault::Chatters {
            return Output::Act(0);
        }
        if std::mem::take(&mut self.rang) {
            return Output::Act(self.nonce);
        }
        Output::Wait(self.at.map(|at| Deadline::new(at, "alarm")))
    }
}

trait Faulty {
    const FAULT: LawFault;
}

struct CountdownSubject<F>(Countdown, PhantomData<F>);

impl<F: Faulty> Subject for CountdownSubject<F> {
    type Machine = Countdown;

    fn new(mut seed: Seed, now: Instant) -> Self {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let nonce = match F::FAULT {
            LawFault::Forgets => COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            _ => seed.number(),
        };
        let at = Some(now + Duration::from_secs(1));
        Self(Countdown { at, rang: false, fault: F::FAULT, nonce }, PhantomData)
    }

    fn machine(&mut self) -> &mut Countdown {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let alarm = &mut self.0;
        if alarm.at.is_some() || alarm.fault == LawFault::OutlivesClose {
            alarm.at = Some(now + dice.up_to(Duration::from_secs(2)) + Duration::from_millis(1));
        }
    }

    fn close(&mut self, _: Instant) {
        self.0.at = None;
        self.0.rang = false;
    }
}

macro_rules! faults {
    ($($fault:ident breaks $law:ident as $test:ident,)*) => {
        $(
            struct $fault;
            impl Faulty for $fault {
                const FAULT: LawFault = LawFault::$fault;
            }
            #[test]
            #[should_panic]
            fn $test() {
                $law::<CountdownSubject<$fault>>();
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
    const FAULT: LawFault = LawFault::None;
}
machine_laws!(alarm: CountdownSubject<Lawful>);

/// Bytes that let an alarm live: a seed, then feeds and timeouts, and the end.
fn bytes(first: u8) -> Vec<u8> {
    let steps = (0..200u8).flat_map(|step| [step, 7, step, 200, 9]);
    [first, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(steps).collect()
}

#[test]
fn what_keeps_the_laws_can_be_steered_anywhere() {
    for first in 0..20 {
        steer::<CountdownSubject<Lawful>>(&bytes(first));
    }
    steer::<CountdownSubject<Lawful>>(&[]);
}

#[test]
#[should_panic]
fn a_steered_machine_that_spins_is_caught() {
    steer::<CountdownSubject<Spins>>(&bytes(0));
}

#[test]
#[should_panic]
fn a_steered_machine_that_hears_ghosts_is_caught() {
    steer::<CountdownSubject<HearsGhosts>>(&bytes(0));
}

#[test]
#[should_panic]
fn a_steered_machine_that_outlives_its_close_is_caught() {
    steer::<CountdownSubject<OutlivesClose>>(&bytes(0));
}

#[test]
#[should_panic]
fn a_steered_machine_that_never_rests_is_caught() {
    steer::<CountdownSubject<NeverRests>>(&bytes(1));
}

#[test]
fn dice_of_bytes_use_no_more_than_they_need() {
    let mut dice = Dice::from_bytes(&[7, 0, 1, 255, 9]);
    assert_eq!((dice.below(1), dice.below(10), dice.below(1_000)), (0, 7, 256));
    assert!(dice.chance(0.01) && !dice.is_over());
    assert_eq!(dice.below(256), 9);
    assert!(dice.is_over());
    assert_eq!((dice.below(9), dice.number(), dice.chance(0.5)), (0, 0, false));
    assert_eq!(dice.pick(&[1, 2]), Some(&1));
    assert!(!Dice::new(Seed::from_u64(1)).is_over());
}
