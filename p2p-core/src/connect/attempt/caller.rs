//! The caller's side of an attempt: which ways run, and which connection is kept.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::ask_peer::AskPeerAct;
use super::super::punches::is_same;
use super::super::{Act, AskPeer, Event, HappyEyeballs, Lane, LaneFailure, RelayAct, WayFailure};
use super::common::Common;
use crate::attempt::{AttemptId, Path, RefusalReason, Way};
use crate::candidate::{Candidate, Filter, MOST_CANDIDATES, path_to};
use crate::nat::NatFacts;
use crate::nat::meets::{self, meets};
use crate::peer::{InterfaceAddr, PeerAddr};
use crate::proof::ProofError;
use crate::punch::{self, Failed, Mode, Punch, PunchConfig, View};
use crate::signal::{Body, Delivery, DialMe, Signal};
use crate::{Deadline, Machine, Output, Reach};

/// The time that the direct way runs alone before the peer is asked to dial us. On the path where it works it
/// mostly wins within this, and no third party is troubled.
pub const HEAD_START: Duration = Duration::from_millis(30);
/// The time after which a relay is asked for, if nothing else has led to the peer: between neighbours a dial or a punch
/// has by then, and no server is troubled.
pub const RELAY_AFTER: Duration = Duration::from_millis(150);
/// The time from the start until which a relayed connection that is ready waits for a punch of which nothing is known
/// yet.
pub const RELAY_PATIENCE: Duration = Duration::from_secs(2);
/// The time from the start until which it waits at most, for a punch that will probably lead to the peer: one through
/// the worst of NATs takes a second and a half, after the probe.
pub const MOST_RELAY_PATIENCE: Duration = Duration::from_secs(4);

/// The configuration of a caller's [`Attempt`](super::Attempt).
#[derive(Clone, Debug)]
pub struct CallConfig {
    /// The peer, and what it published.
    pub peer: PeerAddr,
    /// The name of the attempt at both ends.
    pub attempt: AttemptId,
    /// The ways to go, in the order they start.
    pub ways: Vec<Way>,
    /// The families and paths that may be used.
    pub filter: Filter,
    /// Tells whether the user asked for the bare TCP connection.
    pub plain: bool,
    /// The time by which the other ways begin later than the first. Default [`HEAD_START`]; a day at most.
    pub head_start: Duration,
    /// The pause between two dials. Default [`DIAL_DELAY`](super::super::DIAL_DELAY); a day at most.
    pub dial_delay: Duration,
    /// The time after which the attempt is given up altogether; a day at most.
    pub within: Duration,
}

/// The question for the peer's current address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddrQuestion {
    NotAsked,
    Asked { until: Instant },
    Closed,
}

/// The part of an attempt that only a caller has.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    config: CallConfig,
    /// The lane on which Go is being said.
    keeping: Option<Lane>,
    ask: Option<AskPeer>,
    question: AddrQuestion,
    arrivals: usize,
    /// Every broker of the peer's has said that it is not there.
    is_offline: bool,
    /// The peer has told of another address since we began.
    has_moved: bool,
    /// The peer was asked to dial us and may be at it.
    has_asked: bool,
    /// The number of times that it was asked anew, and the addresses that it was told the last time.
    asks: u8,
    asked_from: BTreeSet<(IpAddr, Option<IpAddr>)>,
}

impl Caller {
    pub(super) fn new(config: CallConfig) -> Self {
        Self {
            config,
            keeping: None,
            ask: None,
            question: AddrQuestion::NotAsked,
            arrivals: 0,
            is_offline: false,
            has_moved: false,
            has_asked: false,
            asks: 0,
            asked_from: BTreeSet::new(),
        }
    }

    /// Returns whether no connection is being kept yet.
    pub(super) fn is_racing(&self, common: &Common) -> bool {
        !common.is_over && self.keeping.is_none()
    }

