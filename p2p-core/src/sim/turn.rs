//! A TURN server for simulated worlds: RFC 8656 and RFC 6062 as far as a client can tell.
//!
//! [`Desk`] decides and knows no sockets, so that one exchange can be tried without a world; [`TurnServer`]
//! runs it on a simulated host, and [`TurnRunner`] a client on another. It shares its words (STUN messages) with the client it is to try, but none of
//! its rules.

mod config;
mod desk;
mod program;
mod runner;
mod serve;
mod table;

pub use config::TurnServerConfig;
pub use desk::{Deed, Desk, DeskCounters, Tuple};
pub use program::TurnServer;
pub use runner::TurnRunner;
