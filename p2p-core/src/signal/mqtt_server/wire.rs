//! The bytes of MQTT 3.1.1 and MQTT 5, as a server reads them.
//!
//! A packet is bounded by its fixed header, before any of it is kept. What a server of signals does not serve is parsed
//! no further than it takes to say so.

use bytes::{Buf, Bytes, BytesMut};

use super::reason::{self, ReasonCode};
use crate::peer::MqttVersion;
use crate::signal::link::MAX_PACKET;

/// A packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientPacket {
    /// The first one.
    Connect(ClientHello),
    /// A message.
    Publish {
        /// The topic, not empty and without wildcards.
        topic: String,
        /// The payload, in memory of its own.
        payload: Bytes,
        /// The packet identifier at QoS 1, or `None` at QoS 0.
        id: Option<u16>,
    },
    /// A message has arrived.
    PubAck {
        /// The packet identifier.
        id: u16,
    },
    /// A wish for what is published.
    Subscribe {
        /// The packet identifier.
        id: u16,
        /// One filter at least.
        filters: Vec<TopicFilter>,
    },
    /// A wish withdrawn.
    Unsubscribe {
        /// The packet identifier.
        id: u16,
        /// One filter at least.
        filters: Vec<String>,
    },
    /// A question whether the server is there.
    PingReq,
    /// Farewell.
    Disconnect,
}

/// What a client says of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The version it speaks.
    pub protocol: MqttVersion,
    /// Its identifier; empty when the server shall choose one.
    pub client_id: String,
    /// The longest silence it promises, in seconds; 0 for any.
    pub keep_alive: u16,
    /// It wants its session kept, by clean session 0 (3.1.1) or a session expiry (5).
    pub is_lasting: bool,
    /// Its user name.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Bytes>,
    /// It has a will.
    pub has_will: bool,
    /// It wants an authentication of its own kind.
    pub has_method: bool,
    /// Messages at QoS 1 it takes at once, at least 1.
    pub receive_max: u16,
    /// Bytes of a packet it takes.
    pub max_packet: u32,
}

/// Never shows the password.
impl std::fmt::Debug for ClientHello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, client_id, keep_alive, user, .. } = self;
        write!(f, "ClientHello({protocol}, {client_id:?}, {keep_alive} s, {user:?}, ..)")
    }
}

/// A topic filter of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFilter {
    /// The topic, perhaps with wildcards.
    pub topic: String,
    /// The highest QoS wanted: 0, 1 or 2.
    pub qos: u8,
    /// What the client itself publishes is not wanted.
    pub no_local: bool,
}

/// Takes the next packet of a client from the front of `src`, or leaves `src` as it is when not all of it is there.
/// `protocol` is what the client has connected with, if it has.
///
/// # Errors
/// The reason to end the connection. Nothing sensible can follow in `src`.
pub fn decode(src: &mut BytesMut, protocol: Option<MqttVersion>) -> Result<Option<ClientPacket>, ReasonCode> {
    let Some(&first) = src.first() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 15);
    let is_expected = match kind {
        CONNECT => protocol.is_none(),
        PUBLISH | PUBACK | SUBSCRIBE | UNSUBSCRIBE | PINGREQ | DISCONNECT => protocol.is_some(),
        _ => false,
    };
    if !is_expected {
        return Err(reason::PROTOCOL_ERROR);
    }
    // MQTT 5, 2.1.3.
    let wanted = if [SUBSCRIBE, UNSUBSCRIBE].contains(&kind) { 2 } else { 0 };
    if kind != PUBLISH && flags != wanted {
        return Err(reason::MALFORMED_PACKET);
    }
    let Some((remaining, length_bytes)) = remaining_length(&src[1..])? else { return Ok(None) };
    let header = 1 + length_bytes;
    if header + remaining > MAX_PACKET as usize {
        return Err(reason::PACKET_TOO_LARGE);
    }
    if src.len() < header + remaining {
        src.reserve(header + remaining - src.len());
        return Ok(None);
    }
    src.advance(header);
    let body = src.split_to(remaining);
    let mut body = ClientPacketReader(&body);
    let packet = match (kind, protocol) {
        (CONNECT, _) => ClientPacket::Connect(body.connect()?),
        (PUBLISH, Some(protocol)) => body.publish(flags, protocol)?,
        (PUBACK, _) => {
            let id = body.id()?;
            // A reason code and properties may follow.
            body.0 = &[];
            ClientPacket::PubAck { id }
        }
        (SUBSCRIBE, Some(protocol)) => body.subscribe(protocol)?,
        (UNSUBSCRIBE, Some(protocol)) => body.unsubscribe(protocol)?,
        (PINGREQ, _) => ClientPacket::PingReq,
        _ => {
            body.0 = &[];
            ClientPacket::Disconnect
        }
    };
    if body.0.is_empty() { Ok(Some(packet)) } else { Err(reason::MALFORMED_PACKET) }
}

