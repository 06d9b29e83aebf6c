//! The codec of NTP packets (RFC 5905, section 7.3): a header of 48 bytes. Bytes that follow it are passed over.

use std::time::Duration;

use super::super::UnixTime;

/// The bytes of a packet without extensions.
pub const HEADER: usize = 48;

/// The seconds from 1900, where NTP begins, to 1970 (RFC 5905, figure 4).
const FROM_1900: u64 = 2_208_988_800;
/// The seconds of one era: 136 years (RFC 5905, section 6).
const ERA: u64 = 1 << 32;
/// The earliest UNIX time, in seconds, at which a clock that is right can stand: 2023-11-14. A machine that woke up
/// in 1970 must still find the era.
const NOT_BEFORE: u64 = 1_700_000_000;

/// A time stamp of 64 bits: the seconds since the beginning of an era, and 32 bits of their fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time stamp that means that the time is not known.
    pub const UNKNOWN: Self = Self(0);

    /// Returns the time stamp of `time`, rounded up so that [`Timestamp::unix`] gives `time` back.
    pub fn new(time: UnixTime) -> Self {
        let secs = (time.0 / 1_000_000).wrapping_add(FROM_1900) % ERA;
        Self(secs << 32 | ((time.0 % 1_000_000) << 32).div_ceil(1_000_000))
    }

    /// Returns the time meant, rounded down to a microsecond, or `None` when it is unknown. The era is the one that
    /// puts it nearest to `near`, within 68 years (RFC 5905, section 6). A `near` before 2023-11-14 is taken as that
    /// date.
    pub fn unix(self, near: UnixTime) -> Option<UnixTime> {
        if self == Self::UNKNOWN {
            return None;
        }
        let near = (near.0 / 1_000_000).max(NOT_BEFORE) + FROM_1900;
        let secs = self.0 >> 32;
        // The distance is signed, on the circle of one era.
        let ahead = i64::from(secs.wrapping_sub(near) as u32 as i32);
        let secs = near.checked_add_signed(ahead)?.checked_sub(FROM_1900)?;
        let micros = ((self.0 & 0xffff_ffff) * 1_000_000) >> 32;
        secs.checked_mul(1_000_000)?.checked_add(micros).map(UnixTime)
    }
}

/// A span of 32 bits: seconds, and 16 bits of their fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Short(pub u32);

impl Short {
    /// Returns the span meant, rounded up to a nanosecond.
    pub fn span(self) -> Duration {
        Duration::from_nanos((u64::from(self.0) * 1_000_000_000).div_ceil(1 << 16))
    }
}

/// The leap indicator: the length of the last minute of this day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leap {
    /// The last minute has 60 seconds.
    None,
    /// The last minute has 61 seconds.
    Longer,
    /// The last minute has 59 seconds.
    Shorter,
    /// The server does not know the time.
    Unsynchronised,
}

impl Leap {
    const ALL: [Self; 4] = [Self::None, Self::Longer, Self::Shorter, Self::Unsynchronised];
}

/// The mode of a client's request (RFC 5905, figure 10).
pub const CLIENT: u8 = 3;
/// The mode of a server's answer.
pub const SERVER: u8 = 4;
/// The version of NTP that we send.
pub const VERSION: u8 = 4;

/// The fields of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The leap indicator.
    pub leap: Leap,
    /// The version of NTP, 0 … 7; ours is [`VERSION`].
    pub version: u8,
    /// The mode, 0 … 7: [`CLIENT`], [`SERVER`], and others that are not for us.
    pub mode: u8,
    /// The steps from a reference clock: 1 … 15. 0 is a kiss-o'-death, 16 and more unsynchronised.
    pub stratum: u8,
    /// The logarithm to base 2 of the pause between two polls, in seconds.
    pub poll: i8,
    /// The logarithm to base 2 of the precision of the clock, in seconds.
    pub precision: i8,
    /// The round trip to the reference clock.
    pub root_delay: Short,
    /// The error of the server's time, that round trip not counted.
    pub root_dispersion: Short,
    /// The source of the server's time, or the code of a kiss-o'-death.
    pub reference_id: [u8; 4],
    /// The time at which the server's clock was last corrected.
    pub reference: Timestamp,
    /// The [`Packet::transmit`] of the request this answers.
    pub origin: Timestamp,
    /// The time at which the request came to the server.
    pub receive: Timestamp,
    /// The time at which this packet was sent. In our requests it is a random number, so that nobody learns our
    /// clock's time.
    pub transmit: Timestamp,
}

