//! Whole nodes in random topologies: how often they connect, by which way, how fast, and what they miss that was possible.
//!
//! ```text
//! cargo run --release -p p2p-core --features sim --example world_figures -- [topologies] [seed]
//! ```
//!
//! Topology number `n` of a run is drawn from `seed + n`, so `-- 1 <seed>` is that one alone: then the topology and the
//! story of the attempt are printed. The topologies are those of `sim::scene::topology`, the truth is that of
//! `sim::scene::truth`. Both nodes start in the same second; a cold caller calls as it starts.
//!
//! BothEnds with an error when something is wrong in kind: a panic, ends that keep different connections, a third party that
//! was sent something, or no connection although a TURN server and a broker live that both ends reach.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use p2p_core::attempt::Way;
use p2p_core::sim::scene::Trial;
use p2p_core::sim::scene::topology::Topology;
use p2p_core::sim::scene::truth::PunchKind;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let topologies = arguments.next().and_then(Result::ok).unwrap_or(100);
    let seed = arguments.next().and_then(Result::ok).unwrap_or(1);
    if topologies == 1 {
        return tell(seed);
    }
    let mut figures = Figures::default();
    for number in seed..seed + topologies {
        let topology = Topology::draw(number);
        match std::panic::catch_unwind(|| topology.run()) {
            Ok(trial) => figures.add(&topology, &trial),
            Err(_) => figures.faults.push((number, "a panic".into())),
        }
    }
    print!("{}", figures.table());
    if figures.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints all there is to one topology.
