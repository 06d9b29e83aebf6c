//! One STUN request until its answer, or until it is given up (RFC 8489, section 6).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Transport;
use super::message::{Class, Message, TransactionId};
use super::wire::{Algorithm, Ending, Header, Key, Parsed, WireError};
use crate::addr::is_same_address;
use crate::text::ForeignText;
use crate::{Deadline, Machine, Output};

/// The most sendings of a request, whatever the configuration says.
const MOST_SENDS: u32 = 16;
/// The bounds of a wait. A wait of zero would wake the driver for ever; one of millennia would overflow its clock.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(600);

/// The number of repetitions of a request, and the pauses between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionConfig {
    /// The first pause before a repetition over UDP; each pause is twice the one before. Default 500 ms, the least
    /// that RFC 8489, section 6.2.1 asks for.
    pub rto: Duration,
    /// The most sendings over UDP, 1 … 16. Default 7 (Rc).
    pub sends: u32,
    /// The wait after the last sending, in multiples of `rto`. Default 16 (Rm).
    pub last_wait: u32,
    /// The wait for an answer over TCP. Default 39.5 s (Ti).
    pub tcp_wait: Duration,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            rto: Duration::from_millis(500),
            sends: 7,
            last_wait: 16,
            tcp_wait: Duration::from_millis(39_500),
        }
    }
}

/// A question, its server, and the answers that are believed.
#[derive(Clone, Debug)]
pub struct Request {
    /// The address of the server, from which the answer must come.
    pub server: SocketAddr,
    /// The transport that carries the question.
    pub transport: Transport,
    /// The question to send.
    pub message: Message,
    /// Another address the answer may come from, when CHANGE-REQUEST asked for it.
    pub also_from: Option<SocketAddr>,
    /// The algorithm and key that sign the question. Only answers signed with the key are believed, and after SHA-256
    /// only those signed by it (RFC 8489, section 9.2.5). Errors 401 and 438 need no signature, because they say that
    /// there was nothing to sign with. Any other unsigned error is remembered for one `rto`, while a signed answer
    /// may still come. Then it is the answer, and [`Fault::Refused`] says that nobody signed it.
    pub signature: Option<(Algorithm, Key)>,
    /// Believes no success that is not signed, though the question has no signature either: the first question to a server
    /// that has to ask who we are. Default no.
    pub is_login: bool,
}

impl Request {
    /// Returns a question without credentials.
    pub fn new(server: SocketAddr, transport: Transport, message: Message) -> Self {
        Self { server, transport, message, also_from: None, signature: None, is_login: false }
    }
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A success response came.
    Answered {
        /// The content of the answer.
        message: Message,
        /// The time from the first sending to the answer. With repetitions it is an upper bound of the round trip,
        /// because nobody can tell which sending was answered.
        rtt: Duration,
    },
    /// There will be no answer.
    Failed(Fault),
}

/// A reason why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing came in time.
    #[error("the server did not answer in time")]
    Silent,
    /// The network or the system said that the server cannot be reached.
    #[error("the server cannot be reached: {0}")]
    Unreachable(io::ErrorKind),
    /// The server refused the request.
    #[error("the server refused: {code} {reason}")]
    Refused {
        /// The error code, 300 … 699.
        code: u16,
        /// The reason in the server's words.
        reason: ForeignText,
        /// The whole answer, with realm, nonce and alternate server.
        message: Box<Message>,
        /// True when the refusal was signed with our key. Otherwise anybody who sees our packets can have sent it.
        is_signed: bool,
    },
    /// Somebody said yes, without a signature, where only a signed yes counts. Nobody said anything else in time.
    #[error(
        "the server said yes without asking who we are, which anybody on the way could have said in its name"
    )]
    Unsigned,
    /// The answer has attributes that must be understood, and are not.
    #[error("the server's answer needs attributes we do not know: {0:04x?}")]
    Unknown(Vec<u16>),
}

/// Counts of sent requests and dropped answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The number of sendings of the request.
    pub sent: u32,
    /// The messages from an address that was not asked.
    pub strangers: u32,
    /// The messages with another transaction id.
    pub foreign: u32,
    /// The messages that are not STUN, not whole, or not an answer.
    pub garbage: u32,
    /// The messages that are not signed, or not with our key.
    pub forged: u32,
}

