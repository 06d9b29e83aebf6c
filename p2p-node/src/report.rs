//! The story of a connection for programs, which `p2p connect --report FILE` writes and `--json` prints.
//!
//! All durations are milliseconds, as numbers. Keys and codes are stable: new ones may be added, and none changes its
//! meaning. Keys that are unknown or do not apply are left out.
//!
//! | key | meaning |
//! |---|---|
//! | `peer` | the peer that we wanted, or that called |
//! | `result` | `connected`, or the code of `error` |
//! | `error` | `code`, and `text` for people; see [`ConnectError::code`] |
//! | `connection.way` | the name of a [`Way`], such as `direct` |
//! | `connection.path` | the kind of network between: `machine`, `local`, `external` |
//! | `connection.caller` | true when this end asked for the connection |
//! | `connection.local`, `.remote` | the addresses of both ends, as this end sees them |
//! | `connection.took_ms` | from the call to the proven pipe |
//! | `connection.encrypted`, `.cipher` | true when bytes travel encrypted, and the cipher |
//! | `race.attempt` | the number in both ends' logs |
//! | `race.took_ms` | the time of the whole attempt |
//! | `race.won` | the way that led to the peer |
//! | `race.ways[]` | each way that was allowed, with the keys listed below |
//! | `….punches[]` | each pair of addresses punched between, with the keys listed below |
//! | `….lanes[]` | each TCP connection: `path`, `remote`, `began_ms`, `connected_ms`, `proven_ms`, `failure` |
//! | `….failure` | `code`, `text`, and `brokers` (`broker`, `reason`) for `no_broker` |
//!
//! - Of a way: `way`, `began_ms`, `ended_ms`, `outcome` (`won`, `overtaken`, `failed`), `failure`, `lanes`,
//!   `punches`.
//! - Of a punch: `mode`, `local`, `remote`, `tactic`, `rounds`, `failure`, and `obstacle`, which is the system's
//!   reason when it refused a socket. The outcomes of its dials are `dialled`, `refused`, `unreachable`,
//!   `not_possible`, `connected`, `strangers`, and `half_open` at most.
//!
//! The codes of a failure are:
//!
//! - Of a way: `no_candidates`, `all_failed`, `not_listening`, `no_signalling`, `no_broker`, `offline`, `refused`,
//!   `silent`, `timed_out`, `cancelled`, `not_placed`, `nothing_to_punch`, `not_allowed_here`.
//! - Of a way or a pair of addresses: `punch_no_budget`, `punch_no_ports`, `punch_no_plan`, `punch_declined`,
//!   `punch_silent`, `punch_not_theirs`, `punch_spent`.
//! - Of a relay: `no_turn_server`, `no_relayed_address`, `silent`, `relay_blocked`.
//! - Of a lane: `not_tried`, `dropped`, `connection_refused`, `unreachable`, `timed_out`, `local`.
//! - Of a proof on a lane: `proof_garbled`, `proof_stranger`, `proof_ourselves`, `refused`, `declined`,
//!   `proof_timed_out`, `proof_lost`, `proof_out_of_turn`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2p_core::attempt::{Path, Role, Way};
use p2p_core::connect::{AttemptReport, LaneFailure, LaneReport, WayFailure, WayOutcome, WayReport};
use p2p_core::node::{ConnectError, ConnectionInfo};
use p2p_core::peer::PeerId;
use p2p_core::proof::Cipher;
use p2p_core::punch::{Failed, Mode, PunchReport};
use p2p_core::signal::BrokerTrouble;
use serde::{Serialize, Serializer};

use crate::pipe::Pipe;

/// A connection that was made, or failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The peer that is, or should be, at the other end.
    pub peer: String,
    /// The result: `connected`, or the code of the error.
    pub result: &'static str,
    /// The reason why there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The connection, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// The attempts that were made, which only the caller knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub race: Option<Race>,
}

impl Report {
    /// Reports a connection that was made.
    pub fn connected(pipe: &Pipe) -> Self {
        Self {
            peer: pipe.peer().to_string(),
            result: "connected",
            error: None,
            connection: Some(Connection::new(pipe.how(), pipe.cipher())),
            race: pipe.how().report.as_ref().map(Race::from),
        }
    }

