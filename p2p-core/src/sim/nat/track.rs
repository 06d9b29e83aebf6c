//! The state that a NAT keeps of one TCP connection.

use std::time::Duration;

use super::DropReason;
use super::config::{Ending, TcpConfig};
use crate::sim::packet::{Flags, TcpFacts};

/// The direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
}

/// The distance of a sequence number beyond which it is outside any window that a SYN offers.
const WINDOW: i32 = 65_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// SYNs were seen, and no answer to one.
    Opening,
    /// A SYN was acknowledged.
    Answered,
    Open,
    /// Each side has sent a FIN.
    Closing,
    Reset,
}

/// The treatment of a packet and of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Pass,
    PassAndDelete,
    /// Lets the packet through, and learns nothing from it.
    Ignore,
    /// Treats the packet as if there were no session.
    Unsolicited(DropReason),
    Invalid(DropReason),
}

/// The state of one connection, as connection tracking follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    phase: Phase,
    /// The sequence numbers of the SYNs seen in each direction.
    out_isn: Option<u32>,
    in_isn: Option<u32>,
    out_fin: bool,
    in_fin: bool,
}

impl Track {
    /// Starts from the first segment of a session: a SYN, or any other where the NAT is loose.
    pub(super) fn new(tcp: TcpFacts, direction: Direction) -> Self {
        let mut track =
            Self { phase: Phase::Open, out_isn: None, in_isn: None, out_fin: false, in_fin: false };
        if tcp.flags.is_syn() {
            track.phase = Phase::Opening;
            *track.isn(direction).0 = Some(tcp.seq);
        }
        track
    }

    /// Returns the initial sequence number (ISN) of this direction, and that of the other.
    fn isn(&mut self, direction: Direction) -> (&mut Option<u32>, Option<u32>) {
        match direction {
            Direction::Out => (&mut self.out_isn, self.in_isn),
            Direction::In => (&mut self.in_isn, self.out_isn),
        }
    }

    pub(super) fn step(&mut self, tcp: TcpFacts, direction: Direction, config: &TcpConfig) -> Step {
        if tcp.flags.has(Flags::RST) {
            if let Some(judged) = config.strict.then(|| self.judge_rst(tcp, direction)).flatten() {
                return judged;
            }
            return match config.on_rst {
                Ending::Keep => Step::Pass,
                Ending::Delete => Step::PassAndDelete,
                Ending::Close => {
                    self.phase = Phase::Reset;
                    Step::Pass
                }
            };
        }
        if tcp.flags.is_syn() {
            return self.on_syn(tcp, direction, config);
        }
        if tcp.flags.is_syn_ack() {
            return self.on_syn_ack(tcp, direction, config.strict);
        }
        if self.phase == Phase::Opening {
            match direction {
                _ if self.isn(direction).1.is_none() => return Step::Invalid(DropReason::OutOfState),
                _ if !config.strict => (),
                Direction::In if !tcp.flags.has(Flags::FIN) => return Step::Ignore,
                _ => return Step::Invalid(DropReason::OutOfState),
            }
        }
        let has_fin = tcp.flags.has(Flags::FIN);
        if self.phase == Phase::Reset && config.strict && has_fin {
            let is_two_sided = self.out_isn.is_some() && self.in_isn.is_some();
            return if is_two_sided { Step::Ignore } else { Step::Invalid(DropReason::Closed) };
        }
        if self.phase == Phase::Answered && (!has_fin || !config.strict) {
            self.phase = Phase::Open;
        }
        if has_fin {
            return self.on_fin(direction, config.on_fin);
        }
        Step::Pass
    }

    /// Returns the treatment of a RST by a strict NAT, or `None` when the RST counts. Before the connection is
    /// established it must fit the SYNs. Afterwards it must not be older than them.
    fn judge_rst(&mut self, tcp: TcpFacts, direction: Direction) -> Option<Step> {
        let phase = self.phase;
        let (mine, theirs) = self.isn(direction);
        let ahead = mine.map(|isn| tcp.seq.wrapping_sub(isn) as i32);
        let is_about_ours = theirs.is_none_or(|isn| tcp.ack == isn.wrapping_add(1));
        let has_fin = self.out_fin || self.in_fin;
        let invalid = Some(Step::Invalid(DropReason::OutOfState));
        match (phase, ahead) {
            (Phase::Opening, _)
                if tcp.flags.has(Flags::ACK) && direction == Direction::In && !is_about_ours =>
            {
                Some(Step::Ignore)
            }
            (Phase::Opening, Some(..=0)) if theirs.is_none() => invalid,
            (Phase::Opening, Some(ahead)) if ahead.unsigned_abs() > WINDOW as u32 => match direction {
                Direction::Out => invalid,
                Direction::In => Some(Step::Ignore),
            },
            (Phase::Open, Some(..=0)) if !has_fin => invalid,
            _ => None,
        }
    }

