//! The tables of the server and what is decided by them, without sockets and clock.
//!
//! Requests are decided in [`super::request`] and [`super::connect`]; here is what every packet needs.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_core::stun::wire::Parsed;
use p2p_core::stun::{Attribute, TransactionId, Transport};
use p2p_core::{Family, Seed};
use tracing::debug;

use super::Tally;
use super::allocation::{Allocation, Kind};
use super::auth::Gate;
use super::ledger::Ledger;
use super::peers::Policy;
use crate::rendezvous::tally::count;

/// The 5-tuple of RFC 8656: who talks to us, where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) transport: Transport,
    pub(super) server: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// The time, as clocks and as calendars tell it.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) now: Instant,
    /// Seconds since the UNIX epoch.
    pub(super) unix: u64,
}

/// What the tables need of the system.
pub(super) trait Ports<R> {
    /// A relayed address, if wanted with an even port.
    fn bind(&mut self, family: Family, kind: Kind, even: bool) -> Result<(SocketAddr, R), NoPort>;
    /// Whether an address is one of this machine's.
    fn is_ours(&self, ip: IpAddr) -> bool;
}

/// Why there is no relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPort {
    /// We do not relay from this family.
    Family,
    /// No port is free, or the system refuses one.
    Exhausted,
}

/// What is to be done about a message.
#[derive(Debug)]
pub(super) enum Reaction<R, S> {
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
pub(super) struct Terms {
    pub(super) lifetime: Duration,
    pub(super) most_lifetime: Duration,
}

/// What a client has.
#[derive(Debug)]
pub(super) struct Session<R, S> {
    pub(super) username: Arc<str>,
    pub(super) account: Arc<str>,
    /// One, or one of each family.
    pub(super) allocations: Vec<Allocation<R, S>>,
    /// The answer to its Allocate, in case that was lost and it asks again (RFC 8656, section 7.2).
    pub(super) answered: (TransactionId, Vec<u8>),
}

/// The tables. `R` is a relay's socket, `S` a connection with a peer; dropping one closes it.
#[derive(Debug)]
pub(super) struct Core<R, S> {
    pub(super) gate: Gate,
    pub(super) policy: Policy,
    pub(super) ledger: Ledger,
    pub(super) terms: Terms,
    pub(super) dice: Seed,
    pub(super) tally: Arc<Tally>,
    pub(super) sessions: HashMap<Client, Session<R, S>>,
    /// Our relayed addresses: what may be reached where we relay from.
    pub(super) relayed: HashSet<(Kind, SocketAddr)>,
    /// Whose connections with peers wait, or are dialled.
    pub(super) owners: HashMap<u32, Client>,
}

impl<R: Clone, S> Core<R, S> {
    /// A client sends `length` bytes on a channel: from where and to whom they go.
    pub(super) fn handle_channel(
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
            count(&self.tally.unpermitted);
            return None;
        }
        let relay = allocation.relay.clone();
        spend(&mut self.ledger, &self.tally, &session.account, length, now).then_some((relay, peer))
    }

    /// A client sends a Send indication (RFC 8656, section 11.2): from where and to whom the data go, and the data.
    pub(super) fn handle_send(
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
            count(&self.tally.unpermitted);
            return None;
        }
        let relay = allocation.relay.clone();
        let is_paid = spend(&mut self.ledger, &self.tally, &session.account, data.len(), now);
        is_paid.then_some((relay, peer, data))
    }

    /// A datagram of `length` bytes came from `peer` to a relayed address of `client`. `None` when it is not wanted,
    /// else the channel it goes on, if it has one.
    pub(super) fn handle_peer(
        &mut self,
        client: Client,
        peer: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Option<Option<u16>> {
        let session = self.sessions.get(&client)?;
        let allocation = session.allocations.iter().find(|allocation| allocation.fits(peer))?;
        if !self.is_open(allocation, peer, now) {
            count(&self.tally.unpermitted);
            return None;
        }
        let channel = allocation.channel_to(peer, now);
        spend(&mut self.ledger, &self.tally, &session.account, length, now).then_some(channel)
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
    pub(super) fn may_reach(&self, kind: Kind, peer: SocketAddr) -> bool {
        !self.policy.relays.contains(&peer.ip())
            || self.relayed.contains(&(kind, peer))
            || self.policy.is_allowed(peer.ip())
    }

    /// `bytes` came on a connection of `account`: how long to wait before more are read.
    pub(super) fn handle_stream(
        &mut self,
        account: &str,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Duration> {
        self.ledger.spend_late(account, bytes, now)
    }

    /// Whether `client` has an allocation.
    pub(super) fn has(&self, client: Client) -> bool {
        self.sessions.contains_key(&client)
    }

    /// Relayed addresses in all.
    pub(super) fn held(&self) -> usize {
        self.ledger.held()
    }

    /// Ends those allocations of `client` that have had their time, whether or not somebody swept.
    pub(super) fn expire(&mut self, client: Client, now: Instant) {
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
    pub(super) fn handle_gone(&mut self, client: Client, now: Instant) {
        if let Some(session) = self.sessions.remove(&client) {
            for allocation in session.allocations {
                self.close(&session.account, allocation, now);
            }
        }
    }

    /// Gives one relayed address back.
    pub(super) fn close(&mut self, account: &str, allocation: Allocation<R, S>, now: Instant) {
        debug!(relayed = %allocation.relayed, account, "TURN allocation over");
        self.relayed.remove(&(allocation.kind, allocation.relayed));
        for id in allocation.connections.keys() {
            self.owners.remove(id);
        }
        self.ledger.leave(account, now);
    }

    /// Ends what has had its time; returns when the next will have.
    pub(super) fn sweep(&mut self, now: Instant) -> Option<Instant> {
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
fn spend(ledger: &mut Ledger, tally: &Tally, account: &str, bytes: usize, now: Instant) -> bool {
    let is_paid = ledger.spend(account, bytes, now).is_ok();
    count(if is_paid { &tally.relayed } else { &tally.throttled });
    is_paid
}