    /// Reports a connection to `peer` that failed.
    pub fn failed(peer: PeerId, error: &ConnectError) -> Self {
        Self {
            peer: peer.to_string(),
            result: error.code(),
            error: Some(Failure::from(error)),
            connection: None,
            race: error.report().map(Race::from),
        }
    }
}

/// The properties of a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Connection {
    /// The way by which it was made.
    pub way: Way,
    /// The kind of network between the ends.
    pub path: Path,
    /// True when this end asked for it.
    pub caller: bool,
    /// The address of our end.
    pub local: SocketAddr,
    /// The address of the other end.
    pub remote: SocketAddr,
    /// The time from the call, or from the first that this end heard of it, to the proven pipe, in milliseconds.
    pub took_ms: f64,
    /// True when bytes travel encrypted.
    pub encrypted: bool,
    /// The cipher, when they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<&'static str>,
}

impl Connection {
    /// Reports the history of a connection and its cipher.
    pub fn new(how: &ConnectionInfo, cipher: Option<Cipher>) -> Self {
        Self {
            way: how.way,
            path: how.path,
            caller: how.role == Role::Caller,
            local: how.local,
            remote: how.remote,
            took_ms: ms(how.took),
            encrypted: cipher.is_some(),
            cipher: cipher.map(|cipher| match cipher {
                Cipher::Aes256Gcm => "aes-256-gcm",
                Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
            }),
        }
    }
}

/// The story of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Race {
    /// The number of the attempt, the same in both ends' logs.
    pub attempt: String,
    /// The time of the whole attempt, in milliseconds.
    pub took_ms: f64,
    /// The way that led to the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub won: Option<Way>,
    /// The ways that were allowed.
    pub ways: Vec<WayStory>,
}

impl From<&AttemptReport> for Race {
    fn from(report: &AttemptReport) -> Self {
        Self {
            attempt: report.attempt.to_string(),
            took_ms: ms(report.took),
            won: report.won(),
            ways: report.ways.iter().map(WayStory::from).collect(),
        }
    }
}

/// The story of one way of an attempt. Times are milliseconds after the start of the attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WayStory {
    /// The way that was tried.
    pub way: Way,
    /// The time at which it began, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began_ms: Option<f64>,
    /// The time at which it ended.
    pub ended_ms: f64,
    /// The outcome: `won`, `overtaken` or `failed`.
    pub outcome: &'static str,
    /// The reason why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The punches of the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub punches: Vec<PunchStory>,
    /// The connections of the way.
    pub lanes: Vec<LaneStory>,
}

impl From<&WayReport> for WayStory {
    fn from(report: &WayReport) -> Self {
        let failure = match &report.outcome {
            WayOutcome::Failed(failure) => Some(Failure::from(failure)),
            _ => None,
        };
        Self {
            way: report.way,
            began_ms: report.began.map(ms),
            ended_ms: ms(report.ended),
            outcome: report.outcome.code(),
            failure,
            punches: report.punches.iter().map(PunchStory::from).collect(),
            lanes: report.lanes.iter().map(LaneStory::from).collect(),
        }
    }
}

/// The story of a punch between one address of ours and one of the peer's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PunchStory {
    /// The kind of network between the two.
    #[serde(serialize_with = "named")]
    pub mode: Mode,
    /// The address of ours.
    pub local: IpAddr,
    /// The address of the peer.
    pub remote: IpAddr,
    /// The tactic of the last round, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tactic: Option<String>,
    /// The number of rounds.
    pub rounds: u8,
    /// The number of dials.
    pub dialled: u32,
    /// The dials that a RST ended.
    pub refused: u32,
    /// The dials that an ICMP error ended.
    pub unreachable: u32,
    /// The dials that this machine could not make.
    pub not_possible: u32,
    /// The connections that were established, ours and theirs.
    pub connected: u32,
    /// The connections that were not to the peer.
    pub strangers: u32,
    /// The most connections that were half open at a time.
    pub half_open: u32,
    /// The reason why no connection came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The reason that the system gave when it last refused a socket or a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

