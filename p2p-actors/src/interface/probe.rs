//! Drives a [`Probe`] over real sockets: what is the network in front of one address of ours?

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFuture, Addr, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use p2p_core::nat::PortRange;
use p2p_core::nat::probe::{Act, Event, Probe, ProbeConfig};
use p2p_core::nat::report::NatReport;
use p2p_core::stun::dial_back::SynOutcome;
use p2p_core::stun::{Server, Transport};
use p2p_core::{Local, Mapped, Seed};
use socket2::SockRef;
use tokio::net::{TcpListener, UdpSocket};
use tracing::{debug, trace};

use super::links::{self, Lane, Linked, Links};
use super::{NicAddress, bind};
use crate::drive::{Driven, Drives, now, turn};

/// Packets a probe sends to one server at most: with those about the port listened on, a SYN and three more, no
/// server gets more than 40. The eight SYNs of a search for a silent hop come on top.
pub const MOST_PACKETS: u32 = 35;

/// How long to leave a listener alone that only gives errors.
const PAUSE: Duration = Duration::from_millis(100);

/// What a probe tells.
pub(super) enum Learned {
    /// The first address heard: enough to publish. One server's word.
    External { transport: Transport, mapped: Mapped },
    /// All that came of it. The last word.
    Done(Arc<NatReport>),
}

/// What a probe is told of a server's name.
pub(super) enum LookedUp {
    /// It stands for these.
    Found(Vec<SocketAddr>),
    /// It stands for none.
    Unknown { name: String, why: String },
}

impl Message for LookedUp {
    type Result = ();
}

/// A probe under way. Dropping it ends it.
pub(super) struct Prober {
    actor: Addr<Probing>,
}

impl Prober {
    /// Probes from `address`, with servers whose names, so many, are being resolved. Local ports are taken from
    /// the default range of [`ProbeConfig`], on the side of `listen` where there are more: never the port
    /// listened on.
    pub(super) fn start(
        address: NicAddress,
        listen: u16,
        names: usize,
        seed: Seed,
        tell: Box<dyn FnMut(Learned)>,
    ) -> Self {
        let mut config = ProbeConfig::new(address.ip);
        config.names = names;
        config.most_packets = MOST_PACKETS;
        config.ports = beside(config.ports, listen);
        let probe = Probe::new(config, seed, now()).expect("no servers are not too many servers");
        let probing = Probing {
            address,
            driven: Driven::new(probe),
            tell,
            links: Links::default(),
            udp: BTreeMap::new(),
            listening: BTreeMap::new(),
        };
        Self { actor: probing.start() }
    }

    /// A name was looked up.
    pub(super) fn looked_up(&self, looked_up: LookedUp) {
        self.actor.do_send(looked_up);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.actor.do_send(Stop);
    }
}

/// The larger part of a range without `port`.
fn beside(range: PortRange, port: u16) -> PortRange {
    if !range.contains(port) {
        return range;
    }
    let below = PortRange { last: port.saturating_sub(1).max(range.first), ..range };
    let above = PortRange { first: port.saturating_add(1).min(range.last), ..range };
    if below.size() > above.size() { below } else { above }
}

struct Stop;

impl Message for Stop {
    type Result = ();
}

/// The actor behind a [`Prober`].
struct Probing {
    address: NicAddress,
    driven: Driven<Probe>,
    tell: Box<dyn FnMut(Learned)>,
    links: Links,
    udp: BTreeMap<Local, UdpSocket>,
    listening: BTreeMap<Local, SpawnHandle>,
}

impl Probing {
    /// The socket address to bind: with the zone, where there is one.
    fn bound(&self, local: Local) -> SocketAddr {
        self.address.with_port(local.0.port())
    }

    fn send(&mut self, from: Local, to: SocketAddr, bytes: &[u8], ctx: &mut Context<Self>) {
        let sent = match self.udp.get(&from) {
            Some(socket) => send_now(socket, bytes, to),
            None => bind::datagrams(self.bound(from)).and_then(|socket| {
                let sent = send_now(&socket, bytes, to);
                self.udp.insert(from, socket);
                ctx.spawn(Receive(from));
                sent
            }),
        };
        match sent {
            // The queue is full: a datagram lost, as on any link. The machine sends again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.driven.machine().handle_unreachable(from, to, cause(error.kind()), now()),
            Ok(()) => {}
        }
    }

    fn listen(&mut self, at: Local, ctx: &mut Context<Self>) {
        match bind::listen(self.bound(at)) {
            Ok(listener) => {
                let turning_away = ctx.spawn(turn_away(listener).into_actor(self));
                self.listening.insert(at, turning_away);
            }
            // Who dials it will be refused by us and not by a NAT; but the port is also dialled from, which fails too.
            Err(error) => debug!(%at, %error, "no throw-away port"),
        }
    }
}

