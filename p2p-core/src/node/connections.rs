//! The connections of a node on their way to be kept: dialled or arrived, each with a proof on it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::io::{ConnectionId, Owner, SocketAct};
use crate::attempt::{AttemptId, DialError, RefusalReason, Role};
use crate::connect::Lane;
use crate::proof::{self, Claim, Proof, ProofError, Session, Stage};
use crate::punch::Socket;
use crate::{Deadline, Machine, Output};

/// The use of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody came to a listener of ours.
    Arrived,
    /// A lane of an attempt.
    Lane(AttemptId, Lane, Role),
    /// A dial of a punch, which is no lane before it is up: the number of the pair of addresses, and the socket.
    Punch(AttemptId, u8, Socket),
    /// A dial that a circuit wants.
    Relay(AttemptId),
    /// It was refused, and the last word is on its way.
    Refused,
}

/// Tells of one step of a connection.
#[derive(Debug)]
pub(super) enum News {
    /// A dial led to it.
    Connected,
    /// A dial led to nothing.
    DialFailed(DialError),
    /// The other end says who it is.
    Claimed(Claim),
    /// The other end is proven, and the caller, who we are, may keep the connection.
    Proven,
    /// Both ends keep it.
    Kept(Box<Session>),
    /// Its proof failed.
    Failed(ProofError),
}

/// A connection, and how far it is.
#[derive(Debug)]
struct Connection {
    owner: Owner,
    purpose: Purpose,
    since: Instant,
    ends: Option<(SocketAddr, SocketAddr)>,
    target: SocketAddr,
    /// When to give up dialling.
    until: Option<Instant>,
    /// From when TCP is up to when it leaves.
    proof: Option<Box<Proof>>,
    is_reading: bool,
    /// Tells that the owner was told that the other end is proven.
    is_proven: bool,
    /// Tells that its claim was accepted.
    is_welcome: bool,
    deadline: Option<Deadline>,
}

/// Owns the proofs of all connections, and bounds those that arrived.
#[derive(Debug)]
pub(super) struct Connections {
    table: BTreeMap<ConnectionId, Connection>,
    /// Those that arrived and are not proven, the oldest first.
    arrived: VecDeque<ConnectionId>,
    most_arrived: usize,
    next: u64,
    news: VecDeque<(ConnectionId, News)>,
    out: VecDeque<(Owner, SocketAct)>,
    evicted: u64,
}

impl Connections {
    /// Holds `most_arrived` at once that arrived and are not proven, one at least.
    pub(super) fn new(most_arrived: usize) -> Self {
        Self {
            table: BTreeMap::new(),
            arrived: VecDeque::new(),
            most_arrived: most_arrived.max(1),
            next: 0,
            news: VecDeque::new(),
            out: VecDeque::new(),
            evicted: 0,
        }
    }

    /// Dials, until `until` at most.
    pub(super) fn dial(
        &mut self,
        (owner, purpose): (Owner, Purpose),
        (from, to): (Option<SocketAddr>, SocketAddr),
        ttl: Option<u8>,
        until: Option<Instant>,
        now: Instant,
    ) -> ConnectionId {
        let connection = ConnectionId(self.next);
        self.next += 2;
        let entry = Connection::new(owner, purpose, to, until, now);
        self.table.insert(connection, entry);
        self.out.push_back((owner, SocketAct::Dial { connection, from, to, ttl }));
        connection
    }

    /// Takes in a connection that somebody else made. When too many that arrived are not proven, the oldest makes room:
    /// a legitimate peer speaks within a round trip, so whoever has waited longest is the least likely to be one.
    pub(super) fn take_in(
        &mut self,
        connection: ConnectionId,
        (owner, purpose): (Owner, Purpose),
        (local, remote): (SocketAddr, SocketAddr),
        now: Instant,
    ) {
        if self.table.contains_key(&connection) {
            return tracing::warn!(?connection, "a number was used twice");
        }
        let mut entry = Connection::new(owner, purpose, remote, None, now);
        entry.ends = Some((local, remote));
        self.table.insert(connection, entry);
        if purpose == Purpose::Arrived {
            self.arrived.push_back(connection);
            if self.arrived.len() > self.most_arrived
                && let Some(oldest) = self.arrived.front().copied()
            {
                self.evicted += 1;
                self.close(oldest);
            }
        }
    }

    /// Runs a proof on a connection.
    pub(super) fn prove(&mut self, connection: ConnectionId, purpose: Purpose, proof: Proof) {
        if let Some(entry) = self.table.get_mut(&connection) {
            entry.purpose = purpose;
            entry.until = None;
            entry.proof = Some(Box::new(proof));
            self.drive(connection);
        }
    }

