//! A machine for one relayed address on one server, which is got, kept, used and given back.

mod config;
mod keep;
mod output;
mod peers;
mod receive;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use config::AllocationConfig;
pub use output::{AllocationOutput, Counters, Event, Lease, Misuse};

use super::channel::{self, CHANNEL_HEADER};
use super::credentials::{Credentials, LongTermAuth};
pub use super::data::ConnectionId;
use super::data::{DataConfig, DataConnection};
use super::errand::{Draft, Errand};
use super::failure::Failure;
use super::frame::Framer;
use super::{Families, Packet, Relaying};
use crate::stun::{Attribute, Class, Message, Method, TransactionId};
use crate::{Backoff, Deadline, Family, Machine, Output, Reach, Seed};
use peers::{Peers, Route};

/// The most peers of one allocation: of addresses permitted, and of channels, each.
pub const MOST_PEERS: usize = 32;
/// The most Connect requests under way at a time.
pub const MOST_CONNECTS: usize = 16;

/// The shortest time between renewals, however short a lifetime is.
const SOONEST: Duration = Duration::from_millis(500);
/// The shortest time between two checks because of doubt.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);
/// The time after a wrong suspicion in which the next unsigned refusal counts for nothing.
const SUSPICION_PAUSE: Duration = Duration::from_secs(10);
/// The number of keep-alives without answer, one after another, that are a reason for doubt.
const MOST_MISSES: u8 = 3;
/// The time that a closed machine waits for an allocation that was asked for, to give it back.
const CLOSING: Duration = Duration::from_secs(3);
/// The time that a server may take to dial a peer (RFC 6062, section 5.2: at least 30 s), with the way there and
/// back.
const CONNECT_WAIT: Duration = Duration::from_millis(39_500);

/// The purpose of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    Allocate,
    Refresh,
    Farewell,
    Permit(Vec<IpAddr>),
    Bind(SocketAddr),
    Connect(SocketAddr),
}

#[derive(Debug)]
struct Standing {
    lease: Lease,
    /// The time at which the server drops the allocation.
    ends: Instant,
    /// The time at which it is to be renewed.
    refresh: Instant,
    /// The time at which the last renewal was asked for.
    checked: Instant,
    is_troubled: bool,
    retry: Backoff,
    /// The time before which there is no suspicion.
    calm_until: Instant,
}

#[derive(Debug)]
enum State {
    Asking {
        /// The allocation that an unsigned refusal spoke against, with the login it was made by.
        old: Option<Box<(Standing, LongTermAuth)>>,
        is_first: bool,
    },
    Standing(Box<Standing>),
    Closing {
        until: Instant,
    },
    Over,
}

/// The keep-alives to the server, so that NATs do not forget us.
#[derive(Debug, Default)]
struct Pulse {
    at: Option<Instant>,
    /// The last question, until it is answered.
    asked: Option<TransactionId>,
    misses: u8,
    /// True when the server answers such questions at all.
    is_heard: bool,
}

/// A machine that keeps one relayed address on one server.
///
/// | method | input |
/// |---|---|
/// | [`handle_data`](Self::handle_data) | a datagram came from the server, or a piece of its stream |
/// | [`handle_closed`](Self::handle_closed) | the connection broke, or ICMP says the server cannot be reached |
/// | [`handle_doubt`](Self::handle_doubt) | data gets no answer, so the allocation may be gone |
/// | [`permit`](Self::permit), [`bind`](Self::bind), [`forget`](Self::forget) | a peer is of interest or no longer |
/// | [`send`](Self::send) | data for a peer |
/// | [`connect`](Self::connect), [`data_connection`](Self::data_connection) | connections of peers (RFC 6062) |
/// | [`renew_credentials`](Self::renew_credentials) | those with a limited time are about to end |
/// | [`close`](Self::close) | it is not needed any more |
///
/// Acts are packets for the server: one datagram each, or pieces of the stream in their order. The connection to the
/// server must be open when the machine is made.
#[derive(Debug)]
pub struct Allocation {
    config: AllocationConfig,
    login: LongTermAuth,
    seed: Seed,
    framer: Framer,
    state: State,
    peers: Peers,
    errands: Vec<(Purpose, Errand)>,
    pulse: Pulse,
    counters: Counters,
    out: VecDeque<AllocationOutput>,
}

