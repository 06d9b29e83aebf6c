//! The seats of a server: how many TCP connections there may be, and who makes room for whom.
//!
//! A connection is [silent](Rank::Silent) until it has said something that makes sense, and has a few seconds for that.
//! When a source or the server has as many connections as it may have, a silent one makes room: the oldest one of the
//! network with the most of them. So neither many connections of few networks nor a fast stream of new ones keeps
//! anybody out. When few are silent, one of the network that holds the most makes room for one that holds less.
//! Whoever has proven who he is keeps his seat.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_core::rate::{Source, SourceNet};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The standing of a connection: the higher, the safer its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It has said nothing yet that makes sense.
    Silent,
    /// It speaks the protocol, as anybody can.
    Heard,
    /// It has a password or a credential.
    Proven,
}

/// The reason why a connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// It was silent for too long.
    Overdue,
    /// It makes room for another.
    Evicted,
}

/// The seats of one server.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    most_per_source: usize,
    table: Mutex<SeatTable>,
    /// Somebody has left.
    left: Notify,
}

#[derive(Debug, Default)]
struct SeatTable {
    /// By arrival.
    held: BTreeMap<u64, HeldSeat>,
    sources: HashMap<Source, Counts>,
    nets: HashMap<SourceNet, Counts>,
    ranks: Counts,
    arrivals: u64,
    /// Connections that were told to go and still have their descriptor.
    leaving: usize,
    is_closed: bool,
}

/// Connections of each [`Rank`].
type Counts = [usize; 3];

#[derive(Debug)]
struct HeldSeat {
    source: Source,
    rank: Rank,
    leave: CancellationToken,
}

