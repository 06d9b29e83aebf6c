//! Neutral packets from and to the bytes of MQTT 3.1.1 and MQTT 5, by rumqttc's codecs behind a guard.
//!
//! The guard keeps from them what a client never gets, bounds every packet before it is read, and mends what
//! they do differently from the standard:
//!
//! - A 3.1.1 broker answers an MQTT 5 hello with a CONNACK of its own version (3.1.1, 3.1.2.2); the MQTT 5 codec
//!   swallows it and waits for more. Without it nobody would learn why the connection ends.
//! - A DISCONNECT may be empty or end after its reason code (MQTT 5, 3.14.2.1 and 3.14.2.2.1); the codec refuses the
//!   first and swallows the second.
//! - A packet that ends within its properties is malformed; the codec waits for more, though the packet is gone.
//! - Anybody who knows our topic can publish to it. A message that is too large is passed over as it comes and
//!   acknowledged, or strangers could end the session.

use bytes::{Buf, Bytes, BytesMut};
use p2p_core::signal::link::{ConnAck, Connect, ConnectCode, LinkError, MAX_PACKET, MqttVersion, Packet};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use rumqttc::{mqttbytes, v5::mqttbytes as mqttbytes5};
use tokio_util::codec::{Decoder, Encoder};

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// MQTT 5 reason codes (2.4) the conversion names itself.
const SERVER_UNAVAILABLE: u8 = 0x88;
const UNSPECIFIED_ERROR: u8 = 0x80;

/// What a codec finds wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What came is not MQTT: the broker's fault.
    #[error("{0}")]
    Malformed(String),
    /// What should go does not fit: too long a topic, user name or password.
    #[error("{0}")]
    Unsendable(String),
}

impl From<CodecError> for LinkError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Io(error) => Self::Lost(error.to_string().into()),
            CodecError::Malformed(what) => Self::Malformed(what.into()),
            CodecError::Unsendable(what) => Self::Configuration(what),
        }
    }
}

fn malformed(what: impl ToString) -> CodecError {
    CodecError::Malformed(what.to_string())
}

fn unsendable(what: impl ToString) -> CodecError {
    CodecError::Unsendable(what.to_string())
}

/// The codec of a client, for one connection in one protocol version.
#[derive(Debug)]
pub(crate) struct Codec {
    protocol: MqttVersion,
    /// Bytes still to come of a message that is passed over.
    unwanted: usize,
}

impl Codec {
    /// Packets of `protocol`, of [`MAX_PACKET`] bytes at most either way.
    pub(crate) fn new(protocol: MqttVersion) -> Self {
        Self { protocol, unwanted: 0 }
    }

    /// A message with `remaining` bytes after its fixed header, too many: its payload is left out.
    fn pass_over(&mut self, src: &mut BytesMut, remaining: usize) -> Result<Option<Packet>, CodecError> {
        let first = src[0];
        let fixed = 1 + remaining_length_bytes(src);
        let Some(length) = src.get(fixed..fixed + 2) else {
            return Ok(None);
        };
        let topic = fixed + 2..fixed + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let qos = first >> 1 & 3;
        let head = topic.end + if qos == 0 { 0 } else { 2 };
        if head > MAX_PACKET as usize {
            return Err(malformed("a topic that is longer than any packet of ours"));
        }
        let Some(id) = src.get(topic.end..head) else {
            return Ok(None);
        };
        let id = publish_id(qos, id.iter().fold(0, |id, byte| id << 8 | u16::from(*byte)))?;
        let topic = String::from_utf8(src[topic].to_vec()).map_err(malformed)?;
        // The head is at most MAX_PACKET, which is less than what remains.
        src.advance(head);
        self.unwanted = fixed + remaining - head;
        Ok(Some(Packet::Publish { topic, payload: Bytes::new(), id, dup: first & 8 != 0 }))
    }
}

