//! How far the relayed way of an attempt is, on either side of it.

use std::net::{IpAddr, SocketAddr};

use super::{Candidate, Lane, Path, RelayAct};
use crate::relay::circuit::RelayKind;

/// Relayed connections of one attempt that are proven: anybody behind the peer's address may dial one.
const MOST_RELAYED: usize = 16;

/// What the circuit of one attempt is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Relaying {
    #[default]
    NotBegun,
    /// So many connections have come of it.
    Running {
        connections: usize,
    },
    Over,
}

impl Relaying {
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// The peer may come from there.
    pub(super) fn begin(&mut self, sources: Vec<IpAddr>) -> RelayAct {
        *self = Self::Running { connections: 0 };
        RelayAct::Begin(sources)
    }

    /// A lane for what has come of it; `None` when it is too late or too much.
    pub(super) fn open(&mut self, kind: RelayKind, remote: SocketAddr) -> Option<(Lane, Candidate)> {
        let Self::Running { connections } = self else { return None };
        let index = match kind {
            RelayKind::Datagrams => 0,
            RelayKind::Connection if *connections >= MOST_RELAYED => return None,
            RelayKind::Connection => {
                *connections += 1;
                *connections
            }
        };
        Some((Lane::relayed(index), Candidate { path: Path::External, target: remote, from: None }))
    }

    /// The attempt is over, and has kept this. What is to be done, if anything.
    pub(super) fn end(&mut self, kept: Option<Lane>) -> Option<RelayAct> {
        let was_running = self.is_running();
        *self = Self::Over;
        let act = kept.and_then(|lane| lane.relayed_as()).map_or(RelayAct::End, RelayAct::Keep);
        was_running.then_some(act)
    }
}
