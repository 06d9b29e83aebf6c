//! Samples, and the printing of them.

use std::path::Path;
use std::time::{Duration, Instant};

/// The samples of one figure, measured again and again.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds the time since `start`.
    pub(crate) fn since(&mut self, start: Instant) {
        self.took(start.elapsed());
    }

    pub(crate) fn took(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns the value below which this share of the samples lies.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Prints a line of milliseconds.
    pub(crate) fn print_ms(&self, name: &str) {
        println!(
            "  {name:44} p50 {:8.3} ms   p90 {:8.3} ms   n {}",
            self.at(0.5),
            self.at(0.9),
            self.0.len()
        );
    }
}

/// Prints a figure beside its goal, a bound from above.
pub(crate) fn at_most(name: &str, value: f64, goal: f64, unit: &str) {
    let verdict = if value <= goal { "met" } else { "MISSED" };
    println!("  {name:44}     {value:8.3} {unit}   goal ≤ {goal:.3} {unit}: {verdict}");
}

/// Prints ratios beside their goal, a bound of their median from below.
pub(crate) fn at_least(name: &str, ratios: &Samples, goal: f64) {
    let verdict = if ratios.median() >= goal { "met" } else { "MISSED" };
    let (low, value, high) = (ratios.at(0.1), ratios.median(), ratios.at(0.9));
    println!("  {name:44} p50 {value:8.3}      p10 {low:.3}  p90 {high:.3}   goal ≥ {goal:.2}: {verdict}");
}

/// Returns the milliseconds that all living threads of this process were on a processor; 0 where the system does not
/// tell.
pub(crate) fn process_time() -> f64 {
    time_of("self")
}

/// Returns the milliseconds that all living threads of another process were on a processor.
pub(crate) fn time_of(process: &str) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks.map(|task| on_processor(&task.path().join("schedstat"))).sum()
}

/// Returns the milliseconds that this thread was on a processor.
pub(crate) fn thread_time() -> f64 {
    on_processor(Path::new("/proc/thread-self/schedstat"))
}

fn on_processor(path: &Path) -> f64 {
    let told = std::fs::read_to_string(path).unwrap_or_default();
    told.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or_default() / 1e6
}
