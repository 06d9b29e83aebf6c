//! How the rest of the world talks to a node's actors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use p2p_core::peer::PeerAddr;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::attempt::Call;
use crate::config::ConnectOptions;
use crate::counters::{Counters, Tallies};
use crate::error::ConnectError;
use crate::established::Established;
use crate::interface::InterfaceFacts;
use crate::ntp::NtpStatus;
use crate::signal::BrokerState;

/// What a handle asks of the root.
pub(crate) enum Command {
    Connect(Box<Call>),
    Refresh,
    StopAccepting,
    Close(oneshot::Sender<()>),
}

/// How a node does.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Where it is, as published now.
    pub address: Option<PeerAddr>,
    /// Whether every interface listens.
    pub listening: bool,
    /// A listener that could not be opened, and why.
    pub refused: Option<(SocketAddr, String)>,
    /// The brokers of its configuration, by URL.
    pub brokers: BTreeMap<String, BrokerState>,
    /// Whether the external addresses are known, or known to be unknowable for now.
    pub placed: bool,
    /// Whether the networks in front of all interfaces are probed: what can be known of them is.
    pub surveyed: bool,
    /// Each interface by its name, what is known of its addresses, and who said so.
    pub networks: Vec<(String, Vec<InterfaceFacts>)>,
    /// What the NTP servers say of the time. Nobody waits for them.
    pub ntp: NtpStatus,
}

impl Status {
    /// Whether the node can be used to the full: it listens, one of its brokers is up, one of its STUN
    /// servers answered. What is not configured is not waited for, and what has failed everywhere neither.
    pub fn is_ready(&self) -> bool {
        let settled = |state: &BrokerState| *state != BrokerState::Connecting;
        let signals = self.brokers.is_empty()
            || self.brokers.values().any(|state| *state == BrokerState::Up)
            || self.brokers.values().all(settled);
        self.address.is_some() && self.listening && signals && self.placed
    }
}

/// A handle to the actors of one node. Clones are for the same node; when the last is dropped, it closes.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    incoming: Arc<Mutex<mpsc::Receiver<Established>>>,
    status: watch::Receiver<Status>,
    tallies: Arc<Tallies>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "Connect",
            Self::Refresh => "Refresh",
            Self::StopAccepting => "StopAccepting",
            Self::Close(_) => "Close",
        })
    }
}

impl Handle {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        incoming: mpsc::Receiver<Established>,
        status: watch::Receiver<Status>,
        tallies: Arc<Tallies>,
    ) -> Self {
        Self { commands, incoming: Arc::new(Mutex::new(incoming)), status, tallies }
    }

    /// Connects to a peer. Dropping the future cancels the attempt and closes every socket of it.
    ///
    /// # Errors
    /// [`ConnectError`], with the story of the attempt if there was one.
    pub async fn connect(
        &self,
        peer: PeerAddr,
        options: ConnectOptions,
    ) -> Result<Established, ConnectError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Connect(Box::new(Call { peer, options, reply }));
        self.commands.send(command).await.map_err(|_| ConnectError::Closed)?;
        outcome.await.unwrap_or(Err(ConnectError::Closed))
    }

    /// The next connection somebody made to us; `None` when the node is closed, or accepts no more and everything that it
    /// had accepted is taken. Cancelling loses nothing.
    pub async fn accept(&self) -> Option<Established> {
        self.incoming.lock().await.recv().await
    }

    /// How the node does, and a way to be told when that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What came to the door and was turned away.
    pub fn counters(&self) -> Counters {
        self.tallies.read()
    }

    /// The network may have changed: looks at the interfaces again, and asks the servers again.
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
            // The root is gone either way.
            let _ = closed.await;
        }
    }
}
