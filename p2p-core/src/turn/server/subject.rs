//! A [`Relayer`] for the laws and the fuzzer: several clients and strangers over UDP and TCP, peers, and a driver that is
//! slow at times.
//!
//! What clients were granted is noted from the answers they got, and every act is held against that: no packet goes to
//! anybody without permission or to where nothing is relayed to, no datagram in a stranger's name makes the server say
//! more than it may, and the tables stay as small as they are to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Act, FiveTuple, MOST_CONNECTIONS, NoRelayedAddress, Quota, Relayer, RelayerConfig, SharedSecret,
};
use crate::addr::is_globally_reachable;
use crate::sim::laws::{Dice, Subject};
use crate::stun::responder::most_unproven_answer;
use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId, Transport};
use crate::turn::allocation::ConnectionId;
use crate::turn::{Credentials, Relaying};
use crate::{Clock, Family, Seed, UnixTime};

/// A [`Relayer`], its clients, its peers and its driver.
#[derive(Debug)]
pub struct RelayerSubject {
    relayer: Relayer,
    clients: Vec<ModelClient>,
    next_port: u16,
    /// Acts that the driver has not performed yet.
    undone: Vec<Act>,
    /// Relayed addresses there are, and whose.
    relayed: BTreeMap<(Relaying, SocketAddr), FiveTuple>,
    dialled: BTreeSet<ConnectionId>,
    waiting: BTreeSet<ConnectionId>,
    joined: BTreeSet<ConnectionId>,
    /// The last message of a client, and how long its answer may be.
    last: Option<(FiveTuple, Vec<u8>, usize)>,
    /// What was handled last, and how often the machine was looked at since: what comes of it comes the first time.
    cause: Cause,
    turns: u32,
}

/// A client, and what it was granted by the answers it has got.
#[derive(Debug)]
struct ModelClient {
    tuple: FiveTuple,
    /// The name of a user, unless it is a stranger.
    user: Option<&'static str>,
    is_sha256: bool,
    nonce: String,
    /// Nonces given to its 5-tuple.
    nonces: BTreeSet<String>,
    /// Requests under way, by transaction.
    asked: BTreeMap<TransactionId, PendingRequest>,
    /// The allocating request that was answered.
    allocated: Option<TransactionId>,
    permitted: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<u16, SocketAddr>,
}

/// A request that may be answered.
#[derive(Clone, Debug)]
struct PendingRequest {
    method: Method,
    peers: Vec<SocketAddr>,
    channel: Option<u16>,
}

/// What the server is handling.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// Nothing from outside: time, or the driver.
    Inside,
    /// A message of a client; how long its answer may be.
    Client { tuple: FiveTuple, room: usize, answers: u8 },
    /// A client sends data to this peer.
    Data { tuple: FiveTuple, peer: Option<SocketAddr> },
    /// A peer sends data to, or dials, a relayed address.
    Peer { relaying: Relaying, relayed: SocketAddr, peer: SocketAddr },
}

