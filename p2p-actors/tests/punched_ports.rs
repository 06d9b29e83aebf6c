//! What happens at punched ports: strangers, and a machine with nothing left to give.

mod nodes;

use std::net::SocketAddr;
use std::time::Duration;

use nodes::{address, findable, only, start, tell};
use p2p_actors::signal::MemoryBroker;
use p2p_actors::{Handle, ProvenConnection};
use p2p_core::Family;
use p2p_core::attempt::{RefusalReason, Way};
use p2p_core::connect::{WayFailure, WayOutcome};
use p2p_core::node::{ConnectError, ConnectOptions, NodeConfig};
use p2p_core::punch::{Failed, Limits};
use tokio::time::timeout;

fn config(key: u8) -> NodeConfig {
    findable(key).with_families([Family::V4])
}

async fn meet(caller: &Handle, called: &Handle) -> (ProvenConnection, ProvenConnection) {
    let call = caller.connect(address(called), only(Way::Punch));
    let (call, accept) = tokio::join!(call, called.accept());
    (call.unwrap(), accept.unwrap())
}

fn failure(error: &ConnectError) -> WayFailure {
    match &error.report().expect("a story").ways[0].outcome {
        WayOutcome::Failed(failure) => failure.clone(),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn many_at_once_share_the_budget_and_all_meet() {
    tell(async {
        let broker = MemoryBroker::new();
        let mut few = config(1);
        // Room for two of them at a time.
        few.punch = Limits::new().with_sockets(48).with_per_second(128);
        let (anna, bert) = (start(few, &broker).await, start(config(2), &broker).await);
        let calls = (0..8).map(|_| anna.connect(address(&bert), only(Way::Punch)));
        let accepts = async {
            let mut all = Vec::new();
            while all.len() < 8 {
                all.push(bert.accept().await.unwrap());
            }
            all
        };
        let (called, accepted) = tokio::join!(futures_util::future::join_all(calls), accepts);
        let ends = |met: &ProvenConnection| (met.info.local, met.info.remote);
        let mut called: Vec<(SocketAddr, SocketAddr)> =
            called.into_iter().map(|met| ends(&met.unwrap())).collect();
        let mut accepted: Vec<_> = accepted.iter().map(|met| (met.info.remote, met.info.local)).collect();
        called.sort();
        accepted.sort();
        assert_eq!(called, accepted, "both ends keep the same connections");
    });
}

#[test]
fn with_no_budget_a_punch_says_so_and_other_ways_go_on() {
    tell(async {
        let broker = MemoryBroker::new();
        let mut none = config(1);
        none.punch = Limits::new().with_sockets(0);
        let (anna, bert) = (start(none, &broker).await, start(config(2), &broker).await);
        let error = anna.connect(address(&bert), only(Way::Punch)).await.unwrap_err();
        assert_eq!(failure(&error), WayFailure::Punch(Failed::NoBudget), "{error}");
        let both = ConnectOptions::new().with_ways([Way::Punch, Way::Direct]);
        let (called, _accepted) = tokio::join!(anna.connect(address(&bert), both), bert.accept());
        assert_eq!(called.unwrap().info.way, Way::Direct);
        // Who has none cannot answer either, and says that.
        let error = bert.connect(address(&anna), only(Way::Punch)).await.unwrap_err();
        let failure = failure(&error);
        assert_eq!(failure, WayFailure::Refused(RefusalReason::Busy));
    });
}

#[test]
fn strangers_at_a_punched_port_change_nothing() {
    tell(async {
        let broker = MemoryBroker::new();
        let (anna, bert) = (start(config(1), &broker).await, start(config(2), &broker).await);
        // Whatever listens on loopback in this moment is knocked at: among it the punched ports.
        let knocking = tokio::task::spawn_local(async {
            let mut held = Vec::new();
            loop {
                for port in listened_on() {
                    let at = SocketAddr::from(([127, 0, 0, 1], port));
                    if let Ok(Ok(stream)) =
                        timeout(Duration::from_millis(50), tokio::net::TcpStream::connect(at)).await
                    {
                        let _ = stream.try_write(b"GET / HTTP/1.1\r\n\r\n");
                        held.push(stream);
                    }
                }
                held.truncate(200);
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..20 {
            let (called, accepted) = meet(&anna, &bert).await;
            assert_eq!((called.info.local, called.info.remote), (accepted.info.remote, accepted.info.local));
        }
        knocking.abort();
    });
}

/// The TCP ports that this very process listens on.
fn listened_on() -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let own: std::collections::BTreeSet<String> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let ports = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_ours = words.get(3) == Some(&"0A") && words.get(9).is_some_and(|inode| own.contains(*inode));
        let port = words.get(1)?.rsplit(':').next()?;
        is_ours.then(|| u16::from_str_radix(port, 16).ok()).flatten()
    });
    ports.collect()
}
