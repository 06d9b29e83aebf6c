//! The story of an attempt, and why each way failed: for people and for programs.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::attempt::{AttemptId, DialError, Path, RefusalReason, Way};
use crate::peer::PeerId;
use crate::proof::ProofError;
use crate::punch::{Failed, PunchReport};
use crate::relay::circuit::CircuitFailure;
use crate::signal::BrokerTrouble;

/// The reason for which one connection did not come to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneFailure {
    /// Something else was ready first.
    #[error("not tried")]
    NotTried,
    /// Stopped because another connection won, or the attempt ended.
    #[error("stopped")]
    Dropped,
    /// TCP did not connect.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TCP connected, the proof did not.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

codes!(LaneFailure {
    Self::NotTried => "not_tried",
    Self::Dropped => "dropped";
    nested Self::Dial(error) => error.code(),
    Self::Proof(error) => error.code(),
});

/// The reason for which one way did not lead to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WayFailure {
    /// The peer publishes nothing we could dial.
    #[error("the peer publishes no address that can be dialled from here")]
    NoCandidates,
    /// Everything that was tried failed: see the lanes.
    #[error("no address of the peer answered")]
    AllFailed,
    /// We listen nowhere, so nobody can dial us.
    #[error("this node does not listen, so the peer cannot dial it")]
    NotListening,
    /// There is no broker at all to ask through.
    #[error("no broker is known: name one in the configuration")]
    NoSignalling,
    /// No broker took the signal.
    #[error("no broker could be used")]
    NoBroker(Vec<BrokerTrouble>),
    /// The brokers say that nobody is subscribed for the peer.
    #[error("the peer is offline: the broker says nobody is subscribed")]
    Offline,
    /// The peer read the signal and said no; or, for [`RefusalReason::NoRoute`], that it could not dial us.
    #[error("the peer {no}: {0}", no = no(*.0))]
    Refused(RefusalReason),
    /// The signal was taken, nothing came of it.
    #[error("the peer was asked and did not dial back")]
    Silent,
    /// The whole attempt ran out of time.
    #[error("out of time")]
    TimedOut,
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
    /// No punch between any address of ours and any of the peer's led to a connection.
    #[error(transparent)]
    Punch(#[from] Failed),
    /// Nobody has told where this node is seen from outside, or where the peer is, and they are not near each other.
    #[error("it is not known where this node, or the peer, is seen from outside")]
    NoExternalAddress,
    /// Between all addresses of ours and of the peer's a punch is hopeless by what is known of their networks, or is
    /// not allowed.
    #[error("by what is known of the two networks no punch between them can work")]
    NothingToPunch,
    /// Nothing came through a relay.
    #[error(transparent)]
    Relay(#[from] CircuitFailure),
    /// The call was not to go outside, and a relay is there.
    #[error("the call allows no path through the Internet, and a relay is one")]
    NotAllowed,
}

/// Names what a peer did that says this.
fn no(reason: RefusalReason) -> &'static str {
    if reason == RefusalReason::NoRoute { "could not dial us" } else { "refused" }
}

codes!(WayFailure {
    Self::NoCandidates => "no_candidates",
    Self::AllFailed => "all_failed",
    Self::NotListening => "not_listening",
    Self::NoSignalling => "no_signalling",
    Self::NoBroker(_) => "no_broker",
    Self::Offline => "offline",
    Self::Refused(_) => "refused",
    Self::Silent => "silent",
    Self::TimedOut => "timed_out",
    Self::Cancelled => "cancelled",
    Self::NoExternalAddress => "not_placed",
    Self::NothingToPunch => "nothing_to_punch",
    Self::NotAllowed => "not_allowed_here";
    nested Self::Punch(failed) => failed.code(),
    Self::Relay(failure) => failure.code(),
});

/// The end of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WayOutcome {
    /// This way led to the connection that was kept.
    Won,
    /// It did not work.
    Failed(WayFailure),
    /// Another way was faster.
    Overtaken,
}

codes!(WayOutcome {
    Self::Won => "won",
    Self::Failed(_) => "failed",
    Self::Overtaken => "overtaken",
});

