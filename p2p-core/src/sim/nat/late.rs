//! The answers that a NAT gives late (RFC 5382, REQ-4).

use std::collections::BTreeMap;
use std::time::Instant;

use super::table::SessionKey;
use crate::sim::packet::Header;

/// The most answers that wait for their time.
pub(super) const MOST: usize = 1_024;

/// The answers that wait, at most one for each 4-tuple.
#[derive(Clone, Debug, Default)]
pub(super) struct LateAnswers {
    by_time: BTreeMap<(Instant, SessionKey), Header>,
    by_key: BTreeMap<SessionKey, Instant>,
}

impl LateAnswers {
    pub(super) fn push(&mut self, at: Instant, key: SessionKey, answer: Header) {
        if self.by_key.len() < MOST && !self.by_key.contains_key(&key) {
            self.by_key.insert(key, at);
            self.by_time.insert((at, key), answer);
        }
    }

    /// Removes the answer for a 4-tuple, whose other side turned out to be expected.
    pub(super) fn cancel(&mut self, key: SessionKey) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<(SessionKey, Header)> {
        if self.next()? > now {
            return None;
        }
        let ((_, key), answer) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some((key, answer))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}
