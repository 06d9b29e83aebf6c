//! One relayed address and what belongs to it: permissions, channels, connections (RFC 8656, RFC 6062).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::Family;

use super::auth::{Question, Signer};

/// How long a permission lasts (RFC 8656, section 9).
pub const PERMISSION: Duration = Duration::from_secs(300);
/// How long a channel lasts (RFC 8656, section 12).
pub const CHANNEL: Duration = Duration::from_secs(600);
/// How long a peer is dialled, and how long its connection waits for the client (RFC 6062, section 5.4).
pub const CONNECTION: Duration = Duration::from_secs(30);
/// RFC 8656 takes 0x4000 … 0x4fff; clients after RFC 5766, coturn's among them, draw from all of these.
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7fff;

/// Peers one allocation may be open to at once: those of a full mesh with both families, and room.
const MOST_PERMISSIONS: usize = 128;
/// Channels of one allocation.
const MOST_CHANNELS: usize = 128;
/// Connections of one allocation that are being made, wait or are bound.
const MOST_CONNECTIONS: usize = 32;

/// What is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Datagrams (RFC 8656).
    Udp,
    /// Connections (RFC 6062).
    Tcp,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Why a channel is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChannel {
    /// The number is another peer's, or the peer has another number.
    Taken,
    /// As many as there may be.
    Full,
}

/// A connection with a peer.
#[derive(Debug)]
pub struct Connection<S> {
    pub peer: SocketAddr,
    pub state: Stage<S>,
}

/// How far it is.
#[derive(Debug)]
pub enum Stage<S> {
    /// We dial; this question waits for the outcome.
    Dialling { question: Question, signer: Signer },
    /// It is up, unread, and waits for the client until then.
    Waiting { stream: S, until: Instant },
    /// The client has it.
    Bound,
}

/// A relayed address. `R` is its socket, `S` a connection with a peer.
#[derive(Debug)]
pub struct Allocation<R, S> {
    pub kind: Kind,
    pub relayed: SocketAddr,
    pub relay: R,
    pub expires: Instant,
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<u16, (SocketAddr, Instant)>,
    numbers: BTreeMap<SocketAddr, u16>,
    pub connections: BTreeMap<u32, Connection<S>>,
}

