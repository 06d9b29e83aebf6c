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
//! [`IdleConnection::into_stream`] puts to work on whatever runtime will use it.

//!
//! Two nodes in one thread, signalling in memory:
//!
//! ```
//! use p2p_actors::p2p_core::Seed;
//! use p2p_actors::p2p_core::node::{BrokerConfig, ConnectOptions, Interfaces, NodeConfig};
//! use p2p_actors::p2p_core::peer::Identity;
//! use p2p_actors::signal::MemoryBroker;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! tokio::task::LocalSet::new().block_on(&runtime, async {
//!     let loopback = p2p_actors::interface::nics()?.into_iter().find(|nic| nic.is_loopback);
//!     let loopback = Interfaces::Only(vec![loopback.ok_or("no loopback interface")?.name]);
//!     let broker = MemoryBroker::new();
//!     let start = |number| {
//!         // A fixed seed makes a fixed key, which is right for an example and wrong for anything else.
//!         let config = NodeConfig::new(Identity::generate(&mut Seed::from_u64(number)))
//!             .with_interfaces(loopback.clone())
//!             .with_brokers([BrokerConfig::new("memory://here".parse()?)])
//!             .with_machine_id(*b"this machine")
//!             .with_plain(true);
//!         Ok::<_, Box<dyn std::error::Error>>(p2p_actors::spawn_local(config, Some(broker.clone()))?)
//!     };
//!     let (anna, bert) = (start(1)?, start(2)?);
//!
//!     let address = bert.status().wait_for(|status| status.is_ready()).await?.address.clone();
//!     let call = anna.connect(address.expect("it is ready"), ConnectOptions::new().with_plain(true));
//!     let (called, accepted) = tokio::join!(call, bert.accept());
//!     let mut here = called?.connection.into_stream()?;
//!     let mut there = accepted.ok_or("the node is closed")?.connection.into_stream()?;
//!
//!     here.write_all(b"hello").await?;
//!     let mut heard = [0; 5];
//!     there.read_exact(&mut heard).await?;
//!     assert_eq!(&heard, b"hello");
//!     Ok(())
//! })
//! # }
//! ```
//!
//! Types of the core stand in many signatures here; the whole crate is re-exported as [`p2p_core`].

mod attempt;
mod bind;
mod connection;
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

pub use connection::{ActiveConnection, IdleConnection, RelayedStream, RestedRelay};
pub use error::StartError;
pub use handle::Handle;
pub use host::{spawn, spawn_local};
pub use keep_alive::StallGuard;
pub use p2p_core;
pub use sockets::{PipePlace, ProvenConnection};
