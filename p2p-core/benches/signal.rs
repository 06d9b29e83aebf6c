//! The processor time of one signal: `cargo bench -p p2p-core --bench signal`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{Bencher, black_box};
use p2p_core::attempt::AttemptId;
use p2p_core::peer::{Contents, Identity, PeerAddr};
use p2p_core::signal::{Body, Inbox, InboxConfig, InboxLimits, Scribe, open};
use p2p_core::{Clock, Seed, UnixTime};

fn main() {
    divan::main();
}

fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

fn address() -> PeerAddr {
    let contents = Contents {
        brokers: vec!["mqtts://broker.example.org".parse().expect("a broker")],
        machine: None,
        interfaces: Vec::new(),
        issued: UnixTime::from_secs(1),
    };
    PeerAddr::sign(&identity(1), contents).expect("a small address")
}

#[expect(clippy::disallowed_methods, reason = "a bench is no machine")]
fn now() -> Instant {
    Instant::now()
}

fn clock(now: Instant) -> Clock {
    Clock::new(now, UnixTime::from_secs(1_800_000_000))
}

fn write(scribe: &mut Scribe, now: Instant) -> Bytes {
    scribe
        .write(identity(2).id(), AttemptId([0; 16]), Body::AskAddr, Duration::from_secs(30), now)
        .expect("a good signal")
}

fn scribe(now: Instant) -> Scribe {
    let mut scribe = Scribe::new(identity(1), clock(now), Seed::from_u64(1));
    scribe.set_address(address()).expect("our own address");
    scribe
}

fn inbox(now: Instant) -> Inbox {
    let config = InboxConfig { identity: identity(2), clock: clock(now), limits: InboxLimits::default() };
    Inbox::new(config, Seed::from_u64(2), now)
}

#[divan::bench]
fn verify_address(bencher: Bencher) {
    let bytes = address().to_bytes();
    bencher.bench(|| PeerAddr::from_bytes(black_box(&bytes)).expect("our own address"));
}

#[divan::bench]
fn write_and_seal(bencher: Bencher) {
    let (now, mut scribe) = (now(), scribe(now()));
    bencher.bench_local(|| write(&mut scribe, now));
}

#[divan::bench]
fn open_good(bencher: Bencher) {
    let sealed = write(&mut scribe(now()), now());
    let receiver = identity(2);
    bencher.bench(|| open(&receiver, black_box(&sealed)).expect("a good signal"));
}

/// Measures the most that a flooder can make us do, as often as the budget of its channel allows.
#[divan::bench]
fn open_random(bencher: Bencher) {
    let mut random = [0; 512];
    Seed::from_u64(3).fill(&mut random);
    random[0] = 1;
    let receiver = identity(2);
    bencher.bench(|| open(&receiver, black_box(&random)).expect_err("noise"));
}

/// Measures what a flooder can make us do without bound: drop a copy, and drop one too many.
#[divan::bench(args = [512, 4_096, 1 << 20])]
fn drop_at_the_door(bencher: Bencher, size: usize) {
    let now = now();
    let mut inbox = inbox(now);
    let bytes = vec![1; size];
    bencher.bench_local(|| inbox.handle_sealed(0, black_box(&bytes), now));
}
