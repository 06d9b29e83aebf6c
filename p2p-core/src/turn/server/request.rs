//! What clients ask for, and what they get (RFC 8656, sections 7 to 12).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::Relayer;
use super::allocation::{AllocationRecord, CHANNELS, ChannelDenied, NoRoom, RelayedAddress, WaitingRequest};
use super::attributes::RequestAttributes;
use super::auth::{AuthAttributes, AuthError, Signer};
use super::error::ErrorResponse;
use super::head::RequestHead;
use super::nonce::{Features, NonceProof};
use super::output::{Act, Event, FiveTuple, NoRelayedAddress};
use super::policy::PeerVerdict;
use crate::Family;
use crate::rate::Bucket;
use crate::stun::responder::most_unproven_answer;
use crate::stun::wire::{Ending, Header, Parsed, WireError};
use crate::stun::{Attribute, Message, Method, Transport};
use crate::turn::Relaying;

/// Time the driver has to open a relayed address.
const BINDING: Duration = Duration::from_secs(10);

/// What becomes of a request.
pub(super) enum RequestOutcome {
    /// Say this now.
    Now(Message),
    /// The driver must do something first.
    Later,
}

/// A request of somebody known.
pub(super) struct SignedRequest<'a> {
    pub(super) client: FiveTuple,
    pub(super) head: RequestHead,
    pub(super) signer: &'a Signer,
    pub(super) attributes: &'a RequestAttributes,
    /// Which of the peers named are this machine's own addresses, once that was looked up.
    pub(super) own: Option<&'a [IpAddr]>,
    pub(super) now: Instant,
}

impl Relayer {
    /// A request that is not Binding.
    ///
    /// # Errors
    /// When it is no STUN message.
    pub(super) fn on_request(
        &mut self,
        client: FiveTuple,
        header: &Header,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), WireError> {
        let parsed = match Parsed::decode(bytes, client.transport) {
            Ok(parsed) => Some(parsed),
            Err(WireError::Malformed { .. }) => None,
            Err(error) => return Err(error),
        };
        let proof = parsed.as_ref().map_or(NonceProof::Foreign, |parsed| self.prove(&client, parsed, now));
        let is_proven = client.transport == Transport::Tcp || proof != NonceProof::Foreign;
        if !self.admit(&client, is_proven, now) {
            return Ok(());
        }
        let room = match is_proven {
            true => usize::MAX,
            false => most_unproven_answer(client.client, bytes.len()),
        };
        let Some(parsed) = parsed else {
            let head =
                RequestHead { method: header.method, transaction: header.transaction, fingerprint: false };
            self.refuse(client, head, ErrorResponse::BAD_REQUEST, room, now);
            return Ok(());
        };
        let head = RequestHead::of(&parsed);
        match self.authenticate(&client, &parsed, proof, now) {
            Ok(signer) => self.on_authentic(client, head, &parsed, &signer, now),
            Err(AuthError::Refused(refusal)) => self.refuse(client, head, refusal, room, now),
            Err(AuthError::TooManyGuesses) => self.counters.limited += 1,
        }
        Ok(())
    }

    /// What the nonce of a request proves. Clients, coturn's among them, sign a ConnectionBind with the nonce they were
    /// given where they asked for the connection.
    fn prove(&self, client: &FiveTuple, parsed: &Parsed<'_>, now: Instant) -> NonceProof {
        let Some(nonce) = AuthAttributes::of(&parsed.message).nonce else { return NonceProof::Foreign };
        let judge = |tuple: FiveTuple| self.nonces.judge(nonce, &tuple, self.config.nonce_lifetime, now);
        match judge(*client) {
            NonceProof::Foreign => self.control_of(&parsed.message).map_or(NonceProof::Foreign, judge),
            proof => proof,
        }
    }

    fn authenticate(
        &mut self,
        client: &FiveTuple,
        parsed: &Parsed<'_>,
        proof: NonceProof,
        now: Instant,
    ) -> Result<Signer, AuthError> {
        if parsed.algorithm().is_none() {
            return Err(ErrorResponse::UNAUTHORIZED.into());
        }
        let has_realm = parsed.message.attributes.iter().any(|one| matches!(one, Attribute::Realm(_)));
        if !has_realm || AuthAttributes::of(&parsed.message).nonce.is_none() {
            return Err(ErrorResponse::BAD_REQUEST.into());
        }
        if proof != NonceProof::Fresh {
            return Err(ErrorResponse::STALE_NONCE.into());
        }
        let unix = self.unix(now);
        self.config.authenticate(parsed, client, &mut self.guesses, unix, now)
    }

