//! The accuracy of what is learned of a network, by counts.
//!
//! `cargo run --release -p p2p-core --features sim --example nat_figures -- [seeds] [draws] [filter]`
//!
//! `seeds` (default 3) is the number of runs for each preset and rate, and `draws` (default 200) that for predictions
//! and blocks. `filter` keeps the presets whose name contains it. Classification, times and "measured" predictions
//! run the real probe machine through a simulated world. "Known" predictions and blocks go straight against the
//! simulated NAT.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2p_core::nat::predict::{Last, Next, Prediction, predict};
use p2p_core::nat::verdict::Known;
use p2p_core::nat::{Delta, DeltaKind, NatFacts, NatType, PortRange, block};
use p2p_core::sim::epoch;
use p2p_core::sim::link::LinkConfig;
use p2p_core::sim::nat::{Nat, NatConfig, Verdict};
use p2p_core::sim::packet::{Body, Header, TTL};
use p2p_core::sim::probing::ProbeScene;
use p2p_core::stun::Transport;
use p2p_core::{Family, Seed};

const RTT: Duration = Duration::from_millis(40);
const RANGE: PortRange = PortRange { first: 35_000, last: 65_535 };
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
const RATES: [u16; 3] = [0, 5, 20];
type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let seeds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let draws = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let filter = arguments.next().unwrap_or_default();
    classification(seeds, &filter)?;
    bad_weather(seeds)?;
    known_predictions(draws)?;
    measured_predictions(draws.div_ceil(10))?;
    blocks(draws);
    times(seeds)?;
    Ok(())
}

/// Returns the value that a delta is tried with. It differs by seed, and negative values and two are among them.
fn value(kind: DeltaKind, number: u64) -> i16 {
    let values: &[i16] = match kind {
        DeltaKind::Equal | DeltaKind::Random => &[0],
        DeltaKind::Preserving => &[77, -1_009, 1, 5_000],
        DeltaKind::Independent | DeltaKind::Dependent => &[1, 2, -1, -3, 8],
    };
    values[number as usize % values.len()]
}

fn preset(nat: NatType, delta: Delta, rate: u16) -> NatConfig {
    NatConfig::of_type(nat, delta, RANGE, OUTSIDE).with_flow(|flow| flow.background = f64::from(rate))
}

/// The counts of right answers, by the confidence that they claimed.
#[derive(Default)]
struct Calibration {
    buckets: BTreeMap<usize, (u32, u32, f64)>,
}

const EDGES: [f64; 6] = [0.0, 0.5, 0.7, 0.9, 0.97, 0.99];

impl Calibration {
    fn note(&mut self, confidence: f64, is_right: bool) {
        let bucket = EDGES.iter().rposition(|edge| confidence >= *edge).unwrap_or(0);
        let (count, right, sum) = self.buckets.entry(bucket).or_default();
        *count += 1;
        *right += u32::from(is_right);
        *sum += confidence;
    }

    fn print(&self, name: &str) {
        println!("\nCalibration of {name}: stated confidence, how often right, of how many");
        for (bucket, (count, right, sum)) in &self.buckets {
            let upper = EDGES.get(bucket + 1).copied().unwrap_or(1.0);
            println!(
                "  {:.2}-{upper:.2}  stated {:.3}  right {:.3}  of {count}",
                EDGES[*bucket],
                sum / f64::from(*count),
                f64::from(*right) / f64::from(*count),
            );
        }
    }
}

fn is<T: PartialEq>(known: Option<Known<T>>, truth: &T) -> bool {
    known.is_some_and(|known| known.value == *truth)
}

