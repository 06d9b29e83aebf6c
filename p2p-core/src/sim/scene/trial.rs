//! One call in a topology, and what came of it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::topology::{Death, GatePlan, NicPlan, SharedPlan, Topology};
use super::truth::Truth;
use super::{Scene, SceneCall, SceneNode, SceneSite, SiteGate};
use crate::Family;
use crate::attempt::{Path, Way};
use crate::node::ConnectOptions;
use crate::sim::node::Surroundings;
use crate::sim::world::{HostId, Wire};

/// What came of one call.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The truth about the topology.
    pub truth: Truth,
    /// The connection, or the word for programs that the error has.
    pub outcome: Result<Met, String>,
    /// The story of the call, as it is printed.
    pub story: String,
    /// The packets that both machines sent from the call until it was over.
    pub packets: u64,
    /// What is wrong in kind, whatever the topology.
    pub faults: Vec<String>,
}

/// A connection that came of a call.
#[derive(Clone, Debug)]
pub struct Met {
    /// The way.
    pub way: Way,
    /// The distance, as the caller sees it.
    pub path: Path,
    /// The time from the call to the proven connection at the caller.
    pub took: Duration,
}

impl Topology {
    /// Has the caller call the other node, in a world of this topology.
    pub fn run(&self) -> Trial {
        self.stage().0
    }

    /// As [`run`](Self::run), with the scene as it was at the end.
    pub fn stage(&self) -> (Trial, Scene) {
        let mut scene = Scene::new(self.number);
        self.add_servers(&mut scene);
        let internet = scene.internet();
        let shared = match &self.shared {
            SharedPlan::Nothing => None,
            SharedPlan::Home(plan) => Some(scene.site(internet, gate(plan, false), CARRIER_LEG)),
            SharedPlan::Carrier(plan) => Some(scene.site(internet, gate(plan, true), CARRIER_LEG)),
        };
        let nodes = [0, 1].map(|index| {
            let host = self.add_host(&mut scene, index, shared);
            scene.enlist(host)
        });
        // The called one starts first: nobody can be called who is not there.
        for index in [1, 0] {
            scene.run_for(self.sides[index].starts);
            self.launch(&mut scene, index, nodes);
        }
        if self.is_warm {
            scene.run_until(WARM_UP, |scene| {
                nodes.iter().all(|node| scene.runner(*node).node().status().surveyed)
            });
        }
        let trial = self.call(&mut scene, nodes);
        (trial, scene)
    }

    fn call(&self, scene: &mut Scene, nodes: [SceneNode; 2]) -> Trial {
        let truth = Truth::of(self);
        let sent = |scene: &Scene| -> u64 {
            nodes.iter().map(|node| scene.world.host(scene.host_of(*node)).sent()).sum()
        };
        let before = sent(scene);
        let mut faults = Vec::new();
        let peer = scene.address(nodes[1]);
        let call =
            scene.connect_with(nodes[0], peer, ConnectOptions::default()).expect("a call that may begin");
        if !scene.run_until(LONGEST, |scene| scene.outcome(call).is_some()) {
            faults.push("the call has no end".into());
        }
        let packets = sent(scene) - before;
        let (outcome, story) = match scene.outcome(call) {
            Some((took, Ok(pipe))) => {
                let info = &scene.pipe((nodes[0], pipe)).info;
                let story = info.report.as_ref().map(ToString::to_string).unwrap_or_default();
                (Ok((Met { way: info.way, path: info.path, took }, pipe)), story)
            }
            Some((_, Err(error))) => (Err(error.code().to_owned()), error.to_string()),
            None => (Err("no_end".to_owned()), String::new()),
        };
        if let Ok((_, pipe)) = &outcome {
            faults.extend(check(scene, call, nodes, *pipe));
        } else if truth.relay {
            faults.push("not connected although a TURN server and a broker live".into());
        }
        for (node, to) in scene.third_parties() {
            faults.push(format!("{} sent something to {to}", scene.world.name(scene.host_of(node))));
        }
        Trial { truth, outcome: outcome.map(|(met, _)| met), story, packets, faults }
    }

