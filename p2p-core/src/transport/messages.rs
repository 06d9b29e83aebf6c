//! Messages, each on its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{INITIAL_LIMIT, TransportConfig};
use super::connection::{Act, Body, Connection, Event, ResetReason, TransportError};
use super::counters::{Counters, Refusal};
use super::frame::{Frame, Writer};
use super::packets::Fate;
use super::ranges::Ranges;
use super::recv::Window;
use crate::{Deadline, Machine, Output, Seed};

/// The longest message, in bytes.
pub const MOST_MESSAGE: usize = 64 * 1024;
/// What a message counts for besides its bytes, so that the bound on bytes is one on messages, too.
const PLACE: u64 = 32;
/// A datagram with less room than this for a piece waits for the next one, unless the rest fits.
const LEAST_PIECE: usize = 64;
/// Holes between the pieces of one message that are kept, and between finished messages.
const MOST_HOLES: usize = 64;
const MOST_GAPS: usize = 4_096;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It is longer than [`MOST_MESSAGE`].
    #[error("a message of {0} bytes: at most {MOST_MESSAGE} are possible")]
    TooLong(usize),
    /// As many wait as may; [`Event::Writable`] tells when there is room again.
    #[error("too many messages wait to be sent")]
    Full,
    /// It is of no use any more.
    #[error(transparent)]
    Over(#[from] TransportError),
}

/// One end of an exchange of messages over datagrams that may be lost, repeated and reordered: every message comes,
/// whole and once, but in whatever order. One that was lost holds no other one up.
///
/// Driven like a [`Stream`](super::Stream), which see; ended like one, too.
#[derive(Debug)]
pub struct Messages {
    connection: Connection<Post>,
}

impl Messages {
    /// An end that is ready to send, receive and hear.
    pub fn new(config: TransportConfig, seed: Seed, now: Instant) -> Self {
        let config = config.clamped();
        let post = Post {
            out: Outbox::new(config.most_send as u64),
            partial: BTreeMap::new(),
            done: Ranges::default(),
            held: 0,
            ready: VecDeque::new(),
            count: None,
            window: Window::new(config.most_receive, now),
            wants_read: true,
        };
        Self { connection: Connection::new(config, post, seed, now) }
    }

    /// Takes a message for the peer. An empty one is one, too.
    ///
    /// # Errors
    /// When it is too long, when too many wait, after [`finish`](Self::finish), or when the connection is
    /// of no use any more.
    pub fn send(&mut self, message: Bytes, now: Instant) -> Result<(), SendError> {
        self.connection.pass(now);
        self.usable()?;
        let window = self.connection.window() as u64;
        let out = &mut self.connection.body.out;
        if out.end != End::Open {
            return Err(TransportError::Finished.into());
        }
        if message.len() > MOST_MESSAGE {
            return Err(SendError::TooLong(message.len()));
        }
        let cost = cost(message.len() as u64);
        if cost > out.room(window) {
            out.wants = Some(cost);
            return Err(SendError::Full);
        }
        out.push(message);
        self.connection.touch();
        self.connection.settle();
        Ok(())
    }

    /// Says that no message follows. Saying it twice changes nothing.
    ///
    /// # Errors
    /// Why it is of no use any more.
    pub fn finish(&mut self, now: Instant) -> Result<(), TransportError> {
        self.connection.pass(now);
        self.usable()?;
        let out = &mut self.connection.body.out;
        if out.end == End::Open {
            out.end = End::Due;
        }
        self.connection.settle();
        Ok(())
    }

    fn usable(&self) -> Result<(), TransportError> {
        self.connection.error().map_or(Ok(()), Err)
    }

    /// Whether the peer has acknowledged every message, and the end if that was said.
    pub fn is_delivered(&self) -> bool {
        let out = &self.connection.body.out;
        out.queue.is_empty() && matches!(out.end, End::Open | End::Known)
    }

    /// A message that has come, if there is one. [`Event::Readable`] tells when there is one again, or when
    /// [`is_ended`](Self::is_ended).
    ///
    /// # Errors
    /// Why none will come any more. What came before is received first.
    pub fn receive(&mut self, now: Instant) -> Result<Option<Bytes>, TransportError> {
        let now = self.connection.pass(now);
        let rtt = self.connection.rtt();
        let body = &mut self.connection.body;
        if let Some(message) = body.ready.pop_front() {
            let cost = cost(message.len() as u64);
            body.held -= cost;
            body.window.consume(cost, rtt, now);
            self.connection.touch();
            return Ok(Some(message));
        }
        if !self.is_ended() {
            self.usable()?;
            self.connection.body.wants_read = true;
        }
        Ok(None)
    }