    /// Keeps the first lane that is proven.
    pub(super) fn on_proven(&mut self, common: &mut Common, lane: Lane, now: Instant) {
        if self.is_racing(common) && !self.must_wait(common, lane, now) {
            self.keep(common, lane);
        }
    }

    pub(super) fn on_kept(&mut self, common: &mut Common, lane: Lane, now: Instant) {
        if self.keeping == Some(lane) && !common.is_over {
            self.over(common, Some(lane), now);
            common.tell(Event::Won(lane));
        }
    }

    /// Ends the attempt if the peer is there, is itself, and said no: other ways would only ask again. Unless it only
    /// does not want this way: then another may be welcome.
    pub(super) fn on_refused(&mut self, common: &mut Common, failure: &LaneFailure, now: Instant) -> bool {
        match failure {
            LaneFailure::Proof(ProofError::Refused(reason))
                if *reason != RefusalReason::Unsupported && self.is_racing(common) =>
            {
                self.lose(common, &WayFailure::Refused(*reason), now);
                true
            }
            _ => false,
        }
    }

    /// Keeps another lane, if this was the one to be kept.
    pub(super) fn lost_while_keeping(&mut self, common: &mut Common, lane: Lane) {
        if self.keeping == Some(lane) && !common.is_over {
            self.keeping = None;
            if let Some(next) = common.records.proven() {
                self.keep(common, next);
            }
        }
    }

    pub(super) fn on_arrival(
        &mut self,
        common: &mut Common,
        remote: SocketAddr,
        view: &View<'_>,
        now: Instant,
    ) -> Option<Lane> {
        if common.is_over || self.arrivals >= MOST_ARRIVALS || self.ask.is_none() {
            return None;
        }
        let lane = Lane::Arrived(self.arrivals);
        self.arrivals += 1;
        let path = path_to(view.host, Some(&common.peer), remote.ip());
        let candidate = Candidate { path, target: remote, from: None };
        self.config.filter.paths.contains(&path).then(|| common.open(lane, candidate, now))
    }

    pub(super) fn on_delivery(&mut self, common: &mut Common, body: &Body, delivery: Delivery, now: Instant) {
        self.is_offline |= delivery == Delivery::Offline;
        let failure = match &delivery {
            Delivery::Offline => Some(WayFailure::Offline),
            Delivery::NoBroker(troubles) => Some(WayFailure::NoBroker(troubles.clone())),
            Delivery::Told | Delivery::Unknown => None,
        };
        match (body, failure) {
            (Body::DialMe(_), _) => {
                self.ask.iter_mut().for_each(|ask| ask.handle_delivery(delivery.clone(), now));
            }
            (Body::Punch(_), Some(failure)) => self.end_punch(common, failure, now),
            (Body::Relay(_), Some(failure)) => self.end_relay(common, failure, now),
            (Body::AskAddr, Some(_)) => self.question = AddrQuestion::Closed,
            _ => {}
        }
    }

    pub(super) fn on_signal(
        &mut self,
        common: &mut Common,
        signal: &Signal,
        has_moved: bool,
        view: &View<'_>,
        now: Instant,
    ) {
        self.is_offline = false;
        self.has_moved |= has_moved;
        if has_moved {
            self.dial_more(common, view, now);
        }
        self.on_body(common, signal, view, now);
        if has_moved {
            // What it declined where it was before makes room.
            self.punch_more(common, view, now);
        }
    }

