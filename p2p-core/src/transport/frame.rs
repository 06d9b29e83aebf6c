//! What is written into the datagrams.
//!
//! ```text
//! datagram  0xD1 · token: 8 · number: varint · back: varint · frames until the end
//!
//! 1  data     offset: varint · length: 2 · bytes
//! 2  last     the same, and nothing follows
//! 3  ack      largest: varint · delay: varint, in 8 µs · more: varint · length - 1: varint
//!             · `more` times (gap - 1: varint · length - 1: varint)
//! 4  window   limit: varint          bytes (or places of messages) that may be sent in all
//! 5  blocked  limit: varint          that is not enough
//! 6  ping
//! 7  reset    reason: 1
//! 8  message  id: varint · total: varint · at: varint · length: 2 · bytes
//! 9  end      count: varint          so many messages there were
//! ```
//!
//! Numbers are big endian; varints are those of RFC 9000, section 16. 0xD1 is neither STUN nor ChannelData
//! (RFC 7983 leaves 192 to 255 free), and the `1` is the version.
//!
//! **Token.** Each end draws 64 bits and tells the other by sealed signal; a datagram carries that of its receiver. Who
//! is not on the path, a neighbour of a permitted peer say, would have to guess it. Who is on the path, the TURN server
//! above all, can read it, and do to the stream what a router can do to TCP: cut it, or spoil bytes. That is why the
//! proof and the records of a pipe run inside the stream, as they do over TCP, and why frames are not sealed
//! once more.
//!
//! **Number.** Rises with every datagram and is never used again, so that an ack says which of several copies arrived.
//! `number - back` is the first one whose fate still matters: the receiver forgets what is below.

use serde::{Deserialize, Serialize};

use crate::Seed;

/// Protocol and version.
const MAGIC: u8 = 0xd1;
/// The largest number that a varint can say.
pub(super) const MOST_NUMBER: u64 = (1 << 62) - 1;
/// Ranges in one ack at most.
pub(super) const MOST_RANGES: usize = 32;
/// Frames in one datagram at most; ours have five.
const MOST_FRAMES: usize = 16;
/// One unit of the delay in an ack, as a power of two of microseconds.
const DELAY_SHIFT: u32 = 3;

/// What makes a datagram belong to one end of one stream. Drawn by the receiver, told to the sender by a
/// sealed signal.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub [u8; 8]);

impl Token {
    /// A new one.
    pub fn new(seed: &mut Seed) -> Self {
        Self(seed.array())
    }
}

/// Never shows it: who knows it can cut the stream.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum FrameError {
    /// Not ours, or of another version.
    #[error("not a datagram of this protocol and version")]
    Foreign,
    /// It is for somebody else, or from somebody who guesses.
    #[error("the token is wrong")]
    Token,
    /// It ends in the middle of something.
    #[error("the datagram is cut short")]
    Short,
    /// A frame of a number that nobody has defined.
    #[error("an unknown frame")]
    Unknown,
    /// A frame that says what cannot be.
    #[error("a frame that cannot be")]
    Absurd,
    /// More frames than anybody needs.
    #[error("too many frames")]
    TooMany,
}

/// A datagram whose frames are known to be whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) number: u64,
    pub(super) floor: u64,
    frames: &'a [u8],
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Data { offset: u64, bytes: &'a [u8], is_last: bool },
    Ack(Ack<'a>),
    Window { limit: u64 },
    Blocked { limit: u64 },
    Ping,
    Reset { reason: u8 },
    Message { id: u64, total: u64, at: u64, bytes: &'a [u8] },
    End { count: u64 },
}

impl Frame<'_> {
    /// Whether its sender wants to know that it arrived.
    pub(super) fn is_eliciting(&self) -> bool {
        !matches!(self, Self::Ack(_))
    }
}

/// The numbers that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack<'a> {
    pub(super) largest: u64,
    /// Microseconds from the arrival of the largest to this ack.
    pub(super) delay: u64,
    /// The lowest of the first range, then the gaps and lengths.
    lowest: u64,
    rest: &'a [u8],
}

