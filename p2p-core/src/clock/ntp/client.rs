//! A machine that asks several NTP servers again and again, and reports the offset that most of them agree on.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::HEADER;
use super::server::{Heard, Server};
use super::{Failure, MOST_ADDRESSES, MOST_SERVERS, Measured, Report, ServerReport, Word};
use crate::addr::is_same_address;
use crate::clock::{Clock, DRIFT, Ppm, combine};
use crate::{Backoff, Deadline, Machine, Output, Reach, Seed};

/// The least time between the beginnings of two rounds (RFC 4330, section 10: "MUST NOT under any conditions").
pub const LEAST_POLL: Duration = Duration::from_secs(15);
/// The most time between two rounds: 36 h (RFC 5905, section 7.2, MAXPOLL).
pub const MOST_POLL: Duration = Duration::from_secs(1 << 17);

/// The number of servers, and the manner in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The number of servers, which are called 0, 1, 2 and so on. [`MOST_SERVERS`] at most. A single server is
    /// believed blindly; of three, one may lie.
    pub servers: usize,
    /// The questions to a server of which nothing is known yet. Default 6, range 1 … 8. Queues come and go, and the
    /// fastest answer is the one that counts.
    pub burst: u8,
    /// The questions to a server in each later round. Default 2, as one may be lost; range 1 … 8.
    pub again: u8,
    /// The pause between two questions of a round, and the time an answer is waited for. Default 2 s (RFC 5905,
    /// section 7.2, BTIME), range 10 ms … 60 s.
    pub spacing: Duration,
    /// The pause between two rounds, ± 10 %. Default 256 s, range [`LEAST_POLL`] … [`MOST_POLL`]. At the default each
    /// server gets 2 packets a round, and quartz adds 26 ms to the error meanwhile.
    pub poll: Duration,
    /// The most by which our clock may drift from the true time. Default [`DRIFT`].
    pub drift: Ppm,
    /// The largest error with which a server still has a voice. Default 1 s (RFC 5905, section 7.2, MAXDIST).
    pub most_error: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            servers: 0,
            burst: 6,
            again: 2,
            spacing: Duration::from_secs(2),
            poll: Duration::from_secs(256),
            drift: DRIFT,
            most_error: Duration::from_secs(1),
        }
    }
}

/// An error: more servers were configured than one client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} NTP servers are too many: {MOST_SERVERS} can be asked")]
pub struct TooManyServers(pub usize);

/// An effect for the driver to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Finds the addresses of a server. The outcome is told by [`Client::handle_resolved`] in any case.
    Resolve {
        /// The number of the server.
        server: usize,
    },
    /// Sends a datagram over a socket kept for this server alone. Its port must be one that nobody can guess (RFC
    /// 9109).
    Send {
        /// The number of the server.
        server: usize,
        /// The address of the server.
        to: SocketAddr,
        /// The bytes of the question.
        bytes: [u8; HEADER],
    },
    /// Closes the socket kept for this server, which will not be asked for a while.
    Release {
        /// The number of the server.
        server: usize,
    },
}

/// Counts of datagrams sent and received since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions that were sent.
    pub sent: u64,
    /// Answers that were received, of use or not.
    pub answers: u64,
    /// Datagrams that answer no open question: late, repeated or forged.
    pub foreign: u64,
    /// Datagrams that are not answers of NTP servers.
    pub garbage: u64,
}

