//! The throughput of a pipe, beside what the machine could carry.

use std::future::Future;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use p2p_node::{ConnectOptions, MemoryBroker, Node, Pipe, Way};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::table::{Samples, at_least, thread_time};
use crate::world::{ANY, in_memory};

const MIB: usize = 1024 * 1024;
/// The bytes of one round, and the number of rounds after a warm-up: 2 GiB for each.
const ROUND: usize = 128 * MIB;
const ROUNDS: usize = 16;
/// The bytes that users write and read at once, as with `tokio::io::copy` and `copy_bidirectional_with_sizes`.
const BUFFERS: [usize; 2] = [8 * 1024, 64 * 1024];
const PLAIN_GOAL: f64 = 0.98;
const SEALED_GOAL: f64 = 0.9;

const NAMES: [&str; 4] = ["bare TCP", "plain pipe", "TLS 1.3, AES-256-GCM (rustls)", "encrypted pipe"];

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
pub(crate) type Streams = Vec<Box<dyn Stream>>;

pub(crate) fn print() {
    println!(
        "throughput: one way on loopback, two threads with a runtime each, {} MiB a round, {ROUNDS} rounds by turns",
        ROUND / MIB
    );
    for buffer in BUFFERS {
        measure(buffer);
    }
}

/// The observations of one end in a round: seconds, and milliseconds on a processor.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) wall: f64,
    pub(crate) busy: f64,
}

fn measure(buffer: usize) {
    let barrier = Arc::new(Barrier::new(2));
    let broker = MemoryBroker::new();
    let (meet, met) = mpsc::channel();
    let (receiving, at_barrier, shared) = (Arc::new(Mutex::new(Vec::new())), barrier.clone(), broker.clone());
    let received = receiving.clone();
    let receiver = thread::spawn(move || {
        alone(async move {
            let streams = accept_all(shared, meet).await;
            let seen = run(streams, ROUNDS, &at_barrier, |mut stream| async move {
                receive(&mut stream, buffer, ROUND).await;
                stream
            });
            *received.lock().expect("one writer") = seen.await;
        });
    });
    let sending = alone(async move {
        let streams = connect_all(broker, met).await;
        run(streams, ROUNDS, &barrier, |mut stream| async move {
            send(&mut stream, buffer, ROUND).await;
            stream
        })
        .await
    });
    receiver.join().expect("the receiver ends");
    let receiving = receiving.lock().expect("one reader");
    let mut rates: [Samples; 4] = Default::default();
    let mut costs: [Samples; 4] = Default::default();
    let [mut plain, mut sealed, mut plain_cost, mut sealed_cost]: [Samples; 4] = Default::default();
    // The first round is a warm-up.
    for (sent, received) in sending.iter().zip(receiving.iter()).skip(1) {
        let rate: [f64; 4] = std::array::from_fn(|which| (ROUND / MIB) as f64 / received[which].wall);
        let cost: [f64; 4] =
            std::array::from_fn(|which| (sent[which].busy + received[which].busy) * 1e6 / ROUND as f64);
        for which in 0..NAMES.len() {
            rates[which].push(rate[which]);
            costs[which].push(cost[which]);
        }
        // Only rounds that ran side by side are compared, as the machine's other work comes and goes.
        plain.push(rate[1] / rate[0]);
        sealed.push(rate[3] / rate[2]);
        plain_cost.push(cost[0] / cost[1]);
        sealed_cost.push(cost[2] / cost[3]);
    }
    println!("  buffers of {} KiB", buffer / 1024);
    for ((name, rate), cost) in NAMES.iter().zip(&rates).zip(&costs) {
        println!(
            "  {name:44} p50 {:8.0} MiB/s p10 {:8.0} MiB/s, both ends' processor time {:.3} ns a byte",
            rate.median(),
            rate.at(0.1),
            cost.median()
        );
    }
    at_least("plain / bare", &plain, PLAIN_GOAL);
    at_least("encrypted / TLS", &sealed, SEALED_GOAL);
    at_least("bare / plain, processor time", &plain_cost, PLAIN_GOAL);
    at_least("TLS / encrypted, processor time", &sealed_cost, SEALED_GOAL);
}

