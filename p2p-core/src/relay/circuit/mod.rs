//! One relayed connection of an attempt, from the first question to a TURN server until the last byte: allocations,
//! what is agreed with the peer, routes, and the stream.
//!
//! Each end that has servers asks them for an address. The other end sends to it from wherever it can: from a socket of
//! its own, which costs one relay only, or from an address that a server lends it, which works where UDP does not. So
//! one server at either end is enough. Both tell each other what they were lent ([`RelayOffer`]), let each other through, and
//! knock on every route; the caller uses the first that is answered, the called one follows.
//!
//! Where a server relays connections (RFC 6062), the caller has it lend an address for those as well, and the peer dials
//! it. What comes of that is an ordinary TCP connection, so datagrams wait for it a little.
//!
//! A server that forgets us, or is gone, is replaced as [`turn::Client`](crate::turn::Client) says; the peer is told
//! the new address by signal, and the stream goes on where it was.

mod agree;
mod config;
mod data;
mod dialling;
mod drain;
mod named;
mod output;
#[cfg(feature = "sim")]
pub mod subject;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use config::{CircuitConfig, Connections};
pub use data::Transmit;
pub use output::{Act, CircuitFailure, Event, Via, Way};

use self::dialling::Dialling;
use self::named::Named;
use super::route::{Nonce, Routes};
use super::{RelayOffer, Route};
use crate::attempt::Role;
use crate::transport::{Stream, Token};
use crate::turn::client::ClientConfig;
use crate::turn::{Client, Families, Relaying};
use crate::{Deadline, Family, Machine, Output, Seed};

/// Addresses of the peer's that are let through, relays aside.
pub const MOST_PEER_ADDRESSES: usize = 16;
/// When an offer is said again, as long as nothing has come through.
const SAY_AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
/// Datagrams wait for a connection so long at least and at most; twice the time that an address took, in between. From
/// where the first datagram comes through, a connection takes three to four more round trips.
const GRACE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// What was written is still delivered for so long after the user has let go.
const LINGER: Duration = Duration::from_secs(5);
/// So often the peer is told that it is over, or once more what has arrived.
const FAREWELLS: u8 = 3;
/// The path is in doubt when nothing was acknowledged for so long, and then other routes are tried.
const DEAD_AFTER: Duration = Duration::from_secs(2);
/// The stream is given up when nothing was acknowledged for so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(14);

/// One kind of relaying: the TURN client that asks for it, and its outcome.
#[derive(Debug, Default)]
struct RelayClient {
    client: Option<Client>,
    /// Why there is none any more.
    failed: Option<String>,
    /// The client has had a relayed address once.
    has_relayed: bool,
    /// It is only told that it is not needed any more.
    is_leaving: bool,
}

/// The stream begins anew on another route at most so often.
const MOVE_PAUSE: Duration = Duration::from_millis(100);

/// How far datagrams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datagrams {
    /// Nothing has come through.
    Waiting,
    /// They come through, and a connection would be better.
    Held {
        until: Instant,
    },
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come through.
    Meeting {
        until: Instant,
    },
    /// Something has; what exactly is kept is for the owner to say.
    Met,
    /// The owner has said it.
    Kept,
    /// The user has let go, and something is still to be delivered.
    Lingering {
        until: Instant,
    },
    /// Only the servers have to be told.
    Closing,
    Over,
}

/// What is said to the peer, and when it is said again.
#[derive(Debug)]
struct Saying {
    last: Option<RelayOffer>,
    again: Option<(usize, Instant)>,
}

/// The kind of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayKind {
    /// The stream over datagrams.
    Datagrams,
    /// A connection: the peer's, through our server, or ours, through the peer's.
    Connection,
}

