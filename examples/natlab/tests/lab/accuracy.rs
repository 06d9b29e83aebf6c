//! The lab does what the scenario says, to the figures it promises.

use std::time::Duration;

use natlab::figures::{measure_loss, measure_rtt, measure_throughput};

use crate::support::can_run;

/// The median of light traffic may be off by this much.
const EXACT_MS: f64 = 0.5;
/// Later than this at the median and the machine is too busy to measure on.
const TOLERABLE: Duration = Duration::from_micros(150);

#[test]
fn round_trips_take_what_the_scenario_says() {
    if !can_run() {
        return;
    }
    for millis in [5, 40] {
        let mut tries = 0;
        let figure = loop {
            let figure = measure_rtt(Duration::from_millis(millis), 150).unwrap();
            tries += 1;
            // What the lab itself calls late is thrown away.
            if figure.lateness.quantile(0.5) < TOLERABLE || tries == 5 {
                break figure;
            }
        };
        println!("{figure:?}");
        let off = (figure.median_ms - figure.configured_ms).abs();
        assert!(off <= EXACT_MS, "off by {off} ms: {figure:?}");
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
