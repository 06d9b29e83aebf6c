//! The writer of this node's signals.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::MOST_TTL;
use super::message::{Body, Signal};
use super::seal::{SealError, seal};
use crate::attempt::AttemptId;
use crate::peer::{Identity, PeerAddr, PeerId};
use crate::{Clock, Seed};

/// Makes sealed signals: it numbers them, dates them, and puts this node's current address in.
///
/// A number is the UNIX time in µs, or one more than the last number if that is later. So numbers rise across
/// restarts without anything being stored, as long as the system clock is not set back meanwhile. If it is, a
/// receiver still takes lower numbers it has not seen, unless they are below all it remembers of us.
#[derive(Debug)]
pub struct Scribe {
    identity: Identity,
    clock: Clock,
    seed: Seed,
    address: Option<PeerAddr>,
    last: u64,
}

/// A reason why nothing was written. It is always the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// [`Scribe::set_address`] was never called.
    #[error("this node has no address to put into a signal yet")]
    NoAddress,
    /// The address was signed by another peer.
    #[error("a node can only publish its own address")]
    NotOurs,
    /// The receiver is this node itself.
    #[error("a node has nothing to say to itself")]
    ToSelf,
    /// The signal would last longer than any receiver accepts.
    #[error("a signal that lasts {ttl:?} is refused by every receiver: {MOST_TTL:?} at most")]
    Ttl {
        /// The time it was to last.
        ttl: Duration,
    },
    /// The signal cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Scribe {
    /// Returns a scribe for `identity`.
    pub fn new(identity: Identity, clock: Clock, seed: Seed) -> Self {
        Self { identity, clock, seed, address: None, last: 0 }
    }

    /// Sets the address of this node that signals carry from now on.
    ///
    /// # Errors
    /// [`WriteError::NotOurs`] when another peer signed it.
    pub fn set_address(&mut self, address: PeerAddr) -> Result<(), WriteError> {
        if address.id() != self.identity.id() {
            return Err(WriteError::NotOurs);
        }
        self.address = Some(address);
        Ok(())
    }

    /// Returns the address of this node, as last set.
    pub fn address(&self) -> Option<&PeerAddr> {
        self.address.as_ref()
    }

    /// Mixes entropy in: see [`Seed::stir`]. Each signal is a handshake of its own.
    pub fn stir(&mut self, entropy: [u8; 32]) {
        self.seed.stir(entropy);
    }

    /// Sets the clock, after a suspend or when a better source was found.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Writes and seals a signal that has a meaning for `ttl` (up to 5 minutes).
    ///
    /// # Errors
    /// [`WriteError`] when it cannot be written. Then no number is used up.
    pub fn write(
        &mut self,
        to: PeerId,
        attempt: AttemptId,
        body: Body,
        ttl: Duration,
        now: Instant,
    ) -> Result<Bytes, WriteError> {
        let from = self.identity.id();
        let sender = self.address.clone().ok_or(WriteError::NoAddress)?;
        if to == from {
            return Err(WriteError::ToSelf);
        }
        if ttl > MOST_TTL {
            return Err(WriteError::Ttl { ttl });
        }
        let issued = self.clock.unix(now);
        let seq = issued.0.max(self.last.saturating_add(1));
        let signal = Signal { from, to, attempt, seq, issued, expires: issued.after(ttl), sender, body };
        let sealed = seal(&self.identity, &to, &signal, &mut self.seed)?;
        self.last = seq;
        tracing::trace!(to = %to.short(), %attempt, seq, body = signal.body.name(), "wrote a signal");
        Ok(sealed)
    }
}
