//! One TCP port of ours, as servers outside see it.
//!
//! [`observe`] is for whoever wants to know that once, now: it dials a server from the port, asks, and keeps the
//! connection open, because its end may be the end of the mapping. An interface keeps an eye on the port it
//! listens on in the same way, with several servers, for as long as it lives.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use actix::{Actor, ActorContext, Addr, Context, Handler, Message};
use p2p_core::stun::query::{Act, Event, MOST_SERVERS};
use p2p_core::stun::{Failure, Query, QueryConfig, Server, Transport};
use p2p_core::{Local, Mapped, Seed};
use tokio::sync::mpsc::unbounded_channel;
use tracing::debug;

use super::links::{self, Lane, Linked, Links};
use crate::drive::{Driven, Drives, now, turn};

/// What came of a question.
#[derive(Debug)]
pub(super) enum Heard {
    /// A server answered.
    Answer(Observation),
    /// A server did not, and why.
    Failure { server: SocketAddr, failure: Failure },
    /// All servers named so far have done one or the other.
    Done,
}

/// What one server saw one port of ours as, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Who saw it.
    pub server: SocketAddr,
    /// The port here.
    pub local: Local,
    /// What it looked like there.
    pub mapped: Mapped,
    /// When the SYN left that made the mapping, or opened it again.
    pub sent: Instant,
    /// When the answer came.
    pub at: Instant,
}

/// A port that was observed. Its connection to the server is held until this is dropped; others can be dialled from
/// the port meanwhile, with `SO_REUSEADDR` and `SO_REUSEPORT`.
#[derive(Debug)]
pub struct Observed {
    /// What was seen.
    pub seen: Observation,
    _observer: Observer,
}

/// No server answered: each with its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no server says how it sees {local}: {failures:?}")]
pub struct Unobserved {
    /// The port here.
    pub local: SocketAddr,
    /// Who was asked, and what became of it. Empty when nobody was.
    pub failures: Vec<(SocketAddr, Failure)>,
}

/// Asks how the outside sees a TCP port of ours, now, over a connection that is held. The servers are tried in
/// their order, the next one 100 ms after the one before or when that has failed; the first answer counts.
/// `local` names a port, which may be that of a listener made by this crate. Dropping the future closes all.
///
/// # Errors
/// When no server answers.
///
/// # Panics
/// Outside of a `LocalSet`.
pub async fn observe(local: SocketAddr, servers: &[SocketAddr], seed: Seed) -> Result<Observed, Unobserved> {
    let (sender, mut receiver) = unbounded_channel();
    // An error means that the one who asked is gone.
    let tell = Box::new(move |heard| drop(sender.send(heard)));
    let servers = servers.iter().take(MOST_SERVERS);
    let servers = servers.map(|address| Server { address: *address, transport: Transport::Tcp }).collect();
    let config = QueryConfig { servers, at_once: 1, enough: 1, ..QueryConfig::default() };
    let observer = Observer::start(local, config, seed, tell);
    let mut failures = Vec::new();
    while let Some(heard) = receiver.recv().await {
        match heard {
            Heard::Answer(seen) => return Ok(Observed { seen, _observer: observer }),
            Heard::Failure { server, failure } => failures.push((server, failure)),
            Heard::Done => break,
        }
    }
    Err(Unobserved { local, failures })
}

/// Asks servers about one port. Dropping it closes the connections.
#[derive(Debug)]
pub(super) struct Observer {
    actor: Addr<Observing>,
}

impl Observer {
    /// Asks the servers of `config`, at most [`MOST_SERVERS`], all over TCP.
    pub(super) fn start(
        local: SocketAddr,
        config: QueryConfig,
        mut seed: Seed,
        tell: Box<dyn FnMut(Heard)>,
    ) -> Self {
        let driven = Driven::new(query(config, &mut seed));
        Self { actor: Observing { local, seed, tell, driven, links: Links::default() }.start() }
    }

    /// Asks one more server.
    pub(super) fn ask(&self, server: SocketAddr) {
        self.actor.do_send(Ask(server));
    }

