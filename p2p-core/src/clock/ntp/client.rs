//! Several servers asked, again and again, and what most of them agree on.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::HEADER;
use super::server::{Heard, Server};
use super::{Failure, MOST_ADDRESSES, MOST_SERVERS, Measured, Report, ServerReport, Word};
use crate::clock::{Clock, DRIFT, Ppm, combine};
use crate::stun::transaction::is_same;
use crate::{Backoff, Deadline, Machine, Output, Reach, Seed};

/// Rounds never begin closer to each other than this (RFC 4330, section 10: "MUST NOT under any conditions").
pub const LEAST_POLL: Duration = Duration::from_secs(15);
/// Rounds are never further apart than this: 36 h (RFC 5905, section 7.2, MAXPOLL).
pub const MOST_POLL: Duration = Duration::from_secs(1 << 17);

/// How many servers there are, and how they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// How many servers: they are called 0, 1, 2 … [`MOST_SERVERS`] at most. One is believed blindly; of three,
    /// one may lie.
    pub servers: usize,
    /// Questions to a server of which nothing is known yet. Default 6, 1 … 8: queues come and go, and the fastest
    /// answer is the one that counts.
    pub burst: u8,
    /// Questions to a server in each later round. Default 2: one may be lost.
    pub again: u8,
    /// The pause between two questions of a round, and how long an answer is waited for. Default 2 s, as RFC 5905
    /// has it (section 7.2, BTIME); 10 ms … 60 s.
    pub spacing: Duration,
    /// The pause between two rounds, ± 10 %. Default 256 s: 2 packets to a server, while quartz adds 26 ms to the
    /// error. [`LEAST_POLL`] … [`MOST_POLL`].
    pub poll: Duration,
    /// By how much our clock may drift from the true time. Default [`DRIFT`].
    pub drift: Ppm,
    /// What is less certain than this has no voice. Default 1 s (RFC 5905, section 7.2, MAXDIST).
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

/// More servers than one client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} NTP servers are too many: {MOST_SERVERS} can be asked")]
pub struct TooManyServers(pub usize);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Find the addresses of a server, and tell by [`Client::handle_resolved`], whatever comes of it.
    Resolve {
        /// Its number.
        server: usize,
    },
    /// Send a datagram, over a socket kept for this server alone: from a port nobody can guess (RFC 9109).
    Send {
        /// Its number.
        server: usize,
        /// Its address.
        to: SocketAddr,
        /// The question.
        bytes: [u8; HEADER],
    },
    /// Close the socket kept for this server: it will not be asked for a while.
    Release {
        /// Its number.
        server: usize,
    },
}

/// What was sent and heard since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions.
    pub sent: u64,
    /// Answers, of use or not.
    pub answers: u64,
    /// Datagrams that answer nothing we asked: late, repeated, forged.
    pub foreign: u64,
    /// Datagrams that are no answers of NTP servers.
    pub garbage: u64,
}

/// Asks NTP servers how far our clock is off.
///
/// Each server is asked a few times; of all its answers those bound the offset that were fastest
/// ([`OffsetFilter`](crate::clock::OffsetFilter)), widened by what the server says it may be off itself. What more
/// than half of the servers that answered allow is the result ([`combine`]): a server that lies is outvoted. The
/// first result waits until every server has answered or failed, so that a liar gains nothing by being quick. Its
/// event is a [`Report`]: whenever something is known that was not, or a server begins or ceases to fail.
///
/// A server that sends a kiss-o'-death is asked less often, or never again. Feed it with `handle_resolved`,
/// `handle_datagram`, `handle_unreachable`; tell it of a new clock or network by `handle_clock`, `handle_again`.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    clock: Clock,
    seed: Seed,
    servers: Vec<Server>,
    /// When to ask again within this round; `None` between rounds.
    tick: Option<Instant>,
    /// When the next round begins; `None` while one is under way, or when nobody is left to be asked.
    round: Option<Instant>,
    began: Option<Instant>,
    backoff: Backoff,
    /// The pause after this round, if nobody is heard in it.
    pause: Duration,
    /// Every server has had its chance to speak.
    is_settled: bool,
    has_news: bool,
    is_closed: bool,
    counters: Counters,
    out: VecDeque<Output<Act, Report>>,
}

impl Client {
    /// Begins to ask at once how far `clock` is off.
    ///
    /// # Errors
    /// When there are more than [`MOST_SERVERS`].
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

    /// The addresses of a server were looked for. [`MOST_ADDRESSES`] are used. What nobody can be asked at, and
    /// where another server of the list is, is left out.
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
        // Where it was a while ago is better than nothing: resolvers have their bad moments.
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

    /// A datagram came to the socket kept for a server. `now` should be taken as soon as it did: what passes
    /// until then counts as delay.
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

    /// The system reports that a question could not be sent, or reached nobody.
    pub fn handle_unreachable(&mut self, server: usize, why: io::ErrorKind, now: Instant) {
        if self.is_closed || server >= self.servers.len() {
            return;
        }
        self.has_news |= self.servers[server].handle_unreachable(why);
        self.settle(now);
    }

    /// The clock was set, or stood still: all that was said of it is void.
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

    /// The network may be another: asks again, as soon as that is polite.
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

    /// Asks no more.
    pub fn close(&mut self, _now: Instant) {
        self.is_closed = true;
        self.out.clear();
        (self.tick, self.round) = (None, None);
        for server in 0..self.servers.len() {
            self.release(server);
        }
    }

    /// What was sent and heard.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What a server has been asked and not answered.
    #[cfg(feature = "sim")]
    pub(super) fn question(&self, server: usize) -> Option<u64> {
        self.servers.get(server)?.question()
    }

    /// Where a server is asked.
    #[cfg(feature = "sim")]
    pub(super) fn address(&self, server: usize) -> Option<SocketAddr> {
        self.servers.get(server)?.address()
    }

    /// Whether another server is asked at this address.
    fn is_taken(&self, server: usize, address: SocketAddr) -> bool {
        let is_other = |(number, other): (usize, &Server)| {
            number != server && other.address().is_some_and(|taken| is_same(taken, address))
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

    /// Decides who is asked how often in this round.
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

    /// Lets a server be that is asked too often: each time it says so for twice as long.
    fn ease(&mut self, server: usize, now: Instant) {
        let factor = 1u32.checked_shl(self.servers[server].eased).unwrap_or(u32::MAX);
        let pause = self.config.poll.saturating_mul(factor).min(MOST_POLL);
        self.servers[server].rest(now + pause);
    }

    /// Gives up what has not been answered, and asks what is due.
    fn on_tick(&mut self, now: Instant) {
        for server in 0..self.servers.len() {
            // One that was found between two ticks gets its time until the next but one.
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
