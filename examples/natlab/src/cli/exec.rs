//! The command `natlab exec`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use natlab::LabRecord;

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The host.
    host: String,
    /// The lab; by default the one whose command we are, or the only one that has such a host.
    #[arg(long, env = "NATLAB_LAB")]
    lab: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let lab = self.find()?;
        lab.enter(&self.host)?;
        let (program, arguments) = self.command.split_first().context("there is no command")?;
        let error = Command::new(program).args(arguments).env("NATLAB_LAB", &lab.id).exec();
        Err(error).with_context(|| format!("starting `{program}`"))
    }

    fn find(&self) -> anyhow::Result<LabRecord> {
        let mut labs = natlab::running()?;
        if let Some(id) = &self.lab {
            labs.retain(|lab| &lab.id == id);
            return labs.pop().with_context(|| format!("no lab {id} runs"));
        }
        labs.retain(|lab| lab.hosts.contains_key(&self.host));
        match labs.len() {
            0 => bail!("no lab runs that has a host `{}`", self.host),
            1 => labs.pop().context("it was there"),
            _ => {
                let ids: Vec<&str> = labs.iter().map(|lab| lab.id.as_str()).collect();
                bail!("several labs have a host `{}`: choose one by --lab: {}", self.host, ids.join(", "))
            }
        }
    }
}
