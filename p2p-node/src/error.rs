//! What can go wrong, and whose fault it is.

use std::path::PathBuf;

pub use p2p_actors::ConnectError;

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
    /// The actors could not start.
    #[error(transparent)]
    Start(#[from] p2p_actors::StartError),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(String),
}
