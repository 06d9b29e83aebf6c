use bytes::Bytes;
use p2p_core::signal::link::Login;
use proptest::prelude::*;

use super::*;

const BOTH: [MqttVersion; 2] = [MqttVersion::V3, MqttVersion::V5];

fn decode(protocol: MqttVersion, bytes: &[u8]) -> Result<Option<Packet>, CodecError> {
    Codec::new(protocol).decode(&mut BytesMut::from(bytes))
}

fn encode(protocol: MqttVersion, packet: Packet) -> Result<BytesMut, CodecError> {
    let mut bytes = BytesMut::new();
    Codec::new(protocol).encode(packet, &mut bytes)?;
    Ok(bytes)
}

fn connect(protocol: MqttVersion) -> Packet {
    Packet::Connect(Connect {
        protocol,
        client_id: "ABCDEFGH".into(),
        keep_alive: 30,
        login: Some(Login { user: "u".into(), password: "p".into() }),
        receive_max: 16,
    })
}

#[test]
fn the_hello_in_bytes() {
    // 3.1.1: name, level 4, flags user + password + clean, keep alive 30, client id, user, password.
    let v4 = encode(MqttVersion::V3, connect(MqttVersion::V3)).unwrap();
    assert_eq!(&v4[..], b"\x10\x1a\x00\x04MQTT\x04\xc2\x00\x1e\x00\x08ABCDEFGH\x00\x01u\x00\x01p");
    // 5: level 5, and 3 bytes of properties: receive maximum 16.
    let v5 = encode(MqttVersion::V5, connect(MqttVersion::V5)).unwrap();
    let properties = b"\x03\x21\x00\x10";
    assert_eq!(&v5[..12], b"\x10\x1e\x00\x04MQTT\x05\xc2\x00\x1e");
    assert_eq!(&v5[12..16], properties);
    assert_eq!(&v5[16..], b"\x00\x08ABCDEFGH\x00\x01u\x00\x01p");
}

#[test]
fn every_refusal_of_a_connection_has_its_word() {
    for protocol in BOTH {
        for (code, word) in [
            (0, ConnectCode::Accepted),
            (1, ConnectCode::BadProtocol),
            (2, ConnectCode::BadClientId),
            (3, ConnectCode::Other(0x88)),
            (4, ConnectCode::BadLogin),
            (5, ConnectCode::NotAuthorised),
        ] {
            let Ok(Some(Packet::ConnAck(ack))) = decode(protocol, &[0x20, 2, 0, code]) else {
                panic!("{protocol}: a 3.1.1 answer must be understood in either version");
            };
            assert_eq!(ack.code, word);
        }
    }
    for (code, word) in [
        (0, ConnectCode::Accepted),
        (0x84, ConnectCode::BadProtocol),
        (0x85, ConnectCode::BadClientId),
        (0x86, ConnectCode::BadLogin),
        (0x87, ConnectCode::NotAuthorised),
        (0x97, ConnectCode::Other(0x97)),
        (0x9f, ConnectCode::Other(0x9f)),
    ] {
        let Ok(Some(Packet::ConnAck(ack))) = decode(MqttVersion::V5, &[0x20, 3, 0, code, 0]) else {
            panic!("{code:#x}");
        };
        assert_eq!(ack.code, word);
    }
    let limits = [0x20, 14, 1, 0, 11, 0x21, 0, 7, 0x27, 0, 0, 1, 0, 0x13, 0, 9];
    let Ok(Some(Packet::ConnAck(ack))) = decode(MqttVersion::V5, &limits) else {
        panic!("limits");
    };
    let said = (ack.session_present, ack.receive_max, ack.max_packet, ack.keep_alive);
    assert_eq!(said, (true, Some(7), Some(256), Some(9)));
}

#[test]
fn short_farewells_and_acknowledgements_are_whole() {
    for (bytes, reason) in
        [(&[0xe0, 0][..], 0), (&[0xe0, 1, 0x8e][..], 0x8e), (&[0xe0, 2, 0x8b, 0][..], 0x8b)]
    {
        assert_eq!(decode(MqttVersion::V5, bytes).unwrap(), Some(Packet::Disconnect { reason }));
    }
    for (bytes, reason) in
        [(&[0x40, 2, 0, 7][..], 0), (&[0x40, 3, 0, 7, 0x10][..], 0x10), (&[0x40, 4, 0, 7, 0x87, 0][..], 0x87)]
    {
        assert_eq!(decode(MqttVersion::V5, bytes).unwrap(), Some(Packet::PubAck { id: 7, reason }));
    }
}

#[test]
fn a_packet_cut_within_its_properties_is_an_error_and_not_a_wait() {
    // A SUBACK with a packet identifier and nothing else; a PUBLISH with a topic and nothing else.
    for bytes in [&[0x90, 2, 0, 1][..], &[0x30, 3, 0, 1, b't'][..]] {
        assert!(matches!(decode(MqttVersion::V5, bytes), Err(CodecError::Malformed(_))));
    }
}

