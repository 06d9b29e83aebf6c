//! `p2p`: one TCP connection between two computers behind routers.
//!
//! | sub-command | what it does |
//! |---|---|
//! | `demo` | shows every way at work, within this process |
//! | `listen` | prints its address and serves whoever connects |
//! | `connect` | connects to an address: standard input and output are the two directions |
//! | `nat` | tells what the network here is, and what that means for connecting |
//! | `id` | prints the peer id of a key file, and makes the file |
//! | `rendezvous` | runs an MQTT broker, a STUN server and a TURN server for others |
//!
//! # Exit codes
//! | code | meaning |
//! |---|---|
//! | 0 | it worked, or ended as asked; also when the reader of our output went away and nothing was left to send |
//! | 1 | anything else, such as a connection that was cut |
//! | 2 | command line, configuration, key file, interface or port |
//! | 3 | the peer is offline: a broker says so |
//! | 4 | no connection: every way failed |
//! | 5 | the peer refused |
//! | 6 | out of time |
//! | 7 | `nat`: no STUN server answered |
//! | 130 | interrupted before it was done, such as in the middle of the one connection to be served |

mod carry;
mod connect;
mod demo;
mod ended;
mod exit;
mod id;
mod listen;
mod nat;
mod options;
mod rendezvous;
mod reports;
mod screen;
mod standard;
mod turn;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const EXIT_CODES: &str = "\
Exit codes:
  0    it worked, or ended as asked
  1    anything else, such as a connection that was cut
  2    command line, configuration, key file, interface or port
  3    the peer is offline: a broker says so (every MQTT 5 broker can)
  4    no connection: every way failed
  5    the peer refused
  6    out of time
  7    `nat`: no STUN server answered
  130  interrupted before it was done, such as in the middle of the one connection to be served

Logs go to standard error as RUST_LOG says, such as RUST_LOG=p2p_actors=debug; the default is what p2p itself
warns of.";

/// Libraries say what they like, and some as often as a stranger likes: nothing of theirs is told unasked.
const OUR_WARNINGS: &str = "off,p2p=warn,p2p_node=warn,p2p_actors=warn,p2p_core=warn";

/// One TCP connection between two computers behind routers.
#[derive(Parser)]
#[command(name = "p2p", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Listen(listen::Listen),
    Connect(connect::Connect),
    Nat(nat::Nat),
    Id(id::Id),
    Rendezvous(Box<rendezvous::Run>),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| exit::misused(error));
    let json = match &cli.command {
        Command::Demo(demo) => demo.json,
        Command::Listen(listen) => listen.node.json,
        Command::Connect(connect) => connect.node.json,
        Command::Nat(nat) => nat.node.json,
        Command::Id(id) => id.json,
        Command::Rendezvous(run) => run.json(),
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::tell(&error, json),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let filter = match std::env::var_os("RUST_LOG").is_none_or(|told| told.is_empty()) {
        true => EnvFilter::new(OUR_WARNINGS),
        false => EnvFilter::builder()
            .with_default_directive(LevelFilter::WARN.into())
            .from_env()
            .context("RUST_LOG")
            .map_err(exit::Usage::from)?,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).fmt_fields(screen::log_fields());
    log.with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Demo(demo) => demo.run().await,
            Command::Listen(listen) => listen.run().await,
            Command::Connect(connect) => connect.run().await,
            Command::Nat(nat) => nat.run().await,
            Command::Id(id) => id.run(),
            Command::Rendezvous(rendezvous) => rendezvous.run().await,
        }
    });
    // A thread may still wait for standard input, but it is not waited for.
    runtime.shutdown_background();
    outcome
}
