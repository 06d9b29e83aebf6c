//! What both kinds of relayed connection have in common: life and death, room for more, and what goes into
//! the next datagram.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, trace};

use super::config::TransportConfig;
use super::counters::{Counters, Refusal};
use super::frame::{Frame, Packet, Writer};
use super::packets::{Alarm, Fate, MOST_TIMEOUT, Packets};
use super::recv::Window;
use crate::{Deadline, Output, Seed};

/// A buffer for a datagram must not be smaller than this, in bytes.
pub(super) const LEAST_BUFFER: usize = 128;
/// Bytes that an ack leaves to the other frames of its datagram.
const BESIDES_ACK: usize = 48;
/// How often a reset is said when nobody acknowledges it.
const RESETS: u8 = 3;
/// After both ends have said everything, one stays until nothing was repeated for so many timeouts: its last ack may be
/// lost. A peer that has not heard it gives up at some time, and so does this.
const LINGER: u32 = 4;
/// The first pause between two questions for room; each is twice as long, up to the pause between signs of life.
const FIRST_QUESTION: Duration = Duration::from_millis(500);
/// Memory that nothing has used for this long is given back.
const REST: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Send this datagram to the peer.
    Send(Bytes),
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is something to read. Comes once after a read has found nothing.
    Readable,
    /// There is room to write. Comes once after a write has found too little.
    Writable,
    /// Nothing was acknowledged for [`TransportConfig::dead_after`]. Another path can be taken: see `handle_path_changed`.
    PathDead,
    /// It is over: well, when both ends had said everything, or not. Nothing comes after this.
    Ended(Option<TransportError>),
}

/// Why a connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer has cut it.
    #[error("the peer has cut the relayed connection: {0}")]
    Reset(ResetReason),
    /// Nothing was acknowledged for [`TransportConfig::give_up_after`].
    #[error("nothing is heard of the peer through the relay")]
    Silent,
    /// The peer is heard, and acknowledged nothing of what we wrote for twice [`TransportConfig::give_up_after`].
    #[error(
        "the peer is there, and nothing that we write gets through the relay: the path may carry small packets only"
    )]
    Stuck,
    /// The peer has said two things that cannot both be, or speaks of messages where a stream is, or the other way round.
    #[error("the peer contradicts itself")]
    Contradiction,
    /// We have cut it.
    #[error("the relayed connection was closed here")]
    Closed,
    /// We have said that nothing follows.
    #[error("nothing can be written after the end")]
    Finished,
}

/// Why an end cuts a connection. On the wire a number, so that a reason of a later version still is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetReason {
    /// Its owner let it go before everything was said.
    Dropped,
    /// Its owner will not go on with what it was told.
    Refused,
    /// A number this version has no word for.
    Other(u8),
}

impl From<u8> for ResetReason {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Dropped,
            2 => Self::Refused,
            other => Self::Other(other),
        }
    }
}

impl From<ResetReason> for u8 {
    fn from(reason: ResetReason) -> Self {
        match reason {
            ResetReason::Dropped => 1,
            ResetReason::Refused => 2,
            ResetReason::Other(other) => other,
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped => f.write_str("it was let go"),
            Self::Refused => f.write_str("it was refused"),
            Self::Other(number) => write!(f, "reason {number}"),
        }
    }
}

/// What a connection carries.
pub(super) trait Body {
    /// A piece of it, as one datagram carries it.
    type Piece: Copy + fmt::Debug;