impl Ack<'_> {
    /// The ranges, highest first, both ends included. Those that cannot be end the iteration.
    pub(super) fn ranges(self) -> impl Iterator<Item = (u64, u64)> {
        let mut rest = Reader(self.rest);
        let mut next = Some((self.lowest, self.largest));
        std::iter::from_fn(move || {
            let now = next.take()?;
            if !rest.0.is_empty() {
                next = following(now.0, &mut rest).ok();
            }
            Some(now)
        })
    }
}

/// The range below `lowest` that comes next in an ack.
fn following(lowest: u64, rest: &mut Reader<'_>) -> Result<(u64, u64), FrameError> {
    let (gap, length) = (rest.varint()?, rest.varint()?);
    // One number is missing at least, or it would be one range.
    let highest = lowest.checked_sub(gap + 2).ok_or(FrameError::Absurd)?;
    Ok((highest.checked_sub(length).ok_or(FrameError::Absurd)?, highest))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(FrameError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, FrameError> {
        let first = self.byte()?;
        let more = self.take((1 << (first >> 6)) - 1)?;
        Ok(more.iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)))
    }

    fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([length[0], length[1]])))
    }

    fn frame(&mut self) -> Result<Frame<'a>, FrameError> {
        let kind = self.byte()?;
        Ok(match kind {
            1 | 2 => {
                let (offset, bytes) = (self.varint()?, self.bytes()?);
                if offset + bytes.len() as u64 > MOST_NUMBER {
                    return Err(FrameError::Absurd);
                }
                Frame::Data { offset, bytes, is_last: kind == 2 }
            }
            3 => {
                let (largest, delay, more) = (self.varint()?, self.varint()?, self.varint()?);
                let lowest = largest.checked_sub(self.varint()?).ok_or(FrameError::Absurd)?;
                if more >= MOST_RANGES as u64 {
                    return Err(FrameError::Absurd);
                }
                let (before, mut end) = (self.0, lowest);
                for _ in 0..more {
                    end = following(end, self)?.0;
                }
                let rest = &before[..before.len() - self.0.len()];
                Frame::Ack(Ack { largest, delay: delay << DELAY_SHIFT, lowest, rest })
            }
            4 => Frame::Window { limit: self.varint()? },
            5 => Frame::Blocked { limit: self.varint()? },
            6 => Frame::Ping,
            7 => Frame::Reset { reason: self.byte()? },
            8 => {
                let (id, total, at) = (self.varint()?, self.varint()?, self.varint()?);
                let bytes = self.bytes()?;
                if at + bytes.len() as u64 > total || (bytes.is_empty() && total > 0) {
                    return Err(FrameError::Absurd);
                }
                Frame::Message { id, total, at, bytes }
            }
            9 => Frame::End { count: self.varint()? },
            _ => return Err(FrameError::Unknown),
        })
    }
}

impl<'a> Packet<'a> {
    /// Reads a datagram and all its frames.
    pub(super) fn parse(bytes: &'a [u8], token: Token) -> Result<Self, FrameError> {
        let mut reader = Reader(bytes);
        if reader.byte()? != MAGIC {
            return Err(FrameError::Foreign);
        }
        if reader.take(8)? != token.0 {
            return Err(FrameError::Token);
        }
        let (number, back) = (reader.varint()?, reader.varint()?);
        let floor = number.checked_sub(back).ok_or(FrameError::Absurd)?;
        let packet = Self { number, floor, frames: reader.0 };
        let mut count = 0;
        while !reader.0.is_empty() {
            reader.frame()?;
            count += 1;
            if count > MOST_FRAMES {
                return Err(FrameError::TooMany);
            }
        }
        Ok(packet)
    }

    pub(super) fn frames(self) -> impl Iterator<Item = Frame<'a>> {
        let mut reader = Reader(self.frames);
        // Every frame was read once before; an empty rest is the only end.
        std::iter::from_fn(move || reader.frame().ok())
    }
}

