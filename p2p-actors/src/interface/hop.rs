//! Drives a [`Hop`] over real sockets: where does a SYN die beyond our NAT, and nobody says so?
//!
//! It takes a system that tells who sent an ICMP error about a TCP socket: Linux does, by `IP_RECVERR`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, SpawnHandle,
    WrapFuture,
};
use futures_util::FutureExt;
use p2p_core::nat::SynAnswer;
use p2p_core::nat::hop::{Act, Event, Hop, HopConfig};
use p2p_core::nat::report::NatReport;
use p2p_core::stun::Transport;
use socket2::SockRef;
use tokio::net::TcpSocket;
use tracing::{debug, trace};

use super::NicAddress;
use crate::drive::{Driven, Drives, now, turn};

/// Whether the system tells what has to be known.
const CAN_BE_SEEN: bool = cfg!(target_os = "linux");

/// What to look for after a probe with this report: nothing, unless there is a NAT that answers SYNs.
pub(super) fn wanted(report: &NatReport) -> Option<HopConfig> {
    let answers = matches!(report.facts().tcp.syn, Some(SynAnswer::Reset | SynAnswer::Icmp));
    let is_translated = report.tcp.translates.is_some_and(|translates| translates.value);
    let external = report.external.map(|known| known.value)?;
    // Over TCP an answer takes two round trips. The server that is furthest is best: hops beyond it are not seen.
    let seen = report.evidence.over(Transport::Tcp).filter_map(|seen| Some((seen.span()?, seen.server)));
    let (span, server) = seen.max()?;
    (CAN_BE_SEEN && answers && is_translated).then(|| HopConfig { server, external, rtt: span / 2 })
}

/// A search under way. Dropping it ends it.
pub(super) struct Seeker {
    actor: Addr<Seeking>,
}

impl Seeker {
    /// Seeks from `address`; tells once.
    pub(super) fn start(address: NicAddress, config: HopConfig, tell: Box<dyn FnMut(Option<u8>)>) -> Self {
        let driven = Driven::new(Hop::new(config, now()));
        Self { actor: Seeking { address, driven, tell, dialling: BTreeMap::new() }.start() }
    }
}

impl Drop for Seeker {
    fn drop(&mut self) {
        self.actor.do_send(Stop);
    }
}

struct Stop;

impl Message for Stop {
    type Result = ();
}

/// The actor behind a [`Seeker`].
struct Seeking {
    address: NicAddress,
    driven: Driven<Hop>,
    tell: Box<dyn FnMut(Option<u8>)>,
    dialling: BTreeMap<u8, SpawnHandle>,
}

impl Seeking {
    fn on_fate(&mut self, syn: u8, fate: Fate) {
        trace!(syn, ?fate, "a SYN that was to die");
        let hop = self.driven.machine();
        match fate {
            Fate::Expired(by) => hop.handle_expired(syn, by, now()),
            Fate::Answered => hop.handle_answered(syn, now()),
            Fate::Unsent => hop.handle_unsent(syn, now()),
        }
    }
}

impl Actor for Seeking {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        turn(self, ctx);
    }
}

impl Drives for Seeking {
    type M = Hop;

    fn driven(&mut self) -> &mut Driven<Hop> {
        &mut self.driven
    }

    fn on_act(&mut self, act: Act, ctx: &mut Context<Self>) {
        match act {
            Act::Dial { syn, to, ttl } => {
                let mut dialled = Box::pin(dial(self.address.with_port(0), to, ttl));
                // The first step of it sends the SYN.
                match (&mut dialled).now_or_never() {
                    Some(fate) => self.on_fate(syn, fate),
                    None => {
                        let handle = ctx.spawn(dialled.into_actor(self).map(move |fate, actor, ctx| {
                            actor.on_fate(syn, fate);
                            turn(actor, ctx);
                        }));
                        self.dialling.insert(syn, handle);
                    }
                }
            }
            Act::Drop { syn } => {
                if let Some(dialling) = self.dialling.remove(&syn) {
                    ctx.cancel_future(dialling);
                }
            }
        }
    }

