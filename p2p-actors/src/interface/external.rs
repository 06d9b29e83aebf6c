//! One address of ours, and the servers asked what they see it as.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WeakRecipient,
    WrapFuture,
};
use p2p_core::Seed;
use p2p_core::stun::query::{Act, Event};
use p2p_core::stun::{Query, QueryConfig, Server, Transport};
use socket2::SockRef;
use tokio::net::{TcpStream, UdpSocket};
use tracing::{debug, trace};

use super::bind;
use crate::drive::{Driven, Drives, now, turn};

/// How long to leave a socket alone that gives errors.
const PAUSE: Duration = Duration::from_millis(100);

/// What came of a query, told to the interface.
pub(super) struct FromExternal {
    /// The address asked about: as it was given, with the port listened on.
    pub(super) local: SocketAddr,
    pub(super) event: Event,
}

impl Message for FromExternal {
    type Result = ();
}

/// Asks one more server, over both transports.
pub(super) struct Ask(pub(super) SocketAddr);

impl Message for Ask {
    type Result = ();
}

/// Forgets everything and begins anew, with no server yet.
pub(super) struct Again;

impl Message for Again {
    type Result = ();
}

/// Ends.
pub(super) struct Stop;

impl Message for Stop {
    type Result = ();
}

/// A connection to a server.
struct Link {
    /// Dialling or reading: the future that waits for the socket.
    waiting: SpawnHandle,
    stream: Option<Rc<TcpStream>>,
}

/// Drives a [`Query`] over sockets of one local address. The TCP ones go out from the port listened on, so that
/// what the servers see is what a peer has to dial.
pub(super) struct External {
    local: SocketAddr,
    seed: Seed,
    owner: WeakRecipient<FromExternal>,
    driven: Driven<Query>,
    udp: Option<Rc<UdpSocket>>,
    links: BTreeMap<SocketAddr, Link>,
}

fn query(seed: &mut Seed) -> Query {
    Query::new(QueryConfig::default(), seed.fork("query"), now())
        .expect("no servers are not too many servers")
}

impl External {
    pub(super) fn new(local: SocketAddr, mut seed: Seed, owner: WeakRecipient<FromExternal>) -> Self {
        let udp = bind::datagrams(local);
        if let Err(error) = &udp {
            debug!(%local, %error, "no UDP socket");
        }
        Self {
            local,
            driven: Driven::new(query(&mut seed)),
            seed,
            owner,
            udp: udp.ok().map(Rc::new),
            links: BTreeMap::new(),
        }
    }

    fn receive(&self, ctx: &mut Context<Self>) {
        let Some(socket) = self.udp.clone() else {
            return;
        };
        let receiving = async move {
            let mut buffer = vec![0; Transport::Udp.most_bytes() + 1];
            let received = socket.recv_from(&mut buffer).await;
            if received.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            received.map(|(length, from)| (buffer, length, from))
        };
        ctx.spawn(receiving.into_actor(self).map(|received, actor, ctx| {
            match received {
                Ok((buffer, length, from)) => {
                    let query = actor.driven.machine();
                    query.handle_datagram(from, &buffer[..length], now());
                    turn(actor, ctx);
                }
                Err(error) => trace!(%error, "no datagram"),
            }
            actor.receive(ctx);
        }));
    }

    fn send(&mut self, server: SocketAddr, bytes: &[u8]) {
        let sent = match &self.udp {
            Some(socket) => socket.try_send_to(bytes, server).map(|_| ()),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        match sent {
            // The queue is full: a datagram lost, as on any link. The machine sends again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                let query = self.driven.machine();
                query.handle_unreachable(server, error.kind(), now());
            }
            Ok(()) => {}
        }
    }