impl Counters {
    pub(crate) fn add(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.strangers = self.strangers.saturating_add(other.strangers);
        self.foreign = self.foreign.saturating_add(other.foreign);
        self.garbage = self.garbage.saturating_add(other.garbage);
        self.forged = self.forged.saturating_add(other.forged);
    }
}

#[derive(Debug)]
enum State {
    /// The request was sent, for the first time at `first`. It is sent again or given up at `next`.
    Asked {
        first: Instant,
        next: Instant,
    },
    /// An unsigned refusal came, which is believed at `until`.
    Doubted {
        first: Instant,
        until: Instant,
        refusal: Box<Fault>,
    },
    Over,
}

/// The client's side of one STUN transaction.
///
/// | method | input |
/// |---|---|
/// | [`handle_message`](Self::handle_message) | a datagram, or one whole message of the stream, came |
/// | [`handle_unreachable`](Self::handle_unreachable) | the system reports that the server cannot be reached |
/// | [`close`](Self::close) | the answer is of no interest any more |
///
/// Acts are the bytes to send to the server: once over TCP, repeatedly over UDP.
#[derive(Debug)]
pub struct Transaction {
    config: TransactionConfig,
    request: Request,
    bytes: Vec<u8>,
    state: State,
    /// A success came that does not count: see [`Request::is_login`].
    has_unsigned: bool,
    counters: Counters,
    out: VecDeque<Output<Vec<u8>, Event>>,
}

impl Transaction {
    /// Makes a transaction that asks at once.
    ///
    /// # Errors
    /// [`WireError`] when the request cannot be written.
    pub fn new(config: TransactionConfig, request: Request, now: Instant) -> Result<Self, WireError> {
        let signature = request.signature.as_ref().map(|(algorithm, key)| (*algorithm, key));
        let ending = Ending { signature, fingerprint: false };
        let bytes = request.message.encode_with(request.transport, ending)?;
        let mut transaction = Self {
            config,
            request,
            bytes,
            state: State::Over,
            has_unsigned: false,
            counters: Counters::default(),
            out: VecDeque::new(),
        };
        transaction.send(now, now);
        Ok(transaction)
    }

    /// Returns the transaction id.
    pub fn id(&self) -> TransactionId {
        self.request.message.transaction
    }

    /// Returns the counts of what was sent and dropped so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a datagram, or one whole message of the stream.
    pub fn handle_message(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let (State::Asked { first, .. } | State::Doubted { first, .. }) = self.state else {
            return;
        };
        let expected = [Some(self.request.server), self.request.also_from];
        if !expected.into_iter().flatten().any(|known| is_same_address(known, from)) {
            tracing::trace!(%from, "STUN answer from a stranger dropped");
            self.counters.strangers = self.counters.strangers.saturating_add(1);
            return;
        }
        if Header::decode(bytes).is_ok_and(|header| header.transaction != self.id()) {
            self.counters.foreign = self.counters.foreign.saturating_add(1);
            return;
        }
        let parsed = match Parsed::decode(bytes, self.request.transport) {
            Ok(parsed) if self.is_answer(&parsed.message) => parsed,
            other => {
                tracing::trace!(%from, error = ?other.err(), "not a STUN answer, dropped");
                self.counters.garbage = self.counters.garbage.saturating_add(1);
                return;
            }
        };
        let is_signed = self.is_signed(&parsed);
        let is_doubtful = self.request.signature.is_some() && !is_signed;
        let Parsed { message, unknown, .. } = parsed;
        let error = message.error_code().map(|(code, reason)| (code, ForeignText::from(reason)));
        let (class, is_unreadable) = (message.class, !unknown.is_empty());
        if class == Class::Success && self.request.is_login && !is_signed {
            tracing::debug!(%from, "a success that nobody signed, dropped");
            self.counters.forged = self.counters.forged.saturating_add(1);
            self.has_unsigned = true;
            return;
        }
        let event = match (class, error) {
            _ if is_unreadable => Event::Failed(Fault::Unknown(unknown)),
            (Class::Error, Some((code, reason))) => {
                Event::Failed(Fault::Refused { code, reason, message: Box::new(message), is_signed })
            }
            _ => Event::Answered { message, rtt: now.saturating_duration_since(first) },
        };
        match event {
            Event::Failed(Fault::Refused { code: 401 | 438, .. }) => self.finish(event),
            Event::Failed(refusal @ Fault::Refused { .. }) if is_doubtful => self.doubt(refusal, now),
            _ if is_doubtful => self.counters.forged = self.counters.forged.saturating_add(1),
            _ => self.finish(event),
        }
    }

