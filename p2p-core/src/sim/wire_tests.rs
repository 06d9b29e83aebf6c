use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::Seed;
use crate::sim::epoch;
use crate::sim::nat::{NatConfig, Verdict};
use crate::sim::packet::Packet;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns one packet of each kind and family.
fn zoo() -> Vec<Packet> {
    let mut zoo = Vec::new();
    for (here, there) in
        [("192.168.1.10:40000", "203.0.113.5:443"), ("[2001:db8::1]:40000", "[2001:db8:1::5]:443")]
    {
        let (here, there) = (at(here), at(there));
        let syn = Header::tcp(here, there, Flags::SYN, 0x1234_5678, 0);
        zoo.push(syn.into());
        let mut data = Header::tcp(here, there, Flags::ACK | Flags::PSH, 7, 9);
        data.body = Body::Tcp(TcpFacts { flags: Flags::ACK | Flags::PSH, seq: 7, ack: 9, len: 5 });
        zoo.push(Packet { header: data, payload: Bytes::from_static(b"hello") });
        zoo.push(Packet::udp(here, there, Bytes::from_static(b"odd")).unwrap());
        let echo = Packet {
            header: Header {
                dst: SocketAddr::new(there.ip(), 0),
                body: Body::Echo { reply: false, seq: 3, len: 4 },
                ..syn
            },
            payload: Bytes::from_static(b"ping"),
        };
        for about in [syn, Header::udp(here, there, 0), echo.header] {
            let error = about.icmp_error(there.ip(), IcmpKind::PortUnreachable).unwrap();
            zoo.push(error.into());
        }
        zoo.push(echo);
    }
    zoo
}

#[test]
fn what_is_written_is_read() {
    for packet in zoo() {
        let bytes = emit(&packet);
        assert_eq!(parse(&bytes), Ok(packet.header), "{}", packet.header);
        assert_eq!(bytes.len(), packet.header.wire_len(), "{}", packet.header);
        assert_eq!(checksum_holds(&bytes), Ok(true), "{}", packet.header);
    }
}

/// Returns the same packet with other ends, of the same family.
fn moved(mut header: Header) -> Header {
    let (src, dst) = match header.family() {
        Family::V4 => ("198.51.100.7", "10.9.8.7"),
        Family::V6 => ("2001:db8:77::7", "fd00::7"),
    };
    let move_to = |end: &mut SocketAddr, ip: &str, port| {
        let port = if end.port() == 0 { 0 } else { port };
        *end = SocketAddr::new(ip.parse().unwrap(), port);
    };
    move_to(&mut header.src, src, 61_001);
    move_to(&mut header.dst, dst, 1_025);
    header.ttl = 17;
    if let Body::Icmp { quoted, .. } = &mut header.body {
        move_to(&mut quoted.src, dst, 777);
        move_to(&mut quoted.dst, src, 65_535);
    }
    header
}

#[test]
fn a_rewritten_packet_is_the_one_that_would_have_been_written() {
    for mut packet in zoo() {
        let mut bytes = emit(&packet);
        packet.header = moved(packet.header);
        rewrite(&mut bytes, &packet.header, Checksum::Full).unwrap();
        assert_eq!(parse(&bytes), Ok(packet.header));
        assert_eq!(checksum_holds(&bytes), Ok(true), "{}", packet.header);
        // The checksum of a quoted echo covers bytes that are not quoted.
        if !matches!(packet.header.body, Body::Icmp { quoted, .. } if quoted.protocol == Protocol::Echo) {
            assert_eq!(bytes, emit(&packet), "{}", packet.header);
        }
    }
}

#[test]
fn options_payload_and_padding_stay() {
    // These are an IPv4 header with a router-alert option, a TCP header with MSS and SACK-permitted, two bytes of
    // payload, and three of padding behind it all.
    let mut bytes =
        vec![0x46, 0, 0, 54, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 203, 0, 113, 5, 0x94, 4, 0, 0];
    let check = !fold(sum(&bytes));
    put16(&mut bytes, 10, check);
    bytes.extend([0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]);
    bytes.extend([2, 4, 5, 0xb4, 4, 2, 1, 1, 0xca, 0xfe]);
    let header = parse(&bytes).unwrap();
    let layout = layout(&bytes, false).unwrap();
    let check = !fold(sum(&bytes[24..]) + pseudo_header(&layout, &header));
    put16(&mut bytes, 24 + 16, check);
    assert_eq!(checksum_holds(&bytes), Ok(true));
    bytes.extend([9, 9, 9]);
    let before = bytes.clone();
    assert!(matches!(header.body, Body::Tcp(TcpFacts { len: 2, .. })));
    let there = moved(header);
    rewrite(&mut bytes, &there, Checksum::Full).unwrap();
    assert_eq!(checksum_holds(&bytes), Ok(true));
    assert_eq!(before[20..24], bytes[20..24]);
    assert_eq!(before[28..40], bytes[28..40]);
    assert_eq!(before[42..], bytes[42..]);
    rewrite(&mut bytes, &header, Checksum::Full).unwrap();
    assert_eq!(before, bytes, "there and back again");
}

