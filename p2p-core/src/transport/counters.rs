//! What is counted.

use super::frame::FrameError;

/// What was sent and heard, and what was dropped and why. All counts are of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent, acks included.
    pub sent: u64,
    /// Received and good.
    pub received: u64,
    /// Called lost. What they carried was sent again.
    pub lost: u64,
    /// Called lost, and arrived after all: the path reorders.
    pub spurious: u64,
    /// Timeouts: nothing was heard of the last datagrams.
    pub timeouts: u64,
    /// Dropped: not of this protocol, or broken.
    pub garbage: u64,
    /// Dropped: of this protocol, but with another token.
    pub foreign: u64,
    /// Dropped: was here before, or is too old to matter.
    pub duplicate: u64,
    /// Dropped: acknowledges what was never sent.
    pub never_sent: u64,
    /// Dropped: brings more than was asked for, or more pieces than are kept.
    pub outside: u64,
    /// Dropped: contradicts what came before, or is no frame of this kind of connection. Ends it.
    pub contradiction: u64,
    /// Dropped: came after the end.
    pub late: u64,
}

/// Why a datagram that was whole was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Frame(FrameError),
    Duplicate,
    NeverSent,
    Outside,
    Contradiction,
    Late,
}

impl Counters {
    pub(super) fn refuse(&mut self, why: Refusal) {
        let count = match why {
            Refusal::Frame(FrameError::Token) => &mut self.foreign,
            Refusal::Frame(_) => &mut self.garbage,
            Refusal::Duplicate => &mut self.duplicate,
            Refusal::NeverSent => &mut self.never_sent,
            Refusal::Outside => &mut self.outside,
            Refusal::Contradiction => &mut self.contradiction,
            Refusal::Late => &mut self.late,
        };
        *count = count.saturating_add(1);
    }
}
