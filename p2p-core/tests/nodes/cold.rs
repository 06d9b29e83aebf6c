//! Processes that have just started, and call at once.

use std::collections::BTreeSet;

use super::*;
use p2p_core::sim::nat::{PortChoice, StepScope, Unsolicited};
use p2p_core::sim::packet::IcmpKind;

#[test]
fn whoever_stands_in_the_open_is_dialled() {
    let mut scene = Scene::with_servers(1);
    let home = scene.home(home());
    let a = scene.node("a", home, |_| {});
    let b = scene.node("b", scene.internet(), |_| {});
    scene.run_for(ms(1));
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Direct);
}

#[test]
fn a_caller_in_the_open_is_dialled_back() {
    let mut scene = Scene::with_servers(2);
    let home = scene.home(home());
    let a = scene.node("a", scene.internet(), |_| {});
    let b = scene.node("b", home, |_| {});
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Reverse);
}

#[test]
fn two_homes_punch() {
    let (mut scene, [a, b]) = two_homes(3, [home(), home()]);
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn two_random_nats_meet_at_the_relay() {
    let (mut scene, [a, b]) = two_homes(4, [random(), random()]);
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Relay);
}

#[test]
fn nodes_in_one_home_meet_inside_of_it() {
    let mut scene = Scene::with_servers(5);
    let home = scene.home(home());
    let [a, b] = ["a", "b"].map(|name| scene.node(name, home, |_| {}));
    scene.run_for(ms(1));
    let call = scene.connect(a, b);
    let ends = meet(&mut scene, call, b, Way::Direct);
    let info = &scene.pipe(ends.caller).info;
    assert!(info.remote.ip().to_string().starts_with("192.168."), "{}", info.remote);
}

#[test]
fn a_caller_behind_a_random_symmetric_nat_punches() {
    let mut scene = Scene::with_servers(6);
    let [one, two] = [random(), home()].map(|nat| scene.home(nat));
    let a = scene.node("a", one, |_| {});
    // For a stranger it would dial too little for a birthday.
    let known = BTreeSet::from([scene.id(a)]);
    let b = scene.node("b", two, |config| config.allowed = Some(known));
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn a_caller_behind_a_counting_symmetric_nat_punches() {
    let counting =
        random().with_flow(|flow| flow.ports = PortChoice::Step { by: 1, scope: StepScope::Global });
    let (mut scene, [a, b]) = two_homes(7, [counting, home()]);
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn a_counter_and_a_nat_that_both_answer_are_met() {
    let counting =
        random().with_flow(|flow| flow.ports = PortChoice::Step { by: 1, scope: StepScope::Global });
    let homes = [
        counting.with_unsolicited(Unsolicited::Icmp(IcmpKind::PortUnreachable)),
        home().with_unsolicited(Unsolicited::Reset),
    ];
    let (mut scene, [a, b]) = two_homes(10, homes);
    let call = scene.connect(a, b);
    meet(&mut scene, call, b, Way::Punch);
}

#[test]
fn nodes_that_call_each_other_at_once_both_connect() {
    let (mut scene, [a, b]) = two_homes(8, [home(), home()]);
    let (there, back) = (scene.connect(a, b), scene.connect(b, a));
    meet(&mut scene, there, b, Way::Punch);
    meet(&mut scene, back, a, Way::Punch);
}

#[test]
fn nodes_that_know_their_networks_lose_no_time() {
    let (mut scene, [a, b]) = two_homes(9, [home(), home()]);
    assert!(scene.warm_up());
    let call = scene.connect(a, b);
    let ends = meet(&mut scene, call, b, Way::Punch);
    let took = scene.pipe(ends.caller).info.took;
    // Seven round trips of 40 ms: two signals each way, the SYNs, the proof, and the head start of the others.
    assert!(took < ms(280), "{took:?}");
}
