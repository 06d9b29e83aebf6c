//! The memory of an attempt: how far each way is, and what happened on each lane.

use std::time::Instant;

use super::{AttemptReport, Lane, LaneFailure, LaneReport, WayFailure, WayOutcome, WayReport};
use crate::attempt::{AttemptId, Role, Way};
use crate::candidate::Candidate;
use crate::peer::PeerId;
use crate::punch::PunchReport;

/// Failed punched lanes that are remembered; the tally of each punch counts them all.
const MOST_FAILED_PUNCHED: usize = 32;

/// How far one way is.
#[derive(Clone, Debug)]
enum Progress {
    Waiting,
    Running { since: Instant },
    Ended { since: Option<Instant>, at: Instant, outcome: WayOutcome },
}

impl Progress {
    fn since(&self) -> Option<Instant> {
        match self {
            Self::Waiting => None,
            Self::Running { since } => Some(*since),
            Self::Ended { since, .. } => *since,
        }
    }
}

#[derive(Clone, Debug)]
struct Runner {
    way: Way,
    progress: Progress,
}

/// What is known of one connection.
#[derive(Clone, Debug)]
struct LaneRecord {
    lane: Lane,
    candidate: Candidate,
    began: Instant,
    connected: Option<Instant>,
    proven: Option<Instant>,
    failure: Option<LaneFailure>,
}

/// Every way and every lane of one race.
#[derive(Clone, Debug)]
pub(super) struct Records {
    role: Role,
    began: Instant,
    runners: Vec<Runner>,
    lanes: Vec<LaneRecord>,
}

impl Records {
    pub(super) fn new(role: Role, ways: &[Way], now: Instant) -> Self {
        let runners = ways.iter().map(|&way| Runner { way, progress: Progress::Waiting }).collect();
        Self { role, began: now, runners, lanes: Vec::new() }
    }

    /// A lane begins. Strangers can connect to a punched port for as long as it is listened on: of their lanes only
    /// the last ones are remembered.
    pub(super) fn open(&mut self, lane: Lane, candidate: Candidate, now: Instant) {
        let is_old =
            |record: &LaneRecord| matches!(record.lane, Lane::Punched { .. }) && record.failure.is_some();
        if self.lanes.iter().filter(|record| is_old(record)).count() >= MOST_FAILED_PUNCHED
            && let Some(oldest) = self.lanes.iter().position(is_old)
        {
            self.lanes.remove(oldest);
        }
        let (connected, proven, failure) = (None, None, None);
        self.lanes.push(LaneRecord { lane, candidate, began: now, connected, proven, failure });
    }

    /// The lanes of this punch never were.
    pub(super) fn forget_punched(&mut self, number: u8) {
        self.lanes.retain(|record| !matches!(record.lane, Lane::Punched { pair, .. } if pair == number));
    }

    /// TCP is up on a lane.
    pub(super) fn connect(&mut self, lane: Lane, now: Instant) {
        if let Some(record) = self.lane(lane) {
            record.connected.get_or_insert(now);
        }
    }

    /// The peer is proven on a lane. Returns whether that counts.
    pub(super) fn prove(&mut self, lane: Lane, now: Instant) -> bool {
        let record = self.lane(lane).filter(|record| record.failure.is_none());
        record.map(|record| record.proven.get_or_insert(now)).is_some()
    }

    /// A lane failed. Returns whether it had not failed before.
    pub(super) fn fail(&mut self, lane: Lane, failure: LaneFailure) -> bool {
        let record = self.lane(lane).filter(|record| record.failure.is_none());
        record.map(|record| record.failure = Some(failure)).is_some()
    }

    pub(super) fn knows(&self, lane: Lane) -> bool {
        self.lanes.iter().any(|record| record.lane == lane)
    }

    fn lane(&mut self, lane: Lane) -> Option<&mut LaneRecord> {
        self.lanes.iter_mut().find(|record| record.lane == lane)
    }

    pub(super) fn candidate(&self, lane: Lane) -> Option<Candidate> {
        self.lanes.iter().find(|record| record.lane == lane).map(|record| record.candidate)
    }

    /// A lane that is proven and has not failed since: the first, and a relayed one only when there is no other.
    pub(super) fn proven(&self) -> Option<Lane> {
        let proven = |record: &&LaneRecord| record.proven.is_some() && record.failure.is_none();
        let lanes = self.lanes.iter().filter(proven).map(|record| record.lane);
        lanes.min_by_key(|lane| lane.is_relayed())
    }

    /// Returns when a lane was proven.
    pub(super) fn proven_at(&self, lane: Lane) -> Option<Instant> {
        self.lanes.iter().find(|record| record.lane == lane)?.proven
    }

    /// The next way to start: the first one waiting when none runs, else one that is due.
    pub(super) fn start_next(&mut self, is_due: impl Fn(Way) -> bool, now: Instant) -> Option<Way> {
        let nobody_runs =
            !self.runners.iter().any(|runner| matches!(runner.progress, Progress::Running { .. }));
        let mut waiting =
            self.runners.iter_mut().filter(|runner| matches!(runner.progress, Progress::Waiting));
        let next = waiting.find(|runner| nobody_runs || is_due(runner.way))?;
        next.progress = Progress::Running { since: now };
        Some(next.way)
    }

