//! An ordered stream of bytes.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::config::TransportConfig;
use super::connection::{Act, Body, Connection, Event, ResetReason, TransportError};
use super::counters::{Counters, Refusal};
use super::frame::{Frame, Writer};
use super::packets::Fate;
use super::recv::{RecvBuffer, Window};
use super::send::SendBuffer;
use crate::{Deadline, Machine, Output, Seed};

/// A write that has found too little room is told when there is this much, in bytes.
const WORTH_WAKING: usize = 16 * 1024;

/// What a read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes; none only when there was no room for any.
    Bytes(usize),
    /// Nothing yet; [`Event::Readable`] will tell.
    Nothing,
    /// The peer has said that nothing follows.
    End,
}

/// One end of a reliable, ordered stream of bytes over datagrams that may be lost, repeated and reordered.
///
/// | methods | names |
/// |---|---|
/// | user | [`write`](Self::write), [`finish`](Self::finish), [`read`](Self::read) or [`readable`](Self::readable) and [`consume`](Self::consume), [`reset`](Self::reset), [`close`](Self::close) |
/// | path | [`handle_datagram`](Self::handle_datagram), [`handle_path_changed`](Self::handle_path_changed) |
/// | drain | [`poll_transmit`](Self::poll_transmit) until `None`, [`poll_event`](Self::poll_event) until `None`, then [`deadline`](Self::deadline); or [`Machine::poll_output`], which does all three and makes a buffer for each datagram |
///
/// Drain after **every** call of the first two rows that takes `now`, and after [`Machine::handle_timeout`].
/// There is no handshake: both ends exist, and know both tokens, before the first datagram that is to be understood.
///
/// **The end.** Each direction ends by [`finish`](Self::finish). When both have, and everything was
/// acknowledged, the machine stays for some seconds, because its last ack may be lost; then comes
/// [`Event::Ended`]. Whoever drops it before that makes the peer wait for [`TransportConfig::give_up_after`]. What has
/// arrived can still be read after that, also after an error of the peer's or of the path's.
#[derive(Debug)]
pub struct Stream {
    connection: Connection<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    send: SendBuffer,
    recv: RecvBuffer,
    wants_read: bool,
    wants_write: bool,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    length: u16,
    is_last: bool,
}

impl Piece {
    fn range(self) -> Range<u64> {
        self.start..self.start + u64::from(self.length)
    }
}

impl Stream {
    /// An end that is ready to write, read and hear.
    pub fn new(config: TransportConfig, seed: Seed, now: Instant) -> Self {
        let config = config.clamped();
        let bytes = Bytes {
            send: SendBuffer::new(config.most_send),
            recv: RecvBuffer::new(config.most_receive, now),
            wants_read: true,
            wants_write: false,
        };
        Self { connection: Connection::new(config, bytes, seed, now) }
    }

    /// Takes bytes for the peer: as many as there is room for, none when there is no room. [`Event::Writable`] tells
    /// when there is.
    ///
    /// # Errors
    /// Why it is of no use any more, or [`TransportError::Finished`].
    pub fn write(&mut self, bytes: &[u8], now: Instant) -> Result<usize, TransportError> {
        self.connection.pass(now);
        self.usable()?;
        let window = self.connection.window();
        let body = &mut self.connection.body;
        if body.send.is_finished() {
            return Err(TransportError::Finished);
        }
        let taken = bytes.len().min(body.send.room(window));
        body.send.write(&bytes[..taken]);
        body.wants_write = taken < bytes.len();
        self.connection.touch();
        self.connection.settle();
        Ok(taken)
    }

    /// Whether a write would take something. If not, [`Event::Writable`] will tell.
    pub fn has_room(&mut self) -> bool {
        let window = self.connection.window();
        let body = &mut self.connection.body;
        let has_room = body.send.room(window) > 0;
        body.wants_write |= !has_room;
        has_room
    }

    /// Says that nothing follows. Saying it twice changes nothing.
    ///
    /// # Errors
    /// Why it is of no use any more.
    pub fn finish(&mut self, now: Instant) -> Result<(), TransportError> {
        self.connection.pass(now);
        self.usable()?;
        self.connection.body.send.finish();
        self.connection.settle();
        Ok(())
    }

    fn usable(&self) -> Result<(), TransportError> {
        self.connection.error().map_or(Ok(()), Err)
    }

    /// Whether the peer has acknowledged everything that was written, and the end if that was said.
    pub fn is_delivered(&self) -> bool {
        let send = &self.connection.body.send;
        if send.is_finished() { send.is_known() } else { send.is_empty() }
    }

    /// Whether both ends have said everything, and have it: neither is needed any more, but for a last ack. An end that lets
    /// go before that cuts the other one off, though nothing but the peer's end may be missing.
    pub fn is_done(&self) -> bool {
        self.connection.body.is_done()
    }