    fn add_servers(&self, scene: &mut Scene) {
        let plan = &self.servers;
        scene.set_leg(plan.leg);
        let families: BTreeSet<Family> =
            self.sides.iter().flat_map(|side| side.nics[0].families.clone()).collect();
        let add = |scene: &mut Scene,
                   (count, death): (u8, Option<Death>),
                   make: &dyn Fn(&mut Scene, u8) -> HostId| {
            for number in 0..count {
                let host = make(scene, number);
                match death.filter(|_| number == 0) {
                    Some(Death::Silent) => scene.silence(host),
                    Some(Death::Refusing) => scene.kill(host),
                    None => {}
                }
            }
        };
        let of = |number: u8| if number.is_multiple_of(2) { Family::V4 } else { Family::V6 };
        add(scene, plan.brokers, &|scene, _| scene.add_broker());
        for family in families {
            add(scene, plan.stun, &|scene, _| scene.add_stun(family));
        }
        add(scene, plan.turn, &|scene, number| scene.add_turn(of(number)));
        add(scene, plan.ntp, &|scene, _| scene.add_ntp());
    }

    fn add_host(&self, scene: &mut Scene, index: usize, shared: Option<SceneSite>) -> HostId {
        let host = scene.host(["caller", "called"][index]);
        for (number, nic) in self.sides[index].nics.iter().enumerate() {
            let above = shared.filter(|_| number == 0).unwrap_or(scene.internet());
            self.plug(scene, host, nic, above);
        }
        host
    }

    fn plug(&self, scene: &mut Scene, host: HostId, nic: &NicPlan, above: SceneSite) {
        let (mut site, mut wire) = (above, Wire::from(self.wire(nic.leg)));
        let last = nic.gates.len();
        for (number, plan) in nic.gates.iter().enumerate() {
            let is_carrier = number + 1 < last;
            site = scene.site(site, gate(plan, is_carrier), wire);
            wire = Wire::from(INNER_LEG);
        }
        scene.plug_over(host, site, &nic.families, wire);
    }

    fn launch(&self, scene: &mut Scene, index: usize, nodes: [SceneNode; 2]) {
        let surroundings = Surroundings { ahead: self.sides[index].ahead, ..Surroundings::default() };
        let allowed = (index == 1 && self.is_known).then(|| BTreeSet::from([scene.id(nodes[0])]));
        let launched = scene.launch(nodes[index], surroundings, |config| config.allowed = allowed);
        launched.expect("a configuration that can be");
    }
}

/// Returns what is wrong with a connection that the caller keeps.
fn check(scene: &mut Scene, call: SceneCall, nodes: [SceneNode; 2], pipe: usize) -> Option<String> {
    let has_met = |scene: &Scene| scene.pipe_of(call.attempt, nodes[1]).is_some();
    if !scene.run_until(GO_WITHIN, has_met) {
        return Some("the called end keeps nothing".into());
    }
    let other = scene.pipe_of(call.attempt, nodes[1])?;
    let (ours, theirs) = ((nodes[0], pipe), (nodes[1], other));
    if !scene.pipe(ours).is_other_end_of(scene.pipe(theirs)) {
        return Some("both ends keep different connections".into());
    }
    let words = b"what both ends keep carries both ways";
    let there = scene.tell(ours, theirs, words);
    let back = scene.tell(theirs, ours, &there);
    (back != words).then(|| format!("an echo came back as {} bytes", back.len()))
}

fn gate(plan: &GatePlan, is_carrier: bool) -> SiteGate {
    let gate = match is_carrier {
        true => SiteGate::carrier(plan.v4.clone()),
        false => SiteGate::home(plan.v4.clone()),
    };
    gate.with_v6(plan.v6.clone())
}

/// The delay of the link above what both sides share.
const CARRIER_LEG: Duration = Duration::from_millis(3);
/// The delay of a link between two gates, and to the host.
const INNER_LEG: Duration = Duration::from_micros(300);
/// The time that nodes have to know their networks.
const WARM_UP: Duration = Duration::from_secs(30);
/// No call takes longer: 30 s, and what it takes to say so.
const LONGEST: Duration = Duration::from_secs(60);
/// The time that the caller's last word may take.
const GO_WITHIN: Duration = Duration::from_secs(10);
