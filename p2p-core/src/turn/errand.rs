//! One request to the server until its last word: drafted, signed, sent, and signed anew when it was
//! challenged.
//!
//! A [`Draft`] has neither nonce nor transaction id, a [`Signed`] has both and is consumed by sending it, and
//! what comes back from a challenge is a draft. So no request can be sent twice under one nonce or id, except
//! by the repetitions of its own [`Transaction`].

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::Carrier;
use super::credentials::LongTermAuth;
use super::failure::Failure;
use crate::stun::transaction::{Counters, Event, Fault, Request, Transaction, TransactionConfig};
use crate::stun::wire::{Algorithm, Key};
use crate::stun::{Attribute, Class, Message, Method, TransactionId};
use crate::{Deadline, Machine, Output, Seed};

/// How often in a row one request is signed anew because of a challenge.
pub const MOST_CHALLENGES: u8 = 4;

/// What is wanted, not by whom, when or under which nonce.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    method: Method,
    attributes: Vec<Attribute>,
}

impl Draft {
    pub(super) fn new(method: Method) -> Self {
        Self { method, attributes: Vec::new() }
    }

    pub(super) fn with(mut self, attribute: Attribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Under the newest nonce and a transaction id that was never used.
    fn sign(self, login: &LongTermAuth, seed: &mut Seed) -> Signed {
        let mut message = Message::new(Class::Request, self.method, TransactionId::new(seed));
        let (words, signature) = login.answer();
        message.attributes.extend(self.attributes.iter().cloned().chain(words));
        Signed { draft: self, message, signature }
    }
}

/// Fit to be sent, once.
struct Signed {
    draft: Draft,
    message: Message,
    signature: Option<(Algorithm, Key)>,
}

impl Signed {
    fn send(self, line: &Line, now: Instant) -> Result<(Draft, bool, Transaction), Failure> {
        let is_signed = self.signature.is_some();
        let mut request = Request::new(line.server, line.carrier.transport(), self.message);
        request.signature = self.signature;
        request.is_login = !is_signed;
        let transaction = Transaction::new(line.transaction, request, now)?;
        Ok((self.draft, is_signed, transaction))
    }
}

/// Where requests go, and how patiently.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) server: SocketAddr,
    pub(super) carrier: Carrier,
    pub(super) transaction: TransactionConfig,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Errand {
    line: Line,
    draft: Draft,
    transaction: Transaction,
    /// Whether the last sending was signed.
    is_signed: bool,
    challenges: u8,
    /// Signed requests that were answered with 401.
    denials: u8,
    /// Of the transactions before this one.
    counters: Counters,
    /// When the server can have acted on it for the first time.
    began: Instant,
}

impl Errand {
    pub(super) fn begin(
        line: Line,
        draft: Draft,
        login: &LongTermAuth,
        seed: &mut Seed,
        now: Instant,
    ) -> Result<Self, Failure> {
        let (draft, is_signed, transaction) = draft.sign(login, seed).send(&line, now)?;
        let counters = Counters::default();
        Ok(Self { line, draft, transaction, is_signed, challenges: 0, denials: 0, counters, began: now })
    }

    pub(super) fn id(&self) -> TransactionId {
        self.transaction.id()
    }

    /// Whether the server may have done what it was asked for, for all we know.
    pub(super) fn may_be_done(&self) -> bool {
        self.is_signed
    }

    /// When the last form of it was sent first: lifetimes count from here, to be on the safe side.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.add(self.transaction.counters());
        counters
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.transaction.deadline()
    }

    pub(super) fn handle_message(&mut self, bytes: &[u8], now: Instant) {
        self.transaction.handle_message(self.line.server, bytes, now);
    }

    pub(super) fn handle_unreachable(&mut self, why: io::ErrorKind, now: Instant) {
        self.transaction.handle_unreachable(why, now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.transaction.handle_timeout(now);
    }

    /// Sends what is to be sent and meets challenges; what came of it, once.
    pub(super) fn drain(
        &mut self,
        login: &mut LongTermAuth,
        seed: &mut Seed,
        mut send: impl FnMut(Vec<u8>),
        now: Instant,
    ) -> Option<Result<Message, Failure>> {
        loop {
            match self.transaction.poll_output() {
                Output::Act(bytes) => send(bytes),
                Output::Event(Event::Answered { message, .. }) => return Some(Ok(message)),
                Output::Event(Event::Failed(fault)) => {
                    if let Err(failure) = self.meet(fault, login, seed, now) {
                        return Some(Err(failure));
                    }
                }
                Output::Wait(_) => return None,
            }
        }
    }

    /// Signs anew after a challenge; anything else is the end.
    fn meet(
        &mut self,
        fault: Fault,
        login: &mut LongTermAuth,
        seed: &mut Seed,
        now: Instant,
    ) -> Result<(), Failure> {
        let Fault::Refused { code: code @ (401 | 438), message, .. } = &fault else {
            return Err(fault.into());
        };
        if *code == 401 && self.is_signed {
            self.denials += 1;
        }
        // Once may be a server that says 401 where it means 438.
        if self.denials > 1 {
            return Err(Failure::WrongCredentials);
        }
        if self.challenges >= MOST_CHALLENGES {
            return Err(Failure::StaleForEver);
        }
        login.challenge(message)?;
        self.challenges += 1;
        self.counters.add(self.transaction.counters());
        let draft = self.draft.clone();
        (self.draft, self.is_signed, self.transaction) = draft.sign(login, seed).send(&self.line, now)?;
        self.began = now;
        Ok(())
    }
}