impl Subject for RelayerSubject {
    type Machine = Relayer;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mut config = RelayerConfig::new(*seed.pick(&["p2p", "example.org"]).unwrap_or(&""));
        config.secret = SharedSecret::new(SECRET).ok();
        config.users = vec![Credentials::new("carl", PASSWORD).expect("short words")];
        config.takes_user_hash = seed.chance(0.3);
        config.relays = if seed.chance(0.5) { vec![RELAY] } else { vec![RELAY, RELAY_V6] };
        config.deny_peers = vec!["8.8.8.3".parse().expect("an address")];
        if seed.chance(0.5) {
            config.allow_peers = vec!["10.1.0.0/16".parse().expect("a network")];
        }
        config.quota = Quota {
            per_user: 2,
            most: MOST_ALLOCATIONS,
            user_rate: seed.chance(0.5).then_some(10_000),
            total_rate: seed.chance(0.5).then_some(15_000),
        };
        config.lifetime = seed.up_to(Duration::from_secs(700));
        config.nonce_lifetime = seed.up_to(Duration::from_secs(1_000));
        config.permission_lifetime = Duration::from_secs(seed.within(60..301));
        config.channel_lifetime = Duration::from_secs(seed.within(60..601));
        let clock = Clock::new(now, UnixTime::from_secs(BEGIN));
        let relayer = Relayer::new(config, clock, seed.fork("relayer"), now);
        let users = [Some("anna"), Some("anna"), Some("bert"), Some("carl"), Some("late"), None, None];
        let clients = users.into_iter().zip(0..).map(|(user, index)| ModelClient::new(user, index));
        Self {
            relayer,
            clients: clients.collect(),
            next_port: 50_000,
            undone: Vec::new(),
            relayed: BTreeMap::new(),
            dialled: BTreeSet::new(),
            waiting: BTreeSet::new(),
            joined: BTreeSet::new(),
            last: None,
            cause: Cause::Inside,
            turns: 0,
        }
    }

    fn machine(&mut self) -> &mut Relayer {
        self.turns += 1;
        &mut self.relayer
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        self.check_bounds();
        self.cause(Cause::Inside);
        // Mostly the driver does at once what it is to do.
        if !self.undone.is_empty() && dice.below(16) != 0 {
            return self.work(dice, now);
        }
        let client = dice.below(self.clients.len() as u64) as usize;
        match dice.below(32) {
            0..14 => self.ask(client, dice, now),
            14..17 => self.send(client, dice, now),
            17..19 => self.send_on_channel(client, dice, now),
            19..22 => self.peer_sends(dice, now),
            22 | 23 => self.peer_dials(dice, now),
            24 => self.dial_ends(dice, now),
            25 => self.noise(client, dice, now),
            26 => self.gone(client, now),
            27 => self.part(dice),
            28 => {
                let unix = UnixTime::from_secs(BEGIN).after(dice.up_to(Duration::from_secs(4_000)));
                self.relayer.handle_clock(Clock::new(now, unix));
            }
            29 => self.binding(client, dice, now),
            30 => self.repeat(now),
            _ => {
                // An answer that nobody waits for.
                let client = self.clients[client].tuple;
                self.relayer.handle_checked(client, &[], now);
            }
        }
    }

    fn on_act(&mut self, act: &Act, now: Instant) {
        match act {
            Act::Send { client, bytes } => self.check_sent(*client, bytes, now),
            Act::Relay { relayed, peer, .. } => self.check_relayed(*relayed, *peer, now),
            Act::Dial { relayed, peer, connection } => {
                assert!(self.may_reach(Relaying::Tcp, *peer), "{peer} is dialled");
                assert!(self.relayed.contains_key(&(Relaying::Tcp, *relayed)), "from nowhere");
                assert!(self.dialled.insert(*connection), "a number twice");
            }
            Act::Check { .. } | Act::Bind { .. } => self.undone.push(act.clone()),
            Act::Release { relaying, relayed } => {
                let owner = self.relayed.remove(&(*relaying, *relayed));
                let owner = owner.expect("only what is there is closed");
                let still = self.relayed.values().any(|other| *other == owner);
                if let Some(client) = self.client(owner).filter(|_| !still) {
                    client.forget();
                }
            }
            Act::Join { connection, .. } => {
                assert!(self.waiting.remove(connection), "only what waits is joined");
                self.joined.insert(*connection);
            }
            Act::Hang { connection } => {
                self.dialled.remove(connection);
                self.waiting.remove(connection);
                self.joined.remove(connection);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.cause(Cause::Inside);
        self.relayer.close(now);
    }
}

impl ModelClient {
    fn new(user: Option<&'static str>, index: u8) -> Self {
        let transport = if index % 2 == 0 { Transport::Udp } else { Transport::Tcp };
        let client = match index {
            2 => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 4_000)),
            _ => SocketAddr::from(([192, 0, 2, 1 + index / 3], 4_000 + u16::from(index))),
        };
        Self {
            tuple: FiveTuple { transport, server: SocketAddr::new(RELAY, 3_478), client },
            user,
            is_sha256: index % 3 == 0,
            nonce: String::new(),
            nonces: BTreeSet::new(),
            asked: BTreeMap::new(),
            allocated: None,
            permitted: BTreeMap::new(),
            channels: BTreeMap::new(),
        }
    }

    /// Its user name and its password.
    fn login(&self) -> (String, String) {
        match self.user {
            None => ("eve".to_owned(), "?".to_owned()),
            Some("carl") => ("carl".to_owned(), PASSWORD.to_owned()),
            Some(name) => {
                let expires = BEGIN + if name == "late" { 1_000 } else { 1_000_000 };
                let secret = SharedSecret::new(SECRET).expect("long enough");
                let (name, password) = secret.credential(name, Duration::from_secs(expires));
                (name, password.to_string())
            }
        }
    }

    fn key(&self, realm: &str) -> Key {
        let (username, password) = self.login();
        match self.is_sha256 {
            true => Key::long_term_sha256(&username, realm, &password),
            false => Key::long_term(&username, realm, &password),
        }
    }

    /// It has nothing any more.
    fn forget(&mut self) {
        self.allocated = None;
        self.permitted.clear();
        self.channels.clear();
    }
}

