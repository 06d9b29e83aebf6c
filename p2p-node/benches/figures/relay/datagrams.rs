//! The throughput of a pipe over relayed datagrams, beside the most that a client without any stream gets through the
//! same server.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use p2p_node::{MemoryBroker, Node, PeerAddr, TurnCarrier};
use tokio::task::spawn_blocking;

use super::{BUFFER, MIB, Relay, Relays, call, config};
use crate::raw;
use crate::table::{Samples, at_least, thread_time, time_of};
use crate::throughput::{Seen, Stream, alone, receive, send};
use crate::turn::channel_data;

/// The bytes of one round, and the number of rounds after a warm-up.
const ROUND: usize = 24 * MIB;
const ROUNDS: usize = 15;
/// The bytes in a datagram of the raw client.
const PAYLOAD: usize = 1_200;
/// The most datagrams that the raw client has under way. The best number is found by trying; the last one is a flood.
const WINDOWS: [usize; 7] = [16, 32, 64, 128, 256, 512, usize::MAX];
const TRIES: usize = 3;
/// The time after which a datagram that has not come is lost.
const LOST_AFTER: Duration = Duration::from_millis(20);
const GOAL: f64 = 0.8;

const NAMES: [&str; 3] = ["raw datagrams", "plain pipe", "encrypted pipe"];

/// The counts that the two ends of the raw client share, as no acks are sent.
#[derive(Default)]
struct Flight {
    window: AtomicUsize,
    sent: AtomicUsize,
    came: AtomicUsize,
}

enum Lane {
    Raw(Arc<UdpSocket>, Arc<Flight>),
    Pipe(Option<Box<dyn Stream>>),
}

/// The further observations of the sending end: datagrams sent by the raw client, and milliseconds of the server on a
/// processor.
#[derive(Clone, Copy, Default)]
struct Round {
    sender: Seen,
    datagrams: usize,
    server: f64,
}

pub(crate) fn print() {
    println!(
        "relay-datagrams: one way over UDP relaying on loopback, {} MiB a round, {ROUNDS} rounds by turns",
        ROUND / MIB
    );
    println!("  the raw client sends ChannelData of {PAYLOAD} bytes and is told for nothing what has come");
    let relays = Relays::start();
    for relay in &relays.all {
        measure(&relays, relay);
    }
    relays.stop();
}

fn measure(relays: &Relays, relay: &Relay) {
    println!("  through {}", relay.name);
    let ([client, peer], _) = relays.runtime.block_on(raw::channel(relay.address, &relay.credential));
    for socket in [&client, &peer] {
        socket.set_nonblocking(false).expect("a socket");
        socket.set_read_timeout(Some(LOST_AFTER)).expect("a socket");
    }
    let flight = Arc::new(Flight::default());
    let [sending, receiving] = [client, peer].map(|socket| Lane::Raw(Arc::new(socket), flight.clone()));
    let barrier = Arc::new(Barrier::new(2));
    let broker = MemoryBroker::new();
    let (meet, met) = mpsc::channel();
    let received = Arc::new(Mutex::new(Vec::new()));
    let receiver = thread::spawn({
        let (barrier, received, broker) = (barrier.clone(), received.clone(), broker.clone());
        move || {
            alone(async move {
                let mut lanes = accept(broker, meet, receiving).await;
                for which in schedule() {
                    barrier.wait();
                    let seen = lanes[which].receive().await;
                    received.lock().expect("one writer").push(seen);
                }
            });
        }
    });
    let sent = alone(async {
        let mut lanes = connect(broker, relay, met, sending).await;
        let mut sent = Vec::new();
        for (turn, which) in schedule().into_iter().enumerate() {
            if which == 0 {
                let window = match turn < WINDOWS.len() * TRIES {
                    true => WINDOWS[turn / TRIES],
                    false => best_window(&sent),
                };
                lanes[0].prepare(window);
            }
            barrier.wait();
            let server = || relay.process.map_or(f64::NAN, |process| time_of(&process.to_string()));
            let before = server();
            let (sender, datagrams) = lanes[which].send().await;
            sent.push(Round { sender, datagrams, server: server() - before });
        }
        sent
    });
    receiver.join().expect("the receiver ends");
    tell(&sent, &received.lock().expect("one reader"));
}

