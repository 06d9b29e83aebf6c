//! Signals: messages between two peers by way of brokers that neither trusts.
//!
//! A [`Scribe`] writes a [`Signal`], sealed to its receiver. Any broker carries it. The receiver's [`Inbox`] opens
//! it, and lets it through when it is fresh, new and from a peer that may speak.
//!
//! ```text
//! Scribe ── Signal ── wire ── seal ──▶ broker(s) ──▶ Inbox: open ── wire ── Signal ──▶ InboxEvent
//! ```
//!
//! A broker sees a topic (a hash of the receiver's key), one of four sizes, and bytes that look random.
//!
//! [`link`] is a session with a broker, and [`mqtt_server`] a broker.

mod inbox;
pub mod link;
mod message;
pub mod mqtt_server;
mod scribe;
mod seal;
mod seen;
mod senders;
mod tally;
mod wire;

#[cfg(test)]
mod inbox_tests;
#[cfg(test)]
mod seal_tests;

use std::time::Duration;

#[cfg(feature = "sim")]
pub use inbox::subject::InboxSubject;
pub use inbox::{Inbox, InboxConfig, InboxCounters, InboxEvent, InboxLimits};
pub use message::{Body, DialMe, Refusal, Signal};
pub use scribe::{Scribe, WriteError};
pub use seal::{MOST_SEALED, OpenError, SIZES, SealError, open, seal};
#[cfg(feature = "sim")]
pub use tally::subject::TallySubject;
pub use tally::{BrokerTrouble, Delivery, Tally};
pub use wire::WireError;

/// The longest time that a signal may last: 5 minutes. It bounds how long a replay must be remembered.
pub const MOST_TTL: Duration = Duration::from_secs(300);

/// The most that two clocks may disagree before their owners cannot signal each other: 60 s either way. Machines
/// without time synchronisation drift by seconds a day. A wrong time zone is hours, and no tolerance helps.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
