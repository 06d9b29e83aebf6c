//! Connections that a relay passes on.
//!
//! [`Circuit`] is one relayed connection on one end, whole: a [`Stream`](crate::transport::Stream), the servers it goes
//! through, and what is agreed with the peer.

pub mod circuit;
mod offer;
mod route;

pub use circuit::{Circuit, CircuitConfig};
pub use offer::{BadRelayOffer, MOST_RELAYED, RelayOffer};
pub use route::{End, Route};
