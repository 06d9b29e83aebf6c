//! What can go wrong, and whose fault it is.

use std::path::PathBuf;

pub use p2p_core::node::ConnectError;
use p2p_core::turn::client::MOST_SERVERS;

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The key file cannot be used.
    #[error("key file {path}: {reason}")]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file with certificates to trust cannot be read.
    #[error("CA file {path}: {reason}")]
    CaFile {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A TURN server with a login that nobody can have.
    #[error("TURN server {server}: {reason}")]
    TurnServer {
        /// Its URI.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// More TURN servers than are ever asked.
    #[error("{0} TURN servers: {MOST_SERVERS} at most; a `turn:` without `?transport=` counts as two")]
    TooManyTurnServers(usize),
    /// The actors could not start.
    #[error(transparent)]
    Start(#[from] p2p_actors::StartError),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(String),
}
