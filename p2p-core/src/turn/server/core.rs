//! The tables of the server and what is decided by them, without sockets and clock.
//!
//! Requests are decided in [`super::request`] and [`super::connect`]; here is what every packet needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stun::wire::Parsed;
use crate::stun::{Attribute, TransactionId, Transport};
use crate::{Family, Seed};
use bytes::Bytes;
use tracing::debug;

use super::Counters;
use super::allocation::{Allocation, Kind};
use super::auth::Gate;
use super::ledger::Ledger;
use super::peers::Policy;

/// The 5-tuple of RFC 8656: who talks to us, where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    pub transport: Transport,
    pub server: SocketAddr,
    pub remote: SocketAddr,
}

/// The time, as clocks and as calendars tell it.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub now: Instant,
    /// Seconds since the UNIX epoch.
    pub unix: u64,
}

/// What the tables need of the system.
pub trait Ports<R> {
    /// A relayed address, if wanted with an even port.
    fn bind(&mut self, family: Family, kind: Kind, even: bool) -> Result<(SocketAddr, R), NoPort>;
    /// Whether an address is one of this machine's.
    fn is_ours(&self, ip: IpAddr) -> bool;
}

/// Why there is no relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPort {
    /// We do not relay from this family.
    Family,
    /// No port is free, or the system refuses one.
    Exhausted,
}

/// What is to be done about a message.
#[derive(Debug)]
pub enum Reaction<R, S> {
    /// Nothing.
    Silence,
    /// Say this to the client.
    Reply(Vec<u8>),
    /// Dial a peer from this relayed address, and tell the outcome by this number.
    Dial { relay: R, peer: SocketAddr, id: u32 },
    /// Say this, then the client's connection and the peer's are one.
    Join { reply: Vec<u8>, relay: R, stream: S, id: u32 },
}

/// How long allocations last.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub lifetime: Duration,
    pub most_lifetime: Duration,
}

/// What a client has.
#[derive(Debug)]
pub struct Session<R, S> {
    pub username: Arc<str>,
    pub account: Arc<str>,
    /// One, or one of each family.
    pub allocations: Vec<Allocation<R, S>>,
    /// The answer to its Allocate, in case that was lost and it asks again (RFC 8656, section 7.2).
    pub answered: (TransactionId, Vec<u8>),
}

/// The tables. `R` is a relay's socket, `S` a connection with a peer; dropping one closes it.
#[derive(Debug)]
pub struct Core<R, S> {
    pub gate: Gate,
    pub policy: Policy,
    pub ledger: Ledger,
    pub terms: Terms,
    pub dice: Seed,
    pub counters: Counters,
    pub sessions: BTreeMap<Client, Session<R, S>>,
    /// Our relayed addresses: what may be reached where we relay from.
    pub relayed: BTreeSet<(Kind, SocketAddr)>,
    /// Whose connections with peers wait, or are dialled.
    pub owners: BTreeMap<u32, Client>,
}

impl<R: Clone, S> Core<R, S> {
    /// A client sends `length` bytes on a channel: from where and to whom they go.
    pub fn handle_channel(
        &mut self,
        client: Client,
        number: u16,
        length: usize,
        now: Instant,
    ) -> Option<(R, SocketAddr)> {
        let session = self.sessions.get(&client)?;
        let (allocation, peer) = session
            .allocations
            .iter()
            .find_map(|allocation| Some((allocation, allocation.peer_of(number, now)?)))?;
        if !self.is_open(allocation, peer, now) {
            self.counters.unpermitted += 1;
            return None;
        }
        let relay = allocation.relay.clone();
        spend(&mut self.ledger, &mut self.counters, &session.account, length, now).then_some((relay, peer))
    }

    /// A client sends a Send indication (RFC 8656, section 11.2): from where and to whom the data go, and the data.
    pub fn handle_send(
        &mut self,
        client: Client,
        parsed: &Parsed<'_>,
        now: Instant,
    ) -> Option<(R, SocketAddr, Bytes)> {
        let peer = parsed.message.find(|attribute| match attribute {
            Attribute::XorPeerAddress(peer) => Some(*peer),
            _ => None,
        })?;
        let data = parsed.message.find(|attribute| match attribute {
            Attribute::Data(data) => Some(data.clone()),
            _ => None,
        })?;
        let session = self.sessions.get(&client)?;
        let allocation = session.allocations.iter().find(|allocation| allocation.fits(peer))?;
        if !self.is_open(allocation, peer, now) {
            self.counters.unpermitted += 1;
            return None;
        }
        let relay = allocation.relay.clone();
        let is_paid = spend(&mut self.ledger, &mut self.counters, &session.account, data.len(), now);
        is_paid.then_some((relay, peer, data))
    }

