//! A node: the one object a program needs.

use std::sync::Arc;
use std::time::Duration;

use p2p_actors::signal::BrokerState;
use p2p_actors::{ConnectOptions, Counters, Established, Handle, StartError, Status, StunServer};
use p2p_core::peer::{PeerAddr, PeerId};
use tokio::sync::watch;

use crate::config::Config;
use crate::error::{BindError, ConnectError};
use crate::network::NetworkReport;
use crate::pipe::Pipe;

/// A node on the network: it can be found, and it can find others.
///
/// Clones are the same node. It lives until the last clone is dropped or [`Node::close`] is called; pipes
/// outlive it.
#[derive(Clone, Debug)]
pub struct Node {
    handle: Handle,
    id: PeerId,
    /// The STUN servers it was given.
    servers: Arc<[StunServer]>,
}

impl Node {
    /// Starts a node and waits until it can be used: its listeners stand, one of its brokers is up and one
    /// STUN server has answered. What is not up within [`Config::ready_within`] is left to come later:
    /// [`Node::status`] tells.
    ///
    /// # Errors
    /// [`BindError`] when the configuration does not fit this machine: a port in use, no such interface, a
    /// bad key file. A broker that cannot be reached is no error: other ways may work.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let ready_within = config.ready_within;
        let servers = config.stun.clone().into();
        let actors = config.into_actors()?;
        let id = actors.identity.id();
        let handle = p2p_actors::spawn(actors).await?;
        let node = Self { handle, id, servers };
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

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Where this node can be met, now. Give it to a peer; it stays good while the key and one broker do.
    /// `None` only while the node starts or after it closed.
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

    /// Connects to a peer as `options` say.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect_with(&self, peer: &PeerAddr, options: ConnectOptions) -> Result<Pipe, ConnectError> {
        let winner = self.handle.connect(peer.clone(), options).await?;
        Pipe::new(winner).map_err(|error| ConnectError::Socket(error.to_string()))
    }

    /// The next connection a peer made to us; `None` when the node is closed or
    /// [accepts no more](Self::stop_accepting). Cancelling loses nothing.
    pub async fn accept(&self) -> Option<Pipe> {
        loop {
            let winner: Established = self.handle.accept().await?;
            match Pipe::new(winner) {
                Ok(pipe) => return Some(pipe),
                Err(error) => tracing::warn!(%error, "an accepted connection could not be used"),
            }
        }
    }

    /// How the node does, and a way to be told when that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.handle.status()
    }

    /// What came to the door and was turned away.
    pub fn counters(&self) -> Counters {
        self.handle.counters()
    }

    /// The brokers that are up, as URLs.
    pub fn brokers_up(&self) -> Vec<String> {
        let status = self.handle.status();
        let status = status.borrow();
        let up = status.brokers.iter().filter(|(_, state)| **state == BrokerState::Up);
        up.map(|(url, _)| url.clone()).collect()
    }

    /// What is known now of the networks this node is in, and how: see [`network`](crate::network).
    pub fn network(&self) -> NetworkReport {
        NetworkReport::new(&self.status().borrow(), &self.servers)
    }

    /// What is known of the networks once the probes that are under way have ended: mostly within ten round trips
    /// to the STUN servers. Cancelling loses nothing.
    pub async fn survey(&self) -> NetworkReport {
        let mut status = self.status();
        // An error means that the node is closed, and will learn nothing more.
        let _ = status.wait_for(|status| status.surveyed).await;
        self.network()
    }

    /// The network may have changed: looks at the interfaces again, and probes the networks again.
    pub async fn refresh(&self) {
        self.handle.refresh().await;
    }

    /// Takes nobody in any more: whoever calls is told that we are closing, and [`accept`](Self::accept) ends when all
    /// that were accepted before are taken. The node goes on otherwise, which pipes through a relay need when a TURN
    /// server fails: the peers tell each other where they are then.
    pub async fn stop_accepting(&self) {
        self.handle.stop_accepting().await;
    }

    /// Ends the node, within a second: attempts are cancelled, brokers are told. Pipes live on.
    pub async fn close(&self) {
        self.handle.close().await;
    }
}
