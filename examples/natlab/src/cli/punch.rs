//! The command `natlab punch`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use clap::Args;
use natlab::punching::{Pair, Place, Trial, punch};
use natlab::{Lab, Scenario};
use serde::Serialize;

use super::signal::{Stop, exit_code};

/// Have two real nodes punch through the NATs of a scenario, or of pairs sampled by a seed from all that can meet.
#[derive(Debug, Args)]
pub(super) struct Punch {
    /// A scenario with hosts a, b and s, instead of sampled pairs.
    scenario: Option<String>,
    /// Pairs of NATs to sample.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,
    /// Attempts for each pair.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trials: u32,
    /// The seed that picks the pairs and drives the labs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Percent of packets that each access link loses in each direction.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=50))]
    loss: u8,
    /// Labs at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Tell why attempts failed, and how those that did not went.
    #[arg(long)]
    verbose: bool,
    /// Print each pair as a line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The pair that is tried, and its outcomes.
#[derive(Debug, Serialize)]
struct Row {
    pair: String,
    rtt_ms: Option<u64>,
    plan: Option<String>,
    trials: Vec<Trial>,
}

impl Row {
    fn times(&self) -> Vec<f64> {
        let mut times: Vec<f64> = self.trials.iter().filter_map(|trial| trial.took_ms).collect();
        times.sort_by(f64::total_cmp);
        times
    }
}

/// A pair to try, with its scenario.
struct Job {
    row: Row,
    scenario: Scenario,
}

impl Punch {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        natlab::enter_user_namespace()?;
        let stop = Stop::new()?;
        let jobs = self.jobs()?;
        let next = AtomicUsize::new(0);
        let rows: Vec<Mutex<Option<anyhow::Result<Row>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
        let mut asked = None;
        thread::scope(|scope| {
            let work = || {
                while let Some((job, row)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(index).zip(rows.get(index))
                } {
                    let done = self.try_out(job);
                    *row.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
                }
            };
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                if let Some(signal) = stop.within(std::time::Duration::from_millis(100)) {
                    asked = Some(signal);
                    next.store(jobs.len(), Ordering::Relaxed);
                }
            }
        });
        let done: anyhow::Result<Vec<Row>> = rows
            .into_iter()
            .filter_map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        self.print(&done?)?;
        Ok(asked.map_or(ExitCode::SUCCESS, exit_code))
    }

    fn jobs(&self) -> anyhow::Result<Vec<Job>> {
        if let Some(given) = &self.scenario {
            let row = Row { pair: given.clone(), rtt_ms: None, plan: None, trials: Vec::new() };
            return Ok(vec![Job { row, scenario: Scenario::load(given)?.with_seed(self.seed) }]);
        }
        let job = |(index, pair): (usize, Pair)| {
            let plan = pair.meeting().plan.map(|plan| plan.to_string());
            let row = Row { pair: pair.to_string(), rtt_ms: Some(pair.rtt), plan, trials: Vec::new() };
            anyhow::Ok(Job { row, scenario: pair.scenario(self.seed.wrapping_add(index as u64))? })
        };
        Pair::sample(self.pairs as usize, self.loss, self.seed).into_iter().enumerate().map(job).collect()
    }

    fn try_out(&self, job: &Job) -> anyhow::Result<Row> {
        let Job { row, scenario } = job;
        let lab = Lab::new(scenario).with_context(|| row.pair.clone())?;
        let places = [Place::host("a"), Place::host("b")];
        let trials = punch(&lab, places, self.trials).with_context(|| row.pair.clone())?;
        Ok(Row { pair: row.pair.clone(), rtt_ms: row.rtt_ms, plan: row.plan.clone(), trials })
    }

    fn print(&self, rows: &[Row]) -> anyhow::Result<()> {
        if self.json {
            for row in rows {
                println!("{}", serde_json::to_string(row)?);
            }
            return Ok(());
        }
        let width = rows.iter().map(|row| row.pair.len()).max().unwrap_or(0);
        println!(
            "{:width$}  {:>6}  {:10}  {:>9}  {:>9}  {:>9}",
            "NATs", "RTT", "plan", "connected", "median", "RTTs"
        );
        for row in rows {
            let times = row.times();
            let median = times.get(times.len() / 2).copied();
            let rtts = median.zip(row.rtt_ms).map(|(median, rtt)| median / rtt as f64);
            let tell = |value: Option<f64>, unit: &str| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}{unit}"))
            };
            println!(
                "{:width$}  {:>6}  {:10}  {:>9}  {:>9}  {:>9}",
                row.pair,
                row.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt} ms")),
                row.plan.as_deref().unwrap_or("-"),
                format!("{}/{}", times.len(), row.trials.len()),
                tell(median, " ms"),
                tell(rtts, ""),
            );
            for trial in row.trials.iter().filter(|trial| self.verbose || trial.took_ms.is_none()) {
                println!("    {}", trial.story.replace('\n', "\n    "));
            }
        }
        let all: usize = rows.iter().map(|row| row.trials.len()).sum();
        let mut times: Vec<f64> = rows.iter().flat_map(Row::times).collect();
        times.sort_by(f64::total_cmp);
        let (low, high) = wilson(times.len(), all);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        println!(
            "{} of {all} attempts over {} pairs connected: {:.1} % (95 %: {:.1} to {:.1}); from the call to the proven \
             pipe {:.0} ms in the median, {:.0} ms at 95 %",
            times.len(),
            rows.len(),
            100.0 * times.len() as f64 / all.max(1) as f64,
            100.0 * low,
            100.0 * high,
            at(0.5),
            at(0.95),
        );
        Ok(())
    }
}

/// Returns the interval of Wilson (1927) that holds the true share with 95 % probability.
fn wilson(good: usize, all: usize) -> (f64, f64) {
    const Z: f64 = 1.96;
    let (good, all) = (good as f64, all.max(1) as f64);
    let share = good / all;
    let middle = share + Z * Z / (2.0 * all);
    let half = Z * (share * (1.0 - share) / all + Z * Z / (4.0 * all * all)).sqrt();
    let whole = 1.0 + Z * Z / all;
    ((middle - half) / whole, (middle + half) / whole)
}

#[cfg(test)]
mod tests {
    use super::wilson;

    #[test]
    fn intervals_are_those_of_the_tables() {
        let rounded = |(low, high): (f64, f64)| ((low * 1e3).round(), (high * 1e3).round());
        assert_eq!(rounded(wilson(10, 10)), (722.0, 1000.0));
        assert_eq!(rounded(wilson(0, 10)), (0.0, 278.0));
        assert_eq!(rounded(wilson(50, 100)), (404.0, 596.0));
    }
}
