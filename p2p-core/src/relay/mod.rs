//! Connections that a relay passes on.
//!
//! [`Circuit`] is one relayed connection on one end, whole: a [`Stream`](crate::transport::Stream), the servers it goes
//! through, and what is agreed with the peer.

pub mod circuit;
mod notice;
mod route;

pub use circuit::{Circuit, CircuitConfig};
pub use notice::{MOST_LENT, Notice};
pub use route::{End, Route};
