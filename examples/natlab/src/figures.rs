//! Figures of a lab's accuracy on this machine, measured from inside its hosts with plain sockets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use serde::Serialize;

use crate::error::LabError;
use crate::fabric::Lateness;
use crate::lab::{Lab, LabOptions};
use crate::scenario::Scenario;

/// The port on both sides, which the NATs of these scenarios preserve.
const PORT: u16 = 5_000;
/// The bytes that a socket holds for a program that is late.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The most time for a program to start on a busy machine.
const START: Duration = Duration::from_secs(10);
/// The pause between packets of a light load.
const PACE: Duration = Duration::from_millis(4);

/// A configured round trip, and the measured ones.
#[derive(Clone, Debug, Serialize)]
pub struct RttFigure {
    /// The round trip of the scenario, in milliseconds.
    pub configured_ms: f64,
    /// The median of the measured round trips, in milliseconds.
    pub median_ms: f64,
    /// The 99th percentile of the measured round trips, in milliseconds.
    pub p99_ms: f64,
    /// The lateness that the lab itself reports.
    pub lateness: Lateness,
}

/// A configured loss, and the measured one.
#[derive(Clone, Debug, Serialize)]
pub struct LossFigure {
    /// The loss of the scenario, as a share of one.
    pub configured: f64,
    /// The loss that a program counted, as a share of one.
    pub measured: f64,
    /// The number of packets sent.
    pub sent: u32,
    /// The margin within which the measured loss is near the configured one, with 99.9 % probability.
    pub margin: f64,
}

/// The throughput of TCP through two NATs.
#[derive(Clone, Debug, Serialize)]
pub struct ThroughputFigure {
    /// True when segmentation offload was on.
    pub offload: bool,
    /// The goodput that iperf3's receiver counts.
    pub mbit_per_s: f64,
}

fn homes(query: &str) -> Result<Lab, LabError> {
    Lab::new(&Scenario::short(&format!("homes:port-restricted/equal+port-restricted/equal?{query}"))?)
}

/// Returns sockets in hosts a and b that have opened both NATs for each other, each with its peer.
fn punched(lab: &Lab, scenario: &Scenario) -> Result<[(UdpSocket, SocketAddr); 2], LabError> {
    let step = || LabError::system("opening both NATs with datagrams");
    let external = |router: &str| {
        let ip = scenario.external(router).into_iter().next();
        ip.map(|ip| SocketAddr::from((ip, PORT)))
            .ok_or_else(|| LabError::Unknown(format!("address of {router}")))
    };
    let open = |host: &str| -> Result<UdpSocket, LabError> {
        let socket = lab.host(host)?.enter(|| UdpSocket::bind(("0.0.0.0", PORT)))?.map_err(step())?;
        // A loss must happen on the cable, not because a program was late.
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).map_err(io::Error::from).map_err(step())?;
        socket.set_read_timeout(Some(Duration::from_millis(300))).map_err(step())?;
        Ok(socket)
    };
    let (a, b) = (open("a")?, open("b")?);
    let (to_a, to_b) = (external("nat-a")?, external("nat-b")?);
    let mut heard = [0; 16];
    for _ in 0..20 {
        a.send_to(b"open", to_b).map_err(step())?;
        b.send_to(b"open", to_a).map_err(step())?;
        if b.recv_from(&mut heard).is_ok() && a.recv_from(&mut heard).is_ok() {
            while a.recv_from(&mut heard).is_ok() || b.recv_from(&mut heard).is_ok() {}
            return Ok([(a, to_b), (b, to_a)]);
        }
    }
    Err(step()(io::Error::other("nothing came through")))
}

