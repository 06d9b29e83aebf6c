//! # p2p-actors: the part that does
//!
//! One actix actor per interface, per signalling channel and per connection attempt, each turning one machine
//! of `p2p-core`. Actors negotiate, pipes carry: no payload byte ever passes through a mailbox.

pub(crate) mod drive;
pub mod interface;
pub mod signal;
