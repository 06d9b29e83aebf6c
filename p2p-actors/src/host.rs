//! The place where the actors live: a thread of their own, or the event loop of somebody who has one.

use std::io;
use std::sync::{Arc, Mutex};

use actix::Actor;
use p2p_core::Seed;
use p2p_core::node::{Counters, Node, NodeConfig};
use p2p_core::proof::Cipher;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::descriptors::within;
use crate::drive::{now, system_clock};
use crate::error::StartError;
use crate::handle::Handle;
use crate::interface::NicSource;
use crate::node::{NodeActor, NodeEnds};
use crate::signal::MemoryBroker;

/// Starts the actors on a thread of their own and returns when they run; [`Handle::status`] tells when they
/// listen. `memory` is the in-process broker that `memory:` URLs stand for.
///
/// # Errors
/// [`StartError`] when the configuration cannot be, or does not fit this machine.
pub async fn spawn(config: NodeConfig, memory: Option<MemoryBroker>) -> Result<Handle, StartError> {
    let (started, starting) = oneshot::channel();
    std::thread::Builder::new().name("p2p-actors".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(StartError::System(error)))),
        };
        let actors = LocalSet::new();
        actors.block_on(&runtime, async {
            match start(config, memory) {
                Ok((handle, ended)) => {
                    if started.send(Ok(handle)).is_ok() {
                        // An error means that the node is gone, which is what we wait for.
                        let _ = ended.await;
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        // This ends every actor, task and socket that is left. A name look-up that hangs is left behind.
        drop(actors);
        runtime.shutdown_background();
    })?;
    starting.await.unwrap_or(Err(StartError::Closed))
}

/// Starts the actors on the current [`LocalSet`], or on the arbiter of a running actix `System`. They end when
/// the last handle is dropped.
///
/// # Errors
/// As [`spawn`].
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn spawn_local(config: NodeConfig, memory: Option<MemoryBroker>) -> Result<Handle, StartError> {
    start(config, memory).map(|(handle, _)| handle)
}

fn start(
    mut config: NodeConfig,
    memory: Option<MemoryBroker>,
) -> Result<(Handle, oneshot::Receiver<()>), StartError> {
    config.has_memory_broker = memory.is_some();
    config.cipher = fast_cipher();
    // Linux says who sent an ICMP error, by IP_RECVERR.
    config.can_see_hops = cfg!(target_os = "linux");
    config.limits = within(config.limits);
    let mut nics = NicSource::default();
    let mut seed = entropy(|bytes| getrandom::fill(bytes).map_err(io::Error::other))?;
    let node = Node::new(config, &nics.nics()?, system_clock(), seed.fork("node"), now())?;
    let (commands, receiver) = mpsc::channel(COMMANDS);
    // The node bounds it: see `Limits::backlog`.
    let (sender, incoming) = mpsc::unbounded_channel();
    let (status, watcher) = watch::channel(node.status().clone());
    let counters = Arc::new(Mutex::new(Counters::default()));
    let (ended, end) = oneshot::channel();
    let ends =
        NodeEnds { commands: receiver, incoming: sender, status, counters: Arc::clone(&counters), ended };
    NodeActor::new(node, memory, seed, nics, ends).start();
    Ok((Handle::new(commands, incoming, watcher, counters), end))
}

/// Draws once from a source; everything else is forked from that. A node without it does not start, as it could keep no
/// secret.
fn entropy(source: impl FnOnce(&mut [u8]) -> io::Result<()>) -> Result<Seed, StartError> {
    let mut entropy = [0; 32];
    source(&mut entropy).map_err(StartError::Entropy)?;
    Ok(Seed::new(entropy))
}

/// The cipher this processor has instructions for.
fn fast_cipher() -> Cipher {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let aes = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let aes = false;
    if aes { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
}

/// Commands waiting for the node. Callers wait when there are more.
const COMMANDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_whose_system_has_no_randomness_does_not_start() {
        let dry = |_: &mut [u8]| Err(io::Error::other("the pool is empty"));
        let error = entropy(dry).map(drop).unwrap_err();
        assert!(matches!(error, StartError::Entropy(_)), "{error:?}");
        assert_eq!(error.to_string(), "the operating system gives no random bytes");
        assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "the pool is empty");
    }
}
