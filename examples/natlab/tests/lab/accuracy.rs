//! The lab does what the scenario says, to the figures it promises.

use std::time::Duration;

use natlab::figures::{measure_loss, measure_rtt, measure_throughput};

use crate::support::can_run;

/// No round trip is shorter than this much below the scenario's.
const EXACT_MS: f64 = 0.5;
/// A busy machine adds to a round trip, but never takes from it: the best of a few counts, and how exact the lab is on
/// an idle machine is told by `natlab figures`. A delay that is counted twice or not at all is further off than this.
const BUSY_MS: f64 = 4.0;
const TRIES: u32 = 5;

#[test]
fn round_trips_take_what_the_scenario_says() {
    if !can_run() {
        return;
    }
    for millis in [5, 40] {
        let mut figures = (0..TRIES).map(|_| measure_rtt(Duration::from_millis(millis), 100).unwrap());
        let exact = figures.find(|figure| {
            println!("{figure:?}");
            let off = figure.median_ms - figure.configured_ms;
            assert!(off >= -EXACT_MS, "faster than the scenario says: {figure:?}");
            off <= BUSY_MS
        });
        assert!(exact.is_some(), "slower than the scenario says in {TRIES} tries");
    }
}

#[test]
fn losses_are_as_frequent_as_the_scenario_says() {
    if !can_run() {
        return;
    }
    let figure = measure_loss(0.05, 10_000).unwrap();
    println!("{figure:?}");
    let off = (figure.measured - figure.configured).abs();
    assert!(off <= figure.margin, "off by {off}: {figure:?}");
}

#[test]
fn bulk_data_passes_two_nats() {
    if !can_run() {
        return;
    }
    for offload in [false, true] {
        let figure = measure_throughput(offload, 1).unwrap();
        println!("{figure:?}");
        // Far below what it does; a wrong checksum or a lost wake-up would bring it to a few kilobits.
        assert!(figure.mbit_per_s > 50.0, "{figure:?}");
    }
}
