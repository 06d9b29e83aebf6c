//! Real nodes that punch through the NATs of a lab, or meet at a relay beyond them. The rendezvous on the public
//! server has a broker, and a STUN server that dials back.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use p2p_core::Seed;
use p2p_core::nat::meets::{self, Way as Meets, meets};
use p2p_core::nat::{Delta, DeltaKind, NatFacts, NatType, SynAnswer};
use p2p_core::rate::Rate;
use p2p_core::stun::DEFAULT_PORT;
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig, RendezvousError};
use p2p_node::{
    BindError, BrokerConfig, Config, ConnectOptions, Family, Identity, Interfaces, Key, Node, PeerAddr,
    PeerId, Pipe, StunServer, TurnServer, Way,
};
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::LabError;
use crate::lab::Lab;
use crate::scenario::{Scenario, ScenarioError};

/// The name of the host with the rendezvous.
const SERVER: &str = "s";
/// The other port of the STUN server.
const OTHER_PORT: u16 = DEFAULT_PORT + 1;
/// The most time for a node to start and to learn its network, on a busy machine.
const READY: Duration = Duration::from_secs(20);
/// The most time for one attempt.
const WITHIN: Duration = Duration::from_secs(20);
/// The most time for a connection to carry a word there and back.
const ECHO: Duration = Duration::from_secs(5);

/// The place where one of the two nodes runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name of the host in the scenario.
    pub host: &'a str,
    /// The one interface that the node uses; all when `None`.
    pub interface: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// Returns the place of a node that uses all interfaces of a host.
    pub fn host(host: &'a str) -> Self {
        Self { host, interface: None }
    }
}

/// The outcome of one attempt.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The time from the call to the proven pipe, in milliseconds; `None` when there was none.
    pub took_ms: Option<f64>,
    /// The ends of the pipe as the caller sees them.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The story of the caller's punches, or the reason why there is no connection.
    pub story: String,
}

