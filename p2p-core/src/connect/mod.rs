//! The attempt to connect: every way to a peer at once, the first proven connection is kept.
//!
//! | file | what it decides |
//! |---|---|
//! | [`Attempt`] | which ways run, which connection is kept, why the others failed: on either side, by its [`Role`](crate::attempt::Role) |
//! | [`HappyEyeballs`] | when to dial the next address (RFC 8305) |
//! | [`AskPeer`] | when to ask the peer to dial us, again, and when to give up |
//! | [`Punch`](crate::punch::Punch) | how to meet a peer behind a NAT; see there |
//! | [`Circuit`](crate::relay::Circuit) | how to go through a relay; an attempt only tells when it begins and ends |
//! | [`AttemptReport`] | what happened, for people and programs |
//!
//! A [`Lane`] is one connection on its way to become the one that is kept. An attempt speaks of lanes; who drives it
//! owns the sockets and runs a [`Proof`](crate::proof::Proof) on each.
//!
//! # Facts
//!
//! An attempt keeps no fact of this host. Each call lends it a [`View`](crate::punch::View) of the moment; so it is
//! no [`Machine`](crate::Machine) by itself, whose timeouts see nothing, but keeps that convention in all else.

mod ask_peer;
mod attempt;
mod happy_eyeballs;
mod lane;
mod punches;
mod records;
mod relaying;
mod report;
#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use ask_peer::{AskPeer, AskPeerAct};
pub use attempt::{
    ANSWER_WITHIN, AnswerConfig, Attempt, CallConfig, HEAD_START, RELAY_AFTER, RELAY_PATIENCE,
};
pub use happy_eyeballs::{DIAL_DELAY, DialAct, DialEvent, HappyEyeballs};
pub use lane::{Lane, LaneInput};
pub use relaying::RelayInput;
pub use report::{AttemptReport, LaneFailure, LaneReport, WayFailure, WayOutcome, WayReport};

use crate::candidate::Candidate;
use crate::punch::SocketAct;
use crate::relay::RelayOffer;
use crate::relay::circuit::RelayKind;
use crate::signal::Body;

/// An effect of an [`Attempt`].
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Connects, and proves: the lane is [`Lane::Dialled`] with this number.
    Dial(usize, Candidate),
    /// Gives up on this connection, whatever it is doing.
    Drop(Lane),
    /// Says Go on this connection. Only a caller's attempt wants it.
    Keep(Lane),
    /// Sends this to the peer, through every broker that may reach it.
    Signal(Body),
    /// Does this for the attempt's punch of this number. It drops only what never was a lane.
    Punch(u8, SocketAct),
    /// Does this with the attempt's circuit.
    Relay(RelayAct),
}

/// An effect of an [`Attempt`] on its [`Circuit`](crate::relay::Circuit). The signals of the circuit go to the peer;
/// what comes of it is told by [`handle_relay`](Attempt::handle_relay).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayAct {
    /// Begins a circuit. The peer may come from these addresses.
    Begin(Vec<IpAddr>),
    /// Tells the circuit what the peer has said; the peer may come from these addresses.
    Hear(RelayOffer, Vec<IpAddr>),
    /// Tells the circuit that it has led to the connection that is kept.
    Keep(RelayKind),
    /// Ends the circuit: it is not needed any more.
    End,
}

/// A decision of an [`Attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both ends keep this connection.
    Won(Lane),
    /// There will be none.
    Lost,
}
