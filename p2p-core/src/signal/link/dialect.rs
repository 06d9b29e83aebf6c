//! Which version of MQTT a broker is spoken to in.

use super::MqttVersion;

/// Which version the next connection speaks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    Pinned(MqttVersion),
    Newest,
    /// MQTT 5 did not work. Remembered over sessions only if the broker said so itself: a connection that was
    /// dropped may have been dropped for another reason.
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