impl Seats {
    pub(super) fn new(most: usize, most_per_source: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_source, table: Mutex::default(), left: Notify::new() })
    }

    /// Returns a seat for one more connection, or `None` when nobody makes room for it.
    pub(super) fn take(self: &Arc<Self>, remote: SocketAddr) -> Option<Seat> {
        let source = Source::of(remote.ip());
        let mut table = self.lock();
        if table.is_closed || self.most_per_source == 0 {
            return None;
        }
        let of_source: usize = table.sources.get(&source).map_or(0, |counts| counts.iter().sum());
        if of_source >= self.most_per_source {
            let oldest = table.silent_of(source)?;
            table.evict(oldest);
        } else if table.held.len() >= self.most {
            let is_short = table.ranks[Rank::Silent as usize] < self.most / SILENT_PART;
            let heard = is_short.then(|| table.heard_in_the_way(source)).flatten();
            let silent = heard.or_else(|| table.silent_in_the_way());
            let number = silent.or_else(|| table.heard_in_the_way(source))?;
            table.evict(number);
        }
        let (number, leave) = (table.arrivals, CancellationToken::new());
        table.arrivals += 1;
        table.held.insert(number, HeldSeat { source, rank: Rank::Silent, leave: leave.clone() });
        table.count(source, Rank::Silent, 1);
        drop(table);
        Some(Seat { seats: Arc::clone(self), number, leave, until: Instant::now() + PATIENCE })
    }

    /// Waits until most of those who had to make room are gone, and their descriptors with them.
    pub(super) async fn settled(&self) {
        self.until(|table| table.leaving < MOST_LEAVING).await;
    }

    /// Waits until every connection is over; none is let in any more, and silent ones have to go.
    pub(super) async fn emptied(&self) {
        self.lock().close();
        self.until(|table| table.held.is_empty() && table.leaving == 0).await;
    }

    async fn until(&self, is_reached: impl Fn(&SeatTable) -> bool) {
        loop {
            let left = self.left.notified();
            if is_reached(&self.lock()) {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, SeatTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeatTable {
    fn close(&mut self) {
        self.is_closed = true;
        let silent = self.held.iter().filter(|(_, held)| held.rank == Rank::Silent);
        let silent: Vec<u64> = silent.map(|(number, _)| *number).collect();
        silent.into_iter().for_each(|number| self.evict(number));
    }

    /// The oldest silent connection of a source.
    fn silent_of(&self, source: Source) -> Option<u64> {
        let is_it = |held: &HeldSeat| held.source == source && held.rank == Rank::Silent;
        self.held.iter().find_map(|(number, held)| is_it(held).then_some(*number))
    }

    /// The oldest silent connection of the largest crowd.
    fn silent_in_the_way(&self) -> Option<u64> {
        let (_, crowd) = self.crowd(Rank::Silent)?;
        self.held.iter().find_map(|(number, held)| self.is_of(held, Rank::Silent, crowd).then_some(*number))
    }

    /// The youngest connection that speaks the protocol, of the largest crowd: if that crowd holds more than `newcomer`
    /// will. Whoever was there before a crowd came can stay.
    fn heard_in_the_way(&self, newcomer: Source) -> Option<u64> {
        let (source, crowd) = self.crowd(Rank::Heard)?;
        let own = self.weight(newcomer, Rank::Heard);
        let is_fair = crowd.0 > own.0 + 1 || (source.net() == newcomer.net() && crowd.1 > own.1 + 1);
        let mut youngest_first = self.held.iter().rev();
        let is_it = |held: &HeldSeat| self.is_of(held, Rank::Heard, crowd);
        youngest_first.find_map(|(number, held)| (is_fair && is_it(held)).then_some(*number))
    }

    fn is_of(&self, held: &HeldSeat, rank: Rank, crowd: (usize, usize)) -> bool {
        held.rank == rank && self.weight(held.source, rank) == crowd
    }

    /// The source with the most connections of a rank, of the network with the most; and its weight.
    fn crowd(&self, rank: Rank) -> Option<(Source, (usize, usize))> {
        let sources = self.sources.iter().filter(|(_, counts)| counts[rank as usize] > 0);
        sources.map(|(source, _)| (*source, self.weight(*source, rank))).max_by_key(|(_, weight)| *weight)
    }

    /// Connections of a rank of the network of a source, and of the source.
    fn weight(&self, source: Source, rank: Rank) -> (usize, usize) {
        let of = |counts: Option<&Counts>| counts.map_or(0, |counts| counts[rank as usize]);
        (of(self.nets.get(&source.net())), of(self.sources.get(&source)))
    }

    fn evict(&mut self, number: u64) {
        if let Some(held) = self.held.remove(&number) {
            self.count(held.source, held.rank, -1);
            self.leaving += 1;
            held.leave.cancel();
        }
    }

    fn count(&mut self, source: Source, rank: Rank, change: isize) {
        let add = |counts: &mut Counts| {
            counts[rank as usize] = counts[rank as usize].saturating_add_signed(change);
            *counts == Counts::default()
        };
        add(&mut self.ranks);
        if add(self.sources.entry(source).or_default()) {
            self.sources.remove(&source);
        }
        if add(self.nets.entry(source.net()).or_default()) {
            self.nets.remove(&source.net());
        }
    }
}

/// The seat of a connection; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    leave: CancellationToken,
    until: Instant,
}

impl Seat {
    /// Raises the rank of the connection.
    pub(super) fn rise(&self, to: Rank) {
        let mut table = self.seats.lock();
        let Some(held) = table.held.get_mut(&self.number) else { return };
        let (source, from) = (held.source, held.rank);
        if to > from {
            held.rank = to;
            table.count(source, from, -1);
            table.count(source, to, 1);
        }
    }

    /// Waits until the connection has to go.
    pub(super) async fn notice(&self) -> Notice {
        let overdue = async {
            sleep_until(self.until).await;
            let is_silent = |table: &SeatTable| {
                table.held.get(&self.number).is_some_and(|held| held.rank == Rank::Silent)
            };
            if !is_silent(&self.seats.lock()) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.leave.cancelled() => Notice::Evicted,
            () = overdue => Notice::Overdue,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.lock();
        match table.held.remove(&self.number) {
            Some(held) => table.count(held.source, held.rank, -1),
            None => table.leaving -= 1,
        }
        drop(table);
        self.seats.left.notify_waiters();
    }
}

/// How long a connection may be silent, TLS included.
const PATIENCE: Duration = Duration::from_secs(5);
/// One seat of so many is for silent connections, while others hold more than their part.
const SILENT_PART: usize = 8;
/// Evicted connections that may still be there while others come.
const MOST_LEAVING: usize = 16;

#[cfg(test)]
#[path = "seats_tests.rs"]
mod tests;
