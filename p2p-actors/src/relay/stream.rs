//! The byte streams that come through a relay.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use p2p_core::relay::{Read, RelayError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use super::link::{Link, Rested};
use crate::drive::now;

/// The stream over datagrams. Dropped, it delivers what was written, for a few seconds.
pub(crate) struct RelayedStream {
    shared: Arc<Shared>,
    local: SocketAddr,
    remote: SocketAddr,
}

/// A [`RelayedStream`] at rest.
pub(crate) struct RestedStream {
    shared: Arc<Shared>,
    local: SocketAddr,
    remote: SocketAddr,
}

impl RelayedStream {
    /// There is one of each circuit.
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let (local, remote) = shared.core().ends()?;
        Ok(Self { shared, local, remote })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where the peer is by now: it may be lent another address meanwhile.
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.shared.core().ends().map_or(self.remote, |(_, remote)| remote)
    }

    pub(crate) fn rest(self) -> RestedStream {
        self.shared.core().rest();
        let rested =
            RestedStream { shared: Arc::clone(&self.shared), local: self.local, remote: self.remote };
        // Only the place has changed.
        std::mem::forget(ForgetMe(self));
        rested
    }

    pub(crate) fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.shared.core();
        if let Some((error, trouble)) = &core.ended {
            return Poll::Ready(Err(broken(error.unwrap_or(RelayError::Closed), trouble.as_deref())));
        }
        // An empty write asks for nothing; one byte that finds no room has the machine tell when there is.
        if core.circuit.has_room() {
            return Poll::Ready(Ok(()));
        }
        core.wait_for_writing(cx);
        Poll::Pending
    }
}
