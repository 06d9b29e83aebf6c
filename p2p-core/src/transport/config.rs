//! What both kinds of relayed connection are told at birth.

use std::time::Duration;

use super::frame::Token;

/// What a sender may send before the receiver has said how much it takes, in bytes: part of the protocol.
pub(super) const INITIAL_LIMIT: u64 = 256 * 1024;
/// How long an ack may be held back (RFC 9000, section 13.2.1).
pub(super) const ACK_DELAY: Duration = Duration::from_millis(25);
/// Datagrams this small hold every control frame, and a byte.
const LEAST_DATAGRAM: usize = 128;
/// What a length of 16 bits allows.
const MOST_DATAGRAM: usize = 32 * 1024;

/// The tokens of both ends; see [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Ours: what we drew and told the peer.
    pub ours: Token,
    /// The peer's: what it told us.
    pub theirs: Token,
}

/// How a [`Stream`](super::Stream) or [`Messages`](super::Messages) behaves. Values outside their range are brought
/// into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// Whose datagrams are believed, and what ours carry.
    pub tokens: Tokens,
    /// The largest datagram, in bytes, 128 … 32,768. Default 1,200: with TURN's, UDP's and IPv6's headers that is
    /// 1,288, which fits wherever IPv6 does without fragments but tunnels inside tunnels. Before one of that size has
    /// arrived at most 1,024 are sent, and 512 where those do not arrive either.
    pub datagram: usize,
    /// The round trip until one was measured, 1 ms … 1 s. Default 200 ms. If signals have told more, say so: a lost
    /// first datagram is repeated after three of these.
    pub initial_rtt: Duration,
    /// Bytes that are held for sending at most, 64 KiB … 64 MiB. Default 8 MiB; much less is used unless the path
    /// is long and fast.
    pub most_send: usize,
    /// Bytes that are held for a reader who does not read at most, 256 KiB … 64 MiB. Default 8 MiB, of which a window
    /// of 256 KiB is offered until it turns out to be what limits the peer.
    pub most_receive: usize,
    /// The peer is asked for a sign of life when nothing was heard for this long, 1 s … 1 h. Default 10 s.
    pub keep_alive: Duration,
    /// The path is called dead when nothing was acknowledged for this long and two timeouts, 500 ms … 1 h.
    /// Default 4 s.
    pub dead_after: Duration,
    /// The connection is given up when nothing was acknowledged or heard for this long, at least twice `dead_after`, at most
    /// a day. Default 15 s.
    pub give_up_after: Duration,
}

impl TransportConfig {
    /// The defaults.
    pub fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            datagram: 1_200,
            initial_rtt: Duration::from_millis(200),
            most_send: 8 << 20,
            most_receive: 8 << 20,
            keep_alive: Duration::from_secs(10),
            dead_after: Duration::from_secs(4),
            give_up_after: Duration::from_secs(15),
        }
    }

    pub(super) fn clamped(self) -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        let dead_after = self.dead_after.clamp(Duration::from_millis(500), HOUR);
        Self {
            tokens: self.tokens,
            datagram: self.datagram.clamp(LEAST_DATAGRAM, MOST_DATAGRAM),
            initial_rtt: self.initial_rtt.clamp(Duration::from_millis(1), Duration::from_secs(1)),
            most_send: self.most_send.clamp(64 << 10, 64 << 20),
            most_receive: self.most_receive.clamp(INITIAL_LIMIT as usize, 64 << 20),
            keep_alive: self.keep_alive.clamp(Duration::from_secs(1), HOUR),
            dead_after,
            give_up_after: self.give_up_after.clamp(dead_after * 2, HOUR * 24),
        }
    }
}
