//! What a link says: effects, decisions, and what it has seen.

use std::time::Duration;

use bytes::Bytes;

use super::{FailReason, LinkError, MqttVersion, Packet};

/// An effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Connect to the broker, with TLS if there is any, then call [`Link::handle_connected`](super::Link::handle_connected) or
    /// [`Link::handle_lost`](super::Link::handle_lost). Packets will be in this version.
    Dial(MqttVersion),
    /// Send this on the connection.
    Send(Packet),
    /// Give up the dial, or close the connection after what was sent. Nothing more is expected of it.
    HangUp,
}

/// Who got a message, as far as the broker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribers {
    /// At least one. Concluded only from brokers that have said [`Subscribers::Nobody`] in other cases.
    Someone,
    /// Nobody is subscribed: the peer is not there.
    Nobody,
    /// The broker does not say: MQTT 3.1.1, or an MQTT 5 broker that never told.
    Unknown,
}

/// A decision for the owner to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Subscribed: messages arrive from now on.
    Up,
    /// No session: a dial failed or a session ended.
    Down {
        /// Why.
        reason: LinkError,
        /// How long until the next dial.
        retry_in: Duration,
    },
    /// The broker has taken a message.
    Delivered {
        /// Which.
        ticket: u64,
        /// Whether somebody gets it.
        subscribers: Subscribers,
    },
    /// A message did not get through, as far as we know.
    Failed {
        /// Which.
        ticket: u64,
        /// Why.
        reason: FailReason,
    },
    /// A message for us.
    Received {
        /// What it says.
        payload: Bytes,
    },
}

/// What a link has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dials.
    pub dials: u64,
    /// Failed dials and lost sessions.
    pub losses: u64,
    /// Messages sent, without repeats.
    pub sent: u64,
    /// Messages sent again.
    pub resent: u64,
    /// Messages received and passed on.
    pub received: u64,
    /// Messages received and dropped: too many.
    pub flooded: u64,
    /// Packets that made no sense when they came, and acknowledgements of nothing.
    pub strange: u64,
}
