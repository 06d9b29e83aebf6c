//! The acts, events and counters of a link.

use std::time::Duration;

use bytes::Bytes;

use super::{FailReason, LinkError, MqttVersion, Packet};

/// An effect for the driver to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Connects to the broker, with TLS if there is any, and speaks this version. The outcome is told by
    /// [`Link::handle_connected`](super::Link::handle_connected) or [`Link::handle_lost`](super::Link::handle_lost).
    Dial(MqttVersion),
    /// Sends this packet on the connection.
    Send(Packet),
    /// Gives up the dial, or closes the connection after what was sent. No outcome is told.
    HangUp,
}

/// The receivers of a message, as far as the broker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribers {
    /// At least one subscriber gets the message. This follows only for brokers that have said [`Subscribers::Nobody`]
    /// in other cases.
    Someone,
    /// Nobody is subscribed, so the peer is not there.
    Nobody,
    /// The broker does not say: MQTT 3.1.1, or an MQTT 5 broker that never told.
    Unknown,
}

/// A decision for the owner to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The subscription stands, and messages arrive from now on.
    Up,
    /// There is no session: a dial failed or a session ended.
    Down {
        /// The reason why there is no session.
        reason: LinkError,
        /// The pause before the next dial.
        retry_in: Duration,
    },
    /// The broker has taken a message.
    Delivered {
        /// The ticket of the message.
        ticket: u64,
        /// The receivers of the message, as far as known.
        subscribers: Subscribers,
    },
    /// A message did not get through, as far as we know.
    Failed {
        /// The ticket of the message.
        ticket: u64,
        /// The reason why it did not.
        reason: FailReason,
    },
    /// A message for us.
    Received {
        /// The bytes of the message.
        payload: Bytes,
    },
}

/// The counts of what a link has done and seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The number of dials.
    pub dials: u64,
    /// The number of failed dials and lost sessions.
    pub losses: u64,
    /// The number of messages sent, without repeats.
    pub sent: u64,
    /// The number of messages sent again.
    pub resent: u64,
    /// The number of messages received and passed on.
    pub received: u64,
    /// The number of messages received and dropped, because there were too many.
    pub flooded: u64,
    /// The number of packets that made no sense when they came, and of acknowledgements of nothing.
    pub strange: u64,
}
