//! The known properties of the networks that a node is in, with their origins and what they mean for connecting.
//! `p2p nat` prints them.
//!
//! All durations are milliseconds, as numbers. Keys and words are stable: new ones may be added, and none changes its
//! meaning. A property that is not known is left out; it is never "no".
//!
//! | key | meaning |
//! |---|---|
//! | `state` | `known`, `offline` (servers were asked and none answered), `no_server` (none is configured), `probing` |
//! | `servers_configured[]` | the STUN servers, as they were named |
//! | `networks[]` | one for each address of each interface |
//! | `….interface`, `.family` | the interface, and `ipv4` or `ipv6` |
//! | `….local`, `.listen` | the address of the interface, and the TCP port listened on |
//! | `….mapped` | the address of that port as seen from outside |
//! | `….probed_from` | the address the probe used: this one, or another of the same interface and family |
//! | `….external` | the address seen from outside, as a verdict; `….pool[]` all that were seen (`ip`, `servers`) |
//! | `….tcp`, `….udp` | the verdicts over a transport, listed below |
//! | `….servers[]` | the servers that were asked, with the keys listed below |
//! | `….unresolved[]` | servers whose `name` has no address, and `why` |
//! | `….pending[]` | servers whose names are still being looked up |
//! | `….meets[]` | for each kind of `peer`: the best way and its prospects, provided that `….tcp` is right |
//!
//! - Of a transport: `type`, `mapping`, `filtering`, `delta`, `counter`, `syn`, `hairpin`, `stable`, `range`,
//!   `block`, `rate`.
//! - Of a server: `server`, `name`, `transport`, `asked`, `answered`, `packets`, `fastest_ms`, `saw`, `believed`,
//!   `failure`.
//! - Of a meeting: `way` (`none`, `direct`, `reverse`, `punch`, `relay`), `plan`, `syns`, `probability`.
//!
//! A verdict is `value`, `confidence` (0 … 1) and `how` (`measured`, `inferred`, `assumed`). Its values are:
//!
//! - Type: `open`, `symmetric-firewall`, `full-cone`, `restricted`, `port-restricted`, `symmetric`, `blocked`.
//! - Mapping and filtering: `endpoint-independent`, `address-dependent`, `address-and-port-dependent`.
//! - Delta: `equal`, `preserving`, `independent`, `dependent`, `random`, with a step.
//! - `syn`: `silence`, `reset`, `icmp`. It is known only where a STUN server dials back, as that of `p2p rendezvous`
//!   does.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use p2p_core::Family;
use p2p_core::nat::classify::Verdicts;
use p2p_core::nat::delta::Scope;
use p2p_core::nat::meets::{Meeting, Plan, Side, Way};
use p2p_core::nat::report::{NatReport, ServerReport};
use p2p_core::nat::verdict::{How, Known};
use p2p_core::nat::{Filtering, Mapping, PortRange, SynAnswer};
use p2p_core::node::{NetworkView, PortOutcome, Status, StunServer};
use serde::Serialize;

use crate::report::ms;

/// The state of a node's knowledge of its networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkState {
    /// The servers have answered.
    Known,
    /// The servers were asked, and none answered: offline, or everything is blocked.
    Offline,
    /// No server is configured, so only local paths can work.
    NoServer,
    /// The servers are being asked.
    Probing,
}

/// The networks that a node is in.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NetworkReport {
    /// The state of the node's knowledge.
    pub state: NetworkState,
    /// The STUN servers, as they were named.
    pub servers_configured: Vec<String>,
    /// The networks, one for each address of each interface.
    pub networks: Vec<Network>,
}

/// The network in front of one address.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Network {
    /// The name of the interface.
    pub interface: String,
    /// The family of the address: `ipv4` or `ipv6`.
    pub family: &'static str,
    /// The address of the interface.
    pub local: IpAddr,
    /// The TCP port that is listened on.
    pub listen: u16,
    /// The address of that port as seen from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped: Option<SocketAddr>,
    /// The servers whose names have no address.
    pub unresolved: Vec<UnresolvedServer>,
    /// The servers whose names are still being looked up; the others were not kept waiting for them.
    pub pending: Vec<String>,
    /// The findings of a probe.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub probed: Option<ProbedNetwork>,
    /// The probe's report, for programs that compute with it.
    #[serde(skip)]
    pub report: Option<Arc<NatReport>>,
}

