//! What one source and one network may cost, whatever number of clients they have.

use std::time::Instant;

use crate::Seed;
use crate::rate::{Rate, Source, SourceLimit};

#[derive(Debug)]
pub(super) struct SourceLimits {
    packets: SourceLimit,
    net_packets: SourceLimit,
    publishes: SourceLimit,
    published: SourceLimit,
    copies: SourceLimit,
    net_copies: SourceLimit,
    delivered: SourceLimit,
}

impl SourceLimits {
    pub(super) fn new(publishes: Rate, seed: &mut Seed, now: Instant) -> Self {
        let mut limit = |rate| SourceLimit::new(rate, seed, now);
        Self {
            packets: limit(PACKETS),
            net_packets: limit(NET_PACKETS),
            publishes: limit(publishes),
            published: limit(PUBLISHED),
            copies: limit(COPIES),
            net_copies: limit(NET_COPIES),
            delivered: limit(DELIVERED),
        }
    }

    /// Whether one more packet is within the rate.
    pub(super) fn take_packet(&mut self, source: Source, now: Instant) -> bool {
        self.packets.take(source, now) && self.net_packets.take(source.net(), now)
    }

    /// Whether a message of so many bytes may be published.
    pub(super) fn take_publish(&mut self, source: Source, bytes: usize, now: Instant) -> bool {
        self.publishes.take(source, now) && self.published.take_many(source, tokens(bytes), now)
    }

    /// Whether a message may be given to so many subscribers. A topic with more than a burst costs a burst.
    pub(super) fn take_copies(&mut self, source: Source, copies: usize, now: Instant) -> bool {
        let copies = tokens(copies).min(COPIES.burst);
        self.copies.take_many(source, copies, now) && self.net_copies.take_many(source.net(), copies, now)
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
/// Packets of any kind from one network: as many as two of its sources may send.
const NET_PACKETS: Rate = Rate { per_second: 20_000, burst: 40_000 };
/// Copies of what a source publishes, one for each subscriber of the topic. A topic of ours has one or two; with hundreds
/// of them, hundreds of clients that publish to it once made a server busy for minutes.
const COPIES: Rate = Rate { per_second: 1_000, burst: 4_000 };
/// Copies of what a network publishes.
const NET_COPIES: Rate = Rate { per_second: 2_000, burst: 8_000 };
/// Bytes published: a hundred signals a second of the largest size.
const PUBLISHED: Rate = Rate { per_second: 512 * 1024, burst: 4 * 1024 * 1024 };
/// Bytes given to the subscribers of one source. A topic can have many subscribers, and one message to it costs as many;
/// but a victim's own topic must not be used up by a dozen floods.
const DELIVERED: Rate = Rate { per_second: 8 * 1024 * 1024, burst: 16 * 1024 * 1024 };
/// Bytes that a message to a subscriber counts as at least: an empty one takes time too. So one source is given 8,192 a
/// second at most.
const LEAST_DELIVERED: usize = 1_024;
