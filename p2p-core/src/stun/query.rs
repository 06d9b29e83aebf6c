//! A machine that asks several STUN servers at once for the address they see us come from.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Transport;
use super::frame::Framer;
use super::message::Message;
use super::transaction::{self, Counters, Fault, Request, Transaction, TransactionConfig};
use super::wire::{Header, WireError};
use crate::addr::is_same_address;
use crate::{Deadline, Family, Machine, Mapped, Output, Reach, Seed};

/// The most servers that one query asks.
pub const MOST_SERVERS: usize = 64;

/// A server and the transport to ask it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The transport it is asked over.
    pub transport: Transport,
}

/// The servers to ask, and the number of answers wanted. UDP and TCP are counted apart.
#[derive(Clone, Debug)]
pub struct QueryConfig {
    /// The servers, best first. A server named twice is asked once.
    pub servers: Vec<Server>,
    /// The number of servers asked at once. Default 4, which a small router does not notice.
    pub at_once: usize,
    /// The wait for those before one more is asked. After a failure the next is asked at once. Default 100 ms.
    pub hedge: Duration,
    /// The number of answers after which no more servers are asked. Default 2: one may lie, two that agree do not.
    pub enough: usize,
    /// The wait for slow servers after enough answers. Default 500 ms.
    pub patience: Duration,
    /// True to keep TCP connections open that have answered, as a mapping may end with its connection. Default true.
    /// [`Query::close`] closes them.
    pub hold: bool,
    /// The configuration of each transaction.
    pub transaction: TransactionConfig,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            at_once: 4,
            hedge: Duration::from_millis(100),
            enough: 2,
            patience: Duration::from_millis(500),
            hold: true,
            transaction: TransactionConfig::default(),
        }
    }
}

/// The answer of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server that answered.
    pub server: Server,
    /// The address from which the server sees us come.
    pub mapped: Mapped,
    /// The time from the question to the answer; see [`transaction::Event::Answered`].
    pub rtt: Duration,
}

/// A reason why one server gave no answer of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The transaction failed by silence, a refusal, or an unreachable host.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The TCP connection was not established in time.
    #[error("no TCP connection to the server in time")]
    NoConnection,
    /// The server closed the TCP connection instead of answering.
    #[error("the server closed the TCP connection without an answer")]
    Closed,
    /// The server speaks another protocol over TCP.
    #[error("the server does not speak STUN over TCP: {0}")]
    Garbage(WireError),
    /// The success response has no address.
    #[error("the server's answer has no address in it")]
    NoAddress,
    /// The address is one that nobody can have: port 0, multicast, or of the other family.
    #[error("the server says we are {0}, which nobody can be")]
    Absurd(SocketAddr),
    /// The server was not waited for, because enough others had answered.
    #[error("not waited for: enough other servers had answered")]
    Spared,
}

/// The outcome of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The answers, in the order they came.
    pub answers: Vec<Answer>,
    /// The servers without an answer of use, and the reasons.
    pub failures: Vec<(Server, Failure)>,
    /// The counts of what was sent and dropped.
    pub counters: Counters,
}

/// An effect for the driver to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends a datagram.
    SendUdp {
        /// The address to send to.
        server: SocketAddr,
        /// The bytes to send.
        bytes: Vec<u8>,
    },
    /// Opens a connection. The outcome is told by [`Query::handle_tcp_open`] or [`Query::handle_tcp_closed`].
    OpenTcp {
        /// The address to connect to.
        server: SocketAddr,
    },
    /// Sends bytes on a connection.
    SendTcp {
        /// The server of the connection.
        server: SocketAddr,
        /// The bytes to send.
        bytes: Vec<u8>,
    },
    /// Closes a connection, or stops connecting.
    CloseTcp {
        /// The server of the connection.
        server: SocketAddr,
    },
}

/// A fact that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server answered.
    Answer(Answer),
    /// A server will not give an answer of use, for this reason.
    Failure(Server, Failure),
    /// All servers known so far have answered, failed or were spared. It comes again when servers were added since.
    Done(Report),
}

#[derive(Debug)]
enum State {
    Unasked,
    Connecting { until: Instant },
    Asked(Box<(Transaction, Framer)>),
    Finished,
}

/// One server, and the state of asking it. `is_open` is true while there is a TCP connection, or will be one unless
/// it is closed.
#[derive(Debug)]
struct Asking {
    server: Server,
    state: State,
    is_open: bool,
    /// True when the server is asked over a connection held since an earlier answer.
    is_again: bool,
}

/// The counts and deadlines that UDP and TCP have apart.
#[derive(Debug, Default)]
struct Lane {
    asked: usize,
    answers: usize,
    next_hedge: Option<Instant>,
    give_up: Option<Instant>,
}