#[test]
fn what_a_client_never_gets_is_an_error() {
    for kind in [0, 1, 5, 6, 7, 8, 10, 11, 12, 15] {
        for protocol in BOTH {
            assert!(matches!(decode(protocol, &[kind << 4, 0]), Err(CodecError::Malformed(_))));
        }
    }
    let qos2 = [0x34, 6, 0, 1, b't', 0, 1, 0];
    assert!(matches!(decode(MqttVersion::V5, &qos2), Err(CodecError::Malformed(_))));
    assert!(encode(MqttVersion::V5, Packet::PingResp).is_err());
}

#[test]
fn too_large_is_refused_before_it_is_read() {
    // Says it is 2 MB long, and is no message; 5 bytes of it are here.
    for protocol in BOTH {
        let refused = decode(protocol, &[0x90, 0xff, 0xff, 0x7f, 0]);
        assert!(matches!(refused, Err(CodecError::Malformed(_))), "{refused:?}");
        let packet = Packet::Publish {
            topic: "t".into(),
            payload: vec![0; MAX_PACKET as usize].into(),
            id: Some(1),
            dup: false,
        };
        assert!(matches!(encode(protocol, packet), Err(CodecError::Unsendable(_))));
    }
}

fn packets() -> impl Strategy<Value = Packet> {
    let payload = prop::collection::vec(any::<u8>(), 0..600).prop_map(Bytes::from);
    let id = prop::option::of(1..=u16::MAX);
    let publish = ("[a-z/]{1,40}", payload, id, any::<bool>());
    prop_oneof![
        publish.prop_map(|(topic, payload, id, dup)| Packet::Publish { topic, payload, id, dup }),
        (1..=u16::MAX).prop_map(|id| Packet::PubAck { id, reason: 0 }),
        Just(Packet::Disconnect { reason: 0 }),
    ]
}

proptest! {
    #[test]
    fn what_goes_both_ways_comes_back_in_any_pieces(
        sent in prop::collection::vec(packets(), 1..8),
        cuts in prop::collection::vec(1usize..50, 1..40),
        v5 in any::<bool>(),
    ) {
        let protocol = BOTH[usize::from(v5)];
        let mut wire = Vec::new();
        for packet in &sent {
            wire.extend_from_slice(&encode(protocol, packet.clone()).unwrap());
        }
        let (mut codec, mut buffer, mut got) = (Codec::new(protocol), BytesMut::new(), Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            rest = more;
            buffer.extend_from_slice(piece);
            while let Some(packet) = codec.decode(&mut buffer).unwrap() {
                got.push(packet);
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_hold_more_than_a_packet(
        mut bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        kind in prop::sample::select(vec![None, Some(CONNACK), Some(PUBLISH), Some(PUBACK), Some(SUBACK), Some(DISCONNECT)]),
        length in any::<Option<u8>>(),
        v5 in any::<bool>(),
    ) {
        if let (Some(kind), Some(first)) = (kind, bytes.first_mut()) {
            *first = kind << 4 | *first & 0x0f;
        }
        if let (Some(length), Some(second)) = (length, bytes.get_mut(1)) {
            *second = length & 0x7f;
        }
        let (mut codec, mut buffer) = (Codec::new(BOTH[usize::from(v5)]), BytesMut::from(&bytes[..]));
        loop {
            let before = buffer.len();
            match codec.decode(&mut buffer) {
                Ok(Some(_)) => prop_assert!(buffer.len() < before),
                Ok(None) => {
                    prop_assert_eq!(buffer.len(), before);
                    break;
                }
                Err(_) => break,
            }
        }
        prop_assert!(buffer.capacity() <= 2 * MAX_PACKET as usize + 2_000);
    }

    #[test]
    fn flipped_bits_never_panic(packet in packets(), at in any::<prop::sample::Index>(), bit in 0u8..8, v5 in any::<bool>()) {
        let protocol = BOTH[usize::from(v5)];
        let mut bytes = encode(protocol, packet).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = decode(protocol, &bytes);
    }
}

#[test]
fn a_message_that_is_too_large_is_passed_over() {
    const LARGE: usize = 1_000_000;
    for (qos, id) in [(0, None), (1, Some(0x1234))] {
        let head: &[u8] = if qos == 0 { b"\0\x06p2p/me" } else { b"\0\x06p2p/me\x12\x34" };
        let remaining = head.len() + LARGE;
        let length = [remaining as u8 | 0x80, (remaining >> 7) as u8 | 0x80, (remaining >> 14) as u8];
        let mut bytes = [&[0x30 | qos << 1][..], &length, head].concat();
        bytes.resize(bytes.len() + LARGE, b'x');
        bytes.extend_from_slice(b"\xd0\0");
        for (chunk, protocol) in [(1, BOTH[0]), (7, BOTH[1]), (4_096, BOTH[0]), (bytes.len(), BOTH[1])] {
            let mut codec = Codec::new(protocol);
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in bytes.chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some(packet) = codec.decode(&mut buffer).unwrap() {
                    found.push(packet);
                }
                assert!(buffer.len() < 16, "nothing of the payload is kept");
            }
            let empty = Packet::Publish { topic: "p2p/me".into(), payload: Bytes::new(), id, dup: false };
            assert_eq!(found, [empty, Packet::PingResp]);
        }
    }
}