    fn on_body(&mut self, common: &mut Common, signal: &Signal, view: &View<'_>, now: Instant) {
        match &signal.body {
            Body::Refuse(refusal) => {
                self.question = AddrQuestion::Closed;
                self.ask.iter_mut().for_each(|ask| ask.handle_refused(refusal.reason, now));
                // These are about one way, and not this one.
                if !matches!(refusal.reason, RefusalReason::NoRoute | RefusalReason::Unsupported) {
                    self.end_punch(common, WayFailure::Refused(refusal.reason), now);
                    self.end_relay(common, WayFailure::Refused(refusal.reason), now);
                }
            }
            Body::Punch(message) => {
                common.punches.handle_message(message, now);
                common.drain(now).into_iter().for_each(|lane| self.lost_while_keeping(common, lane));
                if self.has_moved {
                    self.punch_more(common, view, now);
                }
            }
            Body::Relay(offer) => match offer.refusal {
                Some(reason) => self.end_relay(common, WayFailure::Refused(reason), now),
                None if common.relay.is_running() => {
                    let act = RelayAct::Hear(offer.clone(), signal.sender.sources());
                    common.relay_act(Some(act));
                }
                None => {}
            },
            Body::TellAddr => self.question = AddrQuestion::Closed,
            _ => {}
        }
    }

    /// Dials and punches from where we are by now.
    pub(super) fn on_moved(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        self.dial_more(common, view, now);
        self.ask_again(common, view, now);
        self.punch_more(common, view, now);
    }

    /// Returns whether the attempt is out of time.
    pub(super) fn on_timeout(&mut self, common: &mut Common, now: Instant) -> bool {
        let is_out_of_time = now >= common.began + self.config.within;
        if is_out_of_time {
            self.lose(common, &WayFailure::TimedOut, now);
        } else if let Some(ask) = &mut self.ask {
            ask.handle_timeout(now);
        }
        is_out_of_time
    }

    /// The user does not want the connection any more.
    pub(super) fn cancel(&mut self, common: &mut Common, now: Instant) {
        common.records.end_all(&WayFailure::Cancelled, now);
        self.over(common, None, now);
    }

    /// Starts what is due, drains the parts, ends what cannot go on.
    pub(super) fn step(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        self.start_due(common, view, now);
        self.ask_address(common, now);
        self.drain(common, now);
        self.end_direct(common, now);
        // A way that failed gives its head start to the next.
        if self.start_due(common, view, now) {
            self.drain(common, now);
            self.end_direct(common, now);
        }
        self.keep_waiting(common, now);
        if common.records.is_idle() && self.is_racing(common) {
            self.over(common, None, now);
            common.tell(Event::Lost);
        }
    }

    pub(super) fn deadline(&self, common: &Common) -> Option<Deadline> {
        let is_racing = self.is_racing(common);
        let waits = |is_it: fn(Way) -> bool| is_racing && common.records.has_waiting(is_it);
        let (waiting, relay) = (waits(|way| way != Way::Relay), waits(|way| way == Way::Relay));
        let asks = self.question == AddrQuestion::NotAsked && common.dials.is_some() && self.may_ask(common);
        let answered = match self.question {
            AddrQuestion::Asked { until } => Some(until),
            AddrQuestion::NotAsked | AddrQuestion::Closed => None,
        };
        let ready = common.records.proven().filter(|_| is_racing);
        let waits_for = ready.map(|lane| self.patience(common, lane));
        let began = common.began;
        Deadline::earliest([
            Some(Deadline::new(began + self.config.within, "the attempt is out of time")),
            waiting.then(|| Deadline::new(began + self.config.head_start, "start the other ways")),
            relay.then(|| Deadline::new(self.relay_due(common), "ask for a relay")),
            waits_for.map(|at| Deadline::new(at, "nothing better than a relay")),
            asks.then(|| Deadline::new(self.ask_address_at(common), "ask for the peer's current address")),
            answered.map(|at| Deadline::new(at, "the peer should have told its address by now")),
            self.ask.as_ref().and_then(AskPeer::deadline),
        ])
    }

    fn keep(&mut self, common: &mut Common, lane: Lane) {
        self.keeping = Some(lane);
        common.act(Act::Keep(lane));
    }

    /// Returns whether there is any broker through which the peer may be reached.
    fn can_signal(&self, common: &Common) -> bool {
        !common.peer.brokers().is_empty()
    }