    fn open(&mut self, server: SocketAddr, ctx: &mut Context<Self>) {
        let local = self.local;
        let dialling = async move { bind::dial(local, server, None).await };
        let waiting = ctx.spawn(dialling.into_actor(self).map(move |dialled, actor, ctx| {
            let query = actor.driven.machine();
            match dialled {
                Ok(stream) => {
                    query.handle_tcp_open(server, now());
                    // Its end must not leave the port in TIME_WAIT towards this server: it is asked again.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    actor.read(server, Rc::new(stream), ctx);
                }
                Err(error) => actor.lose(server, Some(error.kind())),
            }
            turn(actor, ctx);
        }));
        self.links.insert(server, Link { waiting, stream: None });
    }

    fn read(&mut self, server: SocketAddr, stream: Rc<TcpStream>, ctx: &mut Context<Self>) {
        let reading = Rc::clone(&stream);
        let reading = async move {
            let mut buffer = vec![0; 1_024];
            loop {
                reading.readable().await?;
                match reading.try_read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read.map(|length| (buffer, length)),
                }
            }
        };
        let again = Rc::clone(&stream);
        let waiting =
            ctx.spawn(reading.into_actor(self).map(move |read: io::Result<(Vec<u8>, usize)>, actor, ctx| {
                match read {
                    Ok((_, 0)) => actor.lose(server, None),
                    Ok((buffer, length)) => {
                        // First the next read, so that the machine can stop it.
                        actor.read(server, again, ctx);
                        let query = actor.driven.machine();
                        query.handle_tcp_data(server, &buffer[..length], now());
                    }
                    Err(error) => actor.lose(server, Some(error.kind())),
                }
                turn(actor, ctx);
            }));
        let stream = Some(stream);
        self.links.insert(server, Link { waiting, stream });
    }

    fn write(&mut self, server: SocketAddr, bytes: &[u8]) {
        let stream = self.links.get(&server).and_then(|link| link.stream.as_ref());
        let written =
            stream.map_or(Err(io::ErrorKind::NotConnected.into()), |stream| stream.try_write(bytes));
        // A request of twenty bytes always fits the empty buffer of a new connection.
        match written {
            Ok(length) if length == bytes.len() => {}
            Ok(_) => self.lose(server, Some(io::ErrorKind::WriteZero)),
            Err(error) => self.lose(server, Some(error.kind())),
        }
    }

    /// The connection is no more, by itself.
    fn lose(&mut self, server: SocketAddr, why: Option<io::ErrorKind>) {
        self.links.remove(&server);
        let query = self.driven.machine();
        query.handle_tcp_closed(server, why, now());
    }

    fn close(&mut self, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
    }
}

impl Actor for External {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.receive(ctx);
        turn(self, ctx);
    }
}

impl Drives for External {
    type M = Query;

    fn driven(&mut self) -> &mut Driven<Query> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::SendUdp { server, bytes } => self.send(server, &bytes),
            Act::OpenTcp { server } => self.open(server, ctx),
            Act::SendTcp { server, bytes } => self.write(server, &bytes),
            Act::CloseTcp { server } => {
                if let Some(link) = self.links.remove(&server) {
                    ctx.cancel_future(link.waiting);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event, _: &mut Context<Self>) {
        if let Some(owner) = self.owner.upgrade() {
            owner.do_send(FromExternal { local: self.local, event });
        }
    }
}

impl Handler<Ask> for External {
    type Result = ();

    fn handle(&mut self, Ask(address): Ask, ctx: &mut Context<Self>) {
        for transport in [Transport::Udp, Transport::Tcp] {
            let server = Server { address, transport };
            if let Err(error) = self.driven.machine().handle_server(server, now()) {
                debug!(%error, %address, "a STUN server is left out");
            }
        }
        turn(self, ctx);
    }
}

impl Handler<Again> for External {
    type Result = ();

    fn handle(&mut self, _: Again, ctx: &mut Context<Self>) {
        self.close(ctx);
        *self.driven.machine() = query(&mut self.seed);
        turn(self, ctx);
    }
}

impl Handler<Stop> for External {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.close(ctx);
        ctx.stop();
    }
}
