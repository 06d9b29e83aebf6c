//! What a node knows of the networks it is in, how it knows it, and what that means for connecting: what `p2p nat`
//! prints.
//!
//! All durations are milliseconds, as numbers. Keys and words are stable: new ones may be added, none changes its
//! meaning. What is not known is left out; it is never "no".
//!
//! | key | meaning |
//! |---|---|
//! | `state` | `known`, `offline` (servers were asked and none answered), `no_server` (none is configured), `probing` |
//! | `servers_configured[]` | the STUN servers, as they were named |
//! | `networks[]` | one for each address of each interface |
//! | `….interface`, `.family`, `.local`, `.listen` | the interface, `ipv4` or `ipv6`, its address and the TCP port listened on |
//! | `….mapped` | what that port looks like from outside |
//! | `….probed_from` | the address the probe used: this one, or another of the same interface and family |
//! | `….external` | the address seen from outside, as a verdict; `….pool[]` all that were seen (`ip`, `servers`) |
//! | `….tcp`, `….udp` | verdicts: `type`, `mapping`, `filtering`, `delta`, `counter`, `syn`, `hairpin`, `stable`, `range`, `block`, `rate` |
//! | `….servers[]` | who was asked: `server`, `name`, `transport`, `asked`, `answered`, `packets`, `fastest_ms`, `saw`, `believed`, `failure` |
//! | `….unresolved[]` | servers whose `name` has no address, and `why` |
//! | `….pending[]` | servers whose names are still being looked up |
//! | `….meets[]` | for each kind of `peer`: the best `way` (`none`, `direct`, `reverse`, `punch`, `relay`), `plan`, `syns`, `probability`, provided that `….tcp` is right |
//!
//! A verdict is `value`, `confidence` (0 … 1) and `how` (`measured`, `inferred`, `assumed`). Types: `open`,
//! `symmetric-firewall`, `full-cone`, `restricted`, `port-restricted`, `symmetric`, `blocked`. Mapping and filtering:
//! `endpoint-independent`, `address-dependent`, `address-and-port-dependent`. Deltas: `equal`, `preserving`,
//! `independent`, `dependent`, `random`, with a step. `syn`: `silence`, `reset`, `icmp`; it is known only where a
//! STUN server dials back, as that of `p2p rendezvous` does.

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

/// How much is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkState {
    /// Servers have answered.
    Known,
    /// Servers were asked, and none answered: offline, or everything is blocked.
    Offline,
    /// No server is configured: only local paths can work.
    NoServer,
    /// Servers are being asked.
    Probing,
}

/// The networks a node is in.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NetworkReport {
    /// How much is known.
    pub state: NetworkState,
    /// The STUN servers, as they were named.
    pub servers_configured: Vec<String>,
    /// One for each address of each interface.
    pub networks: Vec<Network>,
}

/// The network in front of one address.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Network {
    /// The interface.
    pub interface: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Its address.
    pub local: IpAddr,
    /// The TCP port listened on.
    pub listen: u16,
    /// What that port looks like from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped: Option<SocketAddr>,
    /// Servers whose names have no address.
    pub unresolved: Vec<UnresolvedServer>,
    /// Servers whose names are still being looked up; the others were not kept waiting for them.
    pub pending: Vec<String>,
    /// What a probe found out.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub probed: Option<ProbedNetwork>,
    /// The probe's report, for those who compute with it.
    #[serde(skip)]
    pub report: Option<Arc<NatReport>>,
}

/// What a probe found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProbedNetwork {
    /// The address it was probed from: this one, or another of the same interface and family.
    pub probed_from: IpAddr,
    /// The address seen from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<Verdict<IpAddr>>,
    /// All addresses seen from outside: more than one behind a pool.
    pub pool: Vec<Pooled>,
    /// Over TCP.
    pub tcp: TransportVerdicts,
    /// Over UDP.
    pub udp: TransportVerdicts,
    /// Who was asked, and what became of it.
    pub servers: Vec<ServerStory>,
    /// What it means for connecting.
    pub meets: Vec<MeetingStory>,
}

/// A value, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verdict<T> {
    /// The value.
    pub value: T,
    /// How probably it is right, 0 … 1.
    pub confidence: f64,
    /// `measured`, `inferred` from something else that was, or `assumed`.
    pub how: &'static str,
}

/// An external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pooled {
    /// The address.
    pub ip: IpAddr,
    /// How many servers saw it.
    pub servers: usize,
}

/// How a mapped port follows from the ones before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeltaStory {
    /// `equal`, `preserving`, `independent`, `dependent` or `random`.
    pub kind: String,
    /// The step, in ports; 0 where the kind has none.
    pub step: i16,
}

/// Everything known of one transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TransportVerdicts {
    /// The type, in the words of RFC 3489.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub nat: Option<Verdict<String>>,
    /// Whether the mapping depends on the destination (RFC 4787, section 4.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Verdict<&'static str>>,
    /// Who may send in (RFC 4787, section 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering: Option<Verdict<&'static str>>,
    /// How mapped ports follow each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Verdict<DeltaStory>>,
    /// Whose counter a step counts: `shared` or `per-destination`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counter: Option<Verdict<&'static str>>,
    /// What an unsolicited SYN gets: `silence`, `reset` or `icmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn: Option<Verdict<&'static str>>,
    /// Whether a mapped address works from the inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<Verdict<bool>>,
    /// Whether a mapping stays what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<Verdict<bool>>,
    /// The ports given out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Verdict<PortRange>>,
    /// The block of ports this host was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<Verdict<PortRange>>,
    /// New mappings a second that others make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Verdict<f64>>,
}

/// One server over one transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerStory {
    /// Where it was asked.
    pub server: SocketAddr,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// Questions it was asked.
    pub asked: u32,
    /// Questions it answered.
    pub answered: u32,
    /// Packets sent to it.
    pub packets: u32,
    /// Its fastest answer; over TCP from the SYN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fastest_ms: Option<f64>,
    /// The first thing it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saw: Option<Saw>,
    /// Whether its word counts: others do not contradict it.
    pub believed: bool,
    /// Why it failed, the first time it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What a server saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Saw {
    /// A port of ours.
    pub local: SocketAddr,
    /// What it looked like.
    pub mapped: SocketAddr,
}

/// A server without an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnresolvedServer {
    /// As it was configured.
    pub name: String,
    /// What the resolver says.
    pub why: String,
}

/// What one kind of peer is to us.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MeetingStory {
    /// The kind of network the peer is in, silent towards strangers.
    pub peer: String,
    /// The best way: `direct`, `reverse`, `punch` or `relay`; `none` when nothing gets out of here.
    pub way: String,
    /// How to punch: `now`, `a_first` (we are a), `b_first`, `ladder`, `a_opens`, `b_opens`, `window`, `birthday`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<&'static str>,
    /// SYNs of both sides together.
    pub syns: u32,
    /// How probably that works if the network here is of the type that `tcp` says, how surely is told there; 0 for a relay, as a third party decides.
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

/// For people.
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
        // Those the probe itself was told of are in its report.
        let told = |name: &str| report.unresolved.iter().any(|server| server.name == name);
        for UnresolvedServer { name, why } in self.unresolved.iter().filter(|server| !told(&server.name)) {
            writeln!(f, "  No use: {name}: {why}.")?;
        }
        self.pending
            .iter()
            .try_for_each(|name| writeln!(f, "  Not waited for: {name}: its name is being looked up."))
    }
}
