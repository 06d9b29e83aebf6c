//! The proof: is it really them, and is this the connection we both keep?
//!
//! After TCP connects, and before a single byte of the user's passes, both ends run a Noise IK handshake over
//! the new connection. It proves both identities to each other, binds them to one connection attempt, agrees
//! on how the pipe is protected, and ends with the caller's word that *this* connection, of all that were
//! raced, is the one to keep.
//!
//! ```text
//! the peer was dialled (direct)                the peer dialled us (reverse)
//!
//! caller ── Hello ──────────▶ called           called ── Hello ──────────▶ caller
//! caller ◀───────── Welcome ─ called           called ◀───────── Welcome ─ caller
//! caller ── Go ─────────────▶ called           called ── Ready ──────────▶ caller
//!        ══ pipe ══                            called ◀────────────── Go ─ caller
//!                                                     ══ pipe ══
//! ```
//!
//! - Whoever dialled speaks first. Whoever called (asked for the connection) speaks last: only the caller
//!   says Go, and says it once per attempt, so both ends always keep the same connection.
//! - The first frame carries a code that only somebody who knows the receiver's public key can make. Port
//!   scanners, crawlers and replayed noise cost one hash and no curve arithmetic.
//! - A Hello that was replayed goes nowhere: without the ephemeral secret there is no valid Go or Ready.
//! - Everything is bounded: frames of 512 bytes at most, one deadline for all of it.

mod handshake;
mod session;
#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;
mod wire;

pub use handshake::{Act, Claim, Counterpart, Event, Proof, ProofConfig, ProofError, Stage};
pub use session::{Cipher, Session};
pub use wire::{MOST_FRAME, Role};