/// Returns the order of the lanes: first the raw client with each window, then all by turns.
fn schedule() -> Vec<usize> {
    let tries = std::iter::repeat_n(0, WINDOWS.len() * TRIES);
    let lanes = NAMES.len();
    tries.chain((0..=ROUNDS).flat_map(|round| (0..lanes).map(move |turn| (round + turn) % lanes))).collect()
}

/// Returns the window with which most came.
fn best_window(sent: &[Round]) -> usize {
    let took = |tries: &[Round]| {
        let mut walls = Samples::default();
        tries.iter().for_each(|round| walls.push(round.sender.wall));
        walls.median()
    };
    let tries = sent[..WINDOWS.len() * TRIES].chunks(TRIES).map(took);
    let best = tries.zip(WINDOWS).min_by(|(one, _), (other, _)| one.total_cmp(other));
    best.expect("there are windows").1
}

fn tell(sent: &[Round], received: &[Seen]) {
    let mut best = (0.0, String::new());
    for (window, (sent, received)) in WINDOWS.iter().zip(sent.chunks(TRIES).zip(received.chunks(TRIES))) {
        let mut rates = Samples::default();
        received.iter().for_each(|seen| rates.push((ROUND / MIB) as f64 / seen.wall));
        let (all, came) = (sent.iter().map(|round| round.datagrams).sum::<usize>(), TRIES * ROUND / PAYLOAD);
        let loss = 100.0 * (1.0 - came as f64 / all as f64);
        let name = match *window {
            usize::MAX => "a flood".to_owned(),
            window => format!("{window} under way"),
        };
        println!("    raw, {name:37} p50 {:8.1} MiB/s, lost {loss:.1} %", rates.median());
        if rates.median() > best.0 {
            best = (rates.median(), name);
        }
    }
    println!("    compared with the best of these: {}", best.1);
    let mut rates: [Samples; 3] = Default::default();
    let mut ends: [Samples; 3] = Default::default();
    let mut servers: [Samples; 3] = Default::default();
    let mut ratios: [Samples; 3] = Default::default();
    let skip = WINDOWS.len() * TRIES + NAMES.len();
    let order = schedule();
    let rounds = sent.iter().zip(received).zip(&order).skip(skip).collect::<Vec<_>>();
    for round in rounds.chunks(NAMES.len()) {
        let mut rate = [0.0; 3];
        for ((sent, received), which) in round.iter().copied() {
            rate[*which] = (ROUND / MIB) as f64 / received.wall;
            rates[*which].push(rate[*which]);
            ends[*which].push((sent.sender.busy + received.busy) * 1e6 / ROUND as f64);
            servers[*which].push(sent.server * 1e6 / ROUND as f64);
        }
        ratios.iter_mut().zip(rate).for_each(|(ratios, this)| ratios.push(this / rate[0]));
    }
    for which in 0..NAMES.len() {
        print!(
            "    {:42} p50 {:8.1} MiB/s p10 {:8.1} MiB/s, processor time of both ends {:.2} ns a byte",
            NAMES[which],
            rates[which].median(),
            rates[which].at(0.1),
            ends[which].median(),
        );
        // A server that is a thread of this process has no time of its own.
        match servers[which].median() {
            server if server.is_nan() => println!(),
            server => println!(", of the server {server:.2}"),
        }
    }
    at_least("  plain pipe / raw", &ratios[1], GOAL);
    at_least("  encrypted pipe / raw", &ratios[2], GOAL);
}

async fn accept(broker: MemoryBroker, meet: mpsc::Sender<PeerAddr>, raw: Lane) -> [Lane; 3] {
    let node = Node::bind(config(&broker, None)).await.expect("a node");
    meet.send(node.addr().expect("an address")).expect("the sender waits");
    let plain = node.accept().await.expect("called");
    let sealed = node.accept().await.expect("called");
    assert!(plain.cipher().is_none() && sealed.cipher().is_some());
    node.close().await;
    [raw, Lane::Pipe(Some(Box::new(plain))), Lane::Pipe(Some(Box::new(sealed)))]
}

