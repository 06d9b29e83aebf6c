//! # natlab: NATs in front of real kernels
//!
//! A lab is made of hosts, each a network namespace in which unmodified programs run. Their packets go
//! through the simulator's own NATs and links ([`p2p_core::sim`]), in real time. There is no way out: a lab
//! never touches the machine's interfaces, routes or firewall.
//!
//! ```no_run
//! use std::net::{TcpListener, TcpStream};
//! use natlab::{Lab, Scenario};
//!
//! let scenario = Scenario::short("homes:port-restricted/equal+symmetric/random?rtt=40ms")?;
//! let lab = Lab::new(&scenario)?;
//! let server = lab.host("s")?;
//! let listener = server.enter(|| TcpListener::bind("0.0.0.0:7"))??;
//! let to = (server.address(), 7);
//! lab.host("a")?.enter(|| TcpStream::connect(to))??;
//! let (_, seen) = listener.accept()?;
//! println!("a looks like {seen}; {}", lab.report()?.lateness);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The README tells how to write scenarios, and its examples are tests.
//!
//! Timings are as good as [`Report::lateness`] says. Results that were measured while the lab was late must be thrown
//! away.

mod assembly;
mod cidr;
pub mod crossing;
mod error;
mod event;
mod fabric;
pub mod figures;
mod host;
mod interface;
mod kernel_router;
mod lab;
mod namespace;
mod netlink;
mod pcap;
mod privilege;
pub mod punching;
pub mod race_tcp;
mod registry;
pub mod scenario;
pub mod survey;
mod tun;

pub use error::LabError;
pub use event::{Event, Timed};
pub use fabric::{Lateness, Report};
pub use host::Host;
pub use lab::{Lab, LabOptions};
pub use privilege::{check, enter_user_namespace};
pub use registry::{Cleaned, HostRecord, LabRecord, clean, running};
pub use scenario::{Scenario, ScenarioError};

/// Compiles the README's code against this crate.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
