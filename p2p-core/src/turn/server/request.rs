//! What clients ask for, and what they get (RFC 8656, sections 7 to 12).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::Family;
use crate::stun::wire::Parsed;
use crate::stun::{Attribute, Message, Method, Transport};
use tracing::{debug, info};

use super::allocation::{Allocation, CHANNELS, Full, Kind, NoChannel};
use super::auth::{Question, Refusal, Signer};
use super::core::{At, Client, Core, NoPort, Ports, Reaction, Session};
use super::ledger::Denied;
use super::peers::Verdict;

/// IP protocol numbers, as in REQUESTED-TRANSPORT.
const UDP: u8 = 17;
const TCP: u8 = 6;

/// What a request wants. The first of each kind counts.
#[derive(Debug, Default)]
pub struct Wish {
    transport: Option<u8>,
    lifetime: Option<u32>,
    family: Option<Family>,
    additional: Option<Family>,
    /// An even port, and whether the next one as well.
    even: Option<bool>,
    pub peers: Vec<SocketAddr>,
    channel: Option<u16>,
    pub connection: Option<u32>,
}

impl Wish {
    pub fn of(message: &Message) -> Self {
        let mut wish = Self::default();
        for attribute in &message.attributes {
            match attribute {
                Attribute::RequestedTransport(protocol) => {
                    wish.transport = wish.transport.or(Some(*protocol));
                }
                Attribute::Lifetime(seconds) => wish.lifetime = wish.lifetime.or(Some(*seconds)),
                Attribute::RequestedAddressFamily(family) => wish.family = wish.family.or(Some(*family)),
                Attribute::AdditionalAddressFamily(family) => {
                    wish.additional = wish.additional.or(Some(*family));
                }
                Attribute::EvenPort { reserve } => wish.even = wish.even.or(Some(*reserve)),
                Attribute::XorPeerAddress(peer) => wish.peers.push(*peer),
                Attribute::ChannelNumber(number) => wish.channel = wish.channel.or(Some(*number)),
                Attribute::ConnectionId(id) => wish.connection = wish.connection.or(Some(*id)),
                _ => {}
            }
        }
        wish
    }
}

impl<R: Clone, S> Core<R, S> {
    /// Decides a request that is not Binding.
    pub fn handle_request(
        &mut self,
        client: Client,
        parsed: &Parsed<'_>,
        at: At,
        ports: &mut dyn Ports<R>,
    ) -> Reaction<R, S> {
        let question = Question::of(parsed);
        let remotes = (client.remote, self.control_of(parsed));
        let signer = match self.gate.admit(parsed, remotes, at.unix) {
            Ok(signer) => signer,
            Err(refusal) => return self.refuse_unsigned(refusal, question, client, at.unix),
        };
        match self.decide(client, parsed, question, &signer, at, ports) {
            Ok(reaction) => {
                self.counters.granted += 1;
                reaction
            }
            Err(refusal) => {
                self.counters.refused += 1;
                if refusal == Refusal::FORBIDDEN {
                    self.counters.forbidden += 1;
                }
                debug!(client = %client.remote, account = %signer.account, code = refusal.code, "TURN: {}", refusal.reason);
                self.reply(client, &signer, refusal.answer(question))
            }
        }
    }

    /// Says no to somebody who has not signed, or not as he should.
    pub fn refuse_unsigned(
        &mut self,
        refusal: Refusal,
        question: Question,
        client: Client,
        unix: u64,
    ) -> Reaction<R, S> {
        let told =
            if refusal.is_challenge() { &mut self.counters.challenged } else { &mut self.counters.refused };
        *told += 1;
        let bytes = self.gate.refuse(refusal, question, (client.remote, client.transport), unix);
        bytes.map_or(Reaction::Silence, Reaction::Reply)
    }

    pub fn reply(&self, client: Client, signer: &Signer, message: Message) -> Reaction<R, S> {
        signer.sign(&message, client.transport).map_or(Reaction::Silence, Reaction::Reply)
    }

