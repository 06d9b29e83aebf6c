//! What a client has: its relayed addresses, and the permissions, channels and connections of each (RFC 8656, RFC 6062).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attributes::RequestAttributes;
use super::auth::Signer;
use super::head::RequestHead;
use super::output::NoRelayedAddress;
use crate::Family;
use crate::rate::Bucket;
use crate::stun::TransactionId;
use crate::turn::Relaying;
use crate::turn::allocation::ConnectionId;

/// Time a peer is dialled, and time its connection waits for the client (RFC 6062, sections 5.2 and 5.4).
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(30);
/// RFC 8656 takes 0x4000 … 0x4fff; clients after RFC 5766, coturn's among them, draw from all of these.
pub(super) const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7fff;

/// Peers one relayed address may be open to at once: those of a full mesh with both families, and room.
pub const MOST_PERMISSIONS: usize = 128;
/// Channels of one relayed address.
pub const MOST_CHANNELS: usize = 128;
/// Connections of one relayed address that are being made, wait or are joined.
pub const MOST_CONNECTIONS: usize = 32;

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Why a channel is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChannelDenied {
    /// The number is another peer's, or the peer has another number.
    Taken,
    /// There are as many as there may be.
    NoRoom,
}

/// An allocation: what the client at one 5-tuple has.
#[derive(Debug)]
pub(super) struct AllocationRecord {
    pub(super) username: Arc<str>,
    /// Under which its use is counted.
    pub(super) account: Arc<str>,
    /// One address, or one of each family. None while the first is being opened.
    pub(super) addresses: Vec<RelayedAddress>,
    /// The request that made it, and its answer in case that was lost (RFC 8656, section 7.2).
    pub(super) made_by: (TransactionId, Vec<u8>),
    /// The request that waits for the driver.
    pub(super) waiting: Option<WaitingRequest>,
    /// Of its own requests: nobody else can empty it.
    pub(super) bucket: Bucket,
}

/// A request that cannot be answered before the driver has.
#[derive(Debug)]
pub(super) enum WaitingRequest {
    /// The peers it names are looked up.
    Checking { head: RequestHead, signer: Signer, attributes: RequestAttributes },
    /// Its relayed addresses are opened.
    Binding {
        head: RequestHead,
        signer: Signer,
        relaying: Relaying,
        lifetime: Duration,
        /// Those that are not there yet.
        missing: Vec<Family>,
        refused: Vec<(Family, NoRelayedAddress)>,
        /// When nobody believes in the driver any more.
        until: Instant,
    },
}

/// A connection with a peer.
#[derive(Debug)]
pub(super) struct PeerConnection {
    pub(super) peer: SocketAddr,
    pub(super) state: PeerConnectionState,
}

/// The progress of a connection with a peer.
#[derive(Debug)]
pub(super) enum PeerConnectionState {
    /// We dial; this request waits for the outcome.
    Dialling { head: RequestHead, signer: Signer, until: Instant },
    /// It is up, unread, and waits for the client until then.
    Waiting { until: Instant },
    /// The client has it.
    Joined,
}

/// A relayed transport address.
#[derive(Debug)]
pub(super) struct RelayedAddress {
    pub(super) relaying: Relaying,
    pub(super) address: SocketAddr,
    pub(super) expires: Instant,
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<u16, (SocketAddr, Instant)>,
    numbers: BTreeMap<SocketAddr, u16>,
    pub(super) connections: BTreeMap<ConnectionId, PeerConnection>,
}

impl AllocationRecord {
    /// The relayed address of the peer's family.
    pub(super) fn address_for(&self, peer: SocketAddr) -> Option<&RelayedAddress> {
        self.addresses.iter().find(|address| address.fits(peer))
    }

    /// When something of it ends next.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let binding = match self.waiting {
            Some(WaitingRequest::Binding { until, .. }) => Some(until),
            Some(WaitingRequest::Checking { .. }) | None => None,
        };
        self.addresses.iter().map(RelayedAddress::next_end).chain(binding).min()
    }
}