/// The findings of a probe.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProbedNetwork {
    /// The address it was probed from: this one, or another of the same interface and family.
    pub probed_from: IpAddr,
    /// The address that is seen from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<Verdict<IpAddr>>,
    /// All addresses that are seen from outside. Behind a pool there are several.
    pub pool: Vec<Pooled>,
    /// The verdicts over TCP.
    pub tcp: TransportVerdicts,
    /// The verdicts over UDP.
    pub udp: TransportVerdicts,
    /// The servers that were asked, and their answers.
    pub servers: Vec<ServerStory>,
    /// The consequences for connecting, by kind of peer.
    pub meets: Vec<MeetingStory>,
}

/// A value with its confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verdict<T> {
    /// The value itself.
    pub value: T,
    /// The probability that the value is right, 0 … 1.
    pub confidence: f64,
    /// The origin of the value: `measured`, `inferred` from something else that was, or `assumed`.
    pub how: &'static str,
}

/// One of our external addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pooled {
    /// The external address.
    pub ip: IpAddr,
    /// The number of servers that saw it.
    pub servers: usize,
}

/// The rule by which a mapped port follows from the ones before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeltaStory {
    /// The kind of the rule: `equal`, `preserving`, `independent`, `dependent` or `random`.
    pub kind: String,
    /// The step, in ports; 0 where the kind has none.
    pub step: i16,
}

/// The known properties over one transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TransportVerdicts {
    /// The type, in the words of RFC 3489.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub nat: Option<Verdict<String>>,
    /// The dependence of the mapping on the destination (RFC 4787, section 4.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Verdict<&'static str>>,
    /// The remote ends that may send in (RFC 4787, section 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering: Option<Verdict<&'static str>>,
    /// The rule by which mapped ports follow each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Verdict<DeltaStory>>,
    /// The scope of the counter that a step counts: `shared` or `per-destination`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counter: Option<Verdict<&'static str>>,
    /// The answer to an unsolicited SYN: `silence`, `reset` or `icmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn: Option<Verdict<&'static str>>,
    /// True when a mapped address works from the inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<Verdict<bool>>,
    /// True when a mapping stays the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<Verdict<bool>>,
    /// The range of ports that are given out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Verdict<PortRange>>,
    /// The block of ports this host was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<Verdict<PortRange>>,
    /// The new mappings a second that others make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Verdict<f64>>,
}

/// The answers of one server over one transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerStory {
    /// The address at which it was asked.
    pub server: SocketAddr,
    /// The transport: `udp` or `tcp`.
    pub transport: &'static str,
    /// The number of questions it was asked.
    pub asked: u32,
    /// The number of questions it answered.
    pub answered: u32,
    /// The number of packets sent to it.
    pub packets: u32,
    /// The time of its fastest answer, in milliseconds; over TCP from the SYN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fastest_ms: Option<f64>,
    /// The first answer it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saw: Option<Saw>,
    /// True when its answers count, because others do not contradict it.
    pub believed: bool,
    /// The reason why it failed, the first time it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The address that a server saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Saw {
    /// The local port of ours.
    pub local: SocketAddr,
    /// The address of that port as the server saw it.
    pub mapped: SocketAddr,
}

/// A server whose name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnresolvedServer {
    /// The name as it was configured.
    pub name: String,
    /// The reason that the resolver gives.
    pub why: String,
}

