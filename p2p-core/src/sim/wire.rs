//! Raw IP bytes and [`Header`]s: read, rewritten in place, and written.
//!
//! Reading loses nothing, because rewriting touches only what a NAT may touch: addresses, ports, the hop limit and
//! the checksums over them. TCP options, IP options and payload stay as they came. Checksums are updated by the
//! difference (RFC 1624), so a packet that came damaged leaves damaged.

mod emit;
mod rewrite;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

pub use emit::emit;
pub use rewrite::rewrite;

use super::packet::{Body, Flags, Header, IcmpKind, Protocol, Quoted, TcpFacts};
use crate::Family;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A reason why bytes cannot be carried: the sender's fault, or nothing that a NAT can translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Malformed {
    /// A header or a length field reaches beyond the end.
    #[error("the packet ends inside a header")]
    Truncated,
    /// The packet is neither IPv4 nor IPv6.
    #[error("IP version {0}")]
    Version(u8),
    /// A length field is smaller than its own header.
    #[error("a header is shorter than it may be")]
    HeaderLength,
    /// The IPv4 header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    Checksum,
    /// The packet is a fragment, which carries no ports. Hosts of the lab find the path MTU instead.
    #[error("fragments are not translated")]
    Fragment,
    /// The packet is not TCP, UDP or ICMP.
    #[error("IP protocol {0} is not translated")]
    Protocol(u8),
    /// An ICMP message is neither an echo nor an error; neighbour discovery is one.
    #[error("ICMP type {0} is not translated")]
    Icmp(u8),
    /// An ICMP error quotes too little to find the flow.
    #[error("the ICMP error does not quote a flow")]
    Quote,
    /// The header given to [`rewrite`] is of another packet, which is the caller's fault.
    #[error("the header does not belong to these bytes")]
    Mismatch,
}

/// The state of the transport checksum in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum covers the whole packet, as on the wire.
    Full,
    /// The checksum holds only the pseudo-header, not complemented. Linux hands over such a packet when segmentation
    /// offload will finish it (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial,
}

/// The offsets in the bytes of one packet.
struct Layout {
    family: Family,
    /// The start of the transport header.
    l4: usize,
    protocol: u8,
    /// The end of the IP packet; bytes after it are padding.
    end: usize,
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Malformed::Truncated),
    }
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    Ok(u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?))
}

fn octet(bytes: &[u8], at: usize) -> Result<u8, Malformed> {
    bytes.get(at).copied().ok_or(Malformed::Truncated)
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Returns the one's complement sum, unfolded (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let mut sum: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    sum
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Returns the sum of an address, as in pseudo-headers and IPv4 headers.
fn sum_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    }
}

fn ip_at(bytes: &[u8], family: Family, v4: usize, v6: usize) -> Result<IpAddr, Malformed> {
    Ok(match family {
        Family::V4 => Ipv4Addr::from(be32(bytes, v4)?).into(),
        Family::V6 => {
            let octets: [u8; 16] = bytes
                .get(v6..v6 + 16)
                .and_then(|octets| octets.try_into().ok())
                .ok_or(Malformed::Truncated)?;
            Ipv6Addr::from(octets).into()
        }
    })
}

fn source(bytes: &[u8], family: Family) -> Result<IpAddr, Malformed> {
    ip_at(bytes, family, 12, 8)
}

fn destination(bytes: &[u8], family: Family) -> Result<IpAddr, Malformed> {
    ip_at(bytes, family, 16, 24)
}

/// Reads the IP header. A quoted packet is rightly cut short, so its length field does not count.
fn layout(bytes: &[u8], quoted: bool) -> Result<Layout, Malformed> {
    match octet(bytes, 0)? >> 4 {
        4 => {
            let l4 = usize::from(octet(bytes, 0)? & 0x0f) * 4;
            if l4 < 20 {
                return Err(Malformed::HeaderLength);
            }
            let header = bytes.get(..l4).ok_or(Malformed::Truncated)?;
            let total = usize::from(be16(bytes, 2)?);
            let end = if quoted { bytes.len() } else { total };
            if end < l4 {
                return Err(Malformed::HeaderLength);
            }
            if end > bytes.len() {
                return Err(Malformed::Truncated);
            }
            if !quoted && fold(sum(header)) != 0xffff {
                return Err(Malformed::Checksum);
            }
            // The packet is a fragment: it is not the last one, or not the first one.
            if be16(bytes, 6)? & 0x3fff != 0 {
                return Err(Malformed::Fragment);
            }
            Ok(Layout { family: Family::V4, l4, protocol: octet(bytes, 9)?, end })
        }
        6 => {
            let total = 40 + usize::from(be16(bytes, 4)?);
            let end = if quoted { bytes.len() } else { total };
            if end > bytes.len() || bytes.len() < 40 {
                return Err(Malformed::Truncated);
            }
            let (mut l4, mut protocol) = (40, octet(bytes, 6)?);
            // These are hop-by-hop options, routing and destination options (RFC 8200, section 4).
            while let 0 | 43 | 60 = protocol {
                protocol = octet(bytes, l4)?;
                l4 += (usize::from(octet(bytes, l4 + 1)?) + 1) * 8;
                if l4 > end {
                    return Err(Malformed::Truncated);
                }
            }
            if protocol == 44 {
                return Err(Malformed::Fragment);
            }
            Ok(Layout { family: Family::V6, l4, protocol, end })
        }
        version => Err(Malformed::Version(version)),
    }
}

