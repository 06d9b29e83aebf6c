//! The throughput of a pipe over a relayed connection (RFC 6062), beside a client that has nothing but the
//! connection.

use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

use p2p_node::{MemoryBroker, Node, PeerAddr, TurnCarrier};
use tokio::net::TcpStream;

use super::{BUFFER, MIB, Relay, Relays, call, config};
use crate::raw;
use crate::table::{Samples, at_least, time_of};
use crate::throughput::{Seen, Streams, alone, receive, run, send};

const ROUND: usize = 64 * MIB;
const ROUNDS: usize = 15;
const GOAL: f64 = 0.9;

const NAMES: [&str; 3] = ["plain TCP", "plain pipe", "encrypted pipe"];

pub(crate) fn print() {
    println!(
        "relay-connections: one way over a relayed connection on loopback, {} MiB a round, {ROUNDS} rounds by turns",
        ROUND / MIB
    );
    let relays = Relays::start();
    for relay in &relays.all {
        measure(&relays, relay);
    }
    relays.stop();
}

fn measure(relays: &Relays, relay: &Relay) {
    println!("  through {}", relay.name);
    let ([sending, receiving], kept) =
        relays.runtime.block_on(raw::connection(relay.address, &relay.credential));
    let barrier = Arc::new(Barrier::new(2));
    let broker = MemoryBroker::new();
    let (meet, met) = mpsc::channel();
    let received = Arc::new(Mutex::new(Vec::new()));
    let receiver = thread::spawn({
        let (barrier, received, broker) = (barrier.clone(), received.clone(), broker.clone());
        move || {
            alone(async move {
                let streams = accept(broker, meet, receiving).await;
                let seen = run(streams, ROUNDS, &barrier, |mut stream| async move {
                    receive(&mut stream, BUFFER, ROUND).await;
                    stream
                });
                *received.lock().expect("one writer") = seen.await;
            });
        }
    });
    let before = relay.process.map(|process| time_of(&process.to_string()));
    let sent = alone(async {
        let streams = connect(broker, relay, met, sending).await;
        run(streams, ROUNDS, &barrier, |mut stream| async move {
            send(&mut stream, BUFFER, ROUND).await;
            stream
        })
        .await
    });
    receiver.join().expect("the receiver ends");
    if let (Some(process), Some(before)) = (relay.process, before) {
        let took = time_of(&process.to_string()) - before;
        let bytes = (ROUND * (ROUNDS + 1) * NAMES.len()) as f64;
        println!("    {:42} {:.3} ns a byte", "processor time of the server", took * 1e6 / bytes);
    }
    drop(kept);
    tell(&sent, &received.lock().expect("one reader"));
}

fn tell(sent: &[Vec<Seen>], received: &[Vec<Seen>]) {
    let mut rates: [Samples; 3] = Default::default();
    let mut ends: [Samples; 3] = Default::default();
    let mut ratios: [Samples; 3] = Default::default();
    // The first round is a warm-up.
    for (sent, received) in sent.iter().zip(received).skip(1) {
        for which in 0..NAMES.len() {
            rates[which].push((ROUND / MIB) as f64 / received[which].wall);
            ends[which].push((sent[which].busy + received[which].busy) * 1e6 / ROUND as f64);
            ratios[which].push(received[0].wall / received[which].wall);
        }
    }
    for ((name, rate), ends) in NAMES.iter().zip(&rates).zip(&ends) {
        println!(
            "    {name:42} p50 {:8.0} MiB/s p10 {:8.0} MiB/s, both ends' processor time {:.3} ns a byte",
            rate.median(),
            rate.at(0.1),
            ends.median()
        );
    }
    at_least("  plain pipe / plain TCP", &ratios[1], GOAL);
    at_least("  encrypted pipe / plain TCP", &ratios[2], GOAL);
}

fn bare(stream: std::net::TcpStream) -> TcpStream {
    stream.set_nonblocking(true).expect("a socket");
    stream.set_nodelay(true).expect("an option");
    TcpStream::from_std(stream).expect("a socket")
}

async fn accept(broker: MemoryBroker, meet: mpsc::Sender<PeerAddr>, raw: std::net::TcpStream) -> Streams {
    let node = Node::bind(config(&broker, None)).await.expect("a node");
    meet.send(node.addr().expect("an address")).expect("the sender waits");
    // A pipe that gives its connection away proves that it had one.
    let scout = node.accept().await.expect("called");
    assert!(scout.into_tcp().is_ok(), "it is no connection");
    let plain = node.accept().await.expect("called");
    let sealed = node.accept().await.expect("called");
    assert!(plain.cipher().is_none() && sealed.cipher().is_some());
    node.close().await;
    vec![Box::new(bare(raw)), Box::new(plain), Box::new(sealed)]
}

async fn connect(
    broker: MemoryBroker,
    relay: &Relay,
    met: mpsc::Receiver<PeerAddr>,
    raw: std::net::TcpStream,
) -> Streams {
    let node = Node::bind(config(&broker, Some(relay.server(TurnCarrier::Tcp)))).await.expect("a node");
    let peer = met.recv().expect("the receiver stands");
    drop(call(&node, &peer, true).await);
    let plain = call(&node, &peer, true).await;
    let sealed = call(&node, &peer, false).await;
    node.close().await;
    vec![Box::new(bare(raw)), Box::new(plain), Box::new(sealed)]
}
