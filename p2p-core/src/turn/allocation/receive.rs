//! The handling of packets from the server.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::keep::lifetime;
use super::{Allocation, ConnectionId, Event, Failure, Lease, State, canonical};
use crate::stun::wire::{Header, Parsed};
use crate::stun::{Attribute, Class, Message, Method};
use crate::turn::channel::{self, ChannelNumber};
use crate::turn::frame::Frame;
use crate::{Family, Mapped, Reach, Relayed};

impl Allocation {
    pub(super) fn receive(&mut self, mut bytes: Bytes, now: Instant) {
        if !self.config.carrier.is_stream() {
            return self.on_datagram(&bytes, now);
        }
        while !matches!(self.state, State::Over) {
            match self.framer.feed(&mut bytes) {
                Ok(Some(Frame::Stun(message))) => self.on_stun(&message, now),
                Ok(Some(Frame::Channel(number, data))) => self.on_channel(number, data),
                Ok(Some(Frame::Oversize(size))) => {
                    tracing::trace!(size, "STUN message too large, skipped");
                    self.counters.oversize = self.counters.oversize.saturating_add(1);
                }
                Ok(None) => return,
                Err(error) if matches!(self.state, State::Closing { .. }) => {
                    tracing::debug!(%error, "garbage instead of a farewell");
                    return self.end(Event::Closed);
                }
                Err(error) => return self.end(Event::Failed(error.into())),
            }
        }
    }

    fn on_datagram(&mut self, datagram: &Bytes, now: Instant) {
        if datagram.first().is_none_or(|first| first >> 6 == 0) {
            return self.on_stun(datagram, now);
        }
        match channel::split(datagram) {
            Ok((number, payload)) => self.on_channel(number, datagram.slice_ref(payload)),
            Err(error) => self.on_garbage(&error),
        }
    }

    fn on_garbage(&mut self, why: &dyn std::fmt::Display) {
        tracing::trace!(server = %self.config.server, %why, "garbage from the TURN server dropped");
        self.counters.garbage = self.counters.garbage.saturating_add(1);
    }

    fn on_channel(&mut self, number: ChannelNumber, data: Bytes) {
        match self.peers.peer(number).filter(|_| self.standing().is_some()) {
            Some(peer) => self.tell(Event::Data { peer, data }),
            None => self.counters.strangers = self.counters.strangers.saturating_add(1),
        }
    }

    fn on_stun(&mut self, bytes: &[u8], now: Instant) {
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(error) => return self.on_garbage(&error),
        };
        match header.class {
            Class::Request => self.on_garbage(&"a request"),
            Class::Indication => self.on_indication(bytes),
            Class::Success | Class::Error if self.pulse.asked == Some(header.transaction) => {
                self.on_pulse(bytes, now);
            }
            Class::Success | Class::Error => {
                let is_asked = |errand: &super::Errand| errand.id() == header.transaction;
                match self.errands.iter_mut().find(|(_, errand)| is_asked(errand)) {
                    Some((_, errand)) => {
                        errand.handle_message(bytes, now);
                        self.drain(now);
                    }
                    // A second answer to a repeated request is to be expected.
                    None => self.counters.foreign = self.counters.foreign.saturating_add(1),
                }
            }
        }
    }

    /// Takes the answer to a keep-alive, so the server is there. When it sees us come from another address, the
    /// allocation is at the old one, and cannot be reached from here.
    fn on_pulse(&mut self, bytes: &[u8], now: Instant) {
        let Ok(parsed) = Parsed::decode(bytes, self.config.carrier.transport()) else {
            return self.on_garbage(&"a broken answer to a keep-alive");
        };
        (self.pulse.asked, self.pulse.misses, self.pulse.is_heard) = (None, 0, true);
        let mapped = parsed.message.mapped().map(|mapped| Mapped(canonical(mapped)));
        let is_elsewhere = self
            .lease()
            .is_some_and(|lease| lease.mapped.is_some() && mapped.is_some() && lease.mapped != mapped);
        if is_elsewhere {
            tracing::debug!(?mapped, "a NAT gave us another address: is the allocation still ours?");
            self.handle_doubt(now);
        }
    }

    fn on_indication(&mut self, bytes: &[u8]) {
        let parsed = match Parsed::decode(bytes, self.config.carrier.transport()) {
            Ok(parsed) if parsed.unknown.is_empty() => parsed,
            Ok(_) => return self.on_garbage(&"an indication that cannot be understood"),
            Err(error) => return self.on_garbage(&error),
        };
        let message = parsed.message;
        let peer = message.find(|attribute| match attribute {
            Attribute::XorPeerAddress(peer) => Some(canonical(*peer)),
            _ => None,
        });
        let event = match (message.method, peer) {
            (Method::DATA, Some(peer)) => message
                .find(|attribute| match attribute {
                    Attribute::Data(data) => Some(data.clone()),
                    _ => None,
                })
                .map(|data| (peer, Event::Data { peer, data })),
            (Method::CONNECTION_ATTEMPT, Some(peer)) => message
                .find(|attribute| match attribute {
                    Attribute::ConnectionId(id) => Some(ConnectionId(*id)),
                    _ => None,
                })
                .map(|connection| (peer, Event::Attempt { peer, connection })),
            _ => None,
        };
        let Some((peer, event)) = event else {
            return self.on_garbage(&"an indication that says nothing of use");
        };
        if self.standing().is_none() || !self.peers.is_permitted(peer.ip()) {
            tracing::trace!(%peer, "from a peer that was not permitted, dropped");
            self.counters.strangers = self.counters.strangers.saturating_add(1);
            return;
        }
        self.tell(event);
    }

    /// Returns the lease in a success response, if somebody can have its addresses.
    pub(super) fn lease_of(&self, message: &Message) -> Result<Lease, Failure> {
        let mapped = message.mapped().map(canonical);
        let mut relayed: Vec<Relayed> = Vec::new();
        for attribute in &message.attributes {
            let Attribute::XorRelayedAddress(address) = attribute else { continue };
            let address = canonical(*address);
            self.check_relayed(address, mapped)?;
            let family = Family::of(address.ip());
            // Of several of one family only the first counts.
            if self.config.families.wants(family)
                && relayed.iter().all(|known| Family::of(known.0.ip()) != family)
            {
                relayed.push(Relayed(address));
            }
        }
        if relayed.is_empty() {
            return Err(Failure::Missing("relayed address of a family that was asked for"));
        }
        let missing = message.find(|attribute| match attribute {
            Attribute::AddressErrorCode { family, code, .. } => Some((*family, *code)),
            _ => None,
        });
        let lifetime = lifetime(message).ok_or(Failure::Missing("lifetime"))?;
        let software = message.find(|attribute| match attribute {
            Attribute::Software(name) => Some(name.as_str().into()),
            _ => None,
        });
        Ok(Lease { relayed, mapped: mapped.map(Mapped), lifetime, missing, software })
    }

    fn check_relayed(&self, address: SocketAddr, mapped: Option<SocketAddr>) -> Result<(), Failure> {
        let reach = Reach::of(address.ip());
        let is_near = matches!(reach, Reach::Loopback | Reach::Link);
        let why = if address.port() == 0 {
            "port 0"
        } else if reach == Reach::Nowhere {
            "nobody can be there"
        } else if is_near && reach != Reach::of(self.config.server.ip()) {
            "it ends before the server begins"
        } else if address == canonical(self.config.server) {
            "it is the server's own"
        } else if Some(address) == mapped {
            "it is our own"
        } else {
            return Ok(());
        };
        Err(Failure::Absurd { address, why })
    }
}