/// One connection of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneReport {
    /// The distance to the peer.
    pub path: Path,
    /// The address at the other end.
    pub remote: SocketAddr,
    /// The time at which it began, after the start of the attempt.
    pub began: Duration,
    /// The time at which TCP was up.
    pub connected: Option<Duration>,
    /// The time at which the peer was proven.
    pub proven: Option<Duration>,
    /// The reason for which it was not kept. `None` for the one that was.
    pub failure: Option<LaneFailure>,
}

impl LaneReport {
    /// Returns the report of a connection to `remote` that began with the attempt and is under way.
    pub fn new(path: Path, remote: SocketAddr) -> Self {
        Self { path, remote, began: Duration::ZERO, connected: None, proven: None, failure: None }
    }
}

/// One way of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WayReport {
    /// The way that is told of.
    pub way: Way,
    /// The time at which it began, if it did.
    pub began: Option<Duration>,
    /// The time at which it ended, after the start of the attempt.
    pub ended: Duration,
    /// The end it came to.
    pub outcome: WayOutcome,
    /// Its connections.
    pub lanes: Vec<LaneReport>,
    /// Its punches: for each pair of addresses how it went, with the dials that never became a connection.
    pub punches: Vec<PunchReport>,
}

impl WayReport {
    /// Returns the report of a way that came to this end, without connections and punches.
    pub fn new(way: Way, outcome: WayOutcome) -> Self {
        Self { way, began: None, ended: Duration::ZERO, outcome, lanes: Vec::new(), punches: Vec::new() }
    }
}

/// An attempt, told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptReport {
    /// The other end.
    pub peer: PeerId,
    /// The attempt's id, the same in both ends' logs.
    pub attempt: AttemptId,
    /// The time that it took in all.
    pub took: Duration,
    /// Each way that was allowed, in the order they were started.
    pub ways: Vec<WayReport>,
}

impl AttemptReport {
    /// Returns the report of an attempt that tried nothing yet.
    pub fn new(peer: PeerId, attempt: AttemptId) -> Self {
        Self { peer, attempt, took: Duration::ZERO, ways: Vec::new() }
    }

    /// Returns the way that led to the peer.
    pub fn won(&self) -> Option<Way> {
        self.ways.iter().find(|way| way.outcome == WayOutcome::Won).map(|way| way.way)
    }

    /// Returns whether brokers say that the peer is not there, and nothing else worked.
    pub fn is_offline(&self) -> bool {
        self.won().is_none() && self.any_failed(|failure| *failure == WayFailure::Offline)
    }

    /// Returns whether the peer said no, by signal or in a proof. That it has no route to us ([`RefusalReason::NoRoute`]) is no
    /// refusal: it tried.
    pub fn is_refused(&self) -> bool {
        let is_no = |reason: &RefusalReason| *reason != RefusalReason::NoRoute;
        let refused = |lane: &LaneReport| matches!(&lane.failure, Some(LaneFailure::Proof(ProofError::Refused(reason))) if is_no(reason));
        self.any_failed(|failure| matches!(failure, WayFailure::Refused(reason) if is_no(reason)))
            || self.ways.iter().any(|way| way.lanes.iter().any(refused))
    }

    /// Returns whether the time was up while some way still had hope.
    pub fn is_timed_out(&self) -> bool {
        self.any_failed(|failure| *failure == WayFailure::TimedOut)
    }

