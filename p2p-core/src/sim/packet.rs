//! A packet as the simulated world carries it: the facts of its headers, and a payload.
//!
//! The [`Header`] is small, `Copy`, and all that NATs, firewalls and links look at. A packet of the world is a header
//! and its bytes ([`Packet`]). A packet of a real kernel is the same header, read from the wire by
//! [`wire::parse`](super::wire::parse) and written back in place by [`wire::rewrite`](super::wire::rewrite). So both
//! worlds share one NAT.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::BitOr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Family;

/// The hop limit of a fresh packet, as Linux sets it.
pub const TTL: u8 = 64;

/// The kind of a flow, which a NAT keeps apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// The Transmission Control Protocol.
    Tcp,
    /// The User Datagram Protocol.
    Udp,
    /// ICMP echo, whose identifier stands for the port (RFC 5508, section 3.1).
    Echo,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Echo => "echo",
        })
    }
}

/// The TCP control bits (RFC 9293, section 3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// The sender synchronises sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// The sender resets the connection.
    pub const RST: Self = Self(0x04);
    /// The sender asks to push data to the program.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);

    /// Tells whether every bit of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Tells whether this opens a connection: SYN without ACK, RST or FIN.
    pub const fn is_syn(self) -> bool {
        self.0 & 0x17 == Self::SYN.0
    }

    /// Tells whether this answers an opening: SYN and ACK without RST.
    pub const fn is_syn_ack(self) -> bool {
        self.0 & 0x16 == Self::SYN.0 | Self::ACK.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, name) in [
            (Self::SYN, "SYN"),
            (Self::FIN, "FIN"),
            (Self::RST, "RST"),
            (Self::PSH, "PSH"),
            (Self::ACK, "ACK"),
        ] {
            if self.has(bit) {
                if !first {
                    f.write_str(",")?;
                }
                f.write_str(name)?;
                first = false;
            }
        }
        if first { f.write_str("-") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The facts of a TCP header that matter to a NAT or firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// The control bits.
    pub flags: Flags,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number; without meaning unless [`Flags::ACK`] is set.
    pub ack: u32,
    /// The payload length in bytes.
    pub len: u16,
}

/// The meaning of an ICMP or ICMPv6 error, in the terms of IPv4 (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IcmpKind {
    /// The network or host is unreachable: type 3 codes 0, 1; ICMPv6 1/0, 1/3.
    HostUnreachable,
    /// The port is unreachable: type 3 code 3; ICMPv6 1/4.
    PortUnreachable,
    /// Communication is administratively prohibited: type 3 code 13; ICMPv6 1/1.
    Prohibited,
    /// The packet is too big: type 3 code 4 (RFC 1191); ICMPv6 type 2.
    TooBig,
    /// The time to live was exceeded in transit: type 11 code 0; ICMPv6 3/0.
    TimeExceeded,
    /// Any other error, kept as it came.
    Other {
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
}

impl fmt::Display for IcmpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostUnreachable => f.write_str("host unreachable"),
            Self::PortUnreachable => f.write_str("port unreachable"),
            Self::Prohibited => f.write_str("administratively prohibited"),
            Self::TooBig => f.write_str("packet too big"),
            Self::TimeExceeded => f.write_str("time exceeded"),
            Self::Other { kind, code } => write!(f, "ICMP {kind}/{code}"),
        }
    }
}

/// The packet that an ICMP error is about, as far as it is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The protocol of the packet.
    pub protocol: Protocol,
    /// The source of the packet.
    pub src: SocketAddr,
    /// The destination of the packet.
    pub dst: SocketAddr,
    /// The sequence number, for TCP; zero otherwise.
    pub seq: u32,
}

/// The content of a packet above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment.
    Tcp(TcpFacts),
    /// A UDP datagram.
    Udp {
        /// The payload length in bytes.
        len: u16,
    },
    /// An ICMP error.
    Icmp {
        /// The meaning of the error.
        kind: IcmpKind,
        /// The packet that it is about.
        quoted: Quoted,
    },
    /// An ICMP echo request or reply. The identifier is the source port of a request and the destination port of a
    /// reply. The other port is zero.
    Echo {
        /// True for a reply, false for a request.
        reply: bool,
        /// The sequence number.
        seq: u16,
        /// The payload length in bytes.
        len: u16,
    },
}

/// The facts of a packet's headers. Ports are zero where the protocol has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The source address and port.
    pub src: SocketAddr,
    /// The destination address and port, of the same family as the source.
    pub dst: SocketAddr,
    /// The time to live or hop limit, 0 … 255.
    pub ttl: u8,
    /// The content above IP.
    pub body: Body,
}

