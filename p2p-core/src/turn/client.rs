//! A machine that races several servers and the transports to them. The first that gives an address is kept, and
//! replaced when it is lost.

mod config;
mod drain;
mod output;
mod race;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use config::{ClientConfig, Server};
pub use output::{Act, Conn, Event, Place, Report};

use super::allocation::{Allocation, AllocationConfig, ConnectionId, Counters, Lease, MOST_PEERS, Misuse};
use super::channel::CHANNEL_HEADER;
use super::data::DataConnection;
use super::{Credentials, Failure, Relaying};
use crate::{Backoff, Deadline, Machine, Output, Seed};
use race::{Race, Try, TryState};

/// The most servers asked in one race, without those that others send us to.
pub const MOST_SERVERS: usize = 16;
/// The most redirections that are followed one after another.
pub const MOST_HOPS: u8 = 4;
/// The most ports of ours from which one server is asked before it is given up (RFC 8656, section 7.4).
pub const MOST_PORTS: u8 = 3;
/// The most connections of peers that are being bound at a time.
pub const MOST_STREAMS: usize = 32;
/// The most refusals kept for the report; the oldest are dropped.
pub const MOST_REFUSALS: usize = 64;

/// The time that an allocation must have stood for the next loss to be met without a pause.
const STEADY: Duration = Duration::from_secs(60);
/// The time for which a client that has lost its allocation asks all servers again, with pauses of a second at first.
/// A restarted server is back within seconds, and a relayed connection waits as long.
const PERSISTENCE: Duration = Duration::from_secs(20);
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(600);

/// The allocation that is in use.
#[derive(Debug)]
struct Holder {
    conn: Conn,
    server: Server,
    allocation: Box<Allocation>,
    since: Instant,
    is_troubled: bool,
}

/// A connection of a peer that is being bound.
#[derive(Debug)]
enum Stream {
    Opening { connection: ConnectionId, until: Instant },
    Binding(Box<DataConnection>),
}

/// A TURN client.
///
/// | method | input |
/// |---|---|
/// | [`handle_opened`](Self::handle_opened) | a connection asked for by [`Act::Open`] is open |
/// | [`handle_data`](Self::handle_data) | a datagram or a piece of a stream came on it |
/// | [`handle_closed`](Self::handle_closed) | it could not be opened, broke, or ICMP says so |
/// | [`handle_doubt`](Self::handle_doubt) | data gets no answer |
/// | [`permit`](Self::permit), [`bind`](Self::bind), [`forget`](Self::forget) | a peer is of interest or no longer |
/// | [`send`](Self::send), [`connect`](Self::connect) | data for a peer, a connection to it |
/// | [`close`](Self::close) | it is not needed any more |
///
/// Peers of interest are remembered from one allocation to the next.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    seed: Seed,
    next_conn: u32,
    race: Race,
    /// The time at which all servers are asked again.
    next_race: Option<Instant>,
    pause: Backoff,
    holder: Option<Holder>,
    /// True when there ever was an allocation.
    was_ready: bool,
    /// The time at which the allocation was lost, if there is none since.
    lost: Option<Instant>,
    /// The allocations that are being given back.
    leaving: Vec<(Conn, Box<Allocation>)>,
    streams: BTreeMap<Conn, (SocketAddr, Stream)>,
    permitted: BTreeSet<IpAddr>,
    bound: BTreeSet<SocketAddr>,
    refusals: VecDeque<(Place, Failure)>,
    counters: Counters,
    state: State,
    out: VecDeque<Output<Act, Event>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Closing,
    Over,
}

impl Client {
    /// Makes a client that asks the first server at once.
    pub fn new(mut config: ClientConfig, seed: Seed, now: Instant) -> Self {
        config.servers.truncate(MOST_SERVERS);
        config.head_start = config.head_start.clamp(SHORTEST, LONGEST);
        config.patience = config.patience.clamp(SHORTEST, LONGEST);
        let mut client = Self {
            race: Race::new(&config.servers, config.relaying),
            config,
            seed,
            next_conn: 0,
            next_race: None,
            pause: Backoff::new(Duration::from_secs(1), Duration::from_secs(15)),
            holder: None,
            was_ready: false,
            lost: None,
            leaving: Vec::new(),
            streams: BTreeMap::new(),
            permitted: BTreeSet::new(),
            bound: BTreeSet::new(),
            refusals: VecDeque::new(),
            counters: Counters::default(),
            state: State::Running,
            out: VecDeque::new(),
        };
        client.start_next(now);
        client.settle(now);
        client
    }

