//! What a pipe needs of the connection under it.

use std::io::Result;
use std::task::{Context, Poll};

use p2p_actors::{ActiveConnection, StallGuard};
use tokio::io::{AsyncRead, AsyncWrite};

use super::liveness::Between;

/// A byte stream that can tell when it has room. What it takes goes out without a flush. It remembers the last waker of
/// each direction at least.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Waits until a write would be taken, in part at least.
    fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Ends what we say; the other end knows of it already.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Tells whether the end of what we say is never told below, so that the peer must tell us when all is read.
    fn wants_farewell(&self) -> bool;

    /// Takes note that the peer's last word was read.
    fn on_peer_ended(&mut self);

    /// Takes note that the peer has read our last word.
    fn on_farewell(&mut self);

    /// Waits until this process is not needed any more for what was written to arrive.
    fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Returns what lies between the two ends.
    fn between(&self) -> Between;

    /// Looks for acknowledgements of the peer's system, and moves the deadline of the system on while they come.
    fn look(&self, guard: &mut StallGuard);
}

impl Transport for ActiveConnection {
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_finish(cx)
    }

    fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_write_ready(cx)
    }

    fn wants_farewell(&self) -> bool {
        self.wants_farewell()
    }

    fn on_peer_ended(&mut self) {
        self.on_peer_ended();
    }

    fn on_farewell(&mut self) {
        self.on_farewell();
    }

    fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_delivered(cx)
    }

    fn between(&self) -> Between {
        match (self.is_watched(), self.wants_farewell()) {
            (true, _) => Between::Watched,
            (false, true) => Between::Relay,
            (false, false) => Between::Network,
        }
    }

    fn look(&self, guard: &mut StallGuard) {
        self.look(guard);
    }
}
