//! Reason codes of MQTT 5 (2.4), as far as a server of signals says them.

/// A reason code; 0x80 and above is a failure.
pub type ReasonCode = u8;

pub(super) const SUCCESS: ReasonCode = 0x00;
pub(super) const NO_MATCHING_SUBSCRIBERS: ReasonCode = 0x10;
pub(super) const NO_SUBSCRIPTION_EXISTED: ReasonCode = 0x11;
pub(super) const MALFORMED_PACKET: ReasonCode = 0x81;
pub(super) const PROTOCOL_ERROR: ReasonCode = 0x82;
pub(super) const IMPLEMENTATION_SPECIFIC: ReasonCode = 0x83;
pub(super) const UNSUPPORTED_VERSION: ReasonCode = 0x84;
pub(super) const BAD_CLIENT_ID: ReasonCode = 0x85;
pub(super) const BAD_LOGIN: ReasonCode = 0x86;
pub(super) const NOT_AUTHORIZED: ReasonCode = 0x87;
pub(super) const SHUTTING_DOWN: ReasonCode = 0x8b;
pub(super) const BAD_METHOD: ReasonCode = 0x8c;
pub(super) const KEEP_ALIVE_TIMEOUT: ReasonCode = 0x8d;
pub(super) const SESSION_TAKEN_OVER: ReasonCode = 0x8e;
pub(super) const TOPIC_FILTER_INVALID: ReasonCode = 0x8f;
pub(super) const TOPIC_NAME_INVALID: ReasonCode = 0x90;
pub(super) const TOPIC_ALIAS_INVALID: ReasonCode = 0x94;
pub(super) const PACKET_TOO_LARGE: ReasonCode = 0x95;
pub(super) const QUOTA_EXCEEDED: ReasonCode = 0x97;
pub(super) const QOS_NOT_SUPPORTED: ReasonCode = 0x9b;
pub(super) const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: ReasonCode = 0x9e;
pub(super) const SUBSCRIPTION_IDS_NOT_SUPPORTED: ReasonCode = 0xa1;
pub(super) const WILDCARDS_NOT_SUPPORTED: ReasonCode = 0xa2;

/// The return code of a CONNACK in MQTT 3.1.1 (3.2.2.3).
pub(super) fn in_3_1_1(code: ReasonCode) -> u8 {
    match code {
        UNSUPPORTED_VERSION => 1,
        BAD_CLIENT_ID => 2,
        BAD_LOGIN => 4,
        NOT_AUTHORIZED | BAD_METHOD | IMPLEMENTATION_SPECIFIC => 5,
        _ => 3,
    }
}
