//! Packets as clients write them, for stories, laws and the fuzzer.

use bytes::BufMut;

use crate::peer::MqttVersion;

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn no_properties(protocol: MqttVersion) -> &'static [u8] {
    if protocol == MqttVersion::V5 { &[0] } else { &[] }
}

pub(super) fn connect(protocol: MqttVersion, id: &str, keep_alive: u16) -> Vec<u8> {
    with_login(protocol, id, keep_alive, None)
}

pub(super) fn with_login(
    protocol: MqttVersion,
    id: &str,
    keep_alive: u16,
    login: Option<(&str, &str)>,
) -> Vec<u8> {
    let level = if protocol == MqttVersion::V5 { 5 } else { 4 };
    let mut body = string("MQTT");
    body.put_slice(&[level, if login.is_some() { 0xc2 } else { 2 }]);
    body.put_u16(keep_alive);
    body.put_slice(no_properties(protocol));
    body.put_slice(&string(id));
    for text in login.iter().flat_map(|(user, password)| [user, password]) {
        body.put_slice(&string(text));
    }
    packet(0x10, &body)
}

pub(super) fn publish(protocol: MqttVersion, topic: &str, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    id.iter().for_each(|id| body.put_u16(*id));
    body.put_slice(no_properties(protocol));
    body.put_slice(payload);
    packet(0x30 | id.map_or(0, |_| 2), &body)
}

pub(super) fn subscribe(protocol: MqttVersion, topic: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1], no_properties(protocol), &string(topic), &[1]].concat())
}

pub(super) fn unsubscribe(protocol: MqttVersion, topic: &str) -> Vec<u8> {
    packet(0xa2, &[&[0, 2], no_properties(protocol), &string(topic)].concat())
}

pub(super) fn pub_ack(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

#[cfg(test)]
pub(super) const PING: &[u8] = b"\xc0\x00";
#[cfg(test)]
pub(super) const BYE: &[u8] = b"\xe0\x00";
