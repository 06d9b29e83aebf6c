//! The resources that a thousand calls leave behind.

use std::time::Duration;

use p2p_node::{ConnectOptions, MemoryBroker, Node, PeerAddr, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Handle};

use crate::world::in_memory;

const WARM_UP: usize = 100;
const CALLS: usize = 1_000;
/// The distance of reverse calls among them. A node hears ten signals a second from one sender.
const REVERSE_EVERY: usize = 10;
const PAUSE: Duration = Duration::from_millis(110);
/// The time until the resources of ended calls are gone.
const SETTLE: Duration = Duration::from_secs(1);

/// The resources of a process.
struct Held {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    kib: f64,
}

impl Held {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            tasks: Handle::current().metrics().num_alive_tasks(),
            kib: kib.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(f64::NAN),
        }
    }

    fn print(&self, name: &str) {
        println!(
            "  {name:44} descriptors {:3}   threads {:2}   tasks {:2}   resident {:8.2} MiB",
            self.descriptors,
            self.threads,
            self.tasks,
            self.kib / 1024.0
        );
    }
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

pub(crate) fn print() {
    println!(
        "leak: two nodes in one process; calls, a word each way, closed; every {REVERSE_EVERY}th in reverse"
    );
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let told = runtime.block_on(async { tokio::spawn(measure()).await });
    told.expect("it ends");
    runtime.shutdown_timeout(SETTLE);
}

async fn measure() {
    let broker = MemoryBroker::new();
    let anna = Node::bind(in_memory(&broker)).await.expect("a node");
    let bert = Node::bind(in_memory(&broker)).await.expect("a node");
    let addr = bert.addr().expect("an address");
    calls(&anna, &bert, &addr, WARM_UP).await;
    let before = Held::now();
    before.print("after a warm-up of 100");
    for part in 1..=4 {
        calls(&anna, &bert, &addr, CALLS / 4).await;
        Held::now().print(&format!("after {} more", part * CALLS / 4));
    }
    let after = Held::now();
    let more = |after: usize, before: usize| after as i64 - before as i64;
    println!(
        "  {:44} descriptors {:+3}   threads {:+2}   tasks {:+2}   resident {:+8.2} MiB   goal: none",
        "left behind",
        more(after.descriptors, before.descriptors),
        more(after.threads, before.threads),
        more(after.tasks, before.tasks),
        (after.kib - before.kib) / 1024.0
    );
    anna.close().await;
    bert.close().await;
}

async fn calls(anna: &Node, bert: &Node, addr: &PeerAddr, calls: usize) {
    for call in 0..calls {
        let way = if call % REVERSE_EVERY == 0 { Way::Reverse } else { Way::Direct };
        let options = ConnectOptions::new().with_ways([way]);
        let (called, accepted) = tokio::join!(anna.connect_with(addr, options), bert.accept());
        let (mut called, mut accepted) = (called.expect("connected"), accepted.expect("accepted"));
        called.write_all(b"ping").await.expect("sent");
        accepted.read_exact(&mut [0; 4]).await.expect("received");
        accepted.write_all(b"pong").await.expect("sent");
        called.read_exact(&mut [0; 4]).await.expect("received");
        called.shutdown().await.expect("closed");
        accepted.shutdown().await.expect("closed");
        if way == Way::Reverse {
            tokio::time::sleep(PAUSE).await;
        }
    }
    tokio::time::sleep(SETTLE).await;
}
