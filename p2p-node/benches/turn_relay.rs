//! The throughput of the TURN server, beside coturn and beside no relay at all, on loopback.
//!
//! `cargo bench -p p2p-node --bench turn_relay` prints it. Coturn's share is there only where it is installed. Rounds
//! take turns, so that a busy machine is busy for all of them. Nothing is asserted, as it is a figure and not a test.

mod coturn;
mod raw;
#[path = "figures/table.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod table;
#[path = "../tests/turn/mod.rs"]
mod turn;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coturn::Coturn;
use p2p_node::rendezvous::turn::{Credential, Secret, TurnServer, TurnServerConfig};
use table::{Samples, at_least};
use tokio::runtime::Runtime;

/// The bytes in a datagram, as the relayed stream fills them.
const PAYLOAD: usize = 1_200;
/// The datagrams under way, which are fewer than the sockets' buffers hold, so that mostly none is lost.
const WINDOW: usize = 96;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(400);

/// Sends datagrams for one round, no more at once than there is room for. Returns the number that arrived in a
/// second.
fn blast(send: impl Fn() + Sync, receive: impl Fn() -> bool + Sync) -> f64 {
    let (sent, came, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if receive() {
                    came.fetch_add(1, Ordering::Relaxed);
                } else {
                    // Nothing came for a while, so the datagrams under way are lost.
                    sent.store(came.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        });
        while began.elapsed() < ROUND {
            if sent.load(Ordering::Relaxed) < came.load(Ordering::Relaxed) + WINDOW {
                send();
                sent.fetch_add(1, Ordering::Relaxed);
            } else {
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    came.into_inner() as f64 / began.elapsed().as_secs_f64()
}

/// A pair of sockets, and the bytes in front of what they send.
struct Datagrams {
    client: UdpSocket,
    peer: UdpSocket,
    /// The address that the peer sends to.
    relayed: SocketAddr,
    outgoing: Vec<u8>,
}

impl Datagrams {
    fn new(client: UdpSocket, peer: UdpSocket, relayed: SocketAddr, outgoing: Vec<u8>) -> Self {
        for socket in [&client, &peer] {
            socket.set_nonblocking(false).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
        }
        Self { client, peer, relayed, outgoing }
    }

    /// Returns a pair without a relay.
    fn plain() -> Self {
        let [client, peer] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        client.connect(peer.local_addr().expect("an address")).expect("a socket");
        let relayed = client.local_addr().expect("an address");
        Self::new(client, peer, relayed, vec![7; PAYLOAD])
    }

    async fn through(server: SocketAddr, credential: &Credential) -> Self {
        let ([client, peer], relayed) = raw::channel(server, credential).await;
        Self::new(client, peer, relayed, turn::channel_data(raw::CHANNEL, &[7; PAYLOAD]))
    }

    fn there(&self) -> f64 {
        let send = || drop(self.client.send(&self.outgoing));
        blast(send, || self.peer.recv(&mut [0; 2_048]).is_ok())
    }

    fn back(&self) -> f64 {
        let send = || drop(self.peer.send_to(&[7; PAYLOAD], self.relayed));
        blast(send, || self.client.recv(&mut [0; 2_048]).is_ok())
    }
}

/// Returns the bytes a second from one end of a connection to the other, over one round.
fn pour(from: &mut TcpStream, to: &mut TcpStream) -> f64 {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let bytes = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut buffer, mut bytes) = (vec![0; 128 * 1024], 0);
            loop {
                let length = to.read(&mut buffer).expect("bytes");
                bytes += length;
                // The last block ends with a 1.
                if buffer[..length].last() == Some(&1) {
                    return bytes;
                }
            }
        });
        let mut block = vec![0; 64 * 1024];
        while !over.load(Ordering::Relaxed) {
            over.store(began.elapsed() >= ROUND, Ordering::Relaxed);
            *block.last_mut().expect("a block") = u8::from(over.load(Ordering::Relaxed));
            from.write_all(&block).expect("bytes");
        }
        reader.join().expect("a reader")
    });
    bytes as f64 / began.elapsed().as_secs_f64()
}

