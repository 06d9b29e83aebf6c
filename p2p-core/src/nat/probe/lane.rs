//! One transport: what is due when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::plan::{Ports, Step};
use crate::nat::observe::Purpose;
use crate::stun::{TransactionConfig, Transport};
use crate::{Deadline, Local};

/// How far a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All servers are asked from one local port; the slow ones are waited for until then.
    First { until: Instant },
    /// Those that answered are asked the rest.
    Rest,
    /// All is asked.
    Over,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) transport: Transport,
    pub(super) phase: Phase,
    pub(super) ports: Ports,
    /// The local port of the mapping test.
    pub(super) first: Local,
    /// How often it had to be another one, because it was in use.
    pub(super) retries: u8,
    /// The shortest round trip seen.
    pub(super) rtt: Option<Duration>,
    pub(super) is_announced: bool,
    pub(super) queue: VecDeque<(Instant, Step)>,
    /// The run of neighbouring ports was asked from once more.
    pub(super) is_repeated: bool,
}

/// Round trips are taken for at least this long when something is waited for: hosts and servers take time, too.
const SHORTEST: Duration = Duration::from_millis(20);

impl Lane {
    pub(super) fn new(transport: Transport, mut ports: Ports, until: Instant) -> Self {
        let first = ports.first();
        Self {
            transport,
            phase: Phase::First { until },
            ports,
            first,
            retries: 0,
            rtt: None,
            is_announced: false,
            queue: VecDeque::new(),
            is_repeated: false,
        }
    }

    pub(super) fn is_first(&self) -> bool {
        matches!(self.phase, Phase::First { .. })
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(Duration::from_millis(200)).clamp(SHORTEST, Duration::from_secs(2))
    }

    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |known| known.min(rtt)));
    }

    /// How often to ask over UDP, and how long to wait. Before the round trip is known 150, 300, 450 ms: RFC
    /// 8489, section 6.2.1, asks for 500 ms and more, but the network must be known sooner than that, and a
    /// probe is three packets, not a stream.
    pub(super) fn patience(&self, purpose: Purpose) -> TransactionConfig {
        let (rto, sends, last_wait) = match (self.phase, purpose) {
            (Phase::First { .. }, _) => (Duration::from_millis(150), 3, 3),
            // Silence is the answer here, so it must not be a lost packet's.
            (_, Purpose::Filtering) => (self.rtt().mul_f64(1.25), 2, 2),
            _ => (self.rtt().mul_f64(1.75), 2, 1),
        };
        TransactionConfig { rto, sends, last_wait, tcp_wait: rto * (sends + last_wait) }
    }

    /// How long a server that dials back is to wait: twice as long as a SYN and its answer take.
    pub(super) fn dial_patience(&self) -> Duration {
        (self.rtt() * 2).clamp(Duration::from_millis(100), Duration::from_secs(3))
    }

    /// How long to wait for a TCP connection.
    pub(super) fn connect_patience(&self, give_up: Duration) -> Duration {
        match self.phase {
            Phase::First { .. } => give_up,
            Phase::Rest | Phase::Over => self.rtt() * 4,
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let next = self.queue.front().map(|(at, _)| Deadline::new(*at, "next question to a STUN server"));
        let until = match self.phase {
            Phase::First { until } => Some(Deadline::new(until, "slow STUN servers")),
            Phase::Rest | Phase::Over => None,
        };
        Deadline::earliest([next, until])
    }
}
