//! The `natlab` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("natlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
