//! The race: every way to a peer at once, the first proven connection wins.
//!
//! | file | what it decides |
//! |---|---|
//! | [`order`](candidates) | which addresses are worth dialling, and in which order (pure) |
//! | [`Dialler`] | when to dial the next one (RFC 8305) |
//! | [`Reverse`] | when to ask the peer, again, and when to give up |
//! | [`Race`] | which ways run, which connection is kept, why the others failed |
//! | [`Answer`] | the mirror side: dial somebody who asked for it |
//! | [`Punch`](crate::punch::Punch) | how to meet a peer behind a NAT; see there |
//! | [`Circuit`](crate::relay::Circuit) | how to go through a relay; a race only tells when it begins and ends |
//! | [`RaceReport`] | what happened, for people and programs |
//!
//! A [`Lane`] is one TCP connection on its way to become the one that is kept. `Race` and `Answer` speak of
//! lanes; who drives them owns the sockets and runs a [`Proof`](crate::proof::Proof) on each.

mod answer;
mod dial;
mod machine;
mod order;
mod punches;
#[cfg(test)]
mod punching_tests;
mod record;
mod relaying;
#[cfg(test)]
mod relaying_tests;
mod report;
mod reverse;
#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use answer::{ANSWER_WITHIN, Answer};
pub use dial::{DIAL_DELAY, DialAct, DialEvent, Dialler};
pub use machine::{HEAD_START, RELAY_AFTER, RELAY_PATIENCE, Race, RaceConfig};
pub(crate) use order::on_link as is_on_link;
pub use order::{
    Candidate, Filter, MOST_CANDIDATES, Motive, OurAddress, OurPlace, Path, candidates, path_to,
};
pub use report::{LaneFailure, LaneReport, RaceReport, WayFailure, WayOutcome, WayReport};
pub use reverse::{Reverse, ReverseAct};

use crate::punch::{self, Socket};
use crate::relay::Notice;
use crate::relay::circuit::Kept;
use crate::signal::Body;

/// A way to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Way {
    /// Dial what the peer publishes.
    Direct,
    /// Ask the peer, through a broker, to dial us.
    Reverse,
    /// Both dial at once, as agreed through a broker.
    Punch,
    /// Through a TURN server of either side's.
    Relay,
}

impl Way {
    /// All of them, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Reverse, Self::Punch, Self::Relay];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Reverse => "reverse",
            Self::Punch => "punch",
            Self::Relay => "relay",
        })
    }
}

/// Sockets of one punch are fewer than 2 to this power: its dials are limited, and so are arrivals.
const PAIR_SHIFT: u32 = 24;

/// One TCP connection of an attempt, on its way to be kept or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    way: Way,
    index: usize,
}

impl Lane {
    /// A connection we dial, by its place among the candidates.
    pub(crate) fn dialled(index: usize) -> Self {
        Self { way: Way::Direct, index }
    }

    /// A connection the peer dialled because we asked, in order of arrival.
    pub(crate) fn arrived(index: usize) -> Self {
        Self { way: Way::Reverse, index }
    }

    /// A connection that a punch brought about: which of the attempt's punches, and which of its sockets.
    pub(crate) fn punched(pair: u8, socket: Socket) -> Self {
        Self { way: Way::Punch, index: usize::from(pair) << PAIR_SHIFT | socket.number() as usize }
    }

    /// A relayed connection: the stream over datagrams is the first of them.
    pub(crate) fn relayed(index: usize) -> Self {
        Self { way: Way::Relay, index }
    }

    /// What it is made of, if it is a relayed one.
    pub fn relayed_as(&self) -> Option<Kept> {
        let kept = if self.index == 0 { Kept::Datagrams } else { Kept::Connection };
        Some(kept).filter(|_| self.way == Way::Relay)
    }

    /// The punch and the socket behind it, if it is a punched one.
    pub fn punched_by(&self) -> Option<(u8, Socket)> {
        let pair = u8::try_from(self.index >> PAIR_SHIFT).ok().filter(|_| self.way == Way::Punch)?;
        Some((pair, Socket::numbered((self.index & ((1 << PAIR_SHIFT) - 1)) as u32)))
    }

    /// The way it belongs to.
    pub fn way(&self) -> Way {
        self.way
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.way, self.index)
    }
}

/// What an attempt wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Connect, and prove.
    Dial(Lane, Candidate),
    /// Give up on this connection, whatever it is doing.
    Drop(Lane),
    /// This is the one: say Go on it.
    Keep(Lane),
    /// Send this to the peer, through every broker that may reach it.
    Signal(Body),
    /// Do this for the attempt's punch of this number. It is never a signal, and drops only what never was a lane.
    Punch(u8, punch::Act),
    /// Do this with the attempt's circuit.
    Relay(RelayAct),
}

/// What an attempt wants of its [`Circuit`](crate::relay::Circuit). Its signals go to the peer; what comes of it is told by
/// `handle_relayed` and `handle_relay_failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayAct {
    /// There is to be one. The peer may come from these addresses.
    Begin(Vec<IpAddr>),
    /// The peer has said this, and may come from these addresses.
    Hear(Notice, Vec<IpAddr>),
    /// It has led to the connection that is kept.
    Keep(Kept),
    /// It is not needed any more.
    End,
}

/// What an attempt has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both ends keep this connection.
    Won(Lane),
    /// There will be none.
    Lost,
}