/// Measures round trips between two homes, through both NATs.
///
/// # Errors
/// [`LabError`] when the lab cannot be made or its sockets fail.
pub fn measure_rtt(configured: Duration, samples: u32) -> Result<RttFigure, LabError> {
    let query = format!("rtt={}us", configured.as_micros());
    let lab = homes(&query)?;
    let scenario = Scenario::short(&format!("homes?{query}"))?;
    let [(a, to_b), (b, _)] = punched(&lab, &scenario)?;
    let step = || LabError::system("measuring round trips");
    let echo = lab.host("b")?.spawn(move || {
        let mut packet = [0; 64];
        // The loop ends when nothing has come for a while.
        while let Ok((length, from)) = b.recv_from(&mut packet) {
            if b.send_to(&packet[..length], from).is_err() {
                return;
            }
        }
    })?;
    let mut trips = Vec::new();
    for number in 0..samples {
        let sent = Instant::now();
        a.send_to(&number.to_be_bytes(), to_b).map_err(step())?;
        let mut back = [0; 64];
        let (length, _) = a.recv_from(&mut back).map_err(step())?;
        if back[..length] == number.to_be_bytes() {
            trips.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        thread::sleep(PACE);
    }
    let lateness = lab.report()?.lateness;
    // A panic there is a bug of the echo, but the figures are made already.
    let _ = echo.join();
    trips.sort_by(f64::total_cmp);
    let at = |share: f64| trips.get((trips.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok(RttFigure {
        configured_ms: configured.as_secs_f64() * 1e3,
        median_ms: at(0.5),
        p99_ms: at(0.99),
        lateness,
    })
}

/// Counts the arrivals of `packets` datagrams sent from one home to the other.
///
/// # Errors
/// As [`measure_rtt`].
pub fn measure_loss(configured: f64, packets: u32) -> Result<LossFigure, LabError> {
    // Both NATs are opened before the cables begin to lose.
    let mut lab = homes("rtt=2ms")?;
    let scenario = Scenario::short("homes?rtt=2ms")?;
    let [(a, to_b), (b, _)] = punched(&lab, &scenario)?;
    let lossy = Scenario::short(&format!("homes?rtt=2ms&loss={configured}"))?;
    for router in &lossy.routers {
        lab.set_uplink(&router.name, router.cable.up)?;
    }
    let step = || LabError::system("counting datagrams");
    let counter = lab.host("b")?.spawn(move || {
        let mut packet = [0; 64];
        let mut count = 0u32;
        while b.recv_from(&mut packet).is_ok() {
            count += 1;
        }
        count
    })?;
    for number in 0..packets {
        a.send_to(&number.to_be_bytes(), to_b).map_err(step())?;
        // They go in small groups, so that no socket buffer overflows and every loss is on the cable.
        if number % 16 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let arrived = counter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let deviation = (configured * (1.0 - configured) / f64::from(packets)).sqrt();
    Ok(LossFigure {
        configured,
        measured: 1.0 - f64::from(arrived) / f64::from(packets),
        sent: packets,
        margin: 3.29 * deviation,
    })
}

/// A process that ends when this is dropped.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // The process may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs iperf3 from a host behind a home NAT behind a carrier NAT to a public server.
///
/// # Errors
/// As [`measure_rtt`], and when iperf3 is not there.
pub fn measure_throughput(offload: bool, seconds: u32) -> Result<ThroughputFigure, LabError> {
    let scenario = Scenario::short("cgn:port-restricted/equal+symmetric/random?rtt=1ms")?;
    let options = LabOptions { offload, ..LabOptions::default() };
    let lab = Lab::with_options(&scenario, &options)?;
    let broken = |problem: String| LabError::Tool { program: "iperf3", problem };
    let missing = |error: io::Error| broken(format!("{error}; on Debian it is in the package iperf3"));
    let server = lab.host("s")?;
    let mut command = server.command("iperf3")?;
    command.arg("-s").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Ending(command.spawn().map_err(missing)?);
    let to = server.address().to_string();
    let client = || -> Result<_, LabError> {
        let mut command = lab.host("a")?.command("iperf3")?;
        command.args(["-c", &to, "-J", "-t", &seconds.to_string()]);
        command.output().map_err(missing)
    };
    // The server needs a moment until it listens. Until then the client is refused, and says so in its JSON.
    let until = Instant::now() + START;
    loop {
        let said = String::from_utf8_lossy(&client()?.stdout).into_owned();
        let parsed: serde_json::Value = serde_json::from_str(&said).map_err(|_| broken(said.clone()))?;
        let received = parsed.pointer("/end/sum_received/bits_per_second");
        if let Some(bits) = received.and_then(serde_json::Value::as_f64) {
            return Ok(ThroughputFigure { offload, mbit_per_s: bits / 1e6 });
        }
        if Instant::now() > until {
            return Err(broken(said));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