    /// Returns the likeliest cause of the failure and what to do about it, in one line. It is `None` where no way
    /// failed.
    ///
    /// Of several causes it is the one that a user can mend soonest: a refusal comes before a missing server, and a
    /// missing server before addresses that did not answer.
    pub fn cause(&self) -> Option<String> {
        let lanes = self.ways.iter().flat_map(|way| &way.lanes).filter_map(|lane| lane.failure.as_ref());
        let of_lanes = lanes.filter_map(|failure| match failure {
            LaneFailure::Proof(ProofError::Refused(reason)) => {
                Some((0, format!("the peer refused: {reason}"), to_do_when_refused(*reason)))
            }
            LaneFailure::Proof(ProofError::Stranger) => {
                Some((1, ProofError::Stranger.to_string(), "ask the peer for its address of now"))
            }
            _ => None,
        });
        let of_ways = self.ways.iter().filter_map(|way| match &way.outcome {
            WayOutcome::Failed(failure) => {
                let (rank, to_do) = to_do(failure);
                let broker = match failure {
                    WayFailure::NoBroker(troubles) => troubles.first(),
                    _ => None,
                };
                let broker =
                    broker.map_or(String::new(), |first| format!(" ({}: {})", first.broker, first.reason));
                Some((rank, format!("{failure}{broker}"), to_do))
            }
            _ => None,
        });
        let (_, cause, to_do) = of_lanes.chain(of_ways).min_by_key(|(rank, _, _)| *rank)?;
        Some(if to_do.is_empty() { cause } else { format!("{cause}; {to_do}") })
    }

    fn any_failed(&self, so: impl Fn(&WayFailure) -> bool) -> bool {
        self.ways.iter().any(|way| matches!(&way.outcome, WayOutcome::Failed(failure) if so(failure)))
    }
}

impl fmt::Display for AttemptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} to {}, {:.1?}", self.attempt, self.peer.short(), self.took)?;
        for way in &self.ways {
            write!(f, "\n  {:<8} {}", way.way.to_string(), Told(&way.outcome))?;
            if let WayOutcome::Failed(WayFailure::NoBroker(troubles)) = &way.outcome {
                for trouble in troubles {
                    write!(f, "\n           {}: {}", trouble.broker, trouble.reason)?;
                }
            }
            for punch in &way.punches {
                write!(f, "\n           {punch}")?;
            }
            for lane in &way.lanes {
                write!(f, "\n           {} ({})", lane.remote, lane.path)?;
                if let Some(connected) = lane.connected {
                    write!(f, ", connected after {connected:.1?}")?;
                }
                match (&lane.failure, lane.proven) {
                    (Some(failure), _) => write!(f, ": {failure}")?,
                    (None, Some(proven)) => write!(f, ", proven after {proven:.1?}: kept")?,
                    (None, None) => write!(f, ": under way")?,
                }
            }
        }
        Ok(())
    }
}

/// Returns how soon a user can mend this, from 0 on, and how.
fn to_do(failure: &WayFailure) -> (u8, &'static str) {
    match failure {
        WayFailure::Refused(RefusalReason::NoRoute) => (9, "name a TURN server at one end"),
        WayFailure::Refused(reason) => (0, to_do_when_refused(*reason)),
        WayFailure::Offline => (2, "start the peer, or wait until it is back"),
        WayFailure::NoBroker(_) => (3, "check the brokers, and the login there"),
        // Its text says what to do.
        WayFailure::NoSignalling => (4, ""),
        WayFailure::TimedOut => (5, "give it more time"),
        WayFailure::NoExternalAddress => (6, "name a STUN server at both ends"),
        WayFailure::Relay(CircuitFailure::NoServer) => (7, "name a TURN server at one end"),
        WayFailure::Relay(_) => (7, "check the TURN servers, and the login there"),
        WayFailure::Punch(_) | WayFailure::NothingToPunch => (8, "name a TURN server at one end"),
        WayFailure::Silent => (9, "name a TURN server at one end"),
        WayFailure::NotListening => (10, "check the interfaces and the port of this node"),
        WayFailure::AllFailed => (11, "check that the peer runs, and the firewalls between"),
        WayFailure::NoCandidates => (12, "ask the peer for its address of now"),
        WayFailure::NotAllowed => (13, "allow more paths"),
        WayFailure::Cancelled => (14, ""),
    }
}

fn to_do_when_refused(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::NotAllowed => "ask whoever runs it to allow this node",
        RefusalReason::Unsupported => "allow other ways",
        _ => "try again later",
    }
}

struct Told<'a>(&'a WayOutcome);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WayOutcome::Won => f.write_str("won"),
            WayOutcome::Failed(failure) => write!(f, "{failure}"),
            WayOutcome::Overtaken => f.write_str("another way was faster"),
        }
    }
}