    /// Gives an arrived connection another use. It does not count as arrived any more.
    pub(super) fn set_purpose(&mut self, connection: ConnectionId, purpose: Purpose) {
        if let Some(entry) = self.table.get_mut(&connection) {
            entry.purpose = purpose;
            self.arrived.retain(|arrived| *arrived != connection);
        }
    }

    /// Accepts the claim of the other end; `plain` if we wish the bare TCP connection.
    pub(super) fn welcome(&mut self, connection: ConnectionId, plain: bool, now: Instant) {
        if let Some(entry) = self.table.get_mut(&connection) {
            entry.is_welcome = true;
        }
        self.with_proof(connection, |proof| proof.welcome(plain, now));
    }

    /// Declines the claim of the other end, and lets the connection go when that is said.
    pub(super) fn refuse(&mut self, connection: ConnectionId, reason: RefusalReason, now: Instant) {
        self.with_proof(connection, |proof| proof.refuse(reason, now));
    }

    /// Keeps the connection: the caller's word.
    pub(super) fn go(&mut self, connection: ConnectionId, now: Instant) {
        self.with_proof(connection, |proof| proof.go(now));
    }

    /// Closes a connection, or stops dialling. Nothing more is told of it.
    pub(super) fn close(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.forget(connection) {
            self.out.push_back((entry.owner, SocketAct::Close { connection }));
        }
    }

    /// Forgets a connection without closing it: it leaves, or is gone.
    fn forget(&mut self, connection: ConnectionId) -> Option<Connection> {
        self.arrived.retain(|arrived| *arrived != connection);
        self.news.retain(|(told, _)| *told != connection);
        self.table.remove(&connection)
    }

    pub(super) fn handle_connected(
        &mut self,
        connection: ConnectionId,
        (local, remote): (SocketAddr, SocketAddr),
        now: Instant,
    ) {
        let Some(entry) = self.table.get_mut(&connection).filter(|entry| entry.ends.is_none()) else {
            return;
        };
        if local == remote {
            // A socket that dials its own port from its own address connects to itself.
            let owner = entry.owner;
            self.out.push_back((owner, SocketAct::Close { connection }));
            return self.handle_dial_failed(connection, DialError::Refused, now);
        }
        entry.ends = Some((local, remote));
        entry.until = None;
        self.news.push_back((connection, News::Connected));
    }

    pub(super) fn handle_dial_failed(&mut self, connection: ConnectionId, error: DialError, _now: Instant) {
        if self.table.get(&connection).is_some_and(|entry| entry.ends.is_none()) {
            self.news.push_back((connection, News::DialFailed(error)));
        }
    }

    pub(super) fn handle_bytes(&mut self, connection: ConnectionId, bytes: &Bytes, now: Instant) {
        let Some(entry) = self.table.get_mut(&connection) else { return };
        entry.is_reading = false;
        if let Some(proof) = &mut entry.proof {
            let taken = proof.handle_bytes(bytes, now);
            if taken < bytes.len() {
                // More was read than was asked for: the rest would be lost.
                proof.handle_lost(now);
            }
            self.drive(connection);
        }
    }

