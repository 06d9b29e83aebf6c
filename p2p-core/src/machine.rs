//! The convention every machine in this crate keeps.
//!
//! A machine is a plain struct. It is fed by typed inherent methods named `handle_*`, each taking the time
//! it happened, and it is emptied by [`Machine::poll_output`], which must be called until it answers
//! [`Output::Wait`]. Nothing else goes in and nothing else comes out:
//!
//! | methods | names | meaning |
//! |---|---|---|
//! | build | `new(config, seed, now)` | a machine is born with all it may ever know of chance |
//! | feed | `handle_*(what, now)` | something happened outside |
//! | drain | `poll_output()` | what to do, what to tell, when to come back |
//! | end | `close(now)` | say farewell, then rest for ever |
//!
//! Who drives a machine owes it three things: to drain it after every input, to call
//! [`Machine::handle_timeout`] when the deadline of the last `Wait` has come, and to perform each act once.

use std::fmt::Debug;
use std::time::Instant;

/// What a machine wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<A, E> {
    /// Do this. An effect is a value, never a callback.
    Act(A),
    /// Tell whoever cares: something was decided.
    Event(E),
    /// Nothing more for now. Call [`Machine::handle_timeout`] at the deadline, if there is one.
    Wait(Option<Deadline>),
}

/// When a machine wants to be woken, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// The time to call [`Machine::handle_timeout`].
    pub at: Instant,
    /// The reason, for logs: a deadline nobody can explain is a bug.
    pub why: &'static str,
}

impl Deadline {
    /// A deadline at `at`, because of `why`.
    pub fn new(at: Instant, why: &'static str) -> Self {
        Self { at, why }
    }

    /// The earliest of several optional deadlines.
    pub fn earliest(all: impl IntoIterator<Item = Option<Deadline>>) -> Option<Deadline> {
        all.into_iter().flatten().min_by_key(|deadline| deadline.at)
    }
}

/// A state machine without clock, dice or sockets.
pub trait Machine {
    /// An effect for the driver to carry out.
    type Act: Debug;
    /// A decision for the owner to know of.
    type Event: Debug;

    /// Time has passed. Calling this early, late or twice is harmless.
    fn handle_timeout(&mut self, now: Instant);

    /// The next output. Call until it is [`Output::Wait`].
    fn poll_output(&mut self) -> Output<Self::Act, Self::Event>;
}
