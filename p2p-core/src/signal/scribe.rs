//! Writes what this node has to say.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::MOST_TTL;
use super::message::{AttemptId, Body, Signal};
use super::seal::{SealError, seal};
use crate::peer::{Identity, PeerAddr, PeerId};
use crate::{Clock, Seed};

/// Makes sealed signals: numbers them, dates them, puts this node's current address in.
///
/// Numbers are UNIX time in µs, or one more than the last if that is later. So they rise across restarts
/// without anything being stored, as long as the system clock is not set back between them. If it is, a
/// receiver still takes lower numbers it has not seen, unless they are below all it remembers of us.
#[derive(Debug)]
pub struct Scribe {
    identity: Identity,
    clock: Clock,
    seed: Seed,
    address: Option<PeerAddr>,
    last: u64,
}

/// Why nothing was written. Always the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// [`Scribe::set_address`] was never called.
    #[error("this node has no address to put into a signal yet")]
    NoAddress,
    /// The address is somebody else's.
    #[error("a node can only publish its own address")]
    NotOurs,
    /// To ourselves.
    #[error("a node has nothing to say to itself")]
    ToSelf,
    /// It would last longer than any receiver accepts.
    #[error("a signal that lasts {ttl:?} is refused by every receiver: {MOST_TTL:?} at most")]
    Ttl {
        /// How long it was to last.
        ttl: Duration,
    },
    /// It cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Scribe {
    /// A scribe for `identity`.
    pub fn new(identity: Identity, clock: Clock, seed: Seed) -> Self {
        Self { identity, clock, seed, address: None, last: 0 }
    }

    /// Where this node is from now on.
    ///
    /// # Errors
    /// [`WriteError::NotOurs`] when somebody else signed it.
    pub fn set_address(&mut self, address: PeerAddr) -> Result<(), WriteError> {
        if address.id() != self.identity.id() {
            return Err(WriteError::NotOurs);
        }
        self.address = Some(address);
        Ok(())
    }

    /// Where this node is, as last set.
    pub fn address(&self) -> Option<&PeerAddr> {
        self.address.as_ref()
    }

    /// Mixes entropy in: see [`Seed::stir`]. Each signal is a handshake of its own.
    pub fn stir(&mut self, entropy: [u8; 32]) {
        self.seed.stir(entropy);
    }

    /// What time it is: after a suspend, or when a better source was found.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Writes and seals a signal that means something for `ttl` (up to 5 minutes).
    ///
    /// # Errors
    /// [`WriteError`]; nothing was numbered then.
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
