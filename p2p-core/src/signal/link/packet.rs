//! MQTT packets in neutral words: what a session needs of MQTT 3.1.1 and MQTT 5, and no more.

use std::fmt;

use bytes::Bytes;

use super::PublishError;
use crate::peer::MqttVersion;

/// User name and password. The password never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password, sent as it is: use TLS.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, ..)", self.user)
    }
}

/// The first packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The version to speak on this connection.
    pub protocol: MqttVersion,
    /// Random, 20 letters and digits: every broker must accept 1 to 23 of them (MQTT-3.1.3-5).
    pub client_id: String,
    /// The longest silence we promise, in seconds.
    pub keep_alive: u16,
    /// Who we are to the broker, if it cares.
    pub login: Option<Login>,
    /// How many unacknowledged messages we take at once. Said in MQTT 5 only.
    pub receive_max: u16,
}

/// How a broker answers [`Connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// Welcome.
    Accepted,
    /// The broker does not speak this protocol version.
    BadProtocol,
    /// The broker does not like the client identifier.
    BadClientId,
    /// User name or password is wrong.
    BadLogin,
    /// This client may not connect.
    NotAuthorised,
    /// Refused for another reason, by its MQTT 5 reason code (0x88 for "server unavailable" of 3.1.1).
    Other(u8),
}

/// The answer to [`Connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Yes, or why not.
    pub code: ConnectCode,
    /// Whether the broker remembers us. It must not: sessions are clean.
    pub session_present: bool,
    /// How many unacknowledged messages the broker takes at once.
    pub receive_max: Option<u16>,
    /// The largest packet the broker takes, in bytes.
    pub max_packet: Option<u32>,
    /// The keep-alive the broker imposes, in seconds.
    pub keep_alive: Option<u16>,
}

/// A packet to or from a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to broker: hello.
    Connect(Connect),
    /// Broker to client: the answer.
    ConnAck(ConnAck),
    /// Client to broker: give me what is published here, at QoS 1.
    Subscribe {
        /// The packet identifier.
        id: u16,
        /// The topic, without wildcards.
        topic: String,
    },
    /// Broker to client: the answer.
    SubAck {
        /// The packet identifier of the [`Packet::Subscribe`].
        id: u16,
        /// The reason code; 0x80 and above is a refusal.
        code: u8,
    },
    /// Either way: a message.
    Publish {
        /// Where it is published.
        topic: String,
        /// What.
        payload: Bytes,
        /// The packet identifier at QoS 1, or `None` at QoS 0.
        id: Option<u16>,
        /// It may have been sent before.
        dup: bool,
    },
    /// Either way: the message with this identifier arrived.
    PubAck {
        /// The packet identifier of the [`Packet::Publish`].
        id: u16,
        /// The reason code: 0 success, 0x10 no matching subscribers, 0x80 and above a refusal.
        reason: u8,
    },
    /// Client to broker: are you there?
    PingReq,
    /// Broker to client: yes.
    PingResp,
    /// Either way: farewell.
    Disconnect {
        /// The MQTT 5 reason code, 0 for a normal end.
        reason: u8,
    },
}

/// Bytes a [`Packet::Publish`] takes on the wire at most, with the longest fixed header and no properties.
pub(super) fn publish_size(topic: &str, payload: &[u8]) -> usize {
    // Fixed header 5, topic length 2, packet identifier 2, property length 1.
    10 + topic.len() + payload.len()
}

/// Whether a message can be published in a packet of `most` bytes: the door of every channel.
///
/// # Errors
/// [`PublishError::BadTopic`] or [`PublishError::TooLarge`].
pub fn admit(topic: &str, payload: &[u8], most: u32) -> Result<(), PublishError> {
    let (size, most) = (publish_size(topic, payload), most as usize);
    if topic.is_empty() || topic.contains(['+', '#', '\0']) || topic.len() > usize::from(u16::MAX) {
        Err(PublishError::BadTopic)
    } else if size > most {
        Err(PublishError::TooLarge { size, most })
    } else {
        Ok(())
    }
}