/// A reason why an attempt could not be made.
#[derive(Debug, Error)]
pub enum PunchingError {
    /// The scenario is impossible.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The lab does not work.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A node does not start.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The rendezvous does not start.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// A program failed.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// A node or the rendezvous ended too early, or never began.
    #[error("{0} does not run")]
    Gone(&'static str),
}

/// Lets the node at the first place call the one at the second `trials` times, by punching alone. Each has learned
/// its network before, and allows calls of the other.
///
/// # Errors
/// [`PunchingError`] when an attempt cannot be made. An attempt that fails is a [`Trial`].
pub fn punch(lab: &Lab, places: [Place<'_>; 2], trials: u32) -> Result<Vec<Trial>, PunchingError> {
    attempts(lab, places, trials, Way::Punch, &[])
}

/// Does the same through relays alone, where both nodes may ask these TURN servers.
///
/// # Errors
/// As [`punch`].
pub fn relay(
    lab: &Lab,
    places: [Place<'_>; 2],
    trials: u32,
    turn: &[TurnServer],
) -> Result<Vec<Trial>, PunchingError> {
    attempts(lab, places, trials, Way::Relay, turn)
}

fn attempts(
    lab: &Lab,
    [caller, answerer]: [Place<'_>; 2],
    trials: u32,
    way: Way,
    turn: &[TurnServer],
) -> Result<Vec<Trial>, PunchingError> {
    let mut seed = Seed::from_u64(7);
    let identities = [(); 2].map(|()| Identity::generate(&mut seed));
    let ids = [identities[0].id(), identities[1].id()];
    let addresses = lab.host(SERVER)?.addresses().to_vec();
    let (server_tells, server_told) = mpsc::channel();
    let (end_server, server_ends) = oneshot::channel();
    let serving = lab.host(SERVER)?.spawn(move || serve(&addresses, &server_tells, server_ends))?;
    let Ok(servers) = server_told.recv_timeout(READY) else {
        return joined(serving, "the rendezvous").and(Err(PunchingError::Gone("the rendezvous")));
    };
    let config = |place: Place<'_>, identity: Identity, other: PeerId| {
        let mut config = Config::default();
        config.families = [Family::V4].into();
        config.key = Key::Given(identity);
        config.allowed = Some([other].into());
        // All hosts of a lab are one machine, and must not know it.
        config.machine_id = Some(place.host.as_bytes().to_vec());
        if let Some(name) = place.interface {
            config.interfaces = Interfaces::Only(vec![name.to_owned()]);
        }
        let url = format!("mqtt://{}", servers.broker).parse().expect("an address and a port");
        config.brokers = vec![BrokerConfig::new(url)];
        config.stun = servers.stun.iter().copied().map(StunServer::from).collect();
        config.turn = turn.to_vec();
        config
    };
    let [ours, theirs] = identities;
    let (ours, theirs) = (config(caller, ours, ids[1]), config(answerer, theirs, ids[0]));
    let (tells, told) = mpsc::channel();
    let (end, ends) = oneshot::channel();
    let answering = lab.host(answerer.host)?.spawn(move || answer(theirs, &tells, ends))?;
    let called = match told.recv_timeout(READY + READY) {
        Ok(address) => lab.host(caller.host)?.enter(|| call(ours, &address, trials, way))?,
        Err(_) => Err(PunchingError::Gone("the answering node")),
    };
    // An error means that it has ended already, and its result says why.
    let _ = end.send(());
    let answered = joined(answering, "the answering node");
    let _ = end_server.send(());
    let served = joined(serving, "the rendezvous");
    answered.and(served).and(called)
}

fn joined(thread: JoinHandle<Result<(), PunchingError>>, what: &'static str) -> Result<(), PunchingError> {
    thread.join().unwrap_or(Err(PunchingError::Gone(what)))
}

fn runtime() -> Result<tokio::runtime::Runtime, PunchingError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| PunchingError::System("starting a runtime", error))
}

/// The addresses on which the servers listen.
struct Servers {
    broker: SocketAddr,
    stun: Vec<SocketAddr>,
}

/// Runs the servers. The STUN server needs two addresses to tell everything (RFC 5780).
fn serve(
    addresses: &[IpAddr],
    tells: &mpsc::Sender<Servers>,
    ends: oneshot::Receiver<()>,
) -> Result<(), PunchingError> {
    let mut addresses = addresses.iter().copied().filter(IpAddr::is_ipv4);
    let first = addresses.next().ok_or(PunchingError::Gone("an IPv4 address of the server"))?;
    runtime()?.block_on(async {
        let mut config = RendezvousConfig::default();
        config.mqtt = vec![SocketAddr::new(first, 0)];
        // One call follows the other, for as long as it takes.
        config.broker.publishes = Rate { per_second: 1_000, burst: 1_000 };
        config.broker.source_publishes = config.broker.publishes;
        config.stun = vec![SocketAddr::new(first, DEFAULT_PORT)];
        config.stun_alternate =
            addresses.next().map(|ip| SocketAddr::new(ip, OTHER_PORT)).into_iter().collect();
        let stun = config.stun.iter().chain(&config.stun_alternate).copied().collect();
        let rendezvous = Rendezvous::start(config).await?;
        // An error means that nobody waits for the addresses.
        let _ = tells.send(Servers { broker: rendezvous.mqtt_addrs()[0], stun });
        let _ = ends.await;
        rendezvous.shutdown().await;
        Ok(())
    })
}

/// Returns a node that has learned its network.
async fn ready(config: Config) -> Result<Node, PunchingError> {
    let node = Node::bind(config).await?;
    let mut status = node.status();
    let known = status.wait_for(|status| status.surveyed && status.is_ready());
    match timeout(READY, known).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err(PunchingError::Gone("the probe of a network")),
    }
    Ok(node)
}

fn answer(
    config: Config,
    tells: &mpsc::Sender<PeerAddr>,
    mut ends: oneshot::Receiver<()>,
) -> Result<(), PunchingError> {
    runtime()?.block_on(async {
        let node = ready(config).await?;
        let address = node.addr().ok_or(PunchingError::Gone("the answering node"))?;
        let _ = tells.send(address);
        loop {
            tokio::select! {
                pipe = node.accept() => match pipe {
                    Some(pipe) => drop(tokio::spawn(echo(pipe))),
                    None => break,
                },
                _ = &mut ends => break,
            }
        }
        node.close().await;
        Ok(())
    })
}

async fn echo(mut pipe: Pipe) {
    let mut word = [0; 4];
    // The caller will notice when nothing comes back.
    if pipe.read_exact(&mut word).await.is_ok() {
        let _ = pipe.write_all(&word).await;
        let _ = pipe.shutdown().await;
    }
}

fn call(config: Config, address: &PeerAddr, trials: u32, way: Way) -> Result<Vec<Trial>, PunchingError> {
    runtime()?.block_on(async {
        let node = ready(config).await?;
        let mut all = Vec::new();
        for _ in 0..trials {
            all.push(attempt(&node, address, way).await);
        }
        node.close().await;
        Ok(all)
    })
}