    /// Whether a frame may come.
    fn check(&self, frame: &Frame<'_>) -> Result<(), Refusal>;
    /// A frame has come that may.
    fn on_frame(&mut self, frame: &Frame<'_>);
    /// What we let the peer send.
    fn window(&mut self) -> &mut Window;
    /// What the peer lets us send.
    fn on_window(&mut self, limit: u64);
    /// That, when it is too little.
    fn blocked(&self) -> Option<u64>;
    /// Whether there is something to send.
    fn has_piece(&self) -> bool;
    /// Writes the next piece, if it fits.
    fn write_piece(&mut self, writer: &mut Writer<'_>) -> Option<Self::Piece>;
    /// What became of a piece.
    fn on_fate(&mut self, fate: Fate, piece: Self::Piece);
    /// Whether both ends have said everything, and know it of each other.
    fn is_done(&self) -> bool;
    /// What its user waits for, once; `window` bytes are wanted on the way.
    fn event(&mut self, window: usize) -> Option<Event>;
    /// Forgets everything that is still to be sent or read.
    fn clear(&mut self);
    /// Gives unused room back.
    fn shrink(&mut self);
    /// Bytes on the heap.
    fn heap(&self) -> usize;
}

/// What a datagram carried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried<P> {
    piece: Option<P>,
    window: bool,
    blocked: bool,
}

impl<P: Copy> Carried<P> {
    fn tell<B: Body<Piece = P>>(self, fate: Fate, body: &mut B, question: &mut Option<Question>) {
        if let Some(piece) = self.piece {
            body.on_fate(fate, piece);
        }
        if fate == Fate::Lost {
            if self.window {
                body.window().repeat();
            }
            if let Some(question) = question.as_mut().filter(|_| self.blocked) {
                question.is_due = true;
            }
        }
    }
}

/// "We have more than you take."
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    limit: u64,
    is_due: bool,
    again_at: Instant,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Open,
    /// Everything is said; the peer may not know that we know.
    Lingering {
        until: Instant,
        latest: Instant,
    },
    /// We have cut it, and say so.
    Resetting {
        reason: ResetReason,
        left: u8,
        again_at: Instant,
        is_due: bool,
    },
    /// A reset that is said again is still acknowledged.
    Over {
        is_reset_by_peer: bool,
    },
}

/// One end.
#[derive(Debug)]
pub(super) struct Connection<B: Body> {
    packets: Packets<Carried<B::Piece>>,
    pub(super) body: B,
    life: Life,
    error: Option<TransportError>,
    question: Option<Question>,
    /// When memory is given back, unless something is carried before.
    rest_at: Option<Instant>,
    events: VecDeque<Event>,
}

impl<B: Body> Connection<B> {
    pub(super) fn new(config: TransportConfig, body: B, mut seed: Seed, now: Instant) -> Self {
        Self {
            packets: Packets::new(config.clamped(), &mut seed, now),
            body,
            life: Life::Open,
            error: None,
            question: None,
            rest_at: None,
            events: VecDeque::new(),
        }
    }

    /// Why it is of no use any more.
    pub(super) fn error(&self) -> Option<TransportError> {
        self.error
    }

    pub(super) fn counters(&self) -> Counters {
        self.packets.counters
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.packets.rtt()
    }

    pub(super) fn window(&self) -> usize {
        self.packets.window()
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.packets.heap() + self.body.heap() + self.events.capacity() * size_of::<Event>()
    }

    pub(super) fn pass(&mut self, now: Instant) -> Instant {
        self.packets.pass(now);
        self.packets.now()
    }

    pub(super) fn handle_datagram(&mut self, bytes: &[u8], now: Instant) {
        self.packets.pass(now);
        let result = Packet::parse(bytes, self.packets.config().tokens.ours)
            .map_err(Refusal::Frame)
            .and_then(|packet| self.on_packet(packet));
        match result {
            Ok(()) => self.settle(),
            Err(why) => {
                trace!(?why, "a datagram is dropped");
                self.refuse(why);
            }
        }
    }

    /// A datagram, or a frame, is dropped. Whoever contradicts himself bears the token, so it is the peer or somebody who
    /// could cut the path as well; what he says next would be refused for ever, and that is worse than an end.
    fn refuse(&mut self, why: Refusal) {
        self.packets.counters.refuse(why);
        if why == Refusal::Contradiction && matches!(self.life, Life::Open | Life::Lingering { .. }) {
            debug!("the peer contradicts itself");
            self.end(Some(TransportError::Contradiction));
            self.start_reset(ResetReason::Refused);
        }
    }

    fn start_reset(&mut self, reason: ResetReason) {
        // Only the ack of the reset is of interest now.
        self.packets.abandon();
        let again_at = self.packets.now();
        self.life = Life::Resetting { reason, left: RESETS, again_at, is_due: true };
    }

