//! Tests of real nodes that punch through the lab's NATs, and through Linux's own.

use natlab::Scenario;
use natlab::punching::{Pair, Place, Trial, punch};

use crate::support::{can_run, each, lab};

fn punched(form: &str, places: [Place<'_>; 2]) -> Vec<Trial> {
    punch(&lab(form), places, 2).unwrap_or_else(|error| panic!("{form}: {error}"))
}

fn told(trials: &[Trial]) -> String {
    trials.iter().map(|trial| format!("{:?} {:?} {}\n", trial.took_ms, trial.ends, trial.story)).collect()
}

#[test]
fn each_kind_of_nat_that_can_be_met_is_met_by_its_tactic() {
    if !can_run() {
        return;
    }
    let stories = [
        ("homes:port-restricted/equal+port-restricted/equal?rtt=40ms", "(remote), now"),
        ("homes:port-restricted/equal+port-restricted/equal?rtt=40ms&syn=rst,silence", "(remote), "),
        ("homes:port-restricted/equal+port-restricted/equal?rtt=80ms&syn=rst", "(remote), "),
        ("homes:symmetric/random+full-cone/equal?rtt=40ms", "(remote), answerer opens"),
        ("homes:symmetric/independent+port-restricted/equal?rtt=40ms", "(remote), window"),
        ("homes:symmetric/independent+symmetric/equal?rtt=60ms&syn=icmp,rst", "(remote), ladder"),
        ("homes:symmetric/random+port-restricted/equal?rtt=40ms", "(remote), birthday"),
        ("homes:kernel-masquerade+kernel-masquerade?rtt=40ms", "(remote), now"),
        ("lan:port-restricted/equal?rtt=40ms", "(lan)"),
    ];
    let done = each(&stories, |(form, _)| punched(form, [Place::host("a"), Place::host("b")]));
    for ((form, part), trials) in stories.iter().zip(&done) {
        let story = told(trials);
        assert!(trials.iter().all(|trial| trial.took_ms.is_some()), "{form}: {story}");
        assert!(trials.iter().all(|trial| trial.story.contains(part)), "{form}: {story}");
    }
}

/// Returns a scenario in which both NATs refuse SYNs. Between the caller's NAT and the Internet are two routers, the
/// second of which is `silent` or not.
fn behind_hops(silent: bool) -> Scenario {
    let text = format!(
        r#"
seed = 3

[net.home-a]
v4 = "192.168.1.0/24"
[net.home-b]
v4 = "192.168.1.0/24"
[net.access]
v4 = "46.0.10.0/24"
[net.metro]
v4 = "46.0.11.0/24"

[router.nat-a]
inside = "home-a"
outside = "access"
preset = "port-restricted/equal"
syn = "rst"
link = {{ latency = "5ms" }}
[router.gateway]
inside = "access"
outside = "metro"
link = {{ latency = "5ms" }}
[router.hop]
inside = "metro"
silent = {silent}
link = {{ latency = "10ms" }}
[router.nat-b]
inside = "home-b"
preset = "port-restricted/equal"
syn = "rst"
link = {{ latency = "20ms" }}

[host.a]
net = "home-a"
[host.b]
net = "home-b"
[host.s]
net = "internet"
address = ["45.1.1.1", "45.1.1.2"]
link = {{ latency = "10ms" }}
"#
    );
    Scenario::parse("hops", &text).unwrap()
}

#[test]
fn a_silent_hop_is_found_and_used() {
    if !can_run() {
        return;
    }
    let done = each(&[true, false], |silent| {
        let lab = natlab::Lab::new(&behind_hops(*silent)).unwrap();
        punch(&lab, [Place::host("a"), Place::host("b")], 3).unwrap()
    });
    for (trials, tactic) in done.iter().zip(["caller first, low TTL", "ladder"]) {
        let story = told(trials);
        assert!(
            trials.iter().all(|trial| trial.took_ms.is_some() && trial.story.contains(tactic)),
            "{story}"
        );
    }
}

#[test]
fn between_two_interfaces_of_one_machine_and_on_one() {
    if !can_run() {
        return;
    }
    let at = |name| Place { host: "a", interface: Some(name) };
    for (places, mode) in [
        ([at("eth0"), at("eth1")], "(between interfaces)"),
        ([at("eth1"), at("eth0")], "(between interfaces)"),
        ([at("eth0"), at("eth0")], "(on one interface)"),
    ] {
        let trials = punched("two-uplinks", places);
        let story = told(&trials);
        assert!(trials.iter().all(|trial| trial.took_ms.is_some() && trial.story.contains(mode)), "{story}");
        let ends = |trial: &Trial| trial.ends.map(|(local, remote)| local.ip() == remote.ip());
        let is_one = mode == "(on one interface)";
        assert!(trials.iter().all(|trial| ends(trial) == Some(is_one)), "{story}");
    }
}

#[test]
fn a_pair_that_cannot_be_met_is_told_from_one_that_is() {
    if !can_run() {
        return;
    }
    let trials =
        punched("homes:symmetric/random+symmetric/random?rtt=20ms", [Place::host("a"), Place::host("b")]);
    for trial in &trials {
        assert_eq!(trial.took_ms, None, "{}", trial.story);
        assert!(trial.story.contains("no punch between them can work"), "{}", trial.story);
    }
}

#[test]
fn a_sample_of_pairs_meets() {
    if !can_run() {
        return;
    }
    let pairs = Pair::sample(4, 0, 11);
    assert_eq!(pairs, Pair::sample(4, 0, 11), "a seed is a sample");
    assert_ne!(pairs, Pair::sample(4, 0, 12));
    let done = each(&pairs, |pair| {
        let scenario: Scenario = pair.scenario(1).unwrap();
        let lab = natlab::Lab::new(&scenario).unwrap();
        punch(&lab, [Place::host("a"), Place::host("b")], 2).unwrap()
    });
    // A birthday fails once in a thousand, but not in both trials of a pair.
    for (pair, trials) in pairs.iter().zip(&done) {
        assert!(trials.iter().any(|trial| trial.took_ms.is_some()), "{pair}: {}", told(trials));
    }
}
