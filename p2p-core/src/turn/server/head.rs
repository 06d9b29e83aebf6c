//! The part of a request that its answer repeats.

use crate::stun::wire::Parsed;
use crate::stun::{Class, Message, Method, TransactionId};

/// The part of a request that its answer repeats.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
}

impl RequestHead {
    pub(super) fn of(parsed: &Parsed<'_>) -> Self {
        let Message { method, transaction, .. } = parsed.message;
        Self { method, transaction, fingerprint: parsed.is_fingerprinted }
    }

    /// Returns a success without attributes.
    pub(super) fn success(self) -> Message {
        Message::new(Class::Success, self.method, self.transaction)
    }
}
