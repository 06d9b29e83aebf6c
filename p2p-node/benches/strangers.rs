//! How long a client takes to get into a rendezvous that strangers want to fill, and what their visits leave behind.
//!
//! `cargo bench -p p2p-node --bench strangers` prints it. The strangers are as many as 10,000 at a time, all of one /24:
//! silent, or dripping a byte a second, on all ports, and they come again as soon as they are thrown out. Everything is
//! on loopback, in one process, and shares its processors. Nothing is asserted: these are figures, not a test.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use p2p_core::Seed;
use p2p_core::stun::{Message, Transport};
use p2p_node::rendezvous::turn::{Secret, TurnServerConfig};
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig, ServerTls, raise_open_files};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing_subscriber::EnvFilter;

const CROWDS: [usize; 3] = [0, 1_000, 10_000];
const TRIES: usize = 100;
const SESSIONS: usize = 100_000;
/// Visitors at once.
const AT_ONCE: usize = 64;
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

static VISITS: AtomicU64 = AtomicU64::new(0);
/// Bytes of the log, as the command writes it by default.
static LOGGED: AtomicU64 = AtomicU64::new(0);
/// The name of the threads of the servers.
const SERVING: &str = "serving";
/// Clock ticks of `/proc` a second.
const TICKS: f64 = 100.0;

/// Comes again and again, and drips.
async fn stranger(number: usize, to: SocketAddr) {
    loop {
        // Whatever goes wrong, it tries again.
        let _ = visit(number, to).await;
        sleep(Duration::from_millis(1)).await;
    }
}

async fn visit(number: usize, to: SocketAddr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 9, 1 + (number % 250) as u8], 0)))?;
    let mut stream = socket.connect(to).await?;
    VISITS.fetch_add(1, Ordering::Relaxed);
    let mut drops = b"\x10\x0d\x00\x04MQTT\x04\x02".iter();
    loop {
        let mut rest = [0; 64];
        match timeout(Duration::from_secs(1), stream.read(&mut rest)).await {
            Ok(Ok(0)) | Ok(Err(_)) => return Ok(()),
            Ok(Ok(_)) => {}
            Err(_) if number.is_multiple_of(2) => {}
            Err(_) => match drops.next() {
                Some(drop) => stream.write_all(&[*drop]).await?,
                None => return Ok(()),
            },
        }
    }
}

async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin, id: &str) -> io::Result<()> {
    let body = [&b"\x00\x04MQTT\x05\x02\x00\x1e\x00\x00"[..], &[id.len() as u8], id.as_bytes()].concat();
    stream.write_all(&[&[0x10, body.len() as u8], &body[..]].concat()).await?;
    let first = stream.read_u8().await?;
    let mut rest = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut rest).await?;
    if (first, rest[1]) == (0x20, 0) { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to).await?;
    let question =
        Message::binding(&mut Seed::from_u64(1)).encode(Transport::Tcp).map_err(io::Error::other)?;
    stream.write_all(&question).await?;
    stream.read_exact(&mut [0; 20]).await.map(drop)
}

async fn measure<T: Future<Output = io::Result<()>>>(name: &str, mut attempt: impl FnMut() -> T) {
    let (mut times, mut failures) = (Vec::new(), 0);
    for _ in 0..TRIES {
        let begun = Instant::now();
        match timeout(Duration::from_secs(10), attempt()).await {
            Ok(Ok(())) => times.push(begun.elapsed()),
            _ => failures += 1,
        }
        sleep(Duration::from_millis(5)).await;
    }
    times.sort();
    let at = |share: f64| {
        let index = (share * times.len().saturating_sub(1) as f64) as usize;
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "  {name:10} p50 {:7.2} ms, p90 {:7.2} ms, worst {:7.2} ms, {failures} failed",
        at(0.5),
        at(0.9),
        at(1.0)
    );
}

/// Processor time of the servers so far, in seconds: a thread that has ended is not counted, and none ends.
fn serving_time() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        let time = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        (name == SERVING).then(|| time.sum::<f64>() / TICKS)
    });
    times.sum()
}

/// A log that is counted and forgotten.
struct CountedLog;

impl io::Write for CountedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Memory of this process, in KiB.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = EnvFilter::new("off,p2p_node=warn,p2p_core=warn");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| CountedLog).init();
    println!("descriptors: {}", raise_open_files());
    let folder = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(tls));

    let serving = Builder::new_multi_thread().thread_name(SERVING).enable_all().build()?;
    let mut config = RendezvousConfig::default();
    config.mqtt = vec![ANY];
    config.broker.tls = Some(ServerTls { listen: vec![ANY], certificate, key });
    config.stun = vec![ANY];
    config.turn = Some(TurnServerConfig::loopback(Secret::generate()?));
    let rendezvous = serving.block_on(Rendezvous::start(config))?;
    let (mqtt, mqtts) = (rendezvous.mqtt_addrs()[0], rendezvous.mqtts_addrs()[0]);
    let (stun, turn) = (rendezvous.stun_addrs()[0], rendezvous.turn_addrs()[0]);
    let client = Builder::new_current_thread().enable_all().build()?;
    for crowd in CROWDS {
        let strangers = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for number in 0..crowd {
            strangers.spawn(stranger(number, [mqtt, mqtts, stun, turn][number % 4]));
        }
        client.block_on(async { sleep(Duration::from_secs(2)).await });
        let (visits, log, busy) =
            (VISITS.load(Ordering::Relaxed), LOGGED.load(Ordering::Relaxed), serving_time());
        let begun = Instant::now();
        println!("beside {crowd} strangers, time to be in:");
        client.block_on(async {
            let (mut number, tls) = (0, &tls);
            let mut id = || {
                number += 1;
                format!("client-{number}")
            };
            measure("MQTT", || {
                let id = id();
                async move { greet(connect(mqtt).await?, &id).await }
            })
            .await;
            measure("MQTT, TLS", || {
                let id = id();
                async move {
                    let name = "localhost".try_into().map_err(io::Error::other)?;
                    greet(tls.connect(name, connect(mqtts).await?).await?, &id).await
                }
            })
            .await;
            measure("STUN/TCP", || ask(stun)).await;
            measure("TURN/TCP", || ask(turn)).await;
        });
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "  {:.0} visits of strangers a second; the servers use {:.0} % of a processor and log {:.0} bytes a second",
            (VISITS.load(Ordering::Relaxed) - visits) as f64 / seconds,
            (serving_time() - busy) * 100.0 / seconds,
            (LOGGED.load(Ordering::Relaxed) - log) as f64 / seconds,
        );
        strangers.shutdown_timeout(Duration::from_secs(5));
    }
    client.block_on(async {
        sessions(mqtt, 0, SESSIONS / 10).await;
        let before = resident();
        sessions(mqtt, SESSIONS, SESSIONS).await;
        println!("{SESSIONS} sessions leave {} KiB", resident().saturating_sub(before));
    });
    serving.block_on(rendezvous.shutdown());
    Ok(())
}

/// So many sessions, each under a name of its own.
async fn sessions(to: SocketAddr, first: usize, number: usize) {
    let visitors = (0..AT_ONCE).map(|lane| async move {
        for number in (first + lane..first + number).step_by(AT_ONCE) {
            if let Ok(stream) = connect(to).await {
                // One that finds no seat is no session, and none to leave anything.
                let _ = greet(stream, &format!("session-{number}")).await;
            }
        }
    });
    futures_util::future::join_all(visitors).await;
}