fn icmp_kind(family: Family, kind: u8, code: u8) -> Option<IcmpKind> {
    Some(match (family, kind, code) {
        (Family::V4, 3, 0 | 1) | (Family::V6, 1, 0 | 3) => IcmpKind::HostUnreachable,
        (Family::V4, 3, 3) | (Family::V6, 1, 4) => IcmpKind::PortUnreachable,
        (Family::V4, 3, 13) | (Family::V6, 1, 1) => IcmpKind::Prohibited,
        (Family::V4, 3, 4) | (Family::V6, 2, _) => IcmpKind::TooBig,
        (Family::V4, 11, 0) | (Family::V6, 3, 0) => IcmpKind::TimeExceeded,
        (Family::V4, 3 | 11 | 12, _) | (Family::V6, 1 | 3 | 4, _) => IcmpKind::Other { kind, code },
        _ => return None,
    })
}

fn icmp_type(family: Family, kind: IcmpKind) -> (u8, u8) {
    match (family, kind) {
        (Family::V4, IcmpKind::HostUnreachable) => (3, 1),
        (Family::V4, IcmpKind::PortUnreachable) => (3, 3),
        (Family::V4, IcmpKind::Prohibited) => (3, 13),
        (Family::V4, IcmpKind::TooBig) => (3, 4),
        (Family::V4, IcmpKind::TimeExceeded) => (11, 0),
        (Family::V6, IcmpKind::HostUnreachable) => (1, 3),
        (Family::V6, IcmpKind::PortUnreachable) => (1, 4),
        (Family::V6, IcmpKind::Prohibited) => (1, 1),
        (Family::V6, IcmpKind::TooBig) => (2, 0),
        (Family::V6, IcmpKind::TimeExceeded) => (3, 0),
        (_, IcmpKind::Other { kind, code }) => (kind, code),
    }
}

/// Returns `Some` for an ICMP message that is an echo, with true when it is a reply.
fn echo(family: Family, kind: u8) -> Option<bool> {
    match (family, kind) {
        (Family::V4, 8) | (Family::V6, 128) => Some(false),
        (Family::V4, 0) | (Family::V6, 129) => Some(true),
        _ => None,
    }
}

fn is_icmp(layout: &Layout) -> bool {
    matches!((layout.family, layout.protocol), (Family::V4, ICMP) | (Family::V6, ICMPV6))
}

/// Returns the ends of an echo, where the identifier is the port of the end that asked.
fn echo_ends(src: IpAddr, dst: IpAddr, reply: bool, id: u16) -> (SocketAddr, SocketAddr) {
    let (from, to) = if reply { (0, id) } else { (id, 0) };
    (SocketAddr::new(src, from), SocketAddr::new(dst, to))
}