/// The prospect of meeting one kind of peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MeetingStory {
    /// The kind of network the peer is in, silent towards strangers.
    pub peer: String,
    /// The best way: `direct`, `reverse`, `punch` or `relay`; `none` when nothing gets out of here.
    pub way: String,
    /// The plan of a punch: `now`, `a_first` (we are a), `b_first`, `ladder`, `a_opens`, `b_opens`, `window`,
    /// `birthday`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<&'static str>,
    /// The number of SYNs of both sides together.
    pub syns: u32,
    /// The probability that it works if the network here is of the type that `tcp` says, where the confidence stands
    /// too. It is 0 for a relay, as a third party decides.
    pub probability: f64,
}

impl NetworkReport {
    pub(crate) fn new(status: &Status, configured: &[StunServer]) -> Self {
        let addresses =
            status.networks.iter().flat_map(|(nic, views)| views.iter().map(move |view| (nic, view)));
        let networks: Vec<Network> = addresses.map(|(nic, view)| Network::new(nic, view)).collect();
        let is_online = |network: &Network| {
            network.mapped.is_some() || network.report.as_ref().is_some_and(|report| report.is_online())
        };
        let state = if configured.is_empty() {
            NetworkState::NoServer
        } else if !status.surveyed {
            NetworkState::Probing
        } else if networks.iter().any(is_online) {
            NetworkState::Known
        } else {
            NetworkState::Offline
        };
        Self { state, servers_configured: configured.iter().map(StunServer::to_string).collect(), networks }
    }
}

impl Network {
    fn new(interface: &str, view: &NetworkView) -> Self {
        let report = view.probed.as_ref().map(|probed| Arc::clone(&probed.report));
        let unresolved = view.evidence.iter().filter_map(|evidence| match &evidence.outcome {
            PortOutcome::Unresolved(why) => {
                Some(UnresolvedServer { name: evidence.server.to_string(), why: why.clone() })
            }
            _ => None,
        });
        Self {
            interface: interface.to_owned(),
            family: match Family::of(view.local) {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            },
            local: view.local,
            listen: view.listen,
            mapped: view.external.map(|mapped| mapped.0),
            unresolved: unresolved.collect(),
            pending: view.pending.iter().map(ToString::to_string).collect(),
            probed: report.as_deref().map(ProbedNetwork::from),
            report,
        }
    }
}

impl From<&NatReport> for ProbedNetwork {
    fn from(report: &NatReport) -> Self {
        Self {
            probed_from: report.local,
            external: report.external.map(|known| verdict(known, |ip| ip)),
            pool: report.pool.iter().map(|(ip, servers)| Pooled { ip: *ip, servers: *servers }).collect(),
            tcp: TransportVerdicts::from(&report.tcp),
            udp: TransportVerdicts::from(&report.udp),
            servers: report.servers.iter().map(|server| ServerStory::new(report, server)).collect(),
            meets: report.meetings().into_iter().map(MeetingStory::from).collect(),
        }
    }
}

fn verdict<T, U>(known: Known<T>, value: impl FnOnce(T) -> U) -> Verdict<U> {
    let how = match known.how {
        How::Measured => "measured",
        How::Inferred => "inferred",
        How::Assumed => "assumed",
    };
    Verdict { value: value(known.value), confidence: (known.confidence * 1e3).round() / 1e3, how }
}

impl From<&Verdicts> for TransportVerdicts {
    fn from(verdicts: &Verdicts) -> Self {
        Self {
            nat: verdicts.nat.map(|known| verdict(known, |nat| nat.to_string())),
            mapping: verdicts.mapping.map(|known| {
                verdict(known, |mapping| match mapping {
                    Mapping::EndpointIndependent => "endpoint-independent",
                    Mapping::AddressDependent => "address-dependent",
                    Mapping::AddressAndPortDependent => "address-and-port-dependent",
                })
            }),
            filtering: verdicts.filtering.map(|known| {
                verdict(known, |filtering| match filtering {
                    Filtering::EndpointIndependent => "endpoint-independent",
                    Filtering::AddressDependent => "address-dependent",
                    Filtering::AddressAndPortDependent => "address-and-port-dependent",
                })
            }),
            delta: verdicts.delta.map(|known| {
                verdict(known, |delta| DeltaStory { kind: delta.kind.to_string(), step: delta.value })
            }),
            counter: verdicts.scope.map(|known| {
                verdict(known, |scope| match scope {
                    Scope::Shared => "shared",
                    Scope::PerDestination => "per-destination",
                })
            }),
            syn: verdicts.syn.map(|known| {
                verdict(known, |syn| match syn {
                    SynAnswer::Silence => "silence",
                    SynAnswer::Reset => "reset",
                    SynAnswer::Icmp => "icmp",
                })
            }),
            hairpin: verdicts.hairpin.map(|known| verdict(known, |works| works)),
            stable: verdicts.stable.map(|known| verdict(known, |is_stable| is_stable)),
            range: verdicts.range.map(|known| verdict(known, |range| range)),
            block: verdicts.block.map(|known| verdict(known, |block| block)),
            rate: verdicts.rate.map(|known| verdict(known, |rate| rate.per_second())),
        }
    }
}