    /// Says no to somebody who has not signed, or not as he should, in at most `room` bytes.
    fn refuse(
        &mut self,
        client: FiveTuple,
        head: RequestHead,
        refusal: ErrorResponse,
        room: usize,
        now: Instant,
    ) {
        let told = match refusal.is_challenge() {
            true => &mut self.counters.challenged,
            false => &mut self.counters.refused,
        };
        *told += 1;
        let encode = |message: Message| {
            let ending = Ending { signature: None, fingerprint: head.fingerprint };
            message.encode_with(client.transport, ending).ok().filter(|bytes| bytes.len() <= room)
        };
        let challenge = |refusal: ErrorResponse, features: Features| {
            let nonce = self.nonces.make(&client, features, self.config.nonce_lifetime, now);
            let message = refusal
                .answer(head)
                .with(Attribute::Realm(self.config.realm.clone()))
                .with(Attribute::Nonce(nonce));
            encode(match features.password_algorithms {
                true => message.with(Attribute::PasswordAlgorithms(self.config.offered())),
                false => message,
            })
        };
        let plain = || encode(refusal.answer(head)).or_else(|| encode(refusal.brief().answer(head)));
        // A request that is too small for a whole challenge gets the better part of it: one as of RFC 5389.
        let bytes = match refusal.is_challenge() {
            true => challenge(refusal, self.config.features())
                .or_else(|| challenge(refusal.brief(), self.config.features()))
                .or_else(|| challenge(refusal.brief(), Features::default()))
                .or_else(plain),
            false => plain(),
        };
        self.send(client, bytes);
    }

    fn on_authentic(
        &mut self,
        client: FiveTuple,
        head: RequestHead,
        parsed: &Parsed<'_>,
        signer: &Signer,
        now: Instant,
    ) {
        let attributes = RequestAttributes::of(&parsed.message);
        let request = SignedRequest { client, head, signer, attributes: &attributes, own: None, now };
        self.expire(&client, now);
        if !parsed.unknown.is_empty() {
            self.counters.refused += 1;
            let message = ErrorResponse::UNKNOWN_ATTRIBUTE
                .answer(head)
                .with(Attribute::UnknownAttributes(parsed.unknown.clone()));
            return self.send(client, signer.sign(&message, client.transport));
        }
        let is_waiting = self.allocations.get(&client).is_some_and(|record| record.waiting.is_some());
        if is_waiting {
            debug!(client = %client.client, "TURN: a request comes while another waits");
            return;
        }
        let decided = self.decide(&request);
        self.tell(&request, decided);
    }

    /// Says what was decided of a request.
    pub(super) fn tell(
        &mut self,
        request: &SignedRequest<'_>,
        decided: Result<RequestOutcome, ErrorResponse>,
    ) {
        let SignedRequest { client, head, signer, .. } = request;
        match decided {
            Ok(RequestOutcome::Later) => {}
            Ok(RequestOutcome::Now(message)) => {
                self.counters.granted += 1;
                self.send(*client, signer.sign(&message, client.transport));
            }
            Err(refusal) => {
                self.counters.refused += 1;
                self.counters.forbidden += u64::from(refusal == ErrorResponse::FORBIDDEN);
                debug!(client = %client.client, account = %signer.account, code = refusal.code, "TURN: {}", refusal.reason);
                self.send(*client, signer.sign(&refusal.answer(*head), client.transport));
            }
        }
    }

    fn decide(&mut self, request: &SignedRequest<'_>) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, signer, .. } = request;
        // Whoever comes after the allocation was made must be who made it (RFC 8656, section 5).
        let is_another = |record: &AllocationRecord| record.username != signer.username;
        if head.method != Method::ALLOCATE && self.allocations.get(client).is_some_and(is_another) {
            return Err(ErrorResponse::WRONG_CREDENTIALS);
        }
        match head.method {
            Method::ALLOCATE => self.allocate(request),
            Method::REFRESH => self.refresh(request),
            Method::CREATE_PERMISSION => self.create_permission(request),
            Method::CHANNEL_BIND => self.channel_bind(request),
            Method::CONNECT => self.connect(request),
            Method::CONNECTION_BIND => self.connection_bind(request),
            _ => Err(ErrorResponse::BAD_REQUEST),
        }
    }

