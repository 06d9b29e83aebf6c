//! A survey of a lab's NAT by the real probe of a real node, against coturn, and by the same probe in virtual time.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use p2p_core::Seed;
use p2p_core::nat::classify::Verdicts;
use p2p_core::nat::probe::{Probe, ProbeConfig};
use p2p_core::nat::report::NatReport;
use p2p_core::nat::{Delta, DeltaKind, Filtering, Mapping, NatType};
use p2p_core::node::MOST_PACKETS;
use p2p_core::sim::prober::Prober;
use p2p_core::sim::stun::StunServer;
use p2p_core::sim::tcp::SocketError;
use p2p_core::stun::query::TooManyServers;
use p2p_core::stun::{DEFAULT_PORT, Responder, Server, Transport};
use p2p_node::{BindError, Config, Family, Node};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::error::LabError;
use crate::lab::{Lab, LabOptions};
use crate::pcap;
use crate::scenario::{Scenario, ScenarioError, SimulateError};

/// The name of the host behind the NAT.
const HOST: &str = "a";
/// The name of the host with the servers.
const SERVER: &str = "s";
/// The most time for a program to start, and for a probe to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The other port of coturn, which has two addresses (RFC 5780).
const OTHER_PORT: u16 = DEFAULT_PORT + 1;

/// A NAT of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A NAT that translates.
    Translates {
        /// The dependence of the mapping on the destination.
        mapping: Mapping,
        /// The remote ends that may send in.
        filtering: Filtering,
        /// The rule by which ports follow each other.
        delta: DeltaKind,
    },
    /// Neither a NAT nor a firewall.
    Open,
    /// A firewall that does not translate.
    Firewall,
    /// A firewall that lets nothing pass.
    Blocked,
}

const MAPPINGS: [Mapping; 3] =
    [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];
const FILTERINGS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];

impl Kind {
    /// Returns all kinds: three mappings, three filterings and five deltas, and those that do not translate.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Open, Self::Firewall, Self::Blocked];
        for mapping in MAPPINGS {
            for filtering in FILTERINGS {
                all.extend(DeltaKind::ALL.map(|delta| Self::Translates { mapping, filtering, delta }));
            }
        }
        all
    }

    /// Returns the scenario: a home behind this NAT, and a server with two addresses `rtt` away (such as `40ms`).
    ///
    /// # Errors
    /// [`ScenarioError`] when `rtt` is not a duration.
    pub fn scenario(self, rtt: &str, seed: u64) -> Result<Scenario, ScenarioError> {
        let preset = match self {
            Self::Open => "open",
            Self::Firewall => "symmetric-firewall",
            Self::Blocked => "blocked",
            Self::Translates { .. } => "port-restricted/equal",
        };
        let short = Scenario::short(&format!("homes:{preset}+open?rtt={rtt}&seed={seed}"))?;
        let Self::Translates { mapping, filtering, delta } = self else { return Ok(short) };
        let ports = match delta {
            DeltaKind::Equal => "{ preserve = { or = \"random\" } }".to_owned(),
            DeltaKind::Preserving => format!("{{ offset = {{ by = {} }} }}", step(delta)),
            DeltaKind::Independent => format!("{{ step = {{ by = {}, scope = \"global\" }} }}", step(delta)),
            DeltaKind::Dependent => format!("{{ step-while-local-steps = {{ by = {} }} }}", step(delta)),
            DeltaKind::Random => "\"random\"".to_owned(),
        };
        let flow = format!(
            "{{ flow = {{ mapping = \"{mapping:?}\", filtering = \"{filtering:?}\", ports = {ports} }} }}"
        );
        let nat = format!("nat = {{ tcp = {flow}, udp = {flow} }}");
        let text = short.source().replacen(&format!("preset = \"{preset}\""), &nat, 1);
        Scenario::parse(&self.to_string(), &text)
    }

    /// Returns what a probe should find, over TCP and UDP alike.
    pub fn truth(self) -> Found {
        let none = Found::default();
        let untranslated = |nat| Found {
            nat: Some(nat),
            mapping: Some(Mapping::EndpointIndependent),
            delta: Some(Delta { kind: DeltaKind::Equal, value: 0 }),
            filtering: None,
        };
        match self {
            Self::Blocked => Found { nat: Some(NatType::Blocked), ..none },
            Self::Open => {
                Found { filtering: Some(Filtering::EndpointIndependent), ..untranslated(NatType::Open) }
            }
            Self::Firewall => Found {
                filtering: Some(Filtering::AddressAndPortDependent),
                ..untranslated(NatType::SymmetricFirewall)
            },
            Self::Translates { mapping, filtering, delta } => Found {
                nat: Some(match (mapping, filtering) {
                    (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => NatType::FullCone,
                    (Mapping::EndpointIndependent, Filtering::AddressDependent) => NatType::Restricted,
                    (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent) => {
                        NatType::PortRestricted
                    }
                    _ => NatType::Symmetric,
                }),
                mapping: Some(mapping),
                filtering: Some(filtering),
                delta: Some(Delta { kind: delta, value: step(delta) }),
            },
        }
    }
}