    /// Whether the peer has said that no message follows, and all were received.
    pub fn is_ended(&self) -> bool {
        let body = &self.connection.body;
        body.is_whole() && body.ready.is_empty()
    }

    /// A datagram has come from the peer, or from somebody else.
    pub fn handle_datagram(&mut self, bytes: &[u8], now: Instant) {
        self.connection.handle_datagram(bytes, now);
    }

    /// As [`Stream::handle_path_changed`](super::Stream::handle_path_changed).
    pub fn handle_path_changed(&mut self, now: Instant) {
        self.connection.handle_path_changed(now);
    }

    /// As [`Stream::reset`](super::Stream::reset).
    pub fn reset(&mut self, reason: ResetReason, now: Instant) {
        self.connection.reset(reason, now);
    }

    /// As [`Stream::close`](super::Stream::close).
    pub fn close(&mut self, now: Instant) {
        self.connection.reset(ResetReason::Dropped, now);
    }

    /// As [`Stream::poll_transmit`](super::Stream::poll_transmit).
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        self.connection.poll_transmit(out)
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.connection.poll_event()
    }

    /// As [`Stream::deadline`](super::Stream::deadline).
    pub fn deadline(&self) -> Option<Deadline> {
        self.connection.deadline()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.connection.counters()
    }

    /// The smoothed round trip, once there is one.
    pub fn rtt(&self) -> Option<Duration> {
        self.connection.rtt()
    }

    /// Memory in use, in bytes: the machine and all it points to.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.connection.heap()
    }
}

impl Machine for Messages {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.connection.poll_output()
    }
}

fn cost(length: u64) -> u64 {
    length + PLACE
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Due,
    Told,
    Known,
}

/// One message on its way out.
#[derive(Debug)]
struct Outgoing {
    payload: Bytes,
    /// Below this, everything was sent once.
    next: u64,
    acked: Ranges,
    lost: Ranges,
    is_done: bool,
}

#[derive(Debug)]
struct Outbox {
    queue: VecDeque<Outgoing>,
    /// The id of the first in the queue.
    first: u64,
    /// The id of the first that was not sent wholly.
    fresh: u64,
    /// Those of which something is to be sent again.
    lost: BTreeSet<u64>,
    /// What is in the queue counts for, and what was begun counted for in all.
    queued: u64,
    begun: u64,
    limit: u64,
    most: u64,
    wants: Option<u64>,
    end: End,
}

