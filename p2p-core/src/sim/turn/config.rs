//! What a server is told, and how it differs from an honest one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr::IpPrefix;
use crate::rate::Rate;
use crate::stun::Method;
use crate::turn::Credentials;
use crate::turn::server::{Quota, RelayerConfig};
use crate::{Clock, UnixTime};

/// A server's place, what it is told, and its faults.
#[derive(Clone, Debug)]
pub struct FaultyServerConfig {
    /// The address it listens on, over UDP and TCP.
    pub address: SocketAddr,
    /// What the server itself is told.
    pub relayer: RelayerConfig,
    /// The clock that ends time-limited credentials. Default: 1970 at the beginning.
    pub clock: Clock,
    /// What it does wrong. Default: nothing.
    pub faults: TurnFaults,
}

/// What a server does wrong.
#[derive(Clone, Debug, Default)]
pub struct TurnFaults {
    /// Requests of this kind that are signed as they should be are answered with this code, signed or not.
    pub refusals: BTreeMap<Method, (u16, bool)>,
    /// So many answers to requests of this kind get lost.
    pub lost: BTreeMap<Method, u32>,
    /// Refreshes and permissions are refused when a time-limited credential has ended, as coturn does.
    pub is_strict: bool,
    /// It sends everybody there (300).
    pub alternate: Option<SocketAddr>,
    /// What it calls itself in its answers.
    pub software: Option<String>,
    /// What it claims to relay from in place of the truth.
    pub lie: Option<SocketAddr>,
}

impl FaultyServerConfig {
    /// An honest server that knows one user, relays from the IP address it listens on to anybody, and as much as it can.
    ///
    /// # Panics
    /// When no user can have that name and password.
    pub fn new(address: SocketAddr, user: &str, password: &str) -> Self {
        let everybody = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let relayer = RelayerConfig {
            users: vec![Credentials::new(user, password).expect("short words")],
            relays: vec![address.ip()],
            allow_peers: everybody.map(|ip| IpPrefix::new(ip, 0).expect("no bit is set")).to_vec(),
            quota: Quota { per_user: 1_000, user_rate: None, ..Quota::default() },
            rate: Rate { per_second: 1_000, burst: 1_000 },
            ..RelayerConfig::new("example.org")
        };
        let clock = Clock::new(crate::sim::epoch(), UnixTime(0));
        Self { address, relayer, clock, faults: TurnFaults::default() }
    }

    /// Changes the password of its first user.
    ///
    /// # Panics
    /// When there is none, or it cannot have that password.
    pub fn set_password(&mut self, password: &str) {
        let user = self.relayer.users.first_mut().expect("a user");
        *user = Credentials::new(user.username(), password).expect("a short password");
    }
}
