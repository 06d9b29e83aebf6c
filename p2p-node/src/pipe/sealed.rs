//! A connection whose bytes travel in encrypted records.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use p2p_core::proof::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::control::{ControlRecord, is_control};
use super::error::FirstError;
use super::liveness::{Between, Duty, Liveness, Openness};
use super::record::{MOST_PLAIN, OVERHEAD, PLAIN_AT, RecordKey, record_len};
use super::transport::Transport;

/// The least and the most room for what arrived and was not read yet. A quiet pipe keeps the least.
const LEAST_ROOM: usize = 4 * 1024;
const MOST_ROOM: usize = 2 * (MOST_PLAIN + OVERHEAD);
/// The most bytes that one write seals: enough to keep the kernel busy, and few enough to be bounded.
const MOST_SEALED: usize = 2 * MOST_PLAIN;

/// The half of a pipe that a task uses.
#[derive(Clone, Copy)]
enum Side {
    Read,
    Write,
}

/// The last task of each half. A transport remembers one waker for writing; this one stands for both.
#[derive(Default)]
struct Waiting(Mutex<[Option<Waker>; 2]>);

impl Waiting {
    fn add(&self, side: Side, waker: &Waker) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut tasks[side as usize] {
            Some(task) => task.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tasks.into_iter().flatten().for_each(Waker::wake);
    }
}

/// The encrypted form of a pipe.
pub(super) struct Sealed<S> {
    transport: S,
    send: RecordKey,
    /// The records on their way out, from `sent`.
    out: Vec<u8>,
    sent: usize,
    /// The tasks that want to know when `out` can go on. A user who writes a question and then waits for the answer must not
    /// have to flush, so whoever reads drains it too, in whatever task.
    waiting: Arc<Waiting>,
    /// Wakes all of them.
    room: Waker,
    /// True when the last record is in `out` or gone.
    closing: bool,
    receive: RecordKey,
    /// The bytes that arrived: opened plaintext in `plain`, then sealed bytes up to `filled`.
    input: Vec<u8>,
    plain: Range<usize>,
    /// The place at which the next record begins.
    next: usize,
    filled: usize,
    /// True when the peer said that nothing follows.
    ended: bool,
    /// True when we said that we have read that; see [`Transport::wants_farewell`].
    farewell: bool,
    liveness: Liveness,
    /// The peer's last question that was not answered yet.
    question: Option<u32>,
    /// The error the pipe died of, which both halves are told.
    broken: Option<FirstError>,
}

impl<S: Transport> Sealed<S> {
    pub(super) fn new(transport: S, session: &Session, ask_after: Option<Duration>) -> Result<Self> {
        let waiting = Arc::new(Waiting::default());
        let liveness = Liveness::new(transport.between(), ask_after, Instant::now());
        Ok(Self {
            transport,
            send: RecordKey::new(session.cipher, &session.send_key)?,
            out: Vec::new(),
            sent: 0,
            waiting: Arc::clone(&waiting),
            room: Waker::from(waiting),
            closing: false,
            receive: RecordKey::new(session.cipher, &session.receive_key)?,
            input: Vec::new(),
            plain: 0..0,
            next: 0,
            filled: 0,
            ended: false,
            farewell: false,
            liveness,
            question: None,
            broken: None,
        })
    }

    pub(super) fn transport(&self) -> &S {
        &self.transport
    }

