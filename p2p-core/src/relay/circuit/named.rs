//! Which of the addresses that the peer says it was lent are sent to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// So many may a stranger name: two servers that lend for both families, for datagrams and for connections.
const MOST: usize = 8;
/// A stranger whom we have met may name as many others, whenever its servers are others; but not before this time.
const PAUSE: Duration = Duration::from_secs(30);

/// The addresses of the peer's last offer that may be used.
///
/// Whoever is trusted may name others with each offer. A stranger may not: each address gets a few datagrams of ours,
/// and it could name somebody else's for ever.
#[derive(Debug)]
pub(super) struct Named {
    all: BTreeSet<SocketAddr>,
    /// How many more a stranger may name; `None` for whoever is trusted.
    left: Option<usize>,
    renewed: Option<Instant>,
    /// It was met since.
    is_met: bool,
}

impl Named {
    pub(super) fn new(is_trusted: bool) -> Self {
        Self { all: BTreeSet::new(), left: (!is_trusted).then_some(MOST), renewed: None, is_met: false }
    }

    /// The peer names these now, and no others.
    pub(super) fn admit(&mut self, addresses: &[SocketAddr], now: Instant) {
        if self.is_met && self.renewed.is_none_or(|renewed| renewed + PAUSE <= now) {
            (self.is_met, self.renewed) = (false, Some(now));
            self.left = self.left.map(|_| MOST);
        }
        self.all.retain(|address| addresses.contains(address));
        for address in addresses {
            if self.left == Some(0) || !self.all.insert(*address) {
                continue;
            }
            self.left = self.left.map(|left| left - 1);
        }
    }

    /// The peer was met, wherever.
    pub(super) fn on_met(&mut self) {
        self.is_met = true;
    }

    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        self.all.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    /// How many of these are admitted.
    fn admitted(named: &mut Named, lasts: std::ops::Range<u8>, now: Instant) -> usize {
        let all: Vec<_> = lasts.map(|last| SocketAddr::from(([192, 0, 2, last], 49_152))).collect();
        named.admit(&all, now);
        assert_eq!(named.all.len(), all.iter().filter(|address| named.contains(**address)).count());
        named.all.len()
    }

    #[test]
    fn a_stranger_names_eight_and_eight_more_when_it_was_met() {
        let (mut named, now) = (Named::new(false), epoch());
        assert_eq!([0, 4, 8, 12].map(|from| admitted(&mut named, from..from + 4, now)), [4, 4, 0, 0]);
        named.on_met();
        assert_eq!(admitted(&mut named, 20..24, now), 4);
        assert_eq!(admitted(&mut named, 20..24, now), 4, "the same cost nothing");
        named.on_met();
        assert_eq!(admitted(&mut named, 20..30, now + PAUSE / 2), 8, "too soon for more");
        assert_eq!(admitted(&mut named, 20..40, now + PAUSE), 16, "and in time there are more");
        assert_eq!(admitted(&mut named, 50..60, now + PAUSE * 3), 0, "not met since");
    }

    #[test]
    fn whoever_is_trusted_names_others_at_any_time() {
        let mut named = Named::new(true);
        assert!((0..60).all(|from| admitted(&mut named, from * 4..from * 4 + 4, epoch()) == 4));
    }
}
