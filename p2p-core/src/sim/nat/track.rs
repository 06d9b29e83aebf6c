//! What a NAT knows of one TCP connection.

use std::time::Duration;

use super::DropReason;
use super::config::{Ending, TcpConfig};
use crate::sim::packet::{Flags, TcpFacts};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// SYNs, but no answer to one.
    Opening,
    /// A SYN was acknowledged.
    Answered,
    Open,
    /// Each side has sent a FIN.
    Closing,
    Reset,
}

/// What to do with the packet, and with the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Pass,
    PassAndDelete,
    /// Treat it as if there were no session.
    Unsolicited(DropReason),
    Invalid(DropReason),
}

/// The state of one connection, as connection tracking follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    phase: Phase,
    /// Sequence numbers of the SYNs seen each way.
    out_isn: Option<u32>,
    in_isn: Option<u32>,
    out_fin: bool,
    in_fin: bool,
}

impl Track {
    /// From the first segment of a session: a SYN, or any other where the NAT is loose.
    pub(super) fn new(tcp: TcpFacts, direction: Direction) -> Self {
        let mut track =
            Self { phase: Phase::Open, out_isn: None, in_isn: None, out_fin: false, in_fin: false };
        if tcp.flags.is_syn() {
            track.phase = Phase::Opening;
            *track.isn(direction).0 = Some(tcp.seq);
        }
        track
    }

    /// The ISN of this direction, and that of the other.
    fn isn(&mut self, direction: Direction) -> (&mut Option<u32>, Option<u32>) {
        match direction {
            Direction::Out => (&mut self.out_isn, self.in_isn),
            Direction::In => (&mut self.in_isn, self.out_isn),
        }
    }

    pub(super) fn step(&mut self, tcp: TcpFacts, direction: Direction, config: &TcpConfig) -> Step {
        if tcp.flags.has(Flags::RST) {
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
        if self.phase == Phase::Opening && self.isn(direction).1.is_none() {
            return Step::Invalid(DropReason::OutOfState);
        }
        if self.phase == Phase::Answered {
            self.phase = Phase::Open;
        }
        if tcp.flags.has(Flags::FIN) {
            return self.on_fin(direction, config.on_fin);
        }
        Step::Pass
    }

    fn on_syn(&mut self, tcp: TcpFacts, direction: Direction, config: &TcpConfig) -> Step {
        let phase = self.phase;
        let (mine, theirs) = self.isn(direction);
        // A session that has seen a RST lets no SYN in, not even a repeated one.
        if phase == Phase::Reset && direction == Direction::In {
            return Step::Unsolicited(DropReason::Closed);
        }
        if *mine == Some(tcp.seq) && phase != Phase::Reset {
            return Step::Pass;
        }
        match (phase, direction) {
            (Phase::Opening, Direction::In) if mine.is_none() && !config.simultaneous_open => {
                Step::Unsolicited(DropReason::NoSimultaneousOpen)
            }
            (Phase::Opening, _) if mine.is_some() && theirs.is_some() && config.strict => {
                Step::Invalid(DropReason::NewIsn)
            }
            (Phase::Opening, _) => {
                *mine = Some(tcp.seq);
                Step::Pass
            }
            (Phase::Reset | Phase::Closing, Direction::Out) => {
                *self = Self::new(tcp, direction);
                Step::Pass
            }
            (Phase::Reset | Phase::Closing, Direction::In) => Step::Unsolicited(DropReason::Closed),
            (Phase::Answered | Phase::Open, _) => Step::Invalid(DropReason::OutOfState),
        }
    }

    fn on_syn_ack(&mut self, tcp: TcpFacts, direction: Direction, is_strict: bool) -> Step {
        let phase = self.phase;
        let (mine, theirs) = self.isn(direction);
        match phase {
            Phase::Opening if theirs.is_none() => Step::Invalid(DropReason::OutOfState),
            Phase::Opening if is_strict && mine.is_some_and(|isn| isn != tcp.seq) => {
                Step::Invalid(DropReason::NewIsn)
            }
            Phase::Opening => {
                mine.get_or_insert(tcp.seq);
                self.phase = Phase::Answered;
                Step::Pass
            }
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

    /// How long the session lives without another packet.
    pub(super) fn timeout(&self, config: &TcpConfig) -> Duration {
        match self.phase {
            Phase::Opening | Phase::Answered => config.timeout_opening,
            Phase::Open => config.timeout_open,
            Phase::Closing => config.timeout_closing,
            Phase::Reset => config.timeout_reset,
        }
    }
}
