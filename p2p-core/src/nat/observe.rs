//! The observations that every verdict about a NAT rests on.
//!
//! An [`Observation`] is one question to one server with its answer, if one came. It keeps its place on the wire,
//! because a NAT that counts is only understood by the order of mappings. Unanswered questions stay in, because they
//! have moved the counter too.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::stun::Transport;
use crate::stun::dial_back::SynOutcome;
use crate::{Local, Mapped};

/// The most observations that are kept; more are not recorded.
pub const MOST_OBSERVATIONS: usize = 512;

/// The purpose of a question, which is what its answer says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The same local port to several servers, to see whether the mapping changes with the destination.
    Mapping,
    /// As [`Mapping`](Self::Mapping), to another port of a server that was asked.
    OtherPort,
    /// A new local port, one above the one before it.
    Consecutive,
    /// A new local port that follows none.
    Fresh,
    /// A new local port a while later, to see what others did meanwhile.
    Late,
    /// The question of [`Mapping`](Self::Mapping) once more, to see whether the mapping is still there.
    Again,
    /// A new local port, for questions about the filtering; see [`FilterTest`].
    Filtering,
}

impl Purpose {
    /// Tells whether the question came from a local port that had never sent before. Such a question makes a new
    /// mapping on any NAT.
    pub fn is_new_port(self) -> bool {
        matches!(self, Self::Consecutive | Self::Fresh | Self::Late | Self::Filtering)
    }
}

/// The address that a server saw, and the time at which we heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The time at which the answer came.
    pub at: Instant,
    /// The address from which the server saw us come.
    pub mapped: Mapped,
}

/// One question to one server, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// The place on the wire among all questions of this probe, over both transports.
    pub order: u32,
    /// The transport that carried it.
    pub transport: Transport,
    /// The purpose of the question.
    pub purpose: Purpose,
    /// The local address it came from.
    pub local: Local,
    /// The server that was asked.
    pub server: SocketAddr,
    /// The time at which its first packet went out: the SYN, or the first datagram.
    pub sent: Instant,
    /// The number of sendings. After a repetition nobody knows which one the NAT saw first, so the order of such an
    /// observation says nothing.
    pub sends: u32,
    /// The answer, if one came.
    pub seen: Option<Seen>,
}

impl Observation {
    /// Returns the mapped port, if it was answered.
    pub fn port(&self) -> Option<u16> {
        self.seen.map(|seen| seen.mapped.0.port())
    }

    /// Returns the time from the first packet to the answer. Over TCP that is two round trips.
    pub fn span(&self) -> Option<Duration> {
        self.seen.map(|seen| seen.at.saturating_duration_since(self.sent))
    }
}

/// A sender that was not asked, as seen from a mapping that has sent to one address and port only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stranger {
    /// Another port of the address that was sent to.
    OtherPort,
    /// Another address than the one that was sent to.
    OtherAddress,
}

/// One test of the filtering over UDP (RFC 5780, section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterTest {
    /// The server that was asked to have the answer sent.
    pub server: SocketAddr,
    /// The stranger that was to answer.
    pub stranger: Stranger,
    /// The outcome of the test.
    pub outcome: FilterOutcome,
}

/// The outcome of a filtering test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FilterOutcome {
    /// The stranger's datagram came in, which is proof.
    Passed,
    /// Nothing came, while the server answered other questions.
    Silence,
    /// The server cannot do it, says so, or answers from its usual address.
    Unsupported,
}

/// The outcome of one helper's SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SynProbe {
    /// The address that the helper dialled from.
    pub helper: IpAddr,
    /// The relation of the helper to the mapping it dialled.
    pub stranger: Stranger,
    /// The outcome of the dial.
    pub outcome: SynOutcome,
}

/// One test of reaching a mapped address of ours from the inside (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HairpinTest {
    /// The transport of the test.
    pub transport: Transport,
    /// True when the packet came back in.
    pub passed: bool,
}

/// All observations made from one address of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    observations: Vec<Observation>,
    /// The tests of the filtering over UDP.
    pub filter_tests: Vec<FilterTest>,
    /// The tests of the filtering over TCP, and of the answers to other SYNs.
    pub syn_probes: Vec<SynProbe>,
    /// The tests whether mapped addresses work from inside.
    pub hairpins: Vec<HairpinTest>,
}

impl Evidence {
    /// Notes a question when it is sent, and returns its number for [`answered`](Self::answered). Returns `None` when
    /// there are [`MOST_OBSERVATIONS`] already.
    pub fn asked(
        &mut self,
        transport: Transport,
        purpose: Purpose,
        local: Local,
        server: SocketAddr,
        sent: Instant,
    ) -> Option<usize> {
        let index = self.observations.len();
        if index >= MOST_OBSERVATIONS {
            return None;
        }
        let order = u32::try_from(index).ok()?;
        self.observations.push(Observation {
            order,
            transport,
            purpose,
            local,
            server,
            sent,
            sends: 1,
            seen: None,
        });
        Some(index)
    }

    /// Notes that a question was repeated.
    pub fn repeated(&mut self, index: usize) {
        if let Some(observation) = self.observations.get_mut(index) {
            observation.sends = observation.sends.saturating_add(1);
        }
    }

    /// Notes that the question could not be sent at all, so that no NAT has seen it.
    pub fn unsent(&mut self, index: usize) {
        if let Some(observation) = self.observations.get_mut(index) {
            observation.sends = 0;
        }
    }

    /// Notes an answer. Only the first answer to a question counts.
    pub fn answered(&mut self, index: usize, seen: Seen) {
        if let Some(observation) = self.observations.get_mut(index) {
            observation.seen.get_or_insert(seen);
        }
    }

    /// Returns the questions, in the order they went out.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// Returns the questions over one transport.
    pub fn over(&self, transport: Transport) -> impl Iterator<Item = &Observation> + Clone {
        self.observations.iter().filter(move |observation| observation.transport == transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn order_is_the_order_on_the_wire_and_the_first_answer_counts() {
        let mut evidence = Evidence::default();
        let local = Local(address("192.168.1.2:5000"));
        let at = |ms| epoch() + Duration::from_millis(ms);
        for (index, transport) in [Transport::Udp, Transport::Tcp].into_iter().enumerate() {
            let asked = evidence.asked(transport, Purpose::Mapping, local, address("192.0.2.1:3478"), at(0));
            assert_eq!(asked, Some(index));
        }
        for port in [7_000, 8_000] {
            let mapped = Mapped(SocketAddr::new(address("198.51.100.1:1").ip(), port));
            evidence.answered(1, Seen { at: at(80), mapped });
        }
        let [udp, tcp] = evidence.observations() else { panic!("two were asked") };
        assert_eq!((udp.order, udp.port(), udp.span()), (0, None, None));
        assert_eq!((tcp.order, tcp.port(), tcp.span()), (1, Some(7_000), Some(Duration::from_millis(80))));
        assert_eq!(evidence.over(Transport::Tcp).count(), 1);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut evidence = Evidence::default();
        let local = Local(address("[2001:db8::2]:5000"));
        let mut ask = || {
            let server = address("[2001:db8::1]:3478");
            evidence.asked(Transport::Udp, Purpose::Fresh, local, server, epoch())
        };
        for index in 0..MOST_OBSERVATIONS {
            assert_eq!(ask(), Some(index));
        }
        assert_eq!(ask(), None);
        assert_eq!(evidence.observations().len(), MOST_OBSERVATIONS);
        // Numbers that were never given out change nothing.
        evidence.repeated(MOST_OBSERVATIONS);
    }
}
