//! One server: where it is, what was asked, what it said.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::{HEADER, Leap, Packet, SERVER};
use super::{Failure, Kiss};
use crate::clock::{Clock, Exchange, Offset, OffsetFilter, Ppm};
use crate::stun::transaction::is_same;

/// Versions of answers that are understood: servers answer with what they were asked in, or 3.
const VERSIONS: std::ops::RangeInclusive<u8> = 3..=4;
/// An answer that takes longer than this has been given up.
const MOST_RTT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Request {
    /// What the answer must repeat: a blind attacker cannot.
    nonce: u64,
    to: SocketAddr,
    sent: Instant,
}

/// What a datagram turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing we asked for.
    Foreign,
    /// No NTP.
    Garbage,
    /// An answer, whether of use or not.
    Answer,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) addresses: Vec<SocketAddr>,
    current: usize,
    pub(super) is_resolving: bool,
    /// The driver keeps a socket for it.
    pub(super) is_open: bool,
    filter: OffsetFilter,
    request: Option<Request>,
    /// Questions still to be asked in this round.
    pub(super) due: u8,
    /// It has said something of use in this round.
    has_answered: bool,
    /// How often it asked to be asked less often.
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

    /// Forgets what it said, and what it was asked.
    pub(super) fn forget(&mut self, drift: Ppm) {
        self.filter = OffsetFilter::new(drift, MOST_RTT);
        self.request = None;
        self.has_answered = false;
    }

    /// Whether it may be asked at all.
    pub(super) fn is_willing(&self, now: Instant) -> bool {
        !self.is_denied && self.quiet_until.is_none_or(|until| until <= now)
    }

    pub(super) fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// A round begins in which it is to be asked `times`. Says whether its name is to be resolved first.
    pub(super) fn begin(&mut self, times: u8) -> bool {
        self.due = times;
        self.has_answered = false;
        let is_lost = self.addresses.is_empty() || self.failure.is_some();
        is_lost && !std::mem::replace(&mut self.is_resolving, is_lost)
    }

    /// It shall not be asked again for this long.
    pub(super) fn rest(&mut self, until: Instant) {
        self.quiet_until = Some(until);
    }

    /// Where it is, or was believed to be.
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

    /// Whether there is something to ask, and somebody.
    pub(super) fn is_due(&self) -> bool {
        self.due > 0 && !self.is_resolving && !self.addresses.is_empty()
    }

    /// The addresses it may be asked at, the present one first.
    pub(super) fn choices(&self) -> impl Iterator<Item = SocketAddr> {
        let count = self.addresses.len();
        (0..count).map(move |next| self.addresses[(self.current + next) % count])
    }

    /// The next question, to one of its addresses.
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

    /// Gives up a question that is at least this old. Says whether that is news.
    pub(super) fn lapse(&mut self, age: Duration, now: Instant) -> bool {
        let is_old = |request: &Request| now.saturating_duration_since(request.sent) >= age;
        self.request.as_ref().is_some_and(is_old) && self.miss(Failure::NoAnswer)
    }

    /// The system says that nothing reaches it. Says whether that is news.
    pub(super) fn handle_unreachable(&mut self, why: io::ErrorKind) -> bool {
        self.request.is_some() && self.miss(Failure::Unreachable(why))
    }

    /// A question stays without answer. One of several is a packet lost; all of them are a failure.
    fn miss(&mut self, failure: Failure) -> bool {
        self.request = None;
        if self.has_answered {
            return false;
        }
        // Another address of it may do better.
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
        let is_answer = |request: &Request| request.nonce == packet.origin.0 && is_same(request.to, from);
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

    /// A kiss-o'-death (RFC 5905, section 7.4): all codes but three mean nothing for us to do.
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

    /// What it says at `now`, if that is good enough.
    pub(super) fn offset(&self, most_error: Duration, now: Instant) -> Option<(Offset, Duration)> {
        let offset = self.filter.offset(now).filter(|offset| offset.error <= most_error)?;
        Some((offset, self.filter.rtt()?))
    }
}
