//! The command `p2p id`.

use std::path::PathBuf;

use clap::Args;
use p2p_node::Key;
use serde_json::json;

use crate::exit::Usage;
use crate::{options, screen};

const EXAMPLE: &str = "\
Give the id to those who shall let this node in with --allow.

Example:
  p2p id --identity p2p.key";

/// Print the peer id of a key file, and make the file when there is none
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Id {
    /// Key file [default: as the configuration file says]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Configuration file [default: $P2P_CONFIG, else ./p2p.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl Id {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let key = match self.identity {
            Some(path) => Key::File(path),
            None => options::file(self.config.as_deref())?.key,
        };
        let Key::File(path) = &key else {
            return Err(Usage::new("no key file: name one with --identity, or in the configuration").into());
        };
        let file = path.display().to_string();
        let peer = key.into_identity()?.id().to_string();
        match self.json {
            true => screen::line(json!({ "peer": peer, "file": file })),
            false => screen::line(peer),
        }
    }
}
