//! A node: the one object a program needs.

use std::sync::Arc;
use std::time::Duration;

use p2p_actors::{Handle, StartError};
use p2p_core::node::{BrokerState, ConnectOptions, Counters, KeepAlive, Status, StunServer};
use p2p_core::peer::{PeerAddr, PeerId};
use tokio::sync::watch;

use crate::config::Config;
use crate::error::{BindError, ConnectError};
use crate::network::NetworkReport;
use crate::pipe::Pipe;

/// A node on the network, which can be found and can find others.
///
/// Clones are the same node. It lives until the last clone is dropped or [`Node::close`] is called. Pipes outlive it.
#[derive(Clone, Debug)]
pub struct Node {
    handle: Handle,
    id: PeerId,
    /// The STUN servers of its configuration.
    servers: Arc<[StunServer]>,
    keep_alive: KeepAlive,
}

impl Node {
    /// Starts a node and waits until it can be used. Then its listeners stand, one of its brokers is up and one STUN
    /// server has answered. A part that is not up within [`Config::ready_within`] may come later, as [`Node::status`]
    /// tells.
    ///
    /// # Errors
    /// [`BindError`] when the configuration does not fit this machine: a port in use, no such interface, a bad key
    /// file. A broker that cannot be reached is no error, as other ways may work.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let ready_within = config.ready_within;
        let (servers, keep_alive) = (config.stun.clone().into(), config.keep_alive);
        let (config, memory) = config.into_node()?;
        let id = config.identity.id();
        let handle = p2p_actors::spawn(config, memory).await?;
        let node = Self { handle, id, servers, keep_alive };
        node.ready(ready_within).await?;
        Ok(node)
    }

    async fn ready(&self, within: Duration) -> Result<(), BindError> {
        let mut status = self.handle.status();
        let ready = async {
            loop {
                if let Some((addr, reason)) = status.borrow_and_update().refused.clone() {
                    return Err(StartError::Listen { addr, reason }.into());
                }
                if status.borrow().is_ready() {
                    return Ok(());
                }
                if status.changed().await.is_err() {
                    return Err(StartError::Closed.into());
                }
            }
        };
        tokio::time::timeout(within, ready).await.unwrap_or(Ok(()))
    }

    /// Returns the id of this node.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns the address at which this node can be met now, to be given to peers. It stays good while the key and
    /// one broker do. It is `None` only while the node starts or after it closed.
    pub fn addr(&self) -> Option<PeerAddr> {
        self.handle.status().borrow().address.clone()
    }

    /// Connects to a peer by every way there is.
    ///
    /// Dropping the future cancels the attempt and leaves nothing behind.
    ///
    /// # Errors
    /// [`ConnectError`], which tells what was tried and why each way failed.
    pub async fn connect(&self, peer: &PeerAddr) -> Result<Pipe, ConnectError> {
        self.connect_with(peer, ConnectOptions::default()).await
    }

    /// Connects to a peer by these options.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect_with(&self, peer: &PeerAddr, options: ConnectOptions) -> Result<Pipe, ConnectError> {
        let proven = self.handle.connect(peer.clone(), options).await?;
        Pipe::new(proven, &self.keep_alive).map_err(|error| ConnectError::Socket(Arc::new(error)))
    }

    /// Returns the next connection that a peer made to us. It is `None` when the node is closed or [accepts no
    /// more](Self::stop_accepting). Cancelling loses nothing.
    pub async fn accept(&self) -> Option<Pipe> {
        loop {
            let proven = self.handle.accept().await?;
            match Pipe::new(proven, &self.keep_alive) {
                Ok(pipe) => return Some(pipe),
                Err(error) => tracing::warn!(%error, "an accepted connection could not be used"),
            }
        }
    }

    /// Returns the state of the node, as a receiver that is told of changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.handle.status()
    }

    /// Returns the counts of what others sent and was turned away.
    pub fn counters(&self) -> Counters {
        self.handle.counters()
    }

    /// Returns the brokers that are up, as URLs.
    pub fn brokers_up(&self) -> Vec<String> {
        let status = self.handle.status();
        let status = status.borrow();
        let up = status.brokers.iter().filter(|(_, state)| **state == BrokerState::Up);
        up.map(|(url, _)| url.clone()).collect()
    }

    /// Returns what is known now of the networks this node is in: see [`network`](crate::network).
    pub fn network(&self) -> NetworkReport {
        NetworkReport::new(&self.status().borrow(), &self.servers)
    }

    /// Waits for the probes that are under way, and returns what is then known of the networks. Probes mostly take
    /// less than ten round trips to the STUN servers. Cancelling loses nothing.
    pub async fn survey(&self) -> NetworkReport {
        let mut status = self.status();
        // An error means that the node is closed, and will learn nothing more.
        let _ = status.wait_for(|status| status.surveyed).await;
        self.network()
    }

    /// Reads the interfaces again and probes the networks again, as after a change of the network.
    pub async fn refresh(&self) {
        self.handle.refresh().await;
    }

    /// Accepts no new connection from now on: callers are told that we are closing. [`accept`](Self::accept) ends
    /// when all that were accepted before are taken. The node goes on otherwise. Pipes through a relay need that when
    /// a TURN server fails, as the peers then tell each other their new addresses.
    pub async fn stop_accepting(&self) {
        self.handle.stop_accepting().await;
    }

    /// Ends the node within a second: attempts are cancelled, and brokers are told. Pipes live on.
    pub async fn close(&self) {
        self.handle.close().await;
    }
}
