//! Data between clients and peers (RFC 8656, sections 11 and 12).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Relayer;
use super::allocation::RelayedAddress;
use super::output::{Act, FiveTuple};
use crate::stun::{Attribute, Class, Message, Method, TransactionId, Transport};
use crate::turn::Relaying;
use crate::turn::channel::CHANNEL_HEADER;

impl Relayer {
    /// A client sends `length` bytes on a channel: from which relayed address and to whom they go. `None` when they go
    /// nowhere.
    pub fn route(
        &mut self,
        client: &FiveTuple,
        number: u16,
        length: usize,
        now: Instant,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let record = self.allocations.get(client)?;
        let (address, peer) =
            record.addresses.iter().find_map(|address| Some((address, address.peer_of(number, now)?)))?;
        self.pay(address.address, self.is_open(address, peer, now), Arc::clone(&record.account), length, now)
            .map(|relayed| (relayed, peer))
    }

    /// A datagram of `length` bytes came from `peer` to a relayed address: for whom it is, and the number of the channel
    /// it goes on, if it has one. `None` when nobody wants it.
    pub fn route_back(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Option<(FiveTuple, Option<u16>)> {
        let client = *self.relayed.get(&(Relaying::Udp, relayed))?;
        let record = self.allocations.get(&client)?;
        let address = record.addresses.iter().find(|address| address.address == relayed)?;
        let channel = address.channel_to(peer, now);
        let is_open = address.fits(peer) && self.is_open(address, peer, now);
        self.pay(relayed, is_open, Arc::clone(&record.account), length, now)?;
        Some((client, channel))
    }

    /// Takes a datagram that came from `peer` to a relayed address.
    pub fn handle_peer_data(&mut self, relayed: SocketAddr, peer: SocketAddr, data: Bytes, now: Instant) {
        let Some((client, channel)) = self.route_back(relayed, peer, data.len(), now) else { return };
        let bytes = match channel {
            Some(number) => Some(channel_data(number, &data, client.transport)),
            None => self.data_indication(peer, data, client.transport),
        };
        if bytes.is_none() {
            self.counters.oversize += 1;
        }
        self.send(client, bytes);
    }

    /// Returns the bytes of a Data indication; `None` when `data` is larger than one can be.
    pub fn data_indication(
        &mut self,
        peer: SocketAddr,
        data: Bytes,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let transaction = TransactionId::new(&mut self.seed);
        let message = Message::new(Class::Indication, Method::DATA, transaction)
            .with(Attribute::XorPeerAddress(peer))
            .with(Attribute::Data(data));
        message.encode(transport).ok()
    }

    /// A Send indication.
    pub(super) fn on_send(&mut self, client: &FiveTuple, message: &Message, now: Instant) {
        let peer = message.find(|attribute| match attribute {
            Attribute::XorPeerAddress(peer) => Some(*peer),
            _ => None,
        });
        let data = message.find(|attribute| match attribute {
            Attribute::Data(data) => Some(data.clone()),
            _ => None,
        });
        let (Some((peer, data)), Some(record)) = (peer.zip(data), self.allocations.get(client)) else {
            return;
        };
        let Some(address) = record.address_for(peer) else { return };
        let (relayed, account) = (address.address, Arc::clone(&record.account));
        let is_open = self.is_open(address, peer, now);
        if self.pay(relayed, is_open, account, data.len(), now).is_some() {
            self.act(Act::Relay { relayed, peer, data });
        }
    }

    /// `bytes` came on a connection of `account`, from either end: how long to wait before more are read.
    ///
    /// # Errors
    /// Returns the time to wait.
    pub fn handle_stream(&mut self, account: &str, bytes: usize, now: Instant) -> Result<(), Duration> {
        self.quotas.spend_late(account, bytes, now)
    }

    /// Tells whether datagrams may go between a relayed address and `peer`.
    fn is_open(&self, address: &RelayedAddress, peer: SocketAddr, now: Instant) -> bool {
        address.relaying == Relaying::Udp
            && address.expires > now
            && address.is_permitted(peer.ip(), now)
            && self.may_reach(Relaying::Udp, peer)
    }

    /// Tells whether `peer` is no service of the machine we relay from. At those addresses are our relayed addresses, and what
    /// is none of the client's business.
    pub(super) fn may_reach(&self, relaying: Relaying, peer: SocketAddr) -> bool {
        !self.config.relays.contains(&peer.ip())
            || self.relayed.contains_key(&(relaying, peer))
            || self.config.is_allowed(peer.ip())
    }

    /// Counts a datagram, and gives `relayed` back if it may go.
    fn pay(
        &mut self,
        relayed: SocketAddr,
        is_open: bool,
        account: Arc<str>,
        bytes: usize,
        now: Instant,
    ) -> Option<SocketAddr> {
        if !is_open {
            self.counters.unpermitted += 1;
            return None;
        }
        let is_paid = self.quotas.spend(&account, bytes, now).is_ok();
        *(if is_paid { &mut self.counters.relayed } else { &mut self.counters.throttled }) += 1;
        is_paid.then_some(relayed)
    }
}

/// ChannelData, filled up to four bytes on a stream only (RFC 8656, section 12.5).
fn channel_data(number: u16, data: &[u8], transport: Transport) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHANNEL_HEADER + data.len() + 3);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    if transport == Transport::Tcp {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
