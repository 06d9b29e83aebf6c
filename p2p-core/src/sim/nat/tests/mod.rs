//! Tests of a NAT seen from both sides, packet by packet.

mod chaos;
mod config;
mod knobs;
mod linux;
mod presets;
mod requirements;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::Seed;
use crate::nat::Filtering;
use crate::sim::epoch;
use crate::sim::packet::{Body, IcmpKind};
use crate::sim::packet::{Flags, TcpFacts};

const EXTERNAL: &str = "198.51.100.1";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Returns a port of the usual inside host.
fn inside(port: u16) -> SocketAddr {
    SocketAddr::new(ip("192.168.1.2"), port)
}

/// A NAT with a clock.
struct Bench {
    nat: Nat,
    now: Instant,
    protocol: Protocol,
}

impl Bench {
    fn new(config: NatConfig, protocol: Protocol) -> Self {
        Self::with_seed(config, protocol, 1)
    }

    fn with_seed(config: NatConfig, protocol: Protocol, seed: u64) -> Self {
        Self { nat: Nat::new(config, Seed::from_u64(seed)).unwrap(), now: epoch(), protocol }
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
    }

    /// Returns a first packet of the protocol.
    fn first(&self, src: SocketAddr, dst: SocketAddr) -> Header {
        match self.protocol {
            Protocol::Tcp => Header::tcp(src, dst, Flags::SYN, 100, 0),
            _ => Header::udp(src, dst, 0),
        }
    }

    /// Sends a first packet out, and returns the address from which it then seems to come.
    fn out(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        let mut header = self.first(local, remote);
        let verdict = self.nat.outbound(&mut header, self.now);
        (verdict == Verdict::Forward).then_some(header.src)
    }

    /// Sends a first packet in, and returns the address it reaches.
    fn inn(&mut self, remote: SocketAddr, external: SocketAddr) -> Option<SocketAddr> {
        let mut header = self.first(remote, external);
        let verdict = self.nat.inbound(&mut header, self.now);
        (verdict == Verdict::Forward).then_some(header.dst)
    }

    /// Sends a first packet in, and returns the verdict of the NAT.
    fn verdict_in(&mut self, remote: SocketAddr, external: SocketAddr) -> Verdict {
        let mut header = self.first(remote, external);
        self.nat.inbound(&mut header, self.now)
    }

    /// Sends a TCP segment out.
    fn segment_out(&mut self, ends: (SocketAddr, SocketAddr), flags: Flags, seq: u32) -> Verdict {
        let mut header = Header::tcp(ends.0, ends.1, flags, seq, 1);
        self.nat.outbound(&mut header, self.now)
    }

    /// Sends a TCP segment in.
    fn segment_in(&mut self, ends: (SocketAddr, SocketAddr), flags: Flags, seq: u32) -> Verdict {
        let mut header = Header::tcp(ends.0, ends.1, flags, seq, 1);
        self.nat.inbound(&mut header, self.now)
    }

    /// Opens a connection from inside by all three packets of the handshake.
    fn connect(&mut self, local: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let external = self.out(local, remote).unwrap();
        let syn_ack = self.segment_in((remote, external), Flags::SYN | Flags::ACK, 500);
        assert_eq!(syn_ack, Verdict::Forward);
        assert_eq!(self.segment_out((local, remote), Flags::ACK, 101), Verdict::Forward);
        external
    }
}

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