fn classification(seeds: u64, filter: &str) -> Result<(), Error> {
    println!("Classification through a simulated world, {seeds} seeds each: type and delta right");
    println!(
        "{:<32} {:>9} {:>9} {:>9} | {:>9} {:>9} {:>9}",
        "", "TCP 0/s", "5/s", "20/s", "UDP 0/s", "5/s", "20/s"
    );
    let (mut types, mut deltas) = (Calibration::default(), Calibration::default());
    let mut totals: BTreeMap<(bool, u16), (u64, u64)> = BTreeMap::new();
    for nat in NatType::ALL {
        for kind in DeltaKind::ALL {
            let name = format!("{nat} {kind}");
            if !name.contains(filter) {
                continue;
            }
            let mut row: BTreeMap<(bool, u16), u64> = BTreeMap::new();
            for rate in RATES {
                for number in 0..seeds {
                    let delta = Delta { kind, value: value(kind, number) };
                    let config = preset(nat, delta, rate);
                    let translates = config.is_translating();
                    let (report, _, _) =
                        ProbeScene::new(config, RTT, 0, number * 1_000 + u64::from(rate))?.probed()?;
                    for (is_udp, verdicts) in [(false, &report.tcp), (true, &report.udp)] {
                        let truth = match nat {
                            NatType::Blocked => None,
                            _ if !translates => Some(Delta { kind: DeltaKind::Equal, value: 0 }),
                            _ => Some(delta),
                        };
                        let type_right = is(verdicts.nat, &nat);
                        let delta_right = truth.is_none_or(|truth| is(verdicts.delta, &truth));
                        types.note(verdicts.nat.map_or(0.0, |known| known.confidence), type_right);
                        if truth.is_some() {
                            deltas.note(verdicts.delta.map_or(0.0, |known| known.confidence), delta_right);
                        }
                        let right = u64::from(type_right && delta_right);
                        *row.entry((is_udp, rate)).or_default() += right;
                        let (all, good) = totals.entry((is_udp, rate)).or_default();
                        (*all, *good) = (*all + 1, *good + right);
                    }
                }
            }
            let cell = |is_udp, rate| format!("{}/{seeds}", row[&(is_udp, rate)]);
            println!(
                "{name:<32} {:>9} {:>9} {:>9} | {:>9} {:>9} {:>9}",
                cell(false, 0),
                cell(false, 5),
                cell(false, 20),
                cell(true, 0),
                cell(true, 5),
                cell(true, 20)
            );
        }
    }
    for ((is_udp, rate), (all, good)) in totals {
        let transport = if is_udp { "UDP" } else { "TCP" };
        println!("{transport} {rate:>2}/s: {:.2} % of {all}", 100.0 * good as f64 / all as f64);
    }
    types.print("types");
    deltas.print("deltas");
    Ok(())
}

/// The conditions that make measuring hard.
struct Weather {
    name: &'static str,
    rate: u16,
    dead: u8,
    wire: LinkConfig,
}

/// Prints the results under conditions that cause mistakes, so that confidence has something to show.
fn bad_weather(seeds: u64) -> Result<(), Error> {
    let jitter = |jitter, loss, reorder| LinkConfig {
        jitter: Duration::from_millis(jitter),
        loss,
        reorder,
        ..LinkConfig::default()
    };
    let all = [
        Weather { name: "100 others a second", rate: 100, dead: 0, wire: jitter(0, 0.0, 0.0) },
        Weather { name: "300 others a second", rate: 300, dead: 0, wire: jitter(0, 0.0, 0.0) },
        Weather { name: "20/s, one server left", rate: 20, dead: 3, wire: jitter(0, 0.0, 0.0) },
        Weather { name: "20/s, 3 % lost, jitter 5 ms", rate: 20, dead: 0, wire: jitter(5, 0.03, 0.0) },
        Weather { name: "20/s, 10 % lost, half dead", rate: 20, dead: 2, wire: jitter(5, 0.1, 0.0) },
        Weather { name: "5/s, 20 % out of order", rate: 5, dead: 0, wire: jitter(0, 0.0, 0.2) },
    ];
    println!("\nBad weather on the link at home, all 35 presets, {seeds} seeds each: type and delta right");
    let (mut types, mut deltas) = (Calibration::default(), Calibration::default());
    for weather in all {
        let (mut count, mut good) = ([0_u64; 2], [0_u64; 2]);
        for (nat, kind) in NatType::ALL.into_iter().flat_map(|nat| DeltaKind::ALL.map(|kind| (nat, kind))) {
            for number in 0..seeds {
                let delta = Delta { kind, value: value(kind, number) };
                let config = preset(nat, delta, weather.rate);
                let truth = match nat {
                    NatType::Blocked => None,
                    _ if config.is_translating() => Some(delta),
                    _ => Some(Delta { kind: DeltaKind::Equal, value: 0 }),
                };
                let mut scene = ProbeScene::new(config, RTT, weather.dead, 31_000 + number)?;
                scene.world.rewire(scene.host, 0, weather.wire)?;
                let (report, _, _) = scene.probed()?;
                for (index, verdicts) in [report.tcp, report.udp].iter().enumerate() {
                    let type_right = is(verdicts.nat, &nat);
                    let delta_right = truth.is_none_or(|truth| is(verdicts.delta, &truth));
                    types.note(verdicts.nat.map_or(0.0, |known| known.confidence), type_right);
                    if truth.is_some() {
                        deltas.note(verdicts.delta.map_or(0.0, |known| known.confidence), delta_right);
                    }
                    count[index] += 1;
                    good[index] += u64::from(type_right && delta_right);
                }
            }
        }
        let share = |index: usize| 100.0 * good[index] as f64 / count[index] as f64;
        println!("  {:<30} TCP {:6.2} %  UDP {:6.2} %  of {}", weather.name, share(0), share(1), count[0]);
    }
    types.print("types in bad weather");
    deltas.print("deltas in bad weather");
    Ok(())
}

