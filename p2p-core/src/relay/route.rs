//! Which of several routes the datagrams of a relayed connection take.
//!
//! A route leads from an end of ours, a socket or an address that a TURN server lends us, to an address of the peer's.
//! Whether it leads anywhere is found out by challenging:
//!
//! ```text
//! 0xD2 · kind: 1 · token of the receiver: 8 · nonce: 8        kind 0: challenge, 1: answer to a challenge, with its nonce
//! ```
//!
//! 0xD2 is neither STUN nor ChannelData, like the 0xD1 of the datagrams themselves.
//!
//! The sender of a datagram is easily forged. So a route on which a stranger was heard is not used before somebody at its
//! other end has answered a challenge of ours, with a nonce that nobody else can know (as RFC 9000, section 8.2).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};

use crate::transport::Token;
use crate::{Deadline, Seed};

/// Routes that are tried at most.
pub(super) const MOST_ROUTES: usize = 16;
/// How long a challenge is.
pub(super) const CHALLENGE_LENGTH: usize = 18;
const MAGIC: u8 = 0xd2;
/// Challenges on each route, the first included, until somebody answers: over about six seconds.
const CHALLENGES: u8 = 9;
/// Between the first two challenges; then twice as long each time, [`SLOWEST`] at most.
const FIRST_PAUSE: Duration = Duration::from_millis(60);
const SLOWEST: Duration = Duration::from_secs(1);
/// Somebody who was heard on an unproven route is asked for proof so often, with this pause, then with twice that: what
/// he says next may be long in coming. After that he is asked again when he is heard again.
const PROOF_CHALLENGES: u32 = 3;
const PROOF_PAUSE: Duration = Duration::from_millis(60);

/// What only who has got a challenge can know.
pub(super) type Nonce = [u8; 8];

/// Where datagrams leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A UDP socket of our own.
    Bare,
    /// The address that a TURN server lends us.
    Relayed,
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Our end.
    pub from: End,
    /// The peer's address, the relayed one if it has one.
    pub to: SocketAddr,
}

/// A challenge or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathChallenge {
    Question,
    Answer,
}

impl PathChallenge {
    /// As it is sent to the bearer of this token.
    pub(super) fn to_bytes(self, token: Token, nonce: Nonce) -> [u8; CHALLENGE_LENGTH] {
        let mut bytes = [0; CHALLENGE_LENGTH];
        bytes[0] = MAGIC;
        bytes[1] = u8::from(self == Self::Answer);
        bytes[2..10].copy_from_slice(&token.0);
        bytes[10..].copy_from_slice(&nonce);
        bytes
    }

    /// What it is, if it is for the bearer of this token.
    pub(super) fn parse(bytes: &[u8], ours: Token) -> Option<(Self, Nonce)> {
        let (head, rest) = bytes.split_first_chunk::<2>()?;
        let (token, nonce) = rest.split_first_chunk::<8>()?;
        let nonce = Nonce::try_from(nonce).ok()?;
        match (*head, *token == ours.0) {
            ([MAGIC, 0], true) => Some((Self::Question, nonce)),
            ([MAGIC, 1], true) => Some((Self::Answer, nonce)),
            _ => None,
        }
    }
}

/// Proof was asked for there.
#[derive(Debug)]
struct Ask {
    route: Route,
    challenged: u32,
    /// When it is asked for again, or nobody waits for it any more.
    next: Instant,
}

/// All routes there may be, and the one that is used.
#[derive(Debug)]
pub(super) struct Routes {
    /// Whether only a route that is proven is used.
    is_strict: bool,
    secret: [u8; 32],
    proven: Vec<Route>,
    asked: Vec<Ask>,
    candidates: Vec<Route>,
    current: Option<Route>,
    /// There will be none any more.
    is_closed: bool,
    /// The one in use is in doubt: the next that is heard replaces it.
    is_open: bool,
    challenged: u8,
    next: Option<Instant>,
}

impl Routes {
    /// `is_strict` where a stranger says where it is.
    pub(super) fn new(is_strict: bool, seed: &mut Seed) -> Self {
        Self {
            is_strict,
            secret: seed.array(),
            proven: Vec::new(),
            asked: Vec::new(),
            candidates: Vec::new(),
            current: None,
            is_closed: false,
            is_open: true,
            challenged: 0,
            next: None,
        }
    }

    /// What a challenge on this route carries.
    pub(super) fn nonce(&self, route: Route) -> Nonce {
        let mut hash = Blake2s256::default();
        hash.update(&self.secret);
        hash.update(&[u8::from(route.from == End::Relayed)]);
        match route.to.ip() {
            IpAddr::V4(ip) => hash.update(&ip.octets()),
            IpAddr::V6(ip) => hash.update(&ip.octets()),
        }
        hash.update(&route.to.port().to_be_bytes());
        let whole: [u8; 32] = hash.finalize_fixed().into();
        std::array::from_fn(|at| whole[at])
    }

