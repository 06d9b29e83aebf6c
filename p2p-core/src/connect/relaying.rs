//! How far the relayed way of an attempt is.

use std::net::{IpAddr, SocketAddr};

use super::{Lane, RelayAct};
use crate::attempt::Path;
use crate::candidate::Candidate;
use crate::relay::circuit::{CircuitFailure, RelayKind};

/// Relayed connections of one attempt that are proven: anybody behind the peer's address may dial one.
const MOST_RELAYED: usize = 16;

/// News of the circuit of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayInput {
    /// Something has come through, from this address of the peer's or of its server's.
    Up(RelayKind, SocketAddr),
    /// Nothing came, or will come. What is a lane goes on.
    Failed(CircuitFailure),
}

/// The progress of the circuit of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum RelayProgress {
    #[default]
    NotBegun,
    /// So many connections have come of it.
    Running {
        connections: usize,
    },
    Over,
}

impl RelayProgress {
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Begins. The peer may come from these addresses.
    pub(super) fn begin(&mut self, sources: Vec<IpAddr>) -> RelayAct {
        *self = Self::Running { connections: 0 };
        RelayAct::Begin(sources)
    }

    /// Returns a lane for what has come of it; `None` when it is too late or too much.
    pub(super) fn open(&mut self, kind: RelayKind, remote: SocketAddr) -> Option<(Lane, Candidate)> {
        let Self::Running { connections } = self else { return None };
        let number = match kind {
            RelayKind::Datagrams => 0,
            RelayKind::Connection if *connections >= MOST_RELAYED => return None,
            RelayKind::Connection => {
                *connections += 1;
                *connections
            }
        };
        let candidate = Candidate { path: Path::External, target: remote, from: None };
        Some((Lane::Relayed { kind, number }, candidate))
    }

    /// Ends, with what the attempt has kept. Returns what is to be done, if anything.
    pub(super) fn end(&mut self, kept: Option<Lane>) -> Option<RelayAct> {
        let was_running = self.is_running();
        *self = Self::Over;
        let act = match kept {
            Some(Lane::Relayed { kind, .. }) => RelayAct::Keep(kind),
            _ => RelayAct::End,
        };
        was_running.then_some(act)
    }
}
