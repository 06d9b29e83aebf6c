//! What each request does, once it is known who asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::desk::{Asked, Deed, Desk, Signature, Tuple, Waiting, answer, encode, peer_of};
use super::table::Entry;
use crate::Family;
use crate::stun::{Attribute, Message, Method, Transport};

impl Desk {
    /// `None` when the answer comes later.
    pub(super) fn serve(
        &mut self,
        tuple: Tuple,
        user: &str,
        request: &Message,
        signature: Option<&Signature>,
        now: Instant,
    ) -> Option<Result<Message, u16>> {
        match request.method {
            Method::ALLOCATE => return self.allocate(tuple, user, request, signature, now).err().map(Err),
            Method::CONNECTION_BIND => {
                return self.bind_connection(tuple, user, request, signature).err().map(Err);
            }
            _ => {}
        }
        let Some(entry) = self.entries.get(&tuple) else { return Some(Err(437)) };
        if entry.user != user {
            return Some(Err(441));
        }
        Some(match request.method {
            Method::REFRESH => Ok(self.refresh(tuple, request, now)),
            Method::CREATE_PERMISSION => self.permit(tuple, request, now),
            Method::CHANNEL_BIND => self.bind_channel(tuple, request, now),
            Method::CONNECT => return self.dial(tuple, user, request, signature, now).err().map(Err),
            _ => Err(400),
        })
    }

    fn allocate(
        &mut self,
        tuple: Tuple,
        user: &str,
        request: &Message,
        signature: Option<&Signature>,
        now: Instant,
    ) -> Result<(), u16> {
        if let Some(entry) = self.entries.get(&tuple) {
            if entry.made_by.0 != request.transaction {
                return Err(437);
            }
            let again = entry.made_by.1.clone();
            self.out.push_back(Deed::Tell(tuple, again.into()));
            return Ok(());
        }
        let protocol = request.find(|attribute| match attribute {
            Attribute::RequestedTransport(protocol) => Some(*protocol),
            _ => None,
        });
        let is_tcp = match protocol.ok_or(400u16)? {
            17 => false,
            6 if tuple.transport == Transport::Tcp => true,
            _ => return Err(442),
        };
        if self.entries.len() >= self.config.quota {
            return Err(486);
        }
        let wanted = request.find(|attribute| match attribute {
            Attribute::RequestedAddressFamily(family) => Some(*family),
            _ => None,
        });
        let also = request.find(|attribute| match attribute {
            Attribute::AdditionalAddressFamily(family) => Some(*family),
            _ => None,
        });
        let mut answer = answer(request);
        answer.attributes.extend(self.config.software.clone().map(Attribute::Software));
        let mut relayed = Vec::new();
        let families = [(Some(wanted.unwrap_or(Family::V4)), false), (also, true)];
        for (family, is_extra) in families {
            let Some(family) = family else { continue };
            match self.config.relays.iter().find(|ip| Family::of(**ip) == family) {
                Some(ip) => {
                    let address = SocketAddr::new(*ip, self.next_port);
                    self.next_port = self.next_port.checked_add(1).unwrap_or(49_152);
                    relayed.push(address);
                    answer = answer.with(Attribute::XorRelayedAddress(self.config.lie.unwrap_or(address)));
                }
                None if is_extra => {
                    let reason = "Address Family not Supported".into();
                    answer = answer.with(Attribute::AddressErrorCode { family, code: 440, reason });
                }
                None => return Err(440),
            }
        }
        let lifetime = self.config.lifetime.as_secs() as u32;
        let answer =
            answer.with(Attribute::Lifetime(lifetime)).with(Attribute::XorMappedAddress(tuple.client));
        for address in &relayed {
            self.owners.insert(*address, tuple);
            self.out.push_back(Deed::Open { relayed: *address, is_tcp });
        }
        let bytes = encode(&answer, tuple, signature).ok_or(500u16)?;
        self.counters.allocated += 1;
        let entry = Entry {
            relayed,
            is_tcp,
            user: user.to_owned(),
            ends: now + self.config.lifetime,
            made_by: (request.transaction, bytes.clone()),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
        };
        self.entries.insert(tuple, entry);
        if !self.is_lost(Method::ALLOCATE) {
            self.out.push_back(Deed::Tell(tuple, bytes.into()));
        }
        Ok(())
    }