/// A machine that asks several servers at once.
///
/// The first few are asked at once. A failure, or a pause of [`QueryConfig::hedge`], brings in the next, so a dead
/// server costs nothing but its own timeout. The driver feeds it with `handle_datagram` and the three `handle_tcp_*`.
#[derive(Debug)]
pub struct Query {
    config: QueryConfig,
    seed: Seed,
    asking: Vec<Asking>,
    lanes: [Lane; 2],
    report: Report,
    is_reported: bool,
    is_closed: bool,
    counters: Counters,
    out: VecDeque<Output<Act, Event>>,
}

/// An error: there are too many servers for one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a query of {0} servers: at most {MOST_SERVERS} can be asked")]
pub struct TooManyServers(pub usize);

impl Query {
    /// Makes a query that begins to ask at once.
    ///
    /// # Errors
    /// [`TooManyServers`] when there are more than [`MOST_SERVERS`].
    pub fn new(mut config: QueryConfig, seed: Seed, now: Instant) -> Result<Self, TooManyServers> {
        if config.servers.len() > MOST_SERVERS {
            return Err(TooManyServers(config.servers.len()));
        }
        let servers = std::mem::take(&mut config.servers);
        let mut query = Self {
            config,
            seed,
            asking: Vec::new(),
            lanes: Default::default(),
            report: Report::default(),
            is_reported: false,
            is_closed: false,
            counters: Counters::default(),
            out: VecDeque::new(),
        };
        for server in servers {
            query.add(server, now);
        }
        query.settle(now);
        Ok(query)
    }

    /// Adds a server that became known, as when a name was resolved. A server that is known already changes nothing.
    ///
    /// # Errors
    /// [`TooManyServers`] when there are [`MOST_SERVERS`] already.
    pub fn handle_server(&mut self, server: Server, now: Instant) -> Result<(), TooManyServers> {
        if self.asking.len() >= MOST_SERVERS {
            return Err(TooManyServers(self.asking.len() + 1));
        }
        if !self.is_closed {
            self.add(server, now);
            self.settle(now);
        }
        Ok(())
    }

    /// Asks again. Held connections are used again, so that the mapping of the local port stays the same. A server
    /// that is not heard over an old connection is asked over a new one. All other servers are forgotten, so those
    /// still wanted must be named by [`Query::handle_server`].
    pub fn handle_again(&mut self, now: Instant) {
        if self.is_closed {
            return;
        }
        for index in 0..self.asking.len() {
            if !self.asking[index].is_open {
                self.finish(index, false);
            }
        }
        self.asking.retain(|asking| asking.is_open);
        self.lanes = Default::default();
        self.report = Report::default();
        self.is_reported = false;
        for index in 0..self.asking.len() {
            self.lane(Transport::Tcp).asked += 1;
            // Other servers are being connected to, or asked, at this moment.
            if matches!(self.asking[index].state, State::Finished) {
                self.asking[index].is_again = true;
                self.begin(index, now);
            }
        }
        self.settle(now);
    }