/// A remaining length and the bytes it takes (MQTT 5, 2.1.4), if all of it is there.
fn remaining_length(src: &[u8]) -> Result<Option<(usize, usize)>, ReasonCode> {
    let mut value = 0;
    for (at, byte) in src.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if src.len() < 4 { Ok(None) } else { Err(reason::MALFORMED_PACKET) }
}

/// The body of a packet, read from the front.
struct ClientPacketReader<'a>(&'a [u8]);

impl<'a> ClientPacketReader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], ReasonCode> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(reason::MALFORMED_PACKET)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, ReasonCode> {
        Ok(self.bytes(1)?[0])
    }

    fn short(&mut self) -> Result<u16, ReasonCode> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn long(&mut self) -> Result<u32, ReasonCode> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A packet identifier, which is never 0 (MQTT 5, 2.2.1).
    fn id(&mut self) -> Result<u16, ReasonCode> {
        Some(self.short()?).filter(|id| *id != 0).ok_or(reason::PROTOCOL_ERROR)
    }

    fn binary(&mut self) -> Result<&'a [u8], ReasonCode> {
        let length = self.short()?;
        self.bytes(length.into())
    }

    fn string(&mut self) -> Result<&'a str, ReasonCode> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| reason::MALFORMED_PACKET)?;
        if text.contains('\0') { Err(reason::MALFORMED_PACKET) } else { Ok(text) }
    }

    fn connect(&mut self) -> Result<ClientHello, ReasonCode> {
        let (name, level) = (self.binary()?, self.byte()?);
        let protocol = match (name, level) {
            (b"MQTT", 4) => MqttVersion::V3,
            (b"MQTT", 5) => MqttVersion::V5,
            _ => return Err(reason::UNSUPPORTED_VERSION),
        };
        let is_v5 = protocol == MqttVersion::V5;
        let (flags, keep_alive) = (self.byte()?, self.short()?);
        let has = |flag: u8| flags & flag != 0;
        let has_will = has(WILL);
        let is_malformed =
            has(RESERVED) || (!has_will && has(WILL_DETAILS)) || (!is_v5 && has(PASSWORD) && !has(USER));
        if is_malformed {
            return Err(reason::MALFORMED_PACKET);
        }
        let properties = if is_v5 { self.properties()? } else { Properties::default() };
        let client_id = self.string()?.to_owned();
        if has_will {
            if is_v5 {
                self.properties()?;
            }
            self.string()?;
            self.binary()?;
        }
        let user = has(USER).then(|| self.string()).transpose()?;
        let password = has(PASSWORD).then(|| self.binary()).transpose()?;
        Ok(ClientHello {
            protocol,
            client_id,
            keep_alive,
            is_lasting: if is_v5 { properties.session_expiry > 0 } else { !has(CLEAN_START) },
            user: user.map(str::to_owned),
            password: password.map(Bytes::copy_from_slice),
            has_will,
            has_method: properties.has_method,
            receive_max: properties.receive_max.unwrap_or(u16::MAX),
            max_packet: properties.max_packet.unwrap_or(u32::MAX),
        })
    }

    fn publish(&mut self, flags: u8, protocol: MqttVersion) -> Result<ClientPacket, ReasonCode> {
        let topic = self.string()?.to_owned();
        let id = match flags >> 1 & 3 {
            0 => None,
            1 => Some(self.id()?),
            2 => return Err(reason::QOS_NOT_SUPPORTED),
            _ => return Err(reason::MALFORMED_PACKET),
        };
        if protocol == MqttVersion::V5 {
            let properties = self.properties()?;
            if properties.has_alias {
                return Err(reason::TOPIC_ALIAS_INVALID);
            }
            if properties.has_subscription_id {
                return Err(reason::PROTOCOL_ERROR);
            }
        }
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(reason::TOPIC_NAME_INVALID);
        }
        // A copy, so that a few bytes do not keep the whole buffer they came in.
        let payload = Bytes::copy_from_slice(std::mem::take(&mut self.0));
        Ok(ClientPacket::Publish { topic, payload, id })
    }

    fn subscribe(&mut self, protocol: MqttVersion) -> Result<ClientPacket, ReasonCode> {
        let id = self.id()?;
        if protocol == MqttVersion::V5 && self.properties()?.has_subscription_id {
            return Err(reason::SUBSCRIPTION_IDS_NOT_SUPPORTED);
        }
        let filters = self.filters(|body| {
            let (topic, options) = (body.string()?.to_owned(), body.byte()?);
            // MQTT 5, 3.8.3.1; in 3.1.1 all but the QoS is reserved.
            let reserved = if protocol == MqttVersion::V5 { 0xc0 } else { 0xfc };
            if options & reserved != 0 || options & 3 == 3 {
                return Err(reason::MALFORMED_PACKET);
            }
            Ok(TopicFilter { topic, qos: options & 3, no_local: options & 4 != 0 })
        })?;
        Ok(ClientPacket::Subscribe { id, filters })
    }

    fn unsubscribe(&mut self, protocol: MqttVersion) -> Result<ClientPacket, ReasonCode> {
        let id = self.id()?;
        if protocol == MqttVersion::V5 {
            self.properties()?;
        }
        let filters = self.filters(|body| Ok(body.string()?.to_owned()))?;
        Ok(ClientPacket::Unsubscribe { id, filters })
    }

    /// One or more, and no more than anybody needs.
    fn filters<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, ReasonCode>,
    ) -> Result<Vec<T>, ReasonCode> {
        let mut all = Vec::new();
        while !self.0.is_empty() {
            if all.len() == MOST_FILTERS {
                return Err(reason::QUOTA_EXCEEDED);
            }
            all.push(one(self)?);
        }
        if all.is_empty() { Err(reason::PROTOCOL_ERROR) } else { Ok(all) }
    }

    /// Reads all properties, and keeps what a server of signals needs (MQTT 5, 2.2.2.2).
    fn properties(&mut self) -> Result<Properties, ReasonCode> {
        let (length, taken) = remaining_length(self.0)?.ok_or(reason::MALFORMED_PACKET)?;
        self.bytes(taken)?;
        let mut body = ClientPacketReader(self.bytes(length)?);
        let mut found = Properties::default();
        while !body.0.is_empty() {
            match body.byte()? {
                0x01 | 0x17 | 0x19 => drop(body.byte()?),
                0x02 | 0x18 => drop(body.long()?),
                0x11 => found.session_expiry = body.long()?,
                0x21 => found.receive_max = Some(body.short()?),
                0x22 => drop(body.short()?),
                0x23 => {
                    body.short()?;
                    found.has_alias = true;
                }
                0x27 => found.max_packet = Some(body.long()?),
                0x0b => {
                    let (_, taken) = remaining_length(body.0)?.ok_or(reason::MALFORMED_PACKET)?;
                    body.bytes(taken)?;
                    found.has_subscription_id = true;
                }
                0x15 => {
                    body.string()?;
                    found.has_method = true;
                }
                0x03 | 0x08 => drop(body.string()?),
                0x09 | 0x16 => drop(body.binary()?),
                0x26 => {
                    body.string()?;
                    body.string()?;
                }
                // The others are for servers to say, or are none.
                _ => return Err(reason::MALFORMED_PACKET),
            }
        }
        // Zero is forbidden for both (MQTT 5, 3.1.2.11.3 and 3.1.2.11.4).
        if found.receive_max == Some(0) || found.max_packet == Some(0) {
            return Err(reason::PROTOCOL_ERROR);
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Properties {
    session_expiry: u32,
    receive_max: Option<u16>,
    max_packet: Option<u32>,
    has_alias: bool,
    has_subscription_id: bool,
    has_method: bool,
}

// Packet types (MQTT 5, 2.1.2).
pub(super) const CONNECT: u8 = 1;
pub(super) const CONNACK: u8 = 2;
pub(super) const PUBLISH: u8 = 3;
pub(super) const PUBACK: u8 = 4;
pub(super) const SUBSCRIBE: u8 = 8;
pub(super) const SUBACK: u8 = 9;
pub(super) const UNSUBSCRIBE: u8 = 10;
pub(super) const UNSUBACK: u8 = 11;
pub(super) const PINGREQ: u8 = 12;
pub(super) const PINGRESP: u8 = 13;
pub(super) const DISCONNECT: u8 = 14;

// Flags of CONNECT (MQTT 5, 3.1.2.3).
const RESERVED: u8 = 1;
const CLEAN_START: u8 = 2;
const WILL: u8 = 4;
const WILL_DETAILS: u8 = 0x38;
const PASSWORD: u8 = 0x40;
const USER: u8 = 0x80;

/// Filters in one SUBSCRIBE or UNSUBSCRIBE.
const MOST_FILTERS: usize = 64;

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
