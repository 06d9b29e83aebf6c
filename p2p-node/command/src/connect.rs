//! The command `p2p connect`.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use p2p_node::report::Report;
use p2p_node::{ConnectError, ConnectOptions, Filter, Path, PeerAddr};

use crate::ended::Ended;
use crate::options::{NodeOptions, bind, interrupted, one_of, parse_seconds};
use crate::reports::Reports;
use crate::{carry, screen};

const EXAMPLE: &str = "\
Standard input goes to the peer, what the peer sends comes to standard output. The end of standard input
ends our direction; the command ends when the peer has ended its own too. With --json the story of the
connection, as --report writes it, goes to standard error.

Example:
  p2p connect p2p1aba… < question > answer";

/// Connect to a peer: standard input and output are the two directions
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Connect {
    /// The address that `p2p listen` printed
    #[arg(value_name = "ADDR")]
    address: PeerAddr,
    /// Kind of network that may lie between [default: any]
    #[arg(long = "path", value_name = "PATH", value_delimiter = ',', value_parser = one_of(&Path::ALL))]
    paths: Vec<Path>,
    /// Seconds after which to give up connecting [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Write what was tried, and how it went, to a file as JSON: also when there is no connection, or it is
    /// interrupted
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

impl Connect {
    fn options(&self, families: &std::collections::BTreeSet<p2p_node::Family>) -> ConnectOptions {
        let mut options = ConnectOptions::new().with_plain(self.node.plain());
        let mut filter = Filter::new().with_families(families.iter().copied());
        if !self.node.ways.is_empty() {
            options.ways = self.node.ways.clone();
        }
        if !self.paths.is_empty() {
            filter.paths = self.paths.iter().copied().collect();
        }
        if let Some(timeout) = self.timeout {
            options.within = timeout;
        }
        options.filter = filter;
        options
    }

    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut interrupt = pin!(interrupted());
        let config = self.node.config()?;
        let options = self.options(&config.families);
        // A report that cannot be written is better known before than after.
        let mut reports = Reports::create(self.report.as_ref())?;
        let node = tokio::select! {
            node = bind(config) => node?,
            () = &mut interrupt => {
                self.tell(&Report::failed(self.address.id(), &ConnectError::Closed), &mut reports)?;
                return Err(Ended::Interrupted.into());
            }
        };
        let mut connecting = pin!(node.connect_with(&self.address, options));
        let (connected, interrupted) = tokio::select! {
            connected = &mut connecting => (connected, false),
            () = &mut interrupt => {
                // This ends the attempt, whose error tells its progress.
                node.close().await;
                (connecting.await, true)
            }
        };
        let report = match &connected {
            Ok(pipe) => Report::connected(pipe),
            Err(error) => Report::failed(self.address.id(), error),
        };
        self.tell(&report, &mut reports)?;
        let outcome = match connected {
            _ if interrupted => Err(Ended::Interrupted.into()),
            Ok(pipe) => tokio::select! {
                carried = carry::stdio(pipe) => carried.map(drop),
                () = interrupt => Err(Ended::Interrupted.into()),
            },
            Err(error) if self.node.json => Err(Ended::Told(error).into()),
            Err(error) => Err(error.into()),
        };
        node.close().await;
        outcome
    }

    fn tell(&self, report: &Report, reports: &mut Reports) -> anyhow::Result<()> {
        reports.add(&serde_json::to_string_pretty(report)?);
        if self.node.json {
            screen::note(serde_json::to_string(report)?);
        }
        Ok(())
    }
}