    fn on_event(&mut self, Event::Done(found): Event, ctx: &mut Context<Self>) {
        debug!(?found, "looked for a silent hop");
        (self.tell)(found);
        ctx.stop();
    }
}

impl Handler<Stop> for Seeking {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.driven.machine().close(now());
        turn(self, ctx);
        ctx.stop();
    }
}

/// What became of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Expired(IpAddr),
    Answered,
    Unsent,
}

/// Dials with this time to live; silence takes as long as it is waited for.
async fn dial(from: SocketAddr, to: SocketAddr, ttl: u8) -> Fate {
    let made = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let prepared = made.and_then(|socket| {
        let hops = u32::from(ttl);
        let options = SockRef::from(&socket);
        if to.is_ipv4() { options.set_ttl_v4(hops) } else { options.set_unicast_hops_v6(hops) }?;
        socket.bind(from)?;
        Ok((icmp::Errors::of(&socket, to)?, socket))
    });
    let Ok((errors, socket)) = prepared else { return Fate::Unsent };
    match socket.connect(to).await {
        Ok(stream) => {
            // Nothing is to be said: a RST costs the least.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Fate::Answered
        }
        Err(_) => errors.expired().map_or(Fate::Answered, Fate::Expired),
    }
}

#[cfg(target_os = "linux")]
mod icmp {
    use std::io::{self, IoSliceMut};
    use std::net::{IpAddr, SocketAddr};
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    use nix::cmsg_space;
    use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
    use tokio::net::TcpSocket;

    /// Time exceeded in transit (RFC 792; RFC 4443, section 3.3), as `sock_extended_err` tells it: its origin
    /// (`SO_EE_ORIGIN_ICMP`, `SO_EE_ORIGIN_ICMP6`), type and code.
    const EXPIRED: [(u8, u8, u8); 2] = [(2, 11, 0), (3, 3, 0)];

    /// A second handle to a socket, for its queue of errors.
    pub(super) struct Errors(OwnedFd);

    impl Errors {
        pub(super) fn of(socket: &TcpSocket, to: SocketAddr) -> io::Result<Self> {
            if to.is_ipv4() {
                setsockopt(socket, Ipv4RecvErr, &true)?;
            } else {
                setsockopt(socket, Ipv6RecvErr, &true)?;
            }
            Ok(Self(socket.as_fd().try_clone_to_owned()?))
        }

        /// Who says that the time to live of the SYN was used up, if somebody does.
        pub(super) fn expired(&self) -> Option<IpAddr> {
            let mut packet = [0; 128];
            let mut parts = [IoSliceMut::new(&mut packet)];
            // An error (16 bytes) and an address (28 at most), each with its header.
            let mut control = cmsg_space!([u8; 16], [u8; 28], [u8; 64]);
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.0.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags).ok()?;
            let is_expired = |error: (u8, u8, u8)| EXPIRED.contains(&error);
            message.cmsgs().ok()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(error, Some(from))
                    if is_expired((error.ee_origin, error.ee_type, error.ee_code)) =>
                {
                    Some(IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()))
                }
                ControlMessageOwned::Ipv6RecvErr(error, Some(from))
                    if is_expired((error.ee_origin, error.ee_type, error.ee_code)) =>
                {
                    Some(IpAddr::from(from.sin6_addr.s6_addr))
                }
                _ => None,
            })
        }
    }
}

/// Elsewhere nobody says who: see [`CAN_BE_SEEN`].
#[cfg(not(target_os = "linux"))]
mod icmp {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use tokio::net::TcpSocket;

    pub(super) struct Errors;

    impl Errors {
        pub(super) fn of(_: &TcpSocket, _: SocketAddr) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn expired(&self) -> Option<IpAddr> {
            None
        }
    }
}
