//! The figures of a relayed stream over bad links, in virtual time: goodput, and memory at rest.
//!
//! `cargo run --release -p p2p-core --features sim --example relay_figures -- [megabytes] [megabits]`
//!
//! Every cell carries `megabytes` (default 10) over a link of `megabits` a second (default 50) each way. Of the
//! datagrams 5 % are overtaken and 3 % doubled, and the loss is that of the column. What arrives is compared byte by
//! byte.

use std::time::Duration;

use p2p_core::Seed;
use p2p_core::sim::link::LinkConfig;
use p2p_core::sim::pair::Pair;
use p2p_core::transport::{Read, Stream};

const LOSSES: [f64; 4] = [0.0, 0.01, 0.05, 0.2];
const ROUND_TRIPS: [u64; 4] = [10, 50, 100, 300];
/// The virtual time after which a cell is given up.
const PATIENCE: Duration = Duration::from_secs(3_600);

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let megabytes: usize = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let megabits: u64 = arguments.next().map_or(Ok(50), |text| text.parse())?;
    let mut data = vec![0; megabytes * 1_000_000];
    Seed::from_u64(1).fill(&mut data);
    println!(
        "{megabytes} MB at {megabits} Mbit/s, 5 % reordered by 10 ms, 3 % doubled; goodput in Mbit/s (datagrams sent, of those lost, late)"
    );
    for round_trip in ROUND_TRIPS {
        print!("RTT {round_trip:3} ms");
        for loss in LOSSES {
            let link = LinkConfig {
                loss,
                reorder: 0.05,
                duplicate: 0.03,
                rate: Some(megabits * 1_000_000),
                ..LinkConfig::with_latency(Duration::from_millis(round_trip) / 2)
            };
            let (took, pair) = carry(&data, link)?;
            let counters = pair.ends[0].counters();
            print!(
                " | {:4.1} % {:6.2} ({} {} {})",
                loss * 100.0,
                data.len() as f64 * 8e-6 / took.as_secs_f64(),
                counters.sent,
                counters.lost,
                counters.spurious
            );
        }
        println!();
    }
    rest(&data)
}

/// Carries `data` from one end to the other, and returns the time that took.
fn carry(data: &[u8], link: LinkConfig) -> Result<(Duration, Pair<Stream>), Error> {
    let mut pair = Pair::<Stream>::new(link, Seed::from_u64(7), |_| ())?;
    let (mut written, mut read) = (0, 0);
    let mut out = vec![0; 64 * 1024];
    let mut turn = 0;
    loop {
        let now = pair.now();
        if turn == 0 && written < data.len() {
            written += pair.ends[0].write(&data[written..], now)?;
            if written == data.len() {
                pair.ends[0].finish(now)?;
            }
        }
        if turn == 1 {
            loop {
                match pair.ends[1].read(&mut out, now)? {
                    Read::Bytes(count) => {
                        if out[..count] != data[read..read + count] {
                            return Err(format!("not what was sent, after {read} bytes").into());
                        }
                        read += count;
                    }
                    Read::Nothing => break,
                    Read::End if read == data.len() => return Ok((pair.passed(), pair)),
                    Read::End => return Err(format!("ended after {read} bytes").into()),
                }
            }
        }
        pair.drain(turn);
        turn = pair.step().ok_or("both ends rest before all has come")?;
        if pair.passed() > PATIENCE {
            return Err(format!("only {read} bytes in an hour").into());
        }
    }
}

/// Prints the memory of a stream that has carried much and now waits.
fn rest(data: &[u8]) -> Result<(), Error> {
    let link = LinkConfig { rate: Some(100_000_000), ..LinkConfig::with_latency(Duration::from_millis(25)) };
    let (_, mut pair) = carry(data, link)?;
    let busy: Vec<usize> = pair.ends.iter().map(Stream::memory).collect();
    // The receiver's own direction is open, so the stream is not over.
    pair.run_for(Duration::from_secs(30));
    let idle: Vec<usize> = pair.ends.iter().map(Stream::memory).collect();
    println!(
        "memory in bytes, sender and receiver: just after {} MB {busy:?}; idle {idle:?}, of which {} the machine itself (goal: {} at most)",
        data.len() / 1_000_000,
        size_of::<Stream>(),
        32 * 1024
    );
    Ok(())
}