    fn start_due(&mut self, common: &mut Common, view: &View<'_>, now: Instant) -> bool {
        let mut started = false;
        let is_head_start_over = now >= common.began + self.config.head_start;
        let must_punch = !is_head_start_over
            && common.records.has_waiting(|way| way == Way::Punch)
            && self.must_punch(common, view);
        let is_relay_due = now >= self.relay_due(common);
        let is_due = |way| match way {
            Way::Relay => is_relay_due,
            Way::Punch => is_head_start_over || must_punch,
            _ => is_head_start_over,
        };
        while self.is_racing(common)
            && let Some(way) = common.records.start_next(is_due, now)
        {
            self.start(common, way, view, now);
            started = true;
        }
        started
    }

    fn start(&mut self, common: &mut Common, way: Way, view: &View<'_>, now: Instant) {
        match way {
            Way::Direct => {
                let found = common.candidates(&self.config.filter, view);
                common.dials = Some(HappyEyeballs::new(found, self.config.dial_delay, now));
            }
            _ if !self.can_signal(common) => common.records.end(way, WayFailure::NoSignalling, now),
            Way::Reverse if !view.listens => common.records.end(way, WayFailure::NotListening, now),
            Way::Reverse => self.ask(view, now),
            Way::Punch => self.start_punches(common, view, now),
            Way::Relay if self.is_offline => common.records.end(way, WayFailure::Offline, now),
            Way::Relay if !self.config.filter.paths.contains(&Path::External) => {
                common.records.end(way, WayFailure::NotAllowed, now);
            }
            Way::Relay => {
                let act = common.relay.begin(common.peer.sources());
                common.relay_act(Some(act));
            }
        }
    }

    fn drain(&mut self, common: &mut Common, now: Instant) {
        while let Some(output) = self.ask.as_mut().map(Machine::poll_output) {
            match output {
                Output::Act(AskPeerAct::Ask) => {
                    self.has_asked = true;
                    common.signal(Body::DialMe(DialMe { plain: self.config.plain }));
                }
                Output::Event(failure) => common.records.end(Way::Reverse, failure, now),
                Output::Wait(_) => break,
            }
        }
        common.drain(now).into_iter().for_each(|lane| self.lost_while_keeping(common, lane));
    }

    fn may_ask(&self, common: &Common) -> bool {
        self.can_signal(common) && self.is_racing(common)
    }

    /// Asks for the peer's address, if dialling does not work at once: what it published may be old.
    fn ask_address(&mut self, common: &mut Common, now: Instant) {
        let Some(dials) = &common.dials else { return };
        let is_wanted = dials.is_exhausted() || now >= self.ask_address_at(common);
        if matches!(self.question, AddrQuestion::Asked { until } if now >= until) {
            self.question = AddrQuestion::Closed;
        }
        if self.question == AddrQuestion::NotAsked && is_wanted && self.may_ask(common) {
            self.question = AddrQuestion::Asked { until: now + ADDR_WITHIN };
            common.signal(Body::AskAddr);
        }
    }

    /// Returns when the peer is asked where it is by now. If it has not published where it is seen from outside, that is
    /// what it will know soon, and everything hangs on it.
    fn ask_address_at(&self, common: &Common) -> Instant {
        let is_placed =
            |address: &InterfaceAddr| address.external.is_some() || Reach::of(address.local) == Reach::Global;
        let is_known = common.peer.interfaces().iter().any(is_placed);
        common.began + if is_known { ASK_ADDR_AFTER } else { self.config.head_start }
    }

    /// Ends the direct way when nothing is left to dial and no news of the peer's address is expected.
    fn end_direct(&mut self, common: &mut Common, now: Instant) {
        let is_expecting = match self.question {
            AddrQuestion::NotAsked => self.can_signal(common),
            AddrQuestion::Asked { .. } => true,
            AddrQuestion::Closed => false,
        };
        if let Some(dials) = &common.dials
            && dials.is_exhausted()
            && !is_expecting
        {
            let failure = if dials.is_empty() { WayFailure::NoCandidates } else { WayFailure::AllFailed };
            common.records.end(Way::Direct, failure, now);
        }
    }

