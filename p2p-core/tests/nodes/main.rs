//! Stories of whole nodes: everything that decides, on both ends, in virtual time.

mod cold;

use std::time::Duration;

use p2p_core::attempt::Way;
use p2p_core::sim::nat::NatConfig;
use p2p_core::sim::scene::{Scene, SceneNode};

/// Two homes behind these NATs, a node in each, started at once.
fn two_homes(number: u64, nats: [NatConfig; 2]) -> (Scene, [SceneNode; 2]) {
    let mut scene = Scene::with_servers(number);
    let [a, b] = nats.map(|nat| scene.home(nat));
    let nodes = [scene.node("a", a, |_| {}), scene.node("b", b, |_| {})];
    (scene, nodes)
}