    /// Returns the size of the buffers, in bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.input.capacity() + self.out.capacity()
    }

    /// Writes out what is sealed. The task of `cx` is woken when there is room, and so is the other side's last one.
    fn poll_drain(&mut self, side: Side, cx: &Context<'_>) -> Poll<Result<()>> {
        if self.sent < self.out.len() {
            self.waiting.add(side, cx.waker());
        }
        ready!(self.poll_send())?;
        self.poll_below(side, cx)
    }

    /// Writes out what is sealed, and then what the peer has asked for. Wakes both sides when there is room.
    fn poll_send(&mut self) -> Poll<Result<()>> {
        if let Some(broken) = &self.broken {
            return Poll::Ready(Err(broken.told()));
        }
        loop {
            while self.sent < self.out.len() {
                let mut both = Context::from_waker(&self.room);
                let out = &self.out[self.sent..];
                match ready!(Pin::new(&mut self.transport).poll_write(&mut both, out)) {
                    Ok(0) => return Poll::Ready(Err(self.fail(ErrorKind::WriteZero.into()))),
                    Ok(written) => self.sent += written,
                    Err(error) => return Poll::Ready(Err(self.fail(error))),
                }
            }
            self.out.clear();
            self.sent = 0;
            match self.question.take() {
                Some(number) if !self.closing => self.say(ControlRecord::Pong(number))?,
                _ => return Poll::Ready(Ok(())),
            }
        }
    }

    fn say(&mut self, control: ControlRecord) -> Result<()> {
        self.liveness.on_said(Instant::now());
        control.seal(&mut self.send, &mut self.out)
    }

    /// Remembers the first error for the other half, and returns it.
    fn fail(&mut self, error: Error) -> Error {
        self.broken.get_or_insert_with(|| FirstError::new(&error)).told()
    }

    /// Flushes a transport that may hold back what it has taken, as TLS to a TURN server does.
    fn poll_below(&mut self, side: Side, cx: &Context<'_>) -> Poll<Result<()>> {
        let flush = |this: &mut Self| {
            let mut both = Context::from_waker(&this.room);
            Pin::new(&mut this.transport).poll_flush(&mut both)
        };
        if let Poll::Ready(flushed) = flush(self) {
            return Poll::Ready(flushed);
        }
        // Whoever is to be woken must be known before the transport is asked.
        self.waiting.add(side, cx.waker());
        flush(self)
    }

    /// Says that the peer's last word was read, when ours is said.
    fn say_farewell(&mut self) -> Result<()> {
        if self.closing && self.ended && !self.farewell && self.transport.wants_farewell() {
            self.farewell = true;
            self.send.seal(b"", &mut self.out)?;
        }
        Ok(())
    }

    /// Waits until the peer has read everything, as far as this process is needed for that. Both directions have ended.
    pub(super) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_drain(Side::Write, cx))?;
        if self.farewell {
            ready!(self.poll_record(cx))?;
            if !self.plain.is_empty() {
                let text = "the peer said something after its last word";
                return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, text)));
            }
            self.transport.on_farewell();
            self.farewell = false;
        }
        self.transport.poll_delivered(cx)
    }

    /// Opens the next record with data in it, reading as much as it takes. Leaves `plain` empty only at the end.
    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_data(cx).map_err(|error| self.fail(error))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let wanted = match record_len(&self.input[self.next..self.filled])? {
                Some(length) if self.filled - self.next >= length => {
                    let record = &mut self.input[self.next..self.next + length];
                    let (is_control, plain) = (is_control(record), self.receive.open(record)?);
                    let start = self.next + PLAIN_AT;
                    self.next += length;
                    self.liveness.on_heard(Instant::now());
                    if is_control {
                        self.on_control(start..start + plain);
                        continue;
                    }
                    self.plain = start..start + plain;
                    self.ended = plain == 0;
                    return Poll::Ready(Ok(()));
                }
                Some(length) => length,
                None => OVERHEAD,
            };
            self.make_room(wanted);
            let mut room = ReadBuf::new(&mut self.input[self.filled..]);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut room))?;
            let arrived = room.filled().len();
            if arrived == 0 {
                let cut = "the connection was cut: the peer did not close the pipe";
                return Poll::Ready(Err(Error::new(ErrorKind::UnexpectedEof, cut)));
            }
            self.filled += arrived;
        }
    }

    fn on_control(&mut self, plain: Range<usize>) {
        match ControlRecord::parse(&self.input[plain]) {
            // Whoever asks again before it was answered is answered once.
            Some(ControlRecord::Ping(number)) => self.question = Some(number),
            Some(ControlRecord::Pong(number)) => self.liveness.on_answer(number),
            None => {}
        }
    }

    /// Does what the peer's last word asks for, if the record was that.
    fn on_record(&mut self) -> Result<()> {
        if self.ended {
            self.transport.on_peer_ended();
            self.say_farewell()?;
        }
        Ok(())
    }

    /// Reads what has arrived though nobody may want it yet, answers the peer, and asks it for a sign of life when it is
    /// time. Returns the latest time to come again, or `None` when the pipe is dead.
    pub(super) fn tend(&mut self) -> Option<Instant> {
        let room = self.room.clone();
        let mut cx = Context::from_waker(&room);
        if self.plain.is_empty() && !self.ended {
            match self.poll_record(&mut cx) {
                Poll::Ready(arrived) => {
                    // Somebody may be waiting for it, or for the reason why there is nothing more.
                    if let Err(error) = arrived.and_then(|()| self.on_record()) {
                        self.fail(error);
                    }
                    room.wake_by_ref();
                }
                Poll::Pending => {}
            }
        }
        // What does not go now goes when there is room: both sides are woken then.
        let _ = self.poll_send();
        loop {
            if self.broken.is_some() {
                room.wake();
                return None;
            }
            let openness = Openness {
                is_closing: self.closing,
                is_ended: self.ended,
                has_unread: !self.plain.is_empty(),
            };
            match self.liveness.duty(openness, Instant::now()) {
                Duty::Rest(until) => return Some(until),
                Duty::Ask(number) => self.give(ControlRecord::Ping(number)),
                Duty::Beat => self.give(ControlRecord::Pong(0)),
                Duty::Dead(silence) => {
                    let text = format!(
                        "the connection is dead: the peer has given no sign of life for {} s",
                        silence.as_secs()
                    );
                    self.fail(Error::new(ErrorKind::TimedOut, text));
                }
            }
        }
    }

    fn give(&mut self, control: ControlRecord) {
        if let Err(error) = self.say(control) {
            self.fail(error);
        }
        // What does not go now goes when there is room: both sides are woken then.
        if let Poll::Ready(Ok(())) = self.poll_send() {
            let room = self.room.clone();
            let _ = Pin::new(&mut self.transport).poll_flush(&mut Context::from_waker(&room));
        }
    }

    /// Tells whether this pipe said its last word properly, and the peer has not. As long as the peer may still say
    /// something, an end of the connection would be answered with a reset, and harm what is on its way.
    pub(super) fn wants_to_linger(&self) -> bool {
        let is_said = self.closing && self.out.is_empty();
        is_said && !self.ended && self.broken.is_none() && self.transport.between() == Between::Network
    }

    /// Waits until the peer ends, or says something that nobody wants any more.
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_record(cx).map(drop)
    }

    /// Moves what is left to the front and makes room for a record of `wanted` bytes. It makes more when the room at hand
    /// was filled to the brim, as more is coming then.
    fn make_room(&mut self, wanted: usize) {
        let brim = self.filled == self.input.len();
        self.input.copy_within(self.next..self.filled, 0);
        self.filled -= self.next;
        self.next = 0;
        self.plain = 0..0;
        let room = if brim { self.input.len() * 2 } else { self.input.len() };
        let room = room.clamp(LEAST_ROOM, MOST_ROOM).max(wanted);
        if room > self.input.len() {
            self.input.resize(room, 0);
        }
    }
}

