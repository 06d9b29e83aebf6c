//! The command `natlab run`.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use natlab::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabArgs;
use super::signal::{Stop, exit_code};

/// The pause between two looks at a running command.
const GLANCE: Duration = Duration::from_millis(10);
/// The most time for a command to end once it is asked to.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Run {
    /// A scenario file or a one-line form.
    scenario: String,
    #[command(flatten)]
    lab: LabArgs,
    /// The host in which the command runs; by default the first.
    #[arg(long)]
    host: Option<String>,
    /// Run a shell command in another host first, and end it with the lab. May be repeated.
    #[arg(long, value_name = "HOST=COMMAND", value_parser = split)]
    also: Vec<(String, String)>,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    /// The command and its arguments; without one the lab stays until interrupted. Its environment has
    /// NATLAB_LAB, and NATLAB_NAME with the first address of each host.
    #[arg(last = true)]
    command: Vec<String>,
}

fn split(text: &str) -> Result<(String, String), String> {
    let (host, command) = text.split_once('=').ok_or("expected HOST=COMMAND")?;
    Ok((host.to_owned(), command.to_owned()))
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let scenario = self.lab.scenario(&self.scenario)?;
        natlab::enter_user_namespace()?;
        let stop = Stop::new()?;
        let lab = self.lab.lab(&scenario)?;
        let mut also = Vec::new();
        for (host, command) in &self.also {
            let mut shell = prepared(&lab, host, "sh")?;
            shell.arg("-c").arg(command);
            also.push(shell.spawn().with_context(|| format!("starting `{command}`"))?);
        }
        let code = match self.command.split_first() {
            None => {
                eprintln!("lab {} runs, hosts: {}", lab.id(), names(&lab).join(" "));
                stop.wait();
                ExitCode::SUCCESS
            }
            Some((program, arguments)) => {
                let all = names(&lab);
                let host = self.host.as_deref().or(all.first().copied());
                let mut command = prepared(&lab, host.context("there is no host")?, program)?;
                let child =
                    command.args(arguments).spawn().with_context(|| format!("starting `{program}`"))?;
                wait(child, &stop)?
            }
        };
        let report = lab.report()?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            eprintln!("{}", report.lateness);
            for (why, number) in &report.dropped {
                eprintln!("{number} dropped: {why}");
            }
        }
        drop(lab);
        for mut child in also {
            // The lab has ended the command.
            child.wait()?;
        }
        Ok(code)
    }
}

fn names(lab: &Lab) -> Vec<&str> {
    lab.hosts().map(natlab::Host::name).collect()
}

/// Returns a command for a host, with the names and addresses of the lab in its environment.
fn prepared(lab: &Lab, host: &str, program: &str) -> anyhow::Result<Command> {
    let mut command = lab.host(host)?.command(program)?;
    command.env("NATLAB_LAB", lab.id());
    for host in lab.hosts() {
        let name = host.name().to_uppercase().replace('-', "_");
        command.env(format!("NATLAB_{name}"), host.address().to_string());
    }
    Ok(command)
}

/// Waits for the command, and passes a signal on to it.
fn wait(mut child: Child, stop: &Stop) -> anyhow::Result<ExitCode> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(code_of(status));
        }
        let Some(signal) = stop.within(GLANCE) else {
            continue;
        };
        pass_on(&mut child, signal)?;
        return Ok(exit_code(signal));
    }
}

fn pass_on(child: &mut Child, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // The command may have got the signal from the terminal already, and be gone.
    let _ = kill(pid, signal);
    let mut waited = Duration::ZERO;
    while child.try_wait()?.is_none() {
        if waited >= FAREWELL {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(GLANCE);
        waited += GLANCE;
    }
    Ok(())
}

fn code_of(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(signal)) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        (None, None) => ExitCode::FAILURE,
    }
}