impl Decoder for Codec {
    type Item = Packet;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let unwanted = self.unwanted.min(src.len());
        src.advance(unwanted);
        self.unwanted -= unwanted;
        let Some(&first) = src.first() else {
            return Ok(None);
        };
        let kind = first >> 4;
        if ![CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT].contains(&kind) {
            return Err(malformed(format!("a packet of type {kind}")));
        }
        let header = match mqttbytes::check(src.iter(), MAX_PACKET as usize) {
            Ok(header) => header,
            Err(mqttbytes::Error::InsufficientBytes(more)) => {
                src.reserve(more);
                return Ok(None);
            }
            Err(mqttbytes::Error::PayloadSizeLimitExceeded(remaining)) if kind == PUBLISH => {
                return self.pass_over(src, remaining);
            }
            Err(error) => return Err(malformed(error)),
        };
        // One packet, cut out: nothing can make a codec read into the next one or wait within this one.
        let mut frame = src.split_to(header.frame_length());
        match kind {
            CONNACK if frame.len() == 4 => return Ok(Some(conn_ack_v4(frame[2], frame[3]))),
            DISCONNECT => {
                let body = frame.len().min(1 + remaining_length_bytes(&frame));
                let reason = frame.get(body).copied().unwrap_or(0);
                return Ok(Some(Packet::Disconnect { reason }));
            }
            _ => {}
        }
        let packet = match self.protocol {
            MqttVersion::V3 => from_v4(v4::Packet::read(&mut frame, MAX_PACKET as usize).map_err(malformed)?),
            MqttVersion::V5 => from_v5(v5::Packet::read(&mut frame, Some(MAX_PACKET)).map_err(malformed)?),
        };
        packet.map(Some)
    }
}

/// How many bytes the remaining length takes in a whole packet: 1 to 4.
fn remaining_length_bytes(frame: &[u8]) -> usize {
    let more = frame.iter().skip(1).take_while(|byte| **byte & 0x80 != 0);
    more.count() + 1
}

impl Encoder<Packet> for Codec {
    type Error = CodecError;

    fn encode(&mut self, packet: Packet, dst: &mut BytesMut) -> Result<(), CodecError> {
        match self.protocol {
            MqttVersion::V3 => into_v4(packet)?.write(dst, MAX_PACKET as usize).map_err(unsendable)?,
            MqttVersion::V5 => into_v5(packet)?.write(dst, Some(MAX_PACKET)).map_err(unsendable)?,
        };
        Ok(())
    }
}

fn conn_ack_v4(flags: u8, code: u8) -> Packet {
    Packet::ConnAck(ConnAck {
        code: match code {
            0 => ConnectCode::Accepted,
            1 => ConnectCode::BadProtocol,
            2 => ConnectCode::BadClientId,
            3 => ConnectCode::Other(SERVER_UNAVAILABLE),
            4 => ConnectCode::BadLogin,
            5 => ConnectCode::NotAuthorised,
            // In answer to an MQTT 5 hello some brokers leave the property length out.
            other => connect_code_v5(other),
        },
        session_present: flags & 1 != 0,
        receive_max: None,
        max_packet: None,
        keep_alive: None,
    })
}

fn connect_code_v5(code: u8) -> ConnectCode {
    match code {
        0x84 => ConnectCode::BadProtocol,
        0x85 => ConnectCode::BadClientId,
        0x86 => ConnectCode::BadLogin,
        0x87 => ConnectCode::NotAuthorised,
        other => ConnectCode::Other(other),
    }
}

fn from_v4(packet: v4::Packet) -> Result<Packet, CodecError> {
    Ok(match packet {
        v4::Packet::SubAck(ack) => Packet::SubAck {
            id: ack.pkid,
            code: match ack.return_codes.first() {
                Some(v4::SubscribeReasonCode::Success(qos)) => *qos as u8,
                Some(v4::SubscribeReasonCode::Failure) | None => UNSPECIFIED_ERROR,
            },
        },
        v4::Packet::Publish(publish) => Packet::Publish {
            id: publish_id(publish.qos as u8, publish.pkid)?,
            topic: publish.topic,
            payload: publish.payload,
            dup: publish.dup,
        },
        v4::Packet::PubAck(ack) => Packet::PubAck { id: ack.pkid, reason: 0 },
        v4::Packet::PingResp => Packet::PingResp,
        other => return Err(malformed(format!("unexpected {other:?}"))),
    })
}