impl<R, S> Allocation<R, S> {
    pub fn new(kind: Kind, relayed: SocketAddr, relay: R, expires: Instant) -> Self {
        Self {
            kind,
            relayed,
            relay,
            expires,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    /// Whether `peer` is of its family.
    pub fn fits(&self, peer: SocketAddr) -> bool {
        self.relayed.is_ipv4() == peer.is_ipv4()
    }

    pub fn family(&self) -> Family {
        Family::of(self.relayed.ip())
    }

    /// Opens it to `peers`, all or none, for [`PERMISSION`] from now.
    pub fn permit(&mut self, peers: &[IpAddr], now: Instant) -> Result<(), Full> {
        self.permissions.retain(|_, until| *until > now);
        let fresh = peers.iter().filter(|peer| !self.permissions.contains_key(peer)).count();
        if self.permissions.len() + fresh > MOST_PERMISSIONS {
            return Err(Full);
        }
        self.permissions.extend(peers.iter().map(|peer| (*peer, now + PERMISSION)));
        Ok(())
    }

    pub fn is_permitted(&self, peer: IpAddr, now: Instant) -> bool {
        self.permissions.get(&peer).is_some_and(|until| *until > now)
    }

    /// Calls `peer` by `number` for [`CHANNEL`] from now, and opens the allocation to it.
    pub fn bind_channel(&mut self, number: u16, peer: SocketAddr, now: Instant) -> Result<(), NoChannel> {
        self.channels.retain(|_, (_, until)| *until > now);
        let channels = &self.channels;
        self.numbers.retain(|_, number| channels.contains_key(number));
        let is_his = self.channels.get(&number).is_none_or(|(of, _)| *of == peer);
        let is_only = self.numbers.get(&peer).is_none_or(|other| *other == number);
        if !is_his || !is_only {
            return Err(NoChannel::Taken);
        }
        if self.channels.len() >= MOST_CHANNELS && !self.channels.contains_key(&number) {
            return Err(NoChannel::Full);
        }
        self.permit(&[peer.ip()], now).map_err(|Full| NoChannel::Full)?;
        self.channels.insert(number, (peer, now + CHANNEL));
        self.numbers.insert(peer, number);
        Ok(())
    }

    /// The peer that is called by `number`.
    pub fn peer_of(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|(_, until)| *until > now).map(|(peer, _)| *peer)
    }

    /// What `peer` is called by.
    pub fn channel_to(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let number = *self.numbers.get(&peer)?;
        self.peer_of(number, now).map(|_| number)
    }

    /// Notes a connection.
    pub fn connect(&mut self, id: u32, connection: Connection<S>) -> Result<(), Full> {
        if self.connections.len() >= MOST_CONNECTIONS {
            return Err(Full);
        }
        self.connections.insert(id, connection);
        Ok(())
    }

    /// Forgets connections the client did not come for, here and among `owners`; returns when the next is due.
    pub fn sweep<C>(&mut self, now: Instant, owners: &mut BTreeMap<u32, C>) -> Option<Instant> {
        let due = |connection: &Connection<S>| match connection.state {
            Stage::Waiting { until, .. } => Some(until),
            Stage::Dialling { .. } | Stage::Bound => None,
        };
        self.connections.retain(|id, connection| {
            let is_kept = due(connection).is_none_or(|until| until > now);
            if !is_kept {
                owners.remove(id);
            }
            is_kept
        });
        self.connections.values().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(now: Instant) -> Allocation<(), ()> {
        Allocation::new(Kind::Udp, at("203.0.113.1:50000"), (), now + Duration::from_secs(600))
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_permission_lasts_five_minutes_and_is_for_an_address() {
        let now = crate::sim::epoch();
        let mut allocation = allocation(now);
        let [anna, bert] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        assert!(!allocation.is_permitted(anna, now));
        allocation.permit(&[anna], now).unwrap();
        assert!(allocation.is_permitted(anna, now + PERMISSION - Duration::from_secs(1)));
        assert!(!allocation.is_permitted(anna, now + PERMISSION));
        assert!(!allocation.is_permitted(bert, now));
        // Renewed, it lasts as long again.
        allocation.permit(&[anna], now + Duration::from_secs(200)).unwrap();
        assert!(allocation.is_permitted(anna, now + PERMISSION));
    }

    #[test]
    fn a_channel_lasts_ten_minutes_and_is_one_peers() {
        let now = crate::sim::epoch();
        let mut allocation = allocation(now);
        let (anna, bert) = (at("192.0.2.1:7"), at("192.0.2.2:7"));
        allocation.bind_channel(0x4000, anna, now).unwrap();
        assert!(allocation.is_permitted(anna.ip(), now));
        assert_eq!(allocation.peer_of(0x4000, now), Some(anna));
        assert_eq!(allocation.channel_to(anna, now), Some(0x4000));
        assert_eq!(allocation.channel_to(at("192.0.2.1:8"), now), None, "another port, another peer");
        assert_eq!(allocation.bind_channel(0x4000, bert, now), Err(NoChannel::Taken));
        assert_eq!(allocation.bind_channel(0x4001, anna, now), Err(NoChannel::Taken));
        allocation.bind_channel(0x4000, anna, now + Duration::from_secs(400)).unwrap();
        let end = now + Duration::from_secs(400) + CHANNEL;
        assert_eq!(allocation.peer_of(0x4000, end - Duration::from_secs(1)), Some(anna));
        assert!(!allocation.is_permitted(anna.ip(), end - Duration::from_secs(1)), "a permission is its own");
        assert_eq!((allocation.peer_of(0x4000, end), allocation.channel_to(anna, end)), (None, None));
        allocation.bind_channel(0x4000, bert, end).unwrap();
        allocation.bind_channel(0x4001, anna, end).unwrap();
        assert_eq!(allocation.channel_to(anna, end), Some(0x4001));
    }

    #[test]
    fn there_is_an_end_to_everything() {
        let now = crate::sim::epoch();
        let mut allocation = allocation(now);
        let peers: Vec<IpAddr> = (0..MOST_PERMISSIONS as u8).map(|last| [192, 0, 2, last].into()).collect();
        allocation.permit(&peers, now).unwrap();
        let one_more: IpAddr = [198, 51, 100, 1].into();
        assert_eq!(allocation.permit(&[peers[0], one_more], now), Err(Full));
        assert!(!allocation.is_permitted(one_more, now));
        assert_eq!(allocation.permit(&peers, now), Ok(()), "those there are can be renewed");
        assert_eq!(allocation.permit(&[one_more], now + PERMISSION), Ok(()), "and in time there is room");
        let peer = |port| SocketAddr::new(peers[0], port);
        for port in 0..MOST_CHANNELS as u16 {
            allocation.bind_channel(0x4000 + port, peer(port), now).unwrap();
        }
        assert_eq!(allocation.bind_channel(0x5000, peer(9_999), now), Err(NoChannel::Full));
        assert_eq!(allocation.bind_channel(0x4000, peer(0), now), Ok(()));
        for id in 0..MOST_CONNECTIONS as u32 {
            let state = Stage::Waiting { stream: (), until: now + CONNECTION };
            allocation.connect(id, Connection { peer: peer(1), state }).unwrap();
        }
        let late = Connection { peer: peer(1), state: Stage::Bound };
        assert_eq!(allocation.connect(99, late), Err(Full));
        let mut owners: BTreeMap<u32, ()> = (0..100).map(|id| (id, ())).collect();
        assert_eq!(allocation.sweep(now, &mut owners), Some(now + CONNECTION));
        assert_eq!(allocation.sweep(now + CONNECTION, &mut owners), None);
        assert_eq!(owners.len(), 100 - MOST_CONNECTIONS);
        assert!(allocation.connections.is_empty());
    }
}
