//! How many TCP connections there may be, over all and from one source.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limit::Source;

/// Connections at once are never more than this, whatever the configuration says.
const MOST_SEATS: usize = 1 << 20;

/// The places there are for connections.
#[derive(Debug)]
pub(super) struct Seats {
    seats: Arc<Semaphore>,
    most: u32,
    by_source: Arc<Mutex<HashMap<Source, usize>>>,
    most_per_source: usize,
}

impl Seats {
    pub(super) fn new(most: usize, most_per_source: usize) -> Self {
        let most = most.min(MOST_SEATS);
        Self {
            seats: Arc::new(Semaphore::new(most)),
            most: most as u32,
            by_source: Arc::default(),
            most_per_source,
        }
    }

    /// A place for one more connection from `source`, unless there are too many.
    pub(super) fn take(&self, source: SocketAddr) -> Option<Seat> {
        let permit = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        let source = Source::of(source.ip());
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = by_source.entry(source).or_default();
        if *taken >= self.most_per_source {
            return None;
        }
        *taken += 1;
        Some(Seat { _permit: permit, source, by_source: Arc::clone(&self.by_source) })
    }

    /// Waits until every connection is over; none is let in any more.
    pub(super) async fn emptied(&self) {
        // All seats are free when one can take them all.
        let _all = self.seats.acquire_many(self.most).await;
        self.seats.close();
    }
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
    source: Source,
    by_source: Arc<Mutex<HashMap<Source, usize>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = by_source.get_mut(&self.source) {
            *taken -= 1;
            if *taken == 0 {
                by_source.remove(&self.source);
            }
        }
    }
}
