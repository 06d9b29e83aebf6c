//! What a server is told.

use std::net::IpAddr;
use std::time::Duration;

use super::credential::SharedSecret;
use super::quota::Quota;
use crate::addr::IpPrefix;
use crate::rate::Rate;
use crate::turn::Credentials;

/// Password algorithms by their numbers in the registry (RFC 8489, section 18.5).
pub(super) const MD5: u16 = 1;
pub(super) const SHA256: u16 = 2;

/// The longest realm, in bytes. One that is longer does not fit into the challenge of the smallest request that clients
/// send, 28 bytes over UDP and IPv4, which must not be more than one and a half times as large.
pub const MOST_REALM: usize = 12;

/// For whom a server relays, to whom, how much and how long.
#[derive(Clone, Debug)]
pub struct RelayerConfig {
    /// The name of the realm: 1 … [`MOST_REALM`] bytes.
    pub realm: String,
    /// Makes and recognizes time-limited credentials. Default: none, only `users` may come.
    pub secret: Option<SharedSecret>,
    /// Users whose credentials do not end. Default: none.
    pub users: Vec<Credentials>,
    /// Password algorithms offered, best first. Default SHA-256 and MD5. None: MD5, as RFC 5389 has it.
    pub algorithms: Vec<u16>,
    /// Tells whether those of `users` may hide their name behind its hash (USERHASH). Default no: a time-limited name cannot
    /// be found from its hash.
    pub takes_user_hash: bool,
    /// IP addresses relayed from, one of each family at most.
    pub relays: Vec<IpAddr>,
    /// Peers that may be relayed to although they are not on the Internet. Default: none.
    pub allow_peers: Vec<IpPrefix>,
    /// Peers that are never relayed to. Default: none.
    pub deny_peers: Vec<IpPrefix>,
    /// How many relayed addresses there are, and how many bytes a second.
    pub quota: Quota,
    /// Time an allocation stands unless more is asked for, and at least. Default 600 s (RFC 8656, section 3.2).
    pub lifetime: Duration,
    /// Time one stands at most, unrefreshed. Default 1 h.
    pub most_lifetime: Duration,
    /// Time a permission lasts. Default 300 s (RFC 8656, section 9).
    pub permission_lifetime: Duration,
    /// Time a channel lasts. Default 600 s (RFC 8656, section 12).
    pub channel_lifetime: Duration,
    /// Time a nonce is good: so long may somebody who recorded a request send it again. Default 1 h.
    pub nonce_lifetime: Duration,
    /// Requests heard from one address and port that has not shown a nonce of ours. From one that has, ten times as
    /// many. Default 20 a second and 60 at once.
    pub rate: Rate,
}

impl RelayerConfig {
    /// Returns the defaults, with no user yet.
    pub fn new(realm: impl Into<String>) -> Self {
        Self {
            realm: realm.into(),
            secret: None,
            users: Vec::new(),
            algorithms: vec![SHA256, MD5],
            takes_user_hash: false,
            relays: Vec::new(),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            quota: Quota::default(),
            lifetime: Duration::from_secs(600),
            most_lifetime: Duration::from_secs(3_600),
            permission_lifetime: Duration::from_secs(300),
            channel_lifetime: Duration::from_secs(600),
            nonce_lifetime: Duration::from_secs(3_600),
            rate: Rate { per_second: 20, burst: 60 },
        }
    }

    /// The time that is granted of a wish in seconds (RFC 8656, section 7.2).
    pub(super) fn granted(&self, wished: Option<u32>) -> Duration {
        let wished = wished.map_or(self.lifetime, |seconds| Duration::from_secs(seconds.into()));
        wished.min(self.most_lifetime).max(self.lifetime)
    }
}
