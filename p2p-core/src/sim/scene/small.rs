//! A small world of whole nodes, and everything that can be done to it: for stories by chance and for the fuzzer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Scene, SceneCall, SceneNode, SceneSite, ServerKind};
use crate::Family;
use crate::attempt::{AttemptId, Role};
use crate::node::ConnectOptions;
use crate::sim::link::LinkConfig;
use crate::sim::nat::{Hairpin, NatConfig, PortChoice, StepScope, Unsolicited};
use crate::sim::node::Surroundings;
use crate::sim::tcp::TcpOptions;
use crate::sim::turn::TurnHost;
use crate::sim::world::{HostId, Wire};

/// Three nodes in three homes, two of which are below one carrier, a stranger, and one server of each kind but two for STUN.
///
/// Every operation is chosen by a byte, on a node chosen by another, as a third one says. After each of them the world must
/// be sound: see [`check`](Self::check).
#[derive(Debug)]
pub struct SmallWorld {
    scene: Scene,
    homes: [SceneSite; NODES],
    nodes: Vec<SceneNode>,
    /// How often each node was started: what an earlier process knew is gone.
    starts: [u32; NODES],
    stranger: HostId,
    calls: Vec<Ongoing>,
    /// Interfaces that each node has, and those that are pulled out.
    pulled: [Vec<usize>; NODES],
}

/// A call, and the process that makes it.
#[derive(Clone, Copy, Debug)]
struct Ongoing {
    call: SceneCall,
    caller: usize,
    start: u32,
    is_cancelled: bool,
}

impl SmallWorld {
    /// Makes the world that a byte chooses, with all nodes just started.
    pub fn new(kind: u8) -> Self {
        let mut scene = Scene::with_servers(kind.into());
        let (internet, leg) = (scene.internet(), Duration::from_millis(10));
        let carrier = NatConfig::carrier(vec![Scene::ANY], 512);
        let hairpin = if kind & 0x80 == 0 { Hairpin::ExternalSource } else { Hairpin::None };
        let carrier = NatConfig { hairpin, ..carrier };
        let carrier = scene.site(internet, super::SiteGate::carrier(carrier), leg);
        let homes = [0, 1, 2].map(|index| {
            let above = if index == 0 { internet } else { carrier };
            let gate = super::SiteGate::home(nat(kind >> (2 * index)));
            scene.site(above, gate.with_v6(NatConfig::linux_firewall()), leg)
        });
        let both = [Family::V4, Family::V6];
        let nodes = homes.map(|home| {
            let host = scene.host("node");
            scene.plug(host, home, &both[..if kind & 0x40 == 0 { 1 } else { 2 }]);
            scene.start(host, Surroundings::default(), |_| {}).expect("a configuration that can be")
        });
        let stranger = scene.host("stranger");
        scene
            .world
            .attach(stranger, scene.world.internet(), &[STRANGER.into()], leg)
            .expect("a free address");
        Self {
            scene,
            homes,
            nodes: nodes.to_vec(),
            starts: [0; NODES],
            stranger,
            calls: Vec::new(),
            pulled: Default::default(),
        }
    }

    /// Returns the scene, to look into.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Does one thing, and checks the world.
    ///
    /// # Panics
    /// When the world is not sound afterwards.
    pub fn step(&mut self, what: u8, who: u8, with: u8) {
        let index = usize::from(who) % NODES;
        let node = self.nodes[index];
        match what % 24 {
            0..4 => self.call(index, with),
            4..8 => self.pass(Duration::from_millis(u64::from(with) * 4)),
            8 => self.pass(Duration::from_millis(u64::from(with) * 100)),
            9 => self.cancel(index),
            10 => self.pull(index, with),
            11 => self.plug(index, with),
            12 => self.scene.with_broker(|broker, context| broker.restart(context)),
            13 => self.spoil_broker(index, with),
            14 => self.start_again(index),
            15 => self.scene.close(node),
            16 => self.shake_nat(index, with),
            17 => {
                let ahead = [0, 900_000, 3_600_000_000, -60_000_000][usize::from(with) % 4];
                self.scene.with(node, |runner, _| runner.set_clock(ahead));
            }
            18 => self.speak(index, with),
            19 => self.hang_up(index, with),
            20 => self.scene.with(node, |runner, context| {
                runner.with(context, |node, now| node.handle_network_changed(now));
            }),
            21 => self.restart_turn(),
            22 => self.change_weather(index, with),
            _ => self.visit(index, with),
        }
        self.check();
    }

