//! STUN messages out of a TCP stream (RFC 8489, section 6.2.2).

use super::Transport;
use super::message::MAGIC_COOKIE;
use super::wire::{HEADER, Header, WireError};

/// A reader that cuts a stream into messages.
///
/// Bytes may come one at a time, or many messages at once. Work and memory are bounded by the largest message. It
/// refuses bytes that cannot be STUN at the first one that shows it, so a stranger cannot make us wait for the rest.
/// It has no clock: the caller that reads the stream bounds the time.
///
/// ```
/// use p2p_core::{Seed, stun::{Message, Transport, frame::Framer}};
/// let bytes = Message::binding(&mut Seed::from_u64(1)).encode(Transport::Tcp)?;
/// let mut framer = Framer::default();
/// let mut rest = &bytes[..];
/// assert_eq!(framer.feed(&mut &rest[..7])?, None);
/// rest = &rest[7..];
/// assert_eq!(framer.feed(&mut rest)?, Some(bytes));
/// # Ok::<(), p2p_core::stun::wire::WireError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Framer {
    partial: Vec<u8>,
}

impl Framer {
    /// Takes bytes from the front of `stream` until a message is whole, or all of them. After each message it must be
    /// called again with the bytes that are left.
    ///
    /// # Errors
    /// [`WireError`] when the stream is not STUN or a message is too large. Nothing sensible can follow.
    pub fn feed(&mut self, stream: &mut &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        self.fill(stream, HEADER);
        self.check_start()?;
        if self.partial.len() < HEADER {
            return Ok(None);
        }
        let whole = HEADER + usize::from(Header::decode(&self.partial)?.length);
        let most = Transport::Tcp.most_bytes();
        if whole > most {
            return Err(WireError::TooLarge { actual: whole, most });
        }
        self.fill(stream, whole);
        Ok((self.partial.len() == whole).then(|| std::mem::take(&mut self.partial)))
    }

    /// Tells whether a message has begun and is not whole.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    fn fill(&mut self, stream: &mut &[u8], up_to: usize) {
        let wanted = up_to.saturating_sub(self.partial.len()).min(stream.len());
        let (taken, rest) = stream.split_at(wanted);
        self.partial.extend_from_slice(taken);
        *stream = rest;
    }

    /// Checks the first bytes of a message. RFC 3489 knows no plain TCP, so over TCP there is always a cookie.
    fn check_start(&self) -> Result<(), WireError> {
        if self.partial.first().is_some_and(|first| first >> 6 != 0) {
            return Err(WireError::NotStun("the first two bits are set"));
        }
        let cookie = self.partial.get(4..self.partial.len().min(8)).unwrap_or_default();
        if MAGIC_COOKIE.starts_with(cookie) { Ok(()) } else { Err(WireError::NotStun("no magic cookie")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Seed;
    use crate::stun::{Attribute, Message};

    /// Feeds `stream` in pieces of `step` bytes and returns all messages.
    fn cut(framer: &mut Framer, stream: &[u8], step: usize) -> Result<Vec<Vec<u8>>, WireError> {
        let mut messages = Vec::new();
        for mut piece in stream.chunks(step) {
            while let Some(message) = framer.feed(&mut piece)? {
                messages.push(message);
            }
            assert!(piece.is_empty(), "what is no message yet is kept inside");
        }
        Ok(messages)
    }

    #[test]
    fn any_pieces_give_the_same_messages() {
        let mut seed = Seed::from_u64(4);
        let messages: Vec<_> = (0..5)
            .map(|padding| {
                Message::binding(&mut seed)
                    .with(Attribute::Padding(padding * 200))
                    .encode(Transport::Tcp)
                    .unwrap()
            })
            .collect();
        let stream = messages.concat();
        for step in [1, 2, 3, 19, 20, 21, 500, stream.len()] {
            let mut framer = Framer::default();
            assert_eq!(cut(&mut framer, &stream, step).as_ref(), Ok(&messages), "step {step}");
            assert!(!framer.is_partial());
        }
    }

    #[test]
    fn garbage_is_refused_at_the_first_byte_that_shows_it() {
        assert!(Framer::default().feed(&mut &b"\x80"[..]).is_err());
        assert!(Framer::default().feed(&mut &b"\0\x01\0\0\x21\x13"[..]).is_err());
        assert!(Framer::default().feed(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).is_err());
        let huge = b"\0\x01\xff\xf0\x21\x12\xa4\x42aaaaaaaaaaaa";
        assert!(matches!(
            Framer::default().feed(&mut &huge[..]),
            Err(WireError::TooLarge { actual: 65_540, .. })
        ));
    }

    proptest! {
        #[test]
        fn no_stream_panics_or_grows_it(stream: Vec<u8>, step in 1usize..40) {
            let mut framer = Framer::default();
            let _ = cut(&mut framer, &stream, step);
            prop_assert!(framer.partial.len() <= Transport::Tcp.most_bytes());
        }
    }
}