impl From<&PunchReport> for PunchStory {
    fn from(report: &PunchReport) -> Self {
        let tally = report.tally;
        let failure =
            |failed: Failed| Failure { code: failed.code(), text: failed.to_string(), brokers: Vec::new() };
        Self {
            mode: report.mode,
            local: report.local,
            remote: report.remote,
            tactic: report.tactic.map(|tactic| tactic.to_string()),
            rounds: report.rounds,
            dialled: tally.dialled,
            refused: tally.refused,
            unreachable: tally.unreachable,
            not_possible: tally.local,
            connected: tally.up,
            strangers: tally.strange,
            half_open: tally.half_open,
            failure: report.failed.map(failure),
            obstacle: report.obstacle.clone(),
        }
    }
}

/// The story of one TCP connection of a way. Times are milliseconds after the start of the attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LaneStory {
    /// The kind of network between the ends.
    pub path: Path,
    /// The address at the other end.
    pub remote: SocketAddr,
    /// The time at which it began.
    pub began_ms: f64,
    /// The time at which TCP was established.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_ms: Option<f64>,
    /// The time at which the peer was proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_ms: Option<f64>,
    /// The reason why it was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl From<&LaneReport> for LaneStory {
    fn from(report: &LaneReport) -> Self {
        Self {
            path: report.path,
            remote: report.remote,
            began_ms: ms(report.began),
            connected_ms: report.connected.map(ms),
            proven_ms: report.proven.map(ms),
            failure: report.failure.as_ref().map(Failure::from),
        }
    }
}

/// The reason of a failure, for programs and for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Failure {
    /// The code, which is stable.
    pub code: &'static str,
    /// The sentence for people, which may change.
    pub text: String,
    /// The answers of the brokers, when none could be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<BrokerTrouble>,
}

impl From<&WayFailure> for Failure {
    fn from(failure: &WayFailure) -> Self {
        let brokers = match failure {
            WayFailure::NoBroker(troubles) => troubles.clone(),
            _ => Vec::new(),
        };
        Self { code: failure.code(), text: failure.to_string(), brokers }
    }
}

impl From<&LaneFailure> for Failure {
    fn from(failure: &LaneFailure) -> Self {
        Self { code: failure.code(), text: failure.to_string(), brokers: Vec::new() }
    }
}

impl From<&ConnectError> for Failure {
    fn from(error: &ConnectError) -> Self {
        Self { code: error.code(), text: error.to_string(), brokers: Vec::new() }
    }
}

/// Writes a value by its name for people, which is stable, too.
fn named<S: Serializer>(what: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&what.to_string())
}

