//! Dialling what a TURN server lends the peer for connections (RFC 6062).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Dials of one circuit at most.
const MOST_DIALS: u8 = 16;
/// A connection that ends before it proves anything was not let through yet: the peer's word may overtake its server's.
/// So it is dialled again, so often where the peer is trusted, else once; first after this, then after twice as long each
/// time.
const MOST_AGAIN: u8 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Which addresses were dialled, and when they are again.
#[derive(Debug, Default)]
pub(super) struct Dialling {
    tried: BTreeSet<SocketAddr>,
    /// Those that are not over.
    running: BTreeSet<SocketAddr>,
    /// How often more all may be dialled.
    again: u8,
    dials: u8,
    paused: u32,
    at: Option<Instant>,
}

impl Dialling {
    pub(super) fn new(is_trusted: bool) -> Self {
        Self { again: if is_trusted { MOST_AGAIN } else { 1 }, ..Self::default() }
    }

    /// Of these addresses, those that are to be dialled now.
    pub(super) fn dial(&mut self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        self.tried.retain(|tried| addresses.contains(tried));
        let mut all = Vec::new();
        for address in addresses {
            if self.dials < MOST_DIALS && self.tried.insert(*address) && self.running.insert(*address) {
                self.dials += 1;
                all.push(*address);
            }
        }
        all
    }

    /// A dial is over. Whether there was one.
    pub(super) fn on_dialled(&mut self, address: SocketAddr) -> bool {
        self.running.remove(&address)
    }

    /// Nothing has come of it so far.
    pub(super) fn on_barren(&mut self, now: Instant) {
        if !self.tried.is_empty() && self.running.is_empty() && self.again > 0 && self.at.is_none() {
            self.at = Some(now + FIRST_PAUSE * 2_u32.pow(self.paused));
            (self.again, self.paused) = (self.again - 1, self.paused + 1);
        }
    }

    /// Whether it is time to dial all of them again.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.at.take_if(|at| *at <= now).is_some();
        if is_due {
            self.tried.clear();
        }
        is_due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Whether something may yet come of it.
    pub(super) fn is_hopeful(&self) -> bool {
        !self.running.is_empty() || self.at.is_some()
    }

    /// Nothing is of interest any more.
    pub(super) fn stop(&mut self) {
        *self = Self { dials: MOST_DIALS, ..Self::default() };
    }
}
