//! The punches of one attempt, on either side of it.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Candidate, Lane, LaneFailure, Path};
use crate::attempt::DialError;
use crate::punch::{
    Act, Event, Failed, MOST_PAIRS, Message, Mode, Punch, PunchConfig, PunchReport, Share, Socket,
};
use crate::{Deadline, Local, Machine, Mapped, Output};

/// Punches of one attempt in all, however often the peer says that it is elsewhere.
const MOST_PUNCHES: usize = 2 * MOST_PAIRS as usize;

/// One punch for each pair of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Punches {
    all: Vec<Punch>,
    /// What became of those that made room for others.
    gone: Vec<PunchReport>,
}

/// What one of them wants or tells.
pub(super) enum Said {
    Act(u8, Act),
    Lost,
}

impl Punches {
    pub(super) fn add(&mut self, punch: Punch) {
        self.all.push(punch);
    }

    /// A number for one more: one that is free, or that of one that the peer has declined, as it keeps nothing of
    /// those. Never of one that is `wanted`. `None` when there were enough.
    pub(super) fn make_room(&mut self, wanted: impl Fn(&PunchConfig) -> bool) -> Option<u8> {
        if self.all.len() + self.gone.len() >= MOST_PUNCHES {
            return None;
        }
        if let Some(free) = (0..MOST_PAIRS).find(|number| !self.has(*number)) {
            return Some(free);
        }
        let is_declined = |punch: &Punch| matches!(punch.report().failed, Some(Failed::Declined(_)));
        let index = self.all.iter().position(|punch| is_declined(punch) && !wanted(punch.config()))?;
        let old = self.all.remove(index);
        self.gone.push(old.report());
        Some(old.config().pair)
    }

    /// Whether there is one between these addresses.
    pub(super) fn are_between(&self, wanted: &PunchConfig) -> bool {
        self.all.iter().any(|punch| is_same(punch.config(), wanted))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether none runs any more.
    pub(super) fn are_over(&self) -> bool {
        self.all.iter().all(Punch::is_over)
    }

    /// Whether the other side has heard of any of them.
    pub(super) fn have_offered(&self) -> bool {
        self.all.iter().any(|punch| !punch.is_over() && punch.has_spoken())
    }

    pub(super) fn has(&self, pair: u8) -> bool {
        self.all.iter().any(|punch| punch.config().pair == pair)
    }

    /// The reason that says most about why nothing came of any.
    pub(super) fn failed(&self) -> Option<Failed> {
        let weight = |failed: &Failed| match failed {
            Failed::Spent => 6,
            Failed::NoPlan => 5,
            Failed::Declined(_) => 4,
            Failed::Silent => 3,
            Failed::NoPorts => 2,
            Failed::NotTheirs => 1,
            Failed::NoBudget => 0,
        };
        self.all.iter().filter_map(|punch| punch.report().failed).max_by_key(weight)
    }

    pub(super) fn reports(&self) -> Vec<PunchReport> {
        self.gone.iter().cloned().chain(self.all.iter().map(Punch::report)).collect()
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        Deadline::earliest(self.all.iter().map(Punch::deadline))
    }

    /// The next thing any of them says.
    pub(super) fn poll(&mut self) -> Option<Said> {
        self.all.iter_mut().find_map(|punch| match punch.poll_output() {
            Output::Act(act) => Some(Said::Act(punch.config().pair, act)),
            Output::Event(Event::Lost(_)) => Some(Said::Lost),
            Output::Wait(_) => None,
        })
    }

    fn pair(&mut self, pair: u8) -> Option<&mut Punch> {
        self.all.iter_mut().find(|punch| punch.config().pair == pair)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.all.iter_mut().for_each(|punch| punch.handle_timeout(now));
    }

    pub(super) fn handle_message(&mut self, message: &Message, now: Instant) {
        if let Some(punch) = self.pair(message.pair) {
            punch.handle_message(message, now);
        }
    }

    pub(super) fn handle_share(&mut self, pair: u8, share: Share, now: Instant) -> bool {
        self.pair(pair).is_some_and(|punch| punch.handle_share(share, now))
    }

    pub(super) fn handle_listening(
        &mut self,
        pair: u8,
        at: Local,
        outcome: Result<(), DialError>,
        now: Instant,
    ) {
        if let Some(punch) = self.pair(pair) {
            punch.handle_listening(at, outcome, now);
        }
    }

    pub(super) fn handle_observed(&mut self, pair: u8, from: Local, mapped: Option<Mapped>, now: Instant) {
        if let Some(punch) = self.pair(pair) {
            punch.handle_observed(from, mapped, now);
        }
    }

    /// The lane that a dial has become, and where it leads.
    pub(super) fn handle_connected(
        &mut self,
        pair: u8,
        socket: Socket,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<(Lane, Candidate)> {
        let punch = self.pair(pair)?;
        punch.handle_connected(socket, now).then(|| lane(punch, socket, remote))
    }

    /// The lane that an arrival becomes.
    pub(super) fn handle_accepted(
        &mut self,
        pair: u8,
        at: Local,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<(Lane, Candidate)> {
        let punch = self.pair(pair)?;
        let socket = punch.handle_accepted(at, remote, now)?;
        Some(lane(punch, socket, remote))
    }

    pub(super) fn handle_failed(&mut self, pair: u8, socket: Socket, failure: &DialError, now: Instant) {
        if let Some(punch) = self.pair(pair) {
            punch.handle_failed(socket, failure, now);
        }
    }

    /// A lane failed.
    pub(super) fn handle_lane_failed(&mut self, lane: Lane, failure: &LaneFailure, now: Instant) {
        let Some((pair, socket)) = lane.punched_by() else { return };
        match failure {
            LaneFailure::Dial(error) => self.handle_failed(pair, socket, error, now),
            LaneFailure::Proof(_) | LaneFailure::NotTried | LaneFailure::Dropped => {
                if let Some(punch) = self.pair(pair) {
                    punch.handle_unproven(socket, now);
                }
            }
        }
    }

    /// Closes all, but the lane that is kept.
    pub(super) fn close(&mut self, kept: Option<Lane>, now: Instant) {
        let kept = kept.and_then(|lane| lane.punched_by());
        for punch in &mut self.all {
            match kept.filter(|(pair, _)| *pair == punch.config().pair) {
                Some((_, socket)) => punch.handle_kept(socket, now),
                None => punch.close(now),
            }
        }
    }
}

/// Whether both are between the same addresses.
pub(super) fn is_same(one: &PunchConfig, other: &PunchConfig) -> bool {
    let ends = |config: &PunchConfig| (config.mode, config.local, config.remote, config.at);
    ends(one) == ends(other)
}

fn lane(punch: &Punch, socket: Socket, remote: SocketAddr) -> (Lane, Candidate) {
    let config = punch.config();
    let path = match config.mode {
        Mode::Remote => Path::External,
        Mode::Lan => Path::Local,
        Mode::Machine | Mode::Interface => Path::Machine,
    };
    let candidate = Candidate { path, target: remote, from: Some(config.local) };
    (Lane::punched(config.pair, socket), candidate)
}
