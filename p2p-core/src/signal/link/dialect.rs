//! The choice of the MQTT version to speak to a broker.

use super::MqttVersion;

/// The rule for the version that the next connection speaks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    Pinned(MqttVersion),
    Newest,
    /// MQTT 5 did not work. It is remembered over sessions only if the broker said so itself, as a connection may be
    /// dropped for another reason.
    Older {
        remember: bool,
    },
}

impl Dialect {
    pub(super) fn protocol(self) -> MqttVersion {
        match self {
            Self::Pinned(protocol) => protocol,
            Self::Newest => MqttVersion::V5,
            Self::Older { .. } => MqttVersion::V3,
        }
    }
}
