//! Requests in, deeds out.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::TurnServerConfig;
use super::table::Entry;
use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId, Transport};
use crate::turn::Credentials;
use crate::turn::channel;
use crate::{Seed, UnixTime};

/// How long an unused connection of a peer is kept (RFC 6062, section 5.2).
const CONNECTION_LIFE: Duration = Duration::from_secs(30);

/// A client as the server sees it: where it comes from, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// The client.
    pub client: SocketAddr,
    /// Over what.
    pub transport: Transport,
}

/// What the server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Say this to a client: a datagram, or a piece of its stream.
    Tell(Tuple, Bytes),
    /// Send a datagram from a relayed address to a peer.
    Relay {
        /// From.
        relayed: SocketAddr,
        /// To.
        peer: SocketAddr,
        /// What.
        data: Bytes,
    },
    /// Open a relayed address.
    Open {
        /// Which.
        relayed: SocketAddr,
        /// For connections rather than datagrams.
        is_tcp: bool,
    },
    /// Close it.
    Close(SocketAddr),
    /// Dial a peer from a relayed address, and tell by [`Desk::handle_dialled`].
    Dial {
        /// From.
        relayed: SocketAddr,
        /// To.
        peer: SocketAddr,
        /// What the connection is called.
        connection: u32,
    },
    /// From now on this client's connection carries that connection's bytes.
    Splice(Tuple, u32),
    /// Nobody took that connection.
    Hang(u32),
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeskCounters {
    /// Requests, repetitions included.
    pub requests: u64,
    /// Of these, answered with 438.
    pub stale: u64,
    /// Datagrams relayed, both ways.
    pub relayed: u64,
    /// Datagrams from peers that were not permitted, and for them.
    pub unpermitted: u64,
    /// Allocations made.
    pub allocated: u64,
}

/// How a request was signed, and so its answer will be.
pub(super) type Signature = (Algorithm, Key);

/// A Connect request that is answered when the dial has ended.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Message,
    pub(super) signature: Option<Signature>,
    pub(super) peer: SocketAddr,
}

/// A connection of a peer: whose it is, and until when it may be taken.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) client: Tuple,
    pub(super) user: String,
    until: Instant,
    pub(super) asked: Option<Asked>,
}

/// A server's mind.
#[derive(Debug)]
pub struct Desk {
    /// How it behaves.
    pub config: TurnServerConfig,
    seed: Seed,
    pub(super) entries: BTreeMap<Tuple, Entry>,
    pub(super) owners: BTreeMap<SocketAddr, Tuple>,
    pub(super) waiting: BTreeMap<u32, Waiting>,
    nonce: Option<(String, Instant)>,
    pub(super) next_port: u16,
    next_connection: u32,
    pub(super) counters: DeskCounters,
    pub(super) out: VecDeque<Deed>,
}