impl Allocation {
    /// Makes an allocation that is asked for at once.
    ///
    /// # Errors
    /// [`Misuse::Transport`] when connections are to be relayed over UDP (RFC 6062, section 4.1).
    pub fn new(config: AllocationConfig, seed: Seed, now: Instant) -> Result<Self, Misuse> {
        if config.relaying == Relaying::Tcp && !config.carrier.is_stream() {
            return Err(Misuse::Transport);
        }
        let mut allocation = Self {
            login: LongTermAuth::new(config.credentials.clone()),
            config,
            seed,
            framer: Framer::default(),
            state: State::Asking { old: None, is_first: true },
            peers: Peers::new(),
            errands: Vec::new(),
            pulse: Pulse::default(),
            counters: Counters::default(),
            out: VecDeque::new(),
        };
        allocation.ask(now);
        Ok(allocation)
    }

    /// Returns the configuration it was made with.
    pub fn config(&self) -> &AllocationConfig {
        &self.config
    }

    /// Returns the lease, if there is one.
    pub fn lease(&self) -> Option<&Lease> {
        self.standing().map(|standing| &standing.lease)
    }

    /// Returns the counts of what was sent and what was dropped.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        self.errands.iter().for_each(|(_, errand)| counters.requests.add(errand.counters()));
        counters
    }

    /// Lets a peer send to us, from any of its ports, and keeps it so. [`Event::Permitted`] or [`Event::Refused`]
    /// follows. It may be called before there is an allocation.
    ///
    /// # Errors
    /// [`Misuse`] when nobody can be at that address, or there are too many peers.
    pub fn permit(&mut self, peer: IpAddr, now: Instant) -> Result<(), Misuse> {
        let peer = self.check_peer(SocketAddr::new(peer, 1))?.ip();
        self.peers.permit(peer, now)?;
        self.settle(now);
        Ok(())
    }

    /// Lets a peer send to us, and has data to and from it go by a channel. A channel takes four bytes more for a
    /// datagram, while indications take 36 and more. Until [`Event::Bound`], and where the server has no channel,
    /// data goes by indications.
    ///
    /// # Errors
    /// [`Misuse`] when nobody can be at that address, there are too many peers, or connections are relayed.
    pub fn bind(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Misuse> {
        let peer = self.check_peer(peer)?;
        if self.config.relaying == Relaying::Tcp {
            return Err(Misuse::Transport);
        }
        self.peers.permit(peer.ip(), now)?;
        self.peers.bind(peer, now)?;
        self.framer.allow_channels();
        self.settle(now);
        Ok(())
    }

    /// Lets the permission and all channels of this address end.
    pub fn forget(&mut self, peer: IpAddr, now: Instant) {
        self.peers.forget(peer.to_canonical(), now);
    }

    /// Has this data relayed. No event tells whether it arrives.
    ///
    /// # Errors
    /// [`Misuse`] when there is no allocation, the peer is not let through yet, or the data is too large.
    pub fn send(&mut self, peer: SocketAddr, data: Bytes, now: Instant) -> Result<(), Misuse> {
        let peer = canonical(peer);
        if self.standing().is_none() {
            return Err(Misuse::NoAllocation);
        }
        let size = data.len();
        let packet = match self.peers.route(peer, now).ok_or(Misuse::NotPermitted)? {
            Route::Channel(number) => Packet::channel_data(number, data, self.config.carrier.is_stream()),
            Route::Indication => {
                let id = TransactionId::new(&mut self.seed);
                let message = Message::new(Class::Indication, Method::SEND, id)
                    .with(Attribute::XorPeerAddress(peer))
                    .with(Attribute::Data(data));
                message.encode(self.config.carrier.transport()).ok().map(Packet::message)
            }
        };
        self.out.push_back(Output::Act(packet.ok_or(Misuse::TooLarge(size))?));
        Ok(())
    }

    /// Returns the four bytes to put before `length` bytes for this peer, or `None` while it has no channel. It is
    /// for callers that send much from their own buffer. On a stream the caller fills up to four bytes.
    pub fn header(&self, peer: SocketAddr, length: usize, now: Instant) -> Option<[u8; CHANNEL_HEADER]> {
        match (self.standing()?, self.peers.route(canonical(peer), now)?) {
            (_, Route::Channel(number)) => number.header(length),
            (_, Route::Indication) => None,
        }
    }

    /// Returns peer and payload of a datagram by a channel, and `None` for anything else, which belongs into
    /// [`handle_data`](Self::handle_data). It is for callers that receive much into their own buffer.
    pub fn peek<'a>(&self, datagram: &'a [u8]) -> Option<(SocketAddr, &'a [u8])> {
        self.standing()?;
        let (number, payload) = channel::split(datagram).ok()?;
        Some((self.peers.peer(number)?, payload))
    }

    /// Has the server dial a peer (RFC 6062, section 4.3). [`Event::Connected`] or [`Event::NotConnected`] follows.
    ///
    /// # Errors
    /// [`Misuse`] when there is no allocation, it is not for connections, or nobody can be at that address.
    pub fn connect(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Misuse> {
        let peer = self.check_peer(peer)?;
        if self.config.relaying == Relaying::Udp {
            return Err(Misuse::Transport);
        }
        if !matches!(self.state, State::Standing(_)) {
            return Err(Misuse::NoAllocation);
        }
        let is_connect = |(purpose, _): &&(Purpose, Errand)| matches!(purpose, Purpose::Connect(_));
        if self.errands.iter().filter(is_connect).count() >= MOST_CONNECTS {
            return Err(Misuse::TooManyConnections);
        }
        let draft = Draft::new(Method::CONNECT).with(Attribute::XorPeerAddress(peer));
        self.begin(Purpose::Connect(peer), draft, now);
        Ok(())
    }

    /// Returns the machine for a connection told by [`Event::Attempt`] or [`Event::Connected`]. It must be run on a
    /// new connection to the same server, of the same kind, as soon as that is open.
    pub fn data_connection(&mut self, connection: ConnectionId, now: Instant) -> DataConnection {
        let config = DataConfig { line: self.config.line(), connection, login: self.login.clone() };
        DataConnection::new(config, self.seed.fork("data connection"), now)
    }

    /// Signs with these credentials from now on. The user of an allocation cannot change (441). Only the time before
    /// the name in time-limited credentials may, where the server takes it so.
    pub fn renew_credentials(&mut self, credentials: Credentials) {
        self.login.renew(credentials.clone());
        self.config.credentials = credentials;
    }

    /// Takes a datagram from the server's address, or a piece of its stream.
    pub fn handle_data(&mut self, bytes: Bytes, now: Instant) {
        self.receive(bytes, now);
        self.settle(now);
    }

    /// Notes that the connection broke, so the allocation is gone. Over UDP it notes that ICMP says the server cannot
    /// be reached. While there is no allocation that is the end. Later it is only a reason for doubt, as anybody can
    /// send ICMP.
    pub fn handle_closed(&mut self, why: Option<io::ErrorKind>, now: Instant) {
        match &self.state {
            State::Over => return,
            State::Closing { .. } if self.config.carrier.is_stream() => self.end(Event::Closed),
            _ if self.config.carrier.is_stream() => self.end(Event::Failed(Failure::Closed(why))),
            State::Standing(_) => self.handle_doubt(now),
            State::Asking { .. } | State::Closing { .. } => {
                let why = why.unwrap_or(io::ErrorKind::HostUnreachable);
                self.errands.iter_mut().for_each(|(_, errand)| errand.handle_unreachable(why, now));
                self.drain(now);
            }
        }
        self.settle(now);
    }

    /// Notes that data gets no answer, and asks the server at once, unless it was asked within the last second. It
    /// asks whether the allocation is still there. It renews permissions and channels, which the server may have kept
    /// for less time than RFC 8656 says. Within 10 s there is [`Event::Moved`], [`Event::Trouble`] or
    /// [`Event::Failed`]. If there is none, all is well as far as the server goes.
    pub fn handle_doubt(&mut self, now: Instant) {
        if let State::Standing(standing) = &mut self.state
            && now >= standing.checked + DOUBT_PAUSE
        {
            standing.refresh = standing.refresh.min(now);
            self.peers.doubt(now);
            self.settle(now);
        }
    }

    /// Gives the allocation back. [`Event::Closed`] follows within a few seconds. Then the connection to the server
    /// may be closed.
    pub fn close(&mut self, now: Instant) {
        let may_stand = match &self.state {
            State::Closing { .. } | State::Over => return,
            State::Standing(_) | State::Asking { old: Some(_), .. } => true,
            State::Asking { old: None, .. } => false,
        };
        self.out.clear();
        self.peers = Peers::new();
        self.pulse = Pulse::default();
        // An allocation that may come yet is waited for, to be given back as well.
        self.drop_errands(|purpose, errand| *purpose == Purpose::Allocate && errand.may_be_done());
        if !may_stand && self.errands.is_empty() {
            return self.end(Event::Closed);
        }
        self.state = State::Closing { until: now + CLOSING };
        if may_stand {
            self.say_farewell(now);
        }
    }

    fn say_farewell(&mut self, now: Instant) {
        self.begin(Purpose::Farewell, Draft::new(Method::REFRESH).with(Attribute::Lifetime(0)), now);
    }

    fn standing(&self) -> Option<&Standing> {
        match &self.state {
            State::Standing(standing) => Some(standing),
            State::Asking { old: Some(old), .. } => Some(&old.0),
            State::Asking { old: None, .. } | State::Closing { .. } | State::Over => None,
        }
    }

    fn check_peer(&self, peer: SocketAddr) -> Result<SocketAddr, Misuse> {
        let peer = canonical(peer);
        let family = Family::of(peer.ip());
        match &self.state {
            State::Closing { .. } | State::Over => Err(Misuse::NoAllocation),
            _ if peer.port() == 0 || Reach::of(peer.ip()) == Reach::Nowhere => Err(Misuse::Nowhere),
            _ if !self.config.families.wants(family) => Err(Misuse::Family(family)),
            _ => Ok(peer),
        }
    }

    fn ask(&mut self, now: Instant) {
        let protocol = self.config.relaying.protocol();
        let draft = Draft::new(Method::ALLOCATE).with(Attribute::RequestedTransport(protocol));
        let draft = match self.config.families {
            Families::V4 => draft,
            Families::V6 => draft.with(Attribute::RequestedAddressFamily(Family::V6)),
            Families::Both => draft.with(Attribute::AdditionalAddressFamily(Family::V6)),
        };
        self.begin(Purpose::Allocate, draft, now);
    }

    fn begin(&mut self, purpose: Purpose, draft: Draft, now: Instant) {
        let mut line = self.config.line();
        match purpose {
            Purpose::Connect(_) => line.transaction.tcp_wait = CONNECT_WAIT,
            Purpose::Farewell => {
                (line.transaction.sends, line.transaction.last_wait) = (3, 1);
                line.transaction.tcp_wait = CLOSING;
            }
            _ => {}
        }
        match Errand::begin(line, draft, &self.login, &mut self.seed, now) {
            Ok(errand) => {
                self.errands.push((purpose, errand));
                self.drain(now);
            }
            Err(failure) => self.on_failure(purpose, failure, now),
        }
    }

    /// Drains all requests as far as they go.
    fn drain(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.errands.len() {
            let (_, errand) = &mut self.errands[index];
            let out = &mut self.out;
            let send = |bytes| out.push_back(Output::Act(Packet::message(bytes)));
            let Some(result) = errand.drain(&mut self.login, &mut self.seed, send, now) else {
                index += 1;
                continue;
            };
            let (purpose, errand) = self.errands.remove(index);
            self.counters.requests.add(errand.counters());
            match result {
                Ok(message) => self.on_success(purpose, errand.began(), &message, now),
                Err(failure) => self.on_failure(purpose, failure, now),
            }
            // The handler may have changed the list in any way.
            index = 0;
        }
    }

    fn drop_errands(&mut self, keep: impl Fn(&Purpose, &Errand) -> bool) {
        for (_, errand) in self.errands.extract_if(.., |(purpose, errand)| !keep(purpose, errand)) {
            self.counters.requests.add(errand.counters());
        }
    }

    fn end_closing(&mut self) {
        if self.errands.is_empty() {
            self.end(Event::Closed);
        }
    }

    fn end(&mut self, last_word: Event) {
        self.drop_errands(|_, _| false);
        self.state = State::Over;
        self.peers = Peers::new();
        self.pulse = Pulse::default();
        self.framer = Framer::default();
        self.tell(last_word);
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    fn keep_alive(&self) -> Duration {
        self.config.keep_alive.clamp(Duration::from_secs(1), Duration::from_secs(300))
    }

    fn is_refreshing(&self) -> bool {
        self.errands.iter().any(|(purpose, _)| *purpose == Purpose::Refresh)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let errands = self.errands.iter().map(|(_, errand)| errand.deadline());
        let own = match &self.state {
            State::Over => return None,
            State::Closing { until } => [Some(Deadline::new(*until, "TURN farewell")), None, None, None],
            State::Asking { .. } => [None; 4],
            State::Standing(standing) => [
                (!self.is_refreshing()).then(|| Deadline::new(standing.refresh, "TURN refresh")),
                Some(Deadline::new(standing.ends, "end of the TURN allocation")),
                self.peers.deadline(),
                self.pulse.at.map(|at| Deadline::new(at, "TURN keep-alive")),
            ],
        };
        Deadline::earliest(errands.chain(own))
    }
}

impl Machine for Allocation {
    type Act = Packet;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.errands.iter_mut().for_each(|(_, errand)| errand.handle_timeout(now));
        self.drain(now);
        self.settle(now);
    }

    fn poll_output(&mut self) -> AllocationOutput {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

/// Returns the one form of an address that may be written in two.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(feature = "sim")]
pub mod subject;

#[cfg(test)]
#[path = "allocation_tests/mod.rs"]
mod tests;
