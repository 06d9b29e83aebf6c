//! Ports for datagrams.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use actix::{ActorFuture, AsyncContext, Context};
use bytes::Bytes;
use futures_util::FutureExt;
use p2p_core::node::SocketEvent;
use p2p_core::stun::Transport;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tracing::trace;

use super::OwnsSockets;
use super::links::cause;
use crate::bind;

/// A port that is bound.
pub(super) struct Port {
    number: u64,
    socket: UdpSocket,
}

/// Sends from a port, which is bound first if it is not.
pub(super) fn send<A: OwnsSockets>(
    actor: &mut A,
    from: SocketAddr,
    to: SocketAddr,
    bytes: &[u8],
    ctx: &mut Context<A>,
) {
    let sockets = actor.sockets();
    let sent = match sockets.ports.get(&from) {
        Some(port) => send_now(&port.socket, bytes, to),
        None => bind::datagrams(from).and_then(|socket| {
            let sent = send_now(&socket, bytes, to);
            let number = sockets.number();
            sockets.ports.insert(from, Port { number, socket });
            ctx.spawn(Receive { at: from, number, waiting: None });
            sent
        }),
    };
    match sent {
        // The queue is full: a datagram lost, as on any link. The machine sends again.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => sockets.tell(SocketEvent::Unreachable { at: from, to, why: cause(error.kind()) }),
        Ok(()) => {}
    }
}

/// Sends without asking the runtime first, which does not know yet that a new socket can be written to: datagrams
/// must leave in the order of acts.
fn send_now(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).send_to(bytes, &to.into()).map(|_| ())
}

/// Reads one port until it is closed, no faster than the node takes up what was read.
struct Receive {
    at: SocketAddr,
    number: u64,
    waiting: Option<oneshot::Receiver<()>>,
}

impl<A: OwnsSockets> ActorFuture<A> for Receive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, actor: &mut A, _: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        let (at, sockets) = (self.at, actor.sockets());
        // One byte more than a message may have, so that a longer one is seen to be longer.
        let mut buffer = [0; Transport::Udp.most_bytes() + 1];
        loop {
            if let Some(waiting) = &mut self.waiting {
                // An error says that it was taken up: the sender is dropped then.
                let _ = ready!(waiting.poll_unpin(task));
                self.waiting = None;
            }
            let Some(port) = sockets.ports.get(&at).filter(|port| port.number == self.number) else {
                return Poll::Ready(());
            };
            let received = match ready!(port.socket.poll_recv_ready(task)) {
                Ok(()) => port.socket.try_recv_from(&mut buffer),
                Err(error) => Err(error),
            };
            match received {
                Ok((length, from)) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..length]);
                    self.waiting = Some(sockets.tell_and_wait(SocketEvent::Datagram { at, from, bytes }));
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
