//! The command `natlab clean`.

use std::process::ExitCode;

use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Clean {
    /// Print what was removed as JSON.
    #[arg(long)]
    json: bool,
}

impl Clean {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let cleaned = natlab::clean()?;
        if self.json {
            println!("{}", serde_json::to_string(&cleaned)?);
        } else {
            println!(
                "removed {} labs, {} namespaces, {} processes",
                cleaned.labs, cleaned.namespaces, cleaned.processes
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