impl Outbox {
    fn new(most: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            first: 0,
            fresh: 0,
            lost: BTreeSet::new(),
            queued: 0,
            begun: 0,
            limit: INITIAL_LIMIT,
            most,
            wants: None,
            end: End::Open,
        }
    }

    /// Bytes and places that can be queued; see [`SendBuffer::room`](super::send::SendBuffer::room).
    fn room(&self, window: u64) -> u64 {
        let least = cost(MOST_MESSAGE as u64) * 2;
        window.saturating_mul(2).clamp(least, self.most.max(least)).saturating_sub(self.queued)
    }

    fn push(&mut self, payload: Bytes) {
        self.queued += cost(payload.len() as u64);
        let (acked, lost) = Default::default();
        self.queue.push_back(Outgoing { payload, next: 0, acked, lost, is_done: false });
    }

    fn get(&mut self, id: u64) -> Option<&mut Outgoing> {
        let at = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(at)
    }

    /// The message that comes next, if it has not been begun and the peer does not take it.
    fn held_back(&self) -> bool {
        let at = (self.fresh - self.first) as usize;
        let next = self.queue.get(at);
        next.is_some_and(|next| next.next == 0 && self.begun + cost(next.payload.len() as u64) > self.limit)
    }

    fn has_fresh(&self) -> bool {
        ((self.fresh - self.first) as usize) < self.queue.len() && !self.held_back()
    }

    fn is_end_due(&self) -> bool {
        self.end == End::Due && (self.fresh - self.first) as usize == self.queue.len()
    }

    fn write_piece(&mut self, writer: &mut Writer<'_>) -> Option<Piece> {
        let (id, is_again) = match self.lost.first() {
            Some(id) => (*id, true),
            None if self.has_fresh() => (self.fresh, false),
            None if self.is_end_due() => {
                self.end = End::Told;
                writer.end(self.first + self.queue.len() as u64);
                return Some(Piece::End);
            }
            None => return None,
        };
        let message = self.get(id)?;
        let total = message.payload.len() as u64;
        let whole = match message.lost.first() {
            Some(first) if is_again => first.clone(),
            _ if is_again => 0..total,
            _ => message.next..total,
        };
        let left = writer.left().checked_sub(Writer::message_overhead(id, total, whole.start))?;
        let wanted = whole.end - whole.start;
        if wanted > left as u64 && left < LEAST_PIECE {
            return None;
        }
        let length = wanted.min(left as u64);
        let piece = whole.start..whole.start + length;
        // At most 64 KiB are left in any datagram.
        let bytes = writer.message(id, total, piece.start, length as u16);
        bytes.copy_from_slice(&message.payload[piece.start as usize..piece.end as usize]);
        if is_again {
            message.lost.remove(&piece);
            if message.lost.is_empty() {
                self.lost.remove(&id);
            }
        } else {
            let is_first = message.next == 0;
            message.next = piece.end;
            if is_first {
                self.begun += cost(total);
            }
            if piece.end == total {
                self.fresh += 1;
            }
        }
        Some(Piece::Part { id, at: piece.start as u32, length: length as u16 })
    }

    fn on_fate(&mut self, fate: Fate, piece: Piece) {
        let (id, range) = match piece {
            Piece::Part { id, at, length } => (id, u64::from(at)..u64::from(at) + u64::from(length)),
            Piece::End => {
                match (fate, self.end) {
                    (Fate::Arrived, _) => self.end = End::Known,
                    (Fate::Lost, End::Told) => self.end = End::Due,
                    (Fate::Lost, _) => {}
                }
                return;
            }
        };
        let Some(message) = self.get(id).filter(|message| !message.is_done) else { return };
        let whole = 0..message.payload.len() as u64;
        match fate {
            Fate::Lost => {
                let gaps: Vec<_> = message.acked.missing(range).collect();
                for gap in gaps {
                    message.lost.insert(gap);
                }
                if !message.lost.is_empty() || whole.is_empty() {
                    self.lost.insert(id);
                }
                return;
            }
            Fate::Arrived if range != whole => {
                message.lost.remove(&range);
                message.acked.insert(range);
                if !message.acked.covers(&whole) {
                    if message.lost.is_empty() {
                        self.lost.remove(&id);
                    }
                    return;
                }
            }
            Fate::Arrived => {}
        }
        message.is_done = true;
        (message.acked, message.lost) = Default::default();
        self.lost.remove(&id);
        while let Some(front) = self.queue.front().filter(|front| front.is_done) {
            self.queued -= cost(front.payload.len() as u64);
            self.queue.pop_front();
            self.first += 1;
        }
    }
}

/// A message of which some has come.
#[derive(Debug)]
struct Partial {
    bytes: Vec<u8>,
    got: Ranges,
}

#[derive(Debug)]
struct Post {
    out: Outbox,
    partial: BTreeMap<u64, Partial>,
    /// Ids of messages that have come.
    done: Ranges,
    /// What `partial` and `ready` count for.
    held: u64,
    ready: VecDeque<Bytes>,
    count: Option<u64>,
    window: Window,
    wants_read: bool,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Part { id: u64, at: u32, length: u16 },
    End,
}

impl Post {
    fn is_whole(&self) -> bool {
        self.count.is_some_and(|count| self.done.covers(&(0..count)))
    }

    fn check_message(&self, id: u64, total: u64, piece: &std::ops::Range<u64>) -> Result<(), Refusal> {
        if total > MOST_MESSAGE as u64 || self.count.is_some_and(|count| id >= count) {
            return Err(Refusal::Contradiction);
        }
        if self.done.contains(id) {
            return Ok(());
        }
        if self.done.len() >= MOST_GAPS && self.done.would_grow(&(id..id + 1)) {
            return Err(Refusal::Outside);
        }
        match self.partial.get(&id) {
            Some(partial) if partial.bytes.len() as u64 != total => Err(Refusal::Contradiction),
            Some(partial) if partial.got.len() >= MOST_HOLES && partial.got.would_grow(piece) => {
                Err(Refusal::Outside)
            }
            Some(_) => Ok(()),
            None if self.held + cost(total) > self.window.size() => Err(Refusal::Outside),
            None => Ok(()),
        }
    }

