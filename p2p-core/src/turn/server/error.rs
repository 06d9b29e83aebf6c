//! Error responses.

use super::head::RequestHead;
use super::output::NoRelayedAddress;
use super::quota::QuotaReached;
use crate::stun::{Attribute, Class, Message};

/// An error response (RFC 8489, section 6.3.4): its code and its phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ErrorResponse {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl ErrorResponse {
    pub(super) const BAD_REQUEST: Self = Self { code: 400, reason: "Bad Request" };
    pub(super) const UNAUTHORIZED: Self = Self { code: 401, reason: "Unauthorized" };
    pub(super) const EXPIRED: Self = Self { code: 401, reason: "Credential Expired" };
    pub(super) const FORBIDDEN: Self = Self { code: 403, reason: "Forbidden" };
    pub(super) const UNKNOWN_ATTRIBUTE: Self = Self { code: 420, reason: "Unknown Attribute" };
    pub(super) const MISMATCH: Self = Self { code: 437, reason: "Allocation Mismatch" };
    pub(super) const STALE_NONCE: Self = Self { code: 438, reason: "Stale Nonce" };
    pub(super) const NO_FAMILY: Self = Self { code: 440, reason: "Address Family not Supported" };
    pub(super) const WRONG_CREDENTIALS: Self = Self { code: 441, reason: "Wrong Credentials" };
    pub(super) const NO_TRANSPORT: Self = Self { code: 442, reason: "Unsupported Transport Protocol" };
    pub(super) const PEER_FAMILY: Self = Self { code: 443, reason: "Peer Address Family Mismatch" };
    pub(super) const EXISTS: Self = Self { code: 446, reason: "Connection Already Exists" };
    pub(super) const NO_CONNECTION: Self = Self { code: 447, reason: "Connection Timeout or Failure" };
    pub(super) const QUOTA: Self = Self { code: 486, reason: "Allocation Quota Reached" };
    pub(super) const CAPACITY: Self = Self { code: 508, reason: "Insufficient Capacity" };

    pub(super) fn answer(self, head: RequestHead) -> Message {
        Message::new(Class::Error, head.method, head.transaction)
            .with(Attribute::ErrorCode { code: self.code, reason: self.reason.into() })
    }

    /// The same without the phrase.
    pub(super) fn brief(self) -> Self {
        Self { reason: "", ..self }
    }

    /// Tells whether the client is told how to sign.
    pub(super) fn is_challenge(self) -> bool {
        matches!(self.code, 401 | 438)
    }
}

impl From<QuotaReached> for ErrorResponse {
    fn from(reached: QuotaReached) -> Self {
        match reached {
            QuotaReached::User => Self::QUOTA,
            QuotaReached::Server => Self::CAPACITY,
        }
    }
}

impl From<NoRelayedAddress> for ErrorResponse {
    fn from(no: NoRelayedAddress) -> Self {
        match no {
            NoRelayedAddress::Family => Self::NO_FAMILY,
            NoRelayedAddress::Exhausted => Self::CAPACITY,
        }
    }
}