/// The counts of real ports inside a prediction, against the stated probability.
#[derive(Default)]
struct Coverage {
    draws: u32,
    /// For 50, 90 and 99 %: ports, the stated probability, what came true, and the draws that could be promised it.
    levels: [(f64, f64, u32, u32); 3],
}

const LEVELS: [f64; 3] = [0.5, 0.9, 0.99];

impl Coverage {
    fn note(&mut self, prediction: &Prediction, port: u16) {
        self.draws += 1;
        for (level, row) in LEVELS.iter().zip(&mut self.levels) {
            let Some(count) = prediction.needed(*level).filter(|_| !prediction.is_random()) else { continue };
            let is_inside = prediction.ports().take(count).any(|offer| offer == port);
            *row = (
                row.0 + count as f64,
                row.1 + prediction.probability(count),
                row.2 + u32::from(is_inside),
                row.3 + 1,
            );
        }
    }

    fn print(&self, name: &str) {
        print!("  {name:<34}");
        for (ports, stated, inside, count) in self.levels {
            match count {
                0 => print!(" | not promised                   "),
                _ => {
                    let of = |sum: f64| sum / f64::from(count);
                    print!(
                        " | {:5.1} ports {:.3} {:.3} of {count:>5}",
                        of(ports),
                        of(stated),
                        of(f64::from(inside))
                    );
                }
            }
        }
        println!(" | {} draws", self.draws);
    }
}

fn known_predictions(draws: u64) -> Result<(), Error> {
    println!(
        "\nPrediction straight against the simulated NAT, facts known, 0-200 ms old, {draws} draws each:"
    );
    println!(
        "  for 50, 90, 99 %: ports offered, probability stated, came true, of how many that were promised it"
    );
    let deviation = 100.0 * (0.25 / draws.max(1) as f64).sqrt();
    println!("  (chance alone moves what came true by {deviation:.1} %, one standard deviation at 50 %)");
    for kind in [DeltaKind::Equal, DeltaKind::Preserving, DeltaKind::Independent, DeltaKind::Dependent] {
        for rate in RATES {
            let mut coverage = Coverage::default();
            for number in 0..draws {
                let mut seed = Seed::from_u64(number).fork(&format!("{kind} {rate}"));
                let delta = Delta { kind, value: value(kind, number) };
                let facts = NatFacts {
                    delta: Some(delta),
                    range: Some(RANGE),
                    rate: Some(rate),
                    ..NatFacts::default()
                };
                let mut nat = Nat::new(preset(NatType::Symmetric, delta, rate), seed.fork("nat"))?;
                let mut map = |local: u16, at| {
                    let src = SocketAddr::new(INSIDE, local);
                    let dst = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 3_478);
                    let mut header = Header { src, dst, ttl: TTL, body: Body::Udp { len: 8 } };
                    matches!(nat.outbound(&mut header, at), Verdict::Forward).then(|| header.src.port())
                };
                let at = epoch();
                let later = at + seed.up_to(Duration::from_millis(200));
                let Some(mapped) = map(40_000, at) else { continue };
                let prediction = predict(
                    &facts,
                    Some(Last { at, local: 40_000, mapped }),
                    Next { at: later, local: 40_001, ours: 1 },
                );
                if let Some(port) = map(40_001, later) {
                    coverage.note(&prediction, port);
                }
            }
            coverage.print(&format!("{kind}, {rate}/s"));
        }
    }
    Ok(())
}

