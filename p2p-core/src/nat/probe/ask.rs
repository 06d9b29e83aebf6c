//! One question on its way.

use std::net::SocketAddr;
use std::time::Instant;

use crate::nat::observe::Stranger;
use crate::stun::frame::Framer;
use crate::stun::transaction::Transaction;
use crate::stun::{TransactionId, Transport};
use crate::{Deadline, Local};

/// What its answer is for, beyond the observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Nothing else.
    Plain,
    /// It is one of the first, all from one local port: its connection is held.
    First,
    /// A stranger is to answer, from there.
    Filter { stranger: Stranger, from: SocketAddr },
    /// Helpers are to dial its port.
    Bait,
}

#[derive(Debug)]
pub(super) enum State {
    Connecting { until: Instant },
    Asked(Box<(Transaction, Framer)>),
    Over,
}

/// One question on its way, and its TCP connection.
#[derive(Debug)]
pub(super) struct Ask {
    /// The number of its observation.
    pub(super) index: usize,
    pub(super) transport: Transport,
    pub(super) local: Local,
    pub(super) server: SocketAddr,
    pub(super) sent: Instant,
    pub(super) purpose: Use,
    pub(super) state: State,
    /// There is a TCP connection of its own, or will be one unless it is closed.
    pub(super) is_open: bool,
}

impl Ask {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub(super) fn is_of(&self, id: TransactionId) -> bool {
        matches!(&self.state, State::Asked(asked) if asked.0.id() == id)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Connecting { until } => Some(Deadline::new(*until, "TCP connection to a STUN server")),
            State::Asked(asked) => asked.0.deadline(),
            State::Over => None,
        }
    }
}
