//! The accuracy of the comparison of two clocks: the bound, the true error, and the share of failures of the bound.
//!
//! `cargo run --release -p p2p-core --features sim --example clock_figures -- [runs]`
//!
//! Each of `runs` (default 10,000) draws two clocks, up to a day apart and drifting by up to 100 ppm. They exchange
//! time stamps, a quarter of a second after each other, over a path of given delays there and back. Queues delay each
//! packet further (exponential, of given mean). In milliseconds it shows the bound that
//! [`OffsetFilter`](p2p_core::clock::OffsetFilter) gives and its true error, beside the error of the plain mean of
//! all exchanges.

use std::time::Duration;

use p2p_core::clock::{Exchange, OffsetFilter};
use p2p_core::sim::epoch;
use p2p_core::{Seed, UnixTime};

/// The delays there, back and in queues, in milliseconds.
const PATHS: [(f64, f64, f64); 5] =
    [(0.2, 0.2, 0.05), (20.0, 20.0, 5.0), (50.0, 50.0, 5.0), (50.0, 50.0, 50.0), (20.0, 80.0, 5.0)];
const EXCHANGES: [usize; 4] = [1, 3, 5, 8];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runs = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    println!(
        "| there | back | queues | exchanges | bound, median | error, median | error, 99 % | mean's error | misses |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for path in PATHS {
        for exchanges in EXCHANGES {
            let mut dice = Seed::from_u64(1);
            let mut all: Vec<Run> = (0..runs).map(|_| run(path, exchanges, &mut dice)).collect();
            let misses = all.iter().filter(|run| run.error > run.bound).count();
            let bound = percentile(&mut all, 50, |run| run.bound);
            let (median, high) =
                (percentile(&mut all, 50, |run| run.error), percentile(&mut all, 99, |run| run.error));
            let mean = percentile(&mut all, 50, |run| run.mean);
            let (there, back, queues) = path;
            println!(
                "| {there} | {back} | {queues} | {exchanges} | {bound:.3} | {median:.3} | {high:.3} | {mean:.3} | {misses} of {runs} |"
            );
        }
    }
    Ok(())
}

/// The result of one comparison, in milliseconds.
struct Run {
    bound: f64,
    error: f64,
    mean: f64,
}

fn percentile(all: &mut [Run], percent: usize, of: impl Fn(&Run) -> f64) -> f64 {
    all.sort_by(|a, b| of(a).total_cmp(&of(b)));
    all.get((all.len() * percent / 100).min(all.len().saturating_sub(1))).map_or(f64::NAN, of)
}

fn run((there, back, queues): (f64, f64, f64), exchanges: usize, dice: &mut Seed) -> Run {
    const DAY: f64 = 86_400e3;
    let (ahead, drift) = ((dice.unit() - 0.5) * 2.0 * DAY, (dice.unit() - 0.5) * 2e-4);
    let truth = |at: f64| ahead + at * drift;
    let ours = |at: f64| UnixTime(1_800_000_000_000_000 + (at * 1e3) as u64);
    let theirs = |at: f64| ours(at + truth(at));
    let mut filter = OffsetFilter::default();
    let (mut now, mut sum) = (2.0 * DAY, 0.0);
    for _ in 0..exchanges {
        let sent = now + 250.0;
        let mut delay = |least: f64| least - queues * (1.0 - dice.unit()).ln();
        let received = sent + delay(there);
        now = received + delay(back);
        let exchange = Exchange::new(ours(sent), theirs(received), theirs(received), ours(now));
        sum += (theirs(received).0 as f64 - ours(sent).0 as f64 + theirs(received).0 as f64
            - ours(now).0 as f64)
            / 2e3;
        filter.add(exchange, epoch() + millis(now)).expect("an honest exchange");
    }
    let offset = filter.offset(epoch() + millis(now)).expect("at least one exchange");
    Run {
        bound: offset.error.as_secs_f64() * 1e3,
        error: (offset.nanos as f64 / 1e6 - truth(now)).abs(),
        mean: (sum / exchanges as f64 - truth(now)).abs(),
    }
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis / 1e3)
}