/// One relayed connection, on one end.
///
/// | methods | names |
/// |---|---|
/// | servers | [`handle_opened`](Self::handle_opened), [`handle_data`](Self::handle_data), [`handle_slice`](Self::handle_slice), [`handle_closed`](Self::handle_closed) |
/// | peer | [`handle_offer`](Self::handle_offer), [`handle_bare`](Self::handle_bare), [`handle_dialled`](Self::handle_dialled) |
/// | owner | [`keep`](Self::keep), [`release`](Self::release), [`close`](Self::close) |
/// | stream, when [`Event::Up`] was told | [`write`](Self::write), [`read`](Self::read), [`finish`](Self::finish) |
/// | drain | [`Machine::poll_output`]; before it, for speed, [`poll_transmit`](Self::poll_transmit) into a buffer of the driver's |
#[derive(Debug)]
pub struct Circuit {
    config: CircuitConfig,
    seed: Seed,
    began: Instant,
    /// The time of the last input.
    now: Instant,
    token: Token,
    state: State,
    datagrams: Datagrams,
    /// Clients for datagrams and for connections.
    clients: [RelayClient; 2],
    /// The peer's last word.
    theirs: Option<RelayOffer>,
    /// A knock that came before it.
    early: Option<(Route, Nonce)>,
    saying: Saying,
    named: Named,
    /// What a server did not let through, for the report.
    refused: Option<String>,
    /// What our server is suspected of.
    trouble: Option<String>,
    routes: Routes,
    stream: Option<Box<Stream>>,
    /// When the stream began anew on another route.
    moved: Option<Instant>,
    dialling: Dialling,
    /// Connections that may become the one that is kept.
    connections: usize,
    out: VecDeque<Output<Act, Event>>,
}

impl RelayClient {
    /// Returns true where there is a relayed address, or may yet be.
    fn is_hopeful(&self) -> bool {
        self.client.is_some() && !self.is_leaving
    }
}

fn index(relaying: Relaying) -> usize {
    match relaying {
        Relaying::Udp => 0,
        Relaying::Tcp => 1,
    }
}

impl Circuit {
    /// Asks the servers, and a caller tells the peer, at once.
    pub fn new(mut config: CircuitConfig, mut seed: Seed, now: Instant) -> Self {
        config.peer.truncate(MOST_PEER_ADDRESSES);
        config.within = config.within.clamp(Duration::from_millis(1), Duration::from_secs(300));
        let token = Token::new(&mut seed);
        let routes = Routes::new(!config.trusts(), &mut seed);
        let mut circuit = Self {
            began: now,
            now,
            state: State::Meeting { until: now + config.within },
            seed,
            token,
            datagrams: Datagrams::Waiting,
            clients: Default::default(),
            theirs: None,
            early: None,
            saying: Saying { last: None, again: None },
            named: Named::new(config.trusts()),
            refused: None,
            trouble: None,
            routes,
            stream: None,
            moved: None,
            dialling: Dialling::new(config.trusts()),
            config,
            connections: 0,
            out: VecDeque::new(),
        };
        circuit.start(Relaying::Udp, now);
        if circuit.config.role == Role::Caller {
            circuit.start(Relaying::Tcp, now);
        }
        circuit.drain(now);
        circuit
    }

    fn start(&mut self, relaying: Relaying, now: Instant) {
        let is_wanted = relaying == Relaying::Udp || self.config.connections != Connections::Never;
        let is_able =
            |server: &crate::turn::Server| relaying == Relaying::Udp || server.place.carrier.is_stream();
        let relay_client = &mut self.clients[index(relaying)];
        // Once it has failed or is not needed, nobody asks again.
        let is_over = relay_client.is_leaving || relay_client.failed.is_some();
        if relay_client.client.is_some() || is_over || !is_wanted || !self.config.servers.iter().any(is_able)
        {
            return;
        }
        let has = |family| self.config.families.contains(&family);
        let families = match (has(Family::V4), has(Family::V6)) {
            // Both at once is for datagrams only (RFC 8656, section 7.2, and RFC 6062 knows nothing of it).
            (true, true) if relaying == Relaying::Udp => Families::Both,
            (false, true) => Families::V6,
            _ => Families::V4,
        };
        let config = ClientConfig { relaying, families, ..ClientConfig::new(self.config.servers.clone()) };
        relay_client.client = Some(Client::new(config, self.seed.fork("turn"), now));
        for ip in self.config.peer.clone() {
            self.permit(ip, now);
        }
    }

    /// The route in use, once there is one.
    pub fn route(&self) -> Option<Route> {
        self.routes.current()
    }

    /// Returns the address of this family that a TURN server relays for us.
    pub fn relayed(&self, relaying: Relaying, family: Family) -> Option<SocketAddr> {
        let (_, _, lease) = self.clients[index(relaying)].client.as_ref()?.lease()?;
        lease.relayed.iter().map(|relayed| relayed.0).find(|address| Family::of(address.ip()) == family)
    }

