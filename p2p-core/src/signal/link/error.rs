//! What goes wrong between us and a broker, and whose fault it is.

use thiserror::Error;

use super::MqttVersion;
use crate::text::ForeignText;

/// Why there is no session with a broker.
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
    /// Something on this machine is set wrongly.
    #[error("the channel is misconfigured on this machine: {0}")]
    Configuration(String),
    /// This machine, or this process, has nothing left to connect with: no descriptor, no memory.
    #[error("this machine has nothing left to connect with ({0})")]
    Exhausted(String),
    /// The broker accepted the connection and said nothing.
    #[error("the broker accepts and says nothing: is this an MQTT port?")]
    Silent,
    /// User name or password is wrong.
    #[error("the broker refuses this user name or password")]
    BadLogin,
    /// The broker does not want this client.
    #[error("the broker does not authorise this client: user name, password or its access rules")]
    NotAuthorised,
    /// The broker does not speak what we offered.
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
    /// What the broker sent is not MQTT.
    #[error("the broker does not speak MQTT ({0})")]
    Malformed(ForeignText),
    /// The connection ended.
    #[error("the connection to the broker was lost ({0})")]
    Lost(ForeignText),
}

impl LinkError {
    /// Whether trying again soon is useless: a person must change something first.
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

/// Why a message was not taken at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Topic and payload are too long.
    #[error("a message of {size} bytes is too large: at most {most}")]
    TooLarge {
        /// Bytes of the packet.
        size: usize,
        /// Bytes allowed, by us or by the broker.
        most: usize,
    },
    /// [`MAX_QUEUED`](super::MAX_QUEUED) messages or [`MAX_QUEUED_BYTES`](super::MAX_QUEUED_BYTES) wait.
    #[error("too many messages wait for the broker")]
    QueueFull,
    /// Empty, with a wildcard or a NUL.
    #[error("a topic to publish to must not be empty nor contain '+', '#' or NUL")]
    BadTopic,
    /// Its time is over already.
    #[error("the message has expired before it was sent")]
    TooLate,
    /// Another message with this ticket is waiting.
    #[error("another message with this ticket is waiting")]
    TicketInUse,
    /// The link is closed.
    #[error("the channel is closed")]
    Closed,
}

/// Why a message that was taken did not get through, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FailReason {
    /// It was not taken at the door. Said by drivers that hand messages over without waiting.
    #[error("the message was not taken: {0}")]
    NotTaken(PublishError),
    /// No session with the broker before the message expired.
    #[error("no connection to the broker in time")]
    NoConnection,
    /// The broker got it, perhaps, and did not acknowledge before it expired.
    #[error("the broker did not acknowledge in time")]
    NoAnswer,
    /// Larger than the broker takes, as it turned out.
    #[error("the message is larger than the broker takes")]
    TooLarge,
    /// The broker refused it, by its MQTT 5 reason code.
    #[error("the broker refuses the message (MQTT reason {0:#04x})")]
    Refused(u8),
    /// The link was closed first.
    #[error("the channel was closed")]
    Closed,
}
