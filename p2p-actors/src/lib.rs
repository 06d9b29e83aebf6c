//! # p2p-actors: the part that does
//!
//! One actix actor per interface, per signalling channel and per connection attempt, each turning one machine
//! of `p2p-core`. Actors negotiate, pipes carry: no payload byte ever passes through a mailbox.

mod attempt;
mod config;
mod counters;
mod drive;
mod error;
mod handle;
mod host;
pub mod interface;
mod lobby;
mod root;
mod shared;
pub mod signal;
mod winner;

pub use config::{ActorsConfig, BrokerConfig, ConnectOptions, Interfaces, Limits};
pub use counters::Counters;
pub use error::{ConnectError, StartError};
pub use handle::{Handle, Status};
pub use host::{spawn, spawn_local};
pub use interface::StunServer;
pub use winner::{How, Winner};
