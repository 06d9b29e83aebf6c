//! The behaviour of a pipe when a coturn is killed in the middle of a transfer.

use std::time::{Duration, Instant};

use p2p_node::{MemoryBroker, Node, Pipe, TurnCarrier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Relay, call, config, coturn};
use crate::coturn::Coturn;
use crate::table::at_most;
use crate::world::apart;

/// The goal, in seconds.
const GOAL: f64 = 15.0;
/// The bytes of one write, and the pause after it, which makes about 10 MB a second.
const PIECE: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(1);
/// The undisturbed time before and after.
const WELL: Duration = Duration::from_secs(2);
/// The time that coturn stays away when it comes back.
const AWAY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(40);

type Case = (&'static str, TurnCarrier, &'static [&'static str]);

const CASES: [Case; 3] = [
    ("over UDP, datagrams", TurnCarrier::Udp, &[]),
    ("over TCP, datagrams", TurnCarrier::Tcp, &["--no-tcp-relay"]),
    ("over TCP, a relayed connection", TurnCarrier::Tcp, &[]),
];

pub(crate) fn print() {
    println!(
        "relay-restart: coturn is killed (9) in the middle of a transfer of about 10 MB/s, in one direction"
    );
    for comes_back in [true, false] {
        match comes_back {
            true => {
                println!("  it comes back after {} s, at the same port, and knows nothing", AWAY.as_secs())
            }
            false => println!("  it stays away"),
        }
        for case in CASES {
            let runtime = apart();
            let Some(coturn) = coturn(&runtime, case.2) else { return };
            runtime.block_on(measure(case, coturn, comes_back));
            runtime.shutdown_background();
        }
    }
}

/// The observations of one end.
struct Seen {
    bytes: u64,
    is_exact: bool,
    /// The longest time without a byte.
    pause: Duration,
    /// The error and the time at which it ended, if it ended with one.
    error: Option<(String, Instant)>,
}

async fn measure((name, carrier, _): Case, mut coturn: Coturn, comes_back: bool) {
    let relay = Relay::of(&coturn);
    let broker = MemoryBroker::new();
    let anna = Node::bind(config(&broker, Some(relay.server(carrier)))).await.expect("a node");
    let bert = Node::bind(config(&broker, None)).await.expect("a node");
    let addr = bert.addr().expect("an address");
    let (calling, called) = tokio::join!(call(&anna, &addr, false), bert.accept());
    let (stop, stopped) = watch::channel(false);
    let sending = tokio::spawn(send(calling, stopped));
    let receiving = tokio::spawn(receive(called.expect("called")));
    sleep(WELL).await;
    coturn.kill();
    let killed = Instant::now();
    if comes_back {
        sleep(AWAY).await;
        assert!(coturn.again().await, "coturn comes back");
    }
    sleep(Duration::from_secs_f64(GOAL)).await;
    // An error means that the other end has ended already.
    let _ = stop.send(true);
    let (sent, received) =
        timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.expect("nothing hangs");
    let (sent, received) = (sent.expect("it does not panic"), received.expect("it does not panic"));
    let exact = if received.is_exact { "exact" } else { "NOT EXACT" };
    println!(
        "  {name}: {:.1} MB sent, {:.1} MB received, {exact}",
        sent.bytes as f64 / 1e6,
        received.bytes as f64 / 1e6
    );
    if sent.error.is_none() && received.error.is_none() {
        assert_eq!(sent.bytes, received.bytes, "not a byte is lost");
        at_most("  the longest pause", received.pause.as_secs_f64(), GOAL, "s");
    }
    for (end, seen) in [("sender", &sent), ("receiver", &received)] {
        if let Some((text, at)) = &seen.error {
            println!("    the {end} is told: {text}");
            at_most(&format!("  the {end} is told after"), (*at - killed).as_secs_f64(), GOAL, "s");
        }
    }
    anna.close().await;
    bert.close().await;
}

/// Returns eight bytes that differ for each number.
fn word(number: u64) -> [u8; 8] {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

async fn send(mut pipe: Pipe, stopped: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen { bytes: 0, is_exact: true, pause: Duration::ZERO, error: None };
    while !*stopped.borrow() {
        let from = seen.bytes / 8;
        let piece: Vec<u8> = (from..from + PIECE as u64 / 8).flat_map(word).collect();
        if let Err(error) = pipe.write_all(&piece).await {
            seen.error = Some((error.to_string(), Instant::now()));
            return seen;
        }
        seen.bytes += PIECE as u64;
        sleep(PAUSE).await;
    }
    if let Err(error) = pipe.shutdown().await {
        seen.error = Some((error.to_string(), Instant::now()));
    }
    // This waits until the receiver has had enough.
    let _ = pipe.read(&mut [0]).await;
    seen
}

async fn receive(mut pipe: Pipe) -> Seen {
    let mut seen = Seen { bytes: 0, is_exact: true, pause: Duration::ZERO, error: None };
    let mut last = Instant::now();
    let mut buffer = vec![0; PIECE];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) => return seen,
            Ok(length) => {
                let expected = (seen.bytes..).map(|at| word(at / 8)[(at % 8) as usize]);
                seen.is_exact &= buffer[..length].iter().copied().eq(expected.take(length));
                seen.bytes += length as u64;
                seen.pause = seen.pause.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => {
                seen.error = Some((error.to_string(), Instant::now()));
                return seen;
            }
        }
    }
}
