//! Whom to ask, and how much.

use std::net::IpAddr;
use std::time::Duration;

use crate::Family;
use crate::nat::PortRange;
use crate::stun::Transport;
use crate::stun::query::Server;

/// Helpers asked at most.
pub const MOST_HELPERS: usize = 4;
/// Pauses are held in these bounds: a pause of nothing makes a driver spin, a long one is not worth having.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A budget above this is nobody's good.
const MOST_PACKETS: u32 = 1_000;

/// Whom to ask from where, and how much.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The address of ours to probe from.
    pub local: IpAddr,
    /// Local ports to use: some 600 in a row somewhere in here. Default 40,000 … 59,999. Never those of our own
    /// listeners.
    pub ports: PortRange,
    /// The servers, best first, each with its transport. Those of the other family are left out.
    pub servers: Vec<Server>,
    /// Names of more servers that are being resolved; each is told by
    /// [`Probe::handle_resolved`](super::Probe::handle_resolved) or
    /// [`Probe::handle_unresolved`](super::Probe::handle_unresolved). They are waited for only while no other
    /// server has answered. Default 0.
    pub names: usize,
    /// How long to wait for names at most. Default 12 s: a little longer than a resolver takes to give up.
    pub names_within: Duration,
    /// Who can dial a port of ours when asked to, by the address it dials from. One that is a server as well
    /// tells filtering by address from filtering by port. Empty: what needs them is left out.
    pub helpers: Vec<IpAddr>,
    /// How many servers to ask at once. Default 6.
    pub at_once: usize,
    /// The pause between two questions of a run: long enough that a router with several processors keeps their
    /// order, short enough that few others come between. Default 1 ms.
    pub gap: Duration,
    /// After two servers have answered, how long to wait for slower ones. Default 100 ms.
    pub patience: Duration,
    /// How long to wait for the first answer before other servers are asked. Default 1 s.
    pub give_up: Duration,
    /// Packets sent to any one server at most, all ports and both transports counted. Default 40: a
    /// third over UDP, the rest over TCP, where a question takes five.
    pub most_packets: u32,
}

impl ProbeConfig {
    /// The defaults, without any server.
    pub fn new(local: IpAddr) -> Self {
        Self {
            local,
            ports: PortRange { first: 40_000, last: 59_999 },
            servers: Vec::new(),
            names: 0,
            names_within: Duration::from_secs(12),
            helpers: Vec::new(),
            at_once: 6,
            gap: Duration::from_millis(1),
            patience: Duration::from_millis(100),
            give_up: Duration::from_secs(1),
            most_packets: 40,
        }
    }

    /// The same, with everything in its bounds.
    pub(super) fn into_bounds(mut self) -> Self {
        self.gap = self.gap.clamp(SHORTEST, Duration::from_secs(1));
        self.patience = self.patience.clamp(SHORTEST, LONGEST);
        self.give_up = self.give_up.clamp(SHORTEST, LONGEST);
        self.names_within = self.names_within.clamp(SHORTEST, LONGEST);
        self.most_packets = self.most_packets.min(MOST_PACKETS);
        let family = Family::of(self.local);
        self.helpers.retain(|helper| Family::of(*helper) == family);
        self.helpers.truncate(MOST_HELPERS);
        self
    }

    /// Packets to any one server over this transport at most.
    pub(super) fn budget(&self, transport: Transport) -> u32 {
        let over_udp = self.most_packets / 3;
        match transport {
            Transport::Udp => over_udp,
            Transport::Tcp => self.most_packets - over_udp,
        }
    }
}
