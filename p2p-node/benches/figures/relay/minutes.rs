//! Two real minutes through a coturn with the shortest lifetimes that it can be given.

use std::time::{Duration, Instant};

use p2p_core::stun::{Attribute, Method};
use p2p_node::{MemoryBroker, Node, Pipe, TurnCarrier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::{MIB, Relay, call, config, coturn};
use crate::table::Samples;
use crate::turn::{Client, UDP};
use crate::world::apart;

const SPAN: Duration = Duration::from_secs(125);
const EVERY: Duration = Duration::from_secs(5);
/// The time after which a word that has not come back counts as lost.
const DEAF: Duration = Duration::from_secs(20);
const OPTIONS: [&str; 4] =
    ["--stale-nonce=60", "--max-allocate-lifetime=60", "--channel-lifetime=60", "--permission-lifetime=60"];

const CASES: [(&str, TurnCarrier, &[&str]); 3] = [
    ("over UDP, datagrams", TurnCarrier::Udp, &[]),
    ("over TCP, datagrams", TurnCarrier::Tcp, &["--no-tcp-relay"]),
    ("over TCP, a relayed connection", TurnCarrier::Tcp, &[]),
];

pub(crate) fn print() {
    println!("relay-minutes: {} s through a coturn with {}", SPAN.as_secs(), OPTIONS.join(" "));
    let runtime = apart();
    let mut stories = Vec::new();
    for (name, carrier, more) in CASES {
        let options: Vec<&str> = OPTIONS.iter().chain(more).copied().collect();
        let Some(coturn) = coturn(&runtime, &options) else { return };
        let relay = Relay::of(&coturn);
        stories.push((name, coturn, runtime.spawn(tell(relay, carrier))));
    }
    for (name, coturn, story) in stories {
        let (granted, idle, slow) = runtime.block_on(story).expect("it is carried");
        println!("  {name} (it grants {granted} s)");
        println!("    idle, then 1 MiB each way: exact, {:.3} s after the first byte", idle.as_secs_f64());
        slow.print_ms("  a word there and back every 5 s");
        println!("    {:42} {:8.3} ms", "the slowest", slow.at(1.0));
        drop(coturn);
    }
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// Returns the lifetime that the server grants in seconds, the time of the bytes at the end, and the times of words.
async fn tell(relay: Relay, carrier: TurnCarrier) -> (u32, Duration, Samples) {
    let granted = granted(&relay).await;
    let broker = MemoryBroker::new();
    let anna = Node::bind(config(&broker, Some(relay.server(carrier)))).await.expect("a node");
    let bert = Node::bind(config(&broker, None)).await.expect("a node");
    let idle = meet(&anna, &bert).await;
    let slow = meet(&anna, &bert).await;
    let (idle, slow) = tokio::join!(rest(idle), chat(slow));
    anna.close().await;
    bert.close().await;
    (granted, idle, slow)
}

async fn granted(relay: &Relay) -> u32 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(relay.address).await.expect("a socket");
    let answer = Client::new(socket, relay.credential.clone()).ask(Method::ALLOCATE, &[UDP]).await;
    let lifetime = answer.find(|attribute| match attribute {
        Attribute::Lifetime(seconds) => Some(*seconds),
        _ => None,
    });
    lifetime.expect("a lifetime")
}

async fn meet(anna: &Node, bert: &Node) -> [Pipe; 2] {
    let addr = bert.addr().expect("an address");
    let (calling, called) = tokio::join!(call(anna, &addr, false), bert.accept());
    [calling, called.expect("called")]
}

async fn rest([mut a, mut b]: [Pipe; 2]) -> Duration {
    sleep(SPAN).await;
    let bytes: Vec<u8> =
        (0..MIB as u32 / 4).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    let start = Instant::now();
    for is_back in [false, true] {
        let (writer, reader) = if is_back { (&mut b, &mut a) } else { (&mut a, &mut b) };
        let mut heard = vec![0; bytes.len()];
        let write = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        let carried = async { tokio::join!(write, reader.read_exact(&mut heard)) };
        let (said, read) = timeout(DEAF, carried).await.expect("it is not deaf");
        said.expect("said");
        read.expect("heard");
        assert!(heard == bytes, "not a byte is lost");
    }
    start.elapsed()
}

async fn chat([mut a, mut b]: [Pipe; 2]) -> Samples {
    let mut words = Samples::default();
    let began = Instant::now();
    let mut number = 0_u64;
    while began.elapsed() < SPAN {
        sleep(EVERY).await;
        number += 1;
        let start = Instant::now();
        for is_back in [false, true] {
            let (from, to) = if is_back { (&mut b, &mut a) } else { (&mut a, &mut b) };
            let mut heard = [0; 8];
            let said = number.to_be_bytes();
            let carried = async { tokio::join!(from.write_all(&said), to.read_exact(&mut heard)) };
            let (written, read) = timeout(DEAF, carried).await.expect("it is not deaf");
            written.expect("said");
            read.expect("heard");
            assert_eq!(heard, said, "not a byte is lost");
        }
        words.since(start);
    }
    words
}