/// An error: the bytes are too few for an NTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are no NTP packet: it has {HEADER} at least")]
pub struct TooShort(pub usize);

impl Packet {
    /// Returns a client's question. Everything in it is zero that can be (RFC 4330, section 5), so a server learns
    /// nothing of us. Only `nonce` is not, as the answer repeats it.
    pub fn request(nonce: u64) -> Self {
        Self {
            leap: Leap::None,
            version: VERSION,
            mode: CLIENT,
            stratum: 0,
            poll: 0,
            precision: 0,
            root_delay: Short::default(),
            root_dispersion: Short::default(),
            reference_id: [0; 4],
            reference: Timestamp::UNKNOWN,
            origin: Timestamp::UNKNOWN,
            receive: Timestamp::UNKNOWN,
            transmit: Timestamp(nonce),
        }
    }

    /// Reads a packet. Extension fields and signatures behind it are not looked at.
    ///
    /// # Errors
    /// [`TooShort`] when there are fewer than [`HEADER`] bytes. Any other bytes are a packet.
    pub fn decode(bytes: &[u8]) -> Result<Self, TooShort> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Err(TooShort(bytes.len()));
        };
        let four = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let number = |at: usize| u32::from_be_bytes(four(at));
        let stamp = |at: usize| Timestamp(u64::from(number(at)) << 32 | u64::from(number(at + 4)));
        Ok(Self {
            leap: Leap::ALL[usize::from(header[0] >> 6)],
            version: header[0] >> 3 & 7,
            mode: header[0] & 7,
            stratum: header[1],
            poll: header[2] as i8,
            precision: header[3] as i8,
            root_delay: Short(number(4)),
            root_dispersion: Short(number(8)),
            reference_id: four(12),
            reference: stamp(16),
            origin: stamp(24),
            receive: stamp(32),
            transmit: stamp(40),
        })
    }

    /// Writes the packet. Of version and mode the lower three bits count.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0] = (self.leap as u8) << 6 | (self.version & 7) << 3 | self.mode & 7;
        (out[1], out[2], out[3]) = (self.stratum, self.poll as u8, self.precision as u8);
        out[4..8].copy_from_slice(&self.root_delay.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.root_dispersion.0.to_be_bytes());
        out[12..16].copy_from_slice(&self.reference_id);
        let stamps = [self.reference, self.origin, self.receive, self.transmit];
        for (place, stamp) in out[16..].chunks_exact_mut(8).zip(stamps) {
            place.copy_from_slice(&stamp.0.to_be_bytes());
        }
        out
    }

    /// Returns the most by which the server's time was off when it sent this. It is the server's root distance (RFC
    /// 5905, section 10) plus the precision of its clock.
    pub fn distance(&self) -> Duration {
        let precision =
            Duration::from_nanos((1_000_000_000f64 * f64::from(self.precision.min(6)).exp2()) as u64);
        self.root_delay.span() / 2 + self.root_dispersion.span() + precision + Duration::from_nanos(2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR: u64 = 31_557_600;

    proptest! {
        #[test]
        fn what_is_read_is_written_again(bytes: [u8; HEADER], more in prop::collection::vec(any::<u8>(), 0..64)) {
            let packet = Packet::decode(&[&bytes[..], &more].concat()).unwrap();
            prop_assert_eq!(packet.encode(), bytes);
            prop_assert!(packet.distance() < Duration::from_secs(200_000));
        }

        #[test]
        fn less_is_no_packet(bytes in prop::collection::vec(any::<u8>(), 0..HEADER)) {
            prop_assert_eq!(Packet::decode(&bytes), Err(TooShort(bytes.len())));
        }

        #[test]
        fn times_survive_in_every_era(micros in NOT_BEFORE * 1_000_000..900 * YEAR * 1_000_000, off in -67..67i64) {
            let time = UnixTime(micros);
            let near = UnixTime(micros.saturating_add_signed(off * (YEAR * 1_000_000) as i64));
            // A clock in the distant past is not believed, so it gives no era.
            prop_assume!(near.0 >= NOT_BEFORE * 1_000_000);
            prop_assume!(Timestamp::new(time) != Timestamp::UNKNOWN);
            prop_assert_eq!(Timestamp::new(time).unix(near), Some(time));
        }

        #[test]
        fn any_stamp_near_any_time_is_within_half_an_era(stamp: u64, near: u64) {
            if let Some(time) = Timestamp(stamp).unix(UnixTime(near)) {
                let near = UnixTime(near.max(NOT_BEFORE * 1_000_000));
                let apart = time.since(near).max(near.since(time));
                prop_assert!(apart.as_secs() <= ERA / 2);
            }
        }
    }

    #[test]
    fn the_eras_begin_where_the_figure_says() {
        // RFC 5905, figure 4: 1970-01-01 is 2,208,988,800; era 1 begins on 2036-02-07 at 06:28:16.
        let new_era = UnixTime::from_secs(2_085_978_496);
        assert_eq!(Timestamp::new(UnixTime(0)).0 >> 32, 2_208_988_800);
        assert_eq!(Timestamp::new(new_era), Timestamp::UNKNOWN, "the one moment that cannot be told");
        let after = Timestamp::new(new_era.after(Duration::from_micros(250_000)));
        assert_eq!(after, Timestamp(1 << 30));
        for clock in [UnixTime(0), UnixTime::from_secs(1_800_000_000), new_era] {
            assert_eq!(after.unix(clock), Some(UnixTime(2_085_978_496_250_000)), "{clock}");
        }
    }

    #[test]
    fn a_request_says_nothing_of_us() {
        let mut expected = [0; HEADER];
        expected[0] = 0x23;
        expected[40..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Packet::request(0x0102_0304_0506_0708).encode(), expected);
    }

    #[test]
    fn the_fields_stand_where_the_figure_says() {
        let bytes: Vec<u8> = (0..48).map(|byte| byte + 0xe4 * u8::from(byte == 0)).collect();
        let packet = Packet::decode(&bytes).unwrap();
        assert_eq!((packet.leap, packet.version, packet.mode), (Leap::Unsynchronised, 4, 4));
        assert_eq!((packet.stratum, packet.poll, packet.precision), (1, 2, 3));
        assert_eq!((packet.root_delay, packet.root_dispersion), (Short(0x0405_0607), Short(0x0809_0a0b)));
        assert_eq!(packet.reference_id, [12, 13, 14, 15]);
        assert_eq!(packet.origin, Timestamp(0x1819_1a1b_1c1d_1e1f));
        assert_eq!(packet.transmit, Timestamp(0x2829_2a2b_2c2d_2e2f));
    }

    #[test]
    fn the_distance_is_half_the_delay_and_all_the_rest() {
        let packet = Packet {
            root_delay: Short(1 << 16),
            root_dispersion: Short(1 << 15),
            precision: -10,
            ..Packet::request(0)
        };
        let distance = packet.distance();
        assert!(distance >= Duration::from_nanos(1_000_976_562));
        assert!(distance <= Duration::from_nanos(1_000_976_566));
        assert_eq!(Short(1).span(), Duration::from_nanos(15_259));
    }
}