fn plain_connection() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    [client, listener.accept().expect("a connection").0]
}

/// One row of the comparison: its name, and the result of each round.
type Row<'a> = (&'a str, Samples);

/// Prints rows, and the ratio of the second to the others.
fn print(rows: &[Row<'_>], unit: &str, scale: f64) {
    for (name, samples) in rows {
        let at = |share| samples.at(share) * scale;
        println!("  {name:44} p50 {:8.1} {unit}   p10 {:.1}  p90 {:.1}", at(0.5), at(0.1), at(0.9));
    }
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let server = TurnServerConfig::loopback(Secret::generate().expect("a secret"));
    let server = runtime.block_on(TurnServer::start(server)).expect("the server starts");
    let credential = server.credential("anna", Duration::from_secs(3_600)).expect("a credential");
    let ours = server.local_addrs()[0];
    let coturn =
        runtime.block_on(Coturn::start(&credential.username.replace(':', "-"), &credential.password));
    let known = |name: &str| Credential { username: name.to_owned(), ..credential.clone() };
    let theirs =
        coturn.as_ref().map(|coturn| (coturn.address, known(&credential.username.replace(':', "-"))));
    if theirs.is_none() {
        println!("coturn: not on this machine");
    }

    let mut paths = vec![("no relay", Datagrams::plain())];
    paths.push(("p2p", runtime.block_on(Datagrams::through(ours, &credential))));
    if let Some((address, credential)) = &theirs {
        paths.push(("coturn", runtime.block_on(Datagrams::through(*address, credential))));
    }
    type Direction = (&'static str, fn(&Datagrams) -> f64);
    let directions: [Direction; 2] =
        [("client to peer", Datagrams::there), ("peer to client", Datagrams::back)];
    for (direction, run) in directions {
        println!("datagrams of {PAYLOAD} bytes on a channel over UDP, {direction}:");
        let mut rows: Vec<Row<'_>> = paths.iter().map(|(name, _)| (*name, Samples::default())).collect();
        let mut ratios = Samples::default();
        for _ in 0..ROUNDS {
            let values: Vec<f64> = paths.iter().map(|(_, path)| run(path)).collect();
            rows.iter_mut().zip(&values).for_each(|((_, samples), value)| samples.push(*value));
            if let [_, ours, theirs] = values[..] {
                ratios.push(ours / theirs);
            }
        }
        print(&rows, "MB/s", PAYLOAD as f64 / 1e6);
        if theirs.is_some() {
            at_least("p2p to coturn", &ratios, 1.0);
        }
    }

    println!("connections (RFC 6062), client to peer:");
    let (mut kept, mut connections) = (Vec::new(), vec![("no relay", plain_connection())]);
    let mut add = |name, (pair, control)| {
        connections.push((name, pair));
        kept.push(control);
    };
    add("p2p", runtime.block_on(raw::connection(ours, &credential)));
    if let Some((address, credential)) = &theirs {
        add("coturn", runtime.block_on(raw::connection(*address, credential)));
    }
    let mut rows: Vec<Row<'_>> = connections.iter().map(|(name, _)| (*name, Samples::default())).collect();
    let mut ratios = Samples::default();
    for _ in 0..ROUNDS {
        let values: Vec<f64> = connections.iter_mut().map(|(_, [from, to])| pour(from, to)).collect();
        rows.iter_mut().zip(&values).for_each(|((_, samples), value)| samples.push(*value));
        if let [_, ours, theirs] = values[..] {
            ratios.push(ours / theirs);
        }
    }
    print(&rows, "MB/s", 1e-6);
    if theirs.is_some() {
        at_least("p2p to coturn", &ratios, 1.0);
    }
    drop((connections, kept));
    runtime.block_on(server.shutdown());
}
