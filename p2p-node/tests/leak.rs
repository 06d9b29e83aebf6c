//! What is over is gone. One test, for a process has one table of descriptors.
#![cfg(target_os = "linux")]

use std::time::Duration;

use p2p_node::{BrokerConfig, Config, ConnectOptions, MemoryBroker, Node, PeerAddr, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;

/// Sockets are closed by actors that nobody can wait for. Nobody waits this long unless one is left.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(broker: &MemoryBroker) -> Config {
    let mut config = Config::loopback();
    config.brokers = vec![BrokerConfig::new("memory://here".parse().unwrap())];
    config.memory = Some(broker.clone());
    config
}

fn descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut all: Vec<String> = entries
        .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        // The one we read them by.
        .filter(|target| !target.ends_with("/fd"))
        .map(|target| target.split(':').next().unwrap_or_default().to_owned())
        .collect();
    all.sort();
    all
}

/// Tells whether there are no more descriptors of any kind than there were: some of those may have been about to go.
fn is_within(now: &[String], before: &[String]) -> bool {
    let count = |all: &[String], kind: &String| all.iter().filter(|one| *one == kind).count();
    now.iter().all(|kind| count(now, kind) <= count(before, kind))
}

/// Waits until there are no more descriptors of any kind, and no more tasks, than there were.
async fn comes_back_to(before: &[String], tasks: usize) {
    let back = async {
        while !is_within(&descriptors(), before) || Handle::current().metrics().num_alive_tasks() > tasks {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, back).await.is_err() {
        let left = Handle::current().metrics().num_alive_tasks();
        panic!("{before:?} and {tasks} tasks became {:?} and {left} tasks", descriptors());
    }
}

async fn calls(anna: &Node, bert: &Node, addr: &PeerAddr, ways: &[Way], times: usize) {
    for _ in 0..times {
        let options = ConnectOptions::new().with_ways(ways.iter().copied()).with_head_start(Duration::ZERO);
        let (called, accepted) = tokio::join!(anna.connect_with(addr, options), bert.accept());
        let (mut called, mut accepted) = (called.unwrap(), accepted.unwrap());
        called.write_all(b"ping").await.unwrap();
        accepted.read_exact(&mut [0; 4]).await.unwrap();
        called.shutdown().await.unwrap();
        accepted.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn calls_nodes_and_failures_leave_no_descriptor_behind() {
    let outside = (descriptors(), Handle::current().metrics().num_alive_tasks());
    let broker = MemoryBroker::new();
    let anna = Node::bind(config(&broker)).await.unwrap();
    let bert = Node::bind(config(&broker)).await.unwrap();
    let addr = bert.addr().unwrap();
    calls(&anna, &bert, &addr, &[Way::Direct], 10).await;
    // What stays open on purpose, such as the listeners, is there by now.
    let (before, tasks) = (descriptors(), Handle::current().metrics().num_alive_tasks());
    assert!(before.len() > outside.0.len(), "two nodes need descriptors: {before:?}");
    calls(&anna, &bert, &addr, &[Way::Direct], 100).await;
    comes_back_to(&before, tasks).await;
    // As many signals as a peer hears in one go.
    calls(&anna, &bert, &addr, &[Way::Reverse], 10).await;
    calls(&anna, &bert, &addr, &Way::ALL, 10).await;
    comes_back_to(&before, tasks).await;
    // Callers who change their minds.
    for _ in 0..20 {
        let options = ConnectOptions::new().with_ways([Way::Direct]);
        tokio::select! {
            biased;
            called = anna.connect_with(&addr, options) => drop(called),
            () = tokio::task::yield_now() => {}
        }
    }
    comes_back_to(&before, tasks).await;
    drop((anna, bert));
    comes_back_to(&outside.0, outside.1).await;
}
