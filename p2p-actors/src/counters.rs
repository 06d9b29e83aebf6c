//! What came to the door and was turned away.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use p2p_core::proof::ProofError;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the node started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Tallies {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Tallies {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Connections that arrived at a listener.
    arrived,
    /// Connections that did not speak our protocol: scanners, crawlers, broken ones.
    garbled,
    /// Connections from somebody who does not know our key, or is not the peer we dialled.
    strangers,
    /// Connections that led back to ourselves.
    ourselves,
    /// Connections that fell silent, or were too slow, before the proof was over.
    silent,
    /// Connections closed by the other end during the proof.
    lost,
    /// Claims we refused: not allowed, busy, unknown attempt.
    refused,
    /// Connections pushed out of a full waiting room by newer ones.
    evicted,
    /// Connections accepted and handed on.
    accepted,
    /// Attempts of ours.
    attempts,
    /// Times somebody asked us to dial them.
    answers,
}

impl Tallies {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a connection that came to us and failed its proof.
    pub(crate) fn count_failure(&self, error: ProofError) {
        Self::count(match error {
            ProofError::Stranger => &self.strangers,
            ProofError::Ourselves => &self.ourselves,
            ProofError::TimedOut => &self.silent,
            ProofError::Lost => &self.lost,
            ProofError::Refused(_) | ProofError::Declined(_) => &self.refused,
            _ => &self.garbled,
        });
    }
}
