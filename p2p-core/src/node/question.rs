//! One port that a punch wants to have seen from outside.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::io::{SocketAct, StunLink};
use crate::stun::query::{Act, Event};
use crate::stun::{Query, QueryConfig, Server, Transport};
use crate::{Deadline, Local, Machine, Mapped, Output, Seed};

/// Asks STUN servers, one after the other, how they see a TCP port, and holds the connection that answered: its end may
/// be the end of the mapping. Never asks two at once: a second connection from the port moves the counter of a NAT that
/// counts.
#[derive(Debug)]
pub(super) struct Question {
    from: SocketAddr,
    servers: VecDeque<SocketAddr>,
    seed: Seed,
    asked: Option<Asked>,
    is_answered: bool,
    outcome: Option<Option<Mapped>>,
    acts: Vec<SocketAct>,
}

#[derive(Debug)]
struct Asked {
    query: Query,
    until: Instant,
    deadline: Option<Deadline>,
}

impl Question {
    /// Asks the first of `servers` at once.
    pub(super) fn new(from: Local, servers: &[SocketAddr], seed: Seed, now: Instant) -> Self {
        let servers = servers.iter().copied().collect();
        let (asked, outcome, acts) = (None, None, Vec::new());
        let mut question = Self { from: from.0, servers, seed, asked, is_answered: false, outcome, acts };
        question.next(now);
        question
    }

    pub(super) fn handle_up(&mut self, server: SocketAddr, now: Instant) {
        self.with_query(|query| query.handle_tcp_open(server, now), now);
    }

    pub(super) fn handle_bytes(&mut self, server: SocketAddr, bytes: &[u8], now: Instant) {
        self.with_query(|query| query.handle_tcp_data(server, bytes, now), now);
    }

    pub(super) fn handle_down(&mut self, server: SocketAddr, why: Option<std::io::ErrorKind>, now: Instant) {
        self.with_query(|query| query.handle_tcp_closed(server, why, now), now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match &self.asked {
            Some(asked) if !self.is_answered && asked.until <= now => {
                tracing::debug!(from = %self.from, "no answer yet: the next server is asked");
                self.next(now);
            }
            Some(_) => self.with_query(|query| query.handle_timeout(now), now),
            None => {}
        }
    }

    /// Closes the connection, or stops asking.
    pub(super) fn close(&mut self, now: Instant) {
        if let Some(mut asked) = self.asked.take() {
            asked.query.close(now);
            self.drain(&mut asked, now);
        }
    }

    /// Returns the effects wanted since the last call.
    pub(super) fn take_acts(&mut self) -> Vec<SocketAct> {
        std::mem::take(&mut self.acts)
    }

    /// Returns the answer once, as soon as there is one; `None` in it when no server gave any.
    pub(super) fn take_outcome(&mut self) -> Option<Option<Mapped>> {
        self.outcome.take()
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let asked = self.asked.as_ref()?;
        let give_up = (!self.is_answered).then(|| Deadline::new(asked.until, "ask the next STUN server"));
        Deadline::earliest([asked.deadline, give_up])
    }

    fn next(&mut self, now: Instant) {
        self.close(now);
        let Some(address) = self.servers.pop_front() else {
            self.is_answered = true;
            self.outcome = Some(None);
            return;
        };
        let servers = vec![Server { address, transport: Transport::Tcp }];
        let config = QueryConfig { servers, at_once: 1, enough: 1, ..QueryConfig::default() };
        let query = Query::new(config, self.seed.fork("query"), now).expect("one server is not too many");
        self.asked = Some(Asked { query, until: now + ASK_WITHIN, deadline: None });
        self.with_query(|_| (), now);
    }

    fn with_query(&mut self, feed: impl FnOnce(&mut Query), now: Instant) {
        let Some(mut asked) = self.asked.take() else { return };
        feed(&mut asked.query);
        let has_failed = self.drain(&mut asked, now);
        self.asked = Some(asked);
        if has_failed && !self.is_answered {
            self.next(now);
        }
    }

    /// Takes up all that the query wants. Tells whether its server will not answer.
    fn drain(&mut self, asked: &mut Asked, now: Instant) -> bool {
        let mut has_failed = false;
        let link = |to| StunLink { from: self.from, to };
        loop {
            match asked.query.poll_output() {
                Output::Act(Act::OpenTcp { server }) => {
                    self.acts.push(SocketAct::OpenLink { link: link(server) });
                }
                Output::Act(Act::SendTcp { server, bytes }) => {
                    self.acts.push(SocketAct::WriteLink { link: link(server), bytes });
                }
                Output::Act(Act::CloseTcp { server }) => {
                    self.acts.push(SocketAct::CloseLink { link: link(server) });
                }
                Output::Act(Act::SendUdp { server, .. }) => {
                    asked.query.handle_unreachable(server, std::io::ErrorKind::Unsupported, now);
                }
                Output::Event(Event::Answer(answer)) => {
                    if !std::mem::replace(&mut self.is_answered, true) {
                        self.outcome = Some(Some(answer.mapped));
                    }
                }
                Output::Event(Event::Failure(server, failure)) => {
                    tracing::debug!(from = %self.from, server = %server.address, %failure, "punch");
                    has_failed = true;
                }
                Output::Event(Event::Done(_)) => {}
                Output::Wait(deadline) => {
                    asked.deadline = deadline;
                    return has_failed;
                }
            }
        }
    }
}

/// The time a STUN server may take to tell: two can be asked before a punch goes on without.
const ASK_WITHIN: Duration = Duration::from_millis(700);