    /// A datagram of `length` bytes came from `peer` to a relayed address of `client`. `None` when it is not wanted,
    /// else the channel it goes on, if it has one.
    pub fn handle_peer(
        &mut self,
        client: Client,
        peer: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Option<Option<u16>> {
        let session = self.sessions.get(&client)?;
        let allocation = session.allocations.iter().find(|allocation| allocation.fits(peer))?;
        if !self.is_open(allocation, peer, now) {
            self.counters.unpermitted += 1;
            return None;
        }
        let channel = allocation.channel_to(peer, now);
        spend(&mut self.ledger, &mut self.counters, &session.account, length, now).then_some(channel)
    }

    /// Whether datagrams may go between `allocation` and `peer`.
    fn is_open(&self, allocation: &Allocation<R, S>, peer: SocketAddr, now: Instant) -> bool {
        allocation.kind == Kind::Udp
            && allocation.expires > now
            && allocation.is_permitted(peer.ip(), now)
            && self.may_reach(Kind::Udp, peer)
    }

    /// At the IP addresses we relay from there are our relayed addresses, and services that are none of the client's
    /// business.
    pub fn may_reach(&self, kind: Kind, peer: SocketAddr) -> bool {
        !self.policy.relays.contains(&peer.ip())
            || self.relayed.contains(&(kind, peer))
            || self.policy.is_allowed(peer.ip())
    }

    /// `bytes` came on a connection of `account`: how long to wait before more are read.
    pub fn handle_stream(&mut self, account: &str, bytes: usize, now: Instant) -> Result<(), Duration> {
        self.ledger.spend_late(account, bytes, now)
    }

    /// Whether `client` has an allocation.
    pub fn has(&self, client: Client) -> bool {
        self.sessions.contains_key(&client)
    }

    /// Relayed addresses in all.
    pub fn held(&self) -> usize {
        self.ledger.held()
    }

    /// Ends those allocations of `client` that have had their time, whether or not somebody swept.
    pub fn expire(&mut self, client: Client, now: Instant) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let (over, kept): (Vec<_>, Vec<_>) =
            session.allocations.drain(..).partition(|allocation| allocation.expires <= now);
        session.allocations = kept;
        let account = Arc::clone(&session.account);
        if session.allocations.is_empty() {
            self.sessions.remove(&client);
        }
        over.into_iter().for_each(|allocation| self.close(&account, allocation, now));
    }

    /// The connection of `client` is over, and with it all it had.
    pub fn handle_gone(&mut self, client: Client, now: Instant) {
        if let Some(session) = self.sessions.remove(&client) {
            for allocation in session.allocations {
                self.close(&session.account, allocation, now);
            }
        }
    }

    /// Gives one relayed address back.
    pub fn close(&mut self, account: &str, allocation: Allocation<R, S>, now: Instant) {
        debug!(relayed = %allocation.relayed, account, "TURN allocation over");
        self.relayed.remove(&(allocation.kind, allocation.relayed));
        for id in allocation.connections.keys() {
            self.owners.remove(id);
        }
        self.ledger.leave(account, now);
    }

    /// Ends what has had its time; returns when the next will have.
    pub fn sweep(&mut self, now: Instant) -> Option<Instant> {
        let clients: Vec<Client> = self.sessions.keys().copied().collect();
        clients.into_iter().for_each(|client| self.expire(client, now));
        let Self { sessions, owners, .. } = self;
        let allocations = sessions.values_mut().flat_map(|session| &mut session.allocations);
        let next =
            allocations.flat_map(|allocation| [Some(allocation.expires), allocation.sweep(now, owners)]);
        next.flatten().min()
    }
}

/// Whether `bytes` may be relayed for `account` now.
fn spend(ledger: &mut Ledger, counters: &mut Counters, account: &str, bytes: usize, now: Instant) -> bool {
    let is_paid = ledger.spend(account, bytes, now).is_ok();
    *(if is_paid { &mut counters.relayed } else { &mut counters.throttled }) += 1;
    is_paid
}
