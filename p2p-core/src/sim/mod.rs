//! The world in a box, and the laws every machine keeps (feature `sim`).
//!
//! Nothing here runs in a node. It is public so that embedders can hold their own machines to the same laws
//! and run whole networks in virtual time: one seed, one clock, no threads, no sockets.
//!
//! | part | what it is |
//! |---|---|
//! | [`world`] | hosts, routers and links on one virtual clock: build it, let it run, look into it |
//! | [`host`], [`tcp`], [`udp`] | what a program sees: interfaces, sockets, a kernel's times and errors |
//! | [`router`], [`nat`] | what stands in the way: NATs and firewalls with every knob, and presets by name |
//! | [`link`] | latency, jitter, loss, duplication, reordering, rate |
//! | [`broker`], [`stun`], [`turn`] | the third parties: one for signals, one that says how we look, one that relays |
//! | [`packet`], [`wire`] | packets as headers, and the same headers read from and written into raw bytes |
//! | [`node`], [`scene`] | a whole node on a host; worlds of them, random topologies, and the truth about those |
//! | [`pair`] | two ends of a relayed connection, and nothing but a link between them |
//! | [`prober`], [`scene`] | a NAT probe on a host, the helpers it may ask, and a world to do it in |
//! | [`dump`] | what happened, as text and as pcap |
//! | [`laws`] | what every [`Machine`](crate::Machine) must keep |
//!
//! [`Nat`](nat::Nat) and [`Link`](link::Link) know nothing of worlds: given headers and times, they do the
//! same for packets of real kernels.
//!
//! Left out so far: name servers; IP fragments; TCP options, window and congestion control.
//!
//! # Example
//!
//! Two peers behind NATs dial each other; the second starts late, but before the first SYN is there. The
//! SYNs cross, and make one connection.
//!
//! ```
//! use std::net::{IpAddr, SocketAddr};
//! use std::time::Duration;
//! use p2p_core::Seed;
//! use p2p_core::sim::nat::{NatConfig, Unsolicited};
//! use p2p_core::sim::router::RouterConfig;
//! use p2p_core::sim::tcp::{TcpOptions, TcpState};
//! use p2p_core::sim::world::World;
//!
//! let mut world = World::new(Seed::from_u64(7));
//! world.set_recording(1_000);
//! let homes = [("192.168.1.2", "198.51.100.1"), ("192.168.2.2", "203.0.113.1")];
//! let mut hosts = Vec::new();
//! for (inside, outside) in homes {
//!     let nat = NatConfig::home(outside.parse()?).with_unsolicited(Unsolicited::Reset);
//!     let router = RouterConfig::new("router").with_v4(nat);
//!     let router = world.add_router(router, world.internet(), Duration::from_millis(25))?;
//!     let host = world.add_host("host");
//!     world.attach(host, router, &[inside.parse()?], Duration::from_millis(1))?;
//!     hosts.push(host);
//! }
//!
//! let mut sockets = Vec::new();
//! for me in [0, 1] {
//!     let local = SocketAddr::new(homes[me].0.parse::<IpAddr>()?, 5_000);
//!     let remote = SocketAddr::new(homes[1 - me].1.parse::<IpAddr>()?, 5_000);
//!     sockets.push(world.with(hosts[me], |context| {
//!         context.host.tcp_dial(Some(local), TcpOptions::shared(), remote, context.now)
//!     })?);
//!     world.run_for(Duration::from_millis(20));
//! }
//! world.run_for(Duration::from_millis(120));
//!
//! for me in [0, 1] {
//!     assert_eq!(world.host(hosts[me]).tcp().state(sockets[me]), TcpState::Established);
//! }
//! assert!(!world.story().to_string().contains("drops"));
//! let mut pcap = Vec::new();
//! world.write_pcap(world.internet(), &mut pcap)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod broker;
pub mod dump;
mod error;
pub mod host;
mod ids;
pub mod laws;
pub mod link;
pub mod meeting;
pub mod nat;
pub mod node;
pub mod ntp;
pub mod packet;
pub mod pair;
pub mod prober;
pub mod probing;
pub mod puncher;
pub mod router;
pub mod scene;
pub mod span;
pub mod stun;
pub mod subjects;
pub mod tcp;
pub mod turn;
pub mod udp;
pub mod wire;
pub mod world;

use std::sync::OnceLock;
use std::time::Instant;

/// The moment at which virtual time starts: the same for every caller in this process.
///
/// [`Instant`] cannot be made from a number, so one real instant is read, once. Only differences to it are
/// ever shown, so runs stay reproducible.
pub fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "there is no other way to make an Instant")]
    *EPOCH.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests;
