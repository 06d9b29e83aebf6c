//! MQTT packets in neutral terms: what a session needs of MQTT 3.1.1 and MQTT 5, and no more.

use std::fmt;

use bytes::Bytes;

use super::PublishError;
use crate::peer::MqttVersion;

/// A user name and password. The password never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password, which is sent as it is, so TLS should be used.
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
    /// The client identifier: 20 random letters and digits. Every broker must accept 1 to 23 of them (MQTT-3.1.3-5).
    pub client_id: String,
    /// The longest silence that we promise, in seconds.
    pub keep_alive: u16,
    /// The login of this client, if the broker wants one.
    pub login: Option<Login>,
    /// The number of unacknowledged messages that we take at once. Only MQTT 5 sends it.
    pub receive_max: u16,
}

/// The broker's decision on [`Connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// The broker accepts the client.
    Accepted,
    /// The broker does not speak this protocol version.
    BadProtocol,
    /// The broker does not like the client identifier.
    BadClientId,
    /// The user name or password is wrong.
    BadLogin,
    /// This client may not connect.
    NotAuthorised,
    /// The broker refuses for another reason, by its MQTT 5 reason code (0x88 for "server unavailable" of 3.1.1).
    Other(u8),
}

/// The answer to [`Connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// The decision of the broker.
    pub code: ConnectCode,
    /// True when the broker remembers us. It must not, as sessions are clean.
    pub session_present: bool,
    /// The number of unacknowledged messages that the broker takes at once.
    pub receive_max: Option<u16>,
    /// The largest packet the broker takes, in bytes.
    pub max_packet: Option<u32>,
    /// The keep-alive the broker imposes, in seconds.
    pub keep_alive: Option<u16>,
}

/// A packet to or from a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The greeting of the client to the broker.
    Connect(Connect),
    /// The answer of the broker to the greeting.
    ConnAck(ConnAck),
    /// A request of the client for what is published to a topic, at QoS 1.
    Subscribe {
        /// The packet identifier.
        id: u16,
        /// The topic, without wildcards.
        topic: String,
    },
    /// The answer of the broker to a subscription.
    SubAck {
        /// The packet identifier of the [`Packet::Subscribe`].
        id: u16,
        /// The reason code; 0x80 and above is a refusal.
        code: u8,
    },
    /// A message, in either direction.
    Publish {
        /// The topic it is published to.
        topic: String,
        /// The bytes of the message.
        payload: Bytes,
        /// The packet identifier at QoS 1, or `None` at QoS 0.
        id: Option<u16>,
        /// True when it may have been sent before.
        dup: bool,
    },
    /// An acknowledgement, in either direction, that a message arrived.
    PubAck {
        /// The packet identifier of the [`Packet::Publish`].
        id: u16,
        /// The reason code: 0 success, 0x10 no matching subscribers, 0x80 and above a refusal.
        reason: u8,
    },
    /// A question of the client whether the broker is there.
    PingReq,
    /// The answer of the broker to that question.
    PingResp,
    /// The farewell, in either direction.
    Disconnect {
        /// The MQTT 5 reason code, 0 for a normal end.
        reason: u8,
    },
}

/// Returns the most bytes that a [`Packet::Publish`] takes on the wire, with the longest fixed header and no
/// properties.
pub(super) fn publish_size(topic: &str, payload: &[u8]) -> usize {
    // The fixed header has 5 bytes, the topic length 2, the packet identifier 2, the property length 1.
    10 + topic.len() + payload.len()
}

/// Checks that a message can be published in a packet of `most` bytes. Every channel checks this first.
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