impl Header {
    /// Returns a TCP segment without payload.
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: Flags, seq: u32, ack: u32) -> Self {
        Self { src, dst, ttl: TTL, body: Body::Tcp(TcpFacts { flags, seq, ack, len: 0 }) }
    }

    /// Returns a UDP datagram of `len` bytes.
    pub fn udp(src: SocketAddr, dst: SocketAddr, len: u16) -> Self {
        Self { src, dst, ttl: TTL, body: Body::Udp { len } }
    }

    /// Returns the protocol of the flow, or `None` for an ICMP error, which belongs to the flow it quotes.
    pub fn protocol(&self) -> Option<Protocol> {
        match self.body {
            Body::Tcp(_) => Some(Protocol::Tcp),
            Body::Udp { .. } => Some(Protocol::Udp),
            Body::Echo { .. } => Some(Protocol::Echo),
            Body::Icmp { .. } => None,
        }
    }

    /// Returns the address family.
    pub fn family(&self) -> Family {
        match self.src {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }

    /// Tells whether this opens a TCP connection.
    pub fn is_syn(&self) -> bool {
        matches!(self.body, Body::Tcp(tcp) if tcp.flags.is_syn())
    }

    /// Returns the number of bytes above the transport header.
    pub fn payload_len(&self) -> u16 {
        match self.body {
            Body::Tcp(tcp) => tcp.len,
            Body::Udp { len } | Body::Echo { len, .. } => len,
            Body::Icmp { .. } => 0,
        }
    }

    /// Returns the length on the wire in bytes, IP header included, as [`wire::emit`](super::wire::emit) writes it.
    pub fn wire_len(&self) -> usize {
        let ip = ip_header_len(self.family());
        ip + match self.body {
            Body::Tcp(tcp) => 20 + usize::from(tcp.len),
            Body::Udp { len } | Body::Echo { len, .. } => 8 + usize::from(len),
            Body::Icmp { .. } => 8 + ip + 8,
        }
    }

    /// Returns the RST that a host or NAT sends against this segment (RFC 9293, section 3.10.7.1). It is `None` when
    /// this is no segment or a RST itself.
    pub fn reset(&self) -> Option<Self> {
        let Body::Tcp(tcp) = self.body else { return None };
        if tcp.flags.has(Flags::RST) {
            return None;
        }
        let reset = |flags, seq, ack| Self::tcp(self.dst, self.src, flags, seq, ack);
        Some(if tcp.flags.has(Flags::ACK) {
            reset(Flags::RST, tcp.ack, 0)
        } else {
            let phantom = u32::from(tcp.flags.has(Flags::SYN)) + u32::from(tcp.flags.has(Flags::FIN));
            let ack = tcp.seq.wrapping_add(u32::from(tcp.len)).wrapping_add(phantom);
            reset(Flags::RST | Flags::ACK, 0, ack)
        })
    }

    /// Returns the ICMP error that `from` sends against this packet. It is `None` when this is an ICMP error itself
    /// (RFC 1122, section 3.2.2: never an error about an error).
    pub fn icmp_error(&self, from: IpAddr, kind: IcmpKind) -> Option<Self> {
        let protocol = self.protocol()?;
        Some(Self {
            src: SocketAddr::new(from, 0),
            dst: SocketAddr::new(self.src.ip(), 0),
            ttl: TTL,
            body: Body::Icmp {
                kind,
                quoted: Quoted {
                    protocol,
                    src: self.src,
                    dst: self.dst,
                    seq: match self.body {
                        Body::Tcp(tcp) => tcp.seq,
                        _ => 0,
                    },
                },
            },
        })
    }
}

/// Returns the unspecified address of the same family.
pub(super) fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

pub(super) fn ip_header_len(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.body {
            Body::Tcp(tcp) => {
                write!(f, "{} > {} TCP {} seq {}", self.src, self.dst, tcp.flags, tcp.seq)?;
                if tcp.flags.has(Flags::ACK) {
                    write!(f, " ack {}", tcp.ack)?;
                }
                write!(f, " len {}", tcp.len)
            }
            Body::Udp { len } => write!(f, "{} > {} UDP len {len}", self.src, self.dst),
            Body::Icmp { kind, quoted } => write!(
                f,
                "{} > {} ICMP {kind} about {} {} > {}",
                self.src.ip(),
                self.dst.ip(),
                quoted.protocol,
                quoted.src,
                quoted.dst
            ),
            Body::Echo { reply, seq, .. } => {
                let (id, what) =
                    if reply { (self.dst.port(), "reply") } else { (self.src.port(), "request") };
                write!(f, "{} > {} echo {what} id {id} seq {seq}", self.src.ip(), self.dst.ip())
            }
        }
    }
}

/// A packet of the simulated world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The headers of the packet. The lengths in them are those of the payload.
    pub header: Header,
    /// The payload; empty for an ICMP error.
    pub payload: Bytes,
}

impl Packet {
    /// Makes a UDP datagram, or returns `None` when the payload exceeds 65,507 bytes, the most that IPv4 carries.
    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: Bytes) -> Option<Self> {
        const MOST: usize = 65_507;
        let len = u16::try_from(payload.len()).ok().filter(|len| usize::from(*len) <= MOST)?;
        Some(Self { header: Header::udp(src, dst, len), payload })
    }
}

/// Makes a packet without payload.
impl From<Header> for Packet {
    fn from(header: Header) -> Self {
        Self { header, payload: Bytes::new() }
    }
}
