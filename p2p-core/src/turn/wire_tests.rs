//! Tests of ChannelData and frames: round trips, hostile input, bounds.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::Packet;
use super::channel::{ChannelError, ChannelNumber, split};
use super::frame::{Frame, FrameError, Framer};
use crate::Seed;
use crate::stun::{Attribute, Message, Transport};

fn framer() -> Framer {
    let mut framer = Framer::default();
    framer.allow_channels();
    framer
}

/// Feeds `stream` in pieces of `step` bytes and returns all frames before the first error.
fn cut(framer: &mut Framer, stream: &[u8], step: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    for piece in stream.chunks(step.max(1)) {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match framer.feed(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(piece.is_empty(), "what is no frame yet is kept inside");
    }
    (frames, None)
}

fn message(padding: u16) -> Vec<u8> {
    let message = Message::binding(&mut Seed::from_u64(padding.into()));
    message.with(Attribute::Padding(padding)).encode(Transport::Tcp).unwrap()
}

fn number(number: u16) -> ChannelNumber {
    ChannelNumber::new(number).unwrap()
}

#[test]
fn channel_numbers_end_where_rfc_8656_says() {
    assert_eq!(ChannelNumber::new(0x3fff), None);
    assert_eq!(ChannelNumber::new(0x5000), None);
    assert_eq!(ChannelNumber::LAST.next(), ChannelNumber::FIRST);
    assert_eq!(number(0x4001).header(65_536), None);
    assert_eq!(number(0x4001).header(65_535), Some([0x40, 1, 0xff, 0xff]));
}

#[test]
fn a_datagram_may_be_filled_and_must_be_whole() {
    assert_eq!(split(b"\x40\x01\0\x03abc"), Ok((number(0x4001), &b"abc"[..])));
    assert_eq!(split(b"\x40\x01\0\x03abc\0"), Ok((number(0x4001), &b"abc"[..])));
    assert_eq!(split(b"\x40\x01\0\x03ab"), Err(ChannelError::Short { claimed: 3, actual: 2 }));
    assert_eq!(split(b"\x40\x01\0"), Err(ChannelError::NotChannelData));
    assert_eq!(split(b"\x50\x01\0\0"), Err(ChannelError::NotChannelData));
}

#[test]
fn any_pieces_give_the_same_frames() {
    let packet = |size: usize| {
        let data = Bytes::from(vec![9; size]);
        Packet::channel_data(number(0x4002), data, true).unwrap().into_bytes().to_vec()
    };
    let stream =
        [message(0), packet(5), packet(0), message(500), packet(65_535), packet(4), message(3)].concat();
    let (frames, error) = cut(&mut framer(), &stream, stream.len());
    assert_eq!((frames.len(), error), (7, None));
    assert_eq!(frames[1], Frame::Channel(number(0x4002), Bytes::from_static(&[9; 5])));
    for step in [1, 2, 3, 4, 7, 19, 20, 21, 1_000, 65_539] {
        let mut framer = framer();
        assert_eq!(cut(&mut framer, &stream, step), (frames.clone(), None), "step {step}");
        assert_eq!(framer.held(), 0);
    }
}

#[test]
fn a_message_too_large_is_skipped_and_the_stream_goes_on() {
    let mut huge = message(0);
    huge.resize(20 + 50_000, 7);
    huge[2..4].copy_from_slice(&50_000u16.to_be_bytes());
    let stream = [message(1), huge, message(2)].concat();
    for step in [1, 9, 5_000, stream.len()] {
        let mut framer = framer();
        let (frames, error) = cut(&mut framer, &stream, step);
        assert!(matches!(frames[..], [Frame::Stun(_), Frame::Oversize(50_020), Frame::Stun(_)]));
        assert_eq!((error, framer.held()), (None, 0));
    }
}

#[test]
fn garbage_is_refused_at_the_first_byte_that_shows_it() {
    let first = |bytes: &[u8]| cut(&mut framer(), bytes, 1).1;
    assert_eq!(first(b"\x80"), Some(FrameError::Neither));
    assert_eq!(first(b"\x50"), Some(FrameError::Neither));
    assert_eq!(first(b"\0\x01\0\x03"), Some(FrameError::Crooked));
    assert_eq!(first(b"\0\x01\0\0\x21\x13"), Some(FrameError::NoCookie));
    assert_eq!(first(b"220 ready"), Some(FrameError::NoCookie));
    assert_eq!(cut(&mut Framer::default(), b"HTTP/1.1 400", 1).1, Some(FrameError::NoChannels));
}

#[test]
fn what_lies_whole_in_a_piece_is_not_copied() {
    let piece = Bytes::from([&b"\x40\x02\0\x08"[..], b"12345678"].concat());
    let start = piece.as_ptr();
    let Ok(Some(Frame::Channel(_, data))) = framer().feed(&mut piece.clone()) else { panic!("a frame") };
    assert_eq!(data.as_ptr(), start.wrapping_add(4));
}

proptest! {
    #[test]
    fn no_stream_panics_or_grows_it(stream: Vec<u8>, step in 1usize..40, steer: bool) {
        let mut stream = stream;
        if let Some(first) = stream.first_mut().filter(|_| steer) {
            *first = 0x40 | *first & 0x0f;
        }
        let (mut framer, mut other) = (framer(), framer());
        let whole = cut(&mut other, &stream, stream.len());
        prop_assert_eq!(cut(&mut framer, &stream, step), whole);
        prop_assert!(framer.held() <= 4 + 65_536);
    }

    #[test]
    fn what_is_written_is_read(payloads in vec(vec(any::<u8>(), 0..50), 0..9), channel in 0x4000u16..0x5000) {
        let mut stream = Vec::new();
        for payload in &payloads {
            let data = Bytes::copy_from_slice(payload);
            let datagram = Packet::channel_data(number(channel), data.clone(), false).unwrap();
            let length = datagram.len();
            let bytes = datagram.into_bytes();
            prop_assert_eq!(bytes.len(), length);
            prop_assert_eq!(split(&bytes), Ok((number(channel), &payload[..])));
            stream.extend(Packet::channel_data(number(channel), data, true).unwrap().into_bytes());
        }
        let (frames, error) = cut(&mut framer(), &stream, 17);
        prop_assert_eq!(error, None);
        let read: Vec<_> = frames
            .into_iter()
            .filter_map(|frame| match frame {
                Frame::Channel(_, data) => Some(data.to_vec()),
                _ => None,
            })
            .collect();
        prop_assert_eq!(read, payloads);
    }
}