    fn decide(
        &mut self,
        client: Client,
        parsed: &Parsed<'_>,
        question: Question,
        signer: &Signer,
        at: At,
        ports: &mut dyn Ports<R>,
    ) -> Result<Reaction<R, S>, Refusal> {
        self.expire(client, at.now);
        // Whoever comes after the allocation was made must be who made it (RFC 8656, section 5).
        let is_another = |session: &Session<R, S>| session.username != signer.username;
        if question.method != Method::ALLOCATE && self.sessions.get(&client).is_some_and(is_another) {
            return Err(Refusal::WRONG_CREDENTIALS);
        }
        if !parsed.unknown.is_empty() {
            self.counters.refused += 1;
            let message = Refusal::UNKNOWN_ATTRIBUTE
                .answer(question)
                .with(Attribute::UnknownAttributes(parsed.unknown.clone()));
            return Ok(self.reply(client, signer, message));
        }
        let wish = Wish::of(&parsed.message);
        let answer = match question.method {
            Method::ALLOCATE => return self.allocate(client, question, signer, &wish, at, ports),
            Method::CONNECT => return self.connect(client, question, signer, &wish, ports),
            Method::CONNECTION_BIND => return self.connection_bind(client, question, signer, &wish, at),
            Method::REFRESH => self.refresh(client, question, &wish, at)?,
            Method::CREATE_PERMISSION => {
                self.create_permission(client, &wish, at, ports)?;
                question.success()
            }
            Method::CHANNEL_BIND => {
                self.channel_bind(client, &wish, at, ports)?;
                question.success()
            }
            _ => return Err(Refusal::BAD_REQUEST),
        };
        Ok(self.reply(client, signer, answer))
    }

    fn allocate(
        &mut self,
        client: Client,
        question: Question,
        signer: &Signer,
        wish: &Wish,
        at: At,
        ports: &mut dyn Ports<R>,
    ) -> Result<Reaction<R, S>, Refusal> {
        if let Some(session) = self.sessions.get(&client) {
            let (transaction, bytes) = &session.answered;
            return match *transaction == question.transaction {
                true => Ok(Reaction::Reply(bytes.clone())),
                false => Err(Refusal::MISMATCH),
            };
        }
        if signer.is_expired {
            info!(client = %client.remote, username = %signer.username, "TURN: this credential has expired");
            self.counters.expired += 1;
            // With a challenge, as if it had never been good.
            return Ok(self.refuse_unsigned(Refusal::EXPIRED, question, client, at.unix));
        }
        let kind = match wish.transport {
            None => return Err(Refusal::BAD_REQUEST),
            Some(UDP) => Kind::Udp,
            // RFC 6062, section 5.1.
            Some(TCP) if client.transport == Transport::Tcp => Kind::Tcp,
            Some(TCP) => return Err(Refusal::BAD_REQUEST),
            Some(_) => return Err(Refusal::NO_TRANSPORT),
        };
        let families = match (wish.family, wish.additional) {
            (None, None) => vec![Family::V4],
            (Some(family), None) => vec![family],
            (None, Some(Family::V6)) if kind == Kind::Udp => vec![Family::V4, Family::V6],
            _ => return Err(Refusal::BAD_REQUEST),
        };
        let even = match wish.even {
            Some(_) if kind == Kind::Tcp || wish.additional.is_some() => return Err(Refusal::BAD_REQUEST),
            // A port is not kept for later: pairs of ports went out of use with RFC 5761.
            Some(true) => return Err(Refusal::CAPACITY),
            even => even.is_some(),
        };
        self.ledger.may_have(&signer.account, families.len())?;
        let lifetime = self.lifetime(wish.lifetime);
        let mut answer = question.success();
        let (mut allocations, mut refused) = (Vec::new(), Vec::new());
        for family in families {
            match ports.bind(family, kind, even) {
                Ok((relayed, relay)) => {
                    answer = answer.with(Attribute::XorRelayedAddress(relayed));
                    allocations.push(Allocation::new(kind, relayed, relay, at.now + lifetime));
                }
                Err(no) => refused.push((family, Refusal::from(no))),
            }
        }
        if allocations.is_empty() {
            // RFC 8656, section 7.2: of two families none is 508, whatever each lacks.
            return Err(if refused.len() == 1 { refused[0].1 } else { Refusal::CAPACITY });
        }
        for (family, Refusal { code, reason }) in refused {
            answer = answer.with(Attribute::AddressErrorCode { family, code, reason: reason.into() });
        }
        let remote = SocketAddr::new(client.remote.ip().to_canonical(), client.remote.port());
        answer = answer
            .with(Attribute::Lifetime(lifetime.as_secs() as u32))
            .with(Attribute::XorMappedAddress(remote));
        let Some(bytes) = signer.sign(&answer, client.transport) else {
            return Err(Refusal::CAPACITY);
        };
        for allocation in &allocations {
            debug!(client = %client.remote, relayed = %allocation.relayed, account = %signer.account, "TURN allocation");
            self.ledger.enter(&signer.account, at.now);
            self.relayed.insert((kind, allocation.relayed));
        }
        self.counters.allocations += 1;
        self.sessions.insert(
            client,
            Session {
                username: Arc::clone(&signer.username),
                account: Arc::clone(&signer.account),
                allocations,
                answered: (question.transaction, bytes.clone()),
            },
        );
        Ok(Reaction::Reply(bytes))
    }

    /// What is granted of a wish (RFC 8656, section 7.2).
    fn lifetime(&self, wished: Option<u32>) -> Duration {
        let wished = wished.map_or(self.terms.lifetime, |seconds| Duration::from_secs(seconds.into()));
        wished.min(self.terms.most_lifetime).max(self.terms.lifetime)
    }