impl RelayedAddress {
    pub(super) fn new(relaying: Relaying, address: SocketAddr, expires: Instant) -> Self {
        Self {
            relaying,
            address,
            expires,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    /// Tells whether `peer` is of its family. A mapped IPv4 address is of none: it would be a second name of a peer.
    pub(super) fn fits(&self, peer: SocketAddr) -> bool {
        self.address.is_ipv4() == peer.is_ipv4() && peer.ip() == peer.ip().to_canonical()
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.address.ip())
    }

    /// Opens it to `peers`, all or none, for `lifetime` from now.
    pub(super) fn permit(
        &mut self,
        peers: &[IpAddr],
        lifetime: Duration,
        now: Instant,
    ) -> Result<(), NoRoom> {
        self.permissions.retain(|_, until| *until > now);
        let mut fresh: Vec<_> = peers.iter().filter(|peer| !self.permissions.contains_key(peer)).collect();
        fresh.sort_unstable();
        fresh.dedup();
        if self.permissions.len() + fresh.len() > MOST_PERMISSIONS {
            return Err(NoRoom);
        }
        self.permissions.extend(peers.iter().map(|peer| (*peer, now + lifetime)));
        Ok(())
    }

    pub(super) fn is_permitted(&self, peer: IpAddr, now: Instant) -> bool {
        self.permissions.get(&peer).is_some_and(|until| *until > now)
    }

    /// Calls `peer` by `number` for the first lifetime from now, and opens the address to it for the second.
    pub(super) fn bind_channel(
        &mut self,
        number: u16,
        peer: SocketAddr,
        lifetimes: (Duration, Duration),
        now: Instant,
    ) -> Result<(), ChannelDenied> {
        self.channels.retain(|_, (_, until)| *until > now);
        let channels = &self.channels;
        self.numbers.retain(|_, number| channels.contains_key(number));
        let is_his = self.channels.get(&number).is_none_or(|(of, _)| *of == peer);
        let is_only = self.numbers.get(&peer).is_none_or(|other| *other == number);
        if !is_his || !is_only {
            return Err(ChannelDenied::Taken);
        }
        if self.channels.len() >= MOST_CHANNELS && !self.channels.contains_key(&number) {
            return Err(ChannelDenied::NoRoom);
        }
        self.permit(&[peer.ip()], lifetimes.1, now).map_err(|NoRoom| ChannelDenied::NoRoom)?;
        self.channels.insert(number, (peer, now + lifetimes.0));
        self.numbers.insert(peer, number);
        Ok(())
    }

    /// The peer that is called by `number`.
    pub(super) fn peer_of(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|(_, until)| *until > now).map(|(peer, _)| *peer)
    }

    /// The number that `peer` is called by.
    pub(super) fn channel_to(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let number = *self.numbers.get(&peer)?;
        self.peer_of(number, now).map(|_| number)
    }

    /// Notes a connection.
    pub(super) fn connect(&mut self, id: ConnectionId, connection: PeerConnection) -> Result<(), NoRoom> {
        if self.connections.len() >= MOST_CONNECTIONS {
            return Err(NoRoom);
        }
        self.connections.insert(id, connection);
        Ok(())
    }

    fn next_end(&self) -> Instant {
        let connections = self.connections.values().filter_map(|connection| connection.state.until());
        connections.chain([self.expires]).min().unwrap_or(self.expires)
    }
}

impl PeerConnectionState {
    /// When it ends if nothing happens.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Dialling { until, .. } | Self::Waiting { until } => Some(*until),
            Self::Joined => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    const PERMISSION: Duration = Duration::from_secs(300);
    const CHANNEL: Duration = Duration::from_secs(600);