/// Reads the headers of one IP packet. Bytes beyond the IP length are ignored.
///
/// The IPv4 header checksum must be right. The transport checksum is not looked at; see [`checksum_holds`].
///
/// # Errors
/// [`Malformed`] when the bytes are no packet, or none that a NAT translates.
pub fn parse(bytes: &[u8]) -> Result<Header, Malformed> {
    let layout = layout(bytes, false)?;
    let bytes = &bytes[..layout.end];
    let (src, dst) = (source(bytes, layout.family)?, destination(bytes, layout.family)?);
    let ttl = octet(bytes, if layout.family == Family::V4 { 8 } else { 7 })?;
    let l4 = layout.l4;
    let rest = layout.end - l4;
    let with_ports = |body| {
        Ok(Header {
            src: SocketAddr::new(src, be16(bytes, l4)?),
            dst: SocketAddr::new(dst, be16(bytes, l4 + 2)?),
            ttl,
            body,
        })
    };
    match layout.protocol {
        TCP => {
            let header = usize::from(octet(bytes, l4 + 12)? >> 4) * 4;
            if header < 20 {
                return Err(Malformed::HeaderLength);
            }
            with_ports(Body::Tcp(TcpFacts {
                flags: Flags(octet(bytes, l4 + 13)?),
                seq: be32(bytes, l4 + 4)?,
                ack: be32(bytes, l4 + 8)?,
                len: rest.checked_sub(header).ok_or(Malformed::Truncated)? as u16,
            }))
        }
        UDP => {
            let len = be16(bytes, l4 + 4)?;
            be16(bytes, l4 + 6)?;
            if usize::from(len) > rest {
                return Err(Malformed::Truncated);
            }
            let len = len.checked_sub(8).ok_or(Malformed::HeaderLength)?;
            with_ports(Body::Udp { len })
        }
        _ if is_icmp(&layout) => {
            let (kind, code) = (octet(bytes, l4)?, octet(bytes, l4 + 1)?);
            let id = be16(bytes, l4 + 4)?;
            let seq = be16(bytes, l4 + 6)?;
            if let Some(reply) = echo(layout.family, kind) {
                let (src, dst) = echo_ends(src, dst, reply, id);
                let len = (rest - 8) as u16;
                return Ok(Header { src, dst, ttl, body: Body::Echo { reply, seq, len } });
            }
            let kind = icmp_kind(layout.family, kind, code).ok_or(Malformed::Icmp(kind))?;
            let quoted = quoted(&bytes[l4 + 8..], layout.family)?;
            Ok(Header {
                src: SocketAddr::new(src, 0),
                dst: SocketAddr::new(dst, 0),
                ttl,
                body: Body::Icmp { kind, quoted },
            })
        }
        other => Err(Malformed::Protocol(other)),
    }
}

fn quoted(bytes: &[u8], family: Family) -> Result<Quoted, Malformed> {
    let layout = layout(bytes, true).map_err(|_| Malformed::Quote)?;
    if layout.family != family {
        return Err(Malformed::Quote);
    }
    let read = || -> Result<Quoted, Malformed> {
        let (src, dst) = (source(bytes, family)?, destination(bytes, family)?);
        let (first, second) = (be16(bytes, layout.l4)?, be16(bytes, layout.l4 + 2)?);
        let word = be32(bytes, layout.l4 + 4)?;
        let ports = (SocketAddr::new(src, first), SocketAddr::new(dst, second));
        let (protocol, (src, dst), seq) = match layout.protocol {
            TCP => (Protocol::Tcp, ports, word),
            UDP => (Protocol::Udp, ports, 0),
            _ if is_icmp(&layout) => {
                let reply = echo(family, (first >> 8) as u8).ok_or(Malformed::Quote)?;
                let ends = echo_ends(src, dst, reply, (word >> 16) as u16);
                (Protocol::Echo, ends, 0)
            }
            _ => return Err(Malformed::Quote),
        };
        Ok(Quoted { protocol, src, dst, seq })
    };
    read().map_err(|_| Malformed::Quote)
}

/// Returns the offset of the transport checksum, counted from the transport header.
fn checksum_offset(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// Tells whether the transport checksum of a whole packet is right. A UDP checksum of zero over IPv4 means that there
/// is none, and counts as right.
///
/// # Errors
/// As [`parse`].
pub fn checksum_holds(bytes: &[u8]) -> Result<bool, Malformed> {
    let header = parse(bytes)?;
    let layout = layout(bytes, false)?;
    let l4 = &bytes[layout.l4..layout.end];
    let none = be16(l4, checksum_offset(layout.protocol))? == 0;
    if layout.protocol == UDP && layout.family == Family::V4 && none {
        return Ok(true);
    }
    Ok(fold(sum(l4) + pseudo_header(&layout, &header)) == 0xffff)
}

/// Returns the sum of the pseudo-header, and zero for ICMP over IPv4, which has none.
fn pseudo_header(layout: &Layout, header: &Header) -> u64 {
    if layout.protocol == ICMP {
        return 0;
    }
    let len = (layout.end - layout.l4) as u64;
    sum_ip(header.src.ip()) + sum_ip(header.dst.ip()) + u64::from(layout.protocol) + len
}

fn put_ip(bytes: &mut [u8], ip: IpAddr, v4: usize, v6: usize) {
    match ip {
        IpAddr::V4(ip) => bytes[v4..v4 + 4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[v6..v6 + 16].copy_from_slice(&ip.octets()),
    }
}

fn echo_id(src: SocketAddr, dst: SocketAddr, reply: bool) -> u16 {
    if reply { dst.port() } else { src.port() }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
