//! The punches of one attempt, on either side of it.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Lane, LaneFailure};
use crate::attempt::{Path, RefusalReason, Trust};
use crate::candidate::Candidate;
use crate::peer::PeerAddr;
use crate::punch::{
    Act, Event, Failed, Input, MOST_PAIRS, Message, Mode, Punch, PunchConfig, PunchReport, Socket, View,
};
use crate::{Deadline, Machine, Output};

/// Punches of one attempt in all, however often the peer says that it is elsewhere.
const MOST_PUNCHES: usize = 2 * MOST_PAIRS as usize;

/// One punch for each pair of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Punches {
    all: Vec<Punch>,
    /// What became of those that made room for others.
    gone: Vec<PunchReport>,
}

/// An output of one of them.
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
        if !self.have_room() {
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

    /// Returns whether there may be one more.
    pub(super) fn have_room(&self) -> bool {
        self.all.len() + self.gone.len() < MOST_PUNCHES
    }

    /// Makes room for another punch of this number, if this one is over.
    pub(super) fn retire(&mut self, pair: u8) {
        if let Some(index) = self.all.iter().position(|punch| punch.config().pair == pair && punch.is_over())
            && self.have_room()
        {
            self.gone.push(self.all.remove(index).report());
        }
    }

    /// Returns whether there is one between these addresses. One that came to nothing because of what was known then
    /// makes room for another, once more is known.
    pub(super) fn are_between(&mut self, wanted: &PunchConfig) -> bool {
        let has_room = self.have_room();
        let is_void = |punch: &Punch| {
            let for_want = matches!(
                punch.report().failed,
                Some(Failed::NoPlan | Failed::NoPorts | Failed::Declined(RefusalReason::NoRoute))
            );
            let known = |config: &PunchConfig| (config.facts, config.theirs, config.address);
            for_want && known(punch.config()) != known(wanted)
        };
        let Some(index) = self.all.iter().position(|punch| is_same(punch.config(), wanted)) else {
            return false;
        };
        if has_room && is_void(&self.all[index]) {
            self.gone.push(self.all.remove(index).report());
            return false;
        }
        true
    }

    /// Returns until when a round is under way that will probably lead to the peer.
    pub(super) fn hopeful_until(&self) -> Option<Instant> {
        self.all.iter().filter_map(Punch::hopeful_until).max()
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

    /// Returns whether there is one of this number.
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

    /// Takes the facts of this moment.
    pub(super) fn refresh(&mut self, view: &View<'_>, peer: &PeerAddr, trust: Trust, now: Instant) {
        self.all.iter_mut().for_each(|punch| punch.refresh(view, peer, trust, now));
    }

    pub(super) fn handle_message(&mut self, message: &Message, now: Instant) {
        if let Some(punch) = self.pair(message.pair) {
            punch.handle_message(message, now);
        }
    }

    /// Returns the lane that a connection has become, and where it leads.
    pub(super) fn handle(&mut self, pair: u8, input: Input, now: Instant) -> Option<(Lane, Candidate)> {
        let remote = match &input {
            Input::Connected { remote, .. } | Input::Accepted { remote, .. } => Some(*remote),
            Input::Share(_) | Input::Listening(..) | Input::Observed(..) | Input::Failed(..) => None,
        };
        let punch = self.pair(pair)?;
        let socket = punch.handle(input, now)?;
        Some((Lane::Punched { pair, socket }, candidate(punch.config(), remote?)))
    }

    /// Takes in that a lane failed.
    pub(super) fn handle_lane_failed(
        &mut self,
        pair: u8,
        socket: Socket,
        failure: LaneFailure,
        now: Instant,
    ) {
        let Some(punch) = self.pair(pair) else { return };
        match failure {
            LaneFailure::Dial(error) => drop(punch.handle(Input::Failed(socket, error), now)),
            LaneFailure::Proof(_) | LaneFailure::NotTried | LaneFailure::Dropped => {
                punch.handle_unproven(socket, now);
            }
        }
    }

    /// Closes all, but the lane that is kept.
    pub(super) fn close(&mut self, kept: Option<Lane>, now: Instant) {
        for punch in &mut self.all {
            match kept {
                Some(Lane::Punched { pair, socket }) if pair == punch.config().pair => {
                    punch.handle_kept(socket, now);
                }
                _ => punch.close(now),
            }
        }
    }
}

/// Whether both are between the same addresses.
pub(super) fn is_same(one: &PunchConfig, other: &PunchConfig) -> bool {
    let ends = |config: &PunchConfig| (config.mode, config.local, config.remote, config.at);
    ends(one) == ends(other)
}

fn candidate(config: &PunchConfig, remote: SocketAddr) -> Candidate {
    let path = match config.mode {
        Mode::Remote => Path::External,
        Mode::Lan => Path::Local,
        Mode::Machine | Mode::Interface => Path::Machine,
    };
    Candidate { path, target: remote, from: Some(config.local) }
}
