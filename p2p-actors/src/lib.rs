//! # p2p-actors: the part that does
//!
//! One actix actor per network interface, per signalling channel and per connection attempt, each turning one
//! machine of `p2p-core`. Actors negotiate, pipes carry: no payload byte ever passes through a mailbox.
//!
//! ```text
//! Handle ──▶ Root ─┬─▶ Interface  one per NIC: listens, asks STUN servers     ⟷ core::stun::Query, core::nat::Probe
//!                  ├─▶ Ntp        asks NTP servers, if there are any          ⟷ core::clock::ntp::Client
//!                  ├─▶ Router     all signals, in and out                     ⟷ core::signal::Inbox
//!                  │     └─▶ Channel  one per broker                          ⟷ core::signal::link::Link
//!                  └─▶ Attempt    one per connect, and per peer that asks us   ⟷ core::connect::Attempt
//! ```
//!
//! [`spawn`] puts them on a thread of their own, which is what `p2p-node` does. [`spawn_local`] starts them on
//! the `LocalSet` or actix `System` a program already has: see the example `embed`. Either way the world talks
//! to them through a [`Handle`], and gets connections as [`Established`]s: plain state, which [`Carrier::into_stream`] puts to
//! work on whatever runtime will use it.

mod attempt;
mod carrier;
mod config;
mod counters;
mod drive;
mod error;
mod established;
mod handle;
mod host;
pub mod interface;
mod lobby;
mod ntp;
mod prove;
mod purse;
mod relay;
mod root;
mod shared;
pub mod signal;
mod tls;
mod turn;

pub use carrier::{Carrier, CarrierStream};
pub use config::{ActorsConfig, BrokerConfig, ConnectOptions, Interfaces, Limits};
pub use counters::Counters;
pub use error::{ConnectError, StartError};
pub use established::{ConnectionInfo, Established};
pub use handle::{Handle, Status};
pub use host::{spawn, spawn_local};
pub use interface::StunServer;
pub use ntp::{NtpServer, NtpStatus};
pub use turn::TurnServer;