    /// Returns the present allocation, with its server and connection.
    pub fn lease(&self) -> Option<(&Place, Conn, &Lease)> {
        let holder = self.holder.as_ref()?;
        Some((&holder.server.place, holder.conn, holder.allocation.lease()?))
    }

    /// Returns the refusals of servers so far.
    pub fn report(&self) -> Report {
        Report { refusals: self.refusals.iter().cloned().collect() }
    }

    /// Returns the counts of packets sent and dropped on the allocation that is in use.
    pub fn counters(&self) -> Counters {
        self.holder.as_ref().map_or(self.counters, |holder| holder.allocation.counters())
    }

    /// Does the same as [`Allocation::permit`], on the present allocation and on later ones.
    ///
    /// # Errors
    /// As [`Allocation::permit`].
    pub fn permit(&mut self, peer: IpAddr, now: Instant) -> Result<(), Misuse> {
        let peer = peer.to_canonical();
        self.check(self.permitted.len(), self.permitted.contains(&peer))?;
        if let Some(holder) = &mut self.holder {
            holder.allocation.permit(peer, now)?;
        }
        self.permitted.insert(peer);
        self.drain(now);
        Ok(())
    }

    /// Does the same as [`Allocation::bind`], on the present allocation and on later ones.
    ///
    /// # Errors
    /// As [`Allocation::bind`].
    pub fn bind(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Misuse> {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.check(self.bound.len(), self.bound.contains(&peer))?;
        if self.config.relaying == Relaying::Tcp {
            return Err(Misuse::Transport);
        }
        if let Some(holder) = &mut self.holder {
            holder.allocation.bind(peer, now)?;
        }
        self.bound.insert(peer);
        self.drain(now);
        Ok(())
    }

    fn check(&self, count: usize, is_known: bool) -> Result<(), Misuse> {
        match self.state {
            State::Running if count >= MOST_PEERS && !is_known => Err(Misuse::TooManyPeers),
            State::Running => Ok(()),
            State::Closing | State::Over => Err(Misuse::NoAllocation),
        }
    }

    /// Lets the permission and all channels of this address end.
    pub fn forget(&mut self, peer: IpAddr, now: Instant) {
        let peer = peer.to_canonical();
        self.permitted.remove(&peer);
        self.bound.retain(|bound| bound.ip() != peer);
        if let Some(holder) = &mut self.holder {
            holder.allocation.forget(peer, now);
        }
    }

    /// Makes room for `more` peers besides those that are let through: forgets those that are not wanted, if there is
    /// none.
    pub fn make_room(&mut self, more: usize, is_wanted: impl Fn(IpAddr) -> bool, now: Instant) {
        if self.permitted.len() + more <= MOST_PEERS {
            return;
        }
        let unwanted: Vec<_> = self.permitted.iter().copied().filter(|peer| !is_wanted(*peer)).collect();
        unwanted.into_iter().for_each(|peer| self.forget(peer, now));
    }

    /// Does the same as [`Allocation::send`].
    ///
    /// # Errors
    /// As [`Allocation::send`].
    pub fn send(&mut self, peer: SocketAddr, data: Bytes, now: Instant) -> Result<(), Misuse> {
        self.holder.as_mut().ok_or(Misuse::NoAllocation)?.allocation.send(peer, data, now)?;
        self.drain(now);
        Ok(())
    }

    /// Does the same as [`Allocation::header`], for the [`Conn`] of the last `Ready` or `Moved`.
    pub fn header(&self, peer: SocketAddr, length: usize, now: Instant) -> Option<[u8; CHANNEL_HEADER]> {
        self.holder.as_ref()?.allocation.header(peer, length, now)
    }

    /// Does the same as [`Allocation::peek`], for a datagram on the [`Conn`] of the last `Ready` or `Moved`.
    pub fn peek<'a>(&self, datagram: &'a [u8]) -> Option<(SocketAddr, &'a [u8])> {
        self.holder.as_ref()?.allocation.peek(datagram)
    }

    /// Performs all acts that are waiting, and leaves the events.
    pub(crate) fn drain_acts(&mut self, mut act: impl FnMut(Act)) {
        self.out.retain(|output| match output {
            Output::Act(one) => {
                act(one.clone());
                false
            }
            _ => true,
        });
    }

