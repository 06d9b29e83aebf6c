//! The handle by which the rest of the world talks to a node's actors.

use std::fmt;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use p2p_core::node::{ConnectError, ConnectOptions, Counters, Status};
use p2p_core::peer::PeerAddr;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::sockets::{Incoming, ProvenConnection, Reply};

/// A handle to the actors of one node. Clones are for the same node; when the last is dropped, it closes.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    incoming: Arc<Mutex<mpsc::UnboundedReceiver<Incoming>>>,
    status: watch::Receiver<Status>,
    counters: Arc<StdMutex<Counters>>,
}

/// A wish for a connection.
pub(crate) struct Call {
    pub(crate) peer: PeerAddr,
    pub(crate) options: ConnectOptions,
    pub(crate) reply: Reply,
}

/// Asks the node for something.
pub(crate) enum Command {
    Connect(Box<Call>),
    Refresh,
    StopAccepting,
    Close(oneshot::Sender<()>),
}

impl Handle {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        incoming: mpsc::UnboundedReceiver<Incoming>,
        status: watch::Receiver<Status>,
        counters: Arc<StdMutex<Counters>>,
    ) -> Self {
        Self { commands, incoming: Arc::new(Mutex::new(incoming)), status, counters }
    }

    /// Connects to a peer. Dropping the future cancels the attempt and closes every socket of it.
    ///
    /// # Errors
    /// [`ConnectError`], with the story of the attempt if there was one.
    pub async fn connect(
        &self,
        peer: PeerAddr,
        options: ConnectOptions,
    ) -> Result<ProvenConnection, ConnectError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Connect(Box::new(Call { peer, options, reply }));
        self.commands.send(command).await.map_err(|_| ConnectError::Closed)?;
        outcome.await.unwrap_or(Err(ConnectError::Closed))
    }

    /// Returns the next connection somebody made to us; `None` when the node is closed, or accepts no more and everything
    /// that it had accepted is taken. Cancelling loses nothing.
    pub async fn accept(&self) -> Option<ProvenConnection> {
        let incoming = self.incoming.lock().await.recv().await?;
        Some(incoming.connection)
    }

    /// Returns the state of the node, and a way to be told when that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Returns what came to the door and what became of it.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the node that the network may have changed: it looks at the interfaces again, and asks the servers again.
    pub async fn refresh(&self) {
        // A closed node has no network.
        let _ = self.commands.send(Command::Refresh).await;
    }

    /// Takes nobody in any more: whoever calls is told that we are closing. All else goes on, and so do relayed
    /// connections, which may need the node when a server fails.
    pub async fn stop_accepting(&self) {
        // A closed node takes nobody in.
        let _ = self.commands.send(Command::StopAccepting).await;
    }

    /// Ends the node: attempts are cancelled, peers and brokers are told, within a second. Pipes that were
    /// handed out live on.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // The node is gone either way.
            let _ = closed.await;
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