    /// Dials what has become known since the direct way began. A way that had nothing left goes on.
    fn dial_more(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        let more = common.candidates(&self.config.filter, view);
        let Some(dials) = &mut common.dials else { return };
        dials.handle_more(more, now);
        let has_ended =
            |failure: &WayFailure| matches!(failure, WayFailure::NoCandidates | WayFailure::AllFailed);
        if !dials.is_exhausted() && common.records.has_failed(Way::Direct, has_ended) {
            common.records.begin(Way::Direct, now);
        }
    }

    fn ask(&mut self, view: &View<'_>, now: Instant) {
        self.ask = Some(AskPeer::new(now));
        self.asks += 1;
        self.asked_from = reachable_at(view);
    }

    /// Asks the peer again to dial us, if it could not, and may find us elsewhere by now.
    fn ask_again(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        let could_not = |failure: &WayFailure| {
            matches!(failure, WayFailure::Refused(RefusalReason::NoRoute) | WayFailure::NotListening)
        };
        let is_elsewhere = view.listens && reachable_at(view) != self.asked_from;
        if self.is_racing(common)
            && self.asks < MOST_ASKS
            && is_elsewhere
            && common.records.has_failed(Way::Reverse, could_not)
        {
            common.records.begin(Way::Reverse, now);
            self.ask(view, now);
        }
    }

    /// Returns whether all that is known of both networks says that neither side can simply dial the other: then a
    /// punch has nothing to wait for.
    fn must_punch(&self, common: &Common, view: &View<'_>) -> bool {
        let pairs = punch::worthwhile(view, &common.peer, &self.config.filter, common.id);
        let is_known = |facts: &NatFacts| facts.nat.is_some() || facts.filtering.is_some();
        let must = |pair: &PunchConfig| {
            let dials = [meets::Way::Direct, meets::Way::Reverse];
            let can_dial = || meets(&pair.facts, &pair.theirs).ways.iter().any(|way| dials.contains(way));
            pair.mode == Mode::Remote && is_known(&pair.facts) && is_known(&pair.theirs) && !can_dial()
        };
        !pairs.is_empty() && pairs.iter().all(must)
    }

    /// Begins a punch for each pair of addresses that is worth one and has none yet.
    fn start_punches(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        let wanted = punch::worthwhile(view, &common.peer, &self.config.filter, common.id);
        let is_wanted = |config: &PunchConfig| wanted.iter().any(|wanted| is_same(wanted, config));
        for config in wanted.iter().filter(|config| !common.punches.are_between(config)).collect::<Vec<_>>() {
            let Some(pair) = common.punches.make_room(is_wanted) else { break };
            // The lanes of whoever had the number before are numbered alike.
            common.records.forget_punched(pair);
            common.punches.add(Punch::call(PunchConfig { pair, ..config.clone() }, now));
        }
        if common.punches.are_over()
            && let Some(failed) = common.punches.failed()
        {
            // Nothing has come to light that would change what was told before.
            common.records.end(Way::Punch, failed.into(), now);
        }
        if common.punches.is_empty() {
            let is_placed = punch::are_placed(view, &common.peer);
            let failure = if is_placed { WayFailure::NothingToPunch } else { WayFailure::NoExternalAddress };
            common.records.end(Way::Punch, failure, now);
        }
    }

    /// Punches between addresses that were not known before, as long as the way is not over. It may begin again if
    /// there was nothing to punch between.
    fn punch_more(&mut self, common: &mut Common, view: &View<'_>, now: Instant) {
        let found_nothing = |failure: &WayFailure| {
            matches!(
                failure,
                WayFailure::NoExternalAddress
                    | WayFailure::NothingToPunch
                    | WayFailure::Punch(
                        Failed::NoPlan | Failed::NoPorts | Failed::Declined(RefusalReason::NoRoute)
                    )
            )
        };
        if common.records.has_failed(Way::Punch, found_nothing) && self.is_racing(common) {
            common.records.begin(Way::Punch, now);
        }
        if common.records.is_running(Way::Punch) {
            self.start_punches(common, view, now);
        }
    }

