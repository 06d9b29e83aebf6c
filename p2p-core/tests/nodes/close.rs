//! Farewells.

use super::*;

/// Lets time pass until a node has said its last word, and tells how long that took.
fn rest(scene: &mut Scene, node: SceneNode) -> Duration {
    let before = scene.world.now();
    assert!(scene.run_until(Duration::from_secs(5), |scene| scene.runner(node).is_closed()), "no last word");
    scene.world.now() - before
}

#[test]
fn a_node_that_closes_says_farewell_and_comes_to_rest() {
    let (mut scene, [a, b]) = two_homes(1, [home(), home()]);
    assert!(scene.warm_up());
    scene.close(a);
    assert!(rest(&mut scene, a) < Duration::from_secs(2));
    // What is still to leave are farewells of TCP.
    scene.run_for(Duration::from_secs(3));
    assert_eq!(scene.runner(a).sockets(), 0);
    let host = scene.host_of(a);
    let sent = scene.world.host(host).sent();
    assert_eq!(scene.with_broker(|broker, _| broker.sessions()), 1, "the broker knows that it is gone");
    let _ = scene.address(b);
    scene.run_for(Duration::from_secs(3_600));
    assert_eq!(scene.world.host(host).sent(), sent, "it is at rest");
}

#[test]
fn a_call_ends_when_its_node_closes_and_the_other_end_stops() {
    for after in [0, 30, 80, 130, 180, 230] {
        let (mut scene, [a, b]) = two_homes(2, [home(), home()]);
        assert!(scene.warm_up());
        let call = scene.connect(a, b);
        scene.run_for(ms(after));
        let was_over = scene.outcome(call).is_some();
        scene.close(a);
        rest(&mut scene, a);
        if !was_over {
            let (_, outcome) = scene.outcome(call).expect("a call ends with its node");
            let code = outcome.expect_err("no connection leaves a node that is closed").code();
            assert_eq!(code, "cancelled", "after {after} ms");
        }
        scene.run_for(Duration::from_secs(15));
        let status = scene.runner(b).node().status();
        assert!(status.is_ready(), "the other end goes on");
        let idle = scene.runner(b).sockets();
        scene.run_for(Duration::from_secs(60));
        assert!(scene.runner(b).sockets() <= idle, "after {after} ms something is left");
    }
}

#[test]
fn a_connection_outlives_both_nodes() {
    for nats in [[home(), home()], [random(), random()]] {
        let (mut scene, [a, b]) = two_homes(3, nats);
        let call = scene.connect(a, b);
        let ends = scene.meet(call, b).unwrap_or_else(|why| panic!("{why}"));
        for node in [a, b] {
            scene.close(node);
            rest(&mut scene, node);
        }
        scene.run_for(Duration::from_secs(3));
        assert_eq!(scene.echo(ends, b"still there"), b"still there");
    }
}

#[test]
fn a_node_that_closes_refuses_whoever_calls() {
    let (mut scene, [a, b]) = two_homes(4, [home(), home()]);
    assert!(scene.warm_up());
    scene.with(b, |runner, context| runner.with(context, |node, _| node.stop_accepting()));
    let call = scene.connect(a, b);
    let why = scene.meet(call, b).unwrap_err();
    assert!(why.contains("it is closing"), "{why}");
}