/// What clients, peers and the driver do.
impl RelayerSubject {
    /// A request, signed well, badly, or not at all.
    fn ask(&mut self, index: usize, dice: &mut Dice<'_>, now: Instant) {
        let methods = [
            Method::ALLOCATE,
            Method::REFRESH,
            Method::CREATE_PERMISSION,
            Method::CHANNEL_BIND,
            Method::CONNECT,
            Method::CONNECTION_BIND,
        ];
        let method = *dice.pick(&methods).unwrap_or(&Method::ALLOCATE);
        let id = TransactionId::with_cookie(dice.seed().array());
        let mut message = Message::new(Class::Request, method, id);
        let (mut peers, mut channel) = (Vec::new(), None);
        match method {
            Method::ALLOCATE => {
                let protocol = if dice.chance(0.7) { Relaying::Udp } else { Relaying::Tcp }.protocol();
                message = message.with(Attribute::RequestedTransport(protocol));
                if dice.chance(0.2) {
                    message = message.with(Attribute::AdditionalAddressFamily(Family::V6));
                } else if dice.chance(0.2) {
                    message = message.with(Attribute::RequestedAddressFamily(Family::V6));
                }
            }
            Method::REFRESH => {
                let lifetime = *dice.pick(&[600, 0, 3_600, 1, u32::MAX]).unwrap_or(&600);
                message = message.with(Attribute::Lifetime(lifetime));
            }
            Method::CREATE_PERMISSION => peers = (0..=dice.below(3)).map(|_| self.peer(dice)).collect(),
            Method::CHANNEL_BIND => {
                peers.push(self.peer(dice));
                let number = 0x3ffe + dice.below(8) as u16;
                channel = Some(number);
                message = message.with(Attribute::ChannelNumber(number));
            }
            Method::CONNECT => peers.push(self.peer(dice)),
            _ => {
                let all: Vec<_> = self.waiting.iter().chain(&self.dialled).copied().collect();
                let connection = dice.pick(&all).copied().unwrap_or(ConnectionId(7));
                message = message.with(Attribute::ConnectionId(connection.0));
            }
        }
        message.attributes.extend(peers.iter().map(|peer| Attribute::XorPeerAddress(*peer)));
        let other = dice.below(self.clients.len() as u64) as usize;
        let others = self.clients[other].nonce.clone();
        let realm = self.relayer.config().realm.clone();
        let client = &mut self.clients[index];
        let nonce = match dice.below(8) {
            0 => others,
            1 => "obMatJos2gAAAabcdefgh".to_owned(),
            _ => client.nonce.clone(),
        };
        let tuple = client.tuple;
        let is_proven = tuple.transport == Transport::Tcp || client.nonces.contains(&nonce);
        let mut key = client.key(&realm);
        if dice.below(8) == 0 {
            key = Key::short_term("wrong");
        }
        let is_signed = dice.below(8) != 0;
        if is_signed {
            message = message
                .with(Attribute::Username(client.login().0))
                .with(Attribute::Realm(realm))
                .with(Attribute::Nonce(nonce));
            if client.is_sha256 {
                let algorithm = |number| PasswordAlgorithm { number, parameters: Vec::new() };
                message = message
                    .with(Attribute::PasswordAlgorithms(vec![algorithm(2), algorithm(1)]))
                    .with(Attribute::PasswordAlgorithm(algorithm(2)));
            }
        }
        let algorithm = if client.is_sha256 { Algorithm::Sha256 } else { Algorithm::Sha1 };
        let signature = is_signed.then_some((algorithm, &key));
        let ending = Ending { signature, fingerprint: dice.chance(0.3) };
        let Ok(bytes) = message.encode_with(tuple.transport, ending) else { return };
        if client.asked.len() >= MOST_ASKED {
            client.asked.pop_first();
        }
        client.asked.insert(id, PendingRequest { method, peers, channel });
        let room = match is_proven && is_signed || tuple.transport == Transport::Tcp {
            true => usize::MAX,
            false => most_unproven_answer(tuple.client, bytes.len()),
        };
        self.say(tuple, bytes, room, now);
    }

