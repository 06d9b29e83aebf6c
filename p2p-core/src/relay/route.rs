//! Which of several routes the datagrams of a relayed connection take.
//!
//! A route leads from an end of ours, a socket or an address that a TURN server lends us, to an address of the peer's.
//! Whether it leads anywhere is found out by knocking:
//!
//! ```text
//! 0xD2 · kind: 1 · token of the receiver: 8        kind 0: knock, 1: answer to a knock
//! ```
//!
//! 0xD2 is neither STUN nor ChannelData, like the 0xD1 of the datagrams themselves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Token;
use crate::Deadline;

/// Routes that are tried at most.
pub(super) const MOST_ROUTES: usize = 16;
/// How long a knock is.
pub(super) const KNOCK: usize = 10;
const MAGIC: u8 = 0xd2;
/// Knocks on each route, the first included, until somebody answers: over about six seconds.
const KNOCKS: u8 = 9;
/// Between the first two knocks; then twice as long each time, [`SLOWEST`] at most.
const FIRST_PAUSE: Duration = Duration::from_millis(60);
const SLOWEST: Duration = Duration::from_secs(1);

/// Where datagrams leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A UDP socket of our own.
    Bare,
    /// The address that a TURN server lends us.
    Lent,
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Our end.
    pub from: End,
    /// The peer's address, the relayed one if it has one.
    pub to: SocketAddr,
}

/// A knock or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knock {
    Knock,
    Answer,
}

impl Knock {
    /// As it is sent to the bearer of this token.
    pub(super) fn to_bytes(self, token: Token) -> [u8; KNOCK] {
        let mut bytes = [0; KNOCK];
        bytes[0] = MAGIC;
        bytes[1] = u8::from(self == Self::Answer);
        bytes[2..].copy_from_slice(&token.0);
        bytes
    }

    /// What it is, if it is for the bearer of this token.
    pub(super) fn parse(bytes: &[u8], ours: Token) -> Option<Self> {
        let (head, token) = bytes.split_first_chunk::<2>()?;
        match (*head, token == ours.0) {
            ([MAGIC, 0], true) => Some(Self::Knock),
            ([MAGIC, 1], true) => Some(Self::Answer),
            _ => None,
        }
    }
}

/// All routes there may be, and the one that is used.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    candidates: Vec<Route>,
    current: Option<Route>,
    /// The one in use is in doubt: the next that is heard replaces it.
    is_open: bool,
    knocked: u8,
    next: Option<Instant>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self { is_open: true, ..Self::default() }
    }

    /// The one that is used.
    pub(super) fn current(&self) -> Option<Route> {
        self.current
    }

    /// Whether a better one, or any at all, is being looked for.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn has_candidates(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// These can be tried. When they are others than before, it begins anew.
    pub(super) fn set_candidates(&mut self, mut candidates: Vec<Route>, now: Instant) {
        candidates.truncate(MOST_ROUTES);
        if candidates != self.candidates {
            self.candidates = candidates;
            self.knock_again(now);
        }
    }

    /// The one in use is in doubt, or addresses have changed: all are tried again.
    pub(super) fn reopen(&mut self, now: Instant) {
        self.is_open = true;
        self.knock_again(now);
    }

    fn knock_again(&mut self, now: Instant) {
        self.knocked = 0;
        self.next = Some(now).filter(|_| !self.candidates.is_empty());
    }

    /// Somebody who knows our token was heard on this route. Whether it is used from now on, and was not before.
    pub(super) fn on_heard(&mut self, route: Route) -> bool {
        if !self.is_open {
            return false;
        }
        self.is_open = false;
        self.next = None;
        self.current.replace(route) != Some(route)
    }

    /// The peer has chosen this one by using it. Whether that is news.
    pub(super) fn on_chosen(&mut self, route: Route) -> bool {
        self.is_open = true;
        self.on_heard(route)
    }

    /// The routes to knock on now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Route> {
        if self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let pause = FIRST_PAUSE * 2_u32.pow(u32::from(self.knocked));
        self.knocked += 1;
        self.next = (self.knocked < KNOCKS).then(|| now + pause.min(SLOWEST));
        self.candidates.clone()
    }

    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.next.map(|at| Deadline::new(at, "knocking through the relay"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    fn route(from: End, last: u8) -> Route {
        Route { from, to: SocketAddr::from(([192, 0, 2, last], 1_000)) }
    }

    #[test]
    fn a_knock_is_for_one_token() {
        let (ours, theirs) = (Token([1; 8]), Token([2; 8]));
        for knock in [Knock::Knock, Knock::Answer] {
            assert_eq!(Knock::parse(&knock.to_bytes(ours), ours), Some(knock));
            assert_eq!(Knock::parse(&knock.to_bytes(theirs), ours), None);
            assert_eq!(Knock::parse(&knock.to_bytes(ours)[..9], ours), None);
        }
        assert_eq!(Knock::parse(&[], ours), None);
    }

    #[test]
    fn knocks_end_by_themselves_and_begin_anew_for_others() {
        let mut routes = Routes::new();
        let mut now = epoch();
        assert!(routes.due(now).is_empty());
        let all = vec![route(End::Bare, 1), route(End::Lent, 1)];
        routes.set_candidates(all.clone(), now);
        let mut count = 0;
        while let Some(deadline) = routes.deadline() {
            now = deadline.at;
            assert_eq!(routes.due(now), all);
            assert!(routes.due(now).is_empty());
            count += 1;
        }
        assert_eq!(count, KNOCKS);
        assert!((Duration::from_secs(4)..Duration::from_secs(7)).contains(&(now - epoch())));
        routes.set_candidates(all, now);
        assert_eq!(routes.deadline(), None, "nothing new");
        routes.set_candidates(vec![route(End::Bare, 2)], now);
        assert!(routes.deadline().is_some());
    }

    #[test]
    fn the_first_that_is_heard_is_used_until_it_is_in_doubt() {
        let (mut routes, now) = (Routes::new(), epoch());
        let (one, two) = (route(End::Bare, 1), route(End::Lent, 2));
        routes.set_candidates(vec![one, two], now);
        assert!(routes.on_heard(two));
        assert!(!routes.on_heard(one));
        assert_eq!((routes.current(), routes.deadline()), (Some(two), None));
        routes.reopen(now);
        assert_eq!(routes.current(), Some(two), "in doubt, but nothing better is known");
        assert!(!routes.on_heard(two), "the same again");
        routes.reopen(now);
        assert!(routes.on_heard(one));
        assert!(routes.on_chosen(two), "the peer's choice counts");
        assert!(!routes.on_chosen(two));
    }
}
