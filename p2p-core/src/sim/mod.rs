//! The world in a box, and the laws every machine keeps (feature `sim`).
//!
//! Nothing here runs in a node. It is public so that embedders can hold their own machines to the same laws
//! and run whole networks in virtual time.

pub mod broker;
pub mod dump;
pub mod host;
pub mod laws;
pub mod link;
pub mod nat;
pub mod packet;
pub mod router;
pub mod span;
pub mod stun;
pub mod tcp;
pub mod udp;
pub mod wire;
pub mod world;

use std::sync::OnceLock;
use std::time::Instant;

/// The moment at which virtual time starts: the same for every caller in this process.
///
/// [`Instant`] cannot be made from a number, so one real instant is read, once. Only differences to it are
/// ever shown, so runs stay reproducible.
pub fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "there is no other way to make an Instant")]
    *EPOCH.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests;