/// A machine that asks NTP servers for the offset of our clock.
///
/// Each server is asked a few times. Of all its answers the fastest bound the offset
/// ([`OffsetFilter`](crate::clock::OffsetFilter)). The bound is widened by the error that the server admits. The
/// result is what more than half of the servers that answered allow ([`combine`]), so a server that lies is outvoted.
/// The first result waits until every server has answered or failed, so that a liar gains nothing by being quick. The
/// event is a [`Report`]. One is given whenever something new is known, and whenever a server begins or ceases to
/// fail.
///
/// A server that sends a kiss-o'-death is asked less often, or never again. The driver feeds the machine with
/// `handle_resolved`, `handle_datagram` and `handle_unreachable`. It tells it of a new clock or network by
/// `handle_clock` and `handle_again`.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    clock: Clock,
    seed: Seed,
    servers: Vec<Server>,
    /// The time of the next questions of this round; `None` between rounds.
    tick: Option<Instant>,
    /// The time at which the next round begins; `None` during a round, and when no server is left to be asked.
    round: Option<Instant>,
    began: Option<Instant>,
    backoff: Backoff,
    /// The pause after this round, if nobody is heard in it.
    pause: Duration,
    /// True once every server has answered or failed.
    is_settled: bool,
    has_news: bool,
    is_closed: bool,
    counters: Counters,
    out: VecDeque<Output<Act, Report>>,
}

impl Client {
    /// Makes a client that begins at once to ask for the offset of `clock`.
    ///
    /// # Errors
    /// [`TooManyServers`] when there are more than [`MOST_SERVERS`].
    pub fn new(
        config: ClientConfig,
        clock: Clock,
        mut seed: Seed,
        now: Instant,
    ) -> Result<Self, TooManyServers> {
        if config.servers > MOST_SERVERS {
            return Err(TooManyServers(config.servers));
        }
        let config = ClientConfig {
            burst: config.burst.clamp(1, 8),
            again: config.again.clamp(1, 8),
            spacing: config.spacing.clamp(Duration::from_millis(10), Duration::from_secs(60)),
            poll: config.poll.clamp(LEAST_POLL, MOST_POLL),
            ..config
        };
        let mut client = Self {
            seed: seed.fork("ntp client"),
            clock,
            servers: (0..config.servers).map(|_| Server::new(config.drift)).collect(),
            tick: None,
            round: None,
            began: None,
            backoff: Backoff::new(LEAST_POLL * 2, config.poll),
            pause: config.poll,
            is_settled: false,
            has_news: false,
            is_closed: false,
            counters: Counters::default(),
            out: VecDeque::new(),
            config,
        };
        client.begin_round(now);
        client.settle(now);
        Ok(client)
    }

    /// Takes the outcome of looking for the addresses of a server, of which [`MOST_ADDRESSES`] are used. Unusable
    /// addresses are left out, and so are those at which another server of the list is asked.
    pub fn handle_resolved(&mut self, server: usize, found: Result<Vec<SocketAddr>, String>, now: Instant) {
        if self.is_closed || server >= self.servers.len() {
            return;
        }
        self.servers[server].is_resolving = false;
        let found = found.map(|mut found| {
            found.retain(|address| address.port() != 0 && Reach::of(address.ip()) != Reach::Nowhere);
            let is_useless = found.is_empty();
            found.retain(|address| !self.is_taken(server, *address));
            found.truncate(MOST_ADDRESSES);
            (found, is_useless)
        });
        let failure = match found {
            Ok((found, false)) if found.is_empty() => Some(Failure::Twin),
            Ok((_, true)) => Some(Failure::Unresolved("no address that could be asked".into())),
            Ok((found, _)) => {
                self.servers[server].set_addresses(found);
                None
            }
            Err(why) => Some(Failure::Unresolved(why)),
        };
        // The addresses of a while ago are better than none, as a resolver may fail for a moment.
        if let Some(failure) = failure.filter(|_| self.servers[server].addresses.is_empty()) {
            self.servers[server].due = 0;
            self.fail(server, failure);
        } else if self.tick.is_some() {
            self.ask(server, now);
        } else if self.servers[server].is_due() {
            self.on_tick(now);
        }
        self.settle(now);
    }