    /// A way begins that nobody waited for.
    pub(super) fn begin(&mut self, way: Way, now: Instant) {
        match self.runners.iter_mut().find(|runner| runner.way == way) {
            Some(runner) => {
                runner.progress = Progress::Running { since: runner.progress.since().unwrap_or(now) }
            }
            None => self.runners.push(Runner { way, progress: Progress::Running { since: now } }),
        }
    }

    /// Whether a way has ended for this reason.
    pub(super) fn has_failed(&self, way: Way, is_it: impl Fn(&WayFailure) -> bool) -> bool {
        let failed = |runner: &Runner| matches!(&runner.progress, Progress::Ended { outcome: WayOutcome::Failed(failure), .. } if is_it(failure));
        self.runners.iter().any(|runner| runner.way == way && failed(runner))
    }

    /// Whether a way is under way.
    pub(super) fn is_running(&self, way: Way) -> bool {
        self.runners
            .iter()
            .any(|runner| runner.way == way && matches!(runner.progress, Progress::Running { .. }))
    }

    /// Whether a way like this has not begun.
    pub(super) fn has_waiting(&self, is_it: impl Fn(Way) -> bool) -> bool {
        self.runners.iter().any(|runner| is_it(runner.way) && matches!(runner.progress, Progress::Waiting))
    }

    /// Whether any other way than this may yet lead somewhere.
    pub(super) fn hopes_beside(&self, way: Way) -> bool {
        let is_over = |runner: &Runner| matches!(runner.progress, Progress::Ended { .. });
        self.runners.iter().any(|runner| runner.way != way && (!is_over(runner) || self.is_up(runner.way)))
    }

    /// Whether nothing runs any more and nothing is left to run.
    pub(super) fn is_idle(&self) -> bool {
        self.runners.iter().all(|runner| matches!(runner.progress, Progress::Ended { .. }))
            && self.lanes.iter().all(|record| record.failure.is_some())
    }

    /// Whether a connection of this way is up.
    pub(super) fn is_up(&self, way: Way) -> bool {
        self.lanes.iter().any(|record| record.lane.way(self.role) == way && record.failure.is_none())
    }

    /// A way that runs has failed.
    pub(super) fn end(&mut self, way: Way, failure: WayFailure, now: Instant) {
        for runner in self.runners.iter_mut().filter(|runner| runner.way == way) {
            if let Progress::Running { since } = runner.progress {
                let outcome = WayOutcome::Failed(failure.clone());
                runner.progress = Progress::Ended { since: Some(since), at: now, outcome };
            }
        }
    }

    /// Every way that has not ended has failed.
    pub(super) fn end_all(&mut self, failure: &WayFailure, now: Instant) {
        for runner in &mut self.runners {
            if !matches!(runner.progress, Progress::Ended { .. }) {
                let outcome = WayOutcome::Failed(failure.clone());
                runner.progress = Progress::Ended { since: runner.progress.since(), at: now, outcome };
            }
        }
    }

    /// The race is over: writes down who won and answers which lanes to drop.
    pub(super) fn settle(&mut self, winner: Option<Lane>, now: Instant) -> Vec<Lane> {
        let mut dropped = Vec::new();
        for record in &mut self.lanes {
            if Some(record.lane) != winner && record.failure.is_none() {
                record.failure = Some(LaneFailure::Dropped);
                dropped.push(record.lane);
            }
        }
        for runner in &mut self.runners {
            let won = Some(runner.way) == winner.map(|lane| lane.way(self.role));
            if won || !matches!(runner.progress, Progress::Ended { .. }) {
                let outcome = if won { WayOutcome::Won } else { WayOutcome::Overtaken };
                runner.progress = Progress::Ended { since: runner.progress.since(), at: now, outcome };
            }
        }
        dropped
    }

    /// The story so far.
    pub(super) fn report(
        &self,
        peer: PeerId,
        attempt: AttemptId,
        punches: Vec<PunchReport>,
        now: Instant,
    ) -> AttemptReport {
        let since = |at: Instant| at.saturating_duration_since(self.began);
        let lane = |record: &LaneRecord| LaneReport {
            path: record.candidate.path,
            remote: record.candidate.target,
            began: since(record.began),
            connected: record.connected.map(since),
            proven: record.proven.map(since),
            failure: record.failure.clone(),
        };
        let way = |runner: &Runner| {
            let (ended, outcome) = match &runner.progress {
                Progress::Waiting | Progress::Running { .. } => (now, WayOutcome::Overtaken),
                Progress::Ended { at, outcome, .. } => (*at, outcome.clone()),
            };
            WayReport {
                way: runner.way,
                began: runner.progress.since().map(since),
                ended: since(ended),
                outcome,
                lanes: self
                    .lanes
                    .iter()
                    .filter(|record| record.lane.way(self.role) == runner.way)
                    .map(lane)
                    .collect(),
                punches: if runner.way == Way::Punch { punches.clone() } else { Vec::new() },
            }
        };
        AttemptReport { peer, attempt, took: since(now), ways: self.runners.iter().map(way).collect() }
    }
}
