//! Relayed connections: a [`Circuit`] of the core, its sockets, and the streams that come of it.
//!
//! One circuit is one task on whatever runtime its connection is used on. The attempt that began it, the stream that
//! came of it and the node, which brings the peer's notices, reach it through one lock, held for as long as a turn of the
//! machine takes. Who writes sends at once; the task receives, repeats, and keeps the servers willing.

mod core;
mod ears;
pub(crate) mod link;
mod outlet;
mod stream;
#[cfg(test)]
mod tests;
mod wires;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use p2p_core::Seed;
use p2p_core::peer::PeerAddr;
use p2p_core::relay::circuit::RelayKind;
use p2p_core::relay::{Circuit, CircuitConfig, Notice};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub(crate) use core::Told;
pub(crate) use ears::Ears;
pub(crate) use outlet::Outlet;
pub(crate) use stream::{Dialled, Leaving, Relayed, RestedDialled, RestedThrough, Through};

use self::core::Core;
use crate::drive::now;
use crate::tls::CaFiles;

/// One circuit, for all who have to do with it.
struct Shared(Mutex<Core>);

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        // The machine does not panic; if it did, what it is in is no worse than an end.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives it on the current runtime, until it leaves or is over.
    fn spawn(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let shift = self.core().shift();
        tokio::spawn(async move { poll_fn(|cx| shared.core().poll_drive(shift, cx)).await });
    }
}

/// What an attempt has of its circuit. Dropped before something is [kept](Self::keep), it ends it.
pub(crate) struct Handle {
    shared: Arc<Shared>,
    is_kept: bool,
}

/// What the node has of it: the peer's notices go there, for as long as it lives.
pub(crate) struct Ear(Weak<Shared>);

/// A stream's share of it. With the stream that is kept it ends; with one that is not, nothing does.
#[derive(Clone)]
pub(crate) struct Held(Arc<Holder>);

struct Holder {
    shared: Arc<Shared>,
    is_kept: AtomicBool,
}

impl Handle {
    /// Begins one on the current runtime, and where what it tells comes from.
    pub(crate) fn begin(
        config: CircuitConfig,
        trust: CaFiles,
        outlet: Outlet,
        seat: Option<OwnedSemaphorePermit>,
        seed: Seed,
    ) -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (told, telling) = mpsc::unbounded_channel();
        let circuit = Circuit::new(config, seed, now());
        let core = Core::new(circuit, wires::Wires::new(trust), outlet, seat, told);
        let shared = Arc::new(Shared(Mutex::new(core)));
        shared.spawn();
        (Self { shared, is_kept: false }, telling)
    }

    /// For the node.
    pub(crate) fn ear(&self) -> Ear {
        Ear(Arc::downgrade(&self.shared))
    }

    /// The peer has said this, and is there.
    pub(crate) fn hear(&self, notice: &Notice, sender: &PeerAddr, addresses: &[IpAddr]) {
        hear(&self.shared, notice, sender, addresses);
    }

    /// The stream over datagrams, when it is told to be up.
    pub(crate) fn stream(&self) -> std::io::Result<Relayed> {
        Relayed::new(self.held())
    }

    /// A connection that has arrived.
    pub(crate) fn through(
        &self,
        link: link::Link,
        early: bytes::Bytes,
        peer: std::net::SocketAddr,
    ) -> Through {
        Through::new(link, early, peer, self.held())
    }

    fn held(&self) -> Held {
        Held(Arc::new(Holder { shared: Arc::clone(&self.shared), is_kept: AtomicBool::new(false) }))
    }

    /// What became of a dial that it wanted.
    pub(crate) fn dialled(&self, to: std::net::SocketAddr, is_up: bool) {
        let mut core = self.shared.core();
        core.circuit.handle_dialled(to, is_up, now());
        core.pump_aside();
    }

    /// A connection was not the one.
    pub(crate) fn connection_failed(&self) {
        let mut core = self.shared.core();
        core.circuit.handle_connection_failed(now());
        core.pump_aside();
    }

    /// This is kept: from now on it lives as long as that.
    pub(crate) fn keep(&mut self, kept: RelayKind) {
        self.is_kept = true;
        self.shared.core().keep(kept);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.is_kept {
            self.shared.core().end(true);
        }
    }
}

impl Ear {
    /// The peer has said this, and is there. Whether anybody lives there.
    pub(crate) fn hear(&self, notice: &Notice, sender: &PeerAddr, addresses: &[IpAddr]) -> bool {
        match self.0.upgrade() {
            Some(shared) => {
                hear(&shared, notice, sender, addresses);
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

fn hear(shared: &Shared, notice: &Notice, sender: &PeerAddr, addresses: &[IpAddr]) {
    let mut core = shared.core();
    core.outlet().follow(sender);
    core.circuit.handle_notice(notice, addresses, now());
    core.pump_aside();
    core.wake_driver();
}

impl Held {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.shared.core()
    }

    /// The stream is the one that is kept: whoever else let go, it goes on; when this is dropped it ends.
    fn rest(&self) {
        self.0.is_kept.store(true, Ordering::Relaxed);
        self.core().rest();
    }

    fn is_kept(&self) -> bool {
        self.0.is_kept.load(Ordering::Relaxed)
    }

    /// Onto the current runtime, if it is at rest.
    fn wake(&self) -> std::io::Result<()> {
        if self.core().wake()? {
            self.0.shared.spawn();
        }
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if *self.is_kept.get_mut() {
            self.shared.core().end(false);
        }
    }
}
