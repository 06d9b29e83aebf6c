//! What stories need: the tables without sockets, time as a number, and somebody who asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId, Transport};
use crate::{Family, Seed};

use super::Counters;
use super::allocation::Kind;
use super::auth::Gate;
use super::core::{At, Client, Core, NoPort, Ports, Reaction, Terms};
use super::credential::{SharedSecret, Users};
use super::ledger::{Ledger, Quota};
use super::nonce::Nonces;
use super::peers::Policy;

const SECRET: &str = "a secret that is long enough";
/// When the stories begin, in seconds since the UNIX epoch.
pub const BEGIN: u64 = 1_800_000_000;
const RELAY: &str = "203.0.113.1";

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Ports of 203.0.113.1, one after the other, and no IPv6.
pub struct Counter(pub u16);

impl Ports<u16> for Counter {
    fn bind(&mut self, family: Family, _: Kind, even: bool) -> Result<(SocketAddr, u16), NoPort> {
        match family {
            Family::V6 => Err(NoPort::Family),
            Family::V4 if self.0 == u16::MAX => Err(NoPort::Exhausted),
            Family::V4 => {
                self.0 += 1 + u16::from(even && self.0.is_multiple_of(2));
                Ok((SocketAddr::new(RELAY.parse().unwrap(), self.0), self.0))
            }
        }
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        ip == at("198.51.100.99:1").ip()
    }
}

pub struct Server {
    pub core: Core<u16, &'static str>,
    pub ports: Counter,
    start: Instant,
    pub now: Instant,
}

impl Server {
    pub fn new() -> Self {
        let start = crate::sim::epoch();
        let users = Users::new(Some(SharedSecret::new(SECRET).unwrap()), Vec::new());
        let nonces = Nonces::new([1; 32], Duration::from_secs(3_600));
        let quota = Quota { per_user: 3, most: 5, user_rate: Some(10_000), total_rate: None };
        let core = Core {
            gate: Gate::new("realm".into(), users, nonces),
            policy: Policy { allow: vec![], deny: vec![], relays: vec![RELAY.parse().unwrap()] },
            ledger: Ledger::new(quota, start),
            terms: Terms { lifetime: Duration::from_secs(600), most_lifetime: Duration::from_secs(3_600) },
            dice: Seed::from_u64(7),
            counters: Counters::default(),
            sessions: Default::default(),
            relayed: Default::default(),
            owners: Default::default(),
        };
        Self { core, ports: Counter(50_000), start, now: start }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    pub fn ask(&mut self, client: Client, bytes: &[u8]) -> Reaction<u16, &'static str> {
        let parsed = Parsed::decode(bytes, client.transport).unwrap();
        let unix = BEGIN + self.now.duration_since(self.start).as_secs();
        self.core.handle_request(client, &parsed, At { now: self.now, unix }, &mut self.ports)
    }
}

/// Somebody with a credential, as he asks.
pub struct Asker {
    pub client: Client,
    pub username: String,
    pub password: String,
    pub nonce: String,
    pub dice: Seed,
    pub sha256: bool,
}

impl Asker {
    /// From this address, with a credential that outlasts the story.
    pub fn new(name: &str, from: &str, transport: Transport) -> Self {
        let asker = Self {
            client: Client { transport, server: at("203.0.113.1:3478"), remote: at(from) },
            username: String::new(),
            password: String::new(),
            nonce: String::new(),
            dice: Seed::from_u64(3),
            sha256: false,
        };
        asker.until(name, 1_000_000)
    }

    /// With a credential that is good for this many seconds from the beginning.
    pub fn until(self, name: &str, seconds: u64) -> Self {
        let expires = Duration::from_secs(BEGIN + seconds);
        let (username, password) = SharedSecret::new(SECRET).unwrap().credential(name, expires);
        Self { username, password: password.to_string(), ..self }
    }

    pub fn anna() -> Self {
        Self::new("anna", "192.0.2.1:4000", Transport::Udp)
    }

    pub fn key(&self) -> Key {
        match self.sha256 {
            true => Key::long_term_sha256(&self.username, "realm", &self.password),
            false => Key::long_term(&self.username, "realm", &self.password),
        }
    }