/// Sends without asking the runtime first, which does not know yet that a new socket can be written to: datagrams
/// must leave in the order of acts.
fn send_now(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).send_to(bytes, &to.into()).map(|_| ())
}

/// A port that cannot be had is one that is in use, for the machine: it says nothing about the network.
fn cause(kind: io::ErrorKind) -> io::ErrorKind {
    match kind {
        io::ErrorKind::AddrNotAvailable => io::ErrorKind::AddrInUse,
        other => other,
    }
}

/// Takes whoever comes and lets go of him: that the door was open is all that counts.
async fn turn_away(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                trace!(%from, "somebody came to a throw-away port");
                // A RST costs the least; without it there is a FIN.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Reads one socket until it is taken away.
struct Receive(Local);

impl ActorFuture<Probing> for Receive {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut Probing,
        ctx: &mut Context<Probing>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        // One byte more than a message may have, so that a longer one is seen to be longer.
        let mut buffer = [0; Transport::Udp.most_bytes() + 1];
        loop {
            let Some(socket) = actor.udp.get(&self.0) else { return Poll::Ready(()) };
            let received = match ready!(socket.poll_recv_ready(task)) {
                Ok(()) => socket.try_recv_from(&mut buffer),
                Err(error) => Err(error),
            };
            match received {
                Ok((length, from)) => {
                    actor.driven.machine().handle_datagram(self.0, from, &buffer[..length], now());
                    turn(actor, ctx);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    trace!(%error, "no datagram");
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Actor for Probing {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        turn(self, ctx);
    }
}

impl Drives for Probing {
    type M = Probe;

    fn driven(&mut self) -> &mut Driven<Probe> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::SendUdp { from, to, bytes } => self.send(from, to, &bytes, ctx),
            Act::CloseUdp { from } => drop(self.udp.remove(&from)),
            Act::Listen { at } => self.listen(at, ctx),
            Act::Unlisten { at } => {
                if let Some(turning_away) = self.listening.remove(&at) {
                    ctx.cancel_future(turning_away);
                }
            }
            Act::OpenTcp { from, to } => links::open(self, (self.bound(from), to), ctx),
            Act::SendTcp { from, to, bytes } => links::write(self, (self.bound(from), to), &bytes),
            Act::CloseTcp { from, to } => links::close(self, (self.bound(from), to), ctx),
            // Servers that dial back are asked by the machine itself; there are no other helpers here.
            Act::AskSynProbe { helper, .. } => {
                self.driven.machine().handle_syn_probe(helper, SynOutcome::Unavailable, now());
            }
        }
    }

    fn on_event(&mut self, event: Event, ctx: &mut Context<Self>) {
        (self.tell)(match event {
            Event::External { transport, mapped, .. } => Learned::External { transport, mapped },
            Event::Done(report) => {
                debug!(counters = ?self.driven.machine().counters(), %report, "network probed");
                ctx.stop();
                Learned::Done(Arc::from(report))
            }
        });
    }
}

/// What the machine calls the near end of a connection: without its zone.
fn local(at: SocketAddr) -> Local {
    Local(SocketAddr::new(at.ip(), at.port()))
}

impl Linked for Probing {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn on_open(&mut self, (from, to): Lane) {
        self.driven.machine().handle_tcp_open(local(from), to, now());
    }

    fn on_bytes(&mut self, (from, to): Lane, bytes: &[u8]) {
        self.driven.machine().handle_tcp_data(local(from), to, bytes, now());
    }

    fn on_lost(&mut self, (from, to): Lane, why: Option<io::ErrorKind>) {
        self.driven.machine().handle_tcp_closed(local(from), to, why.map(cause), now());
    }
}

impl Handler<LookedUp> for Probing {
    type Result = ();

    fn handle(&mut self, looked_up: LookedUp, ctx: &mut Context<Self>) {
        let probe = self.driven.machine();
        match looked_up {
            LookedUp::Found(found) => {
                let both =
                    |address| [Transport::Udp, Transport::Tcp].map(|transport| Server { address, transport });
                let servers: Vec<Server> = found.into_iter().flat_map(both).collect();
                if let Err(error) = probe.handle_resolved(&servers, now()) {
                    debug!(%error, "STUN servers are left out");
                }
            }
            LookedUp::Unknown { name, why } => probe.handle_unresolved(name, why, now()),
        }
        turn(self, ctx);
    }
}

impl Handler<Stop> for Probing {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_listened_on_is_left_alone() {
        let range = PortRange { first: 40_000, last: 59_999 };
        assert_eq!(beside(range, 4_711), range);
        assert_eq!(beside(range, 40_000), PortRange { first: 40_001, ..range });
        assert_eq!(beside(range, 59_000), PortRange { last: 58_999, ..range });
    }
}