    fn refresh(&mut self, tuple: Tuple, request: &Message, now: Instant) -> Message {
        let asked = request.find(|attribute| match attribute {
            Attribute::Lifetime(seconds) => Some(*seconds),
            _ => None,
        });
        if asked == Some(0) {
            self.drop_entry(tuple);
            return answer(request).with(Attribute::Lifetime(0));
        }
        let lifetime = self.config.lifetime;
        if let Some(entry) = self.entries.get_mut(&tuple) {
            entry.ends = now + lifetime;
        }
        answer(request).with(Attribute::Lifetime(lifetime.as_secs() as u32))
    }

    fn check_peer(&self, tuple: Tuple, peer: SocketAddr) -> Result<(), u16> {
        let entry = self.entries.get(&tuple).ok_or(437u16)?;
        entry.relayed_for(peer).ok_or(443u16)?;
        if self.config.forbidden.contains(&peer.ip()) { Err(403) } else { Ok(()) }
    }

    fn permit(&mut self, tuple: Tuple, request: &Message, now: Instant) -> Result<Message, u16> {
        let peers: Vec<_> = request
            .attributes
            .iter()
            .filter_map(|attribute| match attribute {
                Attribute::XorPeerAddress(peer) => Some(*peer),
                _ => None,
            })
            .collect();
        if peers.is_empty() {
            return Err(400);
        }
        peers.iter().try_for_each(|peer| self.check_peer(tuple, *peer))?;
        let until = now + self.config.permission_life;
        let entry = self.entries.get_mut(&tuple).ok_or(437u16)?;
        entry.permissions.extend(peers.iter().map(|peer| (peer.ip(), until)));
        Ok(answer(request))
    }

    fn bind_channel(&mut self, tuple: Tuple, request: &Message, now: Instant) -> Result<Message, u16> {
        let number = request.find(|attribute| match attribute {
            Attribute::ChannelNumber(number) => Some(*number),
            _ => None,
        });
        let (number, peer) = number.zip(peer_of(request)).ok_or(400u16)?;
        self.check_peer(tuple, peer)?;
        let (until, permitted) = (now + self.config.channel_life, now + self.config.permission_life);
        let entry = self.entries.get_mut(&tuple).ok_or(437u16)?;
        let rest = Duration::from_secs(300);
        let is_free = |(whose, until): &(SocketAddr, Instant)| *whose == peer || *until + rest <= now;
        let is_other = entry.number(peer, now).is_some_and(|bound| bound != number);
        if !(0x4000..0x5000).contains(&number) || is_other || !entry.channels.get(&number).is_none_or(is_free)
        {
            return Err(400);
        }
        entry.channels.insert(number, (peer, until));
        entry.permissions.insert(peer.ip(), permitted);
        Ok(answer(request))
    }

    fn dial(
        &mut self,
        tuple: Tuple,
        user: &str,
        request: &Message,
        signature: Option<&Signature>,
        now: Instant,
    ) -> Result<(), u16> {
        let peer = peer_of(request).ok_or(400u16)?;
        self.check_peer(tuple, peer)?;
        let asked_for = |waiting: &Waiting| waiting.asked.as_ref().is_some_and(|asked| asked.peer == peer);
        if self.waiting.values().any(|waiting| waiting.client == tuple && asked_for(waiting)) {
            return Err(446);
        }
        let entry = self.entries.get(&tuple).filter(|entry| entry.is_tcp).ok_or(400u16)?;
        let relayed = entry.relayed_for(peer).ok_or(443u16)?;
        let asked = Some(Asked { request: request.clone(), signature: signature.cloned(), peer });
        let connection = self.wait_for(tuple, user.to_owned(), asked, now);
        self.out.push_back(Deed::Dial { relayed, peer, connection });
        Ok(())
    }

    fn bind_connection(
        &mut self,
        tuple: Tuple,
        user: &str,
        request: &Message,
        signature: Option<&Signature>,
    ) -> Result<(), u16> {
        let id = request.find(|attribute| match attribute {
            Attribute::ConnectionId(id) => Some(*id),
            _ => None,
        });
        let id = id.filter(|_| tuple.transport == Transport::Tcp).ok_or(400u16)?;
        if self.waiting.get(&id).is_none_or(|waiting| waiting.user != user || waiting.asked.is_some()) {
            return Err(400);
        }
        self.waiting.remove(&id);
        self.tell(tuple, &answer(request), signature);
        self.out.push_back(Deed::Splice(tuple, id));
        Ok(())
    }
}