    fn refresh(
        &mut self,
        client: Client,
        question: Question,
        wish: &Wish,
        at: At,
    ) -> Result<Message, Refusal> {
        let granted = match wish.lifetime {
            Some(0) => Duration::ZERO,
            wished => self.lifetime(wished),
        };
        let session = self.sessions.get_mut(&client).ok_or(Refusal::MISMATCH)?;
        let is_meant =
            |allocation: &Allocation<R, S>| wish.family.is_none_or(|family| allocation.family() == family);
        if !session.allocations.iter().any(is_meant) {
            return Err(Refusal::PEER_FAMILY);
        }
        if granted.is_zero() {
            let account = Arc::clone(&session.account);
            let (over, kept): (Vec<_>, Vec<_>) = session.allocations.drain(..).partition(is_meant);
            session.allocations = kept;
            if session.allocations.is_empty() {
                self.sessions.remove(&client);
            }
            over.into_iter().for_each(|allocation| self.close(&account, allocation, at.now));
        } else {
            let meant = session.allocations.iter_mut().filter(|allocation| is_meant(allocation));
            meant.for_each(|allocation| allocation.expires = at.now + granted);
        }
        Ok(question.success().with(Attribute::Lifetime(granted.as_secs() as u32)))
    }

    fn create_permission(
        &mut self,
        client: Client,
        wish: &Wish,
        at: At,
        ports: &dyn Ports<R>,
    ) -> Result<(), Refusal> {
        let session = self.sessions.get(&client).ok_or(Refusal::MISMATCH)?;
        if wish.peers.is_empty() {
            return Err(Refusal::BAD_REQUEST);
        }
        for peer in &wish.peers {
            if !session.allocations.iter().any(|allocation| allocation.fits(*peer)) {
                return Err(Refusal::PEER_FAMILY);
            }
            self.check_ip(client, peer.ip(), ports)?;
        }
        let session = self.sessions.get_mut(&client).ok_or(Refusal::MISMATCH)?;
        for allocation in &mut session.allocations {
            let ips: Vec<IpAddr> =
                wish.peers.iter().filter(|peer| allocation.fits(**peer)).map(SocketAddr::ip).collect();
            allocation.permit(&ips, at.now).map_err(|Full| Refusal::CAPACITY)?;
        }
        Ok(())
    }

    fn channel_bind(
        &mut self,
        client: Client,
        wish: &Wish,
        at: At,
        ports: &dyn Ports<R>,
    ) -> Result<(), Refusal> {
        let session = self.sessions.get(&client).ok_or(Refusal::MISMATCH)?;
        let (Some(number), Some(&peer)) = (wish.channel, wish.peers.first()) else {
            return Err(Refusal::BAD_REQUEST);
        };
        if !CHANNELS.contains(&number) || peer.port() == 0 {
            return Err(Refusal::BAD_REQUEST);
        }
        let Some(index) = session.allocations.iter().position(|allocation| allocation.fits(peer)) else {
            return Err(Refusal::PEER_FAMILY);
        };
        // A number is one peer's, whichever family he has.
        let elsewhere = session.allocations.iter().enumerate();
        let is_taken = elsewhere
            .filter(|(other, _)| *other != index)
            .any(|(_, allocation)| allocation.peer_of(number, at.now).is_some());
        if is_taken || session.allocations[index].kind == Kind::Tcp {
            return Err(Refusal::BAD_REQUEST);
        }
        self.check_ip(client, peer.ip(), ports)?;
        if !self.may_reach(Kind::Udp, peer) {
            return Err(Refusal::FORBIDDEN);
        }
        let session = self.sessions.get_mut(&client).ok_or(Refusal::MISMATCH)?;
        session.allocations[index].bind_channel(number, peer, at.now).map_err(|no| match no {
            NoChannel::Taken => Refusal::BAD_REQUEST,
            NoChannel::Full => Refusal::CAPACITY,
        })
    }

    /// Whether a peer at `ip` may be spoken to at all.
    pub fn check_ip(&self, client: Client, ip: IpAddr, ports: &dyn Ports<R>) -> Result<(), Refusal> {
        if self.policy.judge(ip, |ip| ports.is_ours(ip)) == Verdict::Forbidden {
            debug!(client = %client.remote, peer = %ip, "TURN: this peer may not be relayed to");
            return Err(Refusal::FORBIDDEN);
        }
        Ok(())
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::User => Self::QUOTA,
            Denied::Server => Self::CAPACITY,
        }
    }
}

impl From<NoPort> for Refusal {
    fn from(no: NoPort) -> Self {
        match no {
            NoPort::Family => Self::NO_FAMILY,
            NoPort::Exhausted => Self::CAPACITY,
        }
    }
}
