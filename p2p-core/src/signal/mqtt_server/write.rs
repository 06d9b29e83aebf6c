//! The bytes of what a server says.

use bytes::{BufMut, BytesMut};

use super::reason::{self, ReasonCode};
use super::wire::{CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBLISH, SUBACK, UNSUBACK};
use crate::peer::MqttVersion;
use crate::signal::link::MAX_PACKET;

/// What a CONNACK that says yes tells an MQTT 5 client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnAckProperties {
    /// The identifier chosen for it.
    pub(super) assigned_id: Option<String>,
    /// The keep-alive it has instead of its own, in seconds.
    pub(super) keep_alive: Option<u16>,
    /// Its session ends with the connection, although it wanted otherwise.
    pub(super) is_forgotten: bool,
}

/// Accepts a client.
pub(super) fn welcome(out: &mut BytesMut, protocol: MqttVersion, welcome: &ConnAckProperties) {
    let mut properties = BytesMut::new();
    if protocol == MqttVersion::V5 {
        // Maximum QoS 1; no retained messages, wildcards, subscription identifiers and shared subscriptions.
        properties.put_slice(&[0x24, 1, 0x25, 0, 0x28, 0, 0x29, 0, 0x2a, 0, 0x27]);
        properties.put_u32(MAX_PACKET);
        if let Some(id) = &welcome.assigned_id {
            properties.put_u8(0x12);
            put_string(&mut properties, id);
        }
        if let Some(keep_alive) = welcome.keep_alive {
            properties.put_u8(0x13);
            properties.put_u16(keep_alive);
        }
        if welcome.is_forgotten {
            properties.put_slice(&[0x11, 0, 0, 0, 0]);
        }
    }
    let rest = if protocol == MqttVersion::V5 { 3 + properties.len() } else { 2 };
    put_header(out, CONNACK << 4, rest);
    out.put_slice(&[0, 0]);
    if protocol == MqttVersion::V5 {
        put_length(out, properties.len());
        out.put_slice(&properties);
    }
}

/// Refuses a client, in the words of 3.1.1 unless it speaks MQTT 5.
pub(super) fn turn_away(out: &mut BytesMut, protocol: MqttVersion, code: ReasonCode) {
    match protocol {
        MqttVersion::V5 => out.put_slice(&[CONNACK << 4, 3, 0, code, 0]),
        MqttVersion::V3 => out.put_slice(&[CONNACK << 4, 2, 0, reason::in_3_1_1(code)]),
    }
}

/// Bytes of a PUBLISH to a client.
pub(super) fn publish_size(protocol: MqttVersion, topic: &str, payload: &[u8], has_id: bool) -> usize {
    let rest = 2 + topic.len() + if has_id { 2 } else { 0 } + properties_size(protocol) + payload.len();
    1 + length_size(rest) + rest
}

/// Passes a message on: topic and payload, and nothing of its publisher.
pub(super) fn publish(
    out: &mut BytesMut,
    protocol: MqttVersion,
    topic: &str,
    payload: &[u8],
    id: Option<u16>,
) {
    let rest = 2 + topic.len() + id.map_or(0, |_| 2) + properties_size(protocol) + payload.len();
    put_header(out, PUBLISH << 4 | id.map_or(0, |_| 2), rest);
    put_string(out, topic);
    if let Some(id) = id {
        out.put_u16(id);
    }
    out.put_bytes(0, properties_size(protocol));
    out.put_slice(payload);
}

/// Acknowledges a message. 3.1.1 has no words for the reason.
pub(super) fn pub_ack(out: &mut BytesMut, protocol: MqttVersion, id: u16, code: ReasonCode) {
    let has_code = protocol == MqttVersion::V5 && code != reason::SUCCESS;
    put_header(out, PUBACK << 4, if has_code { 3 } else { 2 });
    out.put_u16(id);
    if has_code {
        out.put_u8(code);
    }
}

/// Answers a SUBSCRIBE: a code for each filter.
pub(super) fn sub_ack(out: &mut BytesMut, protocol: MqttVersion, id: u16, codes: &[ReasonCode]) {
    put_header(out, SUBACK << 4, 2 + properties_size(protocol) + codes.len());
    out.put_u16(id);
    out.put_bytes(0, properties_size(protocol));
    let refused_in_3_1_1 = 0x80;
    let code = |code: &ReasonCode| match protocol {
        MqttVersion::V3 if *code >= 0x80 => refused_in_3_1_1,
        _ => *code,
    };
    out.extend(codes.iter().map(code));
}

/// Answers an UNSUBSCRIBE: a code for each filter, in MQTT 5.
pub(super) fn unsub_ack(out: &mut BytesMut, protocol: MqttVersion, id: u16, codes: &[ReasonCode]) {
    let codes = if protocol == MqttVersion::V5 { codes } else { &[] };
    put_header(out, UNSUBACK << 4, 2 + properties_size(protocol) + codes.len());
    out.put_u16(id);
    out.put_bytes(0, properties_size(protocol));
    out.put_slice(codes);
}

/// Answers a PINGREQ.
pub(super) fn ping_resp(out: &mut BytesMut) {
    out.put_slice(&[PINGRESP << 4, 0]);
}

/// Says farewell. A server does not do so in 3.1.1.
pub(super) fn disconnect(out: &mut BytesMut, protocol: MqttVersion, code: ReasonCode) {
    if protocol == MqttVersion::V5 {
        out.put_slice(&[DISCONNECT << 4, 1, code]);
    }
}

/// Bytes of the properties there are none of.
fn properties_size(protocol: MqttVersion) -> usize {
    usize::from(protocol == MqttVersion::V5)
}

fn length_size(length: usize) -> usize {
    if length < 1 << 7 {
        1
    } else if length < 1 << 14 {
        2
    } else {
        3
    }
}

/// Nothing of ours takes more than three bytes of length.
fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

fn put_header(out: &mut BytesMut, first: u8, rest: usize) {
    out.put_u8(first);
    put_length(out, rest);
}

/// Topics and identifiers are bounded far below the 65,535 bytes of a string.
fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}