    /// Does the same as [`Allocation::connect`]. [`Event::Stream`] or [`Event::NotConnected`] follows.
    ///
    /// # Errors
    /// As [`Allocation::connect`].
    pub fn connect(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Misuse> {
        self.holder.as_mut().ok_or(Misuse::NoAllocation)?.allocation.connect(peer, now)?;
        self.drain(now);
        Ok(())
    }

    /// Does the same as [`Allocation::renew_credentials`], for every server that knows us by `old`.
    pub fn renew_credentials(&mut self, old: &Credentials, new: &Credentials) {
        let servers = self.config.servers.iter_mut();
        servers.filter(|server| server.credentials == *old).for_each(|server| {
            server.credentials = new.clone();
        });
        if let Some(holder) = self.holder.as_mut().filter(|holder| holder.server.credentials == *old) {
            holder.server.credentials = new.clone();
            holder.allocation.renew_credentials(new.clone());
        }
    }

    /// Notes that a connection is open.
    pub fn handle_opened(&mut self, conn: Conn, now: Instant) {
        if let Some((_, stream)) = self.streams.get_mut(&conn) {
            if let (Stream::Opening { connection, .. }, Some(holder)) = (&*stream, &mut self.holder) {
                let machine = holder.allocation.data_connection(*connection, now);
                *stream = Stream::Binding(Box::new(machine));
            }
        } else if let Some(index) = self.race.tries.iter().position(|one| one.conn == conn) {
            let one = &mut self.race.tries[index];
            if let TryState::Opening { .. } = one.state {
                let Server { place, credentials } = one.candidate.server.clone();
                let config = AllocationConfig {
                    families: self.config.families,
                    relaying: self.config.relaying,
                    keep_alive: self.config.keep_alive,
                    transaction: self.config.transaction,
                    ..AllocationConfig::new(place.address, place.carrier, credentials)
                };
                let allocation = Allocation::new(config, self.seed.fork("allocation"), now)
                    .expect("a race has no candidates that cannot relay what is wanted");
                one.state = TryState::Asking(Box::new(allocation));
            }
        }
        self.drain(now);
    }

    /// Takes a datagram from the server, or a piece of its stream. On a [`Conn`] that is not the client's any more,
    /// nothing happens.
    pub fn handle_data(&mut self, conn: Conn, bytes: Bytes, now: Instant) {
        if let Some(allocation) = self.allocation(conn) {
            allocation.handle_data(bytes, now);
        } else if let Some((_, Stream::Binding(machine))) = self.streams.get_mut(&conn) {
            machine.handle_data(bytes, now);
        }
        self.drain(now);
    }

    /// Notes that a connection could not be opened, broke, or was closed by the server, or that ICMP says the server
    /// cannot be reached.
    pub fn handle_closed(&mut self, conn: Conn, why: Option<io::ErrorKind>, now: Instant) {
        if let Some(allocation) = self.allocation(conn) {
            allocation.handle_closed(why, now);
        } else if let Some((_, stream)) = self.streams.get_mut(&conn) {
            match stream {
                Stream::Opening { .. } => self.end_stream(conn, Failure::Closed(why)),
                Stream::Binding(machine) => machine.handle_closed(why, now),
            }
        } else if let Some(index) = self.race.tries.iter().position(|one| one.conn == conn) {
            self.fail(index, Failure::Closed(why), now);
        }
        self.drain(now);
    }

    /// Does the same as [`Allocation::handle_doubt`].
    pub fn handle_doubt(&mut self, now: Instant) {
        if let Some(holder) = &mut self.holder {
            holder.allocation.handle_doubt(now);
        }
        self.drain(now);
    }

    /// Gives everything back. [`Event::Closed`] follows within a few seconds. Connections that were handed over stay.
    pub fn close(&mut self, now: Instant) {
        if self.state != State::Running {
            return;
        }
        self.state = State::Closing;
        self.out.clear();
        self.next_race = None;
        for conn in std::mem::take(&mut self.streams).into_keys() {
            self.act(Act::Close { conn });
        }
        self.stop_race(now);
        if let Some(holder) = self.holder.take() {
            self.leave(holder.conn, holder.allocation, now);
        }
        self.drain(now);
    }

    fn allocation(&mut self, conn: Conn) -> Option<&mut Allocation> {
        let holder = self.holder.iter_mut().map(|holder| (holder.conn, &mut holder.allocation));
        let tries = self.race.tries.iter_mut().filter_map(|one| match &mut one.state {
            TryState::Asking(allocation) => Some((one.conn, allocation)),
            TryState::Opening { .. } => None,
        });
        let leaving = self.leaving.iter_mut().map(|(conn, allocation)| (*conn, allocation));
        let mut all = holder.chain(tries).chain(leaving);
        all.find(|(known, _)| *known == conn).map(|(_, allocation)| &mut **allocation)
    }

    fn open(&mut self, place: Place) -> Conn {
        let conn = Conn(self.next_conn);
        self.next_conn = self.next_conn.wrapping_add(1);
        self.act(Act::Open { conn, place });
        conn
    }

    fn act(&mut self, act: Act) {
        self.out.push_back(Output::Act(act));
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    fn start_next(&mut self, now: Instant) {
        self.race.next_start = None;
        let Some(candidate) = self.race.waiting.pop_front() else { return };
        let conn = self.open(candidate.server.place.clone());
        let state = TryState::Opening { until: now + self.config.patience };
        self.race.tries.push(Try { conn, candidate, state });
        if !self.race.waiting.is_empty() {
            self.race.next_start = Some(now + self.config.head_start);
        }
    }

    /// Asks all servers anew, unless that is going on.
    fn race_again(&mut self, now: Instant) {
        if !self.race.is_over() {
            return;
        }
        self.race = Race::new(&self.config.servers, self.config.relaying);
        self.next_race = None;
        self.start_next(now);
    }

    fn stop_race(&mut self, now: Instant) {
        for one in std::mem::take(&mut self.race).tries {
            match one.state {
                TryState::Opening { .. } => self.act(Act::Close { conn: one.conn }),
                TryState::Asking(allocation) => self.leave(one.conn, allocation, now),
            }
        }
    }

    fn leave(&mut self, conn: Conn, mut allocation: Box<Allocation>, now: Instant) {
        allocation.close(now);
        self.leaving.push((conn, allocation));
    }

    fn fail(&mut self, index: usize, failure: Failure, now: Instant) {
        let one = self.race.tries.remove(index);
        self.act(Act::Close { conn: one.conn });
        tracing::debug!(place = %one.place(), %failure, "no TURN allocation");
        let place = one.place().clone();
        if let Err(failure) = self.race.follow(one.candidate, failure) {
            self.note(place, failure);
        }
        self.start_next(now);
    }

    fn note(&mut self, place: Place, failure: Failure) {
        if self.refusals.len() >= MOST_REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back((place, failure));
    }

    fn end_stream(&mut self, conn: Conn, failure: Failure) {
        if let Some((peer, _)) = self.streams.remove(&conn) {
            self.act(Act::Close { conn });
            self.tell(Event::NotConnected { peer, failure });
        }
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        if self.state == State::Over {
            return None;
        }
        let tries = self.race.tries.iter().map(|one| match &one.state {
            TryState::Opening { until } => Some(Deadline::new(*until, "connection to a TURN server")),
            TryState::Asking(allocation) => allocation.deadline(),
        });
        let streams = self.streams.values().map(|(_, stream)| match stream {
            Stream::Opening { until, .. } => Some(Deadline::new(*until, "connection for a peer")),
            Stream::Binding(machine) => machine.deadline(),
        });
        let holder = self.holder.iter().map(|holder| holder.allocation.deadline());
        let leaving = self.leaving.iter().map(|(_, allocation)| allocation.deadline());
        let own = [
            self.race.next_start.map(|at| Deadline::new(at, "one more TURN server")),
            self.next_race.map(|at| Deadline::new(at, "all TURN servers again")),
        ];
        Deadline::earliest(tries.chain(streams).chain(holder).chain(leaving).chain(own))
    }

    /// Ends connections that were not opened in time.
    fn expire(&mut self, now: Instant) {
        let is_late = |one: &Try| matches!(one.state, TryState::Opening { until } if until <= now);
        while let Some(index) = self.race.tries.iter().position(is_late) {
            self.fail(index, Failure::NoConnection(self.config.patience), now);
        }
        let late = |stream: &Stream| matches!(stream, Stream::Opening { until, .. } if *until <= now);
        let conns: Vec<_> =
            self.streams.iter().filter(|(_, (_, stream))| late(stream)).map(|(conn, _)| *conn).collect();
        for conn in conns {
            self.end_stream(conn, Failure::NoConnection(self.config.patience));
        }
    }
}

impl Machine for Client {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        let tries = self.race.tries.iter_mut().filter_map(|one| match &mut one.state {
            TryState::Asking(allocation) => Some(allocation),
            TryState::Opening { .. } => None,
        });
        let holder = self.holder.iter_mut().map(|holder| &mut holder.allocation);
        let leaving = self.leaving.iter_mut().map(|(_, allocation)| allocation);
        tries.chain(holder).chain(leaving).for_each(|allocation| allocation.handle_timeout(now));
        for (_, stream) in self.streams.values_mut() {
            if let Stream::Binding(machine) = stream {
                machine.handle_timeout(now);
            }
        }
        self.expire(now);
        if self.race.next_start.is_some_and(|at| at <= now) {
            self.start_next(now);
        }
        if self.next_race.is_some_and(|at| at <= now) {
            self.next_race = None;
            self.race_again(now);
        }
        self.drain(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
pub mod subject;

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
