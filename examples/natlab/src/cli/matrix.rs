//! The command `natlab matrix`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use natlab::crossing::{Crossing, cross, cross_simulated};
use natlab::{Lab, Lateness, Scenario};
use serde::Serialize;

use super::signal::{Stop, exit_code};

/// The pause between two checks whether to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// Punch through every pair of NATs, with two plain programs that dial each other's mapped address once.
#[derive(Debug, Args)]
pub(super) struct Matrix {
    /// The NATs, as in one-line scenarios.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "open,full-cone,restricted,port-restricted,symmetric/independent,symmetric,linux,\
                         linux-fully-random"
    )]
    nats: Vec<String>,
    /// The answer of the NATs to an unsolicited SYN.
    #[arg(long, default_value = "silence")]
    syn: String,
    /// The round trip between the homes.
    #[arg(long, default_value = "40ms")]
    rtt: String,
    /// The time by which the second side dials later, in milliseconds.
    #[arg(long, default_value_t = 0)]
    skew: u64,
    /// The time that each side waits, in milliseconds.
    #[arg(long, default_value_t = 3_500)]
    patience: u64,
    /// Labs at a time.
    #[arg(long, default_value_t = 8)]
    jobs: usize,
    /// In virtual time, with simulated hosts.
    #[arg(long)]
    simulated: bool,
    /// Print each cell as a line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Cell {
    first: String,
    second: String,
    crossing: Crossing,
    lateness: Lateness,
}

impl Matrix {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        natlab::enter_user_namespace()?;
        let pairs: Vec<(usize, usize)> =
            (0..self.nats.len()).flat_map(|a| (a..self.nats.len()).map(move |b| (a, b))).collect();
        let scenarios: Vec<Scenario> =
            pairs.iter().map(|pair| self.scenario(*pair)).collect::<Result<_, _>>()?;
        let stop = Stop::new()?;
        let (next, halted) = (AtomicUsize::new(0), AtomicBool::new(false));
        let cells: Vec<Mutex<Option<anyhow::Result<Cell>>>> =
            pairs.iter().map(|_| Mutex::new(None)).collect();
        let asked = thread::scope(|scope| {
            let work = || {
                while !halted.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(pair), Some(scenario)) = (pairs.get(index), scenarios.get(index)) else {
                        return;
                    };
                    let cell = self.punch(*pair, scenario);
                    *cells[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(cell);
                }
            };
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let mut asked = None;
            while workers.iter().any(|worker| !worker.is_finished()) {
                if let Some(signal) = stop.within(GLANCE) {
                    asked = Some(signal);
                    halted.store(true, Ordering::Relaxed);
                }
            }
            asked
        });
        if let Some(signal) = asked {
            return Ok(exit_code(signal));
        }
        let mut done = Vec::new();
        for (cell, (a, b)) in cells.into_iter().zip(&pairs) {
            let cell = cell.into_inner().unwrap_or_else(PoisonError::into_inner);
            let cell = cell.context("a worker ended early")?;
            done.push(cell.with_context(|| format!("{} × {}", self.nats[*a], self.nats[*b]))?);
        }
        self.print(&pairs, &done)?;
        Ok(ExitCode::SUCCESS)
    }

    fn scenario(&self, (a, b): (usize, usize)) -> Result<Scenario, natlab::ScenarioError> {
        let (a, b) = (&self.nats[a], &self.nats[b]);
        Scenario::short(&format!("homes:{a}+{b}?rtt={}&syn={}", self.rtt, self.syn))
    }

    fn punch(&self, (a, b): (usize, usize), scenario: &Scenario) -> anyhow::Result<Cell> {
        let (skew, patience) = (Duration::from_millis(self.skew), Duration::from_millis(self.patience));
        let (crossing, lateness) = if self.simulated {
            (cross_simulated(scenario, skew, patience)?, Lateness::default())
        } else {
            let lab = Lab::new(scenario)?;
            (cross(&lab, skew, patience)?, lab.report()?.lateness)
        };
        Ok(Cell { first: self.nats[a].clone(), second: self.nats[b].clone(), crossing, lateness })
    }

    fn print(&self, pairs: &[(usize, usize)], cells: &[Cell]) -> anyhow::Result<()> {
        if self.json {
            for cell in cells {
                println!("{}", serde_json::to_string(cell)?);
            }
            return Ok(());
        }
        println!("RTT {}, unsolicited SYN: {}, skew {} ms", self.rtt, self.syn, self.skew);
        let width = self.nats.iter().map(String::len).max().unwrap_or(0).max(11);
        let line = |cells: Vec<String>| {
            let cells = cells.iter().map(|cell| format!("{cell:width$}")).collect::<Vec<_>>();
            println!("{}", cells.join("  ").trim_end());
        };
        line(std::iter::once(String::new()).chain(self.nats.iter().cloned()).collect());
        for (row, nat) in self.nats.iter().enumerate() {
            let mut texts = vec![nat.clone()];
            for column in 0..self.nats.len() {
                let index = pairs.iter().position(|pair| *pair == (row, column));
                texts.push(index.map_or_else(String::new, |index| text(&cells[index].crossing)));
            }
            line(texts);
        }
        let latest = cells.iter().map(|cell| cell.lateness.quantile(0.99)).max().unwrap_or_default();
        println!("worst p99 lateness {:.1} ms", latest.as_secs_f64() * 1e3);
        Ok(())
    }
}

fn text(crossing: &Crossing) -> String {
    match crossing.met_after() {
        Some(after) => format!("{:.0} ms", after.as_secs_f64() * 1e3),
        None if crossing.first.ended == crossing.second.ended => crossing.first.ended.to_string(),
        None => format!("{}/{}", crossing.first.ended, crossing.second.ended),
    }
}