/// Returns the value that each delta is tried with.
fn step(delta: DeltaKind) -> i16 {
    match delta {
        DeltaKind::Equal | DeltaKind::Random => 0,
        DeltaKind::Preserving => 1_009,
        DeltaKind::Independent => 2,
        DeltaKind::Dependent => 1,
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Firewall => f.write_str("symmetric-firewall"),
            Self::Blocked => f.write_str("blocked"),
            Self::Translates { mapping, filtering, delta } => {
                let mapping = ["endpoint", "address", "address+port"][*mapping as usize];
                let filtering = ["endpoint", "address", "address+port"][*filtering as usize];
                write!(f, "map {mapping}, filter {filtering}, {delta}")
            }
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The findings of a probe over one transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The type of the NAT.
    pub nat: Option<NatType>,
    /// The mapping behaviour.
    pub mapping: Option<Mapping>,
    /// The filtering behaviour.
    pub filtering: Option<Filtering>,
    /// The rule by which ports follow each other.
    pub delta: Option<Delta>,
}

impl From<&Verdicts> for Found {
    fn from(verdicts: &Verdicts) -> Self {
        Self {
            nat: verdicts.nat.map(|known| known.value),
            mapping: verdicts.mapping.map(|known| known.value),
            filtering: verdicts.filtering.map(|known| known.value),
            delta: verdicts.delta.map(|known| known.value),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(nat) = self.nat else { return f.write_str("nothing") };
        write!(f, "{nat}")?;
        if let Some(mapping) = self.mapping {
            write!(f, ", map {}", ["endpoint", "address", "address+port"][mapping as usize])?;
        }
        if let Some(filtering) = self.filtering {
            write!(f, ", filter {}", ["endpoint", "address", "address+port"][filtering as usize])?;
        }
        self.delta.map_or(Ok(()), |delta| write!(f, ", {} {:+}", delta.kind, delta.value))
    }
}

/// The findings of a probe over both transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The findings over TCP.
    pub tcp: Found,
    /// The findings over UDP.
    pub udp: Found,
}

impl From<&NatReport> for Seen {
    fn from(report: &NatReport) -> Self {
        Self { tcp: Found::from(&report.tcp), udp: Found::from(&report.udp) }
    }
}

/// The report of a node, and the times after its start at which it learned things.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The report of the probe.
    pub report: Arc<NatReport>,
    /// The time at which the external address was known over UDP.
    pub udp_after: Option<Duration>,
    /// The time at which the outside address of the listening port was known, over TCP.
    pub tcp_after: Option<Duration>,
    /// The time at which everything was known.
    pub after: Duration,
    /// The packets that left the host for the server that got most, if they were captured.
    pub packets: Option<u32>,
}

/// A reason why a survey failed.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// The scenario is impossible.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The lab does not work.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A node does not start.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A program or a file failed.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// The scenario cannot be simulated.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// A simulated host refused a call.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There are more servers than a probe takes.
    #[error(transparent)]
    Servers(#[from] TooManyServers),
    /// The probe gave no report in time.
    #[error("the probe told nothing within {PATIENCE:?}")]
    Late,
}

/// A coturn in host `s`, on all its IPv4 addresses. It ends when this is dropped.
#[derive(Debug)]
pub struct Coturn {
    process: Child,
    /// The addresses of the server.
    pub servers: Vec<SocketAddr>,
}

impl Coturn {
    /// Starts coturn and waits until it listens.
    ///
    /// # Errors
    /// [`SurveyError`] when it is not installed, or does not start.
    pub fn start(lab: &Lab) -> Result<Self, SurveyError> {
        let host = lab.host(SERVER)?;
        let ips: Vec<IpAddr> = host.addresses().iter().copied().filter(IpAddr::is_ipv4).collect();
        let mut command = host.command("turnserver")?;
        command.args(["-n", "-z", "--no-cli", "--no-tls", "--no-dtls", "-l", "/dev/null"]);
        command.args(["--pidfile", "/dev/null"]).stdout(Stdio::null()).stderr(Stdio::null());
        for ip in &ips {
            command.args(["-L", &ip.to_string()]);
        }
        let process = command.spawn().map_err(|error| SurveyError::System("starting turnserver", error))?;
        let servers: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, DEFAULT_PORT)).collect();
        let coturn = Self { process, servers };
        let ports =
            ips.iter().flat_map(|ip| [DEFAULT_PORT, OTHER_PORT].map(|port| SocketAddr::new(*ip, port)));
        host.enter(|| ports.into_iter().try_for_each(wait_for))?
            .map_err(|error| SurveyError::System("waiting for turnserver", error))?;
        Ok(coturn)
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until a server listens at this address.
fn wait_for(server: SocketAddr) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&server, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Starts a node in host `a` that asks these servers, and waits until it knows its network.
///
/// # Errors
/// [`SurveyError`] when the node does not start, or learns nothing.
pub fn survey(lab: &Lab, servers: &[SocketAddr]) -> Result<Surveyed, SurveyError> {
    lab.host(HOST)?.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| SurveyError::System("starting a runtime", error))?;
        runtime.block_on(learn(servers))
    })?
}

