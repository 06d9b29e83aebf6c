//! The way of a connection out of the node: to the caller who waits for it, or to whoever accepts.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use actix::{Message, WeakRecipient};
use futures_util::future::poll_fn;
use p2p_core::attempt::Way;
use p2p_core::node::{ConnectError, ConnectionInfo, Established, KeepAlive};
use p2p_core::peer::PeerId;
use p2p_core::proof::{Claim, Session};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::OwnedSockets;
use super::connections::Open;
use crate::connection::{ActiveConnection, IdleConnection};

/// A connection that both ends keep: plain state, free to go to any thread and runtime.
#[derive(Debug)]
pub struct ProvenConnection {
    /// The connection. No byte of the user's has been read from it.
    pub connection: IdleConnection,
    /// The other end, and the keys of the pipe.
    pub session: Session,
    /// The story of the connection.
    pub info: ConnectionInfo,
    /// Its place among the pipes of its peer, if that asked for it. To be kept for as long as the connection.
    pub place: Option<PipePlace>,
}

/// Takes the outcome of a call. Dropping the other end cancels the call.
pub(crate) type Reply = oneshot::Sender<Result<ProvenConnection, ConnectError>>;

/// An accepted connection that waits to be taken.
pub(crate) struct Incoming {
    pub(crate) connection: ProvenConnection,
    /// Dropped when it is taken.
    pub(crate) _place: BacklogPlace,
}

/// Tells the node that the accepted connection with this claim was taken, and its place is free again.
pub(crate) struct Taken(pub(crate) Claim);

impl Message for Taken {
    type Result = ();
}

/// The place of an accepted connection. Dropped, it is free again.
pub(crate) struct BacklogPlace(pub(crate) WeakRecipient<Taken>, pub(crate) Claim);

impl Drop for BacklogPlace {
    fn drop(&mut self) {
        if let Some(node) = self.0.upgrade() {
            node.do_send(Taken(self.1));
        }
    }
}

/// Tells the node that a connection is no more that this peer had asked for.
pub(crate) struct PipeClosed(pub(crate) PeerId);

impl Message for PipeClosed {
    type Result = ();
}

/// The place of a pipe among those that its peer may have. Dropped, it is free again.
pub struct PipePlace(WeakRecipient<PipeClosed>, PeerId);

impl PipePlace {
    pub(crate) fn new(node: WeakRecipient<PipeClosed>, peer: PeerId) -> Self {
        Self(node, peer)
    }
}

impl fmt::Debug for PipePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PipePlace").field(&self.1).finish()
    }
}

impl Drop for PipePlace {
    fn drop(&mut self) {
        if let Some(node) = self.0.upgrade() {
            node.do_send(PipeClosed(self.1));
        }
    }
}

/// Whoever a connection is for.
pub(crate) enum Taker {
    /// The one who called.
    Caller(Reply),
    /// Whoever accepts next.
    Accepting(mpsc::UnboundedSender<Incoming>, BacklogPlace, PipePlace),
}

/// Asks for a connection to be given away.
pub(crate) struct HandOver {
    pub(crate) established: Box<Established>,
    pub(crate) taker: Taker,
    pub(crate) keep_alive: KeepAlive,
}

impl HandOver {
    /// Takes the connection out of `sockets` and gives it away, when the last frame of its proof has found room.
    pub(super) fn perform(self, sockets: &mut OwnedSockets) {
        match sockets.connections.remove(&self.established.connection) {
            Some(mut open) => match open.send_at_once() {
                Some(sent) => self.give(sent.map(|()| open.into_stream())),
                None => drop(tokio::task::spawn_local(self.give_when_sent(open))),
            },
            None => self.give(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    async fn give_when_sent(self, mut open: Open) {
        let sent = timeout(SEND_WITHIN, poll_fn(|task| open.poll_send(task))).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.give(sent.map(|()| open.into_stream()));
    }

    /// Gives it away, or the news that it has died in the last moment.
    fn give(self, stream: io::Result<ActiveConnection>) {
        let Established { session, info, .. } = *self.established;
        let rested = stream.and_then(|stream| {
            stream.keep_alive(&self.keep_alive);
            match info.way {
                Way::Relay => stream.dialled().into_idle(),
                _ => stream.into_idle(),
            }
        });
        let proven = rested.map(|connection| ProvenConnection { connection, session, info, place: None });
        match self.taker {
            Taker::Caller(reply) => {
                // Nobody waits any more: then the connection is closed by being dropped.
                let _ = reply.send(proven.map_err(|error| ConnectError::Socket(Arc::new(error))));
            }
            Taker::Accepting(queue, backlog, place) => match proven {
                // A node that is dropped has nobody who accepts.
                Ok(proven) => {
                    let connection = ProvenConnection { place: Some(place), ..proven };
                    drop(queue.send(Incoming { connection, _place: backlog }));
                }
                Err(error) => warn!(%error, "an accepted connection died in the last moment"),
            },
        }
    }
}

/// The time the last frame of a proof may wait for room in a connection that nothing else was written to.
const SEND_WITHIN: Duration = Duration::from_secs(3);
