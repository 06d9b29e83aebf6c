//! Connections with peers (RFC 6062).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Relayer;
use super::allocation::{CONNECTION_LIFETIME, NoRoom, PeerConnection, PeerConnectionState, RelayedAddress};
use super::attributes::RequestAttributes;
use super::error::ErrorResponse;
use super::output::{Act, FiveTuple};
use super::request::{RequestOutcome, SignedRequest};
use crate::stun::{Attribute, Class, Message, Method, TransactionId, Transport};
use crate::turn::Relaying;
use crate::turn::allocation::ConnectionId;

impl Relayer {
    /// "Dial this peer" (RFC 6062, section 5.2).
    pub(super) fn connect(&mut self, request: &SignedRequest<'_>) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, signer, attributes, now, .. } = request;
        let &peer = attributes.peers.first().ok_or(ErrorResponse::BAD_REQUEST)?;
        let record = self.allocations.get(client).ok_or(ErrorResponse::MISMATCH)?;
        let is_for_tcp = |address: &&RelayedAddress| address.relaying == Relaying::Tcp;
        if !record.addresses.iter().any(|address| is_for_tcp(&address)) {
            return Err(ErrorResponse::MISMATCH);
        }
        let address = record.address_for(peer).filter(is_for_tcp).ok_or(ErrorResponse::PEER_FAMILY)?;
        let relayed = address.address;
        if address.connections.values().any(|connection| connection.peer == peer) {
            return Err(ErrorResponse::EXISTS);
        }
        if self.check_peers(request)? {
            return Ok(RequestOutcome::Later);
        }
        if !self.may_reach(Relaying::Tcp, peer) {
            return Err(ErrorResponse::FORBIDDEN);
        }
        let connection = self.free_id();
        let until = *now + CONNECTION_LIFETIME;
        let state = PeerConnectionState::Dialling { head: *head, signer: (*signer).clone(), until };
        let address = self.relayed_address(client, relayed).ok_or(ErrorResponse::MISMATCH)?;
        address
            .connect(connection, PeerConnection { peer, state })
            .map_err(|NoRoom| ErrorResponse::CAPACITY)?;
        self.connections.insert(connection, *client);
        self.note_end(until);
        self.counters.granted += 1;
        self.act(Act::Dial { relayed, peer, connection });
        Ok(RequestOutcome::Later)
    }

    /// Takes up what became of an [`Act::Dial`].
    pub fn handle_dialled(&mut self, connection: ConnectionId, is_connected: bool, now: Instant) {
        let until = now + CONNECTION_LIFETIME;
        let client = self.connections.get(&connection).copied();
        let dialled = self.peer_connection(connection).and_then(|found| match found.state {
            PeerConnectionState::Dialling { .. } => {
                let waiting = PeerConnectionState::Waiting { until };
                Some(std::mem::replace(&mut found.state, waiting))
            }
            PeerConnectionState::Waiting { .. } | PeerConnectionState::Joined => None,
        });
        let (Some(client), Some(PeerConnectionState::Dialling { head, signer, .. })) = (client, dialled)
        else {
            if is_connected && client.is_none() && !self.is_closed {
                self.act(Act::Hang { connection });
            }
            return;
        };
        let answer = if is_connected {
            self.note_end(until);
            head.success().with(Attribute::ConnectionId(connection.0))
        } else {
            self.forget(connection);
            ErrorResponse::NO_CONNECTION.answer(head)
        };
        self.send(client, signer.sign(&answer, client.transport));
    }

