//! A TURN server without sockets (RFC 8656, RFC 6062): relays datagrams and connections for peers that cannot meet
//! otherwise.
//!
//! | part | contents |
//! |---|---|
//! | [`Relayer`] | machine: requests and data of all clients in, answers and data out |
//! | [`RelayerConfig`] | for whom, to whom, how much, how long |
//! | [`SharedSecret`] | what time-limited credentials are made with |
//!
//! # Whom it answers
//!
//! Anybody can write anybody's address on a datagram. So a datagram proves its source only by a nonce that was given to
//! that source: the nonce is looked at first, and before anything is signed or looked up.
//!
//! | who asks | answers |
//! |---|---|
//! | a UDP source without a nonce of ours | no state; no more than 1.5 times the bytes of the request, with IP and UDP headers; at the rate of one address and port |
//! | one with a nonce made for its 5-tuple, stale or not; any TCP connection | at ten times that rate, in a bucket nobody else can empty |
//! | a client with an allocation | the same, in a bucket of its allocation |
//!
//! No rate is kept by IP address alone: neighbours behind one carrier NAT, and whoever writes an address on datagrams
//! that is not his, would take it from each other. The one exception is wrong passwords, by source and user name.
//!
//! # Whom it relays to
//!
//! To what IANA's registries call globally reachable ([`is_globally_reachable`](crate::addr::is_globally_reachable)), and
//! not to this machine, unless the configuration allows it. Where it relays from, only its own relayed addresses are
//! reached.
//!
//! # What it does not do
//!
//! DTLS; pairs of ports (EVEN-PORT that reserves is answered with 508); DONT-FRAGMENT (420); mobility (RFC 8016); ICMP in
//! Data indications.

mod allocation;
mod attributes;
mod auth;
mod config;
mod connection;
mod credential;
mod error;
mod head;
mod nonce;
mod output;
mod policy;
mod quota;
mod relaying;
mod request;
#[cfg(feature = "sim")]
pub mod subject;
mod users;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, trace};

pub use allocation::{CONNECTION_LIFETIME, MOST_CHANNELS, MOST_CONNECTIONS, MOST_PERMISSIONS};
pub use config::{MOST_REALM, RelayerConfig};
pub use credential::{LEAST_SECRET, SharedSecret, WeakSecret};
pub use output::{Act, Event, FiveTuple, NoRelayedAddress, RelayerCounters};
pub use quota::Quota;

use allocation::{AllocationRecord, RelayedAddress};
use nonce::Nonces;
use quota::QuotaTable;

use crate::rate::{Bucket, Rate, SourceLimit};
use crate::stun::wire::{Header, Parsed, WireError};
use crate::stun::{Class, Method, Responder, Transport};
use crate::turn::Relaying;
use crate::turn::allocation::ConnectionId;
use crate::turn::channel::CHANNEL_HEADER;
use crate::{Clock, Deadline, Machine, Output, Seed, UnixTime};

/// Requests from all sources without a nonce of ours: what is left of the processor belongs to those who have one.
const UNPROVEN: Rate = Rate { per_second: 50_000, burst: 50_000 };
/// Sources that have shown a nonce may ask so many times as often as others.
const PROVEN_SHARE: u32 = 10;

/// A TURN server without sockets.
///
/// | method | when |
/// |---|---|
/// | [`handle_data`](Self::handle_data) | a datagram, or one message out of a stream, came from a client |
/// | [`handle_checked`](Self::handle_checked), [`handle_bound`](Self::handle_bound) | the act of that kind was performed |
/// | [`handle_peer_data`](Self::handle_peer_data), [`handle_accepted`](Self::handle_accepted) | a peer came to a relayed address |
/// | [`handle_dialled`](Self::handle_dialled), [`handle_parted`](Self::handle_parted) | a connection with a peer came about, or ended |
/// | [`handle_gone`](Self::handle_gone) | a client's connection ended |
/// | [`handle_clock`](Self::handle_clock) | the system's clock was looked at |
///
/// [`Act::Check`] and [`Act::Bind`] are to be answered before anything else is handled; nothing breaks if they are not, but
/// requests wait.
///
/// # Data in bulk
///
/// [`route`](Self::route) and [`route_back`](Self::route_back) decide as `handle_data` and `handle_peer_data` do, for a
/// driver that has the bytes in a buffer of its own and sends them itself.
#[derive(Debug)]
pub struct Relayer {
    config: RelayerConfig,
    seed: Seed,
    clock: Clock,
    nonces: Nonces,
    /// By 5-tuple: without a nonce, and with one.
    unproven: SourceLimit,
    proven: SourceLimit,
    all_unproven: Bucket,
    /// Wrong passwords, by source and user name.
    guesses: SourceLimit,
    quotas: QuotaTable,
    allocations: BTreeMap<FiveTuple, AllocationRecord>,
    /// The relayed addresses there are, and whose.
    relayed: BTreeMap<(Relaying, SocketAddr), FiveTuple>,
    /// Connections with peers there are, and whose.
    connections: BTreeMap<ConnectionId, FiveTuple>,
    /// Nothing ends before this.
    next_end: Option<Instant>,
    is_closed: bool,
    counters: RelayerCounters,
    out: VecDeque<Output<Act, Event>>,
}

