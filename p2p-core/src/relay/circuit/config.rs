//! What a circuit is told at birth.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::attempt::{Role, Trust};
use crate::candidate::{HostView, is_on_link};
use crate::text::UnknownName;
use crate::turn::Server;
use crate::{Family, Reach};

/// The rule by which connections are relayed as such (RFC 6062), in preference to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connections {
    /// Datagrams only.
    Never,
    /// Unless our server calls itself coturn: that stops reading a relayed connection for good when it had to wait for
    /// the other end of it (measured with 4.6.1: one of ten transfers in both directions at once hangs).
    #[default]
    Careful,
    /// Wherever a server does.
    Always,
}

impl Connections {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Never, Self::Careful, Self::Always];

    /// Whether a server of this name may be asked to.
    pub(super) fn trusts(self, software: Option<&str>) -> bool {
        let is_coturn = software.is_some_and(|name| name.to_ascii_lowercase().starts_with("coturn"));
        match self {
            Self::Never => false,
            Self::Careful => !is_coturn,
            Self::Always => true,
        }
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Never => "never",
            Self::Careful => "careful",
            Self::Always => "always",
        })
    }
}

impl FromStr for Connections {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        UnknownName::find(text, &Self::ALL, "connections are relayed")
    }
}

/// How a [`Circuit`](super::Circuit) is made.
#[derive(Clone, Debug)]
pub struct CircuitConfig {
    /// Our part in the attempt.
    pub role: Role,
    /// The trust in the peer. A caller's user has named it.
    pub trust: Trust,
    /// Our TURN servers, best first. None: only the peer's are used.
    pub servers: Vec<Server>,
    /// Families of relayed addresses, and of sockets of our own.
    pub families: Vec<Family>,
    /// Where we are: decides, with `role`, which addresses are worth a datagram.
    pub ours: HostView,
    /// Whether the peer proves to be on this machine.
    pub same_machine: bool,
    /// Where the peer's packets may come from, relays aside: they are let through. 16 at most.
    pub peer: Vec<IpAddr>,
    /// The rule by which connections are relayed as such (RFC 6062), in preference to datagrams.
    pub connections: Connections,
    /// When to give up, if nothing has come through. Default 15 s.
    pub within: Duration,
}

impl CircuitConfig {
    /// The defaults.
    pub fn new(role: Role, trust: Trust, servers: Vec<Server>) -> Self {
        Self {
            role,
            trust,
            servers,
            families: vec![Family::V4, Family::V6],
            ours: HostView::default(),
            same_machine: false,
            peer: Vec::new(),
            connections: Connections::default(),
            within: Duration::from_secs(15),
        }
    }

    /// Whether the peer may send us wherever it likes.
    pub(super) fn trusts(&self) -> bool {
        self.role == Role::Caller || self.trust == Trust::Known
    }

    /// Whether an address that the peer says it was lent may be sent to. Whoever asks us to call must not make us
    /// knock on the doors of our neighbours, nor on those of strangers inside our site.
    pub(super) fn may_reach(&self, lent: SocketAddr) -> bool {
        if !self.families.contains(&Family::of(lent.ip())) {
            return false;
        }
        let reach = Reach::of(lent.ip());
        match self.role {
            Role::Caller => reach != Reach::Nowhere && (reach != Reach::Loopback || self.same_machine),
            Role::Answerer => match reach {
                Reach::Nowhere => false,
                Reach::Loopback => self.same_machine,
                Reach::Global => true,
                _ => self.same_machine || self.ours.addresses.iter().any(|our| is_on_link(our, lent.ip())),
            },
        }
    }
}