async fn attempt(node: &Node, address: &PeerAddr, way: Way) -> Trial {
    let options = ConnectOptions::new().with_ways([way]).with_within(WITHIN);
    let began = Instant::now();
    let mut pipe = match node.connect_with(address, options).await {
        Ok(pipe) => pipe,
        Err(error) => {
            let story = error.report().map_or_else(|| error.to_string(), ToString::to_string);
            return Trial { took_ms: None, ends: None, story };
        }
    };
    let took = began.elapsed().as_secs_f64() * 1e3;
    let said = async {
        let mut word = [0; 4];
        pipe.write_all(b"word").await?;
        pipe.read_exact(&mut word).await?;
        io::Result::Ok(word)
    };
    let is_carried = matches!(timeout(ECHO, said).await, Ok(Ok(word)) if word == *b"word");
    let how = pipe.how();
    let punches = how.report.iter().flat_map(|report| &report.ways).flat_map(|way| &way.punches);
    let mut story = punches.map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if !is_carried {
        story += ", and nothing came through";
    }
    Trial { took_ms: is_carried.then_some(took), ends: Some((how.local, how.remote)), story }
}

/// One side of a sampled pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The type of the NAT.
    pub nat: NatType,
    /// The rule by which its ports follow each other.
    pub delta: DeltaKind,
    /// The answer of the NAT to strangers.
    pub syn: SynAnswer,
}

const ANSWERS: [(SynAnswer, &str); 3] =
    [(SynAnswer::Silence, "silence"), (SynAnswer::Reset, "rst"), (SynAnswer::Icmp, "icmp")];
/// The step in ports of presets that have one.
const STEP: i16 = 1;

impl Home {
    fn draw(seed: &mut Seed) -> Self {
        let pick = |seed: &mut Seed, count: usize| seed.below(count as u64) as usize;
        Self {
            nat: NatType::ALL[pick(seed, NatType::ALL.len())],
            delta: DeltaKind::ALL[pick(seed, DeltaKind::ALL.len())],
            syn: ANSWERS[pick(seed, ANSWERS.len())].0,
        }
    }

    fn facts(self) -> NatFacts {
        let value = if matches!(self.delta, DeltaKind::Equal | DeltaKind::Random) { 0 } else { STEP };
        let delta = Some(Delta { kind: self.delta, value });
        NatFacts { nat: Some(self.nat), delta, syn: Some(self.syn), ..NatFacts::default() }
    }

    fn preset(self) -> String {
        match self.nat {
            NatType::Open | NatType::SymmetricFirewall => self.nat.to_string(),
            nat => format!("{nat}/{}", self.delta),
        }
    }

    fn answer(self) -> &'static str {
        ANSWERS.iter().find(|(syn, _)| *syn == self.syn).map_or("silence", |(_, name)| name)
    }
}

/// Two homes that can meet by a punch, and the network between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The homes of the caller and the answerer.
    pub homes: [Home; 2],
    /// The round trip between them, in milliseconds: 40 … 200.
    pub rtt: u64,
    /// The packets that are lost, in percent.
    pub loss: u8,
}

impl Pair {
    /// Returns the pairs of a seed. They are drawn alike from all pairs of the 7 types by 5 deltas by 3 answers that
    /// can punch, as [`meets`](p2p_core::nat::meets::meets) says.
    pub fn sample(count: usize, loss: u8, seed: u64) -> Vec<Self> {
        let mut seed = Seed::from_u64(seed);
        let mut pairs = Vec::new();
        while pairs.len() < count {
            let homes = [Home::draw(&mut seed), Home::draw(&mut seed)];
            let pair = Self { homes, rtt: seed.within(40..201), loss };
            if pair.meeting().ways.contains(&Meets::Punch) {
                pairs.push(pair);
            }
        }
        pairs
    }

    /// Returns the forecast of [`meets`](p2p_core::nat::meets::meets) for the pair.
    pub fn meeting(&self) -> meets::Meeting {
        meets(&self.homes[0].facts(), &self.homes[1].facts())
    }

    /// Returns the scenario of the pair.
    ///
    /// # Errors
    /// None for pairs of a [`sample`](Self::sample).
    pub fn scenario(&self, seed: u64) -> Result<Scenario, ScenarioError> {
        let [a, b] = self.homes;
        let loss = f64::from(self.loss) / 100.0;
        Scenario::short(&format!(
            "homes:{}+{}?rtt={}ms&syn={},{}&loss={loss}&seed={seed}",
            a.preset(),
            b.preset(),
            self.rtt,
            a.answer(),
            b.answer()
        ))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.homes;
        write!(f, "{} ({}) + {} ({})", a.preset(), a.answer(), b.preset(), b.answer())
    }
}
