//! The seats of a server: how many TCP connections there may be, and who makes room for whom.
//!
//! A connection is [silent](Rank::Silent) until it has said something that makes sense, and has a few seconds for that.
//! When a source or the server has as many connections as it may have, a silent one makes room: the oldest one of the
//! network with the most of them. So neither many connections of few networks nor a fast stream of new ones keeps
//! anybody out. When few are silent, one of the network that holds the most makes room for one that holds less, and for
//! nobody else.
//! Whoever has proven who he is keeps his seat.

mod crowds;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crowds::{Crowds, InTheWay, Order};
use p2p_core::rate::Source;
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

#[derive(Debug)]
struct SeatTable {
    held: HashMap<u64, HeldSeat>,
    /// Connections of each source, of any rank.
    sources: HashMap<Source, usize>,
    silent: Crowds,
    heard: Crowds,
    arrivals: u64,
    /// Connections that were told to go and still have their descriptor.
    leaving: usize,
    is_closed: bool,
}

#[derive(Debug)]
struct HeldSeat {
    source: Source,
    rank: Rank,
    leave: CancellationToken,
}

impl Seats {
    pub(super) fn new(most: usize, most_per_source: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_source, table: Mutex::new(SeatTable::new()), left: Notify::new() })
    }

    /// Returns a seat for one more connection, or `None` when nobody makes room for it.
    pub(super) fn take(self: &Arc<Self>, remote: SocketAddr) -> Option<Seat> {
        let source = Source::of(remote.ip());
        let mut table = self.lock();
        if table.is_closed || self.most_per_source == 0 {
            return None;
        }
        if table.sources.get(&source).is_some_and(|of_source| *of_source >= self.most_per_source) {
            let oldest = table.silent.first_of(source)?;
            table.evict(oldest);
        } else if table.held.len() >= self.most {
            let number = table.in_the_way(source, self.most / SILENT_PART)?;
            table.evict(number);
        }
        let (number, leave) = (table.arrivals, CancellationToken::new());
        table.arrivals += 1;
        table.insert(number, HeldSeat { source, rank: Rank::Silent, leave: leave.clone() });
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
    fn new() -> Self {
        Self {
            held: HashMap::new(),
            sources: HashMap::new(),
            silent: Crowds::new(Order::OldestFirst),
            heard: Crowds::new(Order::YoungestFirst),
            arrivals: 0,
            leaving: 0,
            is_closed: false,
        }
    }

    fn close(&mut self) {
        self.is_closed = true;
        let silent: Vec<u64> = self.silent.all().collect();
        silent.into_iter().for_each(|number| self.evict(number));
    }

    /// Returns who makes room for `newcomer`. While fewer than `part` are silent, those who speak and hold more than
    /// the newcomer will go first, and a silent one only for a network that holds no more than its own: else a crowd
    /// that has all other seats would throw out everybody who comes, before a word can be said.
    fn in_the_way(&self, newcomer: Source, part: usize) -> Option<u64> {
        let silent = self.silent.first();
        if self.silent.members() >= part {
            return silent.map(|silent| silent.number).or_else(|| self.heard_in_the_way(newcomer));
        }
        let is_fair = |silent: &InTheWay| self.unproven(silent.source) >= self.unproven(newcomer);
        self.heard_in_the_way(newcomer).or_else(|| silent.filter(is_fair).map(|silent| silent.number))
    }

    /// Returns the youngest connection that speaks the protocol, of the largest crowd: if that crowd holds more than
    /// `newcomer` will. Whoever was there before a crowd came can stay.
    fn heard_in_the_way(&self, newcomer: Source) -> Option<u64> {
        let InTheWay { number, source } = self.heard.first()?;
        let (crowd, own) = (self.heard.weight(source), self.heard.weight(newcomer));
        let is_fair = crowd.0 > own.0 + 1 || (source.net() == newcomer.net() && crowd.1 > own.1 + 1);
        is_fair.then_some(number)
    }

    /// Returns the connections of the network of a source without a password.
    fn unproven(&self, source: Source) -> usize {
        self.silent.weight(source).0 + self.heard.weight(source).0
    }

    fn crowds(&mut self, rank: Rank) -> Option<&mut Crowds> {
        match rank {
            Rank::Silent => Some(&mut self.silent),
            Rank::Heard => Some(&mut self.heard),
            Rank::Proven => None,
        }
    }

    fn insert(&mut self, number: u64, seat: HeldSeat) {
        *self.sources.entry(seat.source).or_default() += 1;
        let crowds = self.crowds(seat.rank);
        crowds.into_iter().for_each(|crowds| crowds.insert(seat.source, number));
        self.held.insert(number, seat);
    }

    fn remove(&mut self, number: u64) -> Option<HeldSeat> {
        let seat = self.held.remove(&number)?;
        if let Some(of_source) = self.sources.get_mut(&seat.source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.sources.remove(&seat.source);
            }
        }
        let crowds = self.crowds(seat.rank);
        crowds.into_iter().for_each(|crowds| crowds.remove(seat.source, number));
        Some(seat)
    }

    fn evict(&mut self, number: u64) {
        if let Some(seat) = self.remove(number) {
            self.leaving += 1;
            seat.leave.cancel();
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
        if table.held.get(&self.number).is_some_and(|held| to > held.rank)
            && let Some(seat) = table.remove(self.number)
        {
            table.insert(self.number, HeldSeat { rank: to, ..seat });
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
        if table.remove(self.number).is_none() {
            table.leaving -= 1;
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
