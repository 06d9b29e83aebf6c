//! One server as the client knows it: its addresses, the open question, and the answers.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::{HEADER, Leap, Packet, SERVER};
use super::{Failure, Kiss};
use crate::addr::is_same_address;
use crate::clock::{Clock, Exchange, Offset, OffsetFilter, Ppm};

/// The versions of answers that are understood. Servers answer with the version they were asked in, or with 3.
const VERSIONS: std::ops::RangeInclusive<u8> = 3..=4;
/// The longest round trip of an answer that counts. Its question has been given up by then.
const MOST_RTT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Request {
    /// The number that the answer must repeat, which a blind attacker cannot.
    nonce: u64,
    to: SocketAddr,
    sent: Instant,
}

/// The kind of a datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It answers no open question.
    Foreign,
    /// It is not NTP.
    Garbage,
    /// It is an answer, whether of use or not.
    Answer,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) addresses: Vec<SocketAddr>,
    current: usize,
    pub(super) is_resolving: bool,
    /// True while the driver keeps a socket for the server.
    pub(super) is_open: bool,
    filter: OffsetFilter,
    request: Option<Request>,
    /// The questions still to be asked in this round.
    pub(super) due: u8,
    /// True when the server has given an answer of use in this round.
    has_answered: bool,
    /// The number of times the server asked to be asked less often.
    pub(super) eased: u32,
    quiet_until: Option<Instant>,
    is_denied: bool,
    pub(super) failure: Option<Failure>,
}

impl Server {
    pub(super) fn new(drift: Ppm) -> Self {
        Self {
            addresses: Vec::new(),
            current: 0,
            is_resolving: false,
            is_open: false,
            filter: OffsetFilter::new(drift, MOST_RTT),
            request: None,
            due: 0,
            has_answered: false,
            eased: 0,
            quiet_until: None,
            is_denied: false,
            failure: None,
        }
    }

    /// Forgets the answers of the server and its open question.
    pub(super) fn forget(&mut self, drift: Ppm) {
        self.filter = OffsetFilter::new(drift, MOST_RTT);
        self.request = None;
        self.has_answered = false;
    }

    /// Tells whether the server may be asked at all.
    pub(super) fn is_willing(&self, now: Instant) -> bool {
        !self.is_denied && self.quiet_until.is_none_or(|until| until <= now)
    }

    pub(super) fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// Begins a round in which the server is asked `times`. Returns true when its name must be resolved first.
    pub(super) fn begin(&mut self, times: u8) -> bool {
        self.due = times;
        self.has_answered = false;
        let is_lost = self.addresses.is_empty() || self.failure.is_some();
        is_lost && !std::mem::replace(&mut self.is_resolving, is_lost)
    }

    /// Leaves the server alone until `until`.
    pub(super) fn rest(&mut self, until: Instant) {
        self.quiet_until = Some(until);
    }

