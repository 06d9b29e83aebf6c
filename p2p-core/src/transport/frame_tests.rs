use proptest::prelude::*;

use super::*;

const TOKEN: Token = Token([7; 8]);

fn ranges() -> impl Strategy<Value = Vec<std::ops::Range<u64>>> {
    // From the lowest: a gap of at least one, then a length of at least one.
    proptest::collection::vec((1u64..2_000_000, 1u64..70_000), 1..MOST_RANGES).prop_map(|steps| {
        let mut end = 0;
        let mut all: Vec<_> = steps
            .into_iter()
            .map(|(gap, length)| {
                let start = end + gap;
                end = start + length;
                start..end
            })
            .collect();
        all.reverse();
        all
    })
}

fn write(number: u64, floor: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![0; 1_200];
    let mut writer = Writer::new(&mut out, TOKEN, number, floor);
    fill(&mut writer);
    let written = writer.written();
    out.truncate(written);
    out
}

fn frames(datagram: &[u8]) -> Vec<Frame<'_>> {
    Packet::parse(datagram, TOKEN).unwrap().frames().collect()
}

#[test]
fn every_frame_comes_back() {
    let datagram = write(70_000, 69_000, |writer| {
        writer.window(MOST_NUMBER);
        writer.blocked(0x3f);
        writer.ping();
        writer.reset(9);
        writer.end(0x4000);
        writer.data(0x40, 3, false).copy_from_slice(b"abc");
        writer.data(1 << 40, 0, true);
        writer.message(5, 10, 6, 4).copy_from_slice(b"wxyz");
    });
    let packet = Packet::parse(&datagram, TOKEN).unwrap();
    assert_eq!((packet.number, packet.floor), (70_000, 69_000));
    assert_eq!(
        frames(&datagram),
        [
            Frame::Window { limit: MOST_NUMBER },
            Frame::Blocked { limit: 0x3f },
            Frame::Ping,
            Frame::Reset { reason: 9 },
            Frame::End { count: 0x4000 },
            Frame::Data { offset: 0x40, bytes: b"abc", is_last: false },
            Frame::Data { offset: 1 << 40, bytes: b"", is_last: true },
            Frame::Message { id: 5, total: 10, at: 6, bytes: b"wxyz" },
        ]
    );
}

#[test]
fn what_cannot_be_is_named() {
    let good = write(5, 5, |writer| writer.ping());
    let with = |frame: &[u8]| [&write(5, 5, |_| ())[..], frame].concat();
    let refused = |datagram: &[u8]| Packet::parse(datagram, TOKEN).unwrap_err();
    assert_eq!(Packet::parse(&good, Token([8; 8])).unwrap_err(), FrameError::Token);
    assert_eq!(refused(b""), FrameError::Short);
    assert_eq!(refused(b"\x00\x01\x00\x00"), FrameError::Foreign, "STUN");
    assert_eq!(refused(b"\x40\x00\x00\x04data"), FrameError::Foreign, "ChannelData");
    assert_eq!(refused(&good[..10]), FrameError::Short);
    assert_eq!(refused(&with(&[10])), FrameError::Unknown);
    assert_eq!(refused(&with(&[6; 17])), FrameError::TooMany);
    // A data frame that ends beyond what a number can say; one that is shorter than it claims.
    assert_eq!(refused(&with(&[1, 255, 255, 255, 255, 255, 255, 255, 255, 0, 1, 0])), FrameError::Absurd);
    assert_eq!(refused(&with(&[1, 0, 0, 5, 0])), FrameError::Short);
    // An ack of more than is below its largest, in its first range and in the next; one of too many ranges.
    assert_eq!(refused(&with(&[3, 4, 0, 0, 5])), FrameError::Absurd);
    assert_eq!(refused(&with(&[3, 4, 0, 1, 0, 3, 0])), FrameError::Absurd);
    assert_eq!(refused(&with(&[3, 4, 0, 32, 0])), FrameError::Absurd);
    // A piece beyond its message; an empty piece of a message that is not.
    assert_eq!(refused(&with(&[8, 0, 1, 1, 0, 1, 0])), FrameError::Absurd);
    assert_eq!(refused(&with(&[8, 0, 1, 0, 0, 0])), FrameError::Absurd);
    // A floor above the number.
    let mut below = good;
    below[10] = 6;
    assert_eq!(refused(&below), FrameError::Absurd);
}

#[test]
fn an_ack_keeps_to_its_room_and_says_the_newest() {
    let all: Vec<_> = (0..32u64).rev().map(|number| number * 1_000..number * 1_000 + 1).collect();
    let mut out = [0; 100];
    let mut writer = Writer::new(&mut out, TOKEN, 1 << 40, 1 << 40);
    writer.ack(all.iter().cloned(), 0, 40);
    assert!(writer.left() >= 40);
    let written = writer.written();
    let [Frame::Ack(ack)] = frames(&out[..written])[..] else { panic!("one ack") };
    let said: Vec<_> = ack.ranges().collect();
    assert!(said.len() > 5);
    assert!(said.iter().zip(&all).all(|(said, meant)| *said == (meant.start, meant.end - 1)));
}

proptest! {
    #[test]
    fn acks_come_back(ranges in ranges(), delay in 0u64..1 << 40) {
        let datagram = write(0, 0, |writer| writer.ack(ranges.iter().cloned(), delay, 0));
        let [Frame::Ack(ack)] = frames(&datagram)[..] else { panic!("one ack") };
        let said: Vec<_> = ack.ranges().map(|(lowest, highest)| lowest..highest + 1).collect();
        prop_assert_eq!(said, ranges);
        prop_assert_eq!(ack.delay, delay >> 3 << 3);
    }

    #[test]
    fn any_bytes_are_read_or_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Packet::parse(&noise, TOKEN);
        let datagram = [&write(9, 3, |_| ())[..], &noise].concat();
        if let Ok(packet) = Packet::parse(&datagram, TOKEN) {
            for frame in packet.frames() {
                if let Frame::Ack(ack) = frame {
                    let ranges: Vec<_> = ack.ranges().collect();
                    prop_assert!(ranges.len() <= MOST_RANGES);
                    prop_assert!(ranges.windows(2).all(|two| two[1].1 + 1 < two[0].0));
                }
            }
        }
    }
}

/// Nobody changes the format by accident: every frame of version 1, computed apart from this crate.
#[test]
fn the_bytes_are_what_they_always_were() {
    let datagram = write(70_000, 69_000, |writer| {
        writer.data(0x40, 3, false).copy_from_slice(b"abc");
        writer.data(1 << 40, 0, true);
        writer.ack([90..100, 80..85].into_iter(), 800, 0);
        writer.window(MOST_NUMBER);
        writer.blocked(0x3f);
        writer.ping();
        writer.reset(9);
        writer.message(5, 10, 6, 4).copy_from_slice(b"wxyz");
        writer.end(0x4000);
    });
    let expected = [
        "d1070707070707070780011170",
        "43e8",
        "0140400003616263",
        "02c0000100000000000000",
        "03406340640109",
        "0404",
        "04ffffffffffffffff",
        "053f",
        "06",
        "0709",
        "08050a0600047778797a",
        "0980004000",
    ];
    assert_eq!(data_encoding::HEXLOWER.encode(&datagram), expected.concat());
}