    /// A peer has dialled a relayed address: the name of its connection from now on, or `None` when the peer is not
    /// wanted: close the connection.
    pub fn handle_accepted(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnectionId> {
        let client = *self.relayed.get(&(Relaying::Tcp, relayed))?;
        let connection = self.free_id();
        let transaction = TransactionId::new(&mut self.seed);
        let address = self.relayed_address(&client, relayed)?;
        if !address.fits(peer) || address.expires <= now || !address.is_permitted(peer.ip(), now) {
            self.counters.unpermitted += 1;
            return None;
        }
        let until = now + CONNECTION_LIFETIME;
        let state = PeerConnectionState::Waiting { until };
        address.connect(connection, PeerConnection { peer, state }).ok()?;
        self.connections.insert(connection, client);
        self.note_end(until);
        let indication = Message::new(Class::Indication, Method::CONNECTION_ATTEMPT, transaction)
            .with(Attribute::ConnectionId(connection.0))
            .with(Attribute::XorPeerAddress(peer));
        self.send(client, indication.encode(client.transport).ok());
        Some(connection)
    }

    /// The 5-tuple on which the connection was asked for that a ConnectionBind names.
    pub(super) fn control_of(&self, message: &Message) -> Option<FiveTuple> {
        if message.method != Method::CONNECTION_BIND {
            return None;
        }
        self.connections.get(&RequestAttributes::of(message).connection?).copied()
    }

    /// "This is the connection for that peer" (RFC 6062, section 5.4).
    pub(super) fn connection_bind(
        &mut self,
        request: &SignedRequest<'_>,
    ) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, signer, attributes, now, .. } = request;
        if client.transport != Transport::Tcp || self.allocations.contains_key(client) {
            return Err(ErrorResponse::BAD_REQUEST);
        }
        let connection = attributes.connection.ok_or(ErrorResponse::BAD_REQUEST)?;
        let owner = self.connections.get(&connection).and_then(|owner| self.allocations.get(owner));
        // Connections of others are not there.
        if owner.is_none_or(|owner| owner.username != signer.username) {
            return Err(ErrorResponse::BAD_REQUEST);
        }
        let found = self.peer_connection(connection).ok_or(ErrorResponse::BAD_REQUEST)?;
        let is_waiting = matches!(found.state, PeerConnectionState::Waiting { until } if until > *now);
        if !is_waiting {
            return Err(ErrorResponse::BAD_REQUEST);
        }
        found.state = PeerConnectionState::Joined;
        self.counters.joined += 1;
        self.counters.granted += 1;
        self.send(*client, signer.sign(&head.success(), client.transport));
        self.act(Act::Join { client: *client, connection });
        Ok(RequestOutcome::Later)
    }

    /// Forgets a connection with a peer that is over, joined or waiting.
    pub fn handle_parted(&mut self, connection: ConnectionId) {
        self.forget(connection);
    }

    /// Returns the account that a connection is counted under.
    pub fn account_of(&self, connection: ConnectionId) -> Option<Arc<str>> {
        let record = self.allocations.get(self.connections.get(&connection)?)?;
        Some(Arc::clone(&record.account))
    }

    /// Ends connections of `client` that did not come about, or that it did not come for.
    pub(super) fn expire_connections(&mut self, client: &FiveTuple, now: Instant) {
        let Some(record) = self.allocations.get_mut(client) else { return };
        let is_over = |_: &ConnectionId, connection: &mut PeerConnection| {
            connection.state.until().is_some_and(|until| until <= now)
        };
        let over: Vec<_> = record
            .addresses
            .iter_mut()
            .flat_map(|address| address.connections.extract_if(.., is_over).collect::<Vec<_>>())
            .collect();
        for (connection, PeerConnection { state, .. }) in over {
            self.connections.remove(&connection);
            self.act(Act::Hang { connection });
            if let PeerConnectionState::Dialling { head, signer, .. } = state {
                let answer = ErrorResponse::NO_CONNECTION.answer(head);
                self.send(*client, signer.sign(&answer, client.transport));
            }
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        if let Some(record) =
            self.connections.remove(&connection).and_then(|client| self.allocations.get_mut(&client))
        {
            record.addresses.iter_mut().for_each(|address| drop(address.connections.remove(&connection)));
        }
    }

    fn relayed_address(&mut self, client: &FiveTuple, relayed: SocketAddr) -> Option<&mut RelayedAddress> {
        let record = self.allocations.get_mut(client)?;
        record.addresses.iter_mut().find(|address| address.address == relayed)
    }

    fn peer_connection(&mut self, connection: ConnectionId) -> Option<&mut PeerConnection> {
        let record = self.allocations.get_mut(self.connections.get(&connection)?)?;
        record.addresses.iter_mut().find_map(|address| address.connections.get_mut(&connection))
    }

    /// A number that nobody can guess and nobody has. There are far fewer connections than numbers.
    fn free_id(&mut self) -> ConnectionId {
        loop {
            let id = ConnectionId(u32::from_be_bytes(self.seed.array()));
            if !self.connections.contains_key(&id) {
                return id;
            }
        }
    }
}