    /// The same words, signed.
    pub fn sign(&self, mut message: Message) -> Vec<u8> {
        let said = [
            Attribute::Username(self.username.clone()),
            Attribute::Realm("realm".into()),
            Attribute::Nonce(self.nonce.clone()),
        ];
        message.attributes.extend(said);
        if self.sha256 {
            let algorithm = |number| PasswordAlgorithm { number, parameters: vec![] };
            message.attributes.push(Attribute::PasswordAlgorithms(vec![algorithm(2), algorithm(1)]));
            message.attributes.push(Attribute::PasswordAlgorithm(algorithm(2)));
        }
        let algorithm = if self.sha256 { Algorithm::Sha256 } else { Algorithm::Sha1 };
        let ending = Ending { signature: Some((algorithm, &self.key())), fingerprint: true };
        message.encode_with(self.client.transport, ending).unwrap()
    }

    pub fn request(&mut self, method: Method, attributes: &[Attribute]) -> Message {
        let mut message = Message::new(Class::Request, method, TransactionId::new(&mut self.dice));
        message.attributes = attributes.to_vec();
        message
    }

    /// Asks; learns a new nonce when told to, and asks again.
    pub fn react(
        &mut self,
        server: &mut Server,
        method: Method,
        attributes: &[Attribute],
    ) -> Reaction<u16, &'static str> {
        for _ in 0..2 {
            let message = self.request(method, attributes);
            let reaction = server.ask(self.client, &self.sign(message));
            if let Reaction::Reply(bytes) = &reaction {
                let parsed = Parsed::decode(bytes, self.client.transport).unwrap();
                if parsed.message.error_code().is_some_and(|(code, _)| code == 438) {
                    self.learn(&parsed.message);
                    continue;
                }
                // Whatever is said to somebody who signed is signed as he signs.
                let challenged =
                    parsed.message.error_code().is_some_and(|(code, _)| code == 401 || code == 400);
                assert!(challenged || parsed.verify(&self.key()).is_ok(), "{:?}", parsed.message);
                assert!(parsed.is_fingerprinted);
            }
            return reaction;
        }
        panic!("a new nonce is as stale as the old one");
    }

    pub fn learn(&mut self, message: &Message) {
        let nonce = message.find(|attribute| match attribute {
            Attribute::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        self.nonce = nonce.expect("a nonce");
    }

    pub fn says(&mut self, server: &mut Server, method: Method, attributes: &[Attribute]) -> Message {
        let reaction = self.react(server, method, attributes);
        let Reaction::Reply(bytes) = reaction else { panic!("{reaction:?}") };
        Parsed::decode(&bytes, self.client.transport).unwrap().message
    }

    /// The error code, or 0 for a success.
    pub fn code(&mut self, server: &mut Server, method: Method, attributes: &[Attribute]) -> u16 {
        self.says(server, method, attributes).error_code().map_or(0, |(code, _)| code)
    }

    /// Allocates, and returns the relayed address.
    pub fn allocate(&mut self, server: &mut Server) -> SocketAddr {
        relayed(&self.says(server, Method::ALLOCATE, &[UDP])).expect("a relayed address")
    }
}

pub const UDP: Attribute = Attribute::RequestedTransport(17);
pub const TCP: Attribute = Attribute::RequestedTransport(6);
pub const END: Attribute = Attribute::Lifetime(0);

pub fn peer(text: &str) -> Attribute {
    Attribute::XorPeerAddress(at(text))
}

pub fn relayed(message: &Message) -> Option<SocketAddr> {
    message.find(|attribute| match attribute {
        Attribute::XorRelayedAddress(address) => Some(*address),
        _ => None,
    })
}

pub fn lifetime(message: &Message) -> Option<u32> {
    message.find(|attribute| match attribute {
        Attribute::Lifetime(seconds) => Some(*seconds),
        _ => None,
    })
}

fn send(to: &str) -> Vec<u8> {
    let message = Message::new(Class::Indication, Method::SEND, TransactionId::with_cookie([1; 12]));
    message.with(peer(to)).with(Attribute::Data(vec![1, 2, 3].into())).encode(Transport::Udp).unwrap()
}

/// Whether a Send indication of three bytes gets through.
pub fn goes_out(server: &mut Server, client: Client, to: &str) -> bool {
    let bytes = send(to);
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    server.core.handle_send(client, &parsed, server.now).is_some()
}