impl<S: Transport> AsyncRead for Sealed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        // An error will meet the next write; what the peer sent before it can still be read.
        let _ = self.poll_drain(Side::Read, cx);
        // What is written while this task waits may need it to be sent on.
        self.waiting.add(Side::Read, cx.waker());
        if self.plain.is_empty() && !self.ended {
            match self.poll_record(cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    // A question that was read on the way is answered.
                    let _ = self.poll_drain(Side::Read, cx);
                    return match &self.broken {
                        Some(broken) => Poll::Ready(Err(broken.told())),
                        None => Poll::Pending,
                    };
                }
            }
            self.on_record()?;
            // What does not go now goes with the next call, or when there is room.
            let _ = self.poll_drain(Side::Read, cx);
        }
        let some = self.plain.len().min(buf.remaining());
        let start = self.plain.start;
        buf.put_slice(&self.input[start..start + some]);
        self.plain.start += some;
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport> AsyncWrite for Sealed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_drain(Side::Write, cx))?;
        // What is sealed is as good as sent: seal nothing before there is room for some of it below.
        self.waiting.add(Side::Write, cx.waker());
        let this = &mut *self;
        let mut both = Context::from_waker(&this.room);
        if let Err(error) = ready!(this.transport.poll_write_ready(&mut both)) {
            return Poll::Ready(Err(this.fail(error)));
        }
        let some = buf.len().min(MOST_SEALED);
        for part in buf[..some].chunks(MOST_PLAIN) {
            this.send.seal(part, &mut this.out)?;
        }
        this.liveness.on_data(Instant::now());
        // What is not taken now goes out with the next write, or with a flush.
        match this.poll_drain(Side::Write, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(some)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_drain(Side::Write, cx))?;
        self.waiting.add(Side::Write, cx.waker());
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_drain(Side::Write, cx))?;
        let this = &mut *self;
        if !std::mem::replace(&mut this.closing, true) {
            this.send.seal(b"", &mut this.out)?;
            this.liveness.on_data(Instant::now());
            this.say_farewell()?;
        }
        ready!(this.poll_drain(Side::Write, cx))?;
        this.waiting.add(Side::Write, cx.waker());
        this.transport.poll_finish(cx)
    }
}