    /// Notes that the system says the server cannot be reached: ICMP, or a refused or broken connection.
    pub fn handle_unreachable(&mut self, why: io::ErrorKind, _now: Instant) {
        if !matches!(self.state, State::Over) {
            self.finish(Event::Failed(Fault::Unreachable(why)));
        }
    }

    /// Forgets the transaction. STUN has no farewell.
    pub fn close(&mut self, _now: Instant) {
        self.state = State::Over;
        self.out.clear();
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        match self.state {
            State::Asked { next, .. } => Some(Deadline::new(next, "STUN answer")),
            State::Doubted { until, .. } => Some(Deadline::new(until, "a signed STUN answer")),
            State::Over => None,
        }
    }

    /// Tells whether `message` is an answer to the request. An error response without ERROR-CODE is not one.
    fn is_answer(&self, message: &Message) -> bool {
        message.method == self.request.message.method
            && match message.class {
                Class::Success => true,
                Class::Error => message.error_code().is_some(),
                Class::Request | Class::Indication => false,
            }
    }

    fn is_signed(&self, parsed: &Parsed<'_>) -> bool {
        self.request.signature.as_ref().is_some_and(|(algorithm, key)| {
            parsed.verify(key).is_ok_and(|signed| *algorithm == Algorithm::Sha1 || signed == *algorithm)
        })
    }

    /// Keeps the first unsigned refusal for one `rto`, while a signed answer may still come.
    fn doubt(&mut self, refusal: Fault, now: Instant) {
        self.counters.forged = self.counters.forged.saturating_add(1);
        if let State::Asked { first, .. } = self.state {
            let until = now + self.config.rto.clamp(SHORTEST, LONGEST);
            self.state = State::Doubted { first, until, refusal: Box::new(refusal) };
        }
    }

    fn send(&mut self, first: Instant, now: Instant) {
        let most = self.config.sends.clamp(1, MOST_SENDS);
        self.counters.sent += 1;
        let wait = match self.request.transport {
            Transport::Tcp => self.config.tcp_wait,
            Transport::Udp if self.counters.sent >= most => {
                self.config.rto.saturating_mul(self.config.last_wait)
            }
            Transport::Udp => self.config.rto.saturating_mul(1 << (self.counters.sent - 1)),
        };
        let wait = wait.clamp(SHORTEST, LONGEST);
        self.state = State::Asked { first, next: now + wait };
        self.out.push_back(Output::Act(self.bytes.clone()));
    }

    fn finish(&mut self, event: Event) {
        tracing::debug!(server = %self.request.server, transport = %self.request.transport, ?event, "STUN transaction over");
        self.state = State::Over;
        self.out.push_back(Output::Event(event));
    }
}

impl Machine for Transaction {
    type Act = Vec<u8>;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Asked { first, next } if *next <= now => {
                let again = self.request.transport == Transport::Udp
                    && self.counters.sent < self.config.sends.clamp(1, MOST_SENDS);
                if again {
                    self.send(*first, now);
                } else {
                    self.finish(Event::Failed(match self.has_unsigned {
                        true => Fault::Unsigned,
                        false => Fault::Silent,
                    }));
                }
            }
            State::Doubted { until, refusal, .. } if *until <= now => {
                let refusal = Fault::clone(refusal);
                self.finish(Event::Failed(refusal));
            }
            _ => {}
        }
    }

    fn poll_output(&mut self) -> Output<Vec<u8>, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "transaction_subject.rs"]
pub mod subject;

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
