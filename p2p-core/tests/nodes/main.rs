//! Stories of whole nodes: everything that decides, on both ends, in virtual time.

mod brokers;
mod chance;
mod changes;
mod close;
mod cold;

use std::time::Duration;

use p2p_core::attempt::Way;
use p2p_core::sim::nat::NatConfig;
use p2p_core::sim::scene::{BothEnds, Scene, SceneCall, SceneNode};

/// Makes two homes behind these NATs, with a node in each, started at once.
fn two_homes(number: u64, nats: [NatConfig; 2]) -> (Scene, [SceneNode; 2]) {
    let mut scene = Scene::with_servers(number);
    let [a, b] = nats.map(|nat| scene.home(nat));
    let nodes = [scene.node("a", a, |_| {}), scene.node("b", b, |_| {})];
    (scene, nodes)
}

/// A home router as the RFCs want it: neither end of two such homes can dial the other, and a punch is easy.
fn home() -> NatConfig {
    NatConfig::home(Scene::ANY)
}

/// A NAT that gives out random ports, for each destination another.
fn random() -> NatConfig {
    NatConfig::linux_fully_random(Scene::ANY)
}

/// Has one node call another and lets them meet, by this way; what they keep carries words both ways, and nobody else was
/// sent anything.
fn meet(scene: &mut Scene, call: SceneCall, other: SceneNode, way: Way) -> BothEnds {
    let ends = match scene.meet(call, other) {
        Ok(ends) => ends,
        Err(why) => panic!("{why}"),
    };
    let info = &scene.pipe(ends.caller).info;
    assert_eq!(info.way, way, "{}", info.report.as_ref().unwrap());
    assert_eq!(scene.pipe(ends.answerer).info.way, way, "the other end sees another way");
    assert_eq!(scene.echo(ends, b"hello"), b"hello");
    assert_eq!(scene.third_parties(), []);
    ends
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
