//! One connection of an attempt, by name.

use std::fmt;

use super::LaneFailure;
use crate::attempt::{Role, Way};
use crate::punch::Socket;
use crate::relay::circuit::RelayKind;

/// One connection of an attempt, on its way to be kept or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A connection we dial, by its number among the candidates.
    Dialled(usize),
    /// A connection that the peer dialled because we asked, in order of arrival.
    Arrived(usize),
    /// A connection that a punch brought about.
    Punched {
        /// The number of the punch in the attempt.
        pair: u8,
        /// The socket of the punch.
        socket: Socket,
    },
    /// A connection through a relay.
    Relayed {
        /// The kind of it.
        kind: RelayKind,
        /// The number of it among those of its kind, in order of arrival.
        number: usize,
    },
}

impl Lane {
    /// Returns the way it belongs to, in an attempt in which we have this role. An answerer dials because the caller
    /// goes the reverse way.
    pub fn way(self, role: Role) -> Way {
        match (self, role) {
            (Self::Dialled(_), Role::Caller) => Way::Direct,
            (Self::Dialled(_), Role::Answerer) | (Self::Arrived(_), _) => Way::Reverse,
            (Self::Punched { .. }, _) => Way::Punch,
            (Self::Relayed { .. }, _) => Way::Relay,
        }
    }

    /// Returns whether it goes through a relay.
    pub fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed { .. })
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(number) => write!(f, "dialled#{number}"),
            Self::Arrived(number) => write!(f, "arrived#{number}"),
            Self::Punched { pair, socket } => write!(f, "punched#{pair}{socket}"),
            Self::Relayed { kind: RelayKind::Datagrams, number } => write!(f, "datagrams#{number}"),
            Self::Relayed { kind: RelayKind::Connection, number } => write!(f, "relayed#{number}"),
        }
    }
}

/// A change in one [`Lane`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneInput {
    /// TCP is up, the proof begins.
    Connected,
    /// The peer is proven. A caller keeps the first such lane.
    Proven,
    /// The word Go is out, or has come: both ends keep this one.
    Kept,
    /// It failed, in TCP, in its proof, or in the last moment.
    Failed(LaneFailure),
}
