//! One TCP connection of a peer, through the server (RFC 6062, section 4.4).

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::Bytes;

use super::Packet;
use super::credentials::LongTermAuth;
use super::errand::{Draft, Errand, Line};
use super::failure::Failure;
use super::frame::{Frame, Framer};
use crate::stun::wire::Header;
use crate::stun::{Attribute, Method};
use crate::{Deadline, Machine, Output, Seed};

/// Names one connection of a peer on a server (RFC 6062, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// The facts that [`Allocation::data_connection`](super::Allocation::data_connection) hands over.
#[derive(Debug)]
pub(super) struct DataConfig {
    pub(super) line: Line,
    pub(super) connection: ConnectionId,
    pub(super) login: LongTermAuth,
}

/// The outcome of binding a connection. There is one, and it is the last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection is bound: from here on every byte is the peer's, and every byte sent goes to the peer. The
    /// machine is not needed any more.
    Bound {
        /// The bytes that the peer has sent already.
        early: Bytes,
    },
    /// The connection cannot be bound.
    Failed(Failure),
}

#[derive(Debug)]
enum State {
    Asking(Box<Errand>),
    Over,
}

/// A machine that ties a new connection to a server to one connection of a peer. It sends ConnectionBind, and is
/// done.
///
/// | method | input |
/// |---|---|
/// | [`handle_data`](Self::handle_data) | a piece of the stream came |
/// | [`handle_closed`](Self::handle_closed) | the connection broke |
/// | [`close`](Self::close) | it is of no interest any more; the driver closes the connection |
///
/// Acts are pieces of the stream to send.
#[derive(Debug)]
pub struct DataConnection {
    login: LongTermAuth,
    seed: Seed,
    framer: Framer,
    state: State,
    out: VecDeque<Output<Packet, Event>>,
}

impl DataConnection {
    /// Makes a machine for a connection that is open.
    pub(super) fn new(config: DataConfig, mut seed: Seed, now: Instant) -> Self {
        let DataConfig { line, connection: ConnectionId(id), login } = config;
        let draft = Draft::new(Method::CONNECTION_BIND).with(Attribute::ConnectionId(id));
        let begun = Errand::begin(line, draft, &login, &mut seed, now);
        let (framer, out) = (Framer::default(), VecDeque::new());
        let mut machine = Self { login, seed, framer, state: State::Over, out };
        match begun {
            Ok(errand) => machine.state = State::Asking(Box::new(errand)),
            Err(failure) => machine.fail(failure),
        }
        machine.drain(&mut Bytes::new(), now);
        machine
    }

    /// Takes a piece of the stream. Bytes behind the server's answer are given back untouched, in [`Event::Bound`].
    pub fn handle_data(&mut self, mut bytes: Bytes, now: Instant) {
        while let State::Asking(errand) = &mut self.state {
            match self.framer.feed(&mut bytes) {
                Ok(Some(Frame::Stun(message))) => {
                    if Header::decode(&message).is_ok_and(|header| header.transaction == errand.id()) {
                        errand.handle_message(&message, now);
                        self.drain(&mut bytes, now);
                    }
                }
                // No other frame belongs here, and none is harmful.
                Ok(Some(Frame::Channel(..) | Frame::Oversize(_))) => {}
                Ok(None) => return,
                Err(error) => self.fail(error.into()),
            }
        }
    }

    /// Notes that the connection broke.
    pub fn handle_closed(&mut self, why: Option<io::ErrorKind>, _now: Instant) {
        if let State::Asking(_) = self.state {
            self.fail(Failure::Closed(why));
        }
    }

    /// Forgets the connection. There is no farewell but the end of the connection.
    pub fn close(&mut self, _now: Instant) {
        self.state = State::Over;
        self.framer = Framer::default();
        self.out.clear();
    }

    fn drain(&mut self, rest: &mut Bytes, now: Instant) {
        let State::Asking(errand) = &mut self.state else { return };
        let out = &mut self.out;
        let send = |bytes| out.push_back(Output::Act(Packet::message(bytes)));
        match errand.drain(&mut self.login, &mut self.seed, send, now) {
            None => {}
            Some(Ok(_)) => {
                self.state = State::Over;
                self.out.push_back(Output::Event(Event::Bound { early: std::mem::take(rest) }));
            }
            Some(Err(failure)) => self.fail(failure),
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.state = State::Over;
        self.framer = Framer::default();
        self.out.push_back(Output::Event(Event::Failed(failure)));
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Asking(errand) => errand.deadline(),
            State::Over => None,
        }
    }
}

impl Machine for DataConnection {
    type Act = Packet;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        if let State::Asking(errand) = &mut self.state {
            errand.handle_timeout(now);
            self.drain(&mut Bytes::new(), now);
        }
    }

    fn poll_output(&mut self) -> Output<Packet, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "data_subject.rs"]
pub mod subject;

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