fn from_v5(packet: v5::Packet) -> Result<Packet, CodecError> {
    Ok(match packet {
        v5::Packet::ConnAck(ack) => {
            let properties = ack.properties;
            Packet::ConnAck(ConnAck {
                code: connect_code(ack.code),
                session_present: ack.session_present,
                receive_max: properties.as_ref().and_then(|of| of.receive_max),
                max_packet: properties.as_ref().and_then(|of| of.max_packet_size),
                keep_alive: properties.as_ref().and_then(|of| of.server_keep_alive),
            })
        }
        v5::Packet::SubAck(ack) => Packet::SubAck {
            id: ack.pkid,
            code: ack.return_codes.first().map_or(UNSPECIFIED_ERROR, subscribe_code),
        },
        v5::Packet::Publish(publish) => Packet::Publish {
            id: publish_id(publish.qos as u8, publish.pkid)?,
            topic: String::from_utf8(publish.topic.into()).map_err(malformed)?,
            payload: publish.payload,
            dup: publish.dup,
        },
        v5::Packet::PubAck(ack) => Packet::PubAck { id: ack.pkid, reason: pub_ack_code(ack.reason) },
        v5::Packet::PingResp(_) => Packet::PingResp,
        other => return Err(malformed(format!("unexpected {other:?}"))),
    })
}

fn publish_id(qos: u8, id: u16) -> Result<Option<u16>, CodecError> {
    match qos {
        0 => Ok(None),
        1 => Ok(Some(id)),
        _ => Err(malformed("a message at QoS 2, though the subscription is for 1")),
    }
}

fn connect_code(code: v5::ConnectReturnCode) -> ConnectCode {
    use v5::ConnectReturnCode as Code;
    match code {
        Code::Success => ConnectCode::Accepted,
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => ConnectCode::BadProtocol,
        Code::ClientIdentifierNotValid | Code::BadClientId => ConnectCode::BadClientId,
        Code::BadUserNamePassword => ConnectCode::BadLogin,
        Code::NotAuthorized => ConnectCode::NotAuthorised,
        Code::MalformedPacket => ConnectCode::Other(0x81),
        Code::ProtocolError => ConnectCode::Other(0x82),
        Code::ImplementationSpecificError => ConnectCode::Other(0x83),
        Code::ServerUnavailable | Code::ServiceUnavailable => ConnectCode::Other(SERVER_UNAVAILABLE),
        Code::ServerBusy => ConnectCode::Other(0x89),
        Code::Banned => ConnectCode::Other(0x8a),
        Code::BadAuthenticationMethod => ConnectCode::Other(0x8c),
        Code::TopicNameInvalid => ConnectCode::Other(0x90),
        Code::PacketTooLarge => ConnectCode::Other(0x95),
        Code::QuotaExceeded => ConnectCode::Other(0x97),
        Code::PayloadFormatInvalid => ConnectCode::Other(0x99),
        Code::RetainNotSupported => ConnectCode::Other(0x9a),
        Code::QoSNotSupported => ConnectCode::Other(0x9b),
        Code::UseAnotherServer => ConnectCode::Other(0x9c),
        Code::ServerMoved => ConnectCode::Other(0x9d),
        Code::ConnectionRateExceeded => ConnectCode::Other(0x9f),
        Code::UnspecifiedError => ConnectCode::Other(UNSPECIFIED_ERROR),
    }
}

fn subscribe_code(code: &v5::SubscribeReasonCode) -> u8 {
    use v5::SubscribeReasonCode as Code;
    match code {
        Code::Success(qos) => *qos as u8,
        Code::Failure | Code::Unspecified => UNSPECIFIED_ERROR,
        Code::ImplementationSpecific => 0x83,
        Code::NotAuthorized => 0x87,
        Code::TopicFilterInvalid => 0x8f,
        Code::PkidInUse => 0x91,
        Code::QuotaExceeded => 0x97,
        Code::SharedSubscriptionsNotSupported => 0x9e,
        Code::SubscriptionIdNotSupported => 0xa1,
        Code::WildcardSubscriptionsNotSupported => 0xa2,
    }
}