    /// A challenge was answered there. Whether it was one of ours.
    pub(super) fn on_answered(&mut self, route: Route, nonce: Nonce) -> bool {
        let is_ours = nonce == self.nonce(route);
        if is_ours && !self.proven.contains(&route) {
            self.proven.truncate(MOST_ROUTES - 1);
            self.proven.insert(0, route);
            self.asked.retain(|ask| ask.route != route);
        }
        is_ours
    }

    /// Somebody was heard there. Whether to challenge, because nothing proves yet that who is there wants to hear from us.
    pub(super) fn wants_proof(&mut self, route: Route, now: Instant) -> bool {
        self.asked.retain(|ask| ask.challenged < PROOF_CHALLENGES || now < ask.next);
        let wants = !self.is_closed && self.is_unproven(route);
        let may = self.asked.len() < MOST_ROUTES && self.asked.iter().all(|ask| ask.route != route);
        if wants && may {
            self.asked.push(Ask { route, challenged: 1, next: now + PROOF_PAUSE });
        }
        wants && may
    }

    /// Whether it is not known yet that who is heard there is there.
    pub(super) fn is_unproven(&self, route: Route) -> bool {
        self.is_strict && !self.proven.contains(&route)
    }

    fn is_usable(&self, route: Route) -> bool {
        !self.is_closed && !self.is_unproven(route)
    }

    /// The one that is used.
    pub(super) fn current(&self) -> Option<Route> {
        self.current
    }

    /// Whether a better one, or any at all, is being looked for.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether one of those that can be tried ends at this address.
    pub(super) fn leads_to(&self, ip: IpAddr) -> bool {
        self.candidates.iter().any(|route| route.to.ip() == ip)
    }

    pub(super) fn has_candidates(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// These can be tried. When they are others than before, it begins anew.
    pub(super) fn set_candidates(&mut self, mut candidates: Vec<Route>, now: Instant) {
        candidates.truncate(MOST_ROUTES);
        if candidates != self.candidates && !self.is_closed {
            self.candidates = candidates;
            self.challenge_again(now);
        }
    }

    /// The one in use is in doubt, or addresses have changed: all are tried again.
    pub(super) fn reopen(&mut self, now: Instant) {
        self.is_open = !self.is_closed;
        self.challenge_again(now);
    }

    fn challenge_again(&mut self, now: Instant) {
        self.challenged = 0;
        self.next = Some(now).filter(|_| !self.candidates.is_empty());
    }

    /// Somebody who knows our token was heard on this route. Whether it is used from now on, and was not before.
    pub(super) fn on_heard(&mut self, route: Route) -> bool {
        if !self.is_open || !self.is_usable(route) {
            return false;
        }
        self.is_open = false;
        self.next = None;
        self.current.replace(route) != Some(route)
    }

    /// The peer has chosen this one by using it. Whether that is news.
    pub(super) fn on_chosen(&mut self, route: Route) -> bool {
        self.is_open |= self.is_usable(route);
        self.on_heard(route)
    }

    /// The routes to challenge on now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Route> {
        let unproven =
            self.asked.iter_mut().filter(|ask| ask.challenged < PROOF_CHALLENGES && ask.next <= now);
        let mut due: Vec<_> = unproven
            .map(|ask| {
                ask.next = now + PROOF_PAUSE * 2_u32.pow(ask.challenged);
                ask.challenged += 1;
                ask.route
            })
            .collect();
        if self.next.is_none_or(|at| at > now) {
            return due;
        }
        // A stranger's addresses are not worth more; where our user waits, a server may yet let us through.
        let goes_on = self.challenged + 1 < CHALLENGES || (!self.is_strict && self.current.is_none());
        let pause = FIRST_PAUSE * 2_u32.pow(u32::from(self.challenged.min(CHALLENGES)));
        self.challenged = self.challenged.saturating_add(1);
        self.next = goes_on.then(|| now + pause.min(SLOWEST));
        due.extend(&self.candidates);
        due
    }