    /// Takes a datagram that came to the socket kept for a server. `now` should be the moment of its arrival, as any
    /// later time counts as delay.
    pub fn handle_datagram(&mut self, server: usize, from: SocketAddr, bytes: &[u8], now: Instant) {
        if self.is_closed || server >= self.servers.len() {
            return;
        }
        let asked = &mut self.servers[server];
        let eased = asked.eased;
        match asked.handle_datagram(from, bytes, &self.clock, self.config.most_error, now) {
            Heard::Answer => {
                self.counters.answers += 1;
                self.has_news = true;
            }
            Heard::Foreign => self.counters.foreign += 1,
            Heard::Garbage => self.counters.garbage += 1,
        }
        if self.servers[server].eased > eased {
            self.ease(server, now);
        }
        self.settle(now);
    }

    /// Notes that the system could not send a question, or reports that it reached nobody.
    pub fn handle_unreachable(&mut self, server: usize, why: io::ErrorKind, now: Instant) {
        if self.is_closed || server >= self.servers.len() {
            return;
        }
        self.has_news |= self.servers[server].handle_unreachable(why);
        self.settle(now);
    }

    /// Takes a new clock, after the old one was set or stood still. It forgets all answers about the old one.
    pub fn handle_clock(&mut self, clock: Clock, now: Instant) {
        if self.is_closed {
            return;
        }
        self.clock = clock;
        self.is_settled = false;
        self.has_news = true;
        for server in &mut self.servers {
            server.forget(self.config.drift);
        }
        if self.tick.is_some() {
            self.prepare(now);
        }
        self.handle_again(now);
    }

    /// Asks again as soon as [`LEAST_POLL`] allows, since the network may have changed.
    pub fn handle_again(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        if let Some(round) = self.round {
            let soonest = self.began.map_or(now, |began| began + LEAST_POLL);
            self.round = Some(round.min(soonest.max(now)));
        }
        if self.round.is_some_and(|round| round <= now) {
            self.begin_round(now);
        }
        self.settle(now);
    }

    /// Stops asking, and releases all sockets.
    pub fn close(&mut self, _now: Instant) {
        self.is_closed = true;
        self.out.clear();
        (self.tick, self.round) = (None, None);
        for server in 0..self.servers.len() {
            self.release(server);
        }
    }

    /// Returns the counts of datagrams sent and received.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns the nonce of the question that a server has not answered yet.
    #[cfg(feature = "sim")]
    pub(super) fn question(&self, server: usize) -> Option<u64> {
        self.servers.get(server)?.question()
    }

    /// Returns the address at which a server is asked.
    #[cfg(feature = "sim")]
    pub(super) fn address(&self, server: usize) -> Option<SocketAddr> {
        self.servers.get(server)?.address()
    }

    /// Tells whether another server is asked at this address.
    fn is_taken(&self, server: usize, address: SocketAddr) -> bool {
        let is_other = |(number, other): (usize, &Server)| {
            number != server && other.address().is_some_and(|taken| is_same_address(taken, address))
        };
        self.servers.iter().enumerate().any(is_other)
    }

