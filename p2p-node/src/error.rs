//! The errors of a node, by whose fault they are.

use std::path::PathBuf;

pub use p2p_core::node::ConnectError;
use p2p_core::turn::client::MOST_SERVERS;

/// A reason why a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The key file cannot be used.
    #[error("key file {path}: {reason}")]
    KeyFile {
        /// The path of the key file.
        path: PathBuf,
        /// The fault, and its mend.
        reason: String,
    },
    /// A file with certificates to trust cannot be read.
    #[error("CA file {path}")]
    CaFile {
        /// The path of the CA file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A TURN server has a login that nobody can have.
    #[error("TURN server {server}: {reason}")]
    TurnServer {
        /// The URI of the server.
        server: String,
        /// The fault of the login.
        reason: String,
    },
    /// There are more TURN servers than are ever asked.
    #[error("{0} TURN servers: {MOST_SERVERS} at most; a `turn:` without `?transport=` counts as two")]
    TooManyTurnServers(usize),
    /// The actors could not start.
    #[error(transparent)]
    Start(#[from] p2p_actors::StartError),
}