    pub(super) fn close(&mut self) {
        (self.is_closed, self.is_open, self.current, self.next) = (true, false, None, None);
        self.candidates.clear();
        self.asked.clear();
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let asks = self.asked.iter().filter(|ask| ask.challenged < PROOF_CHALLENGES).map(|ask| ask.next);
        asks.chain(self.next).min().map(|at| Deadline::new(at, "challenging through the relay"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::epoch;

    fn route(from: End, last: u8) -> Route {
        Route { from, to: SocketAddr::from(([192, 0, 2, last], 1_000)) }
    }

    /// Nobody changes the format by accident.
    #[test]
    fn the_bytes_are_what_they_always_were() {
        for (challenge, kind) in [(PathChallenge::Question, "00"), (PathChallenge::Answer, "01")] {
            let bytes = challenge.to_bytes(Token([7; 8]), [9; 8]);
            let hex = format!("d2{kind}{}{}", "07".repeat(8), "09".repeat(8));
            assert_eq!(data_encoding::HEXLOWER.encode(&bytes), hex);
        }
    }

    #[test]
    fn a_knock_is_for_one_token() {
        let (ours, theirs, nonce) = (Token([1; 8]), Token([2; 8]), [3; 8]);
        for challenge in [PathChallenge::Question, PathChallenge::Answer] {
            assert_eq!(
                PathChallenge::parse(&challenge.to_bytes(ours, nonce), ours),
                Some((challenge, nonce))
            );
            assert_eq!(PathChallenge::parse(&challenge.to_bytes(theirs, nonce), ours), None);
            assert_eq!(
                PathChallenge::parse(&challenge.to_bytes(ours, nonce)[..CHALLENGE_LENGTH - 1], ours),
                None
            );
        }
        assert_eq!(PathChallenge::parse(&[], ours), None);
    }

    fn routes(is_strict: bool) -> Routes {
        Routes::new(is_strict, &mut Seed::from_u64(1))
    }

    #[test]
    fn a_strangers_route_is_used_when_its_end_has_answered() {
        let (mut routes, now) = (routes(true), epoch());
        let (one, two) = (route(End::Bare, 1), route(End::Relayed, 1));
        assert!(!routes.on_heard(one) && !routes.on_chosen(one));
        assert!(routes.wants_proof(one, now));
        assert!(!routes.wants_proof(one, now), "once at a time");
        assert!(routes.wants_proof(two, now));
        assert!(!routes.on_answered(one, routes.nonce(two)), "another's nonce");
        assert!(!routes.on_heard(one));
        assert!(routes.on_answered(one, routes.nonce(one)));
        assert!(!routes.wants_proof(one, now + PROOF_PAUSE));
        assert_eq!(routes.due(now + PROOF_PAUSE), [two], "who is silent is asked again");
        assert!(routes.on_heard(one));
        assert!(!routes.on_chosen(two), "only what is proven is followed");
        assert_eq!(routes.current(), Some(one));
        routes.close();
        assert!(!routes.on_chosen(one) && routes.current().is_none());
    }

    #[test]
    fn few_are_asked_for_proof_at_a_time() {
        let (mut routes, now) = (routes(true), epoch());
        let asked = |routes: &mut Routes, now| {
            (0..200).filter(|last| routes.wants_proof(route(End::Bare, *last), now)).count()
        };
        assert_eq!(asked(&mut routes, now), MOST_ROUTES);
        assert_eq!(asked(&mut routes, now + PROOF_PAUSE / 2), 0);
        let (mut again, mut now) = (0, now);
        while let Some(deadline) = routes.deadline() {
            now = deadline.at;
            assert_eq!(asked(&mut routes, now), 0);
            again += routes.due(now).len();
        }
        assert_eq!(again, MOST_ROUTES * 2);
        assert_eq!(asked(&mut routes, now + PROOF_PAUSE), 0);
        assert_eq!(asked(&mut routes, now + PROOF_PAUSE * 4), MOST_ROUTES);
    }

    #[test]
    fn knocks_end_by_themselves_and_begin_anew_for_others() {
        let mut routes = routes(true);
        let mut now = epoch();
        assert!(routes.due(now).is_empty());
        let all = vec![route(End::Bare, 1), route(End::Relayed, 1)];
        routes.set_candidates(all.clone(), now);
        let mut count = 0;
        while let Some(deadline) = routes.deadline() {
            now = deadline.at;
            assert_eq!(routes.due(now), all);
            assert!(routes.due(now).is_empty());
            count += 1;
        }
        assert_eq!(count, CHALLENGES);
        assert!((Duration::from_secs(4)..Duration::from_secs(7)).contains(&(now - epoch())));
        routes.set_candidates(all, now);
        assert_eq!(routes.deadline(), None, "nothing new");
        routes.set_candidates(vec![route(End::Bare, 2)], now);
        assert!(routes.deadline().is_some());
    }

    #[test]
    fn the_first_that_is_heard_is_used_until_it_is_in_doubt() {
        let (mut routes, now) = (routes(false), epoch());
        let (one, two) = (route(End::Bare, 1), route(End::Relayed, 2));
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