impl Relayer {
    /// A server without clients. Until [`handle_clock`](Self::handle_clock) says otherwise, `clock` tells which
    /// credentials have ended.
    pub fn new(config: RelayerConfig, clock: Clock, mut seed: Seed, now: Instant) -> Self {
        let Rate { per_second, burst } = config.rate;
        let proven = Rate {
            per_second: per_second.saturating_mul(PROVEN_SHARE),
            burst: burst.saturating_mul(PROVEN_SHARE),
        };
        Self {
            clock,
            nonces: Nonces::new(seed.array(), now),
            unproven: SourceLimit::new(config.rate, &mut seed, now),
            proven: SourceLimit::new(proven, &mut seed, now),
            all_unproven: Bucket::new(now),
            guesses: SourceLimit::new(config.rate, &mut seed, now),
            quotas: QuotaTable::new(config.quota, now),
            allocations: BTreeMap::new(),
            relayed: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_end: None,
            is_closed: false,
            counters: RelayerCounters::default(),
            out: VecDeque::new(),
            config,
            seed,
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &RelayerConfig {
        &self.config
    }

    /// Returns the configuration, to be changed. Rates and quotas stay as they were; all else holds for what comes next.
    pub fn config_mut(&mut self) -> &mut RelayerConfig {
        &mut self.config
    }

    /// Returns what it has done so far.
    pub fn counters(&self) -> RelayerCounters {
        self.counters
    }

    /// Returns the number of relayed addresses, those that are being opened included.
    pub fn held(&self) -> usize {
        self.quotas.held()
    }

    /// Returns the number of clients that have an allocation or are getting one.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Tells whether `client` has an allocation.
    pub fn has_allocation(&self, client: &FiveTuple) -> bool {
        self.allocations.contains_key(client)
    }

    /// Notes what the system's clock shows. Credentials end by it.
    pub fn handle_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Takes one datagram of a client, or one STUN message or ChannelData out of its stream.
    ///
    /// # Errors
    /// [`WireError`] when it is neither: on a stream nothing sensible can follow.
    pub fn handle_data(&mut self, client: FiveTuple, bytes: &[u8], now: Instant) -> Result<(), WireError> {
        if self.is_closed {
            return Ok(());
        }
        let handled = match bytes.first() {
            Some(0x40..=0x7f) => self.on_channel_data(client, bytes, now),
            _ => self.on_message(client, bytes, now),
        };
        if handled.is_err() {
            self.counters.garbage += 1;
        }
        handled
    }

    fn on_channel_data(&mut self, client: FiveTuple, bytes: &[u8], now: Instant) -> Result<(), WireError> {
        let short = WireError::NotStun("ChannelData that is not whole");
        let ([a, b, c, d], rest) = bytes.split_first_chunk::<CHANNEL_HEADER>().ok_or(short.clone())?;
        let data = rest.get(..usize::from(u16::from_be_bytes([*c, *d]))).ok_or(short)?;
        let number = u16::from_be_bytes([*a, *b]);
        match self.route(&client, number, data.len(), now) {
            Some((relayed, peer)) => {
                self.act(Act::Relay { relayed, peer, data: Bytes::copy_from_slice(data) })
            }
            None => trace!(client = %client.client, number, "nothing goes out on this channel"),
        }
        Ok(())
    }

    fn on_message(&mut self, client: FiveTuple, bytes: &[u8], now: Instant) -> Result<(), WireError> {
        let header = Header::decode(bytes)?;
        match (header.class, header.method) {
            (Class::Request, Method::BINDING) => self.on_binding(client, bytes, now),
            (Class::Request, _) => return self.on_request(client, &header, bytes, now),
            (Class::Indication, Method::SEND) => {
                let parsed = Parsed::decode(bytes, client.transport)?;
                self.on_send(&client, &parsed.message, now);
            }
            _ => self.counters.garbage += 1,
        }
        Ok(())
    }

    fn on_binding(&mut self, client: FiveTuple, bytes: &[u8], now: Instant) {
        if !self.admit(&client, client.transport == Transport::Tcp, now) {
            return;
        }
        let reply =
            Responder::new(client.server).respond(bytes, client.client, client.server, client.transport);
        match reply {
            Ok(reply) => {
                self.counters.bindings += 1;
                self.act(Act::Send { client, bytes: reply.bytes.into() });
            }
            Err(silence) => {
                trace!(%silence, "no STUN answer");
                self.counters.garbage += 1;
            }
        }
    }

    /// Tells whether one more request of `client` is heard. Who has an allocation has a bucket of its own, if only it can have
    /// sent this.
    fn admit(&mut self, client: &FiveTuple, is_proven: bool, now: Instant) -> bool {
        let rate = self.config.rate;
        let is_in = match self.allocations.get_mut(client).filter(|_| is_proven) {
            Some(allocation) => {
                let share = |number: u32| number.saturating_mul(PROVEN_SHARE);
                let rate = Rate { per_second: share(rate.per_second), burst: share(rate.burst) };
                allocation.bucket.take(rate, now)
            }
            None if is_proven => self.proven.take(client, now),
            None => self.unproven.take(client, now) && self.all_unproven.take(UNPROVEN, now),
        };
        if !is_in {
            self.counters.limited += 1;
        }
        is_in
    }

    /// Ends all that a client had, whose connection has ended.
    pub fn handle_gone(&mut self, client: FiveTuple, now: Instant) {
        if let Some(record) = self.allocations.remove(&client) {
            self.end(record, now);
        }
    }

    /// Draws a new secret for nonces: all that were given out so far are good for nothing.
    pub fn renew_nonces(&mut self, now: Instant) {
        self.nonces = Nonces::new(self.seed.array(), now);
    }

    /// Ends every allocation, and hears nothing from now on. What the driver opens after this is its own to close.
    pub fn close(&mut self, now: Instant) {
        self.is_closed = true;
        for record in std::mem::take(&mut self.allocations).into_values() {
            self.end(record, now);
        }
        self.next_end = None;
    }

    fn act(&mut self, act: Act) {
        self.out.push_back(Output::Act(act));
    }

    /// Sends these bytes to a client, if there are any.
    fn send(&mut self, client: FiveTuple, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = bytes {
            self.act(Act::Send { client, bytes: bytes.into() });
        }
    }

    /// Notes that something ends at `at`.
    fn note_end(&mut self, at: Instant) {
        self.next_end = Some(self.next_end.map_or(at, |next| next.min(at)));
    }

    /// Returns the time in seconds since the UNIX epoch.
    fn unix(&self, now: Instant) -> u64 {
        self.clock.unix(now).since(UnixTime(0)).as_secs()
    }

    /// Ends all that a client had.
    fn end(&mut self, record: AllocationRecord, now: Instant) {
        if let Some(allocation::WaitingRequest::Binding { missing, .. }) = &record.waiting {
            missing.iter().for_each(|_| self.quotas.leave(&record.account, now));
        }
        for address in record.addresses {
            self.release(&record.account, address, now);
        }
    }

    /// Gives one relayed address back.
    fn release(&mut self, account: &str, address: RelayedAddress, now: Instant) {
        let RelayedAddress { relaying, address: relayed, connections, .. } = address;
        debug!(%relayed, account, "TURN allocation over");
        self.relayed.remove(&(relaying, relayed));
        for connection in connections.into_keys() {
            self.connections.remove(&connection);
            self.act(Act::Hang { connection });
        }
        self.act(Act::Release { relaying, relayed });
        self.quotas.leave(account, now);
    }

    /// Ends what `client` has had long enough.
    fn expire(&mut self, client: &FiveTuple, now: Instant) {
        let Some(record) = self.allocations.get_mut(client) else { return };
        let is_over = |address: &mut RelayedAddress| address.expires <= now;
        let over: Vec<_> = record.addresses.extract_if(.., is_over).collect();
        let account = std::sync::Arc::clone(&record.account);
        let is_lost = matches!(&record.waiting, Some(allocation::WaitingRequest::Binding { until, .. }) if *until <= now);
        let is_empty = record.addresses.is_empty() && !over.is_empty();
        if is_lost || is_empty {
            if let Some(record) = self.allocations.remove(client) {
                self.end(record, now);
            }
        } else {
            self.expire_connections(client, now);
        }
        over.into_iter().for_each(|address| self.release(&account, address, now));
    }
}

impl Machine for Relayer {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        if self.next_end.is_none_or(|next| next > now) {
            return;
        }
        let clients: Vec<FiveTuple> = self.allocations.keys().copied().collect();
        clients.iter().for_each(|client| self.expire(client, now));
        self.next_end = self.allocations.values().filter_map(AllocationRecord::next_end).min();
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        let wait = || Output::Wait(self.next_end.map(|at| Deadline::new(at, "something of a client ends")));
        self.out.pop_front().unwrap_or_else(wait)
    }
}
