//! The command `natlab figures`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use natlab::figures::{measure_loss, measure_rtt, measure_throughput};

/// Measure how exact the lab is on this machine.
#[derive(Debug, Args)]
pub(super) struct Figures {
    /// Round trips for each figure.
    #[arg(long, default_value_t = 250)]
    samples: u32,
    /// Datagrams for each loss figure.
    #[arg(long, default_value_t = 20_000)]
    packets: u32,
    /// Seconds of TCP for each throughput figure; 0 leaves them out.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Print each figure as a line of JSON.
    #[arg(long)]
    json: bool,
}

impl Figures {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        natlab::enter_user_namespace()?;
        for millis in [5, 20, 40, 100] {
            let figure = measure_rtt(Duration::from_millis(millis), self.samples)?;
            if self.json {
                println!("{}", serde_json::to_string(&figure)?);
            } else {
                println!(
                    "RTT {millis} ms: median {:.3} ms, p99 {:.3} ms ({})",
                    figure.median_ms, figure.p99_ms, figure.lateness
                );
            }
        }
        for loss in [0.01, 0.1] {
            let figure = measure_loss(loss, self.packets)?;
            if self.json {
                println!("{}", serde_json::to_string(&figure)?);
            } else {
                println!(
                    "loss {loss}: measured {:.4} of {} packets (99.9 % within ±{:.4})",
                    figure.measured, figure.sent, figure.margin
                );
            }
        }
        for offload in [false, true].into_iter().filter(|_| self.seconds > 0) {
            let figure = measure_throughput(offload, self.seconds)?;
            if self.json {
                println!("{}", serde_json::to_string(&figure)?);
            } else {
                let how = if offload { "with offload" } else { "MTU 1500" };
                println!("TCP through two NATs, {how}: {:.0} Mbit/s", figure.mbit_per_s);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
