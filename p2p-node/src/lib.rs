//! # p2p-node: the front door

pub mod config;
mod error;
mod message;
mod node;
mod pipe;
#[cfg(feature = "rendezvous")]
pub mod rendezvous;
pub mod report;

pub use config::{Config, Key};
pub use error::{BindError, ConnectError};
pub use message::{Framing, Message, MessageGuard, MessageOptions, Messages, Replier};
pub use node::Node;
pub use p2p_actors::signal::{BrokerState, MemoryBroker};
pub use p2p_actors::{
    BrokerConfig, ConnectOptions, Counters, How, Interfaces, Limits, StartError, Status, StunServer,
};
pub use p2p_core::Family;
pub use p2p_core::peer::{BrokerUrl, Identity, PeerAddr, PeerId};
pub use p2p_core::proof::Cipher;
pub use p2p_core::race::{
    Filter, LaneFailure, LaneReport, Path, RaceReport, Way, WayFailure, WayOutcome, WayReport,
};
pub use p2p_core::signal::BrokerTrouble;
pub use pipe::Pipe;
