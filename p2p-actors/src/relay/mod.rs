//! Relayed connections: a [`Circuit`] of the core, its sockets, and the streams that come of it.
//!
//! One circuit is one task on whatever runtime its connection is used on. The attempt that began it, the stream that
//! came of it and the node, which brings the peer's offers, reach it through one lock, held for as long as a turn of the
//! machine takes. Who writes sends at once; the task receives, repeats, and keeps the servers willing.

mod core;
pub(crate) mod link;
mod offers;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use p2p_core::Seed;
use p2p_core::relay::circuit::RelayKind;
use p2p_core::relay::{Circuit, CircuitConfig, RelayOffer};
use tokio::sync::mpsc;

pub(crate) use core::Told;
pub(crate) use offers::{FromCircuit, OfferSender};
pub(crate) use stream::{Dialled, Leaving, Relayed, RestedDialled, RestedThrough, Through};

use self::core::Core;
use self::sockets::CircuitSockets;
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

/// What the node has of it: the peer's offers go there, for as long as it lives.
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
        ca_files: CaFiles,
        offers: OfferSender,
        seed: Seed,
    ) -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (told, telling) = mpsc::unbounded_channel();
        let circuit = Circuit::new(config, seed, now());
        let core = Core::new(circuit, CircuitSockets::new(ca_files), offers, told);
        let shared = Arc::new(Shared(Mutex::new(core)));
        shared.spawn();
        (Self { shared, is_kept: false }, telling)
    }

    /// For the node.
    pub(crate) fn ear(&self) -> Ear {
        Ear(Arc::downgrade(&self.shared))
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
    pub(crate) fn keep(&mut self, kind: RelayKind) {
        self.is_kept = true;
        self.shared.core().keep(kind);
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
    /// The peer has said this, and may come from these addresses.
    pub(crate) fn hear(&self, offer: &RelayOffer, addresses: &[IpAddr]) {
        if let Some(shared) = self.0.upgrade() {
            let mut core = shared.core();
            core.circuit.handle_offer(offer, addresses, now());
            core.pump_aside();
            core.wake_driver();
        }
    }
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
