//! The time of a QoS 1 message from `publish` to the subscriber's owner, through actors and sockets, on loopback.
//!
//! `cargo bench -p p2p-node --bench broker_latency` prints it for the embedded broker, and for mosquitto where it is
//! installed. Nothing is asserted, as it is a figure and not a test.

#[path = "../../p2p-actors/tests/stories/mod.rs"]
mod stories;

mod mosquitto;

use std::time::{Duration, Instant};

use mosquitto::Mosquitto;
use p2p_actors::signal::{Broker as Signalling, Endpoint, MemoryBroker};
use p2p_core::signal::link::MqttVersion;
use p2p_node::rendezvous::broker::{Broker, Options};
use stories::{Party, endpoint, pinned, tell};

const WARM_UP: usize = 50;
const MESSAGES: usize = 500;
/// The pause between messages, which makes no more than 100 a second. Signals are rare, and a channel drops what
/// comes too fast.
const PAUSE: Duration = Duration::from_millis(10);

async fn measure(name: &str, broker: Signalling) {
    let mut alice = Party::new("alice", broker.clone());
    let mut bob = Party::new("bob", broker);
    alice.up().await;
    bob.up().await;
    let mut times = Vec::new();
    for _ in 0..WARM_UP + MESSAGES {
        let start = Instant::now();
        let ticket = alice.publish("bob", "a signal of the usual length is about four hundred bytes, sealed");
        bob.received().await;
        times.push(start.elapsed());
        alice.ended(ticket).await.expect("acknowledged");
        tokio::time::sleep(PAUSE).await;
    }
    let mut times = times.split_off(WARM_UP);
    times.sort();
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
    println!("{name:28} p50 {:.3} ms, p90 {:.3} ms, p99 {:.3} ms", at(0.5), at(0.9), at(0.99));
}

async fn measure_both(name: &str, endpoint: &Endpoint) {
    for protocol in [MqttVersion::V3, MqttVersion::V5] {
        let broker = Signalling::Mqtt(pinned(endpoint, protocol));
        measure(&format!("{name}, {protocol}"), broker).await;
    }
}

fn main() {
    println!("publish to deliver, QoS 1, one every 10 ms, {MESSAGES} messages, loopback:");
    tell(measure("in memory", Signalling::Memory(MemoryBroker::new())));
    // The broker has a runtime of its own, as in a rendezvous.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let any = "127.0.0.1:0".parse().expect("an address");
    let broker = runtime.block_on(Broker::start(&[any], Options::default())).expect("the broker starts");
    let embedded = endpoint(broker.local_addrs()[0].port());
    tell(measure_both("embedded", &embedded));
    runtime.block_on(broker.shutdown());
    runtime.shutdown_timeout(Duration::from_secs(5));
    for nodelay in [true, false] {
        let Some(mosquitto) = Mosquitto::start(nodelay) else {
            println!("mosquitto: not on this machine");
            return;
        };
        let name = if nodelay { "mosquitto" } else { "mosquitto, its Nagle on" };
        tell(measure_both(name, &endpoint(mosquitto.port)));
    }
}
