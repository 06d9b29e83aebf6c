//! # p2p-core: the part that decides
//!
//! Two computers behind routers want one plain TCP connection to each other. This crate holds every decision
//! on the way there, as pure state machines: no clock, no dice, no sockets, no threads.

pub mod addr;
pub mod backoff;
pub mod clock;
pub mod machine;
pub mod nat;
mod noise;
pub mod peer;
pub mod proof;
pub mod race;
pub mod seed;
pub mod signal;
pub mod stun;

#[cfg(feature = "sim")]
pub mod sim;

pub use addr::{Family, Local, Mapped, Reach, Relayed};
pub use backoff::Backoff;
pub use clock::{Clock, UnixTime};
pub use machine::{Deadline, Machine, Output};
pub use seed::Seed;
