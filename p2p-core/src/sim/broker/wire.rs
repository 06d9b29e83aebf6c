//! Packets of brokers as bytes of a simulated connection.
//!
//! This is not MQTT: the codec of real brokers is that of the drivers. It keeps the fields, the order and about the size
//! of MQTT's packets, which is all that a session and a network can tell.

use bytes::{Buf, Bytes, BytesMut};
use serde::de::DeserializeOwned;

use crate::peer::MqttVersion;
use crate::signal::link::{ConnAck, Connect, ConnectCode, MAX_PACKET, Packet};

const CONNECT: u8 = 1;
const CONN_ACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUB_ACK: u8 = 4;
const SUBSCRIBE: u8 = 8;
const SUB_ACK: u8 = 9;
const PING_REQ: u8 = 12;
const PING_RESP: u8 = 13;
const DISCONNECT: u8 = 14;
/// A kind and the length of what follows.
const HEADER: usize = 5;

/// Writes a packet. Fields that no simulated broker reads are left out: logins and limits.
pub(in crate::sim) fn encode(packet: &Packet) -> Vec<u8> {
    let (kind, body) = match packet {
        Packet::Connect(connect) => {
            let is_newest = connect.protocol == MqttVersion::V5;
            (CONNECT, postcard::to_stdvec(&(is_newest, connect.keep_alive, &connect.client_id)))
        }
        Packet::ConnAck(ack) => (CONN_ACK, postcard::to_stdvec(&(ack.code == ConnectCode::Accepted))),
        Packet::Publish { topic, payload, id, dup } => {
            (PUBLISH, postcard::to_stdvec(&(topic, &payload[..], id, dup)))
        }
        Packet::PubAck { id, reason } => (PUB_ACK, postcard::to_stdvec(&(id, reason))),
        Packet::Subscribe { id, topic } => (SUBSCRIBE, postcard::to_stdvec(&(id, topic))),
        Packet::SubAck { id, code } => (SUB_ACK, postcard::to_stdvec(&(id, code))),
        Packet::PingReq => (PING_REQ, Ok(Vec::new())),
        Packet::PingResp => (PING_RESP, Ok(Vec::new())),
        Packet::Disconnect { reason } => (DISCONNECT, postcard::to_stdvec(reason)),
    };
    // Plain data of known types cannot fail to be written.
    let body = body.unwrap_or_default();
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Cuts a stream of bytes into packets.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct PacketReader {
    held: BytesMut,
}

impl PacketReader {
    /// Takes in the next bytes of the stream.
    pub(in crate::sim) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Returns the next packet that is there as a whole.
    ///
    /// # Errors
    /// `Err` when the bytes are no packet. Nothing after them can be read.
    pub(in crate::sim) fn next(&mut self) -> Result<Option<Packet>, NoPacket> {
        let Some(header) = self.held.first_chunk::<HEADER>() else { return Ok(None) };
        let kind = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        if length > MAX_PACKET {
            return Err(NoPacket);
        }
        let whole = HEADER + length as usize;
        if self.held.len() < whole {
            return Ok(None);
        }
        let mut body = self.held.split_to(whole).freeze();
        body.advance(HEADER);
        decode(kind, &body).map(Some)
    }
}

/// Bytes that are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct NoPacket;

fn decode(kind: u8, body: &[u8]) -> Result<Packet, NoPacket> {
    Ok(match kind {
        CONNECT => {
            let (is_newest, keep_alive, client_id) = read(body)?;
            let protocol = if is_newest { MqttVersion::V5 } else { MqttVersion::V3 };
            Packet::Connect(Connect { protocol, client_id, keep_alive, login: None, receive_max: 16 })
        }
        CONN_ACK => {
            let code = if read(body)? { ConnectCode::Accepted } else { ConnectCode::NotAuthorised };
            let (receive_max, max_packet, keep_alive) = (None, None, None);
            Packet::ConnAck(ConnAck { code, session_present: false, receive_max, max_packet, keep_alive })
        }
        PUBLISH => {
            let (topic, payload, id, dup): (_, Vec<u8>, _, _) = read(body)?;
            Packet::Publish { topic, payload: Bytes::from(payload), id, dup }
        }
        PUB_ACK => {
            let (id, reason) = read(body)?;
            Packet::PubAck { id, reason }
        }
        SUBSCRIBE => {
            let (id, topic) = read(body)?;
            Packet::Subscribe { id, topic }
        }
        SUB_ACK => {
            let (id, code) = read(body)?;
            Packet::SubAck { id, code }
        }
        PING_REQ => Packet::PingReq,
        PING_RESP => Packet::PingResp,
        DISCONNECT => Packet::Disconnect { reason: read(body)? },
        _ => return Err(NoPacket),
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, NoPacket> {
    postcard::from_bytes(body).map_err(|_| NoPacket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_whatever_pieces_they_travel_in() {
        let connect = Connect {
            protocol: MqttVersion::V5,
            client_id: "anna".into(),
            keep_alive: 30,
            login: None,
            receive_max: 16,
        };
        let ack = ConnAck {
            code: ConnectCode::Accepted,
            session_present: false,
            receive_max: None,
            max_packet: None,
            keep_alive: None,
        };
        let (topic, payload) = ("p2p/1/x".to_owned(), Bytes::from_static(b"sealed"));
        let all = [
            Packet::Connect(connect),
            Packet::ConnAck(ack),
            Packet::Subscribe { id: 1, topic: topic.clone() },
            Packet::SubAck { id: 1, code: 1 },
            Packet::Publish { topic, payload, id: Some(2), dup: false },
            Packet::PubAck { id: 2, reason: 0x10 },
            Packet::PingReq,
            Packet::PingResp,
            Packet::Disconnect { reason: 0 },
        ];
        let stream: Vec<u8> = all.iter().flat_map(encode).collect();
        let mut reader = PacketReader::default();
        let mut read = Vec::new();
        for piece in stream.chunks(3) {
            reader.push(piece);
            while let Some(packet) = reader.next().unwrap() {
                read.push(packet);
            }
        }
        assert_eq!(read, all);
    }

    #[test]
    fn what_is_no_packet_is_named() {
        for bytes in [&[99, 0, 0, 0, 0][..], &[PUBLISH, 0, 0, 0, 1, 255], &[PUBLISH, 255, 0, 0, 0]] {
            let mut reader = PacketReader::default();
            reader.push(bytes);
            assert_eq!(reader.next(), Err(NoPacket), "{bytes:?}");
        }
    }
}
