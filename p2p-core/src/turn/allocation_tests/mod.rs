//! One allocation and one server, 20 ms apart, in virtual time.

mod relaying;
mod trouble;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;
use crate::sim::epoch;
use crate::sim::turn::{FaultyServer, FaultyServerConfig};
use crate::stun::Transport;
use crate::turn::Carrier;
use crate::turn::server::{Act, FiveTuple};

/// The one-way delay.
const DELAY: Duration = Duration::from_millis(20);

pub(crate) fn server() -> SocketAddr {
    "203.0.113.1:3478".parse().unwrap()
}

fn client() -> SocketAddr {
    "198.51.100.7:40000".parse().unwrap()
}

fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 5_000))
}

pub(crate) fn credentials() -> Credentials {
    Credentials::new("user", "secret").unwrap()
}

pub(crate) fn server_config() -> FaultyServerConfig {
    FaultyServerConfig::new(server(), "user", "secret")
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Pair {
    allocation: Allocation,
    server: FaultyServer,
    now: Instant,
    tuple: FiveTuple,
    up: VecDeque<(Instant, Bytes)>,
    down: VecDeque<(Instant, Bytes)>,
    events: Vec<(Instant, Event)>,
    /// The datagrams that peers received, each with its peer.
    relayed: Vec<(SocketAddr, Bytes)>,
    /// True while the cable is pulled.
    is_cut: bool,
    framer: Framer,
}

impl Pair {
    fn new() -> Self {
        Self::with(server_config(), Carrier::Udp, |_| {})
    }

    fn with(
        server_config: FaultyServerConfig,
        carrier: Carrier,
        adjust: impl FnOnce(&mut AllocationConfig),
    ) -> Self {
        let mut config = AllocationConfig::new(server(), carrier, credentials());
        adjust(&mut config);
        let allocation = Allocation::new(config, Seed::from_u64(1), epoch()).unwrap();
        let mut framer = Framer::default();
        framer.allow_channels();
        let server = FaultyServer::new(server_config, Seed::from_u64(2), epoch());
        Self {
            allocation,
            tuple: server.tuple(carrier.transport(), client()),
            server,
            now: epoch(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            events: Vec::new(),
            relayed: Vec::new(),
            is_cut: false,
            framer,
        }
    }

    /// Returns a pair as `new` does, with an allocation and these peers bound.
    fn standing(peers: &[SocketAddr]) -> Self {
        let mut pair = Self::new();
        peers.iter().for_each(|peer| pair.allocation.bind(*peer, pair.now).unwrap());
        pair.run(secs(2));
        assert!(pair.allocation.lease().is_some(), "{:?}", pair.events);
        pair.events.clear();
        pair
    }

    fn drain(&mut self) {
        loop {
            match self.allocation.poll_output() {
                Output::Act(packet) if self.is_cut => drop(packet),
                Output::Act(packet) => self.up.push_back((self.now + DELAY, packet.into_bytes())),
                Output::Event(event) => self.events.push((self.now, event)),
                Output::Wait(_) => break,
            }
        }
        loop {
            match self.server.poll_output() {
                Output::Act(Act::Send { client, bytes }) if client == self.tuple && !self.is_cut => {
                    self.down.push_back((self.now + DELAY, bytes));
                }
                Output::Act(Act::Relay { peer, data, .. }) => self.relayed.push((peer, data)),
                Output::Act(_) | Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
    }

    fn wait(&mut self) -> Option<Instant> {
        match self.allocation.poll_output() {
            Output::Wait(deadline) => deadline.map(|deadline| deadline.at),
            other => panic!("drained, and still {other:?}"),
        }
    }

    /// Lets time pass.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.drain();
            let wait = self.wait();
            let next = [self.up.front().map(|(at, _)| *at), self.down.front().map(|(at, _)| *at), wait];
            match next.into_iter().flatten().min().filter(|at| *at <= end) {
                None => break,
                Some(at) => self.now = self.now.max(at),
            }
            if let Some((_, bytes)) = self.up.pop_front_if(|(at, _)| *at <= self.now) {
                self.arrive(bytes);
            } else if let Some((_, bytes)) = self.down.pop_front_if(|(at, _)| *at <= self.now) {
                self.allocation.handle_data(bytes, self.now);
            } else {
                self.allocation.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn arrive(&mut self, mut bytes: Bytes) {
        if self.tuple.transport == Transport::Udp {
            return self.server.handle_client(self.tuple, &bytes, self.now);
        }
        while let Some(frame) = self.framer.feed(&mut bytes).unwrap() {
            let whole = match frame {
                crate::turn::frame::Frame::Stun(message) => message,
                crate::turn::frame::Frame::Channel(number, data) => {
                    [&number.header(data.len()).unwrap(), &data[..]].concat().into()
                }
                other => panic!("{other:?} from a client"),
            };
            self.server.handle_client(self.tuple, &whole, self.now);
        }
    }

    /// Returns the present relayed address.
    fn relayed(&self) -> SocketAddr {
        self.allocation.lease().expect("an allocation").relayed[0].0
    }

    /// Sends data from a peer.
    fn peer_sends(&mut self, from: SocketAddr, data: &'static [u8]) {
        self.server.handle_peer(self.relayed(), from, Bytes::from_static(data), self.now);
    }

    fn told(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events).into_iter().map(|(_, event)| event).collect()
    }

    /// Checks that data flows in both directions within a second.
    fn assert_flows(&mut self, with: SocketAddr) {
        self.told();
        self.relayed.clear();
        self.allocation.send(with, Bytes::from_static(b"there"), self.now).unwrap();
        self.peer_sends(with, b"back");
        self.run(secs(1));
        assert_eq!(self.relayed, [(with, Bytes::from_static(b"there"))]);
        let data = Event::Data { peer: with, data: Bytes::from_static(b"back") };
        assert!(self.told().contains(&data));
    }
}
