//! The convention every machine in this crate keeps.
//!
//! A machine is a plain struct. It is fed by typed inherent methods named `handle_*`, each of which takes the time at
//! which the input happened. It is emptied by [`Machine::poll_output`], which must be called until it returns
//! [`Output::Wait`]. Nothing else goes in and nothing else comes out:
//!
//! | methods | names | meaning |
//! |---|---|---|
//! | build | `new(config, seed, now)` | the machine gets its configuration and all its randomness |
//! | feed | `handle_*(what, now)` | something happened outside |
//! | drain | `poll_output()` | the machine returns acts, events and its next deadline |
//! | end | `close(now)` | the machine says farewell, and then rests for ever |
//!
//! The driver of a machine has three duties. It drains the machine after every input. It calls
//! [`Machine::handle_timeout`] when the deadline of the last `Wait` has come. It performs each act once.

use std::fmt::Debug;
use std::time::Instant;

/// One output of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<A, E> {
    /// An effect for the driver to perform, as a value and never as a callback.
    Act(A),
    /// A decision for the owner of the machine to know of.
    Event(E),
    /// The end of the outputs for now. The driver calls [`Machine::handle_timeout`] at the deadline, if there is one.
    Wait(Option<Deadline>),
}

/// The time at which a machine wants to be woken, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// The time at which to call [`Machine::handle_timeout`].
    pub at: Instant,
    /// The reason, for logs. A deadline that nobody can explain is a bug.
    pub why: &'static str,
}

impl Deadline {
    /// Returns a deadline at `at` for the reason `why`.
    pub fn new(at: Instant, why: &'static str) -> Self {
        Self { at, why }
    }

    /// Returns the earliest of several optional deadlines.
    pub fn earliest(all: impl IntoIterator<Item = Option<Deadline>>) -> Option<Deadline> {
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }
}

/// A state machine without clock, dice or sockets.
pub trait Machine {
    /// The type of an effect that the driver performs.
    type Act: Debug;
    /// The type of a decision that the owner is told.
    type Event: Debug;

    /// Notes that time has passed. To call it early, late or twice is harmless.
    fn handle_timeout(&mut self, now: Instant);

    /// Returns the next output. It must be called until it returns [`Output::Wait`].
    fn poll_output(&mut self) -> Output<Self::Act, Self::Event>;
}
