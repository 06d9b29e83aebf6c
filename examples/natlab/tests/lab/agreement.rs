//! Tests that the simulator and the kernel lab agree.

use std::time::Duration;

use natlab::crossing::{Crossing, Dialled, Ended, cross, cross_simulated};
use natlab::{Lab, Scenario};

use crate::support::{can_run, each};

const NATS: [&str; 6] = [
    "open",
    "full-cone/equal",
    "port-restricted/equal",
    "symmetric/independent",
    "linux",
    "linux-fully-random",
];
/// The answers to unsolicited SYNs, for both NATs or for each.
const SYNS: [&str; 4] = ["silence", "rst", "icmp", "rst,silence"];
/// The skews in milliseconds: less than the one-way delay of 100 ms, and more.
const SKEWS: [u64; 2] = [0, 300];
/// The time for three SYNs.
const PATIENCE: Duration = Duration::from_millis(2_600);
/// The time after which a SYN is retransmitted.
const STEP: Duration = Duration::from_secs(1);
/// The most lateness that is tolerated, as 100 ms lie between one outcome and another. Results of a busier machine
/// are thrown away.
const TOLERABLE: Duration = Duration::from_millis(40);

/// Punches until the machine kept time.
fn punch(scenario: &Scenario, skew: Duration) -> Crossing {
    let mut trouble = None;
    for _ in 0..6 {
        let lab = Lab::new(scenario).unwrap();
        let crossing = match cross(&lab, skew, PATIENCE) {
            Ok(crossing) => crossing,
            // On a busy machine a connection can be over before its dial looks at it. The standard library reports
            // that as "no error set after POLLHUP".
            Err(error) => {
                trouble = Some(error);
                continue;
            }
        };
        let lateness = lab.report().unwrap().lateness.max();
        if [lateness, crossing.first.late, crossing.second.late].iter().all(|late| *late < TOLERABLE) {
            return crossing;
        }
    }
    panic!("this machine is too busy to keep time to {TOLERABLE:?}, or: {trouble:?}");
}

fn agree(lab: Dialled, world: Dialled) -> bool {
    lab.ended == world.ended && (lab.ended == Ended::Silent || lab.after.abs_diff(world.after) < STEP)
}

#[test]
fn the_simulator_and_the_kernel_lab_agree() {
    if !can_run() {
        return;
    }
    let mut cells = Vec::new();
    for (index, a) in NATS.iter().enumerate() {
        for b in &NATS[index..] {
            for syn in SYNS {
                for skew in SKEWS {
                    cells.push((format!("homes:{a}+{b}?rtt=200ms&syn={syn}"), Duration::from_millis(skew)));
                }
            }
        }
    }
    assert!(cells.len() >= 60);
    let outcomes = each(&cells, |(form, skew)| {
        let scenario = Scenario::short(form).unwrap();
        let world = cross_simulated(&scenario, *skew, PATIENCE).unwrap();
        (punch(&scenario, *skew), world)
    });
    let mut differing = Vec::new();
    let mut furthest = Duration::ZERO;
    for ((form, skew), (lab, world)) in cells.iter().zip(&outcomes) {
        if !agree(lab.first, world.first) || !agree(lab.second, world.second) {
            differing.push(format!("{form}, skew {skew:?}:\n  lab   {lab:?}\n  world {world:?}"));
        }
        if let (Some(lab), Some(world)) = (lab.met_after(), world.met_after()) {
            furthest = furthest.max(lab.abs_diff(world));
        }
    }
    let met = outcomes.iter().filter(|(lab, _)| lab.met_after().is_some()).count();
    println!("{} scenarios, {met} connections, times at most {furthest:?} apart", cells.len());
    assert!(differing.is_empty(), "{} of {} differ:\n{}", differing.len(), cells.len(), differing.join("\n"));
    // Both outcomes are well represented.
    assert!(met > 20 && met < cells.len() - 20, "{met}");
}
