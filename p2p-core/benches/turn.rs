//! The processor time of relayed data: `cargo bench -p p2p-core --bench turn`.

use std::net::SocketAddr;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use p2p_core::sim::epoch;
use p2p_core::sim::turn::{FaultyServer, FaultyServerConfig};
use p2p_core::stun::Transport;
use p2p_core::turn::server::Act;
use p2p_core::turn::{Allocation, AllocationConfig, Carrier, Credentials};
use p2p_core::{Machine, Output, Seed};

const PAYLOAD: usize = 1_200;

fn main() {
    divan::main();
}

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 9], 5_000))
}

/// Returns an allocation with a channel to one peer.
fn standing() -> Allocation {
    let server = SocketAddr::from(([203, 0, 113, 1], 3_478));
    let credentials = Credentials::new("user", "secret").expect("short");
    let config = AllocationConfig::new(server, Carrier::Udp, credentials);
    let mut allocation = Allocation::new(config, Seed::from_u64(1), epoch()).expect("UDP relays UDP");
    allocation.bind(peer(), epoch()).expect("the first peer");
    let server = FaultyServerConfig::new(server, "user", "secret");
    let mut server = FaultyServer::new(server, Seed::from_u64(2), epoch());
    let client = SocketAddr::from(([198, 51, 100, 7], 40_000));
    let tuple = server.tuple(Transport::Udp, client);
    while allocation.header(peer(), 0, epoch()).is_none() {
        loop {
            match allocation.poll_output() {
                Output::Act(packet) => server.handle_client(tuple, &packet.into_bytes(), epoch()),
                Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
        loop {
            match server.poll_output() {
                Output::Act(Act::Send { bytes, .. }) => allocation.handle_data(bytes, epoch()),
                Output::Act(_) | Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
    }
    while !matches!(allocation.poll_output(), Output::Wait(_)) {}
    allocation
}

#[divan::bench]
fn send_through_the_queue(bencher: Bencher) {
    let (mut allocation, data) = (standing(), Bytes::from(vec![7; PAYLOAD]));
    bencher.counter(BytesCount::new(PAYLOAD)).bench_local(|| {
        allocation.send(peer(), data.clone(), epoch()).expect("a channel stands");
        allocation.poll_output()
    });
}

#[divan::bench]
fn receive_through_the_queue(bencher: Bencher) {
    let (mut allocation, mut datagram) = (standing(), vec![0; PAYLOAD + 4]);
    datagram[..4].copy_from_slice(&allocation.header(peer(), PAYLOAD, epoch()).expect("a channel"));
    let datagram = Bytes::from(datagram);
    bencher.counter(BytesCount::new(PAYLOAD)).bench_local(|| {
        allocation.handle_data(datagram.clone(), epoch());
        allocation.poll_output()
    });
}

#[divan::bench]
fn header_alone(bencher: Bencher) {
    let allocation = standing();
    bencher
        .counter(BytesCount::new(PAYLOAD))
        .bench_local(|| allocation.header(divan::black_box(peer()), PAYLOAD, epoch()));
}

#[divan::bench]
fn peek_alone(bencher: Bencher) {
    let allocation = standing();
    let mut datagram = vec![0; PAYLOAD + 4];
    datagram[..4].copy_from_slice(&allocation.header(peer(), PAYLOAD, epoch()).expect("a channel"));
    bencher
        .counter(BytesCount::new(PAYLOAD))
        .bench_local(|| allocation.peek(divan::black_box(&datagram)).map(|(_, payload)| payload.len()));
}
