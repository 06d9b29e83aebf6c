//! What a punch is given, wants, tells and reports.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::budget::{Limits, Share};
use super::message::Message;
use super::schedule::{Mode, Tactic};
use super::syn_sender::{Socket, Tally};
use super::timing::PathTiming;
#[cfg(doc)]
use super::{Budget, Punch};
use crate::attempt::{AttemptId, DialError, RefusalReason, Role};
use crate::nat::NatFacts;
use crate::{Clock, Local, Mapped};

/// Between whom, as what, and with what.
#[derive(Clone, Debug)]
pub struct PunchConfig {
    /// The attempt, as both ends know it.
    pub attempt: AttemptId,
    /// Which pair of addresses of the attempt this is, as the caller counts them.
    pub pair: u8,
    /// What we are in it.
    pub role: Role,
    /// What lies between.
    pub mode: Mode,
    /// Our address, to be bound; its port means nothing.
    pub local: Local,
    /// Our address as the peer must dial it: that outside in remote mode, else our own.
    pub address: IpAddr,
    /// The peer's address as we must dial it; its port means nothing. No other is ever dialled.
    pub remote: SocketAddr,
    /// The peer's own address, by which an offer names the interface it means.
    pub at: IpAddr,
    /// What is known of our NAT, over TCP.
    pub facts: NatFacts,
    /// What the peer published of its own, over TCP.
    pub theirs: NatFacts,
    /// Whether a server can be asked for mappings over TCP.
    pub can_observe: bool,
    /// The TTL at which a SYN passes our NAT and dies at a hop that says nothing, if such a hop was found.
    pub silent_hop: Option<u8>,
    /// What is known of the peer's clock and the path to it.
    pub path_timing: PathTiming,
    /// Our clock.
    pub clock: Clock,
    /// What this punch may do.
    pub limits: Limits,
}

/// An effect of a [`Punch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends this to the peer.
    Signal(Message),
    /// Does this on our own machine.
    Socket(SocketAct),
}

/// An effect of a [`Punch`] on the sockets of our own machine. All ports belong to [`PunchConfig::local`], and every
/// socket needs `SO_REUSEADDR` and, where there is one, `SO_REUSEPORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAct {
    /// Takes this from the machine's [`Budget`]; then [`Input::Share`] says what there was.
    Reserve(Share),
    /// Gives the share back to it, or stops waiting for one: then this is nothing.
    GiveBack(Share),
    /// Listens here; then [`Input::Listening`] says whether that works, and [`Input::Accepted`] who comes.
    Listen(Local),
    /// Stops listening. Connections that were accepted stay.
    Unlisten(Local),
    /// Connects from this port to a STUN server, asks which address it sees, and keeps the connection open, as the
    /// mapping may go with it; then [`Input::Observed`].
    Observe(Local),
    /// Closes the connection to the STUN server.
    Forget(Local),
    /// Connects; then [`Input::Connected`] or [`Input::Failed`].
    Dial {
        /// The name of the socket.
        socket: Socket,
        /// The address to bind.
        from: Local,
        /// The target.
        to: SocketAddr,
        /// The TTL for the first SYN only: set it before `connect`, and the usual one back right after.
        ttl: Option<u8>,
    },
    /// Closes this one, whatever it is doing; without `SO_LINGER`, so that what is half open goes in silence and what
    /// is open with a FIN.
    Drop(Socket),
}

/// An answer to a [`SocketAct`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The share that the machine's budget has for this punch; nothing of either where it has none.
    Share(Share),
    /// The outcome of listening on a port.
    Listening(Local, Result<(), DialError>),
    /// The address as which a server sees a port; `None` when none answered.
    Observed(Local, Option<Mapped>),
    /// TCP is up on a socket that was dialled.
    Connected {
        /// The socket.
        socket: Socket,
        /// The address at the other end.
        remote: SocketAddr,
    },
    /// Somebody connected to a port that is listened on.
    Accepted {
        /// The port.
        at: Local,
        /// The address at the other end.
        remote: SocketAddr,
    },
    /// A socket failed in TCP. [`DialError::Local`] where this machine could not even dial: also where the 4-tuple is
    /// in use, because the peer's SYN came first and its connection is on the listener.
    Failed(Socket, DialError),
}

/// What a [`Punch`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing will come of it.
    Lost(Failed),
}

/// Why nothing came of a punch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Other punches use all there is.
    #[error("other attempts use all the sockets there are")]
    NoBudget,
    /// No port could be bound, or none was seen from outside.
    #[error("no local port could be used: none could be bound, or no STUN server saw it")]
    NoPorts,
    /// The facts promise nothing.
    #[error("the ports of the two networks cannot be guessed")]
    NoPlan,
    /// The peer says no.
    #[error("the peer declined: {0}")]
    Declined(RefusalReason),
    /// The peer did not answer.
    #[error("the peer did not answer the offer")]
    Silent,
    /// The peer names an address that is not the one it published.
    #[error("the peer names an address that it has not published")]
    NotTheirs,
    /// All was dialled.
    #[error("nothing that was dialled led to the peer")]
    Spent,
}

codes!(Failed {
    Self::NoBudget => "punch_no_budget",
    Self::NoPorts => "punch_no_ports",
    Self::NoPlan => "punch_no_plan",
    Self::Declined(_) => "punch_declined",
    Self::Silent => "punch_silent",
    Self::NotTheirs => "punch_not_theirs",
    Self::Spent => "punch_spent",
});

/// What happened in a punch, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PunchReport {
    /// What lay between.
    pub mode: Mode,
    /// Our address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// How it was tried the last time, if it came to that.
    pub tactic: Option<Tactic>,
    /// How often.
    pub rounds: u8,
    /// What became of the dials.
    pub tally: Tally,
    /// Why nothing came of it; `None` when something did, or it was stopped.
    pub failed: Option<Failed>,
    /// What the system said when it last refused a socket or a port: out of descriptors, for example. Where a port was
    /// in use another one was taken, so without [`failed`](Self::failed) it does not matter.
    pub obstacle: Option<String>,
}

impl PunchReport {
    /// Returns the report of a punch between these addresses that has not begun.
    pub fn new(mode: Mode, local: IpAddr, remote: IpAddr) -> Self {
        let (tactic, rounds, tally, failed, obstacle) = (None, 0, Tally::default(), None, None);
        Self { mode, local, remote, tactic, rounds, tally, failed, obstacle }
    }
}

impl fmt::Display for PunchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({})", self.local, self.remote, self.mode)?;
        if let Some(tactic) = self.tactic {
            write!(f, ", {tactic}")?;
        }
        if self.tally != Tally::default() {
            write!(f, ", {}", self.tally)?;
        }
        if self.rounds > 1 {
            write!(f, " in {} rounds", self.rounds)?;
        }
        match (self.failed, &self.obstacle) {
            (Some(failed), Some(obstacle)) => write!(f, ": {failed} (the system said: {obstacle})"),
            (Some(failed), None) => write!(f, ": {failed}"),
            (None, _) => Ok(()),
        }
    }
}
