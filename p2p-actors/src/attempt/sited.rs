//! An attempt on a node whose facts it reads.

use std::rc::Rc;
use std::time::Instant;

use p2p_core::connect::{Act, Attempt, Event};
use p2p_core::punch::View;
use p2p_core::{Machine, Output};

use crate::shared::Shared;

/// An attempt, and the node that lends it a view of its facts at each call.
pub(crate) struct Sited {
    attempt: Attempt,
    shared: Rc<Shared>,
}

impl Sited {
    pub(super) fn new(attempt: Attempt, shared: Rc<Shared>) -> Self {
        Self { attempt, shared }
    }

    pub(super) fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// Feeds the attempt, by the facts of this moment.
    pub(super) fn feed<T>(&mut self, what: impl FnOnce(&mut Attempt, &View<'_>) -> T) -> T {
        self.shared.with_view(|view| what(&mut self.attempt, view))
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.attempt.close(now);
    }
}

impl Machine for Sited {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.feed(|attempt, view| attempt.handle_timeout(view, now));
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.attempt.poll_output()
    }
}
