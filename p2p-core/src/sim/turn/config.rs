//! How a server behaves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Clock;
use crate::stun::Method;

/// How a server behaves. Everything may be changed while it runs.
#[derive(Clone, Debug)]
pub struct TurnServerConfig {
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
    /// What it relays from: one address for each family it has.
    pub relays: Vec<IpAddr>,
    /// Its realm.
    pub realm: String,
    /// Passwords by user.
    pub users: BTreeMap<String, String>,
    /// The secret of time-limited credentials, and the clock that ends them.
    pub secret: Option<(Vec<u8>, Clock)>,
    /// Password algorithms it offers (RFC 8489); none means RFC 5389 only.
    pub algorithms: Vec<u16>,
    /// Whether it takes USERHASH.
    pub is_anonymous: bool,
    /// How long a nonce is good.
    pub nonce_life: Duration,
    /// How long an allocation stands. Default 600 s.
    pub lifetime: Duration,
    /// How long a permission lasts. Default 300 s.
    pub permission_life: Duration,
    /// How long a channel lasts. Default 600 s.
    pub channel_life: Duration,
    /// Allocations at a time; more are answered with 486.
    pub quota: usize,
    /// Where it sends everybody (300).
    pub alternate: Option<SocketAddr>,
    /// Peers it lets nobody reach (403).
    pub forbidden: Vec<IpAddr>,
    /// Requests of this kind are answered with this code, signed or not.
    pub refusals: BTreeMap<Method, (u16, bool)>,
    /// Answers to requests of this kind that get lost.
    pub lost: BTreeMap<Method, u32>,
    /// What it calls itself in its answers.
    pub software: Option<String>,
    /// What it claims to relay from in place of the truth.
    pub lie: Option<SocketAddr>,
}

impl TurnServerConfig {
    /// A server that knows one user, relaying from the address it listens at.
    pub fn new(address: SocketAddr, user: &str, password: &str) -> Self {
        Self {
            address,
            relays: vec![address.ip()],
            realm: "example.org".into(),
            users: BTreeMap::from([(user.to_owned(), password.to_owned())]),
            secret: None,
            algorithms: Vec::new(),
            is_anonymous: false,
            nonce_life: Duration::from_secs(3_600),
            lifetime: Duration::from_secs(600),
            permission_life: Duration::from_secs(300),
            channel_life: Duration::from_secs(600),
            quota: 1_000,
            alternate: None,
            forbidden: Vec::new(),
            refusals: BTreeMap::new(),
            lost: BTreeMap::new(),
            software: None,
            lie: None,
        }
    }
}