    /// Takes a datagram that came on the socket this query sends from.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let id = Header::decode(bytes).map(|header| header.transaction);
        let found = self.asking.iter().position(|asking| {
            asking.server.transport == Transport::Udp
                && matches!(&asking.state, State::Asked(asked) if id == Ok(asked.0.id()))
        });
        match found {
            Some(index) => self.feed(index, from, bytes, now),
            None if id.is_ok() => self.counters.foreign = self.counters.foreign.saturating_add(1),
            None => self.counters.garbage = self.counters.garbage.saturating_add(1),
        }
        self.settle(now);
    }

    /// Notes that the system reports that datagrams cannot reach `server`.
    pub fn handle_unreachable(&mut self, server: SocketAddr, why: io::ErrorKind, now: Instant) {
        if let Some(index) = self.index(server, Transport::Udp)
            && let State::Asked(asked) = &mut self.asking[index].state
        {
            asked.0.handle_unreachable(why, now);
            self.drain(index, now);
            self.settle(now);
        }
    }

    /// Notes that the connection asked for by [`Act::OpenTcp`] is open.
    pub fn handle_tcp_open(&mut self, server: SocketAddr, now: Instant) {
        if let Some(index) = self.index(server, Transport::Tcp)
            && let State::Connecting { .. } = self.asking[index].state
        {
            self.begin(index, now);
            self.settle(now);
        }
    }

    /// Takes bytes that came on the connection to `server`.
    pub fn handle_tcp_data(&mut self, server: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(index) = self.index(server, Transport::Tcp) else {
            return;
        };
        let mut rest = bytes;
        while let State::Asked(asked) = &mut self.asking[index].state {
            match asked.1.feed(&mut rest) {
                Ok(Some(message)) => self.feed(index, server, &message, now),
                Ok(None) => break,
                Err(error) => self.fail(index, Failure::Garbage(error), now),
            }
        }
        self.settle(now);
    }

    /// Notes that the connection to `server` could not be made (`Some(why)`), broke, or was closed by the server.
    pub fn handle_tcp_closed(&mut self, server: SocketAddr, why: Option<io::ErrorKind>, now: Instant) {
        let Some(index) = self.index(server, Transport::Tcp) else {
            return;
        };
        self.asking[index].is_open = false;
        if matches!(self.asking[index].state, State::Connecting { .. } | State::Asked(_)) {
            let failure = why.map_or(Failure::Closed, |why| Fault::Unreachable(why).into());
            self.fail(index, failure, now);
        }
        self.settle(now);
    }

    /// Stops asking and closes every connection. No report follows.
    pub fn close(&mut self, _now: Instant) {
        self.out.clear();
        self.is_closed = true;
        self.lanes = Default::default();
        for asking in &mut self.asking {
            asking.state = State::Finished;
            if std::mem::take(&mut asking.is_open) {
                self.out.push_back(Output::Act(Act::CloseTcp { server: asking.server.address }));
            }
        }
    }

    fn index(&self, server: SocketAddr, transport: Transport) -> Option<usize> {
        self.asking.iter().position(|asking| {
            asking.server.transport == transport && is_same_address(asking.server.address, server)
        })
    }

    fn lane(&mut self, transport: Transport) -> &mut Lane {
        &mut self.lanes[transport as usize]
    }

    fn add(&mut self, server: Server, now: Instant) {
        if self.asking.iter().any(|known| known.server == server) {
            return;
        }
        self.asking.push(Asking { server, state: State::Unasked, is_open: false, is_again: false });
        self.is_reported = false;
        let (at_once, hedge) = (self.config.at_once.max(1), self.hedge(now));
        let lane = self.lane(server.transport);
        if lane.asked < at_once {
            self.ask_next(server.transport, now);
        } else {
            lane.next_hedge = lane.next_hedge.or(Some(hedge));
        }
    }

    fn hedge(&self, now: Instant) -> Instant {
        now + self.config.hedge.clamp(MIN_PAUSE, MAX_PAUSE)
    }

    /// Asks the next server of this transport, unless enough have answered.
    fn ask_next(&mut self, transport: Transport, now: Instant) {
        let enough = self.config.enough.max(1);
        let hedge = self.hedge(now);
        let lane = self.lane(transport);
        lane.next_hedge = None;
        if lane.answers >= enough {
            return;
        }
        let mut unasked = (0..self.asking.len()).filter(|index| {
            let asking = &self.asking[*index];
            asking.server.transport == transport && matches!(asking.state, State::Unasked)
        });
        let Some(index) = unasked.next() else {
            return;
        };
        let more = unasked.next().is_some();
        let lane = self.lane(transport);
        lane.asked += 1;
        lane.next_hedge = more.then_some(hedge);
        match transport {
            Transport::Udp => self.begin(index, now),
            Transport::Tcp => {
                let until = now + self.config.transaction.tcp_wait.clamp(MIN_PAUSE, MAX_PAUSE);
                self.asking[index].state = State::Connecting { until };
                self.asking[index].is_open = true;
                let server = self.asking[index].server.address;
                self.out.push_back(Output::Act(Act::OpenTcp { server }));
            }
        }
    }

    fn begin(&mut self, index: usize, now: Instant) {
        let Server { address, transport } = self.asking[index].server;
        let request = Request::new(address, transport, Message::binding(&mut self.seed));
        let transaction = Transaction::new(self.config.transaction, request, now)
            .expect("a Binding request without attributes can be written");
        self.asking[index].state = State::Asked(Box::new((transaction, Framer::default())));
        self.drain(index, now);
    }

    fn feed(&mut self, index: usize, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let State::Asked(asked) = &mut self.asking[index].state {
            asked.0.handle_message(from, bytes, now);
            self.drain(index, now);
        }
    }

    fn drain(&mut self, index: usize, now: Instant) {
        let Server { address: server, transport } = self.asking[index].server;
        while let State::Asked(asked) = &mut self.asking[index].state {
            match asked.0.poll_output() {
                Output::Act(bytes) => self.out.push_back(Output::Act(match transport {
                    Transport::Udp => Act::SendUdp { server, bytes },
                    Transport::Tcp => Act::SendTcp { server, bytes },
                })),
                Output::Event(transaction::Event::Answered { message, rtt }) => {
                    self.on_answer(index, &message, rtt, now);
                }
                Output::Event(transaction::Event::Failed(fault)) => self.fail(index, fault.into(), now),
                Output::Wait(_) => break,
            }
        }
    }

    fn on_answer(&mut self, index: usize, message: &Message, rtt: Duration, now: Instant) {
        let server = self.asking[index].server;
        let mapped = match seen_as(message, server.address) {
            Ok(mapped) => mapped,
            Err(failure) => return self.fail(index, failure, now),
        };
        let answer = Answer { server, mapped, rtt };
        self.out.push_back(Output::Event(Event::Answer(answer)));
        self.report.answers.push(answer);
        let hold = self.config.hold;
        self.finish(index, hold);
        let (enough, patience) = (self.config.enough.max(1), self.config.patience);
        let lane = self.lane(server.transport);
        lane.answers += 1;
        if lane.answers == enough {
            lane.next_hedge = None;
            lane.give_up = Some(now + patience.clamp(MIN_PAUSE, MAX_PAUSE));
        }
    }

    fn fail(&mut self, index: usize, failure: Failure, now: Instant) {
        let server = self.asking[index].server;
        tracing::debug!(server = %server.address, transport = %server.transport, %failure, "STUN server failed");
        if std::mem::take(&mut self.asking[index].is_again) && failure != Failure::Spared {
            self.finish(index, false);
            self.asking[index].state = State::Unasked;
            return self.ask_next(server.transport, now);
        }
        let event = Event::Failure(server, failure.clone());
        self.out.push_back(Output::Event(event));
        self.report.failures.push((server, failure));
        self.finish(index, false);
        self.ask_next(server.transport, now);
    }

    fn finish(&mut self, index: usize, hold: bool) {
        let asking = &mut self.asking[index];
        if let State::Asked(asked) = &asking.state {
            self.counters.add(asked.0.counters());
        }
        asking.state = State::Finished;
        if !hold && std::mem::take(&mut asking.is_open) {
            self.out.push_back(Output::Act(Act::CloseTcp { server: asking.server.address }));
        }
    }

    /// Spares servers that are not needed any more, and reports when none is left.
    fn settle(&mut self, now: Instant) {
        for transport in [Transport::Udp, Transport::Tcp] {
            let enough = self.config.enough.max(1);
            let lane = self.lane(transport);
            let (is_enough, is_late) = (lane.answers >= enough, lane.give_up.is_some_and(|at| at <= now));
            for index in 0..self.asking.len() {
                let asking = &self.asking[index];
                let is_spared = match asking.state {
                    State::Unasked => is_enough,
                    State::Connecting { .. } | State::Asked(_) => is_late,
                    State::Finished => false,
                };
                if is_spared && asking.server.transport == transport {
                    self.fail(index, Failure::Spared, now);
                }
            }
        }
        for lane in &mut self.lanes {
            lane.give_up = lane.give_up.filter(|at| *at > now);
        }
        let is_over = self.asking.iter().all(|asking| matches!(asking.state, State::Finished));
        if !is_over || self.is_closed {
            return;
        }
        for lane in &mut self.lanes {
            (lane.next_hedge, lane.give_up) = (None, None);
        }
        if !std::mem::replace(&mut self.is_reported, true) {
            self.report.counters = self.counters;
            self.out.push_back(Output::Event(Event::Done(self.report.clone())));
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let asking = self.asking.iter().map(|asking| match &asking.state {
            State::Connecting { until } => Some(Deadline::new(*until, "TCP connection to a STUN server")),
            State::Asked(asked) => asked.0.deadline(),
            State::Unasked | State::Finished => None,
        });
        let lanes = self.lanes.iter().flat_map(|lane| {
            [
                lane.next_hedge.map(|at| Deadline::new(at, "one more STUN server")),
                lane.give_up.map(|at| Deadline::new(at, "slow STUN servers")),
            ]
        });
        Deadline::earliest(asking.chain(lanes))
    }
}

