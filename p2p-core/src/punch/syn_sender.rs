//! The machine that dials what a plan says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::budget::Share;
use super::schedule::{Dial, Schedule};
use crate::attempt::DialError;
use crate::{Deadline, Local, Machine, Output};

/// Connections that somebody else makes to our punched ports, and whose proof we wait for, at most: those from the
/// peer's address and those from elsewhere.
const MOST_ARRIVALS: [usize; 2] = [48, 8];
/// While a connection is being proven no more are dialled, for so long at most: it mostly is the right one.
const HOLD: Duration = Duration::from_millis(400);
/// A stranger who connects again and again holds us up no oftener than this.
const MOST_HOLDS: u8 = 3;

/// One TCP connection of a punch, by number. Never used twice in one punch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket(u32);

impl Socket {
    /// Its number: below 2²⁴ in any one punch.
    pub fn number(self) -> u32 {
        self.0
    }

    #[cfg(feature = "sim")]
    pub(crate) fn numbered(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a [`SynSender`] wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SynAct {
    /// Connect from here to there.
    Dial {
        /// What to call it.
        socket: Socket,
        /// The local address to bind.
        from: Local,
        /// The target.
        to: SocketAddr,
    },
    /// Close it.
    Drop(Socket),
}

/// What a [`SynSender`] has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynEvent {
    /// Everything was dialled, time is up, and nothing came of it.
    Spent,
}

/// What became of the dials of a punch, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Dials.
    pub dialled: u32,
    /// Ended by a RST.
    pub refused: u32,
    /// Ended by an ICMP error.
    pub unreachable: u32,
    /// That this machine could not make.
    pub local: u32,
    /// Connections that came up, ours and theirs.
    pub up: u32,
    /// Connections that were not to the peer.
    pub strange: u32,
    /// Most that were half open at a time.
    pub half_open: u32,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dialled, refused, unreachable, local, up, strange, .. } = self;
        write!(f, "{dialled} dialled")?;
        for (count, what) in [
            (refused, "refused"),
            (unreachable, "unreachable"),
            (local, "not possible here"),
            (up, "connected"),
            (strange, "to somebody else"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Between whom, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct SynSenderConfig {
    /// Our address; its port means nothing.
    pub local: Local,
    /// The peer's address; its port means nothing. No other address is ever dialled.
    pub remote: SocketAddr,
    /// What may be used at a time.
    pub share: Share,
    /// Dials in all.
    pub syns: u32,
}

/// What to dial now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The dials.
    pub schedule: Schedule,
    /// The local port behind each number in the schedule; what lies beyond is not dialled.
    pub locals: Vec<u16>,
    /// When the plan starts; what is due by now is dialled at once.
    pub start: Instant,
    /// When to give up.
    pub until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Dialling {
        since: Instant,
        tuple: (u16, u16),
    },
    /// TCP is up, the proof is under way.
    Up {
        is_ours: bool,
        is_from_peer: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing to dial, before the first round or after one. Connections may come in, and what is up may be proven.
    Idle,
    Firing {
        round: Round,
        next: usize,
    },
    Closed,
}

/// Dials one after another, never more at a time nor faster than it may, and no 4-tuple twice.
///
/// A 4-tuple on which SYNs have gone both ways must not be dialled again: Linux takes the new sequence number for
/// invalid, lets the packet out untranslated, and the tuple is dead for two minutes (lab). So none is, whatever
/// happened on it; what is dialled next is another pair of ports.
#[derive(Clone, Debug)]
pub struct SynSender {
    config: SynSenderConfig,
    state: State,
    /// No dial before this, for the sake of the rate.
    free_at: Instant,
    hold: Option<Instant>,
    holds: u8,
    lines: BTreeMap<Socket, Line>,
    /// The dials that have not ended, the oldest first.
    half_open: VecDeque<Socket>,
    used: BTreeSet<(u16, SocketAddr)>,
    sockets: u32,
    tally: Tally,
    output: VecDeque<Output<SynAct, SynEvent>>,
}

impl SynSender {
    /// Dials nothing yet, but takes what comes in.
    pub fn new(config: SynSenderConfig, now: Instant) -> Self {
        Self {
            config,
            state: State::Idle,
            free_at: now,
            hold: None,
            holds: 0,
            lines: BTreeMap::new(),
            half_open: VecDeque::new(),
            used: BTreeSet::new(),
            sockets: 0,
            tally: Tally::default(),
            output: VecDeque::new(),
        }
    }

    /// Dials this. What is left of the round before is not dialled, and what is half open of it is closed, unless it is
    /// part of this one too; what is up stays.
    pub fn handle_round(&mut self, round: Round, now: Instant) {
        if self.state == State::Closed {
            return;
        }
        let tuple = |dial: &Dial| Some((*round.locals.get(usize::from(dial.from))?, dial.to));
        let wanted: BTreeSet<_> = round.schedule.dials.iter().filter_map(tuple).collect();
        for socket in std::mem::take(&mut self.half_open) {
            match self.lines.get(&socket) {
                Some(Line::Dialling { tuple, .. }) if wanted.contains(tuple) => {
                    self.half_open.push_back(socket)
                }
                _ => {
                    self.lines.remove(&socket);
                    self.output.push_back(Output::Act(SynAct::Drop(socket)));
                }
            }
        }
        self.state = State::Firing { round, next: 0 };
        self.handle_timeout(now);
    }

    /// TCP is up on a socket we dialled. Whether it is one of ours.
    pub fn handle_connected(&mut self, socket: Socket, now: Instant) -> bool {
        if !matches!(self.lines.get(&socket), Some(Line::Dialling { .. })) || self.state == State::Closed {
            return false;
        }
        self.lines.insert(socket, Line::Up { is_ours: true, is_from_peer: true });
        self.half_open.retain(|other| *other != socket);
        self.on_up(now);
        true
    }

    /// Somebody connected to a port we listen on. `None`: close it.
    pub fn handle_accepted(&mut self, local: u16, remote: SocketAddr, now: Instant) -> Option<Socket> {
        let is_from_peer = remote.ip().to_canonical() == self.config.remote.ip().to_canonical();
        let same = |line: &&Line| **line == Line::Up { is_ours: false, is_from_peer };
        let most = MOST_ARRIVALS[usize::from(!is_from_peer)];
        if self.state == State::Closed || self.lines.values().filter(same).count() >= most {
            return None;
        }
        self.used.insert((local, remote));
        let socket = self.number();
        self.lines.insert(socket, Line::Up { is_ours: false, is_from_peer });
        self.on_up(now);
        Some(socket)
    }

    /// A connection that was up did not prove to be the peer's. Returns whether it was there.
    pub fn handle_unproven(&mut self, socket: Socket, now: Instant) -> bool {
        if !matches!(self.lines.get(&socket), Some(Line::Up { .. })) {
            return false;
        }
        self.lines.remove(&socket);
        self.tally.strange += 1;
        if !self.is_proving() {
            self.hold = None;
        }
        self.handle_timeout(now);
        true
    }

    /// A dial or a connection ended in TCP. Whether it was there.
    pub fn handle_failed(&mut self, socket: Socket, failure: &DialError, now: Instant) -> bool {
        let Some(line) = self.lines.remove(&socket) else { return false };
        self.half_open.retain(|other| *other != socket);
        match (line, failure) {
            (Line::Up { .. }, _) if !self.is_proving() => self.hold = None,
            (Line::Up { .. }, _) => {}
            (_, DialError::Refused) => self.tally.refused += 1,
            (_, DialError::Unreachable(_)) => self.tally.unreachable += 1,
            (_, DialError::Local(_)) => self.tally.local += 1,
            _ => {}
        }
        self.handle_timeout(now);
        true
    }

    /// Stops. Everything is closed but `except`, what is half open first: that is silent, and leaves no trace.
    ///
    /// What is up may end with a RST, when words of the peer were not read or are on their way. It is for that 4-tuple
    /// and for no other: the winner has a session of its own in both NATs, and a mapping that both share stays with its
    /// last session. (With a RST for each loser, and NATs that delete sessions for that, 10,000 of 10,000 met with up
    /// to 1 % lost, and 99,996 of 100,000 with up to 3 %: as many as without. `docs/punching.md`.)
    pub fn close(&mut self, except: Option<Socket>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        let half_open = std::mem::take(&mut self.half_open);
        let up = self.lines.iter().filter(|(_, line)| matches!(line, Line::Up { .. })).map(|(id, _)| *id);
        let all: Vec<Socket> = half_open.into_iter().chain(up).collect();
        for socket in all.into_iter().filter(|socket| Some(*socket) != except) {
            self.output.push_back(Output::Act(SynAct::Drop(socket)));
        }
        self.lines.clear();
    }

    /// What became of the dials so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether a connection is up whose proof has not failed.
    pub fn is_proving(&self) -> bool {
        self.lines.values().any(|line| matches!(line, Line::Up { .. }))
    }

    /// The next deadline.
    pub fn deadline(&self) -> Option<Deadline> {
        let State::Firing { round, .. } = &self.state else { return None };
        let dial = self.due_at().map(|at| Deadline::new(at, "dial the next pair of ports"));
        let old = self.expiry().map(|at| Deadline::new(at, "give up an old dial"));
        Deadline::earliest([dial, old, Some(Deadline::new(round.until, "nothing came of this round"))])
    }

    fn number(&mut self) -> Socket {
        let socket = Socket(self.sockets);
        // Strangers who come and go for days must not reach another punch's numbers.
        self.sockets = (self.sockets + 1) & 0xff_ffff;
        socket
    }

    fn on_up(&mut self, now: Instant) {
        self.tally.up += 1;
        if self.holds < MOST_HOLDS && self.hold.is_none() {
            self.holds += 1;
            self.hold = Some(now + HOLD);
        }
    }

    fn is_full(&self) -> bool {
        self.half_open.len() >= usize::from(self.config.share.sockets)
    }

    /// When the next dial is due, if there is one.
    fn due_at(&self) -> Option<Instant> {
        let State::Firing { round, next } = &self.state else { return None };
        let dial = round.schedule.dials.get(*next).filter(|_| self.tally.dialled < self.config.syns)?;
        let due = (round.start + dial.after).max(self.free_at);
        // Where dials live until the end, there is no room before it.
        let room = if self.is_full() { Some(self.expiry()?) } else { None };
        [Some(due), self.hold, room].into_iter().flatten().max()
    }

    /// When the oldest dial is given up.
    fn expiry(&self) -> Option<Instant> {
        let State::Firing { round, .. } = &self.state else { return None };
        match self.lines.get(self.half_open.front()?)? {
            Line::Dialling { since, .. } => Some(*since + round.schedule.lives?),
            Line::Up { .. } => None,
        }
    }

    fn give_up_old(&mut self, now: Instant) {
        while self.expiry().is_some_and(|at| at <= now) {
            if let Some(socket) = self.half_open.pop_front() {
                self.lines.remove(&socket);
                self.output.push_back(Output::Act(SynAct::Drop(socket)));
            }
        }
    }

    fn dial_due(&mut self, now: Instant) {
        while self.due_at().is_some_and(|at| at <= now) {
            let State::Firing { round, next } = &mut self.state else { return };
            let dial = round.schedule.dials[*next];
            *next += 1;
            let Some(port) = round.locals.get(usize::from(dial.from)).copied() else { continue };
            let to = with_port(self.config.remote, dial.to);
            let from = Local(with_port(self.config.local.0, port));
            // A socket that dials the very address it is bound to connects to itself.
            if from.0 == to || !self.used.insert((port, to)) {
                continue;
            }
            let socket = self.number();
            self.lines.insert(socket, Line::Dialling { since: now, tuple: (port, dial.to) });
            self.half_open.push_back(socket);
            self.tally.dialled += 1;
            self.tally.half_open = self.tally.half_open.max(self.half_open.len() as u32);
            self.free_at = now + Duration::from_secs(1) / u32::from(self.config.share.per_second.max(1));
            self.output.push_back(Output::Act(SynAct::Dial { socket, from, to }));
        }
    }
}

/// The same address with another port, its scope kept.
pub(super) fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

impl Machine for SynSender {
    type Act = SynAct;
    type Event = SynEvent;

    fn handle_timeout(&mut self, now: Instant) {
        let State::Firing { round, .. } = &self.state else { return };
        let is_over = now >= round.until;
        if self.hold.is_some_and(|at| at <= now) {
            self.hold = None;
        }
        self.give_up_old(now);
        self.dial_due(now);
        if is_over {
            self.state = State::Idle;
            self.output.push_back(Output::Event(SynEvent::Spent));
        }
    }

    fn poll_output(&mut self) -> Output<SynAct, SynEvent> {
        self.output.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "syn_sender_subject.rs"]
pub(super) mod subject;

#[cfg(test)]
#[path = "syn_sender_tests.rs"]
mod tests;
