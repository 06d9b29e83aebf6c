//! One transport of a probe: its phase, its ports, and its timetable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::plan::{Ports, Step};
use crate::nat::observe::Purpose;
use crate::stun::{TransactionConfig, Transport};
use crate::{Deadline, Local};

/// The phase that a lane is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All servers are asked from one local port, and slow ones are waited for until `until`.
    First { until: Instant },
    /// Servers that answered are asked the rest.
    Rest,
    /// Every question has been asked.
    Over,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) transport: Transport,
    pub(super) phase: Phase,
    pub(super) ports: Ports,
    /// The local port of the mapping test.
    pub(super) first: Local,
    /// The number of times the port had to be another one, because it was in use.
    pub(super) retries: u8,
    /// The shortest round trip seen.
    pub(super) rtt: Option<Duration>,
    pub(super) is_announced: bool,
    pub(super) queue: VecDeque<(Instant, Step)>,
    /// True when the run of neighbouring ports was asked from once more.
    pub(super) is_repeated: bool,
}

/// The shortest round trip that waits are computed from, as hosts and servers take time too.
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

    /// Returns the number of sendings over UDP and the waits between them. Before the round trip is known the waits
    /// are 150, 300 and 450 ms. RFC 8489, section 6.2.1, asks for 500 ms and more. But the network must be known
    /// sooner than that, and a probe is three packets, not a stream.
    pub(super) fn patience(&self, purpose: Purpose) -> TransactionConfig {
        let (rto, sends, last_wait) = match (self.phase, purpose) {
            (Phase::First { .. }, _) => (Duration::from_millis(150), 3, 3),
            // Silence is the result here, so it must not come from a lost packet.
            (_, Purpose::Filtering) => (self.rtt().mul_f64(1.25), 2, 2),
            _ => (self.rtt().mul_f64(1.75), 2, 1),
        };
        TransactionConfig { rto, sends, last_wait, tcp_wait: rto * (sends + last_wait) }
    }

    /// Returns the time that a server which dials back is to wait: twice what a SYN and its answer take.
    pub(super) fn dial_patience(&self) -> Duration {
        (self.rtt() * 2).clamp(Duration::from_millis(100), Duration::from_secs(3))
    }

    /// Returns the longest wait for a TCP connection.
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