impl ServerStory {
    fn new(report: &NatReport, server: &ServerReport) -> Self {
        let saw = report.said(server.server, server.transport);
        Self {
            server: server.server,
            transport: match server.transport {
                p2p_core::stun::Transport::Udp => "udp",
                p2p_core::stun::Transport::Tcp => "tcp",
            },
            asked: server.asked,
            answered: server.answered,
            packets: server.packets,
            fastest_ms: server.fastest.map(ms),
            saw: saw.map(|said| Saw { local: said.local.0, mapped: said.mapped.0 }),
            believed: server.answered > 0 && !server.is_liar,
            failure: server.failure.as_ref().map(ToString::to_string),
        }
    }
}

impl From<(String, Meeting)> for MeetingStory {
    fn from((peer, meeting): (String, Meeting)) -> Self {
        let is_punch = meeting.ways.first() == Some(&Way::Punch);
        Self {
            peer,
            way: meeting.ways.first().map_or_else(|| "none".to_owned(), ToString::to_string),
            plan: meeting.plan.filter(|_| is_punch).map(|plan| match plan {
                Plan::Now => "now",
                Plan::First(Side::A) => "a_first",
                Plan::First(Side::B) => "b_first",
                Plan::Ladder => "ladder",
                Plan::Open(Side::A) => "a_opens",
                Plan::Open(Side::B) => "b_opens",
                Plan::Window => "window",
                Plan::Birthday => "birthday",
            }),
            syns: meeting.syns,
            probability: meeting.probability,
        }
    }
}

/// Writes the report for people.
impl fmt::Display for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for network in &self.networks {
            writeln!(f, "{network}")?;
        }
        f.write_str(match self.state {
            NetworkState::Known => "",
            NetworkState::Offline => {
                "No STUN server answered: this machine is offline, or everything is blocked. Only local paths can work.\n"
            }
            NetworkState::NoServer => {
                "No STUN server is configured, so nothing is known of the network outside: only local paths can work.\n\
                 Name one with --stun HOST:PORT or in p2p.toml; two or more see more.\n"
            }
            NetworkState::Probing => "Servers are still being asked.\n",
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, local, listen, .. } = self;
        write!(f, "{interface}: {local} listens on TCP port {listen}")?;
        match self.mapped {
            Some(mapped) => writeln!(f, ", which is {mapped} from outside")?,
            None => writeln!(f)?,
        }
        let Some(report) = &self.report else { return Ok(()) };
        if report.local != *local {
            return writeln!(f, "  the same network as that of {}", report.local);
        }
        report.to_string().lines().try_for_each(|line| writeln!(f, "  {line}"))?;
        // Servers that the probe itself was told of are in its report.
        let told = |name: &str| report.unresolved.iter().any(|server| server.name == name);
        for UnresolvedServer { name, why } in self.unresolved.iter().filter(|server| !told(&server.name)) {
            writeln!(f, "  No use: {name}: {why}.")?;
        }
        self.pending
            .iter()
            .try_for_each(|name| writeln!(f, "  Not waited for: {name}: its name is being looked up."))
    }
}
