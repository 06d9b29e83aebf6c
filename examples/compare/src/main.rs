//! Processor time of a relayed stream beside that of QUIC (quinn-proto), for the same bytes in the same run.
//!
//! `cargo run --release -- [megabytes] [rounds]`, in `examples/compare/`
//!
//! It compares what each needs to carry bytes both reliably and secretly between two ends in one thread. One is
//! quinn-proto with its TLS 1.3 packet protection. The other is our stream with the pipe's records inside it. Both
//! use AES-256-GCM by ring. Datagrams of 1,200 bytes pass through the same queues in memory, with a virtual clock and
//! a delay of 1 ms each way. There are no losses, no system calls and no MTU discovery, and the windows are 1.25 MB
//! on both. The figure is the thread's processor time, both ends together.

mod quic;
mod stream;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The receive window in bytes that both a pipe of ours and quinn have by default.
const WINDOW: usize = 1_250_000;
/// The largest datagram of both, in bytes.
const DATAGRAM: usize = 1_200;
/// The one-way delay.
const DELAY: Duration = Duration::from_millis(1);
/// The bytes of one write.
const CHUNK: usize = 32 * 1024;

/// The datagrams on their way to two ends.
struct Wire {
    now: Instant,
    on_way: [VecDeque<(Instant, Vec<u8>)>; 2],
    spare: Vec<Vec<u8>>,
}

impl Wire {
    fn new() -> Self {
        Self { now: Instant::now(), on_way: Default::default(), spare: Vec::new() }
    }

    fn send(&mut self, to: usize, datagram: &[u8]) {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(datagram);
        self.on_way[to].push_back((self.now + DELAY, copy));
    }

    /// Returns the next datagram that has arrived at this end.
    fn receive(&mut self, at: usize) -> Option<Vec<u8>> {
        let arrives = self.on_way[at].front()?.0;
        if arrives > self.now { None } else { self.on_way[at].pop_front().map(|(_, bytes)| bytes) }
    }

    /// Lets time pass until a datagram arrives or an end wants to be woken.
    fn pass(&mut self, wakes: [Option<Instant>; 2]) {
        let arrivals = self.on_way.iter().filter_map(|queue| queue.front().map(|first| first.0));
        let next = arrivals.chain(wakes.into_iter().flatten()).min();
        self.now = self.now.max(next.expect("somebody waits for something"));
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measured(carry: impl FnOnce()) -> f64 {
    let start = thread_time();
    carry();
    (thread_time() - start).as_secs_f64()
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number"));
    let bytes = arguments.next().unwrap_or(200) * 1_000_000;
    let rounds = arguments.next().unwrap_or(7);
    let mut all: [Vec<f64>; 3] = Default::default();
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let quic = measured(|| quic::carry(bytes));
        let ours = measured(|| stream::carry(bytes, true));
        let bare = measured(|| stream::carry(bytes, false));
        // The first round is a warm-up.
        if round > 0 {
            all.iter_mut().zip([quic, ours, bare]).for_each(|(all, one)| all.push(one * 1e9 / bytes as f64));
            ratios.push(ours / quic);
        }
    }
    let [quic, ours, bare] = all.each_mut().map(|all| median(all));
    println!("{} MB, {rounds} rounds; median processor time of both ends, in ns a byte", bytes / 1_000_000);
    println!("  quinn-proto, AES-256-GCM                 {quic:.3}");
    println!("  relay::Stream with the pipe's records    {ours:.3}");
    println!("  relay::Stream alone                      {bare:.3}");
    println!("  stream with records / quinn, same round  {:.2} (goal: 2.00 at most)", median(&mut ratios));
}
