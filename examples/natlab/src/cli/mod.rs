//! The sub-commands, one file each.

mod clean;
mod exec;
mod figures;
mod matrix;
mod nat;
mod punch;
mod relay;
mod relay_figures;
mod run;
mod signal;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use natlab::scenario::FORMS;
use natlab::{Lab, LabOptions, Scenario};

/// Hosts as network namespaces, behind simulated NATs and links, in real time.
#[derive(Debug, Parser)]
#[command(version, after_help = forms())]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a lab; run a command in one of its hosts, or keep it until interrupted.
    Run(run::Run),
    /// Run a command in a host of a lab that runs already.
    Exec(exec::Exec),
    /// Print the scenario file that a one-line form stands for, once it is checked.
    Show {
        /// A scenario file or a one-line form.
        scenario: String,
    },
    /// Punch through every pair of NATs.
    Matrix(matrix::Matrix),
    /// Have a real node find out what each NAT is, and compare with virtual time and with the truth.
    Nat(nat::Nat),
    /// Have two real nodes punch through NATs, and count how often that works.
    Punch(punch::Punch),
    /// Measure how exact the lab is on this machine: round trips, loss, throughput.
    Figures(figures::Figures),
    /// Have two real nodes meet at a real coturn, and tell how long that takes.
    Relay(relay::Relay),
    /// Measure a relayed stream beside the kernel's TCP over the same bad cables.
    RelayFigures(relay_figures::RelayFigures),
    /// List the labs that run.
    List,
    /// Remove what labs left behind that were killed.
    Clean(clean::Clean),
}

/// The options that `run` and similar commands have in common.
#[derive(Debug, Args)]
struct LabArgs {
    /// Write the packets of each device to DIR/HOST-ethN.pcap.
    #[arg(long, value_name = "DIR")]
    pcap: Option<std::path::PathBuf>,
    /// Write what happens to FILE, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    events: Option<std::path::PathBuf>,
    /// Pass TCP segments of up to 64 kB through the lab: several times the throughput, coarser loss.
    #[arg(long)]
    offload: bool,
    /// The seed to use instead of the scenario's.
    #[arg(long)]
    seed: Option<u64>,
}

impl LabArgs {
    fn scenario(&self, given: &str) -> anyhow::Result<Scenario> {
        let scenario = Scenario::load(given)?;
        Ok(match self.seed {
            Some(seed) => scenario.with_seed(seed),
            None => scenario,
        })
    }

    fn lab(&self, scenario: &Scenario) -> anyhow::Result<Lab> {
        let options =
            LabOptions { pcap: self.pcap.clone(), events: self.events.clone(), offload: self.offload };
        Lab::with_options(scenario, &options).context("making the lab")
    }
}

fn forms() -> String {
    let mut text = "One-line scenarios:\n".to_owned();
    for (form, meaning) in FORMS {
        text += &format!("  {form:20} {meaning}\n");
    }
    text + "  followed by ?key=value&…: rtt, jitter, loss, rate, syn, hairpin, range, v6, seed\n\
            X, Y, Z: open, symmetric-firewall, full-cone, restricted, port-restricted, symmetric, blocked, with\n  \
            /equal, /preserving, /independent, /dependent or /random and a value; linux, linux-fully-random,\n  \
            carrier/BLOCK; kernel-masquerade, kernel-fully-random (Linux itself)\n"
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Exec(exec) => exec.run(),
            Command::Matrix(matrix) => matrix.run(),
            Command::Nat(nat) => nat.run(),
            Command::Punch(punch) => punch.run(),
            Command::Figures(figures) => figures.run(),
            Command::Relay(figures) => figures.run(),
            Command::RelayFigures(figures) => figures.run(),
            Command::Show { scenario } => {
                print!("{}", Scenario::load(&scenario)?.source());
                Ok(ExitCode::SUCCESS)
            }
            Command::List => {
                for lab in natlab::running()? {
                    let hosts: Vec<&str> = lab.hosts.keys().map(String::as_str).collect();
                    println!("{} pid {}: {}", lab.id, lab.pid, hosts.join(" "));
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Clean(clean) => clean.run(),
        }
    }
}