    /// A message of a client, whose answer may have so many bytes.
    fn say(&mut self, tuple: FiveTuple, bytes: Vec<u8>, room: usize, now: Instant) {
        self.cause(Cause::Client { tuple, room, answers: 0 });
        // What is neither STUN nor ChannelData is an error, and no matter.
        let _ = self.relayer.handle_data(tuple, &bytes, now);
        self.last = Some((tuple, bytes, room));
    }

    /// The last message once more, as a client says it that has heard nothing.
    fn repeat(&mut self, now: Instant) {
        if let Some((tuple, bytes, room)) = self.last.take() {
            self.say(tuple, bytes, room, now);
        }
    }

    fn binding(&mut self, index: usize, dice: &mut Dice<'_>, now: Instant) {
        let tuple = self.clients[index].tuple;
        let id = TransactionId::with_cookie(dice.seed().array());
        let message = Message::new(Class::Request, Method::BINDING, id);
        let bytes = message.encode(tuple.transport).unwrap_or_default();
        let room = match tuple.transport {
            Transport::Tcp => usize::MAX,
            Transport::Udp => most_unproven_answer(tuple.client, bytes.len()),
        };
        self.say(tuple, bytes, room, now);
    }

    /// Bytes that are hardly anything, in the name of a client.
    fn noise(&mut self, index: usize, dice: &mut Dice<'_>, now: Instant) {
        let tuple = self.clients[index].tuple;
        let mut bytes = vec![0; dice.below(64) as usize];
        dice.fill(&mut bytes);
        let room = match tuple.transport {
            Transport::Tcp => usize::MAX,
            Transport::Udp => most_unproven_answer(tuple.client, bytes.len()),
        };
        self.say(tuple, bytes, room, now);
    }

    /// A Send indication.
    fn send(&mut self, index: usize, dice: &mut Dice<'_>, now: Instant) {
        let tuple = self.clients[index].tuple;
        let peer = self.peer(dice);
        let id = TransactionId::with_cookie(dice.array());
        let data = vec![7; dice.below(1_000) as usize];
        let message = Message::new(Class::Indication, Method::SEND, id)
            .with(Attribute::XorPeerAddress(peer))
            .with(Attribute::Data(data.into()));
        self.cause(Cause::Data { tuple, peer: Some(peer) });
        let _ = self.relayer.handle_data(tuple, &message.encode(tuple.transport).unwrap_or_default(), now);
    }

    fn send_on_channel(&mut self, index: usize, dice: &mut Dice<'_>, now: Instant) {
        let client = &self.clients[index];
        let tuple = client.tuple;
        let number = 0x3ffe + dice.below(8) as u16;
        let length = dice.below(256) as u8;
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend([0, length]);
        bytes.extend(vec![7; dice.below(300) as usize]);
        let peer = client.channels.get(&number).copied();
        self.cause(Cause::Data { tuple, peer });
        let _ = self.relayer.handle_data(tuple, &bytes, now);
    }

    fn peer_sends(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let all: Vec<_> = self.relayed.keys().copied().collect();
        let Some((relaying, relayed)) = dice.pick(&all).copied() else { return };
        let peer = self.peer(dice);
        self.cause(Cause::Peer { relaying, relayed, peer });
        let data = Bytes::from(vec![7; dice.below(3_000) as usize]);
        self.relayer.handle_peer_data(relayed, peer, data, now);
    }

    fn peer_dials(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let all: Vec<_> = self.relayed.keys().copied().collect();
        let Some((relaying, relayed)) = dice.pick(&all).copied() else { return };
        let peer = self.peer(dice);
        self.cause(Cause::Peer { relaying, relayed, peer });
        if let Some(connection) = self.relayer.handle_accepted(relayed, peer, now) {
            let owner = self.relayed[&(Relaying::Tcp, relayed)];
            assert!(self.is_permitted(owner, peer, now), "{peer} comes in without permission");
            assert!(self.waiting.insert(connection), "a number twice");
        }
    }

    fn dial_ends(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let all: Vec<_> = self.dialled.iter().copied().collect();
        let known = dice.pick(&all).copied();
        let is_connected = dice.chance(0.6);
        if let Some(connection) = known {
            self.dialled.remove(&connection);
            if is_connected {
                self.waiting.insert(connection);
            }
        }
        self.relayer.handle_dialled(known.unwrap_or(ConnectionId(7)), is_connected, now);
    }

    fn gone(&mut self, index: usize, now: Instant) {
        let tuple = self.clients[index].tuple;
        if tuple.transport == Transport::Tcp {
            self.relayer.handle_gone(tuple, now);
            self.clients[index].forget();
        }
    }

