//! A packet that the lab holds: its bytes, behind the header that TUN devices put in front.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use p2p_core::sim::packet::{Header, Packet};
use p2p_core::sim::wire::{self, Checksum};

use crate::tun::{HEADER, NEEDS_CSUM, Tun};

/// The buffer size for an IP packet of 1,500 bytes, with some room.
const SMALL: usize = HEADER + 2_048;
/// The buffer size for the largest IP packet.
const LARGE: usize = HEADER + 65_535;
/// The most bytes of spare buffers of each size.
const MOST_SPARE: usize = 8 << 20;

/// A packet with its offload header.
#[derive(Debug)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    /// The length of header and packet together, in bytes.
    len: usize,
}

impl Frame {
    pub(super) fn write(&self, tun: &Tun) -> io::Result<()> {
        tun.send(&self.bytes[..self.len])
    }

    /// Returns the bytes of memory that it takes.
    pub(super) fn room(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes of the IP packet.
    pub(crate) fn packet(&self) -> &[u8] {
        self.bytes.get(HEADER..self.len).unwrap_or_default()
    }

    pub(super) fn packet_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADER..self.len).unwrap_or_default()
    }

    /// Returns the state of the transport checksum, which the sending device may have to finish.
    pub(super) fn checksum(&self) -> Checksum {
        match self.bytes.first() {
            Some(flags) if flags & NEEDS_CSUM != 0 => Checksum::Partial,
            _ => Checksum::Full,
        }
    }

    /// Takes one off the hop limit and updates the IPv4 header checksum (RFC 1624). Returns false when the limit is
    /// used up.
    pub(super) fn hop(&mut self) -> bool {
        let packet = self.packet_mut();
        match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= 20 && packet[8] > 1 => {
                packet[8] -= 1;
                let check = u16::from_be_bytes([packet[10], packet[11]]);
                let (sum, carry) = check.overflowing_add(0x0100);
                packet[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
                true
            }
            Some(6) if packet.len() >= 40 && packet[7] > 1 => {
                packet[7] -= 1;
                true
            }
            _ => false,
        }
    }

    /// Returns the destination, if it is an IP packet at all.
    pub(super) fn destination(&self) -> Option<IpAddr> {
        let packet = self.packet();
        match packet.first()? >> 4 {
            4 => {
                let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
                Some(Ipv4Addr::from(octets).into())
            }
            6 => {
                let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match wire::parse(self.packet()) {
            Ok(header) => header.fmt(f),
            Err(_) => write!(f, "{} bytes", self.packet().len()),
        }
    }
}

/// A store of buffers that are used again and again.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    offload: bool,
}

impl Buffers {
    pub(super) fn new(offload: bool) -> Self {
        Self { offload, ..Self::default() }
    }

    /// Returns a buffer for this number of bytes.
    fn take(&mut self, len: usize) -> Frame {
        let (spare, size) = if len <= SMALL { (&mut self.small, SMALL) } else { (&mut self.large, LARGE) };
        Frame { bytes: spare.pop().unwrap_or_else(|| vec![0; size]), len }
    }

    pub(super) fn give(&mut self, frame: Frame) {
        let spare = if frame.room() <= SMALL { &mut self.small } else { &mut self.large };
        if (spare.len() + 1) * frame.room() <= MOST_SPARE {
            spare.push(frame.bytes);
        }
    }

    /// Reads the next packet of a device.
    pub(super) fn read(&mut self, tun: &Tun) -> io::Result<Frame> {
        let mut frame = self.take(if self.offload { LARGE } else { SMALL });
        match tun.recv(&mut frame.bytes) {
            Ok(len) => frame.len = len,
            Err(error) => {
                self.give(frame);
                return Err(error);
            }
        }
        // Few packets are large, and small ones must not keep a large buffer while they wait.
        if frame.room() > SMALL && frame.len <= SMALL {
            let small = self.copy(&frame);
            self.give(frame);
            return Ok(small);
        }
        Ok(frame)
    }

    pub(super) fn copy(&mut self, from: &Frame) -> Frame {
        let mut copy = self.take(from.len);
        copy.bytes[..from.len].copy_from_slice(&from.bytes[..from.len]);
        copy
    }

    /// Makes a packet that a router sends itself.
    pub(super) fn make(&mut self, header: &Header) -> Frame {
        let packet = wire::emit(&Packet::from(*header));
        let mut frame = self.take(HEADER + packet.len());
        frame.bytes[..HEADER].fill(0);
        frame.bytes[HEADER..frame.len].copy_from_slice(&packet);
        frame
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use p2p_core::sim::packet::Flags;
    use proptest::prelude::*;

    use super::*;

    fn segment(ttl: u8) -> Frame {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        let header = Header::tcp(end("45.1.0.1:1"), end("45.1.0.2:2"), Flags::SYN, 7, 0);
        Buffers::new(false).make(&Header { ttl, ..header })
    }

    #[test]
    fn a_hop_keeps_the_checksum_right() {
        for ttl in 2..=255 {
            let mut frame = segment(ttl);
            assert!(frame.hop());
            // Parsing verifies the checksum of the header.
            assert_eq!(wire::parse(frame.packet()).unwrap().ttl, ttl - 1);
        }
    }

    #[test]
    fn the_last_hop_is_not_taken() {
        assert!(!segment(1).hop());
        assert!(!segment(0).hop());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let mut frame = Frame { len: bytes.len(), bytes };
            frame.destination();
            frame.hop();
            frame.checksum();
            let _ = frame.to_string();
        }
    }
}
