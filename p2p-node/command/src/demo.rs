//! The command `p2p demo`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use blake2::{Blake2s256, Digest};
use clap::Args;
use p2p_node::network::{NetworkReport, Verdict};
use p2p_node::rendezvous::turn::{Secret, TurnServerConfig};
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig};
use p2p_node::{
    BrokerConfig, Config, ConnectOptions, Node, Path, Pipe, StunServer, TurnCarrier, TurnServer, Way,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::ended::Ended;
use crate::options::interrupted;
use crate::screen;

/// The bytes that each end sends.
const BYTES: usize = 16 * 1024 * 1024;
/// The bytes that are written at once.
const BLOCK: usize = 64 * 1024;
/// The most time for a connection, as none within one process takes this long.
const WITHIN: Duration = Duration::from_secs(10);

const EXAMPLE: &str = "\
Needs no configuration, no rights and no network: everything happens on the loopback interface.

Example:
  p2p demo --json";

/// Show every way at work: an MQTT broker, a STUN server, a TURN server and two nodes, all in this process
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Demo {
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// One connection that was made, used and checked.
struct Shown {
    way: Way,
    path: Path,
    took: Duration,
    /// The time of [`BYTES`] in each direction at the same time.
    carried: Duration,
}

impl Shown {
    /// Returns MiB a second, both directions together.
    fn throughput(&self) -> f64 {
        (2 * BYTES) as f64 / (1024.0 * 1024.0) / self.carried.as_secs_f64()
    }
}

impl Demo {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        tokio::select! {
            outcome = self.show() => outcome,
            () = interrupted() => Err(Ended::Interrupted.into()),
        }
    }

    async fn show(&self) -> anyhow::Result<()> {
        let mut config = RendezvousConfig::default();
        config.mqtt = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        config.stun = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        config.turn = Some(TurnServerConfig::loopback(Secret::generate()?));
        let rendezvous = Rendezvous::start(config).await?;
        let (anna, bert) = tokio::try_join!(node(&rendezvous), node(&rendezvous))?;
        let network = anna.survey().await;
        let each = Way::ALL.map(|way| (way.to_string(), vec![way]));
        let all = ("all at once".to_owned(), Way::ALL.to_vec());
        let (mut rows, mut failed) = (Vec::new(), 0);
        for (name, ways) in each.into_iter().chain([all]) {
            for plain in [false, true] {
                let shown = connect(&anna, &bert, &ways, plain).await;
                failed += usize::from(shown.is_err());
                rows.push((name.clone(), plain, shown));
            }
        }
        match self.json {
            true => tell_json(&rows, &network, failed == 0)?,
            false => tell_table(&rows, &network)?,
        }
        tokio::join!(anna.close(), bert.close());
        rendezvous.shutdown().await;
        ensure!(failed == 0, "{failed} of {} connections did not work", rows.len());
        Ok(())
    }
}

async fn node(rendezvous: &Rendezvous) -> anyhow::Result<Node> {
    let mut config = Config::loopback();
    for addr in rendezvous.mqtt_addrs() {
        config.brokers.push(BrokerConfig::new(format!("mqtt://{addr}").parse()?));
    }
    let servers = rendezvous.stun_addrs().into_iter();
    config.stun = servers.map(StunServer::from).collect();
    let credential = rendezvous.turn_credential("demo", Duration::from_secs(3_600));
    if let (Some(credential), Some(at)) = (credential, rendezvous.turn_addrs().first()) {
        // This is a usual configuration: datagrams first, and a stream, which can have connections relayed.
        config.turn = [TurnCarrier::Udp, TurnCarrier::Tcp]
            .map(|carrier| {
                let server = TurnServer::from(*at).with_carrier(carrier);
                server.with_login(&credential.username, &credential.password)
            })
            .to_vec();
    }
    config.plain = true;
    Ok(Node::bind(config).await?)
}

/// Connects, and sends [`BYTES`] each way.
async fn connect(anna: &Node, bert: &Node, ways: &[Way], plain: bool) -> anyhow::Result<Shown> {
    let address = bert.addr().context("the node has no address")?;
    let options = ConnectOptions::new().with_ways(ways.iter().copied()).with_plain(plain).with_within(WITHIN);
    let accept = async {
        let accepted = tokio::time::timeout(WITHIN, bert.accept()).await.context("nobody connected")?;
        accepted.context("the node is closed")
    };
    let connect = async { Ok(anna.connect_with(&address, options).await?) };
    let (called, accepted) = tokio::try_join!(connect, accept)?;
    ensure!(
        (called.peer(), accepted.peer()) == (bert.id(), anna.id()) && called.binding() == accepted.binding(),
        "the ends are not those of one pipe"
    );
    ensure!(called.cipher().is_none() == plain, "the pipe is not encrypted as asked for");
    let (way, path, took) = (called.how().way, called.how().path, called.how().took);
    let began = Instant::now();
    let (there, back) = tokio::try_join!(
        tokio::spawn(exchange(called, 0x9E37_79B9_7F4A_7C15)),
        tokio::spawn(exchange(accepted, 0xD1B5_4A32_D192_ED03)),
    )?;
    let carried = began.elapsed();
    let (there, back) = (there?, back?);
    ensure!(there.sent == back.received && there.received == back.sent, "the checksums differ");
    Ok(Shown { way, path, took, carried })
}

/// The checksums of all bytes that one end sent and received.
struct Sums {
    sent: [u8; 32],
    received: [u8; 32],
}

async fn exchange(pipe: Pipe, seed: u64) -> anyhow::Result<Sums> {
    let (from, to) = tokio::io::split(pipe);
    let (sent, received) = tokio::try_join!(send(to, seed), receive(from))?;
    Ok(Sums { sent, received })
}

async fn send(mut to: WriteHalf<Pipe>, mut state: u64) -> anyhow::Result<[u8; 32]> {
    let mut sum = Blake2s256::new();
    let mut block = vec![0; BLOCK];
    for _ in 0..BYTES / BLOCK {
        for word in block.chunks_exact_mut(8) {
            // This is Marsaglia's xorshift, so no two blocks are alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        sum.update(&block);
        to.write_all(&block).await?;
    }
    to.shutdown().await?;
    Ok(sum.finalize().into())
}

async fn receive(mut from: ReadHalf<Pipe>) -> anyhow::Result<[u8; 32]> {
    let mut sum = Blake2s256::new();
    let mut block = vec![0; BLOCK];
    let mut received = 0;
    loop {
        match from.read(&mut block).await? {
            0 => break,
            filled => {
                sum.update(&block[..filled]);
                received += filled;
            }
        }
    }
    ensure!(received == BYTES, "{received} of {BYTES} bytes arrived");
    Ok(sum.finalize().into())
}

type Row = (String, bool, anyhow::Result<Shown>);

fn tell_table(rows: &[Row], network: &NetworkReport) -> anyhow::Result<()> {
    let head = ("asked for", "way", "path", "pipe", "proven after", "throughput");
    let line = |(asked, way, path, pipe, took, throughput): (&str, &str, &str, &str, &str, &str)| {
        format!("{asked:<12} {way:<8} {path:<8} {pipe:<10} {took:>12} {throughput:>12}")
    };
    screen::line(line(head))?;
    for (asked, plain, shown) in rows {
        let pipe = if *plain { "plain" } else { "encrypted" };
        match shown {
            Ok(shown) => {
                let took = format!("{:.2} ms", shown.took.as_secs_f64() * 1e3);
                let throughput = format!("{:.0} MiB/s", shown.throughput());
                let (way, path) = (shown.way.to_string(), shown.path.to_string());
                screen::line(line((asked, &way, &path, pipe, &took, &throughput)))?;
            }
            Err(error) => screen::line(format_args!("{asked:<12} {pipe}: FAILED: {error:#}"))?,
        }
    }
    screen::line(format_args!("{} MiB each way at once, checksums compared.", BYTES / (1024 * 1024)))?;
    let probed = network
        .networks
        .iter()
        .filter_map(|network| Some((network.local, network.probed.as_ref()?.tcp.nat.as_ref()?)));
    for (local, nat) in probed {
        let Verdict { value, confidence, how, .. } = nat;
        screen::line(format_args!(
            "The network in front of {local}: {value} ({how}, {:.0} %).",
            confidence * 100.0
        ))?;
    }
    Ok(())
}

fn tell_json(rows: &[Row], network: &NetworkReport, ok: bool) -> anyhow::Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|(asked, plain, shown)| match shown {
            Ok(shown) => json!({
                "asked_for": asked,
                "ok": true,
                "encrypted": !plain,
                "way": shown.way,
                "path": shown.path,
                "took_ms": shown.took.as_secs_f64() * 1e3,
                "mib_per_second": shown.throughput(),
            }),
            Err(error) => json!({
                "asked_for": asked,
                "ok": false,
                "encrypted": !plain,
                "error": format!("{error:#}"),
            }),
        })
        .collect();
    screen::line(json!({ "ok": ok, "bytes_each_way": BYTES, "connections": rows, "network": network }))
}
