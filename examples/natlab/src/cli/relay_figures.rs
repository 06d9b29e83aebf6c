//! The command `natlab relay-figures`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use natlab::race_tcp::{Carrier, carry};
use p2p_core::sim::link::LinkConfig;

/// Measure a relayed stream beside the kernel's TCP over the same bad cables.
#[derive(Debug, Args)]
pub(super) struct RelayFigures {
    /// Megabytes to carry in each cell.
    #[arg(long, default_value_t = 10)]
    megabytes: usize,
    /// Megabits a second that the cable takes, with a queue of 256 KiB.
    #[arg(long, default_value_t = 50)]
    megabits: u64,
    /// Seconds after which a cell counts what has come.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Round trips, in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 100, 300])]
    rtt: Vec<u64>,
    /// Losses, each way, in per cent.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 1.0, 5.0])]
    loss: Vec<f64>,
    /// Packets that are overtaken, by 10 ms, in per cent.
    #[arg(long, default_value_t = 5.0)]
    reorder: f64,
    /// Packets that come twice, in per cent.
    #[arg(long, default_value_t = 3.0)]
    duplicate: f64,
    /// The kernel's congestion controls; the share is of the first.
    #[arg(long, value_delimiter = ',', default_values_t = ["cubic".to_owned(), "bbr".to_owned()])]
    congestion: Vec<String>,
}

impl RelayFigures {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        natlab::enter_user_namespace()?;
        println!(
            "{} MB at {} Mbit/s, {} % reordered, {} % doubled, {} s a cell at most; goodput in Mbit/s",
            self.megabytes, self.megabits, self.reorder, self.duplicate, self.seconds
        );
        for rtt in &self.rtt {
            for loss in &self.loss {
                let cable = LinkConfig {
                    loss: loss / 100.0,
                    reorder: self.reorder / 100.0,
                    duplicate: self.duplicate / 100.0,
                    rate: Some(self.megabits * 1_000_000),
                    ..LinkConfig::with_latency(Duration::from_millis(*rtt) / 2)
                };
                let cell = |carrier| -> anyhow::Result<f64> {
                    let patience = Duration::from_secs(self.seconds);
                    Ok(carry(carrier, cable, self.megabytes * 1_000_000, patience)?.mbit_per_s())
                };
                let ours = cell(Carrier::Ours)?;
                print!("RTT {rtt:3} ms, loss {loss:4.1} %: ours {ours:6.2}");
                for (index, congestion) in self.congestion.iter().enumerate() {
                    let kernel = cell(Carrier::Kernel(congestion))?;
                    print!(", {congestion} {kernel:6.2}");
                    if index == 0 {
                        print!(" ({:.2} of it, goal 0.70)", ours / kernel);
                    }
                }
                println!();
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
