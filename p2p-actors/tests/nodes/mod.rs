//! Nodes on the loopback of this machine.
#![allow(dead_code, reason = "not every test needs everything")]

use std::future::Future;
use std::time::Duration;

use p2p_actors::signal::MemoryBroker;
use p2p_actors::{Handle, spawn_local};
use p2p_core::attempt::Way;
use p2p_core::node::{BrokerConfig, ConnectOptions, Interfaces, NodeConfig, Status};
use p2p_core::peer::{Identity, PeerAddr};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

/// No story takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a story as a node does: one thread, a `LocalSet`, no `System`.
pub(crate) fn tell(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, story).await.expect("the story to end") });
}

/// A node that knows neither brokers nor servers.
pub(crate) fn alone(key: u8) -> NodeConfig {
    let mut config = NodeConfig::new(Identity::from_bytes([key; 32]));
    let loopback = p2p_actors::interface::nics().unwrap().into_iter().find(|nic| nic.is_loopback).unwrap();
    config.interfaces = Interfaces::Only(vec![loopback.name]);
    config.machine_id = b"one machine".to_vec();
    config
}

/// A node to be found through an in-process broker.
pub(crate) fn findable(key: u8) -> NodeConfig {
    let brokers = vec![BrokerConfig::new("memory://here".parse().unwrap())];
    alone(key).with_brokers(brokers)
}

/// Starts a node, and waits until it is ready.
pub(crate) async fn start(config: NodeConfig, broker: &MemoryBroker) -> Handle {
    let handle = spawn_local(config, Some(broker.clone())).unwrap();
    status(&handle, Status::is_ready).await;
    handle
}

/// The state of a node as soon as it is as wanted.
pub(crate) async fn status(handle: &Handle, wanted: impl FnMut(&Status) -> bool) -> Status {
    handle.status().wait_for(wanted).await.expect("the node lives").clone()
}

pub(crate) fn address(handle: &Handle) -> PeerAddr {
    handle.status().borrow().address.clone().unwrap()
}

pub(crate) fn only(way: Way) -> ConnectOptions {
    ConnectOptions::new().with_ways([way])
}

pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {what}"));
}