    fn part(&mut self, dice: &mut Dice<'_>) {
        let all: Vec<_> = self.joined.iter().chain(&self.waiting).copied().collect();
        if let Some(connection) = dice.pick(&all) {
            self.joined.remove(connection);
            self.waiting.remove(connection);
            self.relayer.handle_parted(*connection);
        }
    }

    /// The driver does one of the things it is to do.
    fn work(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let act = self.undone.swap_remove(dice.below(self.undone.len() as u64) as usize);
        self.perform(act, dice.below(16) != 0, now);
    }

    fn perform(&mut self, act: Act, is_lucky: bool, now: Instant) {
        match act {
            Act::Check { client, ips } => {
                let own: Vec<IpAddr> = ips.into_iter().filter(|ip| *ip == OWN).collect();
                self.relayer.handle_checked(client, &own, now);
            }
            Act::Bind { client, family, relaying, .. } => {
                let relays = &self.relayer.config().relays;
                let ip = relays.iter().find(|ip| Family::of(**ip) == family).copied();
                let bound = ip.ok_or(NoRelayedAddress::Family).and_then(|ip| match is_lucky {
                    true => Ok(SocketAddr::new(ip, self.next_port)),
                    false => Err(NoRelayedAddress::Exhausted),
                });
                self.next_port = self.next_port.checked_add(1).unwrap_or(50_000);
                if let Ok(address) = bound {
                    self.relayed.entry((relaying, address)).or_insert(client);
                }
                self.relayer.handle_bound(client, family, relaying, bound, now);
            }
            _ => {}
        }
    }

    /// Any of several addresses, of which some are nobody's business.
    fn peer(&self, dice: &mut Dice<'_>) -> SocketAddr {
        let all: Vec<_> = self.relayed.keys().map(|(_, address)| *address).collect();
        match dice.below(PEERS.len() as u64 + 3) as usize {
            index if index < PEERS.len() => SocketAddr::new(PEERS[index], 9),
            _ => dice.pick(&all).copied().unwrap_or(SocketAddr::new(RELAY, 22)),
        }
    }

    fn cause(&mut self, cause: Cause) {
        self.cause = cause;
        self.turns = 0;
    }
}

/// What must hold.
impl RelayerSubject {
    /// What the acts of now come of.
    fn cause_now(&self) -> Cause {
        if self.turns == 1 { self.cause } else { Cause::Inside }
    }

    fn client(&mut self, tuple: FiveTuple) -> Option<&mut ModelClient> {
        self.clients.iter_mut().find(|client| client.tuple == tuple)
    }

    fn is_permitted(&self, owner: FiveTuple, peer: SocketAddr, now: Instant) -> bool {
        let client = self.clients.iter().find(|client| client.tuple == owner);
        client.is_some_and(|client| client.permitted.get(&peer.ip()).is_some_and(|until| *until > now))
    }

    /// Tells whether anything may be sent there, whoever asks.
    fn may_reach(&self, relaying: Relaying, peer: SocketAddr) -> bool {
        let config = self.relayer.config();
        let ip = peer.ip();
        let is_denied = config.deny_peers.iter().any(|prefix| prefix.contains(ip));
        let is_allowed = config.allow_peers.iter().any(|prefix| prefix.contains(ip));
        let is_relayed = self.relayed.contains_key(&(relaying, peer));
        let is_public = is_globally_reachable(ip) && ip != OWN && !config.relays.contains(&ip);
        !is_denied && ip == ip.to_canonical() && (is_allowed || is_relayed || is_public)
    }

    fn check_relayed(&self, relayed: SocketAddr, peer: SocketAddr, now: Instant) {
        let owner = self.relayed.get(&(Relaying::Udp, relayed)).copied().expect("from nowhere");
        assert!(self.is_permitted(owner, peer, now), "{peer} gets data without permission");
        assert!(self.may_reach(Relaying::Udp, peer), "{peer} gets data");
        let Cause::Data { tuple, peer: Some(to) } = self.cause_now() else {
            panic!("nobody has sent anything")
        };
        assert_eq!((tuple, to), (owner, peer), "to whom it was sent, by whose it is");
    }