    fn relayed(now: Instant) -> RelayedAddress {
        RelayedAddress::new(Relaying::Udp, at("203.0.113.1:50000"), now + Duration::from_secs(600))
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_permission_ends_and_is_for_an_address() {
        let now = epoch();
        let mut relayed = relayed(now);
        let [anna, bert] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        assert!(!relayed.is_permitted(anna, now));
        relayed.permit(&[anna], PERMISSION, now).unwrap();
        assert!(relayed.is_permitted(anna, now + PERMISSION - Duration::from_secs(1)));
        assert!(!relayed.is_permitted(anna, now + PERMISSION));
        assert!(!relayed.is_permitted(bert, now));
        // Renewed, it lasts as long again.
        relayed.permit(&[anna], PERMISSION, now + Duration::from_secs(200)).unwrap();
        assert!(relayed.is_permitted(anna, now + PERMISSION));
    }

    #[test]
    fn a_channel_ends_and_is_one_peers() {
        let now = epoch();
        let mut relayed = relayed(now);
        let (anna, bert) = (at("192.0.2.1:7"), at("192.0.2.2:7"));
        let bind = |relayed: &mut RelayedAddress, number, peer, now| {
            relayed.bind_channel(number, peer, (CHANNEL, PERMISSION), now)
        };
        bind(&mut relayed, 0x4000, anna, now).unwrap();
        assert!(relayed.is_permitted(anna.ip(), now));
        assert_eq!(relayed.peer_of(0x4000, now), Some(anna));
        assert_eq!(relayed.channel_to(anna, now), Some(0x4000));
        assert_eq!(relayed.channel_to(at("192.0.2.1:8"), now), None, "another port, another peer");
        assert_eq!(bind(&mut relayed, 0x4000, bert, now), Err(ChannelDenied::Taken));
        assert_eq!(bind(&mut relayed, 0x4001, anna, now), Err(ChannelDenied::Taken));
        bind(&mut relayed, 0x4000, anna, now + Duration::from_secs(400)).unwrap();
        let end = now + Duration::from_secs(400) + CHANNEL;
        assert_eq!(relayed.peer_of(0x4000, end - Duration::from_secs(1)), Some(anna));
        assert!(!relayed.is_permitted(anna.ip(), end - Duration::from_secs(1)), "a permission is its own");
        assert_eq!((relayed.peer_of(0x4000, end), relayed.channel_to(anna, end)), (None, None));
        bind(&mut relayed, 0x4000, bert, end).unwrap();
        bind(&mut relayed, 0x4001, anna, end).unwrap();
        assert_eq!(relayed.channel_to(anna, end), Some(0x4001));
    }

    #[test]
    fn there_is_an_end_to_everything() {
        let now = epoch();
        let mut relayed = relayed(now);
        let peers: Vec<IpAddr> = (0..MOST_PERMISSIONS as u8).map(|last| [192, 0, 2, last].into()).collect();
        relayed.permit(&peers, PERMISSION, now).unwrap();
        let one_more: IpAddr = [198, 51, 100, 1].into();
        assert_eq!(relayed.permit(&[peers[0], one_more], PERMISSION, now), Err(NoRoom));
        assert!(!relayed.is_permitted(one_more, now));
        assert_eq!(relayed.permit(&peers, PERMISSION, now), Ok(()), "those there are can be renewed");
        let later = now + PERMISSION;
        assert_eq!(relayed.permit(&[one_more], PERMISSION, later), Ok(()), "and in time there is room");
        let peer = |port| SocketAddr::new(peers[0], port);
        let lifetimes = (CHANNEL, PERMISSION);
        for port in 0..MOST_CHANNELS as u16 {
            relayed.bind_channel(0x4000 + port, peer(port), lifetimes, now).unwrap();
        }
        assert_eq!(relayed.bind_channel(0x5000, peer(9_999), lifetimes, now), Err(ChannelDenied::NoRoom));
        assert_eq!(relayed.bind_channel(0x4000, peer(0), lifetimes, now), Ok(()));
        let until = now + CONNECTION_LIFETIME;
        for id in 0..MOST_CONNECTIONS as u32 {
            let state = PeerConnectionState::Waiting { until };
            relayed.connect(ConnectionId(id), PeerConnection { peer: peer(1), state }).unwrap();
        }
        let late = PeerConnection { peer: peer(1), state: PeerConnectionState::Joined };
        assert_eq!(relayed.connect(ConnectionId(99), late), Err(NoRoom));
        assert_eq!(relayed.next_end(), until);
    }

    #[test]
    fn a_peer_named_twice_needs_one_place() {
        let mut relayed = relayed(epoch());
        let peers: Vec<IpAddr> =
            (0..MOST_PERMISSIONS as u8 - 1).map(|last| [192, 0, 2, last].into()).collect();
        relayed.permit(&peers, PERMISSION, epoch()).unwrap();
        let last: IpAddr = [198, 51, 100, 1].into();
        assert_eq!(relayed.permit(&[last, last], PERMISSION, epoch()), Ok(()));
    }
}
