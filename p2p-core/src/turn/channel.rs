//! ChannelData (four bytes and the payload; RFC 8656, section 12.4), and the packets that go to a server.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// The bytes before the payload.
pub const CHANNEL_HEADER: usize = 4;

/// The number of a channel, which stands for a peer: 0x4000 … 0x4fff.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The first channel number.
    pub const FIRST: Self = Self(0x4000);
    /// The last channel number; those above it, up to 0x7fff, are reserved.
    pub const LAST: Self = Self(0x4fff);

    /// Returns the channel number, or `None` when no channel can have it.
    pub const fn new(number: u16) -> Option<Self> {
        if number >= Self::FIRST.0 && number <= Self::LAST.0 { Some(Self(number)) } else { None }
    }

    /// Returns the number itself.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the number after this one, and the first after the last.
    pub(super) const fn next(self) -> Self {
        if self.0 == Self::LAST.0 { Self::FIRST } else { Self(self.0 + 1) }
    }

    /// Returns the header before `length` bytes of payload, or `None` above 65,535.
    pub fn header(self, length: usize) -> Option<[u8; CHANNEL_HEADER]> {
        let length = u16::try_from(length).ok()?;
        let ([a, b], [c, d]) = (self.0.to_be_bytes(), length.to_be_bytes());
        Some([a, b, c, d])
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// A reason why bytes are not ChannelData.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// There are fewer than four bytes, or no channel can have the number.
    #[error("not ChannelData")]
    NotChannelData,
    /// The length in the header reaches past the end.
    #[error("ChannelData of {actual} bytes claims to have {claimed}")]
    Short {
        /// The length that the header claims, in bytes.
        claimed: usize,
        /// The number of bytes that came.
        actual: usize,
    },
}

/// Reads a datagram. Bytes behind the payload are filling and ignored (RFC 8656, section 12.5).
///
/// # Errors
/// [`ChannelError`] when it is no ChannelData, or not whole.
pub fn split(datagram: &[u8]) -> Result<(ChannelNumber, &[u8]), ChannelError> {
    let ([a, b, c, d], rest) =
        datagram.split_first_chunk::<CHANNEL_HEADER>().ok_or(ChannelError::NotChannelData)?;
    let number = ChannelNumber::new(u16::from_be_bytes([*a, *b])).ok_or(ChannelError::NotChannelData)?;
    let claimed = usize::from(u16::from_be_bytes([*c, *d]));
    let payload = rest.get(..claimed).ok_or(ChannelError::Short { claimed, actual: rest.len() })?;
    Ok((number, payload))
}

/// A packet to send to the server: one datagram, or a piece of the stream.
///
/// The payload is never copied on its way in. A sender that can write several pieces at once takes
/// [`parts`](Self::parts), and one that cannot takes [`into_bytes`](Self::into_bytes).
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    head: Option<[u8; CHANNEL_HEADER]>,
    body: Bytes,
    filling: usize,
}

impl Packet {
    /// Makes a packet of a whole message.
    pub(super) fn message(bytes: Vec<u8>) -> Self {
        Self { head: None, body: bytes.into(), filling: 0 }
    }

    /// Makes ChannelData, filled up to four bytes on a stream only. Returns `None` above 65,535 bytes.
    pub(super) fn channel_data(number: ChannelNumber, body: Bytes, is_stream: bool) -> Option<Self> {
        let head = number.header(body.len())?;
        let filling = if is_stream { body.len().next_multiple_of(4) - body.len() } else { 0 };
        Some(Self { head: Some(head), body, filling })
    }

    /// Returns the pieces in order, each of which may be empty.
    pub fn parts(&self) -> [&[u8]; 3] {
        let head = self.head.as_ref().map_or(&[][..], |head| head);
        [head, &self.body, &[0; 3][..self.filling]]
    }

    /// Returns the number of all its bytes.
    pub fn len(&self) -> usize {
        self.head.map_or(0, |head| head.len()) + self.body.len() + self.filling
    }

    /// Returns false, because even an empty payload has a header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the packet in one piece, which is copied when there are several.
    pub fn into_bytes(self) -> Bytes {
        if self.head.is_none() && self.filling == 0 {
            return self.body;
        }
        let mut out = BytesMut::with_capacity(self.len());
        self.parts().iter().for_each(|part| out.put_slice(part));
        out.freeze()
    }
}

/// Shows the kind, the size and a checksum, as payload belongs into no log.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.head.is_some() { "ChannelData" } else { "STUN" };
        write!(f, "{kind} of {} bytes {:016x}", self.len(), crc_of(self.parts()))
    }
}

/// Returns a checksum that tells packets apart in a log without showing them.
fn crc_of(parts: [&[u8]; 3]) -> u64 {
    const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
    let mut digest = CRC.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}
