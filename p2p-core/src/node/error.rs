//! The reasons for which a call leads to no connection.

use std::io;
use std::sync::Arc;

use crate::connect::AttemptReport;

/// Says why a connection did not come to be, in one line: the likeliest cause, and what to do about it.
/// [`report`](Self::report) tells the whole story.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Every way failed: the report says how.
    #[error("no connection to {}: {}", .0.peer.short(), cause(.0))]
    Failed(Box<AttemptReport>),
    /// The brokers say nobody is subscribed for this peer, and nothing else worked.
    #[error("the peer is offline: start it, or wait until it is back")]
    Offline(Box<AttemptReport>),
    /// The address is this node's own.
    #[error("that is this node's own address: give it to the other side")]
    Ourselves,
    /// The caller allowed no way at all.
    #[error("no way is allowed: name at least one strategy, one family and one path")]
    NothingAllowed,
    /// This node already has as many attempts under way as it may.
    #[error("{limit} attempts are under way already: wait for one to end")]
    TooManyAttempts {
        /// The attempts it may have.
        limit: usize,
    },
    /// The connection was made, and this program's runtime could not take it.
    #[error("the connection could not be used")]
    Socket(#[source] Arc<io::Error>),
    /// The node was closed while the attempt was under way: the report says how far it was.
    #[error("the node was closed while it connected to {}", .0.peer.short())]
    Cancelled(Box<AttemptReport>),
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}

impl ConnectError {
    /// All words that [`code`](Self::code) says.
    pub const CODES: [&'static str; 10] = [
        "offline",
        "refused",
        "timed_out",
        "no_connection",
        "ourselves",
        "nothing_allowed",
        "too_many_attempts",
        "socket",
        "cancelled",
        "closed",
    ];

    /// Returns a word for programs, which never changes: `offline`, `refused` (the peer said no on some way),
    /// `timed_out` (the time was up while some way still had hope), `no_connection` (every way failed), `ourselves`,
    /// `nothing_allowed`, `too_many_attempts`, `socket`, `cancelled` or `closed`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Offline(_) => "offline",
            Self::Failed(report) if report.is_refused() => "refused",
            Self::Failed(report) if report.is_timed_out() => "timed_out",
            Self::Failed(_) => "no_connection",
            Self::Ourselves => "ourselves",
            Self::NothingAllowed => "nothing_allowed",
            Self::TooManyAttempts { .. } => "too_many_attempts",
            Self::Socket(_) => "socket",
            Self::Cancelled(_) => "cancelled",
            Self::Closed => "closed",
        }
    }

    /// Returns the story of the attempt, if there was one.
    pub fn report(&self) -> Option<&AttemptReport> {
        match self {
            Self::Failed(report) | Self::Offline(report) | Self::Cancelled(report) => Some(report),
            _ => None,
        }
    }
}

/// Returns the likeliest cause. An attempt without any way has failed before it began.
fn cause(report: &AttemptReport) -> String {
    report.cause().unwrap_or_else(|| "nothing was tried".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::attempt::{AttemptId, Path, RefusalReason, Way};
    use crate::connect::{LaneFailure, LaneReport, WayFailure, WayOutcome, WayReport};
    use crate::peer::Identity;
    use crate::proof::ProofError;
    use crate::relay::circuit::CircuitFailure;
    use crate::signal::BrokerTrouble;

    fn failed(ways: impl IntoIterator<Item = (Way, WayFailure)>) -> AttemptReport {
        let peer = Identity::generate(&mut Seed::from_u64(1)).id();
        let mut report = AttemptReport::new(peer, AttemptId([1; 16]));
        let told = |(way, failure)| WayReport::new(way, WayOutcome::Failed(failure));
        report.ways = ways.into_iter().map(told).collect();
        report
    }

    fn line(report: AttemptReport) -> String {
        let error = ConnectError::Failed(Box::new(report));
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line}");
        let report = error.report().expect("the story").to_string();
        assert!(report.lines().count() > 1, "{report}");
        line
    }

    #[test]
    fn one_line_says_the_likeliest_cause_and_what_to_do() {
        let nobody = (Way::Direct, WayFailure::AllFailed);
        let told = line(failed([nobody.clone(), (Way::Reverse, WayFailure::NoSignalling)]));
        assert!(told.ends_with(": no broker is known: name one in the configuration"), "{told}");
        let no_server = (Way::Relay, WayFailure::Relay(CircuitFailure::NoServer));
        let told = line(failed([nobody.clone(), (Way::Reverse, WayFailure::Silent), no_server]));
        assert!(told.ends_with("; name a TURN server at one end"), "{told}");
        let trouble = BrokerTrouble { broker: "mqtt://a".into(), reason: "no answer".into() };
        let told = line(failed([nobody.clone(), (Way::Reverse, WayFailure::NoBroker(vec![trouble]))]));
        assert!(told.contains("no broker could be used (mqtt://a: no answer)"), "{told}");
        // What was said in a proof on one connection counts more than ways that nobody answered.
        let mut refused = failed([nobody, (Way::Reverse, WayFailure::TimedOut)]);
        let mut lane = LaneReport::new(Path::Local, "192.0.2.1:80".parse().unwrap());
        lane.failure = Some(LaneFailure::Proof(ProofError::Refused(RefusalReason::NotAllowed)));
        refused.ways[0].lanes.push(lane);
        let told = line(refused);
        assert!(told.ends_with("; ask whoever runs it to allow this node"), "{told}");
        assert!(told.contains("the peer refused: "), "{told}");
    }

    #[test]
    fn a_cause_that_has_a_cause_tells_it_once() {
        let source = Arc::new(io::Error::other("no more descriptors"));
        let error = ConnectError::Socket(source);
        let cause = std::error::Error::source(&error).expect("the system's error").to_string();
        assert_eq!(cause, "no more descriptors");
        assert!(!error.to_string().contains(&cause), "{error}");
        let lane = LaneFailure::from(ProofError::Stranger);
        assert_eq!(lane.to_string(), ProofError::Stranger.to_string());
        assert!(std::error::Error::source(&lane).is_none());
    }

    #[test]
    fn the_documentation_names_each_code() {
        let text = include_str!("error.rs");
        let (_, text) = text.split_once("/// Returns a word for programs").expect("the documentation");
        let (text, code) = text.split_once("pub fn code").expect("what it documents");
        let (code, _) = code.split_once("\n    }").expect("its end");
        let said: Vec<_> = code.split('"').skip(1).step_by(2).collect();
        assert_eq!(said.len(), ConnectError::CODES.len());
        for word in ConnectError::CODES {
            assert!(text.contains(&format!("`{word}`")), "{word} is not documented");
            assert!(said.contains(&word), "{word} is never said");
        }
    }
}
