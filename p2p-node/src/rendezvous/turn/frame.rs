//! What a TURN connection carries: STUN messages and ChannelData (RFC 8656, sections 2.1 and 12.5).

use p2p_core::stun::Transport;
use p2p_core::stun::wire::{HEADER, Header, WireError};

/// Bytes before the data of a channel.
pub(super) const CHANNEL_HEADER: usize = 4;

/// What stands at the front of a stream or in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnFrame {
    /// Not enough is there to tell, or not all of it: this many bytes are needed.
    Partial(usize),
    /// A STUN message of so many bytes.
    Message(usize),
    /// ChannelData: the number, bytes of data behind the header.
    Channel { number: u16, length: usize },
}

impl TurnFrame {
    /// Looks at the front of `bytes`. Work is constant; a stream needs to keep no more than 64 KiB and a few bytes.
    ///
    /// # Errors
    /// When it is neither, or a message is larger than messages over TCP may be.
    pub(super) fn first(bytes: &[u8]) -> Result<Self, WireError> {
        let Some(&[first, second, high, low]) = bytes.first_chunk::<CHANNEL_HEADER>() else {
            // The first byte tells already what it cannot be.
            return match bytes.first() {
                Some(0x80..) => Err(WireError::NotStun("the first bit is set")),
                _ => Ok(Self::Partial(CHANNEL_HEADER)),
            };
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        match first {
            0x40..=0x7f if bytes.len() < CHANNEL_HEADER + length => {
                Ok(Self::Partial(CHANNEL_HEADER + length))
            }
            0x40..=0x7f => Ok(Self::Channel { number: u16::from_be_bytes([first, second]), length }),
            0x80.. => Err(WireError::NotStun("the first bit is set")),
            _ => {
                let whole = HEADER + length;
                let most = Transport::Tcp.most_bytes();
                if whole > most {
                    return Err(WireError::TooLarge { actual: whole, most });
                }
                if bytes.len() >= HEADER {
                    Header::decode(bytes)?;
                }
                Ok(if bytes.len() < whole { Self::Partial(whole) } else { Self::Message(whole) })
            }
        }
    }

    /// Bytes it takes of a stream, where ChannelData is filled up to a multiple of four.
    pub(super) fn on_stream(self) -> usize {
        match self {
            Self::Partial(length) | Self::Message(length) => length,
            Self::Channel { length, .. } => (CHANNEL_HEADER + length).next_multiple_of(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Seed;
    use p2p_core::stun::Message;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_channel_data() {
        let message = Message::binding(&mut Seed::from_u64(1)).encode(Transport::Tcp).unwrap();
        assert_eq!(TurnFrame::first(&message), Ok(TurnFrame::Message(20)));
        assert_eq!(TurnFrame::first(&message[..19]), Ok(TurnFrame::Partial(20)));
        let data = [0x40, 1, 0, 3, b'a', b'b', b'c', 0, 0x40];
        let channel = TurnFrame::Channel { number: 0x4001, length: 3 };
        assert_eq!(TurnFrame::first(&data), Ok(channel));
        assert_eq!((channel.on_stream(), TurnFrame::first(&data[..6])), (8, Ok(TurnFrame::Partial(7))));
        assert_eq!(TurnFrame::first(&data[..2]), Ok(TurnFrame::Partial(4)));
        assert_eq!(TurnFrame::first(&[]), Ok(TurnFrame::Partial(4)));
        assert!(TurnFrame::first(&[0x80]).is_err());
        assert!(TurnFrame::first(b"\xff\xff\xff\xff").is_err());
        assert!(TurnFrame::first(b"\0\x03\x10\0").is_err(), "a message of more than 4 KiB");
        assert!(TurnFrame::first(&[0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_frame_is_huge(bytes: Vec<u8>) {
            if let Ok(frame) = TurnFrame::first(&bytes) {
                prop_assert!(frame.on_stream() <= 65_540);
                match frame {
                    TurnFrame::Partial(wanted) => prop_assert!(wanted > bytes.len()),
                    TurnFrame::Message(length) => prop_assert!(length <= bytes.len()),
                    TurnFrame::Channel { length, .. } => prop_assert!(CHANNEL_HEADER + length <= bytes.len()),
                }
            }
        }
    }
}