    /// An answer, an indication or data for a client.
    fn check_sent(&mut self, client: FiveTuple, bytes: &Bytes, now: Instant) {
        if let Cause::Peer { relaying, relayed, peer } = self.cause_now() {
            let owner = self.relayed.get(&(relaying, relayed)).copied();
            assert_eq!(owner, Some(client), "for whom it is");
            assert!(self.is_permitted(client, peer, now), "{peer} comes in without permission");
            return;
        }
        let parsed = Parsed::decode(bytes, client.transport).expect("our own message");
        assert!(matches!(parsed.message.class, Class::Success | Class::Error), "{:?}", parsed.message);
        if let Cause::Client { tuple, room, answers } = self.cause_now() {
            // What ends by itself is told as well.
            assert!(tuple == client || self.client(client).is_some_and(|client| client.allocated.is_some()));
            if tuple == client {
                assert!(bytes.len() <= room, "{} bytes, and {room} are allowed", bytes.len());
                assert!(answers == 0 || room == usize::MAX, "one question, several answers");
                self.cause = Cause::Client { tuple, room, answers: answers + 1 };
            }
        }
        let realm = self.relayer.config().realm.clone();
        let lifetimes = self.relayer.config().clone();
        let asked = self.client(client).expect("nobody else is spoken to");
        let nonce = parsed.message.find(|attribute| match attribute {
            Attribute::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        if let Some(nonce) = nonce {
            asked.nonces.insert(nonce.clone());
            asked.nonce = nonce;
        }
        let Message { class, method, transaction, .. } = parsed.message;
        if class != Class::Success || method == Method::BINDING {
            return;
        }
        assert!(parsed.verify(&asked.key(&realm)).is_ok(), "a success is signed");
        let Some(request) = asked.asked.get(&transaction).cloned() else { return };
        assert_eq!(request.method, method);
        let until = now + lifetimes.permission_lifetime;
        match method {
            Method::ALLOCATE if asked.allocated != Some(transaction) => {
                asked.forget();
                asked.allocated = Some(transaction);
            }
            Method::CREATE_PERMISSION | Method::CHANNEL_BIND => {
                for peer in &request.peers {
                    let known = asked.permitted.entry(peer.ip()).or_insert(until);
                    *known = until.max(*known);
                }
                if let (Some(number), Some(peer)) = (request.channel, request.peers.first()) {
                    asked.channels.insert(number, *peer);
                }
            }
            _ => {}
        }
    }

    fn check_bounds(&self) {
        let relayer = &self.relayer;
        assert!(relayer.held() <= MOST_ALLOCATIONS && relayer.allocations() <= MOST_ALLOCATIONS);
        assert!(relayer.connections.len() <= MOST_ALLOCATIONS * MOST_CONNECTIONS);
        let records = relayer.allocations.values();
        let held: usize = records.clone().map(|record| record.addresses.len()).sum();
        assert_eq!(relayer.relayed.len(), held, "the tables agree");
        let connections = records.flat_map(|record| &record.addresses);
        let connections: usize = connections.map(|address| address.connections.len()).sum();
        assert_eq!(relayer.connections.len(), connections, "the tables agree");
    }
}

const SECRET: &str = "a secret that is long enough";
const PASSWORD: &str = "a word";
/// When it begins, in seconds since the UNIX epoch.
const BEGIN: u64 = 1_800_000_000;
const MOST_ALLOCATIONS: usize = 5;
/// Requests of a client that are remembered.
const MOST_ASKED: usize = 8;

const RELAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 4, 1));
const RELAY_V6: IpAddr = v6([0x2606, 0x4700, 0, 0, 0, 0, 0, 1]);
/// An address of this machine that is not relayed from.
const OWN: IpAddr = v4([8, 8, 8, 99]);

/// Addresses of peers: on the Internet, our own, denied, allowed at times, forbidden.
const PEERS: [IpAddr; 18] = [
    v4([8, 8, 8, 1]),
    v4([8, 8, 8, 2]),
    v4([8, 8, 8, 3]),
    v6([0x2606, 0x4700, 0, 0, 0, 0, 0, 2]),
    OWN,
    RELAY,
    v4([10, 1, 0, 1]),
    v4([10, 0, 0, 1]),
    v4([127, 0, 0, 1]),
    v4([169, 254, 169, 254]),
    v4([168, 63, 129, 16]),
    v4([224, 0, 0, 1]),
    v4([203, 0, 113, 5]),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0x0a00, 1]),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0x0808, 0x0808]),
    v6([0, 0, 0, 0, 0, 0xffff, 0x0808, 0x0801]),
    v6([0, 0, 0, 0, 0, 0, 0, 1]),
];

const fn v4(octets: [u8; 4]) -> IpAddr {
    let [a, b, c, d] = octets;
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

const fn v6(groups: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = groups;
    IpAddr::V6(std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h))
}
