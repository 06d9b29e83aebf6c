//! # p2p-actors: the part that does
//!
//! Everything that decides is one machine, [`p2p_core::node::Node`]. Here are the actors that own its sockets, timers and
//! mailboxes: one per network interface, per signalling channel and per attempt. Actors negotiate, pipes carry: no payload
//! byte ever passes through a mailbox.
//!
//! ```text
//! Handle ──▶ NodeActor ─┬─▶ Interface  the sockets of one network interface
//!            turns      ├─▶ Attempt    the sockets of one attempt, and its circuit
//!            core::node ├─▶ Channel    one per broker, turns core::signal::link::Link
//!                       └─▶ Ntp        if servers are configured, turns core::clock::ntp::Client
//! ```
//!
//! [`spawn`] puts them on a thread of their own, which is what `p2p-node` does. [`spawn_local`] starts them on
//! the `LocalSet` or actix `System` a program already has: see the example `embed`. Either way the world talks
//! to them through a [`Handle`], and gets connections as [`ProvenConnection`]s: plain state, which
//! [`Carrier::into_stream`] puts to work on whatever runtime will use it.

mod attempt;
mod bind;
mod carrier;
mod descriptors;
mod drive;
mod error;
mod handle;
mod host;
pub mod interface;
mod keep_alive;
mod node;
mod ntp;
mod relay;
mod resolve;
pub mod signal;
mod sockets;
mod tls;
mod turn;

pub use carrier::{Carrier, CarrierStream, RelayedStream, RestedRelay};
pub use error::StartError;
pub use handle::Handle;
pub use host::{spawn, spawn_local};
pub use keep_alive::StallGuard;
pub use sockets::{PipePlace, ProvenConnection};
