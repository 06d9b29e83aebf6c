//! Networks and clocks that change while nodes run.

use super::*;
use p2p_core::Family;
use p2p_core::sim::node::Surroundings;

const HOUR: i64 = 3_600 * 1_000_000;

/// A node behind a random NAT, another behind the same kind: only a relay would help, and there is none.
fn hopeless(number: u64) -> (Scene, [SceneNode; 2]) {
    let mut scene = Scene::new(number);
    scene.add_broker();
    scene.add_stun(Family::V4);
    scene.add_stun(Family::V4);
    let homes = [(); 2].map(|()| scene.home(random()));
    let nodes = homes.map(|home| scene.node("node", home, |_| {}));
    (scene, nodes)
}

#[test]
fn an_interface_that_comes_in_mid_attempt_is_used() {
    let (mut scene, [a, b]) = hopeless(1);
    assert!(scene.warm_up());
    let call = scene.connect(a, b);
    scene.run_for(ms(500));
    let (host, internet) = (scene.host_of(a), scene.internet());
    scene.plug(host, internet, &[Family::V4]);
    scene.with(a, |runner, context| runner.tell_nics(context));
    let ends = scene.meet(call, b).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(scene.echo(ends, b"hello"), b"hello");
}

#[test]
fn an_interface_that_goes_in_mid_attempt_takes_nothing_else_with_it() {
    for after in [0, 20, 60, 120, 200] {
        let mut scene = Scene::with_servers(2);
        let [first, second] = [(); 2].map(|()| scene.home(home()));
        let host = scene.host("a");
        scene.plug(host, first, &[Family::V4]);
        scene.plug(host, second, &[Family::V4]);
        let a = scene.start(host, Surroundings::default(), |_| {}).unwrap();
        let away = scene.home(home());
        let b = scene.node("b", away, |_| {});
        assert!(scene.warm_up());
        let call = scene.connect(a, b);
        scene.run_for(ms(after));
        scene.unplug(a, 1, true);
        let ends = scene.meet(call, b).unwrap_or_else(|why| panic!("after {after} ms: {why}"));
        // It may have been the one that is gone.
        let is_left = scene.pipe(ends.caller).info.local.ip() == scene.world.host(host).addresses(0)[0];
        assert_eq!(scene.echo(ends, b"hello") == b"hello", is_left, "after {after} ms");
    }
}

#[test]
fn a_peer_that_has_moved_is_found_by_what_it_says_now() {
    let (mut scene, [a, b]) = two_homes(3, [home(), home()]);
    assert!(scene.warm_up());
    let stale = scene.address(b);
    scene.renumber(b, 0, &[Family::V4], true);
    scene.run_for(Duration::from_secs(5));
    let call = scene.connect_with(a, stale, Default::default()).unwrap();
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn a_clock_that_is_set_right_is_followed() {
    let (mut scene, [a, b]) = two_homes(4, [home(), home()]);
    scene.with(a, |runner, _| runner.set_clock(HOUR));
    scene.run_for(Duration::from_secs(11));
    let call = scene.connect(a, b);
    let why = scene.meet(call, b).unwrap_err();
    assert!(!why.is_empty());
    scene.with(a, |runner, _| runner.set_clock(0));
    scene.run_for(Duration::from_secs(11));
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn clocks_of_both_that_jump_together_break_nothing() {
    let (mut scene, [a, b]) = two_homes(5, [home(), home()]);
    assert!(scene.warm_up());
    for node in [a, b] {
        scene.with(node, |runner, _| runner.set_clock(HOUR));
    }
    scene.run_for(Duration::from_secs(11));
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn a_peer_that_was_started_again_is_found_although_its_old_session_lingers() {
    let (mut scene, [a, b]) = two_homes(6, [home(), home()]);
    assert!(scene.warm_up());
    let stale = scene.address(b);
    scene.launch(b, Surroundings::default(), |_| {}).unwrap();
    scene.run_for(ms(400));
    let call = scene.connect_with(a, stale, Default::default()).unwrap();
    meet(&mut scene, call, b, Way::Punch);
}
