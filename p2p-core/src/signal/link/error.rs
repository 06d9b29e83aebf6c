//! The errors between us and a broker, by whose fault they are.

use thiserror::Error;

use super::MqttVersion;
use crate::text::ForeignText;

/// A reason why there is no session with a broker.
///
/// The variants with text carry the words of the operating system or the TLS library, for people.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The name of the broker has no address.
    #[error("the broker's name does not resolve ({0}): check the name and the DNS of this machine")]
    Unresolved(String),
    /// Nobody answers at the broker's address.
    #[error("the broker cannot be reached ({0}): is it running, and is a firewall between?")]
    Unreachable(String),
    /// The dial, with TLS if there is any, took longer than [`DIAL_TIMEOUT`](super::DIAL_TIMEOUT).
    #[error("the broker did not answer the dial in time: is a firewall between?")]
    DialTimeout,
    /// The TLS certificate of the broker is not good enough.
    #[error("the broker's certificate is refused ({0}): check the name, the date and the CA file")]
    Certificate(ForeignText),
    /// TLS failed for another reason.
    #[error("TLS with the broker failed ({0}): is this a TLS port?")]
    Tls(ForeignText),
    /// A setting on this machine is wrong.
    #[error("the channel is misconfigured on this machine: {0}")]
    Configuration(String),
    /// This machine, or this process, has nothing left to connect with: no descriptor, no memory.
    #[error("this machine has nothing left to connect with ({0})")]
    Exhausted(String),
    /// The broker accepted the connection and said nothing.
    #[error("the broker accepts and says nothing: is this an MQTT port?")]
    Silent,
    /// The user name or password is wrong.
    #[error("the broker refuses this user name or password")]
    BadLogin,
    /// The broker does not authorise this client.
    #[error("the broker does not authorise this client: user name, password or its access rules")]
    NotAuthorised,
    /// The broker does not speak the version that we offered.
    #[error("the broker does not speak {0}")]
    BadProtocol(MqttVersion),
    /// The broker refuses the connection for another reason, by its MQTT 5 reason code.
    #[error("the broker refuses the connection (MQTT reason {0:#04x})")]
    Refused(u8),
    /// The broker does not let us subscribe to our own topic.
    #[error("the broker refuses the subscription (MQTT reason {0:#04x}): check its access rules")]
    SubscriptionRefused(u8),
    /// The broker ended the session, by its MQTT 5 reason code.
    #[error("the broker ended the session (MQTT reason {0:#04x})")]
    Disconnected(u8),
    /// The broker stopped answering pings or acknowledging messages.
    #[error("the broker stopped answering")]
    Mute,
    /// The broker sent bytes that are not MQTT.
    #[error("the broker does not speak MQTT ({0})")]
    Malformed(ForeignText),
    /// The connection ended.
    #[error("the connection to the broker was lost ({0})")]
    Lost(ForeignText),
}

impl LinkError {
    /// Tells whether trying again soon is useless, because a person must change something first.
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Certificate(_)
                | Self::Configuration(_)
                | Self::BadLogin
                | Self::NotAuthorised
                | Self::BadProtocol(_)
                | Self::SubscriptionRefused(_)
        )
    }
}

/// A reason why a message was refused when it was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic and the payload are too long.
    #[error("a message of {size} bytes is too large: at most {most}")]
    TooLarge {
        /// The bytes of the packet.
        size: usize,
        /// The bytes allowed, by us or by the broker.
        most: usize,
    },
    /// Too many messages wait: [`MAX_QUEUED`](super::MAX_QUEUED), or [`MAX_QUEUED_BYTES`](super::MAX_QUEUED_BYTES) in
    /// bytes.
    #[error("too many messages wait for the broker")]
    QueueFull,
    /// The topic is empty, or has a wildcard or a NUL.
    #[error("a topic to publish to must not be empty nor contain '+', '#' or NUL")]
    BadTopic,
    /// The message has expired already.
    #[error("the message has expired before it was sent")]
    TooLate,
    /// Another message with this ticket is waiting.
    #[error("another message with this ticket is waiting")]
    TicketInUse,
    /// The link is closed.
    #[error("the channel is closed")]
    Closed,
}

/// A reason why a message that was taken did not get through, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FailReason {
    /// The message was refused when it was handed over. Drivers that do not wait for that tell it so.
    #[error("the message was not taken: {0}")]
    NotTaken(PublishError),
    /// There was no session with the broker before the message expired.
    #[error("no connection to the broker in time")]
    NoConnection,
    /// The broker may have got the message, and did not acknowledge it before it expired.
    #[error("the broker did not acknowledge in time")]
    NoAnswer,
    /// The message is larger than the broker takes, as was found later.
    #[error("the message is larger than the broker takes")]
    TooLarge,
    /// The broker refused the message, by its MQTT 5 reason code.
    #[error("the broker refuses the message (MQTT reason {0:#04x})")]
    Refused(u8),
    /// The link was closed first.
    #[error("the channel was closed")]
    Closed,
}