/// Returns the address in a success response of `server`, if it is one that somebody can have.
pub(crate) fn seen_as(message: &Message, server: SocketAddr) -> Result<Mapped, Failure> {
    let mapped = message.mapped().ok_or(Failure::NoAddress)?;
    let mapped = SocketAddr::new(mapped.ip().to_canonical(), mapped.port());
    let is_possible = mapped.port() != 0
        && Reach::of(mapped.ip()) != Reach::Nowhere
        && Family::of(mapped.ip()) == Family::of(server.ip());
    if is_possible { Ok(Mapped(mapped)) } else { Err(Failure::Absurd(mapped)) }
}

/// The bounds of pauses. A pause of zero makes a driver spin; one of millennia overflows.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_secs(600);

impl Machine for Query {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        for index in 0..self.asking.len() {
            match &mut self.asking[index].state {
                State::Connecting { until } if *until <= now => self.fail(index, Failure::NoConnection, now),
                State::Asked(asked) => {
                    asked.0.handle_timeout(now);
                    self.drain(index, now);
                }
                _ => {}
            }
        }
        for transport in [Transport::Udp, Transport::Tcp] {
            if self.lane(transport).next_hedge.is_some_and(|at| at <= now) {
                self.ask_next(transport, now);
            }
        }
        self.settle(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "query_subject.rs"]
pub mod subject;

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
