//! The command `p2p nat`.

use std::time::Duration;

use clap::Args;
use p2p_node::{Key, NetworkState, Node};

use crate::ended::Ended;
use crate::exit::Usage;
use crate::options::{NodeOptions, interrupted, parse_seconds};
use crate::screen;

const EXAMPLE: &str = "\
Asks the STUN servers over UDP and TCP, each address family and interface apart, and tells what the network is,
who said so, how sure that is, and which kinds of peers can be met from here. At most 40 packets go to one
server, and 8 SYNs more to one of them where the NAT answers SYNs. Ends with 2 when no server is configured, with
7 when none answers; what is known then is printed too.

Example:
  p2p nat --stun stun.example:3478 --stun 192.0.2.1:3478";

/// Tell what the network here is, and what that means for connecting
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Nat {
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = parse_seconds)]
    timeout: Duration,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

impl Nat {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut config = self.node.config()?;
        // Nobody calls or is called, so it takes no broker, no key, and not the port of a node that runs already.
        config.brokers.clear();
        config.key = Key::Ephemeral;
        if !self.node.names_port() {
            config.listen_port = 0;
        }
        config.ready_within = Duration::ZERO;
        let node = Node::bind(config).await?;
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(self.timeout, node.survey()) => Ok(outcome.is_ok()),
            () = interrupted() => Err(Ended::Interrupted),
        };
        let report = node.network();
        node.close().await;
        let is_done = outcome?;
        match self.node.json {
            true => screen::line(serde_json::to_string(&report)?)?,
            false => screen::text(&report)?,
        }
        match report.state {
            NetworkState::NoServer => Err(Usage::new("no STUN server is configured").into()),
            _ if !is_done => Err(Ended::TimedOut.into()),
            NetworkState::Offline => Err(Ended::Offline.into()),
            _ => Ok(()),
        }
    }
}