/// Returns milliseconds, rounded to the microsecond.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use p2p_core::Seed;
    use p2p_core::attempt::{AttemptId, DialError, RefusalReason};
    use p2p_core::peer::Identity;
    use p2p_core::proof::ProofError;
    use p2p_core::punch::{Tactic, Tally};
    use p2p_core::relay::circuit::CircuitFailure;
    use serde_json::json;

    use super::*;

    fn race(failure: WayFailure, lane: LaneFailure) -> Box<AttemptReport> {
        let mut told = LaneReport::new(Path::Local, "192.0.2.1:80".parse().unwrap());
        (told.began, told.failure) = (Duration::from_micros(1_500), Some(lane));
        let mut way = WayReport::new(Way::Direct, WayOutcome::Failed(failure));
        (way.began, way.ended) = (Some(Duration::ZERO), Duration::from_millis(20));
        way.lanes.push(told);
        let peer = Identity::generate(&mut Seed::new([7; 32])).id();
        let mut report = AttemptReport::new(peer, AttemptId([1; 16]));
        (report.took, report.ways) = (Duration::from_secs(1), vec![way]);
        Box::new(report)
    }

    #[test]
    fn a_failed_attempt_is_told_whole() {
        let trouble = BrokerTrouble { broker: "mqtt://a".into(), reason: "no answer".into() };
        let race = race(WayFailure::NoBroker(vec![trouble]), LaneFailure::Dial(DialError::Refused));
        let peer = race.peer;
        let report = Report::failed(peer, &ConnectError::Failed(race));
        let told = serde_json::to_value(&report).unwrap();
        assert_eq!(told["result"], "no_connection");
        assert_eq!(told["error"]["code"], "no_connection");
        assert_eq!(told["peer"], peer.to_string());
        assert!(told.get("connection").is_none());
        assert_eq!(told["race"]["took_ms"], 1000.0);
        assert_eq!(
            told["race"]["ways"],
            json!([{
                "way": "direct",
                "began_ms": 0.0,
                "ended_ms": 20.0,
                "outcome": "failed",
                "failure": {
                    "code": "no_broker",
                    "text": "no broker could be used",
                    "brokers": [{ "broker": "mqtt://a", "reason": "no answer" }],
                },
                "lanes": [{
                    "path": "local",
                    "remote": "192.0.2.1:80",
                    "began_ms": 1.5,
                    "failure": { "code": "connection_refused", "text": "connection refused" },
                }],
            }])
        );
    }

    #[test]
    fn a_punch_is_told_with_what_became_of_its_dials() {
        let tally = Tally { dialled: 12, refused: 3, up: 1, strange: 1, half_open: 9, ..Tally::default() };
        let mut race = race(WayFailure::Punch(Failed::Spent), LaneFailure::Dial(DialError::Refused));
        let (local, remote) = ("192.168.1.2".parse().unwrap(), "203.0.113.7".parse().unwrap());
        let mut punch = PunchReport::new(Mode::Remote, local, remote);
        (punch.tactic, punch.rounds, punch.tally) = (Some(Tactic::Ladder), 2, tally);
        punch.failed = Some(Failed::Spent);
        race.ways[0].punches.push(punch);
        let told = serde_json::to_value(Race::from(&*race)).unwrap();
        assert_eq!(told["ways"][0]["failure"]["code"], "punch_spent");
        assert_eq!(
            told["ways"][0]["punches"],
            json!([{
                "mode": "remote",
                "local": "192.168.1.2",
                "remote": "203.0.113.7",
                "tactic": "ladder",
                "rounds": 2,
                "dialled": 12,
                "refused": 3,
                "unreachable": 0,
                "not_possible": 0,
                "connected": 1,
                "strangers": 1,
                "half_open": 9,
                "failure": { "code": "punch_spent", "text": Failed::Spent.to_string() },
            }])
        );
    }

    /// The words between backticks of the documentation of this file, from the line that begins so.
    fn documented(text: &'static str, from: &str) -> BTreeSet<&'static str> {
        let lines = text.lines().skip_while(|line| !line.starts_with(from));
        let lines = lines.take_while(|line| line.starts_with("//!"));
        lines.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn the_documentation_names_each_code_and_no_other() {
        let all = [
            WayFailure::CODES,
            Failed::CODES,
            CircuitFailure::CODES,
            LaneFailure::CODES,
            DialError::CODES,
            ProofError::CODES,
        ];
        let all: BTreeSet<_> = all.concat().into_iter().collect();
        assert_eq!(documented(include_str!("report.rs"), "//! The codes of a failure are:"), all);
    }

    #[test]
    fn each_error_has_its_code() {
        let code = |way, lane| ConnectError::Failed(race(way, lane)).code();
        let no = ProofError::Refused(RefusalReason::Busy);
        assert_eq!(code(WayFailure::AllFailed, LaneFailure::Dial(DialError::TimedOut)), "no_connection");
        assert_eq!(code(WayFailure::AllFailed, no.into()), "refused");
        assert_eq!(code(WayFailure::Refused(RefusalReason::NotAllowed), LaneFailure::NotTried), "refused");
        // The peer would have connected and could not, so every way failed.
        assert_eq!(code(WayFailure::Refused(RefusalReason::NoRoute), LaneFailure::NotTried), "no_connection");
        assert_eq!(code(WayFailure::TimedOut, LaneFailure::Dropped), "timed_out");
        let offline = ConnectError::Offline(race(WayFailure::Offline, LaneFailure::Dial(DialError::Refused)));
        assert_eq!(offline.code(), "offline");
        assert_eq!(ConnectError::Closed.code(), "closed");
    }
}