impl Desk {
    /// With an empty table.
    pub fn new(config: TurnServerConfig, seed: Seed) -> Self {
        Self {
            config,
            seed,
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
            waiting: BTreeMap::new(),
            nonce: None,
            next_port: 49_152,
            next_connection: 1,
            counters: DeskCounters::default(),
            out: VecDeque::new(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> DeskCounters {
        self.counters
    }

    /// Allocations that stand.
    pub fn allocations(&self) -> usize {
        self.entries.len()
    }

    /// Forgets everything, nonces too, as a new process does. Ports go on, so that nobody gets an old address.
    pub fn restart(&mut self) {
        for entry in std::mem::take(&mut self.entries).into_values() {
            entry.relayed.into_iter().for_each(|relayed| self.out.push_back(Deed::Close(relayed)));
        }
        self.owners.clear();
        self.waiting.clear();
        self.nonce = None;
    }

    /// The next deed.
    pub fn poll(&mut self) -> Option<Deed> {
        self.out.pop_front()
    }

    /// When something ends next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let entries = self.entries.values().map(|entry| entry.ends);
        entries.chain(self.waiting.values().map(|waiting| waiting.until)).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let ended: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.ends <= now).map(|(tuple, _)| *tuple).collect();
        ended.into_iter().for_each(|tuple| self.drop_entry(tuple));
        for (connection, _) in self.waiting.extract_if(.., |_, waiting| waiting.until <= now) {
            self.out.push_back(Deed::Hang(connection));
        }
    }

    /// A client's connection has ended.
    pub fn handle_gone(&mut self, tuple: Tuple) {
        self.drop_entry(tuple);
    }

    pub(super) fn drop_entry(&mut self, tuple: Tuple) {
        let Some(entry) = self.entries.remove(&tuple) else { return };
        for relayed in entry.relayed {
            self.owners.remove(&relayed);
            self.out.push_back(Deed::Close(relayed));
        }
    }

    /// A datagram or one whole frame came from a client.
    pub fn handle_client(&mut self, tuple: Tuple, bytes: &[u8], now: Instant) {
        self.handle_timeout(now);
        if let Ok((number, payload)) = channel::split(bytes) {
            let Some(entry) = self.entries.get(&tuple) else { return };
            let bound = entry.channels.get(&number.number()).filter(|(_, until)| *until > now);
            if let Some((peer, _)) = bound.copied() {
                self.relay(tuple, peer, Bytes::copy_from_slice(payload), now);
            }
            return;
        }
        let Ok(parsed) = Parsed::decode(bytes, tuple.transport) else { return };
        match (parsed.message.class, parsed.message.method) {
            (Class::Request, Method::BINDING) => {
                let answer = answer(&parsed.message).with(Attribute::XorMappedAddress(tuple.client));
                self.tell(tuple, &answer, None);
            }
            (Class::Request, _) => self.on_request(tuple, &parsed, now),
            (Class::Indication, Method::SEND) => {
                if let (Some(peer), Some(data)) = (peer_of(&parsed.message), data_of(&parsed.message)) {
                    self.relay(tuple, peer, data, now);
                }
            }
            _ => {}
        }
    }

    fn relay(&mut self, tuple: Tuple, peer: SocketAddr, data: Bytes, now: Instant) {
        let Some(entry) = self.entries.get(&tuple).filter(|entry| !entry.is_tcp) else { return };
        let Some(relayed) = entry.relayed_for(peer) else { return };
        if !entry.is_permitted(peer.ip(), now) {
            self.counters.unpermitted += 1;
            return;
        }
        self.counters.relayed += 1;
        self.out.push_back(Deed::Relay { relayed, peer, data });
    }

    /// A datagram came to a relayed address.
    pub fn handle_peer(&mut self, relayed: SocketAddr, peer: SocketAddr, data: Bytes, now: Instant) {
        self.handle_timeout(now);
        let Some(tuple) = self.owners.get(&relayed).copied() else { return };
        let Some(entry) = self.entries.get(&tuple) else { return };
        if !entry.is_permitted(peer.ip(), now) {
            self.counters.unpermitted += 1;
            return;
        }
        self.counters.relayed += 1;
        let bytes = match entry.number(peer, now) {
            Some(number) => {
                let mut bytes = [number.to_be_bytes(), (data.len() as u16).to_be_bytes()].concat();
                bytes.extend_from_slice(&data);
                if tuple.transport == Transport::Tcp {
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
                bytes
            }
            None => {
                let id = TransactionId::new(&mut self.seed);
                let message = Message::new(Class::Indication, Method::DATA, id)
                    .with(Attribute::XorPeerAddress(peer))
                    .with(Attribute::Data(data));
                match message.encode(tuple.transport) {
                    Ok(bytes) => bytes,
                    Err(_) => return,
                }
            }
        };
        self.out.push_back(Deed::Tell(tuple, bytes.into()));
    }

    /// Somebody dialled a relayed address. What the connection is called, or `None` when it is to be reset.
    pub fn handle_dialled_by(&mut self, relayed: SocketAddr, peer: SocketAddr, now: Instant) -> Option<u32> {
        let tuple = self.owners.get(&relayed).copied()?;
        let entry = self.entries.get(&tuple)?;
        if !entry.is_permitted(peer.ip(), now) {
            self.counters.unpermitted += 1;
            return None;
        }
        let user = entry.user.clone();
        let connection = self.wait_for(tuple, user, None, now);
        let id = TransactionId::new(&mut self.seed);
        let message = Message::new(Class::Indication, Method::CONNECTION_ATTEMPT, id)
            .with(Attribute::ConnectionId(connection))
            .with(Attribute::XorPeerAddress(peer));
        self.tell(tuple, &message, None);
        Some(connection)
    }

    /// What became of a [`Deed::Dial`].
    pub fn handle_dialled(&mut self, connection: u32, is_connected: bool, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(&connection) else { return };
        let Some(Asked { request, signature, .. }) = waiting.asked.take() else { return };
        let tuple = waiting.client;
        waiting.until = now + CONNECTION_LIFE;
        if is_connected {
            let message = answer(&request).with(Attribute::ConnectionId(connection));
            self.tell(tuple, &message, signature.as_ref());
        } else {
            self.waiting.remove(&connection);
            self.tell(tuple, &refusal(&request, 447), signature.as_ref());
        }
    }

    pub(super) fn wait_for(
        &mut self,
        client: Tuple,
        user: String,
        asked: Option<Asked>,
        now: Instant,
    ) -> u32 {
        let connection = self.next_connection;
        self.next_connection = connection.wrapping_add(1);
        self.waiting.insert(connection, Waiting { client, user, until: now + CONNECTION_LIFE, asked });
        connection
    }

    fn on_request(&mut self, tuple: Tuple, parsed: &Parsed<'_>, now: Instant) {
        self.counters.requests += 1;
        let request = &parsed.message;
        let (user, signature) = match self.authenticate(parsed, now) {
            Ok(authentic) => authentic,
            Err(message) => return self.tell(tuple, &message, None),
        };
        let signature = Some(signature);
        let method = request.method;
        let message = match (self.config.refusals.get(&method), self.config.alternate) {
            (Some((code, is_signed)), _) => {
                let signature = signature.filter(|_| *is_signed);
                return self.tell(tuple, &refusal(request, *code), signature.as_ref());
            }
            (None, Some(to)) if method == Method::ALLOCATE => {
                refusal(request, 300).with(Attribute::AlternateServer(to))
            }
            _ if !parsed.unknown.is_empty() => {
                refusal(request, 420).with(Attribute::UnknownAttributes(parsed.unknown.clone()))
            }
            _ => match self.serve(tuple, &user, request, signature.as_ref(), now) {
                Some(Ok(message)) => message,
                Some(Err(code)) => refusal(request, code),
                None => return,
            },
        };
        self.tell(tuple, &message, signature.as_ref());
    }

    /// Says who asks, or what to say instead (RFC 8489, section 9.2.4).
    fn authenticate(&mut self, parsed: &Parsed<'_>, now: Instant) -> Result<(String, Signature), Message> {
        let request = &parsed.message;
        let nonce = self.nonce(now);
        let said = request.find(|attribute| match attribute {
            Attribute::Nonce(nonce) => Some(nonce),
            _ => None,
        });
        let is_stale = said.is_some_and(|said| *said != nonce);
        self.counters.stale += u64::from(is_stale);
        let challenge = |code| {
            let message = refusal(request, code)
                .with(Attribute::Realm(self.config.realm.clone()))
                .with(Attribute::Nonce(nonce.clone()));
            match self.config.algorithms.is_empty() {
                true => message,
                false => message.with(Attribute::PasswordAlgorithms(self.offered())),
            }
        };
        let algorithm = parsed.algorithm().filter(|_| said.is_some()).ok_or_else(|| challenge(401))?;
        if is_stale {
            return Err(challenge(438));
        }
        let (user, password) = self.password(request, now).ok_or_else(|| challenge(401))?;
        let number = request.find(|attribute| match attribute {
            Attribute::PasswordAlgorithm(algorithm) => Some(algorithm.number),
            _ => None,
        });
        let returned = request.find(|attribute| match attribute {
            Attribute::PasswordAlgorithms(all) => Some(all.clone()),
            _ => None,
        });
        if !self.config.algorithms.is_empty() && returned != Some(self.offered()) {
            return Err(refusal(request, 400));
        }
        let key = match number {
            Some(2) => Key::long_term_sha256(&user, &self.config.realm, &password),
            _ => Key::long_term(&user, &self.config.realm, &password),
        };
        parsed.verify(&key).map_err(|_| challenge(401))?;
        Ok((user, (algorithm, key)))
    }

    fn offered(&self) -> Vec<PasswordAlgorithm> {
        let offer = |number: &u16| PasswordAlgorithm { number: *number, parameters: Vec::new() };
        self.config.algorithms.iter().map(offer).collect()
    }

    fn nonce(&mut self, now: Instant) -> String {
        let life = self.config.nonce_life;
        if let Some((nonce, since)) = &self.nonce
            && now < *since + life
        {
            return nonce.clone();
        }
        let random = data_encoding::HEXLOWER.encode(&self.seed.array::<8>());
        let features = u8::from(!self.config.algorithms.is_empty()) | u8::from(self.config.is_anonymous) << 1;
        let nonce = match features {
            0 => random,
            _ => format!("obMatJos2{}{random}", data_encoding::BASE64.encode(&[0, 0, features])),
        };
        self.nonce = Some((nonce.clone(), now));
        nonce
    }

    fn password(&self, request: &Message, now: Instant) -> Option<(String, String)> {
        use sha2::{Digest, Sha256};
        let hash_of = |user: &str| <[u8; 32]>::from(Sha256::digest(format!("{user}:{}", self.config.realm)));
        let user = request.find(|attribute| match attribute {
            Attribute::Username(user) => Some(user.clone()),
            Attribute::UserHash(hash) if self.config.is_anonymous => {
                self.config.users.keys().find(|user| hash_of(user) == *hash).cloned()
            }
            _ => None,
        })?;
        if let Some(password) = self.config.users.get(&user) {
            return Some((user, password.clone()));
        }
        let (secret, clock) = self.config.secret.as_ref()?;
        let (expiry, name) = user.split_once(':')?;
        let expiry = UnixTime::from_secs(expiry.parse().ok()?);
        let credentials = Credentials::time_limited(secret, name, expiry).ok()?;
        (clock.unix(now) < expiry).then(|| (user.clone(), credentials.password().to_owned()))
    }

    pub(super) fn is_lost(&mut self, method: Method) -> bool {
        match self.config.lost.get_mut(&method) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn tell(&mut self, tuple: Tuple, message: &Message, signature: Option<&Signature>) {
        if self.is_lost(message.method) {
            return;
        }
        if let Some(bytes) = encode(message, tuple, signature) {
            self.out.push_back(Deed::Tell(tuple, bytes.into()));
        }
    }
}

pub(super) fn encode(message: &Message, tuple: Tuple, signature: Option<&Signature>) -> Option<Vec<u8>> {
    let signature = signature.map(|(algorithm, key)| (*algorithm, key));
    message.encode_with(tuple.transport, Ending { signature, fingerprint: false }).ok()
}

pub(super) fn answer(request: &Message) -> Message {
    Message::new(Class::Success, request.method, request.transaction)
}

fn refusal(request: &Message, code: u16) -> Message {
    let reason = "refused".into();
    Message::new(Class::Error, request.method, request.transaction)
        .with(Attribute::ErrorCode { code, reason })
}

pub(super) fn peer_of(message: &Message) -> Option<SocketAddr> {
    message.find(|attribute| match attribute {
        Attribute::XorPeerAddress(peer) => Some(*peer),
        _ => None,
    })
}

fn data_of(message: &Message) -> Option<Bytes> {
    message.find(|attribute| match attribute {
        Attribute::Data(data) => Some(data.clone()),
        _ => None,
    })
}
