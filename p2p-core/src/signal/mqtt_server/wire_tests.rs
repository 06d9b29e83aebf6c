use bytes::BytesMut;
use proptest::prelude::*;

use super::super::write::*;
use super::*;

fn all(bytes: &[u8], protocol: Option<MqttVersion>) -> Result<Option<ClientPacket>, ReasonCode> {
    let mut src = BytesMut::from(bytes);
    let packet = decode(&mut src, protocol);
    if let Ok(Some(_)) = packet {
        assert!(src.is_empty(), "one packet, and all of it");
    }
    packet
}

fn hello(bytes: &[u8]) -> ClientHello {
    match all(bytes, None) {
        Ok(Some(ClientPacket::Connect(hello))) => hello,
        other => panic!("{other:?}"),
    }
}

const V3: Option<MqttVersion> = Some(MqttVersion::V3);
const V5: Option<MqttVersion> = Some(MqttVersion::V5);

#[test]
fn a_hello_in_either_version() {
    let plain = hello(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x1e\x00\x03abc");
    assert_eq!((plain.protocol, plain.client_id.as_str(), plain.keep_alive), (MqttVersion::V3, "abc", 30));
    assert_eq!((plain.receive_max, plain.max_packet, plain.is_lasting), (u16::MAX, u32::MAX, false));
    assert_eq!((plain.user.as_deref(), plain.password.as_deref()), (None, None));
    let login = hello(b"\x10\x14\x00\x04MQTT\x04\xc0\x00\x00\x00\x00\x00\x01u\x00\x03\x00pw");
    assert_eq!((login.user.as_deref(), login.password.as_deref()), (Some("u"), Some(b"\0pw".as_slice())));
    assert!(login.is_lasting && !format!("{login:?}").contains("pw"));
    let modern = hello(
        b"\x10\x23\x00\x04MQTT\x05\x02\x00\x1e\x14\x21\x00\x10\x27\x00\x00\x10\x00\x11\x00\x00\x00\x01\
          \x26\x00\x01a\x00\x01b\x00\x02me",
    );
    assert_eq!((modern.protocol, modern.receive_max, modern.max_packet), (MqttVersion::V5, 16, 4_096));
    assert!(modern.is_lasting && !modern.has_will && !modern.has_method);
    let will = hello(b"\x10\x13\x00\x04MQTT\x05\x06\x00\x1e\x00\x00\x00\x00\x00\x01t\x00\x00");
    assert!(will.has_will);
    let method = hello(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x1e\x04\x15\x00\x01x\x00\x00");
    assert!(method.has_method);
}

#[test]
fn what_is_no_hello() {
    let refused: [(&[u8], ReasonCode); 11] = [
        // HTTP, and TLS on a plain port.
        (b"GET / HTTP/1.1\r\n", reason::PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01", reason::MALFORMED_PACKET),
        // A ping before the hello.
        (b"\xc0\x00", reason::PROTOCOL_ERROR),
        // MQTT 3.1, and a version to come.
        (b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x1e\x00\x04abcd", reason::UNSUPPORTED_VERSION),
        (b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x1e\x00\x00", reason::UNSUPPORTED_VERSION),
        // The reserved flag, the flags of no will, and a password without a user.
        (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x1e\x00\x00", reason::MALFORMED_PACKET),
        (b"\x10\x0c\x00\x04MQTT\x04\x0a\x00\x1e\x00\x00", reason::MALFORMED_PACKET),
        (b"\x10\x0f\x00\x04MQTT\x04\x42\x00\x1e\x00\x00\x00\x01p", reason::MALFORMED_PACKET),
        // It ends too early, and too late.
        (b"\x10\x0b\x00\x04MQTT\x04\x02\x00\x1e\x00", reason::MALFORMED_PACKET),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x1e\x00\x00!", reason::MALFORMED_PACKET),
        // Nothing may be received at once.
        (b"\x10\x10\x00\x04MQTT\x05\x02\x00\x1e\x03\x21\x00\x00\x00\x00", reason::PROTOCOL_ERROR),
    ];
    for (bytes, code) in refused {
        assert_eq!(all(bytes, None), Err(code), "{bytes:02x?}");
    }
}

#[test]
fn messages_and_wishes() {
    let publish = |id| ClientPacket::Publish { topic: "t".into(), payload: Bytes::from_static(b"hi"), id };
    assert_eq!(all(b"\x30\x05\x00\x01thi", V3), Ok(Some(publish(None))));
    assert_eq!(
        all(b"\x3b\x07\x00\x01t\x00\x07hi", V3),
        Ok(Some(publish(Some(7)))),
        "retain and dup are no matter"
    );
    assert_eq!(all(b"\x32\x08\x00\x01t\x00\x07\x00hi", V5), Ok(Some(publish(Some(7)))));
    let with_properties = b"\x30\x12\x00\x01t\x0d\x01\x01\x03\x00\x01x\x02\x00\x00\x00\x09\x09hi";
    assert_eq!(all(with_properties, V5), Err(reason::MALFORMED_PACKET), "cut within a property");
    assert_eq!(all(b"\x40\x02\x00\x07", V3), Ok(Some(ClientPacket::PubAck { id: 7 })));
    assert_eq!(all(b"\x40\x04\x00\x07\x10\x00", V5), Ok(Some(ClientPacket::PubAck { id: 7 })));
    let filter = |topic: &str, qos, no_local| TopicFilter { topic: topic.into(), qos, no_local };
    let two = vec![filter("a", 1, false), filter("b/+", 2, false)];
    let wish = b"\x82\x0c\x00\x09\x00\x01a\x01\x00\x03b/+\x02";
    assert_eq!(all(wish, V3), Ok(Some(ClientPacket::Subscribe { id: 9, filters: two })));
    let own = vec![filter("a", 0, true)];
    assert_eq!(
        all(b"\x82\x07\x00\x09\x00\x00\x01a\x04", V5),
        Ok(Some(ClientPacket::Subscribe { id: 9, filters: own }))
    );
    let off = ClientPacket::Unsubscribe { id: 9, filters: vec!["a".into()] };
    assert_eq!(all(b"\xa2\x05\x00\x09\x00\x01a", V3), Ok(Some(off.clone())));
    assert_eq!(all(b"\xa2\x06\x00\x09\x00\x00\x01a", V5), Ok(Some(off)));
    assert_eq!(all(b"\xc0\x00", V5), Ok(Some(ClientPacket::PingReq)));
    for farewell in [b"\xe0\x00".as_slice(), b"\xe0\x01\x04", b"\xe0\x02\x00\x00"] {
        assert_eq!(all(farewell, V5), Ok(Some(ClientPacket::Disconnect)));
    }
}

#[test]
fn what_is_broken_or_not_served() {
    let refused: [(&[u8], ReasonCode); 20] = [
        (b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x00", reason::PROTOCOL_ERROR),
        (b"\x20\x02\x00\x00", reason::PROTOCOL_ERROR),
        (b"\x50\x02\x00\x01", reason::PROTOCOL_ERROR),
        (b"\xf0\x00", reason::PROTOCOL_ERROR),
        (b"\x00\x00", reason::PROTOCOL_ERROR),
        (b"\x80\x07\x00\x09\x00\x00\x01a\x01", reason::MALFORMED_PACKET),
        (b"\xc1\x00", reason::MALFORMED_PACKET),
        (b"\xc0\x01\x00", reason::MALFORMED_PACKET),
        (b"\x30\xff\xff\xff\xff\x01", reason::MALFORMED_PACKET),
        (b"\x30\x80\x80\x01", reason::PACKET_TOO_LARGE),
        (b"\x30\xff\xff\xff\x7f", reason::PACKET_TOO_LARGE),
        (b"\x34\x06\x00\x01t\x00\x07\x00", reason::QOS_NOT_SUPPORTED),
        (b"\x36\x06\x00\x01t\x00\x07\x00", reason::MALFORMED_PACKET),
        (b"\x32\x06\x00\x01t\x00\x00\x00", reason::PROTOCOL_ERROR),
        (b"\x30\x04\x00\x01#\x00", reason::TOPIC_NAME_INVALID),
        (b"\x30\x04\x00\x01\xff\x00", reason::MALFORMED_PACKET),
        (b"\x30\x04\x00\x01\x00\x00", reason::MALFORMED_PACKET),
        (b"\x30\x06\x00\x00\x03\x23\x00\x01", reason::TOPIC_ALIAS_INVALID),
        (b"\x82\x09\x00\x09\x02\x0b\x01\x00\x01a\x01", reason::SUBSCRIPTION_IDS_NOT_SUPPORTED),
        (b"\x82\x03\x00\x09\x00", reason::PROTOCOL_ERROR),
    ];
    for (bytes, code) in refused {
        assert_eq!(all(bytes, V5), Err(code), "{bytes:02x?}");
    }
    let many = [b"\x82\xc5\x01\x00\x09".as_slice(), &b"\x00\x00\x00".repeat(65)].concat();
    assert_eq!(all(&many, V3), Err(reason::QUOTA_EXCEEDED));
}

#[test]
fn a_packet_waits_for_its_end_and_leaves_the_next_one() {
    let whole = b"\x32\x07\x00\x01t\x00\x07hi\xc0\x00";
    for cut in 0..9 {
        let mut src = BytesMut::from(&whole[..cut]);
        assert_eq!(decode(&mut src, V3), Ok(None));
        assert_eq!(src, whole[..cut], "nothing is taken");
    }
    let mut src = BytesMut::from(whole.as_slice());
    assert!(matches!(decode(&mut src, V3), Ok(Some(ClientPacket::Publish { id: Some(7), .. }))));
    assert_eq!(decode(&mut src, V3), Ok(Some(ClientPacket::PingReq)));
}

#[test]
fn answers_in_either_version() {
    let written = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    };
    let (v3, v5) = (MqttVersion::V3, MqttVersion::V5);
    let plain = ConnAckProperties::default();
    assert_eq!(written(&|out| welcome(out, v3, &plain)), b"\x20\x02\x00\x00");
    let told =
        ConnAckProperties { assigned_id: Some("me".into()), keep_alive: Some(120), is_forgotten: true };
    assert_eq!(
        written(&|out| welcome(out, v5, &told)),
        b"\x20\x1f\x00\x00\x1c\x24\x01\x25\x00\x28\x00\x29\x00\x2a\x00\x27\x00\x00\x40\x00\x12\x00\x02me\
          \x13\x00\x78\x11\x00\x00\x00\x00"
    );
    assert_eq!(written(&|out| turn_away(out, v3, reason::BAD_LOGIN)), b"\x20\x02\x00\x04");
    assert_eq!(written(&|out| turn_away(out, v5, reason::BAD_LOGIN)), b"\x20\x03\x00\x86\x00");
    assert_eq!(written(&|out| pub_ack(out, v3, 7, reason::NO_MATCHING_SUBSCRIBERS)), b"\x40\x02\x00\x07");
    assert_eq!(written(&|out| pub_ack(out, v5, 7, reason::NO_MATCHING_SUBSCRIBERS)), b"\x40\x03\x00\x07\x10");
    assert_eq!(written(&|out| pub_ack(out, v5, 7, reason::SUCCESS)), b"\x40\x02\x00\x07");
    assert_eq!(written(&|out| sub_ack(out, v3, 9, &[1, 0xa2])), b"\x90\x04\x00\x09\x01\x80");
    assert_eq!(written(&|out| sub_ack(out, v5, 9, &[1, 0xa2])), b"\x90\x05\x00\x09\x00\x01\xa2");
    assert_eq!(written(&|out| unsub_ack(out, v3, 9, &[0])), b"\xb0\x02\x00\x09");
    assert_eq!(written(&|out| unsub_ack(out, v5, 9, &[0x11])), b"\xb0\x04\x00\x09\x00\x11");
    assert_eq!(written(&|out| ping_resp(out)), b"\xd0\x00");
    assert_eq!(written(&|out| disconnect(out, v3, 0x8e)), b"");
    assert_eq!(written(&|out| disconnect(out, v5, 0x8e)), b"\xe0\x01\x8e");
    for (protocol, id, payload) in [(v3, None, 0), (v3, Some(1), 200), (v5, None, 122), (v5, Some(2), 16_300)]
    {
        let bytes = written(&|out| publish(out, protocol, "t", &vec![7; payload], id));
        assert_eq!(bytes.len(), publish_size(protocol, "t", &vec![7; payload], id.is_some()));
        // It is what a client of the same version would have sent.
        let topic = "t".to_owned();
        let same = ClientPacket::Publish { topic, payload: vec![7; payload].into(), id };
        assert_eq!(all(&bytes, Some(protocol)), Ok(Some(same)));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_are_kept_beyond_a_packet(
        bytes: Vec<u8>,
        kind in prop::sample::select(vec![0x10u8, 0x30, 0x32, 0x40, 0x82, 0xa2, 0xc0, 0xe0]),
        protocol in prop::sample::select(vec![None, V3, V5]),
    ) {
        let framed = [&[kind, bytes.len().min(127) as u8], &bytes[..bytes.len().min(127)]].concat();
        for bytes in [bytes, framed] {
            let mut src = BytesMut::from(bytes.as_slice());
            let before = src.len();
            if decode(&mut src, protocol) == Ok(None) {
                prop_assert_eq!(src.len(), before);
                prop_assert!(before < MAX_PACKET as usize);
                prop_assert!(src.capacity() <= 2 * MAX_PACKET as usize);
            }
        }
    }
}
