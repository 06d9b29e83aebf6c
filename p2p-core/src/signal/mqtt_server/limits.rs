//! What one source may cost, whatever number of clients it has.

use std::time::Instant;

use crate::Seed;
use crate::rate::{Rate, RateTable, Source};

#[derive(Debug)]
pub(super) struct SourceLimits {
    packets: RateTable,
    publishes: RateTable,
    published: RateTable,
    delivered: RateTable,
}

impl SourceLimits {
    pub(super) fn new(publishes: Rate, seed: &mut Seed, now: Instant) -> Self {
        let mut limit = |rate| RateTable::new(rate, seed, now);
        Self {
            packets: limit(PACKETS),
            publishes: limit(publishes),
            published: limit(PUBLISHED),
            delivered: limit(DELIVERED),
        }
    }

    /// Whether one more packet is within the rate.
    pub(super) fn take_packet(&mut self, source: Source, now: Instant) -> bool {
        self.packets.take(source, now)
    }

    /// Whether a message of so many bytes may be published.
    pub(super) fn take_publish(&mut self, source: Source, bytes: usize, now: Instant) -> bool {
        self.publishes.take(source, now) && self.published.take_many(source, tokens(bytes), now)
    }

    /// Whether a message of so many bytes may be given to a subscriber.
    pub(super) fn take_delivery(&mut self, source: Source, bytes: usize, now: Instant) -> bool {
        self.delivered.take_many(source, tokens(bytes.max(LEAST_DELIVERED)), now)
    }
}

/// No message has more than a packet may have.
fn tokens(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Packets of any kind; all clients of a source are read less often when there are more.
const PACKETS: Rate = Rate { per_second: 10_000, burst: 20_000 };
/// Bytes published: a hundred signals a second of the largest size.
const PUBLISHED: Rate = Rate { per_second: 512 * 1024, burst: 4 * 1024 * 1024 };
/// Bytes given to the subscribers of one source. A topic can have many subscribers, and one message to it costs as many;
/// but a victim's own topic must not be used up by a dozen floods.
const DELIVERED: Rate = Rate { per_second: 8 * 1024 * 1024, burst: 16 * 1024 * 1024 };
/// Bytes that a message to a subscriber counts as at least: an empty one takes time too. So one source is given 8,192 a
/// second at most.
const LEAST_DELIVERED: usize = 1_024;