async fn learn(servers: &[SocketAddr]) -> Result<Surveyed, SurveyError> {
    let mut config = Config::default();
    config.families = [Family::V4].into();
    config.ready_within = Duration::ZERO;
    config.stun = servers.iter().copied().map(p2p_node::StunServer::from).collect();
    let began = Instant::now();
    let node = Node::bind(config).await?;
    let (mut udp_after, mut tcp_after) = (None, None);
    let mut status = node.status();
    let known = status.wait_for(|status| {
        let mut facts = status.networks.iter().flat_map(|(_, facts)| facts);
        let (udp, tcp) = facts.by_ref().fold((false, false), |(udp, tcp), facts| {
            (udp || facts.external_udp.is_some(), tcp || facts.external.is_some())
        });
        udp_after = udp_after.or(udp.then(|| began.elapsed()));
        tcp_after = tcp_after.or(tcp.then(|| began.elapsed()));
        status.surveyed
    });
    let surveyed = matches!(tokio::time::timeout(PATIENCE, known).await, Ok(Ok(_)));
    let after = began.elapsed();
    let report = node.network().networks.into_iter().find_map(|network| network.report);
    node.close().await;
    let report = report.filter(|_| surveyed).ok_or(SurveyError::Late)?;
    Ok(Surveyed { report, udp_after, tcp_after, after, packets: None })
}

/// Makes a lab of this NAT with coturn in it, and lets a node survey it. `dead` more servers are named that do not
/// exist.
///
/// # Errors
/// [`SurveyError`] when a step fails.
pub fn survey_kind(kind: Kind, rtt: &str, seed: u64, dead: u8) -> Result<Surveyed, SurveyError> {
    let folder = tempfile::tempdir().map_err(|error| SurveyError::System("making a folder", error))?;
    let options = LabOptions { pcap: Some(folder.path().to_owned()), ..LabOptions::default() };
    let lab = Lab::with_options(&kind.scenario(rtt, seed)?, &options)?;
    let coturn = Coturn::start(&lab)?;
    let nobody = (0..dead).map(|number| SocketAddr::from(([45, 1, 1, 100 + number], DEFAULT_PORT)));
    let servers: Vec<SocketAddr> = coturn.servers.iter().copied().chain(nobody).collect();
    let mut surveyed = survey(&lab, &servers)?;
    let local = surveyed.report.local;
    drop((coturn, lab));
    let most = most_packets(folder.path(), local, &servers);
    surveyed.packets = Some(most.map_err(|error| SurveyError::System("reading a capture", error))?);
    Ok(surveyed)
}

/// Returns the number of packets from host `a` to the server that got most, by the host's capture.
fn most_packets(folder: &Path, local: IpAddr, servers: &[SocketAddr]) -> io::Result<u32> {
    let capture = std::fs::read(folder.join(format!("{HOST}-eth0.pcap")))?;
    let mut counts = vec![0_u32; servers.len()];
    for (from, to) in pcap::ends(&capture) {
        if let Some(index) = servers.iter().position(|server| from == local && to == server.ip()) {
            counts[index] += 1;
        }
    }
    Ok(counts.into_iter().max().unwrap_or(0))
}

/// Runs the same probe with the same servers in virtual time.
///
/// # Errors
/// [`SurveyError`] when the scenario cannot be simulated.
pub fn survey_simulated(scenario: &Scenario) -> Result<NatReport, SurveyError> {
    let mut lab = scenario.simulate()?;
    let missing = |name: &str| LabError::Unknown(format!("host `{name}`"));
    let server = *lab.hosts.get(SERVER).ok_or_else(|| missing(SERVER))?;
    let host = *lab.hosts.get(HOST).ok_or_else(|| missing(HOST))?;
    let v4 = |name| scenario.addresses(name).into_iter().filter(IpAddr::is_ipv4);
    let ips: Vec<IpAddr> = v4(SERVER).collect();
    let local = v4(HOST).next().ok_or_else(|| missing(HOST))?;
    let [first, second, ..] = ips[..] else { return Err(missing(SERVER).into()) };
    let responder = Responder::new(SocketAddr::new(first, DEFAULT_PORT));
    let responder = responder.with_alternate(SocketAddr::new(second, OTHER_PORT));
    let stun = lab.world.with(server, |context| StunServer::bind(context.host, responder))?;
    lab.world.run(server, stun);
    let mut config = ProbeConfig::new(local);
    config.most_packets = MOST_PACKETS;
    for ip in [first, second] {
        let address = SocketAddr::new(ip, DEFAULT_PORT);
        config
            .servers
            .extend([Transport::Udp, Transport::Tcp].map(|transport| Server { address, transport }));
    }
    let start = lab.world.now();
    let mut prober = Prober::new(Probe::new(config, Seed::from_u64(scenario.seed), start)?);
    lab.world.with(host, |context| prober.start(context));
    lab.world.run(host, prober);
    let report = |world: &p2p_core::sim::world::World| {
        world.program::<Prober>(host)?.report().map(|(_, report)| report.clone())
    };
    lab.world.run_until_done(start + PATIENCE, |world| report(world).is_some());
    report(&lab.world).ok_or(SurveyError::Late)
}
