//! TCP hole punching: both peers dial each other at the ports their NATs will give them, and one of the SYNs that
//! go out opens the way for one that comes in.
//!
//! `docs/punching.md` tells how and why, with timelines and measurements.
//!
//! | file | what it is |
//! |---|---|
//! | [`side`] | what one side tells the other of itself, and how a port is told from it |
//! | [`Plan`] | who dials which port from which, when (pure, the same on both sides) |
//! | [`Agree`] | machine: offer, answer, update; what the time stamps on them say of the clocks |
//! | [`Fire`] | machine: dials a plan, never more nor faster than it may, no 4-tuple twice |
//! | [`Punch`] | machine, parent of both: has ports bound and asked for, then agrees, then fires, then again |
//! | [`worthwhile`], [`answerable`] | between which addresses, and whose wish is answered (pure) |
//! | [`Limits`], [`Budget`], [`Share`] | what a punch may do, and how several share a machine |
//!
//! # Driving one
//!
//! [`Race`](crate::race::Race) and [`race::Answer`](crate::race::Answer) own the punches of an attempt, and wrap what
//! they want into [`race::Act::Punch`](crate::race::Act::Punch) with the number of the pair of addresses. Who drives
//! them does this:
//!
//! | act | what to do | then call, on the race or the answer |
//! |---|---|---|
//! | [`Act::Reserve`] | take it from the [`Budget`] of the machine | `handle_punch_share`; back with it if that says `false` |
//! | [`Act::GiveBack`] | give it back | |
//! | [`Act::Listen`] | bind with `SO_REUSEADDR` and `SO_REUSEPORT`, listen, accept | `handle_punch_listening`; for each connection `handle_punch_accepted` |
//! | [`Act::Unlisten`] | close that listener | |
//! | [`Act::Observe`] | from that port, with the same options, ask a STUN server over TCP, and keep the connection | `handle_punch_observed` |
//! | [`Act::Forget`] | close that connection | |
//! | [`Act::Dial`] | bind with the same options, connect | `handle_punch_connected` or `handle_punch_failed` |
//! | [`Act::Drop`] | close that socket, which never was a lane | |
//! | `Act::Signal` | never comes wrapped: the race says [`race::Act::Signal`](crate::race::Act::Signal) | |
//!
//! A share, a listener and a mapping may be told at once or later; the machine waits for as long as it must.
//!
//! A connection that came up is a [`Lane`](crate::race::Lane) from then on: it is proven, fails by `handle_failed`, is
//! dropped by [`race::Act::Drop`](crate::race::Act::Drop) and kept by [`race::Act::Keep`](crate::race::Act::Keep) as
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
//!   the machine chooses the limits in [`Setup`].
//! - Rates and sockets are bounded for the whole machine by the [`Budget`], whoever asks; waves, messages, arrivals
//!   and times are bounded too.

mod agree;
mod budget;
mod fire;
mod gather;
mod layout;
mod machine;
mod message;
mod pairs;
mod plan;
pub mod side;
#[cfg(test)]
mod story_tests;
mod terms;
mod words;

#[cfg(feature = "sim")]
pub use agree::subject::AgreeSubject;
pub use agree::{Agree, AgreeAct, AgreeEvent};
pub use budget::{Budget, Limits, Share};
#[cfg(feature = "sim")]
pub use fire::subject::FireSubject;
pub use fire::{Fire, FireAct, FireConfig, FireEvent, Socket, Tally, Wave};
pub use machine::Punch;
#[cfg(feature = "sim")]
pub use machine::subject::PunchSubject;
pub use message::{Answer, MOST_PAIRS, MOST_WAVES, Message, Offer, Step, Timing, Update};
pub use pairs::{Setup, View, answerable, are_placed, worthwhile};
pub use plan::{Mode, NoPlan, Orders, Part, Plan, Shot, Tactic};
pub use side::{Ports, Side};
pub use terms::{Stamps, Terms};
pub use words::{Act, Event, Failed, PunchConfig, PunchReport};
