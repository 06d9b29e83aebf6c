//! The proof that the right peer is at the other end, and that both ends keep this connection.
//!
//! After TCP connects, and before a single byte of the user's passes, both ends run a Noise IK handshake over the new
//! connection. It proves both identities to each other, binds them to one connection attempt, and agrees on the
//! protection of the pipe. It ends with the caller's word that *this* connection, of all that were raced, is the one
//! to keep.
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
//! - The end that dialled speaks first. The caller, which asked for the connection, speaks last. Only the caller says
//!   Go, once per attempt, so both ends always keep the same connection.
//! - The first frame carries a code that only somebody who knows the receiver's public key can make. Port scanners,
//!   crawlers and replayed noise cost one hash and no curve arithmetic.
//! - A replayed Hello leads nowhere: without the ephemeral secret there is no valid Go or Ready.
//! - Everything is bounded: frames have 512 bytes at most, and one deadline covers the whole proof.

mod error;
mod handshake;
mod session;
#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;
mod wire;

pub use error::ProofError;
pub use handshake::{Act, Counterpart, Event, Proof, ProofConfig, Stage};
pub use session::{Cipher, Claim, Session};
pub use wire::MOST_FRAME;