pub(crate) fn alone<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Runs all rounds and a warm-up. The order of the streams turns, so that none always comes first.
pub(crate) async fn run<F>(
    streams: Streams,
    rounds: usize,
    barrier: &Barrier,
    carry: impl Fn(Box<dyn Stream>) -> F,
) -> Vec<Vec<Seen>>
where
    F: Future<Output = Box<dyn Stream>>,
{
    let mut streams: Vec<Option<Box<dyn Stream>>> = streams.into_iter().map(Some).collect();
    let mut seen = Vec::new();
    for round in 0..=rounds {
        let mut row = vec![Seen::default(); streams.len()];
        for turn in 0..row.len() {
            let which = (round + turn) % row.len();
            let stream = streams[which].take().expect("it is put back");
            // Nothing else runs on this thread.
            barrier.wait();
            let (start, busy) = (Instant::now(), thread_time());
            streams[which] = Some(carry(stream).await);
            row[which] = Seen { wall: start.elapsed().as_secs_f64(), busy: thread_time() - busy };
        }
        seen.push(row);
    }
    seen
}

pub(crate) async fn send(stream: &mut Box<dyn Stream>, buffer: usize, round: usize) {
    let data = vec![0x5a; buffer];
    for _ in 0..round / buffer {
        stream.write_all(&data).await.expect("sent");
    }
    stream.flush().await.expect("flushed");
    // The round is over when all of it has arrived.
    stream.read_exact(&mut [0]).await.expect("acknowledged");
}

pub(crate) async fn receive(stream: &mut Box<dyn Stream>, buffer: usize, round: usize) {
    let mut data = vec![0; buffer];
    let mut left = round;
    while left > 0 {
        let some = stream.read(&mut data).await.expect("received");
        assert!(some > 0, "cut short");
        left -= some;
    }
    stream.write_all(&[1]).await.expect("acknowledged");
    stream.flush().await.expect("flushed");
}

/// The facts about the receiver that the sender needs.
struct Meeting {
    listener: std::net::SocketAddr,
    certificate: rustls::pki_types::CertificateDer<'static>,
    addr: p2p_node::PeerAddr,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    Arc::new(rustls::crypto::CryptoProvider { cipher_suites, ..default_provider() })
}

async fn accept_all(broker: MemoryBroker, meet: mpsc::Sender<Meeting>) -> Streams {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = key.cert.der().clone();
    let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private.into())
        .expect("a key that fits");
    let listener = TcpListener::bind(ANY).await.expect("a listener");
    let node = Node::bind(in_memory(&broker)).await.expect("a node");
    let meeting = Meeting {
        listener: listener.local_addr().expect("an address"),
        certificate,
        addr: node.addr().expect("an address"),
    };
    meet.send(meeting).expect("the sender waits");
    let bare = accept(&listener).await;
    let plain = node.accept().await.expect("called");
    let tls = TlsAcceptor::from(Arc::new(config)).accept(accept(&listener).await).await.expect("TLS");
    let sealed = node.accept().await.expect("called");
    assert_kinds(&plain, &sealed);
    node.close().await;
    vec![Box::new(bare), Box::new(plain), Box::new(tls), Box::new(sealed)]
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().await.expect("accepted");
    stream.set_nodelay(true).expect("an option");
    stream
}

async fn connect_all(broker: MemoryBroker, met: mpsc::Receiver<Meeting>) -> Streams {
    let Meeting { listener, certificate, addr } = met.recv().expect("the receiver stands");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let node = Node::bind(in_memory(&broker)).await.expect("a node");
    let bare = dial(listener).await;
    let call = |plain| ConnectOptions::new().with_ways([Way::Direct]).with_plain(plain);
    let plain = node.connect_with(&addr, call(true)).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = TlsConnector::from(Arc::new(config)).connect(name, dial(listener).await).await.expect("TLS");
    let sealed = node.connect_with(&addr, call(false)).await.expect("connected");
    assert_kinds(&plain, &sealed);
    node.close().await;
    vec![Box::new(bare), Box::new(plain), Box::new(tls), Box::new(sealed)]
}

async fn dial(listener: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(listener).await.expect("connected");
    stream.set_nodelay(true).expect("an option");
    stream
}

fn assert_kinds(plain: &Pipe, sealed: &Pipe) {
    assert!(plain.cipher().is_none() && sealed.cipher() == Some(p2p_node::Cipher::Aes256Gcm));
}
