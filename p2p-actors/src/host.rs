//! Where the actors live: a thread of their own, or the event loop of somebody who has one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use actix::Actor;
use p2p_core::Seed;
use p2p_core::candidate::HostView;
use p2p_core::clock::ntp::{MOST_SERVERS, TooManyServers};
use p2p_core::proof::Cipher;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::config::{ActorsConfig, Interfaces};
use crate::counters::Tallies;
use crate::error::StartError;
use crate::handle::{Handle, Status};
use crate::interface::{Nic, nics};
use crate::purse::Purse;
use crate::root::{Ends, Root};
use crate::shared::{Shared, system_clock};
use crate::signal::BrokerState;

/// Connections to punched ports that are not proven yet.
const PUNCHED: usize = 128;
/// Commands waiting for the root. Callers wait when there are more.
const COMMANDS: usize = 64;

/// Starts the actors on a thread of their own and returns when they run; [`Handle::status`] tells when they
/// listen.
///
/// # Errors
/// [`StartError`] when the configuration does not fit this machine.
pub async fn spawn(config: ActorsConfig) -> Result<Handle, StartError> {
    let (started, start) = oneshot::channel();
    std::thread::Builder::new().name("p2p-actors".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(StartError::System(error)))),
        };
        let actors = LocalSet::new();
        actors.block_on(&runtime, async {
            match start_root(config) {
                Ok((handle, ended)) => {
                    if started.send(Ok(handle)).is_ok() {
                        // An error means the root is gone, which is what we wait for.
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
    start.await.unwrap_or(Err(StartError::Closed))
}

/// Starts the actors on the current [`LocalSet`], or on the arbiter of a running actix `System`. They end when
/// the last handle is dropped.
///
/// # Errors
/// As [`spawn`].
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn spawn_local(config: ActorsConfig) -> Result<Handle, StartError> {
    start_root(config).map(|(handle, _)| handle)
}

fn start_root(config: ActorsConfig) -> Result<(Handle, oneshot::Receiver<()>), StartError> {
    if config.ntp.len() > MOST_SERVERS {
        return Err(TooManyServers(config.ntp.len()).into());
    }
    let nics = choose(&config, nics())?;
    let tallies = Arc::new(Tallies::default());
    let shared = Rc::new(Shared {
        identity: config.identity.clone(),
        clock: Cell::new(system_clock()),
        ntp: Cell::new(None),
        seed: RefCell::new(entropy()?),
        listens: Cell::new(false),
        place: RefCell::new(HostView { addresses: Vec::new(), machine_id: config.machine_id.clone() }),
        outlooks: RefCell::default(),
        called: RefCell::default(),
        punch: config.punch,
        purse: Purse::new(config.punch),
        punched: Arc::new(Semaphore::new(PUNCHED)),
        plain: config.plain,
        cipher: fast_cipher(),
        proof_within: config.proof_within,
        dials_for_peers: Arc::new(Semaphore::new(config.limits.dials_for_peers)),
        relays: Arc::new(Semaphore::new(config.limits.relays)),
        turn: config.turn.clone().into(),
        relay_connections: config.relay_connections,
        families: config.families.clone(),
        ears: RefCell::default(),
        closing: Cell::new(false),
        tallies: Arc::clone(&tallies),
    });
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (sender, incoming) = mpsc::channel(config.limits.backlog.max(1));
    // Who waits for a broker must know of all of them before the first has spoken.
    let brokers = config.brokers.iter().map(|broker| (broker.url.to_string(), BrokerState::Connecting));
    let (status, watcher) = watch::channel(Status { brokers: brokers.collect(), ..Status::default() });
    let (ended, end) = oneshot::channel();
    let ends = Ends { commands: receiver, incoming: sender, status, ended };
    Root::new(config, nics, shared, ends).start();
    Ok((Handle::new(commands, incoming, watcher, tallies), end))
}

/// The interfaces of this machine that the configuration wants.
fn choose(config: &ActorsConfig, all: Vec<Nic>) -> Result<Vec<Nic>, StartError> {
    match &config.interfaces {
        Interfaces::All => {
            let up: Vec<Nic> = all.into_iter().filter(|nic| nic.is_usable(&config.families)).collect();
            let (loopback, outside): (Vec<_>, Vec<_>) = up.into_iter().partition(|nic| nic.is_loopback);
            Ok(if outside.is_empty() { loopback } else { outside })
        }
        Interfaces::Only(names) => names
            .iter()
            .map(|name| {
                all.iter().find(|nic| nic.name == *name).cloned().ok_or_else(|| StartError::NoSuchInterface {
                    name: name.clone(),
                    known: all.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>().join(", "),
                })
            })
            .collect(),
    }
}

/// One draw from the operating system; everything else is forked from it.
fn entropy() -> Result<Seed, StartError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| StartError::System(std::io::Error::other(error)))?;
    Ok(Seed::new(bytes))
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