    /// Reads into `out`.
    ///
    /// # Errors
    /// Why nothing more will come. What came before is read first.
    pub fn read(&mut self, out: &mut [u8], now: Instant) -> Result<Read, TransportError> {
        let (first, second) = self.readable();
        let head = first.len().min(out.len());
        out[..head].copy_from_slice(&first[..head]);
        let tail = second.len().min(out.len() - head);
        out[head..head + tail].copy_from_slice(&second[..tail]);
        let is_there = !first.is_empty();
        if is_there {
            self.consume(head + tail, now);
            return Ok(Read::Bytes(head + tail));
        }
        self.connection.pass(now);
        if self.connection.body.recv.is_read() && self.connection.error() != Some(TransportError::Closed) {
            return Ok(Read::End);
        }
        self.usable()?;
        self.connection.body.wants_read = true;
        Ok(Read::Nothing)
    }

    /// What can be read, where it lies: the second part follows the first. Nothing after [`close`](Self::close).
    pub fn readable(&self) -> (&[u8], &[u8]) {
        self.connection.body.recv.readable()
    }

    /// So many bytes of what is readable were read.
    pub fn consume(&mut self, count: usize, now: Instant) {
        let now = self.connection.pass(now);
        let rtt = self.connection.rtt();
        self.connection.body.recv.consume(count, rtt, now);
        self.connection.touch();
    }

    /// A datagram has come from the peer, or from somebody else.
    pub fn handle_datagram(&mut self, bytes: &[u8], now: Instant) {
        self.connection.handle_datagram(bytes, now);
    }

    /// Datagrams go another way from now on, ours or the peer's: what was known of the old one is forgotten, and
    /// what was on its way is sent again. No byte is lost by that, and none comes twice.
    pub fn handle_path_changed(&mut self, now: Instant) {
        self.connection.handle_path_changed(now);
    }

    /// Cuts the stream and tells the peer why. Nothing can be read or written after that.
    pub fn reset(&mut self, reason: ResetReason, now: Instant) {
        self.connection.reset(reason, now);
    }

    /// Lets it go. Where both ends have said everything, only the farewell remains; else this is a
    /// [`reset`](Self::reset).
    pub fn close(&mut self, now: Instant) {
        self.connection.reset(ResetReason::Dropped, now);
    }

    /// Writes the next datagram into `out` and answers its length; `None` when nothing is to be sent now. `out` has
    /// room for [`TransportConfig::datagram`] bytes, or the datagram is as long as `out`; with less than 128, there is
    /// none. Several calls into one long buffer make a batch: all but the last of a burst are equally long.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        self.connection.poll_transmit(out)
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.connection.poll_event()
    }

    /// When to call [`Machine::handle_timeout`]. True after [`poll_transmit`](Self::poll_transmit) has
    /// said `None`.
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

impl Machine for Stream {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.connection.poll_output()
    }
}

impl Body for Bytes {
    type Piece = Piece;

    fn check(&self, frame: &Frame<'_>) -> Result<(), Refusal> {
        match *frame {
            Frame::Data { offset, bytes, is_last } => {
                self.recv.check(&(offset..offset + bytes.len() as u64), is_last)
            }
            _ => Err(Refusal::Contradiction),
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>) {
        if let Frame::Data { offset, bytes, is_last } = *frame {
            self.recv.on_piece(offset, bytes, is_last);
        }
    }

    fn window(&mut self) -> &mut Window {
        &mut self.recv.window
    }

    fn on_window(&mut self, limit: u64) {
        self.send.on_window(limit);
    }

    fn blocked(&self) -> Option<u64> {
        self.send.blocked()
    }

    fn has_piece(&self) -> bool {
        self.send.has_piece()
    }

    fn write_piece(&mut self, writer: &mut Writer<'_>) -> Option<Piece> {
        let overhead = Writer::data_overhead(self.send.next_offset());
        let room = writer.left().checked_sub(overhead).filter(|room| *room > 0)?;
        let (piece, is_last) = self.send.take_piece(room)?;
        // A piece is never longer than what a length of 16 bits can say.
        let length = (piece.end - piece.start) as u16;
        self.send.copy(piece.clone(), writer.data(piece.start, length, is_last));
        Some(Piece { start: piece.start, length, is_last })
    }

    fn on_fate(&mut self, fate: Fate, piece: Piece) {
        match fate {
            Fate::Arrived => self.send.on_arrived(piece.range(), piece.is_last),
            Fate::Lost => self.send.on_lost(piece.range(), piece.is_last),
        }
    }

    fn is_done(&self) -> bool {
        self.send.is_known() && self.recv.is_whole()
    }

    fn event(&mut self, window: usize) -> Option<Event> {
        if self.wants_read && self.recv.is_readable() {
            self.wants_read = false;
            return Some(Event::Readable);
        }
        if self.wants_write && self.send.room(window) >= WORTH_WAKING {
            self.wants_write = false;
            return Some(Event::Writable);
        }
        None
    }

    fn clear(&mut self) {
        self.send = SendBuffer::new(0);
        self.recv.clear();
    }

    fn shrink(&mut self) {
        self.send.shrink();
        self.recv.shrink();
    }

    fn heap(&self) -> usize {
        self.send.heap() + self.recv.heap()
    }
}

#[cfg(feature = "sim")]
#[path = "stream_subject.rs"]
pub(super) mod subject;

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