    /// Ends the punches, if they have not led anywhere yet.
    fn end_punch(&mut self, common: &mut Common, failure: WayFailure, now: Instant) {
        if !common.punches.is_empty() && self.is_racing(common) && !common.records.is_up(Way::Punch) {
            common.punches.close(None, now);
            common.records.end(Way::Punch, failure, now);
        }
    }

    fn end_relay(&mut self, common: &mut Common, failure: WayFailure, now: Instant) {
        if self.is_racing(common) {
            common.end_relay(failure, now);
        }
    }

    fn relay_due(&self, common: &Common) -> Instant {
        common.began + self.config.head_start.max(RELAY_AFTER)
    }

    /// Returns whether this proven lane must wait, as a better way may yet lead somewhere.
    fn must_wait(&self, common: &Common, lane: Lane, now: Instant) -> bool {
        lane.is_relayed() && now < self.patience(common, lane) && common.records.hopes_beside(Way::Relay)
    }

    /// Returns until when a relayed lane waits. A dial, ours or the peer's, takes fewer round trips than the relay did: it
    /// gets half as long again. A punch gets until the end of a round that promises something.
    fn patience(&self, common: &Common, lane: Lane) -> Instant {
        let began = common.began;
        let proven = common.records.proven_at(lane).unwrap_or(began);
        let dials = proven + (proven.saturating_duration_since(began) / 2).max(LEAST_PATIENCE);
        let punches = if common.punches.are_over() && !common.records.has_waiting(|way| way == Way::Punch) {
            None
        } else {
            Some(common.punches.hopeful_until().unwrap_or(began + RELAY_PATIENCE))
        };
        punches.map_or(dials, |punches| punches.max(dials)).min(began + MOST_RELAY_PATIENCE)
    }

    /// Keeps what waited, if it need not wait any more.
    fn keep_waiting(&mut self, common: &mut Common, now: Instant) {
        if self.is_racing(common)
            && let Some(lane) = common.records.proven()
            && !self.must_wait(common, lane, now)
        {
            self.keep(common, lane);
        }
    }

    /// Ends all that still runs, for one reason.
    fn lose(&mut self, common: &mut Common, failure: &WayFailure, now: Instant) {
        common.records.end_all(failure, now);
        self.over(common, None, now);
        common.tell(Event::Lost);
    }

    fn over(&mut self, common: &mut Common, kept: Option<Lane>, now: Instant) {
        let may_be_at_it = self.has_asked || common.punches.have_offered() || common.relay.is_running();
        self.ask = None;
        common.over(kept, now);
        let is_known_there = kept.is_some_and(|lane| !matches!(lane, Lane::Dialled(_)));
        if may_be_at_it && !is_known_there {
            common.signal(Body::Bye);
        }
    }
}

/// Returns where a peer can dial us, as far as we know.
fn reachable_at(view: &View<'_>) -> BTreeSet<(IpAddr, Option<IpAddr>)> {
    view.host.addresses.iter().map(|ours| (ours.ip, ours.external)).collect()
}

/// A peer is asked to dial us for this many different sets of addresses of ours at most.
const MOST_ASKS: u8 = 3;
/// The time that a relayed lane gives to dials at least.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// The time after the start at which the peer is asked for its current address, if dialling has not worked by then.
const ASK_ADDR_AFTER: Duration = Duration::from_millis(300);
/// The time that the answer may take when nothing else is left.
const ADDR_WITHIN: Duration = Duration::from_secs(3);
/// Connections of the peer's that are proven for one attempt at most. It dials each of our addresses once.
const MOST_ARRIVALS: usize = MOST_CANDIDATES;