    fn allocate(&mut self, request: &SignedRequest<'_>) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, signer, attributes, now, .. } = request;
        if let Some(record) = self.allocations.get(client) {
            let (transaction, bytes) = record.made_by.clone();
            if transaction != head.transaction {
                return Err(ErrorResponse::MISMATCH);
            }
            self.counters.granted += 1;
            self.send(*client, Some(bytes));
            return Ok(RequestOutcome::Later);
        }
        if signer.is_expired {
            info!(client = %client.client, username = %signer.username, "TURN: this credential has expired");
            self.counters.expired += 1;
            // With a challenge, as if it had never been good.
            self.refuse(*client, *head, ErrorResponse::EXPIRED, usize::MAX, *now);
            return Ok(RequestOutcome::Later);
        }
        let relaying = match attributes.transport {
            None => return Err(ErrorResponse::BAD_REQUEST),
            Some(protocol) if protocol == Relaying::Udp.protocol() => Relaying::Udp,
            // RFC 6062, section 5.1.
            Some(protocol) if protocol == Relaying::Tcp.protocol() => match client.transport {
                Transport::Tcp => Relaying::Tcp,
                Transport::Udp => return Err(ErrorResponse::BAD_REQUEST),
            },
            Some(_) => return Err(ErrorResponse::NO_TRANSPORT),
        };
        let families = match (attributes.family, attributes.additional) {
            (None, None) => vec![Family::V4],
            (Some(family), None) => vec![family],
            (None, Some(Family::V6)) if relaying == Relaying::Udp => vec![Family::V4, Family::V6],
            _ => return Err(ErrorResponse::BAD_REQUEST),
        };
        let is_even = match attributes.even {
            Some(_) if relaying == Relaying::Tcp || attributes.additional.is_some() => {
                return Err(ErrorResponse::BAD_REQUEST);
            }
            // A port is not kept for later: pairs of ports went out of use with RFC 5761.
            Some(true) => return Err(ErrorResponse::CAPACITY),
            even => even.is_some(),
        };
        self.quotas.may_have(&signer.account, families.len())?;
        for family in &families {
            self.quotas.enter(&signer.account, *now);
            self.act(Act::Bind { client: *client, family: *family, relaying, is_even });
        }
        let until = *now + BINDING;
        self.note_end(until);
        let waiting = WaitingRequest::Binding {
            head: *head,
            signer: (*signer).clone(),
            relaying,
            lifetime: self.config.granted(attributes.lifetime),
            missing: families,
            refused: Vec::new(),
            until,
        };
        let record = AllocationRecord {
            username: Arc::clone(&signer.username),
            account: Arc::clone(&signer.account),
            addresses: Vec::new(),
            made_by: (head.transaction, Vec::new()),
            waiting: Some(waiting),
            bucket: Bucket::new(*now),
        };
        self.allocations.insert(*client, record);
        Ok(RequestOutcome::Later)
    }

    /// Takes up what became of an [`Act::Bind`].
    pub fn handle_bound(
        &mut self,
        client: FiveTuple,
        family: Family,
        relaying: Relaying,
        bound: Result<SocketAddr, NoRelayedAddress>,
        now: Instant,
    ) {
        if self.is_closed {
            return;
        }
        let is_taken = bound.is_ok_and(|address| self.relayed.contains_key(&(relaying, address)));
        let waiting = self.allocations.get_mut(&client).and_then(|record| record.waiting.as_mut());
        let place = match waiting {
            Some(WaitingRequest::Binding { missing, relaying: wanted, .. }) if *wanted == relaying => {
                missing.iter().position(|missing| *missing == family).map(|at| missing.remove(at))
            }
            _ => None,
        };
        let (Some(_), Some(record)) = (place, self.allocations.get_mut(&client)) else {
            // Nobody waits for it any more.
            if let (Ok(relayed), false) = (bound, is_taken) {
                self.act(Act::Release { relaying, relayed });
            }
            return;
        };
        let Some(WaitingRequest::Binding { lifetime, missing, refused, .. }) = &mut record.waiting else {
            return;
        };
        match bound {
            Ok(address) if !is_taken => {
                record.addresses.push(RelayedAddress::new(relaying, address, now + *lifetime));
                self.relayed.insert((relaying, address), client);
            }
            refusal => {
                refused.push((family, refusal.err().unwrap_or(NoRelayedAddress::Exhausted)));
                self.quotas.leave(&record.account, now);
            }
        }
        if missing.is_empty() {
            self.on_all_bound(client, now);
        }
    }