    /// What our server is suspected of, while it is.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The owner keeps this; everything else is given back.
    pub fn keep(&mut self, kept: RelayKind, now: Instant) {
        if !matches!(self.state, State::Meeting { .. } | State::Met) {
            return;
        }
        self.state = State::Kept;
        self.saying.again = None;
        self.dialling.stop();
        match kept {
            RelayKind::Datagrams => self.end_client(Relaying::Tcp, now),
            RelayKind::Connection => {
                self.stream = None;
                self.routes.close();
                self.end_client(Relaying::Udp, now);
                if !self.clients[1].is_hopeful() {
                    // It goes through the peer's server, and is its own.
                    return self.close(now);
                }
            }
        }
        self.drain(now);
    }

    /// The user has let go: what was written is still delivered, for a few seconds.
    pub fn release(&mut self, now: Instant) {
        let pending = self.stream.as_mut().is_some_and(|stream| stream.finish(now).is_ok());
        if !pending || !matches!(self.state, State::Met | State::Kept) {
            return self.close(now);
        }
        self.state = State::Lingering { until: now + LINGER };
        self.end_client(Relaying::Tcp, now);
        self.drain(now);
    }

    /// Cuts it, and gives everything back. [`Event::Closed`] follows within a few seconds.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, State::Closing | State::Over) {
            return;
        }
        self.out.retain(
            |output| matches!(output, Output::Act(act) if !matches!(act, Act::Open { .. } | Act::Dial(_))),
        );
        // Nobody will be there to say it again. If all are lost, the peer notices later.
        for _ in 0..FAREWELLS {
            self.stream.iter_mut().for_each(|stream| stream.close(now));
            self.flush_stream(now);
        }
        self.state = State::Closing;
        (self.saying.again, self.stream) = (None, None);
        self.dialling.stop();
        self.routes.close();
        self.end_client(Relaying::Udp, now);
        self.end_client(Relaying::Tcp, now);
        self.drain(now);
    }

    /// Whether it is over and everything was given back.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// As [`Machine::poll_output`], but for the datagrams of the stream: for a driver that has room for control only, or
    /// takes those by [`poll_transmit`](Self::poll_transmit).
    pub fn poll_control(&mut self) -> Output<Act, Event> {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }

    fn end_client(&mut self, relaying: Relaying, now: Instant) {
        let relay_client = &mut self.clients[index(relaying)];
        relay_client.is_leaving = true;
        if let Some(client) = &mut relay_client.client {
            client.close(now);
        }
    }

    fn act(&mut self, act: Act) {
        self.out.push_back(Output::Act(act));
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    /// Memory in use by the stream, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.stream.as_ref().map_or(0, |stream| stream.memory())
    }

    fn deadline(&self) -> Option<Deadline> {
        let held = match self.datagrams {
            Datagrams::Held { until } => Some(Deadline::new(until, "no connection through the relay yet")),
            Datagrams::Waiting | Datagrams::Up => None,
        };
        let own = match self.state {
            State::Meeting { until } => Some(Deadline::new(until, "nothing has come through a relay")),
            State::Lingering { until } => Some(Deadline::new(until, "the last bytes through the relay")),
            State::Met | State::Kept | State::Closing => None,
            State::Over => return None,
        };
        let dial = self.dialling.deadline().map(|at| Deadline::new(at, "dialling through the relay again"));
        let clients =
            self.clients.iter().map(|relay_client| relay_client.client.as_ref().and_then(Client::deadline));
        let again = self.saying.again.map(|(_, at)| Deadline::new(at, "telling the peer of the relay again"));
        let stream = self.stream.as_ref().and_then(|stream| stream.deadline());
        Deadline::earliest(clients.chain([held, own, again, dial, stream, self.routes.deadline()]))
    }
}

impl Machine for Circuit {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        for relay_client in &mut self.clients {
            if let Some(client) = &mut relay_client.client {
                client.handle_timeout(now);
            }
        }
        if let Some(stream) = &mut self.stream {
            stream.handle_timeout(now);
        }
        match self.state {
            State::Meeting { until } if until <= now => self.give_up(now),
            State::Lingering { until } if until <= now => self.close(now),
            _ => {}
        }
        if let Datagrams::Held { until } = self.datagrams
            && until <= now
        {
            self.go_up();
        }
        if self.dialling.is_due(now) {
            self.dial();
        }
        self.say_again(now);
        self.drain(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if self.out.is_empty()
            && let Some(act) = self.next_datagram()
        {
            self.out.push_back(Output::Act(act));
        }
        self.poll_control()
    }
}