#[test]
fn a_damaged_packet_stays_damaged_and_a_missing_checksum_stays_missing() {
    let [here, there] = [at("10.0.0.1:5000"), at("203.0.113.5:53")];
    let packet = Packet::udp(here, there, Bytes::from_static(b"query")).unwrap();
    let mut bytes = emit(&packet);
    bytes[30] ^= 1;
    assert_eq!(checksum_holds(&bytes), Ok(false));
    rewrite(&mut bytes, &moved(packet.header), Checksum::Full).unwrap();
    assert_eq!(checksum_holds(&bytes), Ok(false));

    let mut bytes = emit(&packet);
    put16(&mut bytes, 26, 0);
    rewrite(&mut bytes, &moved(packet.header), Checksum::Full).unwrap();
    assert_eq!(be16(&bytes, 26), Ok(0));
}

#[test]
fn a_partial_checksum_holds_the_pseudo_header_only() {
    for packet in zoo() {
        if !matches!(packet.header.body, Body::Tcp(_) | Body::Udp { .. }) {
            continue;
        }
        let partial = |header: &Header, bytes: &[u8]| {
            let layout = layout(bytes, false).unwrap();
            fold(pseudo_header(&layout, header))
        };
        let mut bytes = emit(&packet);
        let parts = layout(&bytes, false).unwrap();
        let check_at = parts.l4 + checksum_offset(parts.protocol);
        let start = partial(&packet.header, &bytes);
        put16(&mut bytes, check_at, start);
        let there = moved(packet.header);
        rewrite(&mut bytes, &there, Checksum::Partial).unwrap();
        assert_eq!(be16(&bytes, check_at), Ok(partial(&there, &bytes)), "{there}");
    }
}

#[test]
fn each_fault_has_its_name() {
    let good = emit(&Header::tcp(at("10.0.0.1:1"), at("10.0.0.2:2"), Flags::SYN, 1, 0).into());
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        // The header checksum is made right again, so that it is not the fault that is found.
        if bytes.len() >= 20 {
            put16(&mut bytes, 10, 0);
            let check = !fold(sum(&bytes[..20]));
            put16(&mut bytes, 10, check);
        }
        parse(&bytes).unwrap_err()
    };
    assert_eq!(broken(&|bytes| bytes.clear()), Malformed::Truncated);
    assert_eq!(broken(&|bytes| bytes.truncate(39)), Malformed::Truncated);
    assert_eq!(broken(&|bytes| bytes[0] = 0x55), Malformed::Version(5));
    assert_eq!(broken(&|bytes| bytes[0] = 0x44), Malformed::HeaderLength);
    assert_eq!(broken(&|bytes| bytes[32] = 0x40), Malformed::HeaderLength);
    assert_eq!(broken(&|bytes| bytes[32] = 0x60), Malformed::Truncated);
    assert_eq!(broken(&|bytes| bytes[6] = 0x20), Malformed::Fragment);
    assert_eq!(broken(&|bytes| bytes[7] = 1), Malformed::Fragment);
    assert_eq!(broken(&|bytes| bytes[9] = 47), Malformed::Protocol(47));
    let icmp = |kind| {
        broken(&|bytes| {
            bytes[9] = ICMP;
            bytes[20] = kind;
        })
    };
    assert_eq!(icmp(13), Malformed::Icmp(13));
    assert_eq!(icmp(3), Malformed::Quote);
    let mut bytes = good.clone();
    bytes[10] ^= 0xff;
    assert_eq!(parse(&bytes), Err(Malformed::Checksum));
    let mut bytes = good.clone();
    let udp = Header::udp(at("10.0.0.1:1"), at("10.0.0.2:2"), 0);
    assert_eq!(rewrite(&mut bytes, &udp, Checksum::Full), Err(Malformed::Mismatch));
    assert_eq!(bytes, good);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = checksum_holds(&bytes);
    }

    /// Sends real packets with a few bytes changed through a NAT, as they get further than noise does.
    #[test]
    fn damaged_packets_through_a_nat_never_panic(
        which in 0..14_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        out in any::<bool>(),
        mend in any::<bool>(),
        partial in any::<bool>(),
    ) {
        let zoo = zoo();
        let mut bytes = emit(&zoo[which % zoo.len()]);
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        if mend && bytes.len() >= 20 && bytes[0] == 0x45 {
            put16(&mut bytes, 10, 0);
            let check = !fold(sum(&bytes[..20]));
            put16(&mut bytes, 10, check);
        }
        let Ok(mut header) = parse(&bytes) else { return Ok(()) };
        let external = if header.src.is_ipv4() { "198.51.100.1" } else { "2001:db8:ff::1" };
        let config = NatConfig::linux_masquerade(external.parse().unwrap());
        let mut nat = crate::sim::nat::Nat::new(config, Seed::from_u64(1)).unwrap();
        let verdict = if out {
            nat.outbound(&mut header, epoch())
        } else {
            nat.inbound(&mut header, epoch())
        };
        if verdict == Verdict::Forward {
            let held = checksum_holds(&bytes);
            let state = if partial { Checksum::Partial } else { Checksum::Full };
            rewrite(&mut bytes, &header, state).unwrap();
            prop_assert_eq!(parse(&bytes), Ok(header));
            if !partial {
                prop_assert_eq!(checksum_holds(&bytes), held);
            }
        }
        if let Verdict::Answer(answer, _) = verdict {
            prop_assert_eq!(parse(&emit(&answer.into())), Ok(answer));
        }
    }
}
