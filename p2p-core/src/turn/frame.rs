//! STUN messages and ChannelData out of a stream (RFC 8656, section 12.5; RFC 8489, section 6.2.2).

use bytes::{Buf, Bytes, BytesMut};

use super::channel::{CHANNEL_HEADER, ChannelNumber};
use crate::stun::Transport;
use crate::stun::message::MAGIC_COOKIE;
use crate::stun::wire::HEADER;

/// The bytes that suffice to see that something is STUN: type, length and cookie.
const PROOF: usize = 8;

/// One frame out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A STUN message, whole and unread.
    Stun(Bytes),
    /// The payload of a channel, its filling taken off.
    Channel(ChannelNumber, Bytes),
    /// A STUN message larger than any we read, with its size in bytes, which was skipped. A peer can cause one by a
    /// large datagram, so it must not end the stream.
    Oversize(usize),
}

/// A reason why a stream is not TURN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first two bits are of neither protocol, or no channel can have the number.
    #[error("the server speaks neither STUN nor ChannelData")]
    Neither,
    /// ChannelData came, and no channel was asked for. `HTTP/1.1` looks like that.
    #[error("ChannelData on a connection without channels, or another protocol")]
    NoChannels,
    /// A STUN message lacks its cookie, which it always has over TCP.
    #[error("a STUN message without magic cookie in a stream")]
    NoCookie,
    /// The length of a STUN message is not a multiple of four bytes.
    #[error("a STUN message whose length is not a multiple of four")]
    Crooked,
}

/// A reader that cuts a stream into frames.
///
/// A frame that lies whole in one piece of the stream is cut out of it without copying. Another is collected, in at
/// most 64 KiB that are given back as soon as it is whole.
///
/// ```
/// use bytes::Bytes;
/// use p2p_core::turn::frame::{Frame, Framer};
/// let mut framer = Framer::default();
/// framer.allow_channels();
/// assert_eq!(framer.feed(&mut Bytes::from_static(b"\x40\0\0\x03ab"))?, None);
/// let mut rest = Bytes::from_static(b"c\0\x40");
/// let Some(Frame::Channel(number, data)) = framer.feed(&mut rest)? else { panic!() };
/// assert_eq!((number.number(), &data[..], &rest[..]), (0x4000, &b"abc"[..], &b"\x40"[..]));
/// # Ok::<(), p2p_core::turn::frame::FrameError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Framer {
    has_channels: bool,
    partial: BytesMut,
    /// The bytes of an oversize message that are still to come.
    skip: usize,
}

impl Framer {
    /// Allows ChannelData from now on; until then it is an error.
    pub fn allow_channels(&mut self) {
        self.has_channels = true;
    }

    /// Takes bytes from the front of `stream` until a frame is whole, or all of them. After each frame it must be
    /// called again with the bytes that are left. Bytes behind the last frame wanted stay in `stream` untouched.
    ///
    /// # Errors
    /// [`FrameError`] when the stream is not TURN. Nothing sensible can follow.
    pub fn feed(&mut self, stream: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        let skipped = self.skip.min(stream.len());
        stream.advance(skipped);
        self.skip -= skipped;
        if self.partial.is_empty()
            && let Some(shape) = self.shape(stream)?
            && !shape.is_oversize()
            && stream.len() >= shape.whole
        {
            return Ok(Some(shape.frame(stream.split_to(shape.whole))));
        }
        self.fill(stream, CHANNEL_HEADER);
        if self.shape(&self.partial)?.is_none() {
            self.fill(stream, PROOF);
        }
        let Some(shape) = self.shape(&self.partial)? else { return Ok(None) };
        if shape.is_oversize() {
            self.skip = shape.whole - self.partial.len();
            self.partial = BytesMut::new();
            let skipped = self.skip.min(stream.len());
            stream.advance(skipped);
            self.skip -= skipped;
            return Ok(Some(Frame::Oversize(shape.whole)));
        }
        self.fill(stream, shape.whole);
        if self.partial.len() < shape.whole {
            return Ok(None);
        }
        Ok(Some(shape.frame(std::mem::take(&mut self.partial).freeze())))
    }

    /// Returns the number of bytes collected of a frame that is not whole, which is below 65,556.
    pub fn held(&self) -> usize {
        self.partial.len()
    }

    fn shape(&self, start: &[u8]) -> Result<Option<Shape>, FrameError> {
        match start.first() {
            Some(0x50..) => Err(FrameError::Neither),
            Some(0x40..) if !self.has_channels => Err(FrameError::NoChannels),
            Some(_) => Shape::of(start),
            None => Ok(None),
        }
    }

    fn fill(&mut self, stream: &mut Bytes, up_to: usize) {
        let wanted = up_to.saturating_sub(self.partial.len()).min(stream.len());
        self.partial.extend_from_slice(&stream[..wanted]);
        stream.advance(wanted);
    }
}

/// The shape of a frame, as its first bytes tell it.
#[derive(Clone, Copy)]
struct Shape {
    channel: Option<ChannelNumber>,
    /// The bytes of the payload, or of the message.
    used: usize,
    /// The bytes with filling.
    whole: usize,
}

impl Shape {
    /// Returns the shape, or `None` while too few bytes are there to tell.
    fn of(start: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(head) = start.first_chunk::<CHANNEL_HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if let Some(channel) = ChannelNumber::new(u16::from_be_bytes([head[0], head[1]])) {
            let whole = CHANNEL_HEADER + length.next_multiple_of(4);
            return Ok(Some(Self { channel: Some(channel), used: length, whole }));
        }
        if !length.is_multiple_of(4) {
            return Err(FrameError::Crooked);
        }
        let cookie = &start[CHANNEL_HEADER..start.len().min(PROOF)];
        if !MAGIC_COOKIE.starts_with(cookie) {
            return Err(FrameError::NoCookie);
        }
        let whole = HEADER + length;
        Ok((start.len() >= PROOF).then_some(Self { channel: None, used: whole, whole }))
    }

    fn is_oversize(self) -> bool {
        self.channel.is_none() && self.whole > Transport::Tcp.most_bytes()
    }

    fn frame(self, whole: Bytes) -> Frame {
        match self.channel {
            Some(number) => Frame::Channel(number, whole.slice(CHANNEL_HEADER..CHANNEL_HEADER + self.used)),
            None => Frame::Stun(whole),
        }
    }
}
