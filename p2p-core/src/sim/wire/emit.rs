//! The conversion of a packet of the world to bytes.

use std::net::SocketAddr;

use super::{
    ICMP, ICMPV6, Layout, TCP, UDP, checksum_offset, echo_id, fold, icmp_type, pseudo_header, put_ip, put16,
    sum,
};
use crate::Family;
use crate::sim::packet::{Body, Packet, Protocol, ip_header_len};

/// Returns the bytes of a packet, with all checksums, as a plain host would send it. There are no options, DF is set,
/// and each segment has a window of 65,535.
pub fn emit(packet: &Packet) -> Vec<u8> {
    let header = &packet.header;
    let family = header.family();
    let ip = ip_header_len(family);
    let mut bytes = vec![0; ip];
    let protocol = emit_l4(&mut bytes, packet);
    let total = bytes.len();
    match family {
        Family::V4 => {
            bytes[0] = 0x45;
            put16(&mut bytes, 2, total as u16);
            put16(&mut bytes, 6, 0x4000);
            bytes[9] = protocol;
        }
        Family::V6 => {
            bytes[0] = 0x60;
            put16(&mut bytes, 4, (total - ip) as u16);
            bytes[6] = protocol;
        }
    }
    put_ip(&mut bytes, header.src.ip(), 12, 8);
    put_ip(&mut bytes, header.dst.ip(), 16, 24);
    match family {
        Family::V4 => {
            bytes[8] = header.ttl;
            let check = !fold(sum(&bytes[..ip]));
            put16(&mut bytes, 10, check);
        }
        Family::V6 => bytes[7] = header.ttl,
    }
    let layout = Layout { family, l4: ip, protocol, end: total };
    let check = match !fold(sum(&bytes[ip..]) + pseudo_header(&layout, header)) {
        0 if protocol == UDP => 0xffff,
        check => check,
    };
    put16(&mut bytes, ip + checksum_offset(protocol), check);
    bytes
}

/// Appends everything above IP, checksum zero, and returns the IP protocol number.
fn emit_l4(bytes: &mut Vec<u8>, packet: &Packet) -> u8 {
    let header = &packet.header;
    let family = header.family();
    let icmp = if family == Family::V4 { ICMP } else { ICMPV6 };
    let ports = |src: SocketAddr, dst: SocketAddr| {
        let ([a, b], [c, d]) = (src.port().to_be_bytes(), dst.port().to_be_bytes());
        [a, b, c, d]
    };
    match header.body {
        Body::Tcp(tcp) => {
            bytes.extend(ports(header.src, header.dst));
            bytes.extend(tcp.seq.to_be_bytes());
            bytes.extend(tcp.ack.to_be_bytes());
            bytes.extend([0x50, tcp.flags.0, 0xff, 0xff, 0, 0, 0, 0]);
            bytes.extend(&packet.payload);
            TCP
        }
        Body::Udp { .. } => {
            bytes.extend(ports(header.src, header.dst));
            bytes.extend(((packet.payload.len() + 8) as u16).to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(&packet.payload);
            UDP
        }
        Body::Echo { reply, seq, .. } => {
            let kind = match (family, reply) {
                (Family::V4, false) => 8,
                (Family::V4, true) => 0,
                (Family::V6, false) => 128,
                (Family::V6, true) => 129,
            };
            bytes.extend([kind, 0, 0, 0]);
            bytes.extend(echo_id(header.src, header.dst, reply).to_be_bytes());
            bytes.extend(seq.to_be_bytes());
            bytes.extend(&packet.payload);
            icmp
        }
        Body::Icmp { kind, quoted } => {
            let (kind, code) = icmp_type(family, kind);
            bytes.extend([kind, code, 0, 0, 0, 0, 0, 0]);
            let start = bytes.len();
            bytes.resize(start + ip_header_len(family), 0);
            let (protocol, l4): (u8, [u8; 8]) = match quoted.protocol {
                Protocol::Tcp => {
                    let [a, b, c, d] = ports(quoted.src, quoted.dst);
                    let [e, f, g, h] = quoted.seq.to_be_bytes();
                    (TCP, [a, b, c, d, e, f, g, h])
                }
                Protocol::Udp => {
                    let [a, b, c, d] = ports(quoted.src, quoted.dst);
                    (UDP, [a, b, c, d, 0, 8, 0, 0])
                }
                Protocol::Echo => {
                    // The end that asked has a port. So the quoted packet is a reply when that is its destination.
                    let reply = quoted.src.port() == 0;
                    let [a, b] = echo_id(quoted.src, quoted.dst, reply).to_be_bytes();
                    let kind = match (family, reply) {
                        (Family::V4, false) => 8,
                        (Family::V4, true) => 0,
                        (Family::V6, false) => 128,
                        (Family::V6, true) => 129,
                    };
                    (icmp, [kind, 0, 0, 0, a, b, 0, 0])
                }
            };
            let inner = &mut bytes[start..];
            match family {
                Family::V4 => {
                    inner[0] = 0x45;
                    put16(inner, 2, 28);
                    put16(inner, 6, 0x4000);
                    inner[8] = 1;
                    inner[9] = protocol;
                }
                Family::V6 => {
                    inner[0] = 0x60;
                    put16(inner, 4, 8);
                    inner[6] = protocol;
                    inner[7] = 1;
                }
            }
            put_ip(inner, quoted.src.ip(), 12, 8);
            put_ip(inner, quoted.dst.ip(), 16, 24);
            if family == Family::V4 {
                let check = !fold(sum(inner));
                put16(inner, 10, check);
            }
            bytes.extend(l4);
            icmp
        }
    }
}
