//! The reasons for which a node does not start.

use std::net::SocketAddr;

use p2p_core::node::ConfigFault;

/// Says why a node could not start, and whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody else listens there.
    #[error("cannot listen on {addr}: {reason} (choose another port, or 0 for any free one)")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The operating system's words.
        reason: String,
    },
    /// The configuration cannot be, or does not fit this machine.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The operating system gave no random bytes, and without them nothing a node says is secret.
    #[error("the operating system gives no random bytes")]
    Entropy(#[source] std::io::Error),
    /// The operating system gave no thread or no event loop.
    #[error("the operating system refused")]
    System(#[from] std::io::Error),
    /// The node was closed while it started.
    #[error("the node was closed while it started")]
    Closed,
}
