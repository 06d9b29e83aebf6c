//! `p2p connect`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use p2p_node::report::Report;
use p2p_node::{ConnectOptions, Filter, Path, PeerAddr};

use crate::exit::Ended;
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
    /// What may lie between [default: anything]
    #[arg(long = "path", value_name = "PATH", value_delimiter = ',', value_parser = one_of(&Path::ALL))]
    paths: Vec<Path>,
    /// When to give up connecting, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Write what was tried, and how it went, to a file as JSON: also when there is no connection
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

impl Connect {
    fn options(&self, families: &std::collections::BTreeSet<p2p_node::Family>) -> ConnectOptions {
        let mut options = ConnectOptions { plain: self.node.plain(), ..ConnectOptions::default() };
        let mut filter = Filter { families: families.clone(), ..Filter::default() };
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
        let config = self.node.config()?;
        let options = self.options(&config.families);
        // A report that cannot be written is better known before than after.
        let mut reports = Reports::create(self.report.as_ref())?;
        let node = bind(config).await?;
        let outcome = tokio::select! {
            outcome = async {
                let connected = node.connect_with(&self.address, options).await;
                let report = match &connected {
                    Ok(pipe) => Report::connected(pipe),
                    Err(error) => Report::failed(self.address.id(), error),
                };
                reports.add(&serde_json::to_string_pretty(&report)?);
                if self.node.json {
                    screen::note(serde_json::to_string(&report)?);
                }
                match connected {
                    Ok(pipe) => carry::stdio(pipe).await.map(|_| ()),
                    Err(error) if self.node.json => Err(Ended::Told(error).into()),
                    Err(error) => Err(error.into()),
                }
            } => outcome,
            () = interrupted() => Err(Ended::Interrupted.into()),
        };
        node.close().await;
        outcome
    }
}
