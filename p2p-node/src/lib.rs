//! # p2p-node: the front door

#[cfg(feature = "rendezvous")]
pub mod rendezvous;