fn pub_ack_code(reason: v5::PubAckReason) -> u8 {
    use v5::PubAckReason as Reason;
    match reason {
        Reason::Success => 0,
        Reason::NoMatchingSubscribers => 0x10,
        Reason::UnspecifiedError => UNSPECIFIED_ERROR,
        Reason::ImplementationSpecificError => 0x83,
        Reason::NotAuthorized => 0x87,
        Reason::TopicNameInvalid => 0x90,
        Reason::PacketIdentifierInUse => 0x91,
        Reason::QuotaExceeded => 0x97,
        Reason::PayloadFormatInvalid => 0x99,
    }
}

fn into_v4(packet: Packet) -> Result<v4::Packet, CodecError> {
    use mqttbytes::QoS;
    Ok(match packet {
        Packet::Connect(Connect { client_id, keep_alive, login, .. }) => {
            let mut connect = v4::Connect::new(client_id);
            connect.keep_alive = keep_alive;
            connect.clean_session = true;
            connect.login = login.map(|login| v4::Login::new(login.user, login.password));
            v4::Packet::Connect(connect)
        }
        Packet::Subscribe { id, topic } => {
            let mut subscribe = v4::Subscribe::new(topic, QoS::AtLeastOnce);
            subscribe.pkid = id;
            v4::Packet::Subscribe(subscribe)
        }
        Packet::Publish { topic, payload, id, dup } => {
            let qos = id.map_or(QoS::AtMostOnce, |_| QoS::AtLeastOnce);
            let mut publish = v4::Publish::from_bytes(topic, qos, payload);
            publish.pkid = id.unwrap_or(0);
            publish.dup = dup;
            v4::Packet::Publish(publish)
        }
        Packet::PubAck { id, .. } => v4::Packet::PubAck(v4::PubAck::new(id)),
        Packet::PingReq => v4::Packet::PingReq,
        Packet::Disconnect { .. } => v4::Packet::Disconnect,
        Packet::ConnAck(_) | Packet::SubAck { .. } | Packet::PingResp => return Err(not_ours(&packet)),
    })
}

fn into_v5(packet: Packet) -> Result<v5::Packet, CodecError> {
    use mqttbytes5::QoS;
    Ok(match packet {
        Packet::Connect(connect) => {
            let properties = v5::ConnectProperties {
                receive_maximum: Some(connect.receive_max),
                ..v5::ConnectProperties::new()
            };
            let login = connect.login.map(|login| v5::Login::new(login.user, login.password));
            let connect = v5::Connect {
                keep_alive: connect.keep_alive,
                client_id: connect.client_id,
                clean_start: true,
                properties: Some(properties),
            };
            v5::Packet::Connect(connect, None, login)
        }
        Packet::Subscribe { id, topic } => {
            let filter = v5::Filter::new(topic, QoS::AtLeastOnce);
            let mut subscribe = v5::Subscribe::new(filter, None);
            subscribe.pkid = id;
            v5::Packet::Subscribe(subscribe)
        }
        Packet::Publish { topic, payload, id, dup } => {
            let qos = id.map_or(QoS::AtMostOnce, |_| QoS::AtLeastOnce);
            let mut publish = v5::Publish::new(topic, qos, payload, None);
            publish.pkid = id.unwrap_or(0);
            publish.dup = dup;
            v5::Packet::Publish(publish)
        }
        Packet::PubAck { id, .. } => v5::Packet::PubAck(v5::PubAck::new(id, None)),
        Packet::PingReq => v5::Packet::PingReq(v5::PingReq),
        Packet::Disconnect { .. } => {
            let reason = v5::DisconnectReasonCode::NormalDisconnection;
            v5::Packet::Disconnect(v5::Disconnect::new(reason))
        }
        Packet::ConnAck(_) | Packet::SubAck { .. } | Packet::PingResp => return Err(not_ours(&packet)),
    })
}

fn not_ours(packet: &Packet) -> CodecError {
    unsendable(format!("a client does not send {packet:?}"))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
