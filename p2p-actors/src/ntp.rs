//! The actor that asks NTP servers how far our clock is off, when the configuration names some.
//!
//! The clock of the system is not touched, and signals are dated by it as ever. What is measured is a fact for
//! attempts, which may have to meet a peer at a time: an offset with a bound, beside what the two peers measure
//! between themselves.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WeakRecipient,
    WrapFuture,
};
use p2p_core::clock::ntp::{Act, Client, ClientConfig, Report, TooManyServers};
use p2p_core::node::NtpServer;
use p2p_core::{Clock, Family, Seed};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tracing::{debug, trace};

use crate::drive::{Driven, Drives, now, turn};
use crate::resolve::resolve;

/// How long to leave a socket alone that gives errors.
const PAUSE: Duration = Duration::from_millis(100);

/// Room for an answer. What follows its 48 bytes is not looked at.
const ROOM: usize = 512;

/// What came of asking, told to the node.
pub(crate) struct FromNtp(pub(crate) Report);

impl Message for FromNtp {
    type Result = ();
}

/// The clock was set, or stood still: measure this one.
pub(crate) struct Measure(pub(crate) Clock);

impl Message for Measure {
    type Result = ();
}

/// The network may be another.
pub(crate) struct Again;

impl Message for Again {
    type Result = ();
}

/// Ends.
pub(crate) struct Stop;

impl Message for Stop {
    type Result = ();
}

/// The socket kept for one server.
struct Line {
    to: SocketAddr,
    socket: Rc<UdpSocket>,
    receiving: SpawnHandle,
}

/// Drives a [`Client`] over sockets of its own.
pub(crate) struct Ntp {
    servers: Vec<NtpServer>,
    families: Vec<Family>,
    owner: WeakRecipient<FromNtp>,
    driven: Driven<Client>,
    lines: BTreeMap<usize, Line>,
}

impl Ntp {
    /// Begins to ask `servers` about `clock`, from addresses of `families`.
    pub(crate) fn new(
        servers: Vec<NtpServer>,
        families: Vec<Family>,
        clock: Clock,
        seed: Seed,
        owner: WeakRecipient<FromNtp>,
    ) -> Result<Self, TooManyServers> {
        let config = ClientConfig { servers: servers.len(), ..ClientConfig::default() };
        let client = Client::new(config, clock, seed, now())?;
        Ok(Self { servers, families, owner, driven: Driven::new(client), lines: BTreeMap::new() })
    }

    fn look_up(&self, server: usize, ctx: &mut Context<Self>) {
        let (name, families) = (self.servers[server].clone(), self.families.clone());
        let looking = async move {
            let mut found = resolve(&name.host, name.port).await?;
            found.retain(|address| families.contains(&Family::of(address.ip())));
            if found.is_empty() { Err("no address of a family in use".to_owned()) } else { Ok(found) }
        };
        ctx.spawn(looking.into_actor(self).map(move |found, actor, ctx| {
            if let Err(why) = &found {
                debug!(server = %actor.servers[server], why, "NTP server not found");
            }
            actor.driven.machine().handle_resolved(server, found, now());
            turn(actor, ctx);
        }));
    }

    fn send(&mut self, server: usize, to: SocketAddr, bytes: &[u8], ctx: &mut Context<Self>) {
        // The system is asked directly: tokio does not yet know that a new socket can be written to.
        let sent = self.line(server, to, ctx).and_then(|socket| SockRef::from(&*socket).send(bytes));
        if let Err(error) = sent {
            self.lose(server, error);
        }
    }

    /// The socket to `to`: a new one has a port that nobody can guess.
    fn line(&mut self, server: usize, to: SocketAddr, ctx: &mut Context<Self>) -> io::Result<Rc<UdpSocket>> {
        if let Some(line) = self.lines.get(&server).filter(|line| line.to == to) {
            return Ok(Rc::clone(&line.socket));
        }
        self.hang_up(server, ctx);
        let socket = Rc::new(connected(to)?);
        let receiving = self.receive(server, Rc::clone(&socket), ctx);
        self.lines.insert(server, Line { to, socket: Rc::clone(&socket), receiving });
        Ok(socket)
    }

    fn receive(&self, server: usize, socket: Rc<UdpSocket>, ctx: &mut Context<Self>) -> SpawnHandle {
        let waiting = async move {
            let heard = hear(&socket).await;
            if heard.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            (heard, socket)
        };
        ctx.spawn(waiting.into_actor(self).map(move |(heard, socket), actor, ctx| {
            let Some(to) = actor.lines.get(&server).map(|line| line.to) else {
                return;
            };
            match heard {
                Ok((bytes, at)) => actor.driven.machine().handle_datagram(server, to, &bytes, at),
                Err(error) => actor.lose(server, error),
            }
            let receiving = actor.receive(server, socket, ctx);
            if let Some(line) = actor.lines.get_mut(&server) {
                line.receiving = receiving;
            }
            turn(actor, ctx);
        }))
    }

    fn lose(&mut self, server: usize, error: io::Error) {
        trace!(server = %self.servers[server], %error, "no way to an NTP server");
        self.driven.machine().handle_unreachable(server, error.kind(), now());
    }

    fn hang_up(&mut self, server: usize, ctx: &mut Context<Self>) {
        if let Some(line) = self.lines.remove(&server) {
            ctx.cancel_future(line.receiving);
        }
    }
}

/// The next datagram, and when it came.
async fn hear(socket: &UdpSocket) -> io::Result<(Vec<u8>, Instant)> {
    let mut bytes = vec![0; ROOM];
    let length = socket.recv(&mut bytes).await?;
    let at = now();
    bytes.truncate(length);
    Ok((bytes, at))
}

/// A socket that hears nobody but `to`, and of failures to reach it.
fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = StdUdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

impl Actor for Ntp {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        turn(self, ctx);
    }
}

impl Drives for Ntp {
    type M = Client;

    fn driven(&mut self) -> &mut Driven<Client> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Resolve { server } => self.look_up(server, ctx),
            Act::Send { server, to, bytes } => self.send(server, to, &bytes, ctx),
            Act::Release { server } => self.hang_up(server, ctx),
        }
    }

    fn on_event(&mut self, report: Report, _: &mut Context<Self>) {
        if let Some(owner) = self.owner.upgrade() {
            owner.do_send(FromNtp(report));
        }
    }
}

impl Handler<Measure> for Ntp {
    type Result = ();

    fn handle(&mut self, Measure(clock): Measure, ctx: &mut Context<Self>) {
        self.driven.machine().handle_clock(clock, now());
        turn(self, ctx);
    }
}

impl Handler<Again> for Ntp {
    type Result = ();

    fn handle(&mut self, _: Again, ctx: &mut Context<Self>) {
        self.driven.machine().handle_again(now());
        turn(self, ctx);
    }
}

impl Handler<Stop> for Ntp {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
        ctx.stop();
    }
}