    pub(super) fn handle_lost(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(proof) = self.table.get_mut(&connection).and_then(|entry| entry.proof.as_mut()) {
            proof.handle_lost(now);
            self.drive(connection);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let is_due = |entry: &Connection| {
            entry.until.is_some_and(|until| until <= now)
                || entry.deadline.is_some_and(|deadline| deadline.at <= now)
        };
        let due: Vec<ConnectionId> =
            self.table.iter().filter(|(_, entry)| is_due(entry)).map(|(id, _)| *id).collect();
        for connection in due {
            let Some(entry) = self.table.get_mut(&connection) else { continue };
            match &mut entry.proof {
                Some(proof) => {
                    proof.handle_timeout(now);
                    self.drive(connection);
                }
                None => {
                    entry.until = None;
                    self.out.push_back((entry.owner, SocketAct::Close { connection }));
                    self.news.push_back((connection, News::DialFailed(DialError::TimedOut)));
                }
            }
        }
    }

    /// Returns the next step to take up, with the connection and its use. A connection that failed is forgotten, and so
    /// is one that is kept: it belongs to whoever hears of it.
    pub(super) fn poll(&mut self) -> Option<(ConnectionId, Told)> {
        loop {
            let (connection, news) = self.news.pop_front()?;
            let Some(entry) = self.table.get(&connection) else { continue };
            let told = Told {
                purpose: entry.purpose,
                owner: entry.owner,
                since: entry.since,
                is_welcome: entry.is_welcome,
                ends: entry.ends.unwrap_or((entry.target, entry.target)),
                news,
            };
            match &told.news {
                News::DialFailed(_) | News::Kept(_) => drop(self.forget(connection)),
                News::Failed(_) => self.close(connection),
                News::Connected | News::Claimed(_) | News::Proven => {}
            }
            return Some((connection, told));
        }
    }

    pub(super) fn poll_act(&mut self) -> Option<(Owner, SocketAct)> {
        self.out.pop_front()
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let give_up = |at| Deadline::new(at, "stop dialling");
        let each = self.table.values().flat_map(|entry| [entry.deadline, entry.until.map(give_up)]);
        Deadline::earliest(each)
    }

    /// Returns how many connections were pushed out by newer ones since the last call.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Returns how many connections of this owner are known whose use is this.
    pub(super) fn count(&self, is_it: impl Fn(Purpose) -> bool) -> usize {
        self.table.values().filter(|entry| is_it(entry.purpose)).count()
    }

    /// Returns how many that arrived were welcomed and may yet be kept by their callers.
    pub(super) fn welcomed(&self) -> usize {
        let is_it = |entry: &&Connection| entry.is_welcome && entry.purpose == Purpose::Arrived;
        self.table.values().filter(is_it).count()
    }

    pub(super) fn close_all(&mut self) {
        let all: Vec<ConnectionId> = self.table.keys().copied().collect();
        all.into_iter().for_each(|connection| self.close(connection));
    }

    fn with_proof(
        &mut self,
        connection: ConnectionId,
        say: impl FnOnce(&mut Proof) -> Result<(), ProofError>,
    ) {
        let Some(proof) = self.table.get_mut(&connection).and_then(|entry| entry.proof.as_mut()) else {
            return;
        };
        if let Err(error) = say(proof) {
            self.news.push_back((connection, News::Failed(error)));
        }
        self.drive(connection);
    }

    /// Takes up all that a proof wants.
    fn drive(&mut self, connection: ConnectionId) {
        let Some(entry) = self.table.get_mut(&connection) else { return };
        let Some(proof) = &mut entry.proof else { return };
        let mut failure = None;
        entry.deadline = loop {
            match proof.poll_output() {
                Output::Act(proof::Act::Send(bytes)) => {
                    self.out.push_back((entry.owner, SocketAct::Write { connection, bytes }));
                }
                Output::Act(proof::Act::HangUp) => failure = failure.or(Some(ProofError::Lost)),
                Output::Event(proof::Event::Failed(error)) => failure = Some(error),
                Output::Event(proof::Event::Claimed(claim)) => {
                    self.news.push_back((connection, News::Claimed(claim)));
                }
                Output::Event(proof::Event::Proven | proof::Event::Kept) => {}
                Output::Wait(deadline) => break deadline,
            }
        };
        if let Some(error) = failure {
            entry.deadline = None;
            return self.news.push_back((connection, News::Failed(error)));
        }
        match proof.stage() {
            Stage::Hearing if !entry.is_reading => {
                let at_most = proof.wants();
                entry.is_reading = true;
                self.out.push_back((entry.owner, SocketAct::Read { connection, at_most }));
            }
            Stage::Kept => {
                if let Some(session) = entry.proof.take().and_then(|proof| proof.into_session()) {
                    entry.deadline = None;
                    self.news.push_back((connection, News::Kept(Box::new(session))));
                }
            }
            Stage::Proven if !std::mem::replace(&mut entry.is_proven, true) => {
                self.news.push_back((connection, News::Proven));
            }
            Stage::Hearing | Stage::Deciding | Stage::Proven | Stage::Failed => {}
        }
    }
}

impl Connection {
    fn new(
        owner: Owner,
        purpose: Purpose,
        target: SocketAddr,
        until: Option<Instant>,
        since: Instant,
    ) -> Self {
        Self {
            owner,
            purpose,
            since,
            ends: None,
            target,
            until,
            proof: None,
            is_reading: false,
            is_proven: false,
            is_welcome: false,
            deadline: None,
        }
    }
}

/// One step of a connection, with all that is known of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) purpose: Purpose,
    pub(super) owner: Owner,
    /// When it was dialled, or arrived.
    pub(super) since: Instant,
    /// Tells that its claim was accepted.
    pub(super) is_welcome: bool,
    /// Its end here and its end there.
    pub(super) ends: (SocketAddr, SocketAddr),
    pub(super) news: News,
}
