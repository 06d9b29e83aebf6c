//! What stories need: a server whose acts are performed at once, and somebody who asks.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId, Transport};
use crate::turn::Relaying;
use crate::turn::allocation::ConnectionId;
use crate::turn::server::{Act, FiveTuple, NoRelayedAddress, Quota, Relayer, RelayerConfig, SharedSecret};
use crate::{Clock, Family, Seed, UnixTime};

const SECRET: &str = "a secret that is long enough";
/// When the stories begin, in seconds since the UNIX epoch.
pub(super) const BEGIN: u64 = 1_800_000_000;
pub(super) const RELAY: &str = "8.8.4.1";
/// An address of the server's own that it does not relay from.
const OWN: &str = "8.8.8.99";

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A server that relays from one IPv4 address, whose driver does at once what it is to do.
pub(super) struct Served {
    pub(super) relayer: Relayer,
    /// The last port given out.
    pub(super) port: u16,
    pub(super) now: Instant,
}

pub(super) fn config() -> RelayerConfig {
    RelayerConfig {
        secret: Some(SharedSecret::new(SECRET).unwrap()),
        relays: vec![RELAY.parse().unwrap()],
        quota: Quota { per_user: 3, most: 5, user_rate: Some(10_000), total_rate: None },
        ..RelayerConfig::new("realm")
    }
}

impl Served {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: RelayerConfig) -> Self {
        let clock = Clock::new(epoch(), UnixTime::from_secs(BEGIN));
        let relayer = Relayer::new(config, clock, Seed::from_u64(7), epoch());
        Self { relayer, port: 50_000, now: epoch() }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The deadline after all that is due was done.
    pub(super) fn sweep(&mut self) -> Option<Instant> {
        use crate::Machine;
        self.relayer.handle_timeout(self.now);
        drain(&mut self.relayer).wait.map(|deadline| deadline.at)
    }

    /// Does what can be done at once; returns the other acts.
    pub(super) fn perform(&mut self) -> Vec<Act> {
        let mut left = Vec::new();
        loop {
            let acts = drain(&mut self.relayer).acts;
            if acts.is_empty() {
                return left;
            }
            for act in acts {
                match act {
                    Act::Check { client, ips } => {
                        let own: Vec<IpAddr> =
                            ips.into_iter().filter(|ip| *ip == at(&format!("{OWN}:1")).ip()).collect();
                        self.relayer.handle_checked(client, &own, self.now);
                    }
                    Act::Bind { client, family, relaying, is_even } => {
                        let bound = self.bind(family, is_even);
                        self.relayer.handle_bound(client, family, relaying, bound, self.now);
                    }
                    other => left.push(other),
                }
            }
        }
    }

    /// Ports of one address, one after the other, and no IPv6.
    fn bind(&mut self, family: Family, is_even: bool) -> Result<SocketAddr, NoRelayedAddress> {
        match family {
            Family::V6 => Err(NoRelayedAddress::Family),
            Family::V4 if self.port == u16::MAX => Err(NoRelayedAddress::Exhausted),
            Family::V4 => {
                self.port += 1 + u16::from(is_even && self.port.is_multiple_of(2));
                Ok(SocketAddr::new(RELAY.parse().unwrap(), self.port))
            }
        }
    }

    pub(super) fn ask(&mut self, client: FiveTuple, bytes: &[u8]) -> Vec<Act> {
        self.relayer.handle_data(client, bytes, self.now).unwrap();
        self.perform()
    }

    /// Tells whether a Send indication of three bytes gets through.
    pub(super) fn goes_out(&mut self, client: FiveTuple, to: &str) -> bool {
        let message = Message::new(Class::Indication, Method::SEND, TransactionId::with_cookie([1; 12]));
        let message = message.with(peer(to)).with(Attribute::Data(vec![1, 2, 3].into()));
        let acts = self.ask(client, &message.encode(client.transport).unwrap());
        acts.iter().any(|act| matches!(act, Act::Relay { peer, .. } if *peer == at(to)))
    }

    /// The channel on which a datagram from `peer` goes to who has `relayed`, if it does.
    pub(super) fn comes_in(&mut self, relayed: SocketAddr, peer: &str) -> Option<Option<u16>> {
        self.relayer.route_back(relayed, at(peer), 3, self.now).map(|(_, channel)| channel)
    }
}

/// The bytes of the only act, which says something to a client.
pub(super) fn reply(acts: &[Act]) -> &[u8] {
    let [Act::Send { bytes, .. }] = acts else { panic!("{acts:?}") };
    bytes
}

/// The name of the connection of the only act, which dials.
pub(super) fn dialled(acts: &[Act]) -> ConnectionId {
    let [Act::Dial { connection, .. }] = acts else { panic!("{acts:?}") };
    *connection
}