async fn connect(broker: MemoryBroker, relay: &Relay, met: mpsc::Receiver<PeerAddr>, raw: Lane) -> [Lane; 3] {
    let node = Node::bind(config(&broker, Some(relay.server(TurnCarrier::Udp)))).await.expect("a node");
    let peer = met.recv().expect("the receiver stands");
    let plain = call(&node, &peer, true).await;
    let sealed = call(&node, &peer, false).await;
    node.close().await;
    [raw, Lane::Pipe(Some(Box::new(plain))), Lane::Pipe(Some(Box::new(sealed)))]
}

impl Lane {
    fn prepare(&self, window: usize) {
        if let Self::Raw(_, flight) = self {
            flight.window.store(window, Ordering::Relaxed);
            flight.sent.store(0, Ordering::Relaxed);
            flight.came.store(0, Ordering::Relaxed);
        }
    }

    /// Sends one round. Returns also the number of datagrams, if it is the raw client.
    async fn send(&mut self) -> (Seen, usize) {
        match self {
            Self::Raw(socket, flight) => {
                let (socket, flight) = (socket.clone(), flight.clone());
                // The runtime's pipes go on meanwhile.
                let job = spawn_blocking(move || {
                    let mut datagrams = 0;
                    (timed(|| datagrams = blast(&socket, &flight)), datagrams)
                });
                job.await.expect("it does not panic")
            }
            Self::Pipe(stream) => {
                let mut pipe = stream.take().expect("it is put back");
                let (start, busy) = (Instant::now(), thread_time());
                send(&mut pipe, BUFFER, ROUND).await;
                let seen = Seen { wall: start.elapsed().as_secs_f64(), busy: thread_time() - busy };
                *stream = Some(pipe);
                (seen, 0)
            }
        }
    }

    async fn receive(&mut self) -> Seen {
        match self {
            Self::Raw(socket, flight) => {
                let (socket, flight) = (socket.clone(), flight.clone());
                let job = spawn_blocking(move || {
                    let seen = timed(|| collect(&socket, &flight));
                    // Datagrams still on their way belong to no round.
                    while socket.recv(&mut [0; PAYLOAD]).is_ok() {}
                    seen
                });
                job.await.expect("it does not panic")
            }
            Self::Pipe(stream) => {
                let mut pipe = stream.take().expect("it is put back");
                let (start, busy) = (Instant::now(), thread_time());
                receive(&mut pipe, BUFFER, ROUND).await;
                let seen = Seen { wall: start.elapsed().as_secs_f64(), busy: thread_time() - busy };
                *stream = Some(pipe);
                seen
            }
        }
    }
}

fn timed(work: impl FnOnce()) -> Seen {
    let (start, busy) = (Instant::now(), thread_time());
    work();
    Seen { wall: start.elapsed().as_secs_f64(), busy: thread_time() - busy }
}

/// Sends until enough has come, and returns the number of datagrams it took.
fn blast(socket: &UdpSocket, flight: &Flight) -> usize {
    let datagram = channel_data(raw::CHANNEL, &[7; PAYLOAD]);
    let window = flight.window.load(Ordering::Relaxed);
    let mut datagrams = 0;
    loop {
        let came = flight.came.load(Ordering::Relaxed);
        if came >= ROUND / PAYLOAD {
            return datagrams;
        }
        if flight.sent.load(Ordering::Relaxed) < came.saturating_add(window) {
            // A datagram that finds no room is lost.
            let _ = socket.send(&datagram);
            flight.sent.fetch_add(1, Ordering::Relaxed);
            datagrams += 1;
        } else {
            thread::yield_now();
        }
    }
}

fn collect(socket: &UdpSocket, flight: &Flight) {
    let mut buffer = [0; 2 * PAYLOAD];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                if flight.came.fetch_add(1, Ordering::Relaxed) + 1 >= ROUND / PAYLOAD {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                flight.sent.store(flight.came.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            Err(error) => panic!("{error}"),
        }
    }
}
