//! Listeners, and the accept loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::ActorStreamExt;
use actix::{AsyncContext, Context, WrapFuture};
use futures_util::stream;
use p2p_core::node::{ListenError, SocketEvent};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, trace, warn};

use super::OwnsSockets;
use super::connections::Open;
use crate::bind;
use crate::carrier::CarrierStream;
use crate::descriptors::is_exhausted;

/// Listens at `at`, where 0 is any free port. Nobody is told of a throw-away listener, nor of who comes to it.
pub(super) fn open<A: OwnsSockets>(actor: &mut A, at: SocketAddr, is_throwaway: bool, ctx: &mut Context<A>) {
    let listener = bind::listen(at).and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    match listener {
        Ok((port, listener)) => {
            let mut local = at;
            local.set_port(port);
            let listening = match is_throwaway {
                true => ctx.spawn(turn_away(listener).into_actor(actor)),
                false => take_in(actor, local, listener, ctx),
            };
            actor.sockets().listeners.insert(local, listening);
            if !is_throwaway {
                actor.sockets().tell(SocketEvent::Listening { at, outcome: Ok(local) });
            }
        }
        // Who dials it will be refused by us and not by a NAT; but the port is also dialled from, which fails too.
        Err(error) if is_throwaway => debug!(%at, %error, "no throw-away port"),
        Err(error) => {
            let outcome = Err(ListenError {
                kind: error.kind(),
                reason: error.to_string(),
                is_exhausted: is_exhausted(&error),
            });
            actor.sockets().tell(SocketEvent::Listening { at, outcome });
        }
    }
}

/// Takes in whoever connects.
fn take_in<A: OwnsSockets>(
    actor: &mut A,
    at: SocketAddr,
    listener: TcpListener,
    ctx: &mut Context<A>,
) -> actix::SpawnHandle {
    let seats = Arc::clone(&actor.sockets().seats);
    let all = stream::unfold((listener, seats), |(listener, seats)| async move {
        accept(&listener, &seats).await.map(|accepted| (accepted, (listener, seats)))
    });
    let all = actix::fut::wrap_stream::<_, A>(all).map(move |accepted, actor, _| {
        let Accepted { stream, remote, seat } = accepted;
        debug!(%at, %remote, "somebody connected");
        let sockets = actor.sockets();
        let connection = sockets.insert(Open::new(CarrierStream::tcp(stream), Some(seat)));
        sockets.tell(SocketEvent::Accepted { connection, at, remote });
    });
    ctx.spawn(all.finish())
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

/// A connection that came in, with its seat.
struct Accepted {
    stream: TcpStream,
    remote: SocketAddr,
    seat: OwnedSemaphorePermit,
}

/// Returns the next connection. With no seat free it waits with one connection in hand; the others queue in the kernel,
/// which is the one place where a flood costs us nothing. `None` when the seats are closed.
async fn accept(listener: &TcpListener, seats: &Arc<Semaphore>) -> Option<Accepted> {
    let mut is_told = false;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let seat = Arc::clone(seats).acquire_owned().await.ok()?;
                return Some(Accepted { stream, remote, seat });
            }
            // It was gone before we took it: the next one may be there already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!(%error, "cannot accept a connection, trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The time a listener is left alone that only gives errors: mostly there are no descriptors left, and whoever
/// has them needs time to give some back.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_are_handed_over_than_there_are_seats() {
        let listener = bind::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let here = listener.local_addr().unwrap();
        let seats = Arc::new(Semaphore::new(2));
        let mut dialled = Vec::new();
        for _ in 0..5 {
            dialled.push(TcpStream::connect(here).await.unwrap());
        }
        let mut seated = Vec::new();
        for _ in 0..2 {
            seated.push(accept(&listener, &seats).await.unwrap());
        }
        assert_eq!(seats.available_permits(), 0);
        let mut third = Box::pin(accept(&listener, &seats));
        assert!(futures_util::FutureExt::now_or_never(&mut third).is_none());
        let left = seated.remove(0);
        assert_eq!(left.remote, dialled[0].local_addr().unwrap());
        drop(left);
        assert!(third.await.is_some());
        seats.close();
        assert!(accept(&listener, &seats).await.is_none());
    }
}