fn measured_predictions(draws: u64) -> Result<(), Error> {
    println!(
        "\nPrediction with what the probe measured in a simulated world (its rate included), {draws} draws each:"
    );
    for kind in [DeltaKind::Equal, DeltaKind::Preserving, DeltaKind::Independent] {
        for rate in RATES {
            let mut coverage = Coverage::default();
            for number in 0..draws {
                let delta = Delta { kind, value: value(kind, number) };
                let scene =
                    ProbeScene::new(preset(NatType::PortRestricted, delta, rate), RTT, 0, 77_000 + number)?;
                let (host, router) = (scene.host, scene.router);
                let (report, _, mut world) = scene.probed()?;
                let local = SocketAddr::new(INSIDE, 39_000);
                let prediction = report.predict(Transport::Udp, local.port(), world.now());
                let Some(prediction) = prediction else { continue };
                world.with(host, |context| {
                    let socket = context.host.udp_bind(local)?;
                    context.host.udp_send(
                        socket,
                        SocketAddr::new(IpAddr::from([192, 0, 2, 10]), 3_478),
                        bytes::Bytes::new(),
                    )
                })?;
                world.run_for(RTT);
                let nat = world.router(router).nat(Family::V4).ok_or("the scene has a NAT")?;
                let made = nat.mappings().find(|mapping| mapping.local == local);
                if let Some(made) = made {
                    coverage.note(&prediction, made.external.port());
                }
            }
            coverage.print(&format!("{kind}, {rate}/s"));
        }
    }
    Ok(())
}

fn blocks(draws: u64) {
    println!(
        "\nBlocks from 12 random ports, straight against the arithmetic of the simulated NAT, {draws} draws each:"
    );
    for size in [64_u16, 128, 256, 512, 1_024, 2_048, 4_096] {
        let mut right = [0_u64; 3];
        for number in 0..draws {
            let mut seed = Seed::from_u64(number);
            let count = 64_512 / u64::from(size);
            let first = 1_024 + seed.below(count) as u16 * size;
            let truth = PortRange { first, last: first + (size - 1) };
            let ports: Vec<u16> = (0..12).map(|_| first + seed.below(u64::from(size)) as u16).collect();
            for (samples, right) in [6, 8, 12].into_iter().zip(&mut right) {
                *right += u64::from(is(block::infer(&ports[..samples]), &truth));
            }
        }
        let share = right.map(|right| 100.0 * right as f64 / draws as f64);
        println!("  {size:>5}: from 6 ports {:.1} %, 8 {:.1} %, 12 {:.1} %", share[0], share[1], share[2]);
    }
}

fn times(seeds: u64) -> Result<(), Error> {
    println!(
        "\nTime of the whole probe in round trips of 40 ms, and packets to any one server, {seeds} seeds each:"
    );
    for (name, dead) in [("all servers answer", 0), ("half of them are dead", 2), ("one of four answers", 3)]
    {
        let (mut took, mut packets) = (Vec::new(), 0);
        for nat in NatType::ALL.into_iter().filter(|nat| *nat != NatType::Blocked) {
            for kind in DeltaKind::ALL {
                for number in 0..seeds {
                    let delta = Delta { kind, value: value(kind, number) };
                    let mut scene = ProbeScene::new(preset(nat, delta, 5), RTT, dead, number)?;
                    scene.world.set_recording(10_000);
                    let host = scene.host;
                    let (_, time, world) = scene.probed()?;
                    took.push(time.as_secs_f64() / RTT.as_secs_f64());
                    let mut sent: BTreeMap<IpAddr, u32> = BTreeMap::new();
                    for record in world.records() {
                        let header = &record.packet.header;
                        if record.node == host.into() && record.fate == p2p_core::sim::dump::Fate::Sent {
                            *sent.entry(header.dst.ip()).or_default() += 1;
                        }
                    }
                    packets = packets.max(sent.values().max().copied().unwrap_or(0));
                }
            }
        }
        took.sort_by(f64::total_cmp);
        let (middle, most) = (took[took.len() / 2], took[took.len() - 1]);
        println!(
            "  {name:<24} median {middle:.1}, most {most:.1} RTT ({:.0} ms); {packets} packets at most",
            most * 40.0
        );
    }
    Ok(())
}
