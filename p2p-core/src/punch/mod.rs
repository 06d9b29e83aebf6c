//! TCP hole punching: both peers dial each other at the ports their NATs will give them, and one of the SYNs that
//! go out opens the way for one that comes in.
//!
//! `docs/punching.md` tells how and why, with timelines and measurements.
//!
//! | file | what it is |
//! |---|---|
//! | [`endpoint`](Endpoint) | what one side tells the other of itself, and how a port is told from it |
//! | [`Plan`] | who dials which port from which, when (pure, the same on both sides) |
//! | [`Agree`] | machine: offer, answer, update; what the time stamps on them say of the clocks |
//! | [`SynSender`] | machine: dials a plan, never more nor faster than it may, no 4-tuple twice |
//! | [`Punch`] | machine, parent of both: has ports bound and asked for, then agrees, then fires, then again |
//! | [`worthwhile`], [`answerable`] | between which addresses, and whose wish is answered (pure) |
//! | [`Limits`], [`Budget`], [`Share`] | what a punch may do, and how several share a machine |
//!
//! # Driving one
//!
//! [`connect::Attempt`](crate::connect::Attempt) owns the punches of an attempt, and wraps the effects on sockets into
//! [`connect::Act::Punch`](crate::connect::Act::Punch) with the number of the pair of addresses. Who drives it performs
//! each [`SocketAct`] and answers with an [`Input`], by
//! [`handle_punch`](crate::connect::Attempt::handle_punch):
//!
//! | act | what to do | then |
//! |---|---|---|
//! | [`SocketAct::Reserve`] | take it from the [`Budget`] of the machine | [`Input::Share`] |
//! | [`SocketAct::GiveBack`] | give it back, or stop waiting for it | |
//! | [`SocketAct::Listen`] | bind with `SO_REUSEADDR` and `SO_REUSEPORT`, listen, accept | [`Input::Listening`]; for each connection [`Input::Accepted`] |
//! | [`SocketAct::Unlisten`] | close that listener | |
//! | [`SocketAct::Observe`] | from that port, with the same options, ask a STUN server over TCP, and keep the connection | [`Input::Observed`] |
//! | [`SocketAct::Forget`] | close that connection | |
//! | [`SocketAct::Dial`] | bind with the same options, connect | [`Input::Connected`] or [`Input::Failed`] |
//! | [`SocketAct::Drop`] | close that socket, which never was a lane | |
//!
//! A share, a listener and a mapping may be told at once or later; the machine waits for as long as it must.
//!
//! A connection that came up is a [`Lane`](crate::connect::Lane) from then on: it is proven, fails by
//! [`handle_lane`](crate::connect::Attempt::handle_lane), is dropped by
//! [`connect::Act::Drop`](crate::connect::Act::Drop) and kept by [`connect::Act::Keep`](crate::connect::Act::Keep) as
//! any other. On a punched connection **the caller of the attempt says Hello, whichever side's SYN came first**, and
//! the answerer waits for it: the caller starts its [`Proof`](crate::proof::Proof) with
//! [`Counterpart::Dialled`](crate::proof::Counterpart::Dialled), the answerer with
//! [`Counterpart::Unknown`](crate::proof::Counterpart::Unknown), whose claim must be the caller and the attempt.
//!
//! # What a stranger can make a node do
//!
//! A signal is sealed and signed, fresh and new before it comes here. Still its sender may lie about where it is, and
//! it is for the sake of its words that SYNs go out. So:
//!
//! - One address is dialled, one that the peer publishes, and of the kind that is dialled for others' sake at all:
//!   public, or inside a network of ours ([`answerable`]). Anything else is declined, and dials nothing.
//! - Targets are ports of that address that follow from a few numbers, each bounded; no list is ever taken over.
//! - [`Limits::stranger`] bounds all dials for a peer that nothing speaks for to 128, so that nobody's ports are
//!   scanned; a birthday over a whole range of ports is for peers that the owner's user named or has met. Whoever owns
//!   the machine chooses the limits in [`View`].
//! - Rates and sockets are bounded for the whole machine by the [`Budget`], whoever asks; rounds, messages, arrivals
//!   and times are bounded too.

mod agree;
mod budget;
mod demand;
mod endpoint;
mod gather;
mod layout;
mod machine;
mod message;
mod pairs;
mod plan;
mod ports;
mod schedule;
mod syn_sender;

mod api;
#[cfg(test)]
mod story_tests;
mod timing;
mod view;

#[cfg(feature = "sim")]
pub use agree::subject::AgreeSubject;
pub use agree::{Agree, AgreeAct, AgreeEvent};
pub use api::{Act, Event, Failed, Input, PunchConfig, PunchReport, SocketAct};
pub use budget::{Budget, Limits, Share};
pub use endpoint::{BadEndpoint, Endpoint, MOST_SOCKETS};
pub use machine::Punch;
#[cfg(feature = "sim")]
pub use machine::subject::PunchSubject;
pub use message::{Answer, BadMessage, MOST_PAIRS, MOST_ROUNDS, Message, Offer, Step, Timing, Update};
pub use pairs::{answerable, are_placed, worthwhile};
pub use schedule::{Dial, Mode, NoPlan, Plan, Schedule, Tactic};
#[cfg(feature = "sim")]
pub use syn_sender::subject::SynSenderSubject;
pub use syn_sender::{Round, Socket, SynAct, SynEvent, SynSender, SynSenderConfig, Tally};
pub use timing::{PathTiming, Stamps};
#[cfg(feature = "sim")]
pub(crate) use view::OwnedView;
pub use view::{NetworkView, View};
