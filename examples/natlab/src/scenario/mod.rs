//! The plan of a lab: networks, the routers between them, and hosts.
//!
//! A [`Scenario`] is a checked plan. It comes from a TOML file or from a one-line form, which is a short way to write
//! such a file ([`FORMS`]). Anything impossible is refused here, before anything is made.

mod file;
mod nets;
mod preset;
mod resolve;
mod routers;
mod short;
mod syn;
#[cfg(test)]
mod tests;
mod world;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use p2p_core::sim::link::LinkConfig;
use p2p_core::sim::nat::NatConfig;
use thiserror::Error;

pub use crate::cidr::Cidr;
pub use short::FORMS;
pub use world::{SimulateError, Simulated};

/// A checked plan of a lab.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    pub(crate) seed: u64,
    pub(crate) nets: Vec<Net>,
    pub(crate) routers: Vec<Router>,
    pub(crate) hosts: Vec<Host>,
    source: String,
}

/// A network segment, whose members reach each other directly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Net {
    pub(crate) name: String,
    pub(crate) v4: Option<Cidr>,
    pub(crate) v6: Option<Cidr>,
}

/// The cable between a device and a network, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cable {
    /// The direction from the device to the network.
    pub(crate) up: LinkConfig,
    /// The direction from the network to the device.
    pub(crate) down: LinkConfig,
}

/// A host and its interfaces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) routing: Routing,
}

/// The rule by which a host with several interfaces chooses one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Routing {
    /// The interface follows from the source address of the packet. Without one it is the first interface.
    #[default]
    Source,
    /// The first interface is always used, as on a machine that nobody has configured for two.
    Metric,
}

/// An interface of a host: `eth0`, `eth1` …
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interface {
    pub(crate) net: usize,
    pub(crate) addresses: Vec<Cidr>,
    pub(crate) cable: Cable,
}

/// A router between an inner and an outer network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Router {
    pub(crate) name: String,
    pub(crate) inside: usize,
    pub(crate) outside: usize,
    /// The router's own addresses on the inner network, which hosts there use as their gateway.
    pub(crate) inner: Vec<Cidr>,
    /// The router's own addresses on the outer network. Its NAT maps to those of IPv4.
    pub(crate) outer: Vec<Cidr>,
    /// The cable on the outer side.
    pub(crate) cable: Cable,
    pub(crate) kind: RouterKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouterKind {
    /// A router of the simulator.
    Simulated {
        /// The NAT for IPv4; `None` forwards without translating or filtering.
        v4: Option<Box<NatConfig>>,
        /// The firewall for IPv6; `None` forwards everything.
        v6: Option<Box<NatConfig>>,
        /// True when it does not report that the time to live of a packet has run out.
        is_silent: bool,
    },
    /// Linux with nftables, in a namespace of its own.
    Kernel {
        /// True for `masquerade fully-random`, false for `masquerade`.
        is_fully_random: bool,
        /// The answer to unsolicited packets.
        refusal: Refusal,
        /// True when a miniupnpd runs on it.
        has_upnp: bool,
    },
}

/// The answer of a Linux router to unsolicited packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A firewall drops them.
    #[default]
    Silence,
    /// A firewall rejects SYNs with a RST.
    Reset,
    /// A firewall rejects SYNs with an ICMP error.
    Icmp,
    /// There is no firewall, so the router answers as any host does.
    Own,
}

/// An error: a scenario is impossible, which is its author's fault. Nothing has been made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScenarioError {
    /// A line of a file is wrong.
    #[error("{origin}, line {line}: {problem}")]
    Line {
        /// The file, or the name given for it.
        origin: String,
        /// The line, counted from 1.
        line: usize,
        /// The fault, and where possible what was meant.
        problem: String,
    },
    /// A one-line form is wrong.
    #[error("in the scenario `{form}`: {problem}")]
    Form {
        /// The form as it was given.
        form: String,
        /// The fault, and where possible what was meant.
        problem: String,
    },
    /// The file cannot be read.
    #[error("cannot read the scenario file {path}: {problem}")]
    File {
        /// The path of the file.
        path: String,
        /// The message of the system.
        problem: String,
    },
}

impl Scenario {
    /// Loads what a user gave. It is the path of a file if there is such a file or the name ends in `.toml`, and
    /// otherwise a one-line form.
    ///
    /// # Errors
    /// [`ScenarioError`], which tells the fault and its line.
    pub fn load(given: &str) -> Result<Self, ScenarioError> {
        if given.ends_with(".toml") || Path::new(given).is_file() {
            let text = fs::read_to_string(given).map_err(|error| ScenarioError::File {
                path: given.to_owned(),
                problem: error.to_string(),
            })?;
            return Self::parse(given, &text);
        }
        Self::short(given)
    }

    /// Reads a one-line form, such as `homes:port-restricted/equal+linux?rtt=40ms`.
    ///
    /// # Errors
    /// [`ScenarioError`], which tells the fault.
    pub fn short(form: &str) -> Result<Self, ScenarioError> {
        let wrong = |problem| ScenarioError::Form { form: form.to_owned(), problem };
        let text = short::expand(form).map_err(wrong)?;
        Self::parse(form, &text).map_err(|error| match error {
            ScenarioError::Line { problem, .. } => wrong(problem),
            other => other,
        })
    }

    /// Reads the text of a scenario file. Errors call it `origin`.
    ///
    /// # Errors
    /// [`ScenarioError`], which tells the fault and its line.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ScenarioError> {
        file::read(text).and_then(|file| resolve::resolve(file, text)).map_err(|fault| ScenarioError::Line {
            origin: origin.to_owned(),
            line: fault.line(text),
            problem: fault.problem,
        })
    }

    /// Returns the text this scenario was made from. Of a one-line form, it is the file it stands for.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns this scenario with another seed: the same networks, other dice.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns the names of the hosts, in alphabetical order.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.name.as_str())
    }

    /// Returns the addresses of a host, those of its first interface first; empty when there is no such host.
    pub fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.hosts
            .iter()
            .filter(|candidate| candidate.name == host)
            .flat_map(|host| &host.interfaces)
            .flat_map(|interface| &interface.addresses)
            .map(Cidr::ip)
            .collect()
    }

    /// Returns the external IPv4 addresses of a router; empty when there is no such router.
    pub fn external(&self, router: &str) -> Vec<Ipv4Addr> {
        self.routers
            .iter()
            .filter(|candidate| candidate.name == router)
            .flat_map(|router| &router.outer)
            .filter_map(|address| match address.ip() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            })
            .collect()
    }
}

impl Net {
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = Cidr> {
        self.v4.into_iter().chain(self.v6)
    }
}
