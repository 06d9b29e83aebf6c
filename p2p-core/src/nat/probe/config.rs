//! The configuration of a probe: the servers, and the limits of what is asked.

use std::net::IpAddr;
use std::time::Duration;

use crate::Family;
use crate::nat::PortRange;
use crate::stun::Transport;
use crate::stun::query::Server;

/// The most helpers that are asked.
pub const MOST_HELPERS: usize = 4;
/// The bounds of pauses. A pause of zero makes a driver spin, and a long one is of no use.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_secs(60);
/// The largest budget, in packets: more would serve nobody.
const MOST_PACKETS: u32 = 1_000;

/// The servers and the local ports of a probe, and its limits.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The address of ours to probe from.
    pub local: IpAddr,
    /// The local ports to use: some 600 in a row somewhere in this range. Default 40,000 … 59,999. Ports of our own
    /// listeners must not be among them.
    pub ports: PortRange,
    /// The servers, best first, each with its transport. Those of the other family are left out.
    pub servers: Vec<Server>,
    /// The number of names of more servers that are being resolved. Default 0. Each outcome is told by
    /// [`Probe::handle_resolved`](super::Probe::handle_resolved) or
    /// [`Probe::handle_unresolved`](super::Probe::handle_unresolved). Names are waited for only while no other server
    /// has answered.
    pub names: usize,
    /// The longest wait for names. Default 12 s, which is a little longer than a resolver takes to give up.
    pub names_within: Duration,
    /// The helpers that can dial a port of ours when asked to, by the addresses they dial from. A helper that is a
    /// server as well tells filtering by address from filtering by port. When there are none, the tests that need
    /// them are left out.
    pub helpers: Vec<IpAddr>,
    /// The number of servers that are asked at once. Default 6.
    pub at_once: usize,
    /// The pause between two questions of a run. Default 1 ms. It is so long that a router with several processors
    /// keeps their order, and so short that few others come between.
    pub gap: Duration,
    /// The wait for slower servers after two have answered. Default 100 ms.
    pub patience: Duration,
    /// The wait for the first answer before other servers are asked. Default 1 s.
    pub give_up: Duration,
    /// The most packets sent to any one server, over all ports and both transports. Default 40. A third goes over
    /// UDP, the rest over TCP, where a question takes five.
    pub most_packets: u32,
}

impl ProbeConfig {
    /// Returns the defaults, without any server.
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

    /// Returns the same configuration with every value in its bounds.
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

    /// Returns the most packets to any one server over this transport.
    pub(super) fn budget(&self, transport: Transport) -> u32 {
        let over_udp = self.most_packets / 3;
        match transport {
            Transport::Udp => over_udp,
            Transport::Tcp => self.most_packets - over_udp,
        }
    }
}