    fn fail(&mut self, server: usize, failure: Failure) {
        let failure = Some(failure);
        if self.servers[server].failure != failure {
            self.servers[server].failure = failure;
            self.has_news = true;
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.round = None;
        self.began = Some(now);
        self.pause = self.backoff.fail(&mut self.seed);
        self.prepare(now);
        self.on_tick(now);
    }

    /// Decides which servers are asked how often in this round.
    fn prepare(&mut self, now: Instant) {
        for server in 0..self.servers.len() {
            let asked = &mut self.servers[server];
            if !asked.is_willing(now) {
                continue;
            }
            let times = match (asked.eased, asked.is_known()) {
                (0, false) => self.config.burst,
                (0, true) => self.config.again,
                _ => 1,
            };
            if asked.begin(times) {
                self.out.push_back(Output::Act(Act::Resolve { server }));
            }
            if self.servers[server].eased > 0 {
                self.ease(server, now);
            }
        }
    }

    /// Leaves a server alone that says it is asked too often. Each time it says so, the pause doubles.
    fn ease(&mut self, server: usize, now: Instant) {
        let factor = 1u32.checked_shl(self.servers[server].eased).unwrap_or(u32::MAX);
        let pause = self.config.poll.saturating_mul(factor).min(MOST_POLL);
        self.servers[server].rest(now + pause);
    }

    /// Gives up questions without an answer, and asks those that are due.
    fn on_tick(&mut self, now: Instant) {
        for server in 0..self.servers.len() {
            // A server that was asked between two ticks has until the next tick but one to answer.
            self.has_news |= self.servers[server].lapse(self.config.spacing / 2, now);
            self.ask(server, now);
        }
        if self.servers.iter().any(|server| server.is_waiting() || server.is_due()) {
            (self.tick, self.round) = (Some(now + self.config.spacing), None);
        } else {
            self.tick = None;
            self.end_round(now);
        }
    }

    fn ask(&mut self, server: usize, now: Instant) {
        if !self.servers[server].is_due() || self.servers[server].is_waiting() {
            return;
        }
        let is_taken = |at: &SocketAddr| self.is_taken(server, *at);
        let Some(to) = self.servers[server].choices().find(|to| !is_taken(to)) else {
            self.servers[server].due = 0;
            return self.fail(server, Failure::Twin);
        };
        let nonce = self.seed.number().max(1);
        let bytes = self.servers[server].ask(to, nonce, now);
        self.counters.sent += 1;
        self.out.push_back(Output::Act(Act::Send { server, to, bytes }));
    }

    fn end_round(&mut self, now: Instant) {
        if self.servers.iter().all(Server::is_denied) {
            return;
        }
        if self.servers.iter().any(Server::is_known) {
            self.backoff.reset();
            self.pause = self.seed.jitter(self.config.poll, 0.1);
        }
        self.round = Some(now + self.pause.max(LEAST_POLL));
    }

    fn release(&mut self, server: usize) {
        if std::mem::take(&mut self.servers[server].is_open) {
            self.out.push_back(Output::Act(Act::Release { server }));
        }
    }

    fn settle(&mut self, now: Instant) {
        for server in 0..self.servers.len() {
            let asked = &self.servers[server];
            if !asked.is_waiting() && asked.due == 0 {
                self.release(server);
            }
        }
        let has_spoken = |server: &Server| server.is_known() || server.failure.is_some();
        self.is_settled |= self.servers.iter().all(has_spoken);
        if std::mem::take(&mut self.has_news) {
            let report = self.report(now);
            self.out.push_back(Output::Event(report));
        }
    }

    fn report(&self, now: Instant) -> Report {
        let most_error = self.config.most_error;
        let said: Vec<_> = self.servers.iter().map(|server| server.offset(most_error, now)).collect();
        let offsets: Vec<_> = said.iter().flatten().map(|(offset, _)| *offset).collect();
        let agreed = combine(&offsets).filter(|_| self.is_settled);
        let servers = self.servers.iter().zip(said).map(|(server, said)| ServerReport {
            asked: server.address(),
            word: said.map(|(offset, rtt)| Word {
                offset,
                rtt,
                is_agreed: agreed.is_some_and(|agreed| agreed.agrees(offset)),
            }),
            failure: server.failure.clone(),
        });
        Report {
            measured: agreed.map(|offset| Measured::new(offset, now, self.config.drift)),
            servers: servers.collect(),
        }
    }
}

impl Machine for Client {
    type Act = Act;
    type Event = Report;

    fn handle_timeout(&mut self, now: Instant) {
        if self.tick.is_some_and(|tick| tick <= now) {
            self.on_tick(now);
        }
        if self.round.is_some_and(|round| round <= now) {
            self.begin_round(now);
        }
        self.settle(now);
    }

    fn poll_output(&mut self) -> Output<Act, Report> {
        self.out.pop_front().unwrap_or_else(|| {
            Output::Wait(Deadline::earliest([
                self.tick.map(|at| Deadline::new(at, "next question to NTP servers")),
                self.round.map(|at| Deadline::new(at, "next round of questions to NTP servers")),
            ]))
        })
    }
}

#[cfg(feature = "sim")]
#[path = "client_subject.rs"]
pub mod subject;