    /// Answers an Allocate: every address is there, or is not to be had.
    fn on_all_bound(&mut self, client: FiveTuple, now: Instant) {
        let Some(mut record) = self.allocations.remove(&client) else { return };
        let Some(WaitingRequest::Binding { head, signer, relaying, lifetime, refused, .. }) =
            record.waiting.take()
        else {
            return;
        };
        let attributes = RequestAttributes::default();
        let request =
            SignedRequest { client, head, signer: &signer, attributes: &attributes, own: None, now };
        if record.addresses.is_empty() {
            // RFC 8656, section 7.2: of two families none is 508, whatever each lacks.
            let refusal = match &refused[..] {
                [(_, only)] => ErrorResponse::from(*only),
                _ => ErrorResponse::CAPACITY,
            };
            return self.tell(&request, Err(refusal));
        }
        let mut answer = head.success();
        record.addresses.sort_by_key(|address| !address.address.is_ipv4());
        for RelayedAddress { address, .. } in &record.addresses {
            debug!(client = %client.client, relayed = %address, account = %signer.account, "TURN allocation");
            answer = answer.with(Attribute::XorRelayedAddress(*address));
        }
        for (family, no) in refused {
            let ErrorResponse { code, reason } = no.into();
            answer = answer.with(Attribute::AddressErrorCode { family, code, reason: reason.into() });
        }
        let mapped = SocketAddr::new(client.client.ip().to_canonical(), client.client.port());
        answer =
            answer.with(Attribute::Lifetime(seconds(lifetime))).with(Attribute::XorMappedAddress(mapped));
        let Some(bytes) = signer.sign(&answer, client.transport) else {
            self.end(record, now);
            return self.tell(&request, Err(ErrorResponse::CAPACITY));
        };
        self.counters.allocations += 1;
        self.counters.granted += 1;
        let relayed = record.addresses.iter().map(|address| address.address).collect();
        self.out.push_back(crate::Output::Event(Event::Allocated { client, relaying, relayed }));
        record.made_by.1.clone_from(&bytes);
        self.allocations.insert(client, record);
        self.note_end(now + lifetime);
        self.send(client, Some(bytes));
    }

    fn refresh(&mut self, request: &SignedRequest<'_>) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, attributes, now, .. } = request;
        let granted = match attributes.lifetime {
            Some(0) => Duration::ZERO,
            wished => self.config.granted(wished),
        };
        let record = self.allocations.get_mut(client).ok_or(ErrorResponse::MISMATCH)?;
        let is_meant =
            |address: &RelayedAddress| attributes.family.is_none_or(|family| address.family() == family);
        if !record.addresses.iter().any(is_meant) {
            return Err(ErrorResponse::PEER_FAMILY);
        }
        let until = if granted.is_zero() { *now } else { *now + granted };
        record.addresses.iter_mut().filter(|address| is_meant(address)).for_each(|address| {
            address.expires = until;
        });
        match granted.is_zero() {
            true => self.expire(client, *now),
            false => self.note_end(until),
        }
        Ok(RequestOutcome::Now(head.success().with(Attribute::Lifetime(seconds(granted)))))
    }

    fn create_permission(&mut self, request: &SignedRequest<'_>) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, attributes, now, .. } = request;
        let record = self.allocations.get(client).ok_or(ErrorResponse::MISMATCH)?;
        if attributes.peers.is_empty() {
            return Err(ErrorResponse::BAD_REQUEST);
        }
        if attributes.peers.iter().any(|peer| record.address_for(*peer).is_none()) {
            return Err(ErrorResponse::PEER_FAMILY);
        }
        if self.check_peers(request)? {
            return Ok(RequestOutcome::Later);
        }
        let lifetime = self.config.permission_lifetime;
        let record = self.allocations.get_mut(client).ok_or(ErrorResponse::MISMATCH)?;
        for address in &mut record.addresses {
            let peers = attributes.peers.iter().filter(|peer| address.fits(**peer));
            let ips: Vec<IpAddr> = peers.map(SocketAddr::ip).collect();
            address.permit(&ips, lifetime, *now).map_err(|NoRoom| ErrorResponse::CAPACITY)?;
        }
        Ok(RequestOutcome::Now(head.success()))
    }