    /// Asks again over the connections there are, and whoever is named by [`Observer::ask`] from now on.
    pub(super) fn again(&self) {
        self.actor.do_send(Again);
    }

    /// Closes every connection and begins anew, with no server yet: the network is another.
    pub(super) fn anew(&self) {
        self.actor.do_send(Anew);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.actor.do_send(Stop);
    }
}

struct Ask(SocketAddr);

impl Message for Ask {
    type Result = ();
}

struct Again;

impl Message for Again {
    type Result = ();
}

struct Anew;

impl Message for Anew {
    type Result = ();
}

struct Stop;

impl Message for Stop {
    type Result = ();
}

/// The actor behind an [`Observer`]: drives a [`Query`] over TCP, always from the same port.
struct Observing {
    local: SocketAddr,
    seed: Seed,
    tell: Box<dyn FnMut(Heard)>,
    driven: Driven<Query>,
    links: Links,
}

fn query(config: QueryConfig, seed: &mut Seed) -> Query {
    Query::new(config, seed.fork("query"), now()).expect("the list was cut to what a query takes")
}

impl Observing {
    fn close(&mut self, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
    }
}

impl Actor for Observing {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        turn(self, ctx);
    }
}

impl Drives for Observing {
    type M = Query;

    fn driven(&mut self) -> &mut Driven<Query> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        let lane = |server| (self.local, server);
        match act {
            Act::SendUdp { server, .. } => {
                // No server is asked over UDP here.
                self.driven.machine().handle_unreachable(server, io::ErrorKind::Unsupported, now());
            }
            Act::OpenTcp { server } => links::open(self, lane(server), ctx),
            Act::SendTcp { server, bytes } => links::write(self, lane(server), &bytes),
            Act::CloseTcp { server } => links::close(self, lane(server), ctx),
        }
    }

    fn on_event(&mut self, event: Event, _: &mut Context<Self>) {
        let heard = match event {
            Event::Answer(answer) => {
                let (server, at) = (answer.server.address, now());
                let sent = self.links.since((self.local, server)).unwrap_or(at);
                let local = Local(self.local);
                let observed = Observation { server, local, mapped: answer.mapped, sent, at };
                Heard::Answer(observed)
            }
            Event::Failure(server, failure) => Heard::Failure { server: server.address, failure },
            Event::Done(report) => {
                debug!(local = %self.local, counters = ?report.counters, "all STUN servers were heard");
                Heard::Done
            }
        };
        (self.tell)(heard);
    }
}

impl Linked for Observing {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn on_open(&mut self, (_, server): Lane) {
        self.driven.machine().handle_tcp_open(server, now());
    }

    fn on_bytes(&mut self, (_, server): Lane, bytes: &[u8]) {
        self.driven.machine().handle_tcp_data(server, bytes, now());
    }

    fn on_lost(&mut self, (_, server): Lane, why: Option<io::ErrorKind>) {
        self.driven.machine().handle_tcp_closed(server, why, now());
    }
}

impl Handler<Ask> for Observing {
    type Result = ();

    fn handle(&mut self, Ask(address): Ask, ctx: &mut Context<Self>) {
        let server = Server { address, transport: Transport::Tcp };
        if let Err(error) = self.driven.machine().handle_server(server, now()) {
            debug!(%error, %address, "a STUN server is left out");
        }
        turn(self, ctx);
    }
}

impl Handler<Again> for Observing {
    type Result = ();

    fn handle(&mut self, _: Again, ctx: &mut Context<Self>) {
        self.driven.machine().handle_again(now());
        turn(self, ctx);
    }
}

impl Handler<Anew> for Observing {
    type Result = ();

    fn handle(&mut self, _: Anew, ctx: &mut Context<Self>) {
        self.close(ctx);
        *self.driven.machine() = query(QueryConfig::default(), &mut self.seed);
        turn(self, ctx);
    }
}

impl Handler<Stop> for Observing {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.close(ctx);
        ctx.stop();
    }
}