    /// Returns the treatment of a SYN or SYN-ACK whose number is not `isn`, once SYNs have crossed. A number too far
    /// ahead is invalid, one behind is old, and one a little ahead is within the window.
    fn judge(isn: u32, seq: u32) -> Option<Step> {
        match seq.wrapping_sub(isn) as i32 {
            ..0 => Some(Step::Ignore),
            0..=WINDOW => None,
            _ => Some(Step::Invalid(DropReason::NewIsn)),
        }
    }

    fn on_syn(&mut self, tcp: TcpFacts, direction: Direction, config: &TcpConfig) -> Step {
        let phase = self.phase;
        let (mine, theirs) = self.isn(direction);
        // A session that has seen a RST lets no SYN in, not even a repeated one.
        if phase == Phase::Reset && direction == Direction::In {
            return Step::Unsolicited(DropReason::Closed);
        }
        let may_repeat = match phase {
            Phase::Opening => true,
            Phase::Reset => false,
            // On Linux, a SYN from outside that is repeated after the answer passed is invalid.
            _ => direction == Direction::Out || !config.strict,
        };
        if *mine == Some(tcp.seq) && may_repeat {
            return Step::Pass;
        }
        match (phase, direction) {
            (Phase::Opening, Direction::In) if mine.is_none() && !config.simultaneous_open => {
                Step::Unsolicited(DropReason::NoSimultaneousOpen)
            }
            (Phase::Opening, _) => {
                let judged = mine.and_then(|isn| Self::judge(isn, tcp.seq));
                if let Some(judged) = judged.filter(|_| config.strict && theirs.is_some()) {
                    return judged;
                }
                *mine = Some(tcp.seq);
                Step::Pass
            }
            (Phase::Reset | Phase::Closing, Direction::Out) => {
                *self = Self::new(tcp, direction);
                Step::Pass
            }
            (Phase::Reset | Phase::Closing, Direction::In) => Step::Unsolicited(DropReason::Closed),
            // The other side will answer it with a challenge ACK (RFC 5961).
            (Phase::Answered | Phase::Open, Direction::Out) => Step::Ignore,
            (Phase::Answered | Phase::Open, Direction::In) => Step::Invalid(DropReason::OutOfState),
        }
    }

    fn on_syn_ack(&mut self, tcp: TcpFacts, direction: Direction, is_strict: bool) -> Step {
        let phase = self.phase;
        let has_fin = self.out_fin || self.in_fin;
        let (mine, theirs) = self.isn(direction);
        match phase {
            Phase::Opening if theirs.is_none() => Step::Invalid(DropReason::OutOfState),
            Phase::Opening => {
                let judged = mine.and_then(|isn| Self::judge(isn, tcp.seq));
                if let Some(judged) = judged.filter(|_| is_strict) {
                    return judged;
                }
                mine.get_or_insert(tcp.seq);
                self.phase = Phase::Answered;
                Step::Pass
            }
            // On Linux, it is too late to acknowledge a SYN from inside.
            Phase::Answered | Phase::Open
                if is_strict && direction == Direction::Out && (phase == Phase::Open || has_fin) =>
            {
                Step::Invalid(DropReason::OutOfState)
            }
            Phase::Reset if is_strict && direction == Direction::In && mine.is_some() => Step::Ignore,
            Phase::Reset => Step::Invalid(DropReason::Closed),
            Phase::Answered | Phase::Open | Phase::Closing => Step::Pass,
        }
    }

    fn on_fin(&mut self, direction: Direction, ending: Ending) -> Step {
        match ending {
            Ending::Keep => Step::Pass,
            Ending::Delete => Step::PassAndDelete,
            Ending::Close => {
                match direction {
                    Direction::Out => self.out_fin = true,
                    Direction::In => self.in_fin = true,
                }
                if self.out_fin && self.in_fin {
                    self.phase = Phase::Closing;
                }
                Step::Pass
            }
        }
    }

    /// Returns the time that the session lives without another packet.
    pub(super) fn timeout(&self, config: &TcpConfig) -> Duration {
        match self.phase {
            Phase::Opening | Phase::Answered => config.timeout_opening,
            Phase::Open => config.timeout_open,
            Phase::Closing => config.timeout_closing,
            Phase::Reset => config.timeout_reset,
        }
    }
}