/// Somebody with a credential, as he asks.
pub(super) struct TestClient {
    pub(super) client: FiveTuple,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) nonce: String,
    pub(super) dice: Seed,
    pub(super) sha256: bool,
}

impl TestClient {
    /// From this address, with a credential that outlasts the story.
    pub(super) fn new(name: &str, from: &str, transport: Transport) -> Self {
        let asker = Self {
            client: FiveTuple { transport, server: at("8.8.4.1:3478"), client: at(from) },
            username: String::new(),
            password: String::new(),
            nonce: String::new(),
            dice: Seed::from_u64(3),
            sha256: false,
        };
        asker.until(name, 1_000_000)
    }

    /// With a credential that is good for this many seconds from the beginning.
    pub(super) fn until(self, name: &str, seconds: u64) -> Self {
        let expires = Duration::from_secs(BEGIN + seconds);
        let (username, password) = SharedSecret::new(SECRET).unwrap().credential(name, expires);
        Self { username, password: password.to_string(), ..self }
    }

    pub(super) fn anna() -> Self {
        Self::new("anna", "192.0.2.1:4000", Transport::Udp)
    }

    pub(super) fn key(&self) -> Key {
        match self.sha256 {
            true => Key::long_term_sha256(&self.username, "realm", &self.password),
            false => Key::long_term(&self.username, "realm", &self.password),
        }
    }

    /// The same words, signed.
    pub(super) fn sign(&self, mut message: Message) -> Vec<u8> {
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

    pub(super) fn request(&mut self, method: Method, attributes: &[Attribute]) -> Message {
        let mut message = Message::new(Class::Request, method, TransactionId::new(&mut self.dice));
        message.attributes = attributes.to_vec();
        message
    }

    /// Asks; learns a new nonce when told to, and asks again.
    pub(super) fn react(
        &mut self,
        server: &mut Served,
        method: Method,
        attributes: &[Attribute],
    ) -> Vec<Act> {
        for _ in 0..2 {
            let message = self.request(method, attributes);
            let acts = server.ask(self.client, &self.sign(message));
            let said = acts.iter().find_map(|act| match act {
                Act::Send { client, bytes } if *client == self.client => Some(bytes),
                _ => None,
            });
            if let Some(bytes) = said {
                let parsed = Parsed::decode(bytes, self.client.transport).unwrap();
                let code = parsed.message.error_code().map(|(code, _)| code);
                if code == Some(438) {
                    self.learn(&parsed.message);
                    continue;
                }
                // Whatever is said to somebody who signed is signed as he signs.
                let is_challenge = matches!(code, Some(400 | 401));
                assert!(is_challenge || parsed.verify(&self.key()).is_ok(), "{:?}", parsed.message);
                assert!(parsed.is_fingerprinted);
            }
            return acts;
        }
        panic!("a new nonce is as stale as the old one");
    }

    pub(super) fn learn(&mut self, message: &Message) {
        let nonce = message.find(|attribute| match attribute {
            Attribute::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        self.nonce = nonce.expect("a nonce");
    }

    pub(super) fn says(&mut self, server: &mut Served, method: Method, attributes: &[Attribute]) -> Message {
        let mut acts = self.react(server, method, attributes);
        acts.retain(|act| matches!(act, Act::Send { .. }));
        Parsed::decode(reply(&acts), self.client.transport).unwrap().message
    }

    /// The error code, or 0 for a success.
    pub(super) fn code(&mut self, server: &mut Served, method: Method, attributes: &[Attribute]) -> u16 {
        self.says(server, method, attributes).error_code().map_or(0, |(code, _)| code)
    }

    /// Allocates, and returns the relayed address.
    pub(super) fn allocate(&mut self, server: &mut Served) -> SocketAddr {
        relayed(&self.says(server, Method::ALLOCATE, &[UDP])).expect("a relayed address")
    }
}

pub(super) const UDP: Attribute = Attribute::RequestedTransport(Relaying::Udp.protocol());
pub(super) const TCP: Attribute = Attribute::RequestedTransport(Relaying::Tcp.protocol());
pub(super) const END: Attribute = Attribute::Lifetime(0);

pub(super) fn peer(text: &str) -> Attribute {
    Attribute::XorPeerAddress(at(text))
}

pub(super) fn relayed(message: &Message) -> Option<SocketAddr> {
    message.find(|attribute| match attribute {
        Attribute::XorRelayedAddress(address) => Some(*address),
        _ => None,
    })
}

pub(super) fn lifetime(message: &Message) -> Option<u32> {
    message.find(|attribute| match attribute {
        Attribute::Lifetime(seconds) => Some(*seconds),
        _ => None,
    })
}
