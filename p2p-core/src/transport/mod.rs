//! A reliable connection over datagrams that a relay passes on, or any other path that loses, repeats and reorders.
//!
//! | machine | carries |
//! |---|---|
//! | [`Stream`] | bytes, in order: what a pipe shows |
//! | [`Messages`] | messages, each whole and once, in whatever order they come |
//!
//! Both are made of the same datagrams (`frame.rs` draws them), acks in ranges, round-trip estimate and timeouts
//! (`packets.rs`, after RFC 9002), congestion control and pacing (`congestion.rs`). Data is repeated under a new number,
//! so an ack is never ambiguous; late arrivals teach how much the path reorders.
//!
//! A connection is tied to two [`Token`]s, not to addresses: its owner may take it to another path at any time.
//!
//! ```
//! use p2p_core::transport::{Read, TransportConfig, Stream, Token, Tokens};
//! use p2p_core::sim::epoch;
//! use p2p_core::Seed;
//!
//! let (now, mut seed) = (epoch(), Seed::from_u64(1));
//! // Drawn by each end and told to the other by sealed signal.
//! let (a, b) = (Token::new(&mut seed), Token::new(&mut seed));
//! let mut here = Stream::new(TransportConfig::new(Tokens { ours: a, theirs: b }), seed.fork("a"), now);
//! let mut there = Stream::new(TransportConfig::new(Tokens { ours: b, theirs: a }), seed.fork("b"), now);
//!
//! here.write(b"hello", now)?;
//! let mut datagram = [0; 1_200];
//! while let Some(length) = here.poll_transmit(&mut datagram) {
//!     there.handle_datagram(&datagram[..length], now);
//! }
//! let mut out = [0; 16];
//! assert_eq!(there.read(&mut out, now)?, Read::Bytes(5));
//! assert_eq!(&out[..5], b"hello");
//! # Ok::<(), p2p_core::transport::TransportError>(())
//! ```

mod config;
mod congestion;
mod connection;
mod counters;
mod frame;
mod messages;
mod packets;
mod ranges;
mod recv;
mod ring;
mod rtt;
mod send;
mod size;
mod stream;

pub use config::{Tokens, TransportConfig};
pub use connection::{Act, Event, ResetReason, TransportError};
pub use counters::Counters;
pub use frame::{FrameError, Token};
#[cfg(feature = "sim")]
pub use messages::subject::MessagesSubject;
pub use messages::{MOST_MESSAGE, Messages, SendError};
#[cfg(feature = "sim")]
pub use stream::subject::StreamSubject;
pub use stream::{Read, Stream};
