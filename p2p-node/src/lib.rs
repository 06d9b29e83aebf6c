//! # p2p-node: the front door
//!
//! A [`Node`] is found by others and finds others. A [`Pipe`] is the connection between two. Everything else here is
//! what you tell a node, and what it tells you. You tell it a [`Config`] and [`ConnectOptions`]. It tells you
//! [`ConnectionInfo`], [`Status`] and [`ConnectError`], which carries the story of an attempt that failed.
//!
//! - No server is built in: brokers, STUN, TURN and NTP servers come from your configuration only.
//! - A node has a thread of its own; a pipe belongs to your runtime and outlives its node.
//! - Dropping the future of [`Node::connect`] cancels the attempt and leaves nothing behind.
//!
//! ```
//! use p2p_node::{BrokerConfig, Config, MemoryBroker, Node};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two nodes of one process, signalling in memory. On a network: `mqtt://broker.example`.
//! let config = Config::loopback()
//!     .with_brokers([BrokerConfig::new("memory://here".parse()?)])
//!     .with_memory(MemoryBroker::new());
//! let (anna, bert) = (Node::bind(config.clone()).await?, Node::bind(config).await?);
//!
//! let address = bert.addr().ok_or("not bound")?;
//! let (called, accepted) = tokio::join!(anna.connect(&address), bert.accept());
//! let (mut here, mut there) = (called?, accepted.ok_or("closed")?);
//! here.write_all(b"hello").await?;
//! let mut heard = [0; 5];
//! there.read_exact(&mut heard).await?;
//! assert_eq!(&heard, b"hello");
//! assert_eq!(there.peer(), anna.id()); // proven
//!
//! // An attempt that fails says why in one line, and tells its whole story beside it.
//! bert.close().await;
//! let error = anna.connect(&address).await.expect_err("nobody is there");
//! println!("{error}");
//! if let Some(story) = error.report() {
//!     println!("{story}");
//! }
//! # Ok(()) }
//! ```
//!
//! What a node tells in detail is made of types of the core. Those used most are re-exported here, and the crate itself as
//! [`p2p_core`].
//!
//! # Features
//!
//! None is on by default. The command `p2p` is a package of its own, `p2p-command`.
//!
//! | feature | purpose |
//! |---|---|
//! | `config-file` | `Config::from_file`, `Config::from_toml`, and the parsers of single values |
//! | `rendezvous` | the module `rendezvous`: an MQTT broker, a STUN server and a TURN server in this process |
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod config;
mod error;
mod forward;
mod message;
pub mod network;
mod node;
mod pipe;
#[cfg(feature = "rendezvous")]
pub mod rendezvous;
pub mod report;

pub use config::{Config, Key};
pub use error::{BindError, ConnectError};
pub use forward::Forwarded;
pub use message::{Framing, Message, MessageGuard, MessageOptions, Messages, Replier};
pub use network::{Network, NetworkReport, NetworkState};
pub use node::Node;
pub use p2p_actors::StartError;
pub use p2p_actors::signal::MemoryBroker;
pub use p2p_core;
pub use p2p_core::Family;
pub use p2p_core::attempt::{AttemptId, DialError, Path, RefusalReason, Role, Way};
pub use p2p_core::candidate::Filter;
pub use p2p_core::connect::{AttemptReport, LaneFailure, LaneReport, WayFailure, WayOutcome, WayReport};
pub use p2p_core::node::{
    BrokerConfig, BrokerState, ConnectOptions, ConnectionInfo, Counters, Interfaces, KeepAlive, Limits,
    NetworkView, NtpServer, NtpStatus, ServerError, Status, StunServer, TurnServer,
};
pub use p2p_core::peer::{
    AddrError, BrokerUrl, BrokerUrlError, IdError, Identity, IdentityError, PeerAddr, PeerId,
};
pub use p2p_core::proof::{Cipher, ProofError};
pub use p2p_core::punch::{Failed as PunchFailure, Limits as PunchLimits, PunchReport};
pub use p2p_core::relay::circuit::Connections as RelayConnections;
pub use p2p_core::signal::BrokerTrouble;
pub use p2p_core::text::UnknownName;
pub use p2p_core::turn::Carrier as TurnCarrier;
pub use pipe::Pipe;

/// Compiles and runs the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
