//! Tests that the lab does what the scenario says, to the figures it promises.

use std::time::Duration;

use natlab::figures::{measure_loss, measure_rtt, measure_throughput};

use crate::support::can_run;

/// The most by which a round trip is shorter than the scenario's, in milliseconds.
const EXACT_MS: f64 = 0.5;
/// The most by which the best round trip of a few is longer, in milliseconds. A busy machine adds to a round trip,
/// but never takes from it. `natlab figures` tells the accuracy on an idle machine. A delay that is counted twice or
/// not at all is further off than this.
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
        // The bound is far below the usual rate. A wrong checksum or a lost wake-up would bring it to a few kilobits.
        assert!(figure.mbit_per_s > 50.0, "{figure:?}");
    }
}