    fn on_packet(&mut self, packet: Packet<'_>) -> Result<(), Refusal> {
        let is_reset = |frame: Frame<'_>| matches!(frame, Frame::Reset { .. });
        let is_live = matches!(self.life, Life::Open | Life::Lingering { .. });
        match self.life {
            Life::Over { is_reset_by_peer } => {
                // The ack of the reset may be lost.
                if !is_reset_by_peer || !packet.frames().any(is_reset) {
                    return Err(Refusal::Late);
                }
            }
            Life::Resetting { .. }
                if !packet.frames().any(|frame| matches!(frame, Frame::Ack(_)) || is_reset(frame)) =>
            {
                return Err(Refusal::Late);
            }
            Life::Open | Life::Lingering { .. } | Life::Resetting { .. } => {}
        }
        let mut is_eliciting = false;
        for frame in packet.frames() {
            is_eliciting |= frame.is_eliciting();
            match frame {
                Frame::Ack(ack) if !self.packets.is_sent(&ack) => return Err(Refusal::NeverSent),
                Frame::Data { .. } | Frame::Message { .. } | Frame::End { .. } if is_live => {
                    self.body.check(&frame)?;
                }
                _ => {}
            }
        }
        if self.packets.is_old(packet.number) && is_live {
            return Err(Refusal::Duplicate);
        }
        self.packets.on_packet(&packet, is_eliciting && is_live);
        if let Life::Lingering { latest, .. } = self.life
            && is_eliciting
        {
            self.life = Life::Lingering { until: self.linger_until().min(latest), latest };
        }
        for frame in packet.frames() {
            self.on_frame(frame);
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame<'_>) {
        let is_live = matches!(self.life, Life::Open | Life::Lingering { .. });
        match frame {
            Frame::Ack(ack) => {
                let (body, question) = (&mut self.body, &mut self.question);
                self.packets.on_ack(ack, |fate, carried| carried.tell(fate, body, question));
                if matches!(self.life, Life::Resetting { is_due: false, .. }) && self.packets.is_idle() {
                    self.life = Life::Over { is_reset_by_peer: false };
                }
            }
            Frame::Reset { reason } => {
                self.packets.hurry_ack();
                if is_live {
                    let reason = ResetReason::from(reason);
                    debug!(%reason, "the peer has cut the relayed connection");
                    self.end(Some(TransportError::Reset(reason)));
                }
                let is_known = self.error != Some(TransportError::Closed);
                self.life = Life::Over { is_reset_by_peer: is_known };
            }
            _ if !is_live => {}
            Frame::Window { limit } => self.body.on_window(limit),
            Frame::Blocked { .. } => self.body.window().repeat(),
            Frame::Ping => {}
            // Two frames of one datagram can contradict each other.
            Frame::Data { .. } | Frame::Message { .. } | Frame::End { .. } => match self.body.check(&frame) {
                Ok(()) => {
                    self.touch();
                    self.packets.on_content();
                    self.body.on_frame(&frame);
                    if matches!(frame, Frame::Data { is_last: true, .. } | Frame::End { .. }) {
                        self.packets.hurry_ack();
                    }
                }
                Err(why) => self.refuse(why),
            },
        }
    }

    fn linger_until(&self) -> Instant {
        self.packets.now() + self.packets.timeout().max(MOST_TIMEOUT) * LINGER
    }

    /// Something was written, read or carried.
    pub(super) fn touch(&mut self) {
        self.rest_at = Some(self.packets.now() + REST);
    }

    /// After every input: what follows from it.
    pub(super) fn settle(&mut self) {
        if !matches!(self.life, Life::Open | Life::Lingering { .. }) {
            return;
        }
        let now = self.packets.now();
        let blocked = self.body.blocked();
        if blocked != self.question.map(|question| question.limit) {
            self.question = blocked.map(|limit| Question {
                limit,
                is_due: true,
                again_at: now + FIRST_QUESTION,
                pause: FIRST_QUESTION,
            });
        }
        if self.life == Life::Open && self.body.is_done() {
            let latest = now + self.packets.config().give_up_after;
            self.life = Life::Lingering { until: self.linger_until().min(latest), latest };
        }
        if self.error.is_some() {
            return;
        }
        while let Some(event) = self.body.event(self.packets.window()) {
            self.events.push_back(event);
        }
    }

    fn end(&mut self, error: Option<TransportError>) {
        self.life = Life::Over { is_reset_by_peer: false };
        self.question = None;
        self.packets.abandon();
        self.body.shrink();
        // Whoever has closed it knows.
        if self.error.is_none() {
            self.error = error;
            self.events.push_back(Event::Ended(error));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.packets.pass(now);
        let now = self.packets.now();
        match &mut self.life {
            Life::Over { .. } => return,
            Life::Resetting { again_at, is_due, left, .. } => {
                if *again_at <= now {
                    if *left == 0 {
                        self.life = Life::Over { is_reset_by_peer: false };
                    } else {
                        *is_due = true;
                    }
                }
                return;
            }
            Life::Lingering { until, .. } if *until <= now => return self.end(None),
            Life::Open | Life::Lingering { .. } => {}
        }
        if let Some(question) = self.question.as_mut().filter(|question| question.again_at <= now) {
            question.is_due = true;
            question.pause = (question.pause * 2).min(self.packets.config().keep_alive);
            question.again_at = now + question.pause;
        }
        if self.rest_at.is_some_and(|at| at <= now) {
            self.rest_at = None;
            self.packets.shrink();
            self.body.shrink();
            self.events.shrink_to_fit();
        }
        let was_probing = self.packets.is_probing();
        let (body, question) = (&mut self.body, &mut self.question);
        match self.packets.on_time(|fate, carried| carried.tell(fate, body, question)) {
            Alarm::None => {}
            Alarm::Dead if self.error.is_some() => {}
            Alarm::Dead => {
                debug!("the path through the relay is dead");
                self.events.push_back(Event::PathDead);
            }
            Alarm::Over => return self.end(Some(TransportError::Silent)),
            Alarm::Stuck => return self.end(Some(TransportError::Stuck)),
        }
        if self.packets.is_probing() && !was_probing {
            let (body, question) = (&mut self.body, &mut self.question);
            self.packets.oldest().for_each(|carried| carried.tell(Fate::Lost, body, question));
        }
        self.settle();
    }

    pub(super) fn handle_path_changed(&mut self, now: Instant) {
        self.packets.pass(now);
        if matches!(self.life, Life::Open | Life::Lingering { .. }) {
            let (body, question) = (&mut self.body, &mut self.question);
            self.packets.on_path_changed(|fate, carried| carried.tell(fate, body, question));
            self.settle();
        }
    }

    /// Cuts it, and tells the peer. Where everything was said there is nothing to cut.
    pub(super) fn reset(&mut self, reason: ResetReason, now: Instant) {
        self.packets.pass(now);
        self.events.clear();
        self.question = None;
        match self.life {
            Life::Over { .. } => self.life = Life::Over { is_reset_by_peer: false },
            Life::Open => self.start_reset(reason),
            // Said again, unless it was said as often as it is.
            Life::Resetting { ref mut is_due, left, .. } => *is_due = left > 0,
            // The peer may wait for nothing but our ack.
            Life::Lingering { .. } => self.packets.hurry_ack(),
        }
        self.error = Some(TransportError::Closed);
        if !matches!(self.life, Life::Lingering { .. }) {
            self.body.clear();
        }
    }

    /// Whether a datagram is to be sent.
    fn has_datagram(&mut self) -> bool {
        match self.life {
            Life::Open | Life::Lingering { .. } => {
                self.packets.must_send()
                    || self.packets.has_place()
                        && (self.body.window().is_due()
                            || self.question.is_some_and(|question| question.is_due))
                    || (self.body.has_piece() && self.packets.may_send())
            }
            Life::Resetting { is_due, .. } => is_due,
            Life::Over { is_reset_by_peer } => is_reset_by_peer && self.packets.must_ack(),
        }
    }

    /// Writes the next datagram into `out`; answers its length.
    pub(super) fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        if !self.has_datagram() {
            if !self.body.has_piece() {
                self.packets.on_nothing_to_send();
            }
            return None;
        }
        if out.len() < LEAST_BUFFER {
            return None;
        }
        let (may_send, has_place) = (self.packets.may_send(), self.packets.has_place());
        let timeout = self.packets.timeout();
        let now = self.packets.now();
        let mut writer = self.packets.begin(out);
        if self.packets.may_ack() {
            self.packets.write_ack(&mut writer, BESIDES_ACK);
        }
        let mut carried = Carried { piece: None, window: false, blocked: false };
        let mut is_eliciting = false;
        match &mut self.life {
            Life::Resetting { reason, left, again_at, is_due } => {
                writer.reset((*reason).into());
                (*is_due, *again_at) = (false, now + timeout);
                *left = left.saturating_sub(1);
                is_eliciting = true;
            }
            Life::Over { .. } => {}
            Life::Open | Life::Lingering { .. } => {
                if has_place && let Some(limit) = self.body.window().take() {
                    writer.window(limit);
                    carried.window = true;
                }
                let question = self.question.as_mut().filter(|question| question.is_due && has_place);
                if let Some(question) = question {
                    writer.blocked(question.limit);
                    (question.is_due, carried.blocked) = (false, true);
                }
                if may_send && self.body.has_piece() {
                    carried.piece = self.body.write_piece(&mut writer);
                }
                let has_content = carried.window || carried.blocked || carried.piece.is_some();
                is_eliciting = self.packets.write_ping(&mut writer, has_content) || has_content;
            }
        }
        let size = writer.written();
        let has_content = carried.piece.is_some();
        self.packets.end(size, is_eliciting.then_some(carried), has_content);
        Some(size)
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match self.life {
            Life::Over { .. } => None,
            Life::Resetting { again_at, .. } => Some(Deadline::new(again_at, "saying again that it is cut")),
            Life::Open | Life::Lingering { .. } => {
                let linger = match self.life {
                    Life::Lingering { until, .. } => Some(Deadline::new(until, "the last ack may be lost")),
                    _ => None,
                };
                let asking =
                    self.question.map(|question| Deadline::new(question.again_at, "asking for room"));
                let rest = self.rest_at.map(|at| Deadline::new(at, "memory can be given back"));
                Deadline::earliest([linger, asking, rest, self.packets.deadline(self.body.has_piece())])
            }
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(event) = self.poll_event() {
            return Output::Event(event);
        }
        let room = if self.has_datagram() { self.packets.config().datagram } else { 0 };
        let mut out = vec![0; room];
        if let Some(size) = self.poll_transmit(&mut out) {
            out.truncate(size);
            return Output::Act(Act::Send(out.into()));
        }
        Output::Wait(self.deadline())
    }
}
