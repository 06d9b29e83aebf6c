//! Brokers that fail.

use super::*;
use p2p_core::sim::scene::ServerKind;

#[test]
fn a_broker_that_restarts_in_mid_attempt_costs_time_and_no_connection() {
    for after in [30, 60, 90, 150, 250, 400] {
        let (mut scene, [a, b]) = two_homes(1, [home(), home()]);
        assert!(scene.warm_up());
        let call = scene.connect(a, b);
        scene.run_for(ms(after));
        scene.with_broker(|broker, context| broker.restart(context));
        let ends = scene.meet(call, b).unwrap_or_else(|why| panic!("after {after} ms: {why}"));
        assert_eq!(scene.echo(ends, b"hello"), b"hello");
    }
}

#[test]
fn one_dead_broker_of_two_is_not_noticed() {
    for is_refusing in [false, true] {
        let mut scene = Scene::with_servers(2);
        scene.add_broker();
        let dead = scene.servers(ServerKind::Broker)[0];
        if is_refusing {
            scene.kill(dead)
        } else {
            scene.silence(dead)
        }
        let homes = [(); 2].map(|()| scene.home(home()));
        let [a, b] = homes.map(|home| scene.node("node", home, |_| {}));
        let call = scene.connect(a, b);
        meet(&mut scene, call, b, Way::Punch);
    }
}

#[test]
fn a_broker_that_brings_nothing_to_the_peer_is_told_from_a_peer_that_is_off() {
    let (mut scene, [a, b]) = two_homes(3, [home(), home()]);
    assert!(scene.warm_up());
    let outside = scene.address(b).interfaces()[0].external.unwrap();
    scene.with_broker(|broker, _| broker.faults_mut().mute_to.insert(outside));
    let call = scene.connect(a, b);
    let why = scene.meet(call, b).unwrap_err();
    assert!(why.contains("did not") && !why.contains("offline"), "{why}");
}

#[test]
fn without_any_broker_a_peer_in_the_open_is_dialled_all_the_same() {
    let mut scene = Scene::with_servers(4);
    let broker = scene.servers(ServerKind::Broker)[0];
    scene.kill(broker);
    let home = scene.home(home());
    let a = scene.node("a", home, |_| {});
    let b = scene.node("b", scene.internet(), |_| {});
    scene.run_for(ms(1));
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Direct);
}