    /// Returns the address that is asked, if one is known.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.addresses.get(self.current).copied()
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        let at = self.address();
        self.current = addresses.iter().position(|address| Some(*address) == at).unwrap_or(0);
        self.addresses = addresses;
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.request.is_some()
    }

    /// Tells whether there is a question to ask and an address to ask it at.
    pub(super) fn is_due(&self) -> bool {
        self.due > 0 && !self.is_resolving && !self.addresses.is_empty()
    }

    /// Returns the addresses at which the server may be asked, the present one first.
    pub(super) fn choices(&self) -> impl Iterator<Item = SocketAddr> {
        let count = self.addresses.len();
        (0..count).map(move |next| self.addresses[(self.current + next) % count])
    }

    /// Returns the bytes of the next question, which goes to `to`.
    pub(super) fn ask(&mut self, to: SocketAddr, nonce: u64, now: Instant) -> [u8; HEADER] {
        self.current = self.addresses.iter().position(|address| *address == to).unwrap_or(0);
        self.due = self.due.saturating_sub(1);
        self.is_open = true;
        self.request = Some(Request { nonce, to, sent: now });
        Packet::request(nonce).encode()
    }

    #[cfg(feature = "sim")]
    pub(super) fn question(&self) -> Option<u64> {
        self.request.as_ref().map(|request| request.nonce)
    }

    /// Gives up a question that is at least this old. Returns true when that is news.
    pub(super) fn lapse(&mut self, age: Duration, now: Instant) -> bool {
        let is_old = |request: &Request| now.saturating_duration_since(request.sent) >= age;
        self.request.as_ref().is_some_and(is_old) && self.miss(Failure::NoAnswer)
    }

    /// Notes that the system cannot reach the server. Returns true when that is news.
    pub(super) fn handle_unreachable(&mut self, why: io::ErrorKind) -> bool {
        self.request.is_some() && self.miss(Failure::Unreachable(why))
    }

    /// Notes that a question stays without answer. One of several is a lost packet; all of them are a failure.
    fn miss(&mut self, failure: Failure) -> bool {
        self.request = None;
        if self.has_answered {
            return false;
        }
        // Another address of the server may do better.
        self.current = (self.current + 1) % self.addresses.len().max(1);
        let is_news = self.failure.as_ref() != Some(&failure);
        self.failure = Some(failure);
        is_news
    }

    pub(super) fn handle_datagram(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        clock: &Clock,
        most_error: Duration,
        now: Instant,
    ) -> Heard {
        let Ok(packet) = Packet::decode(bytes) else {
            return Heard::Garbage;
        };
        let is_answer =
            |request: &Request| request.nonce == packet.origin.0 && is_same_address(request.to, from);
        if packet.mode != SERVER || !VERSIONS.contains(&packet.version) {
            return Heard::Garbage;
        }
        let Some(request) = self.request.take_if(|request| is_answer(request)) else {
            return Heard::Foreign;
        };
        match self.judge(&packet, request.sent, clock, most_error, now) {
            Ok(()) => {
                self.has_answered = true;
                self.failure = None;
            }
            Err(failure) => {
                tracing::debug!(server = %from, %failure, "an NTP server tells no time");
                self.failure = Some(failure);
            }
        }
        Heard::Answer
    }

    fn judge(
        &mut self,
        packet: &Packet,
        sent: Instant,
        clock: &Clock,
        most_error: Duration,
        now: Instant,
    ) -> Result<(), Failure> {
        if packet.stratum == 0 {
            return Err(self.kiss(Kiss(packet.reference_id)));
        }
        if packet.leap == Leap::Unsynchronised || packet.stratum >= 16 {
            return Err(Failure::Unsynchronised);
        }
        let unsure = packet.distance();
        if unsure > most_error {
            return Err(Failure::Distant(unsure));
        }
        let (sent, heard) = (clock.unix(sent), clock.unix(now));
        let received = packet.receive.unix(heard).ok_or(Failure::NoTime)?;
        let replied = packet.transmit.unix(heard).ok_or(Failure::NoTime)?;
        self.filter.add(Exchange { sent, received, replied, heard, unsure }, now)?;
        Ok(())
    }

    /// Handles a kiss-o'-death (RFC 5905, section 7.4). All codes but three ask us to do nothing.
    fn kiss(&mut self, kiss: Kiss) -> Failure {
        match kiss {
            Kiss::DENY | Kiss::RSTR => {
                self.is_denied = true;
                self.due = 0;
                Failure::Denied(kiss)
            }
            Kiss::RATE => {
                self.eased = self.eased.saturating_add(1);
                self.due = 0;
                Failure::RateLimited
            }
            _ => Failure::Kissed(kiss),
        }
    }

    pub(super) fn is_known(&self) -> bool {
        !self.filter.is_empty()
    }

    /// Returns the offset and the shortest round trip at `now`, if the error is `most_error` at most.
    pub(super) fn offset(&self, most_error: Duration, now: Instant) -> Option<(Offset, Duration)> {
        let offset = self.filter.offset(now).filter(|offset| offset.error <= most_error)?;
        Some((offset, self.filter.rtt()?))
    }
}
