//! Processes that have just started.

use super::*;

#[test]
fn two_homes_that_have_just_started_connect() {
    let nat = || NatConfig::home(Scene::ANY);
    let (mut scene, [a, b]) = two_homes(1, [nat(), nat()]);
    let call = scene.connect(a, b);
    let ends = scene.meet(call, b).unwrap();
    let info = &scene.pipe(ends.caller).info;
    println!("{:?} {:?} {}", info.way, info.took, info.report.as_ref().unwrap());
    assert_eq!(scene.echo(ends, b"hello"), b"hello");
    assert_eq!(scene.third_parties(), []);
}