    fn on_part(&mut self, id: u64, total: u64, at: u64, bytes: &[u8]) {
        if self.done.contains(id) {
            return;
        }
        let whole = 0..total;
        let message = if bytes.len() as u64 == total {
            if self.partial.remove(&id).is_none() {
                self.held += cost(total);
            }
            Bytes::copy_from_slice(bytes)
        } else {
            let held = &mut self.held;
            let partial = self.partial.entry(id).or_insert_with(|| {
                *held += cost(total);
                Partial { bytes: vec![0; total as usize], got: Ranges::default() }
            });
            partial.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            partial.got.insert(at..at + bytes.len() as u64);
            if !partial.got.covers(&whole) {
                return;
            }
            let Some(partial) = self.partial.remove(&id) else { return };
            partial.bytes.into()
        };
        self.done.insert(id..id + 1);
        self.ready.push_back(message);
    }
}

impl Body for Post {
    type Piece = Piece;

    fn check(&self, frame: &Frame<'_>) -> Result<(), Refusal> {
        match *frame {
            Frame::Message { id, total, at, bytes } => {
                self.check_message(id, total, &(at..at + bytes.len() as u64))
            }
            Frame::End { count } => {
                let highest = self.partial.keys().next_back().map(|id| id + 1);
                let highest = highest.max(self.done.last().map(|last| last.end)).unwrap_or(0);
                match self.count {
                    Some(known) if known != count => Err(Refusal::Contradiction),
                    None if count < highest => Err(Refusal::Contradiction),
                    _ => Ok(()),
                }
            }
            _ => Err(Refusal::Contradiction),
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>) {
        match *frame {
            Frame::Message { id, total, at, bytes } => self.on_part(id, total, at, bytes),
            Frame::End { count } => self.count = Some(count),
            _ => {}
        }
    }

    fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    fn on_window(&mut self, limit: u64) {
        self.out.limit = self.out.limit.max(limit);
    }

    fn blocked(&self) -> Option<u64> {
        self.out.held_back().then_some(self.out.limit)
    }

    fn has_piece(&self) -> bool {
        !self.out.lost.is_empty() || self.out.has_fresh() || self.out.is_end_due()
    }

    fn write_piece(&mut self, writer: &mut Writer<'_>) -> Option<Piece> {
        self.out.write_piece(writer)
    }

    fn on_fate(&mut self, fate: Fate, piece: Piece) {
        self.out.on_fate(fate, piece);
    }

    fn is_done(&self) -> bool {
        self.out.end == End::Known && self.out.queue.is_empty() && self.is_whole()
    }

    fn event(&mut self, window: usize) -> Option<Event> {
        if self.wants_read && (!self.ready.is_empty() || self.is_whole()) {
            self.wants_read = false;
            return Some(Event::Readable);
        }
        let wants = self.out.wants?;
        if self.out.room(window as u64) >= wants {
            self.out.wants = None;
            return Some(Event::Writable);
        }
        None
    }

    fn clear(&mut self) {
        self.out = Outbox::new(0);
        self.partial.clear();
        self.ready = VecDeque::new();
        self.done = Ranges::default();
        self.held = 0;
    }

    fn shrink(&mut self) {
        self.out.queue.shrink_to_fit();
        self.ready.shrink_to_fit();
        self.done.shrink();
    }

    fn heap(&self) -> usize {
        let out: usize = self
            .out
            .queue
            .iter()
            .map(|message| message.payload.len() + message.acked.heap() + message.lost.heap())
            .sum();
        let partial: usize = self.partial.values().map(|one| one.bytes.len() + one.got.heap()).sum();
        let ready: usize = self.ready.iter().map(Bytes::len).sum();
        out + partial
            + ready
            + self.out.queue.capacity() * size_of::<Outgoing>()
            + self.out.lost.len() * size_of::<u64>() * 2
            + self.partial.len() * size_of::<(u64, Partial)>() * 2
            + self.ready.capacity() * size_of::<Bytes>()
            + self.done.heap()
    }
}

#[cfg(feature = "sim")]
#[path = "messages_subject.rs"]
pub(super) mod subject;

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
