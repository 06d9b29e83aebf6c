//! The command `natlab relay`.

use std::net::{IpAddr, TcpStream, UdpSocket};
use std::process::{Child, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use natlab::punching::{Place, relay};
use natlab::{Lab, Scenario};
use p2p_core::Seed;
use p2p_core::stun::{Message, Transport};
use p2p_node::{TurnCarrier, TurnServer};

const USER: &str = "anna";
const PASSWORD: &str = "sesame";
/// The port of coturn, which differs from those of the lab's own STUN server.
const PORT: u16 = 5_349;
/// The most time for coturn to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Have two real nodes behind the worst of NATs meet at a real coturn, and tell the time from the call to the proven
/// pipe.
#[derive(Debug, Args)]
pub(super) struct Relay {
    /// The round trip from each node to coturn and to the broker, in milliseconds.
    #[arg(long, default_value_t = 20)]
    rtt: u64,
    /// Calls of each kind.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    trials: u32,
    /// Tell how each call went.
    #[arg(long)]
    verbose: bool,
}

/// A coturn that ends when this is dropped.
struct Coturn(Child);

impl Drop for Coturn {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Relay {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        natlab::enter_user_namespace()?;
        let Self { rtt, trials, verbose } = self;
        // A signal takes one round trip to the broker and on to the peer, so there and back it is two.
        let bound = 5 * rtt + 2 * rtt;
        println!(
            "{trials} calls each; the server is {rtt} ms away from both: 5 round trips to it and one of signals are {bound} ms"
        );
        let kinds = [
            ("datagrams over UDP", &[TurnCarrier::Udp][..]),
            ("datagrams or a connection, over UDP and TCP", &[TurnCarrier::Udp, TurnCarrier::Tcp]),
        ];
        for (name, carriers) in kinds {
            let nats = "symmetric/random+symmetric/random";
            let scenario = Scenario::short(&format!("homes:{nats}?rtt={rtt}ms&seed=1"))?;
            let lab = Lab::new(&scenario)?;
            let address = lab.host("s")?.address();
            let _coturn = start(&lab, address)?;
            let server = |carrier: &TurnCarrier| {
                TurnServer::new(address.to_string(), PORT).with_carrier(*carrier).with_login(USER, PASSWORD)
            };
            let servers: Vec<TurnServer> = carriers.iter().map(server).collect();
            let all = relay(&lab, [Place::host("a"), Place::host("b")], trials, &servers)?;
            let mut times: Vec<f64> = all.iter().filter_map(|trial| trial.took_ms).collect();
            times.sort_by(f64::total_cmp);
            let at = |share: f64| {
                let index = (times.len() as f64 * share) as usize;
                times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
            };
            let (median, bound) = (at(0.5), bound as f64);
            let verdict = if median <= bound { "met" } else { "MISSED" };
            println!(
                "{name}: {}/{trials} connected; p50 {median:.1} ms, p90 {:.1} ms, p50 is {:.2} of {bound:.0} ms: {verdict}",
                times.len(),
                at(0.9),
                median / bound
            );
            for trial in all.iter().filter(|trial| verbose || trial.took_ms.is_none()) {
                println!("    {:?} {:?} {}", trial.took_ms, trial.ends, trial.story);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn start(lab: &Lab, address: IpAddr) -> anyhow::Result<Coturn> {
    let host = lab.host("s")?;
    let process = host
        .command("turnserver")?
        .args(["-n", "--lt-cred-mech", "--realm=p2p", "--no-cli", "--no-tls", "--log-file=stdout"])
        .args(["--pidfile=/dev/null"])
        .arg(format!("--listening-ip={address}"))
        .arg(format!("--relay-ip={address}"))
        .arg(format!("--listening-port={PORT}"))
        .arg(format!("--user={USER}:{PASSWORD}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting turnserver")?;
    let coturn = Coturn(process);
    let began = Instant::now();
    while !host.enter(|| is_up(address))? {
        if began.elapsed() > PATIENCE {
            bail!("turnserver does not answer");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(coturn)
}

fn is_up(address: IpAddr) -> bool {
    let ask = || {
        TcpStream::connect((address, PORT))?;
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect((address, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let question = Message::binding(&mut Seed::from_u64(1)).encode(Transport::Udp);
        socket.send(&question.map_err(std::io::Error::other)?)?;
        socket.recv(&mut [0; 1_500])
    };
    ask().is_ok()
}
