//! Connections with peers (RFC 6062).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::stun::wire::Parsed;
use crate::stun::{Attribute, Class, Message, Method, TransactionId, Transport};

use super::allocation::{Allocation, CONNECTION, Connection, Full, Kind, Stage};
use super::auth::{Question, Refusal, Signer};
use super::core::{At, Client, Core, Ports, Reaction};
use super::request::Wish;

impl<R: Clone, S> Core<R, S> {
    /// "Dial this peer" (RFC 6062, section 5.2).
    pub fn connect(
        &mut self,
        client: Client,
        question: Question,
        signer: &Signer,
        wish: &Wish,
        ports: &dyn Ports<R>,
    ) -> Result<Reaction<R, S>, Refusal> {
        let &peer = wish.peers.first().ok_or(Refusal::BAD_REQUEST)?;
        let session = self.sessions.get(&client).ok_or(Refusal::MISMATCH)?;
        let fits = |allocation: &Allocation<R, S>| allocation.kind == Kind::Tcp && allocation.fits(peer);
        if !session.allocations.iter().any(|allocation| allocation.kind == Kind::Tcp) {
            return Err(Refusal::MISMATCH);
        }
        let Some(index) = session.allocations.iter().position(fits) else {
            return Err(Refusal::PEER_FAMILY);
        };
        let mut others = session.allocations[index].connections.values();
        if others.any(|connection| connection.peer == peer) {
            return Err(Refusal::EXISTS);
        }
        self.check_ip(client, peer.ip(), ports)?;
        if !self.may_reach(Kind::Tcp, peer) {
            return Err(Refusal::FORBIDDEN);
        }
        let id = self.free_id();
        let session = self.sessions.get_mut(&client).ok_or(Refusal::MISMATCH)?;
        let allocation = &mut session.allocations[index];
        let state = Stage::Dialling { question, signer: signer.clone() };
        allocation.connect(id, Connection { peer, state }).map_err(|Full| Refusal::CAPACITY)?;
        let relay = allocation.relay.clone();
        self.owners.insert(id, client);
        Ok(Reaction::Dial { relay, peer, id })
    }

    /// What became of dialling a peer; returns what to say to the client.
    pub fn handle_dialled(&mut self, id: u32, stream: Option<S>, now: Instant) -> Option<Vec<u8>> {
        let client = *self.owners.get(&id)?;
        let allocation = self.allocation_of(id)?;
        let peer = allocation.connections.get(&id)?.peer;
        let Some(Connection { state: Stage::Dialling { question, signer }, .. }) =
            allocation.connections.remove(&id)
        else {
            return None;
        };
        let answer = match stream {
            Some(stream) => {
                let state = Stage::Waiting { stream, until: now + CONNECTION };
                allocation.connections.insert(id, Connection { peer, state });
                question.success().with(Attribute::ConnectionId(id))
            }
            None => {
                self.owners.remove(&id);
                Refusal::NO_CONNECTION.answer(question)
            }
        };
        signer.sign(&answer, client.transport)
    }

    /// A peer has dialled a relayed address of `client`; returns the indication for it (RFC 6062, section 5.3), or
    /// `None` when the peer is not wanted: then the connection is closed.
    pub fn handle_accepted(
        &mut self,
        client: Client,
        peer: SocketAddr,
        stream: S,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let id = self.free_id();
        let transaction = TransactionId::new(&mut self.dice);
        let session = self.sessions.get_mut(&client)?;
        let allocation = session.allocations.iter_mut().find(|allocation| allocation.fits(peer))?;
        if allocation.expires <= now || !allocation.is_permitted(peer.ip(), now) {
            self.counters.unpermitted += 1;
            return None;
        }
        let state = Stage::Waiting { stream, until: now + CONNECTION };
        allocation.connect(id, Connection { peer, state }).ok()?;
        self.owners.insert(id, client);
        let indication = Message::new(Class::Indication, Method::CONNECTION_ATTEMPT, transaction)
            .with(Attribute::ConnectionId(id))
            .with(Attribute::XorPeerAddress(peer));
        indication.encode(client.transport).ok()
    }

    /// From where the connection was asked for that a ConnectionBind names. Clients, coturn's among them, sign with the
    /// nonce they were given there.
    pub fn control_of(&self, parsed: &Parsed<'_>) -> Option<SocketAddr> {
        if parsed.message.method != Method::CONNECTION_BIND {
            return None;
        }
        let owner = self.owners.get(&Wish::of(&parsed.message).connection?)?;
        Some(owner.remote)
    }

    /// "This is the connection for that peer" (RFC 6062, section 5.4).
    pub fn connection_bind(
        &mut self,
        client: Client,
        question: Question,
        signer: &Signer,
        wish: &Wish,
        at: At,
    ) -> Result<Reaction<R, S>, Refusal> {
        if client.transport != Transport::Tcp || self.sessions.contains_key(&client) {
            return Err(Refusal::BAD_REQUEST);
        }
        let id = wish.connection.ok_or(Refusal::BAD_REQUEST)?;
        let owner = self.owners.get(&id).and_then(|owner| self.sessions.get(owner));
        // Connections of others are not there.
        if owner.is_none_or(|owner| owner.username != signer.username) {
            return Err(Refusal::BAD_REQUEST);
        }
        let allocation = self.allocation_of(id).ok_or(Refusal::BAD_REQUEST)?;
        let relay = allocation.relay.clone();
        let connection = allocation.connections.get_mut(&id).ok_or(Refusal::BAD_REQUEST)?;
        let is_waiting = matches!(&connection.state, Stage::Waiting { until, .. } if *until > at.now);
        if !is_waiting {
            return Err(Refusal::BAD_REQUEST);
        }
        let Stage::Waiting { stream, .. } = std::mem::replace(&mut connection.state, Stage::Bound) else {
            return Err(Refusal::BAD_REQUEST);
        };
        let reply = signer.sign(&question.success(), client.transport).ok_or(Refusal::CAPACITY)?;
        self.counters.joined += 1;
        Ok(Reaction::Join { reply, relay, stream, id })
    }

    /// A connection that was bound is over.
    pub fn handle_parted(&mut self, id: u32) {
        if let Some(allocation) = self.allocation_of(id) {
            allocation.connections.remove(&id);
        }
        self.owners.remove(&id);
    }

    /// Under whose account connection `id` is.
    pub fn account_of(&self, id: u32) -> Option<Arc<str>> {
        let session = self.sessions.get(self.owners.get(&id)?)?;
        Some(Arc::clone(&session.account))
    }

    fn allocation_of(&mut self, id: u32) -> Option<&mut Allocation<R, S>> {
        let session = self.sessions.get_mut(self.owners.get(&id)?)?;
        session.allocations.iter_mut().find(|allocation| allocation.connections.contains_key(&id))
    }

    /// A number that nobody can guess and nobody has. There are far fewer connections than numbers.
    fn free_id(&mut self) -> u32 {
        loop {
            let id = u32::from_be_bytes(self.dice.array());
            if !self.owners.contains_key(&id) {
                return id;
            }
        }
    }
}
