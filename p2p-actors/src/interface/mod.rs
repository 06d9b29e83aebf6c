//! One actor per network interface: it listens on every address of it, and learns from STUN servers what those
//! addresses are seen as from outside and what the network in front of them is.
//!
//! [`watch()`] tells which interfaces there are; [`start`] makes an actor of one of them; what it learns comes to the
//! owner as [`FromInterface`]. First the listeners stand, then servers are asked: a dead server or resolver delays
//! nothing. Two things are asked at once, for each address family: what the port listened on looks like, over
//! connections that are held so that the mapping lasts; and, from other ports, what kind of network this is
//! ([`p2p_core::nat::probe`]), when the interface starts, when it changes and when it is told to.

mod actor;
pub(crate) mod bind;
mod enumerate;
mod facts;
mod hop;
mod links;
pub(crate) mod listen;
#[cfg(target_os = "linux")]
mod netlink;
mod observe;
mod probe;
mod resolve;
pub mod watch;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Message, Recipient};
use p2p_core::{Family, Seed};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use actor::Interface;
pub use enumerate::{Nic, NicAddress, nics};
pub use facts::{Evidence, InterfaceFacts, Outcome, Probed, StunServer};
pub use observe::{Observation, Observed, Unobserved, observe};
pub use probe::MOST_PACKETS;
pub(crate) use resolve::resolve;
pub use watch::{NicChange, Watch, watch};

/// How often servers are asked again: well within the 4 min after which a NAT may forget a closed TCP mapping, and
/// the 5 min it should keep a UDP one (RFC 5382 REQ-5, RFC 4787 REQ-5).
pub const REFRESH: Duration = Duration::from_secs(180);

/// What an interface actor needs to know.
#[derive(Clone, Debug)]
pub struct InterfaceConfig {
    /// The interface.
    pub nic: Nic,
    /// The owner's number for it, in every [`FromInterface`].
    pub nic_number: u8,
    /// Families to use. None is none.
    pub families: Vec<Family>,
    /// The TCP port to listen on; 0 takes a free one, the same on all addresses if there is one.
    pub listen_port: u16,
    /// The port it was listened on before, which is taken again if it is free and [`listen_port`](Self::listen_port) is 0.
    /// Who knows our address finds us there. 0: none.
    pub last_port: u16,
    /// Servers to ask.
    pub stun: Vec<StunServer>,
    /// Seats for connections that came in, shared by all interfaces of a node. One is taken by each
    /// [`FromInterface::Inbound`] and given back when its `seat` is dropped.
    pub seats: Arc<Semaphore>,
    /// How often to ask the servers again what the port listened on looks like. Default of a node: [`REFRESH`].
    pub refresh: Duration,
    /// Chance, for transaction ids.
    pub seed: Seed,
}

/// What an interface tells its owner.
#[derive(Debug)]
pub enum FromInterface {
    /// It listens, on one address at least. Comes once, before everything but [`FromInterface::Failed`].
    Ready {
        /// [`InterfaceConfig::nic_number`].
        nic_number: u8,
    },
    /// What is known of its addresses is now this.
    Changed {
        /// [`InterfaceConfig::nic_number`].
        nic_number: u8,
        /// Every address that is listened on.
        addresses: Vec<InterfaceFacts>,
    },
    /// Somebody connected.
    Inbound {
        /// [`InterfaceConfig::nic_number`].
        nic_number: u8,
        /// The connection. It belongs to the runtime of the actors.
        stream: TcpStream,
        /// Its address here.
        local: SocketAddr,
        /// Its address there.
        remote: SocketAddr,
        /// Its seat: drop it when the connection is proven, or gone.
        seat: OwnedSemaphorePermit,
    },
    /// One address cannot be listened on: the port is in use, or the address has just gone. The others go on.
    Failed {
        /// [`InterfaceConfig::nic_number`].
        nic_number: u8,
        /// What was to be listened on.
        local: SocketAddr,
        /// Why not.
        error: io::Error,
    },
}

impl Message for FromInterface {
    type Result = ();
}

/// Starts the actor of one interface on the current `LocalSet`.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn start(config: InterfaceConfig, owner: Recipient<FromInterface>) -> InterfaceHandle {
    let nic_number = config.nic_number;
    InterfaceHandle { nic_number, actor: Interface::new(config, owner).start() }
}

/// A handle to an interface. Dropping it closes its listeners and its STUN connections.
#[derive(Debug)]
pub struct InterfaceHandle {
    nic_number: u8,
    actor: Addr<Interface>,
}

impl InterfaceHandle {
    /// [`InterfaceConfig::nic_number`].
    pub fn nic_number(&self) -> u8 {
        self.nic_number
    }

    /// The interface has changed: listens on new addresses, leaves those that are gone, asks the servers again.
    pub fn update(&self, nic: Nic) {
        self.actor.do_send(actor::Update(nic));
    }

    /// Asks the servers again, and probes the network again, now.
    pub fn refresh(&self) {
        self.actor.do_send(actor::Refresh);
    }
}

impl Drop for InterfaceHandle {
    fn drop(&mut self) {
        self.actor.do_send(actor::Close);
    }
}