    /// Lets two minutes pass in good weather, after which every call must be over; then closes all nodes, which must come to
    /// rest.
    ///
    /// # Panics
    /// When they do not, or the world is not sound.
    pub fn end(mut self) {
        self.pass(Duration::from_secs(120));
        for ongoing in &self.calls {
            let is_over = ongoing.is_cancelled
                || self.starts[ongoing.caller] != ongoing.start
                || self.scene.outcome(ongoing.call).is_some();
            assert!(is_over, "a call that has no end: {ongoing:?}");
        }
        for node in self.nodes.clone() {
            self.scene.close(node);
        }
        self.pass(Duration::from_secs(3));
        for node in &self.nodes {
            let runner = self.scene.runner(*node);
            assert!(runner.is_closed(), "a node that does not come to rest");
            // What is left are connections of the user's, and what carries them.
            assert!(runner.sockets() <= 4 * runner.pipes().len(), "{} sockets are left", runner.sockets());
        }
        self.check();
    }

    /// Checks that no third party was sent anything, that both ends of every attempt keep the same connection and only one,
    /// that nobody keeps what its caller does not, and that nothing grows without bound.
    ///
    /// # Panics
    /// When it is not so.
    pub fn check(&self) {
        assert_eq!(self.scene.third_parties(), [], "third parties were sent something");
        assert!(self.scene.world.queued() < MOST_QUEUED, "{} things wait", self.scene.world.queued());
        let mut kept: BTreeMap<AttemptId, Vec<(usize, usize)>> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let runner = self.scene.runner(*node);
            assert!(runner.sockets() < MOST_SOCKETS, "{} sockets", runner.sockets());
            for (pipe, known) in runner.pipes().iter().enumerate() {
                kept.entry(known.session.claim.attempt).or_default().push((index, pipe));
            }
        }
        for (attempt, ends) in kept {
            assert!(ends.len() <= 2, "attempt {attempt} is kept {} times", ends.len());
            let pipes: Vec<_> = ends
                .iter()
                .map(|(index, pipe)| &self.scene.runner(self.nodes[*index]).pipes()[*pipe])
                .collect();
            if let [one, two] = pipes[..] {
                assert!(one.is_other_end_of(two), "attempt {attempt}: different connections are kept");
            } else if let [(index, _)] = ends[..] {
                self.check_alone(attempt, index, pipes[0].info.role == Role::Caller);
            }
        }
    }

    /// The caller's word comes first: what only the called end keeps, the caller does, too, unless its process is gone.
    fn check_alone(&self, attempt: AttemptId, index: usize, is_caller: bool) {
        let Some(ongoing) = self.calls.iter().find(|ongoing| ongoing.call.attempt == attempt) else { return };
        let is_gone = self.starts[ongoing.caller] != ongoing.start;
        assert!(
            is_caller || is_gone || ongoing.caller == index,
            "attempt {attempt} is kept by the called end and not by its caller"
        );
    }

    fn pass(&mut self, span: Duration) {
        let until = self.scene.world.now() + span;
        for _ in 0..MOST_STEPS {
            match self.scene.world.next() {
                Some(at) if at <= until => drop(self.scene.world.step()),
                _ => return self.scene.world.run_until(until),
            }
        }
        panic!("{MOST_STEPS} things happen within {span:?}");
    }

    fn call(&mut self, caller: usize, with: u8) {
        let other = (caller + 1 + usize::from(with) % (NODES - 1)) % NODES;
        let address = self.scene.address(self.nodes[other]);
        let within = Duration::from_secs(1 + u64::from(with) / 8);
        let options = ConnectOptions { within, ..ConnectOptions::default() };
        // A node that is closed, or has enough to do, says so.
        if let Ok(call) = self.scene.connect_with(self.nodes[caller], address, options) {
            let start = self.starts[caller];
            self.calls.push(Ongoing { call, caller, start, is_cancelled: false });
        }
    }

    fn cancel(&mut self, caller: usize) {
        let start = self.starts[caller];
        let is_its = |ongoing: &&mut Ongoing| ongoing.caller == caller && ongoing.start == start;
        let Some(ongoing) = self.calls.iter_mut().rev().find(is_its) else { return };
        ongoing.is_cancelled = true;
        let SceneCall { node, attempt } = ongoing.call;
        self.scene.with(node, |runner, context| runner.with(context, |node, now| node.cancel(attempt, now)));
    }

    fn pull(&mut self, index: usize, with: u8) {
        let host = self.scene.host_of(self.nodes[index]);
        let count = self.scene.world.host(host).interface_count();
        let interface = usize::from(with) % count;
        if !self.pulled[index].contains(&interface) {
            self.pulled[index].push(interface);
            self.scene.unplug(self.nodes[index], interface, with & 0x80 == 0);
        }
    }

    /// Plugs an interface in again, or a new one into another home.
    fn plug(&mut self, index: usize, with: u8) {
        let (node, is_told) = (self.nodes[index], with & 0x80 == 0);
        if let Some(interface) = self.pulled[index].pop() {
            return self.scene.renumber(node, interface, &[Family::V4], is_told);
        }
        let host = self.scene.host_of(node);
        if self.scene.world.host(host).interface_count() < MOST_NICS {
            self.scene.plug(host, self.homes[usize::from(with) % NODES], &[Family::V4]);
            if is_told {
                self.scene.with(node, |runner, context| runner.tell_nics(context));
            }
        }
    }

    fn spoil_broker(&mut self, index: usize, with: u8) {
        let router = self.scene.router(self.homes[index]);
        let nat = self.scene.world.router(router).nat(Family::V4);
        let outside = nat.and_then(|nat| nat.config().external.first().copied());
        self.scene.with_broker(|broker, _| {
            let faults = broker.faults_mut();
            match (with % 4, outside) {
                (0, Some(outside)) => drop(faults.mute_to.insert(outside)),
                (1, Some(outside)) => drop(faults.deaf_to.insert(outside)),
                (2, _) => faults.refuses = true,
                _ => *faults = Default::default(),
            }
        });
    }

    fn start_again(&mut self, index: usize) {
        self.starts[index] += 1;
        let node = self.nodes[index];
        self.scene.launch(node, Surroundings::default(), |_| {}).expect("a configuration that can be");
    }

    fn shake_nat(&mut self, index: usize, with: u8) {
        let router = self.scene.router(self.homes[index]);
        match with % 2 {
            0 => self.scene.world.reboot(router),
            _ => self.scene.renumber_gate(self.homes[index]),
        }
    }

    fn speak(&mut self, index: usize, with: u8) {
        let node = self.nodes[index];
        let pipes = self.scene.runner(node).pipes().len();
        if pipes > 0 {
            let words = vec![with; 1 + usize::from(with)];
            self.scene.with(node, |runner, context| runner.say(usize::from(with) % pipes, &words, context));
        }
    }

    fn hang_up(&mut self, index: usize, with: u8) {
        let node = self.nodes[index];
        let pipes = self.scene.runner(node).pipes().len();
        if pipes > 0 {
            self.scene.with(node, |runner, context| runner.hang_up(usize::from(with) % pipes, context));
        }
    }

    fn restart_turn(&mut self) {
        let host = self.scene.servers(ServerKind::Turn)[0];
        self.scene.world.with_program::<TurnHost, _>(host, |server, context| server.restart(context));
    }

    fn change_weather(&mut self, index: usize, with: u8) {
        let host = self.scene.host_of(self.nodes[index]);
        let loss = f64::from(with % 16) / 100.0;
        let link =
            LinkConfig { loss, ..LinkConfig::with_latency(Duration::from_millis(u64::from(with) / 4)) };
        self.scene.world.rewire(host, 0, Wire::from(link)).expect("a link that can be");
    }

    /// The stranger dials whatever a node publishes, and writes noise.
    fn visit(&mut self, index: usize, with: u8) {
        let address = self.scene.address(self.nodes[index]);
        let targets = address
            .interfaces()
            .iter()
            .filter_map(|at| Some(SocketAddr::new(at.external?, at.mapped.unwrap_or(at.listen))));
        for to in targets.filter(SocketAddr::is_ipv4).collect::<Vec<_>>() {
            let dialled = self.scene.world.with(self.stranger, |context| {
                context.host.tcp_dial(None, TcpOptions::default(), to, context.now)
            });
            self.pass(Duration::from_millis(80));
            if let Ok(socket) = dialled {
                let noise = vec![with; 64];
                self.scene.world.with(self.stranger, |context| {
                    // It may not stand.
                    let _ = context.host.tcp_mut().send(socket, &noise, context.now);
                    context.host.tcp_mut().close(socket, context.now);
                });
            }
        }
    }
}

/// Returns one of four NATs.
fn nat(kind: u8) -> NatConfig {
    match kind % 4 {
        0 => NatConfig::home(Scene::ANY),
        1 => NatConfig::linux_masquerade(Scene::ANY).with_unsolicited(Unsolicited::Reset),
        2 => NatConfig::linux_fully_random(Scene::ANY),
        _ => NatConfig::linux_fully_random(Scene::ANY)
            .with_flow(|flow| flow.ports = PortChoice::Step { by: 1, scope: StepScope::Global }),
    }
}

/// Nodes of a small world.
const NODES: usize = 3;
/// Interfaces of a node at most.
const MOST_NICS: usize = 4;
/// The address of the stranger.
const STRANGER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 99);
/// Things that happen in one step at most.
const MOST_STEPS: usize = 2_000_000;
/// Things that wait for their time at most.
const MOST_QUEUED: usize = 100_000;
/// Sockets that one node has at most.
const MOST_SOCKETS: usize = 4_000;