fn tell(seed: u64) -> ExitCode {
    let topology = Topology::draw(seed);
    println!("{topology}");
    let trial = topology.run();
    println!("possible: {}", trial.truth);
    match &trial.outcome {
        Ok(met) => println!("connected: {} ({}) in {}", met.way, met.path, millis(met.took)),
        Err(code) => println!("not connected: {code}"),
    }
    println!("packets: {}", trial.packets);
    println!("{}", trial.story);
    trial.faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    if trial.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Everything that is counted.
#[derive(Default)]
struct Figures {
    count: u64,
    possible: u64,
    connected: u64,
    groups: BTreeMap<&'static str, Group>,
    misses: BTreeMap<String, Vec<u64>>,
    /// Better than the truth allows: then the truth is wrong.
    surprises: BTreeMap<String, Vec<u64>>,
    faults: Vec<(u64, String)>,
    punch_expected: f64,
    punchable: u64,
    punched: u64,
}

/// The calls of one kind.
#[derive(Default)]
struct Group {
    took: Vec<Duration>,
    ratio: Vec<f64>,
    packets: Vec<u64>,
}

impl Figures {
    fn add(&mut self, topology: &Topology, trial: &Trial) {
        self.count += 1;
        let best = trial.truth.best();
        self.possible += u64::from(best.is_some());
        let state = if topology.is_warm { "warm" } else { "cold" };
        if let Ok(met) = &trial.outcome {
            self.connected += 1;
            let way = match met.way {
                Way::Direct => "direct",
                Way::Reverse => "reverse",
                Way::Punch => "punch",
                _ => "relay",
            };
            for name in [state, way, "all"] {
                let group = self.groups.entry(name).or_default();
                group.took.push(met.took);
                group.ratio.push(met.took.as_secs_f64() / topology.rtt().as_secs_f64());
                group.packets.push(trial.packets);
            }
        }
        if let Ok(met) = &trial.outcome {
            let truth = &trial.truth;
            let is_possible = match met.way {
                Way::Direct => truth.direct,
                Way::Reverse => truth.reverse,
                Way::Punch => truth.punch > 0.0,
                _ => truth.relay,
            };
            if !is_possible {
                self.surprises.entry(format!("{}, {state}", met.way)).or_default().push(topology.number);
            }
        }
        let is_near = best.is_some_and(|best| best != Way::Relay);
        if best == Some(Way::Punch) {
            self.punchable += 1;
            self.punch_expected += trial.truth.punch;
            self.punched += u64::from(trial.outcome.as_ref().is_ok_and(|met| met.way != Way::Relay));
        }
        let miss = match (&trial.outcome, best) {
            (Err(code), Some(best)) => Some(format!("{code} instead of {best}")),
            (Ok(met), _) if is_near && met.way == Way::Relay => {
                best.map(|best| format!("relay instead of {best}"))
            }
            _ => None,
        };
        if let Some(mut miss) = miss {
            let kind = trial.truth.kind;
            if best == Some(Way::Punch) && kind != PunchKind::Impossible {
                let _ = write!(miss, " ({kind:?})");
            }
            if !trial.truth.signals {
                miss.push_str(", no broker");
            }
            let _ = write!(miss, ", {state}");
            self.misses.entry(miss).or_default().push(topology.number);
        }
        self.faults.extend(trial.faults.iter().map(|fault| (topology.number, fault.clone())));
    }

    fn table(&mut self) -> String {
        let mut out = String::new();
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let _ = writeln!(out, "{} topologies, {} in which anything is possible", self.count, self.possible);
        let connected = share(self.connected, self.possible);
        let _ = writeln!(out, "connected: {} ({connected:.1} % of those)", self.connected);
        let _ = writeln!(
            out,
            "punchable: {}, not relayed: {} ({:.1} %; informed ends would be {:.1} %)\n",
            self.punchable,
            self.punched,
            share(self.punched, self.punchable),
            100.0 * self.punch_expected / self.punchable.max(1) as f64,
        );
        let _ = writeln!(
            out,
            "{:<8} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
            "", "calls", "%", "p50", "p95", "max", "p50/RTT", "p95/RTT", "packets", "p95"
        );
        for name in ["direct", "reverse", "punch", "relay", "cold", "warm", "all"] {
            let Some(group) = self.groups.get_mut(name) else { continue };
            group.took.sort();
            group.ratio.sort_by(f64::total_cmp);
            group.packets.sort();
            let _ = writeln!(
                out,
                "{name:<8} {:>6} {:>6.1} {:>9} {:>9} {:>9} {:>9.1} {:>9.1} {:>8} {:>8}",
                group.took.len(),
                share(group.took.len() as u64, self.connected),
                millis(*at(&group.took, 0.5)),
                millis(*at(&group.took, 0.95)),
                millis(*at(&group.took, 1.0)),
                at(&group.ratio, 0.5),
                at(&group.ratio, 0.95),
                at(&group.packets, 0.5),
                at(&group.packets, 0.95),
            );
        }
        let missed: usize = self.misses.values().map(Vec::len).sum();
        let _ = writeln!(out, "\nmissed: {missed}; one alone: world_figures -- 1 <seed>");
        list(&self.misses, &mut out);
        if !self.surprises.is_empty() {
            let _ = writeln!(out, "\npossible only by mistake of the truth:");
            list(&self.surprises, &mut out);
        }
        for (seed, fault) in &self.faults {
            let _ = writeln!(out, "FAULT in {seed}: {fault}");
        }
        out
    }
}

/// Lists kinds with some of their seeds, the most frequent first.
fn list(kinds: &BTreeMap<String, Vec<u64>>, out: &mut String) {
    let mut kinds: Vec<_> = kinds.iter().collect();
    kinds.sort_by_key(|(_, seeds)| std::cmp::Reverse(seeds.len()));
    for (kind, seeds) in kinds {
        let shown: Vec<_> = seeds.iter().take(MOST_SEEDS).map(ToString::to_string).collect();
        let more = if seeds.len() > MOST_SEEDS { " …" } else { "" };
        let _ = writeln!(out, "{:>6}  {kind}: {}{more}", seeds.len(), shown.join(" "));
    }
}

/// Returns the value below which this share lies.
fn at<T>(sorted: &[T], share: f64) -> &T {
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    &sorted[index]
}

fn millis(span: Duration) -> String {
    format!("{:.0} ms", span.as_secs_f64() * 1e3)
}

/// Seeds shown of each kind of miss.
const MOST_SEEDS: usize = 8;