    fn channel_bind(&mut self, request: &SignedRequest<'_>) -> Result<RequestOutcome, ErrorResponse> {
        let SignedRequest { client, head, attributes, now, .. } = request;
        let record = self.allocations.get(client).ok_or(ErrorResponse::MISMATCH)?;
        let (Some(number), Some(&peer)) = (attributes.channel, attributes.peers.first()) else {
            return Err(ErrorResponse::BAD_REQUEST);
        };
        if !CHANNELS.contains(&number) || peer.port() == 0 {
            return Err(ErrorResponse::BAD_REQUEST);
        }
        let Some(index) = record.addresses.iter().position(|address| address.fits(peer)) else {
            return Err(ErrorResponse::PEER_FAMILY);
        };
        // A number is one peer's, whichever family he has.
        let others = record.addresses.iter().enumerate().filter(|(other, _)| *other != index);
        let is_taken = others.into_iter().any(|(_, address)| address.peer_of(number, *now).is_some());
        if is_taken || record.addresses[index].relaying == Relaying::Tcp {
            return Err(ErrorResponse::BAD_REQUEST);
        }
        if self.check_peers(request)? {
            return Ok(RequestOutcome::Later);
        }
        if !self.may_reach(Relaying::Udp, peer) {
            return Err(ErrorResponse::FORBIDDEN);
        }
        let lifetimes = (self.config.channel_lifetime, self.config.permission_lifetime);
        let record = self.allocations.get_mut(client).ok_or(ErrorResponse::MISMATCH)?;
        let bound = record.addresses[index].bind_channel(number, peer, lifetimes, *now);
        bound.map_err(|no| match no {
            ChannelDenied::Taken => ErrorResponse::BAD_REQUEST,
            ChannelDenied::NoRoom => ErrorResponse::CAPACITY,
        })?;
        Ok(RequestOutcome::Now(head.success()))
    }

    /// Tells whether the request must wait until the driver has said which of the peers it names are this machine's own.
    ///
    /// # Errors
    /// When a peer may not be spoken to.
    pub(super) fn check_peers(&mut self, request: &SignedRequest<'_>) -> Result<bool, ErrorResponse> {
        let SignedRequest { client, head, signer, attributes, own, .. } = request;
        let mut unknown = Vec::new();
        for ip in attributes.peers.iter().map(SocketAddr::ip) {
            match (self.config.judge(ip), own) {
                (PeerVerdict::Public, Some(own)) if own.contains(&ip) => {
                    return Err(ErrorResponse::FORBIDDEN);
                }
                (PeerVerdict::Public, None) => unknown.push(ip),
                (PeerVerdict::Forbidden, _) => {
                    debug!(client = %client.client, peer = %ip, "TURN: this peer may not be relayed to");
                    return Err(ErrorResponse::FORBIDDEN);
                }
                (PeerVerdict::Allowed | PeerVerdict::Relayed | PeerVerdict::Public, _) => {}
            }
        }
        let must_wait = !unknown.is_empty();
        if let Some(record) = self.allocations.get_mut(client).filter(|_| must_wait) {
            record.waiting = Some(WaitingRequest::Checking {
                head: *head,
                signer: (*signer).clone(),
                attributes: (*attributes).clone(),
            });
            self.act(Act::Check { client: *client, ips: unknown });
        }
        Ok(must_wait)
    }

    /// Takes up what became of an [`Act::Check`]: those of the addresses that are this machine's own.
    pub fn handle_checked(&mut self, client: FiveTuple, own: &[IpAddr], now: Instant) {
        self.expire(&client, now);
        let Some(record) = self.allocations.get_mut(&client) else { return };
        match record.waiting.take() {
            Some(WaitingRequest::Checking { head, signer, attributes }) => {
                let attributes = &attributes;
                let request =
                    SignedRequest { client, head, signer: &signer, attributes, own: Some(own), now };
                let decided = self.decide(&request);
                self.tell(&request, decided);
            }
            other => record.waiting = other,
        }
    }
}

/// Whole seconds, as LIFETIME has them.
fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}
