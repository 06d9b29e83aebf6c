//! The command `p2p listen`.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use p2p_node::report::Report;
use p2p_node::{Node, Pipe};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::carry::{self, Carried};
use crate::ended::Ended;
use crate::options::{NodeOptions, bind, interrupted, parse_seconds};
use crate::reports::Reports;
use crate::screen;

/// The most connections that are served at once; more wait in the node's backlog.
const MOST_AT_ONCE: usize = 1_024;

const EXAMPLE: &str = "\
The address goes to standard output, or to standard error with --stdio. With --json each line is an
object with an `event`: `listening`, `accepted` or `closed`.

Example:
  p2p listen --broker mqtt://192.0.2.1 --identity p2p.key --to localhost:22";

/// Print our address and serve whoever connects
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Listen {
    /// Send everything back
    #[arg(long, group = "mode")]
    echo: bool,
    /// Standard input and output are the two directions of the first connection (the default)
    #[arg(long, group = "mode")]
    stdio: bool,
    /// Pass each connection on to a TCP service
    #[arg(long, value_name = "HOST:PORT", group = "mode", value_parser = parse_target)]
    to: Option<String>,
    /// End after the first connection, as --stdio always does
    #[arg(long)]
    once: bool,
    /// Give up when nobody has connected after so many seconds [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Write each connection to a file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

fn parse_target(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(port) if port != 0 => Ok(text.to_owned()),
        _ => Err("a service is `host:port`, such as `localhost:22`".to_owned()),
    }
}

impl Listen {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let node = bind(self.node.config()?).await?;
        let serves_the_one = Cell::new(false);
        let outcome = tokio::select! {
            // A reader of our address may interrupt us at once, so signals are heard before it is printed.
            biased;
            // That is how a service ends. The one connection that it was for is another matter.
            () = interrupted() => match serves_the_one.get() {
                true => Err(Ended::InterruptedMidway.into()),
                false => Ok(()),
            },
            outcome = self.serve(&node, &serves_the_one) => outcome,
        };
        node.close().await;
        outcome
    }

    fn owns_stdout(&self) -> bool {
        !self.echo && self.to.is_none()
    }

    /// Prints a line on standard output, or on standard error with --stdio, where standard output is the user's.
    fn say(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.owns_stdout() {
            screen::note(text);
            return Ok(());
        }
        screen::line(text)
    }

    fn announce(&self, node: &Node) -> anyhow::Result<()> {
        let address = node.addr().context("the node has no address")?;
        if self.node.json {
            let (peer, brokers) = (node.id().to_string(), node.brokers_up());
            let address = address.to_string();
            return self.say(
                json!({ "event": "listening", "peer": peer, "address": address, "brokers_up": brokers }),
            );
        }
        self.say(address)
    }

    /// Serves whoever connects. Tells when it serves the one connection after which it ends.
    async fn serve(&self, node: &Node, serves_the_one: &Cell<bool>) -> anyhow::Result<()> {
        let mut reports = Reports::create(self.report.as_ref())?;
        self.announce(node)?;
        let room = Arc::new(Semaphore::new(MOST_AT_ONCE));
        let mut serving = JoinSet::new();
        let mut patience = self.timeout;
        loop {
            let place = Arc::clone(&room).acquire_owned().await?;
            let pipe = loop {
                tokio::select! {
                    pipe = next(node, patience) => break pipe?,
                    Some(ended) = serving.join_next() => self.tell_end(ended?)?,
                }
            };
            patience = None;
            let report = Report::connected(&pipe);
            reports.add(&serde_json::to_string(&report)?);
            if self.once || self.owns_stdout() {
                // Nobody else will be served, so callers are refused instead of left waiting.
                serves_the_one.set(true);
                node.stop_accepting().await;
            }
            self.tell_start(&report)?;
            if self.owns_stdout() {
                return carry::stdio(pipe).await.map(|_| ());
            }
            let (peer, to) = (report.peer, self.to.clone());
            serving.spawn(async move {
                let carried = match to {
                    Some(target) => carry::forward(pipe, &target).await,
                    None => carry::echo(pipe).await,
                };
                drop(place);
                (peer, carried)
            });
            if self.once {
                while let Some(ended) = serving.join_next().await {
                    let (peer, carried) = ended?;
                    let failed = carried.as_ref().err().map(|error| format!("{error:#}"));
                    self.tell_end((peer, carried))?;
                    if let Some(text) = failed {
                        anyhow::bail!(text);
                    }
                }
                return Ok(());
            }
        }
    }

    fn tell_start(&self, report: &Report) -> anyhow::Result<()> {
        if self.node.json {
            let mut told = serde_json::to_value(report)?;
            told["event"] = "accepted".into();
            return self.say(told);
        }
        if let Some(how) = report.connection.as_ref().filter(|_| !self.owns_stdout()) {
            let (peer, remote) = (&report.peer, how.remote);
            screen::note(format_args!("{peer} connected from {remote}, {}", how.way));
        }
        Ok(())
    }

    fn tell_end(&self, (peer, carried): (String, anyhow::Result<Carried>)) -> anyhow::Result<()> {
        let told = match (carried, self.node.json) {
            (Ok(carried), true) => {
                json!({ "event": "closed", "peer": peer, "sent": carried.sent, "received": carried.received })
            }
            (Err(error), true) => {
                json!({ "event": "closed", "peer": peer, "error": format!("{error:#}") })
            }
            (Ok(carried), false) => {
                let Carried { sent, received } = carried;
                screen::note(format_args!("{peer} closed, {sent} bytes sent, {received} received"));
                return Ok(());
            }
            (Err(error), false) => {
                screen::note(format_args!("{peer} closed: {error:#}"));
                return Ok(());
            }
        };
        self.say(told)
    }
}

async fn next(node: &Node, patience: Option<Duration>) -> anyhow::Result<Pipe> {
    let accepted = match patience {
        Some(patience) => tokio::time::timeout(patience, node.accept()).await.map_err(|_| Ended::TimedOut)?,
        None => node.accept().await,
    };
    accepted.context("the node is closed")
}
