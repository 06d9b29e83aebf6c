//! How much a punch may do to this machine, its router and the peer's.

use std::fmt;

/// What all punches of a machine, or one of them, may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections half open at a time. Default 512: small routers hold a few thousand in all.
    pub sockets: u16,
    /// Dials a second. Default 500. What the kernel repeats by itself, after a second, is not counted.
    pub per_second: u16,
    /// Dials of one punch in all.
    pub syns: u16,
    /// How often one punch may start again with other ports; 1 … 8. Default 4.
    pub rounds: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sockets: 512, per_second: 500, syns: 2_400, rounds: 4 }
    }
}

impl Limits {
    /// The smaller of these and `other`, each for itself.
    #[must_use]
    pub fn at_most(self, other: Self) -> Self {
        Self {
            sockets: self.sockets.min(other.sockets),
            per_second: self.per_second.min(other.per_second),
            syns: self.syns.min(other.syns),
            rounds: self.rounds.min(other.rounds),
        }
    }

    /// For a peer that nothing speaks for: it signs its address itself, and so could name a victim's. 64 half
    /// open, 128 dials in all, three rounds. Enough for all tactics but birthdays over a whole range of ports.
    pub fn stranger() -> Self {
        Self { sockets: 64, per_second: 100, syns: 128, rounds: 3 }
    }
}

/// A share of a [`Budget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Connections half open at a time.
    pub sockets: u16,
    /// Dials a second.
    pub per_second: u16,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sockets, {} dials a second", self.sockets, self.per_second)
    }
}

/// What all punches of a machine share. Each takes its share before it dials and gives it back when it is over;
/// as each keeps to its own, all keep to the whole.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Share,
}

impl Budget {
    /// The whole of it.
    pub fn new(limits: Limits) -> Self {
        Self { left: Share { sockets: limits.sockets, per_second: limits.per_second } }
    }

    /// As much of `wanted` as there is; nothing of either where one has run out.
    pub fn take(&mut self, wanted: Share) -> Share {
        let share = Share {
            sockets: wanted.sockets.min(self.left.sockets),
            per_second: wanted.per_second.min(self.left.per_second),
        };
        if share.sockets == 0 || share.per_second == 0 {
            return Share::default();
        }
        self.left.sockets -= share.sockets;
        self.left.per_second -= share.per_second;
        share
    }

    /// A share comes back.
    pub fn give_back(&mut self, share: Share) {
        self.left.sockets = self.left.sockets.saturating_add(share.sockets);
        self.left.per_second = self.left.per_second.saturating_add(share.per_second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_whole() {
        let share = |sockets, per_second| Share { sockets, per_second };
        let mut budget = Budget::new(Limits::default());
        assert_eq!(budget.take(share(512, 400)), share(512, 400));
        assert_eq!(budget.take(share(24, 100)), share(0, 0), "no sockets left");
        budget.give_back(share(512, 400));
        assert_eq!(budget.take(share(24, 100)), share(24, 100));
        assert_eq!(budget.take(share(600, 600)), share(488, 400));
        assert_eq!(budget.take(share(1, 1)), share(0, 0));
    }
}