/// How many bytes a varint takes.
pub(super) fn varint_len(number: u64) -> usize {
    match number {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Writes a datagram into a caller's buffer. Whoever adds a frame looks at [`left`](Self::left) first.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut [u8], token: Token, number: u64, floor: u64) -> Self {
        let mut writer = Self { out, at: 0 };
        writer.put(&[MAGIC]);
        writer.put(&token.0);
        writer.varint(number);
        writer.varint(number - floor);
        writer
    }

    pub(super) fn left(&self) -> usize {
        self.out.len() - self.at
    }

    pub(super) fn written(&self) -> usize {
        self.at
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn varint(&mut self, number: u64) {
        let bytes = number.to_be_bytes();
        let length = varint_len(number);
        let start = self.at;
        self.put(&bytes[8 - length..]);
        self.out[start] |= (length.trailing_zeros() as u8) << 6;
    }

    /// Bytes that a data frame needs besides its data.
    pub(super) fn data_overhead(offset: u64) -> usize {
        1 + varint_len(offset) + 2
    }

    /// A data frame of `length` bytes; answers where they go.
    pub(super) fn data(&mut self, offset: u64, length: u16, is_last: bool) -> &mut [u8] {
        self.put(&[if is_last { 2 } else { 1 }]);
        self.varint(offset);
        self.body(length)
    }

    /// Bytes that a message frame needs besides its data.
    pub(super) fn message_overhead(id: u64, total: u64, at: u64) -> usize {
        1 + varint_len(id) + varint_len(total) + varint_len(at) + 2
    }

    /// A piece of a message; answers where its bytes go.
    pub(super) fn message(&mut self, id: u64, total: u64, at: u64, length: u16) -> &mut [u8] {
        self.put(&[8]);
        self.varint(id);
        self.varint(total);
        self.varint(at);
        self.body(length)
    }

    fn body(&mut self, length: u16) -> &mut [u8] {
        self.put(&length.to_be_bytes());
        let start = self.at;
        self.at += usize::from(length);
        &mut self.out[start..self.at]
    }

    /// An ack of as many of `ranges` (half-open, highest first) as there is room for. The first is there.
    pub(super) fn ack(
        &mut self,
        ranges: impl Iterator<Item = std::ops::Range<u64>> + Clone,
        delay: u64,
        keep_free: usize,
    ) {
        let mut all = ranges.clone();
        let Some(first) = all.next() else { return };
        let largest = first.end - 1;
        let delay = (delay >> DELAY_SHIFT).min(MOST_NUMBER);
        let mut needed = 1 + varint_len(largest) + varint_len(delay) + 1 + varint_len(largest - first.start);
        let room = self.left().saturating_sub(keep_free);
        let (mut more, mut lowest) = (0, first.start);
        for range in all.take(MOST_RANGES - 1) {
            needed += varint_len(lowest - range.end - 1) + varint_len(range.end - 1 - range.start);
            if needed > room {
                break;
            }
            more += 1;
            lowest = range.start;
        }
        self.put(&[3]);
        self.varint(largest);
        self.varint(delay);
        self.varint(more as u64);
        self.varint(largest - first.start);
        let mut lowest = first.start;
        for range in ranges.skip(1).take(more) {
            self.varint(lowest - range.end - 1);
            self.varint(range.end - 1 - range.start);
            lowest = range.start;
        }
    }

    pub(super) fn window(&mut self, limit: u64) {
        self.put(&[4]);
        self.varint(limit);
    }

    pub(super) fn blocked(&mut self, limit: u64) {
        self.put(&[5]);
        self.varint(limit);
    }

    pub(super) fn ping(&mut self) {
        self.put(&[6]);
    }

    pub(super) fn reset(&mut self, reason: u8) {
        self.put(&[7, reason]);
    }

    pub(super) fn end(&mut self, count: u64) {
        self.put(&[9]);
        self.varint(count);
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
