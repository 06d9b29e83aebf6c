//! Stories of two ends, in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::sim::link::LinkConfig;
use crate::sim::pair::Pair;
use crate::transport::{Token, Tokens};

const OURS: Token = Token([1; 8]);
const THEIRS: Token = Token([2; 8]);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8
}

fn config() -> TransportConfig {
    TransportConfig::new(Tokens { ours: OURS, theirs: THEIRS })
}

/// A datagram as the peer would write it.
fn forged(number: u64, floor: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![0; 1_200];
    let mut writer = Writer::new(&mut out, OURS, number, floor);
    fill(&mut writer);
    let written = writer.written();
    out.truncate(written);
    out
}

/// Two ends, and what each has written and read so far; every byte is known by its offset.
struct Story {
    pair: Pair<Stream>,
    written: [u64; 2],
    wanted: [u64; 2],
    read: [u64; 2],
    ended: [bool; 2],
    stays_open: bool,
}

impl Story {
    fn new(link: LinkConfig, seed: u64, wanted: [u64; 2]) -> Self {
        Self::with(link, seed, wanted, false)
    }

    /// One that does not say its ends when all is written.
    fn open(link: LinkConfig, seed: u64, wanted: [u64; 2]) -> Self {
        Self::with(link, seed, wanted, true)
    }

    fn with(link: LinkConfig, seed: u64, wanted: [u64; 2], stays_open: bool) -> Self {
        let pair = Pair::new(link, Seed::from_u64(seed), |_| ()).unwrap();
        let (written, read) = ([0; 2], [0; 2]);
        let mut story = Self { pair, written, wanted, read, ended: [false; 2], stays_open };
        story.use_both();
        story
    }

    /// Writes and reads as much as goes; what is read is compared.
    fn use_both(&mut self) {
        for me in 0..2 {
            self.write(me);
            self.read(me);
            self.pair.drain(me);
        }
    }

    fn write(&mut self, me: usize) {
        let now = self.pair.now();
        let more: Vec<u8> = (self.written[me]..self.wanted[me]).take(4_000).map(byte).collect();
        let Ok(taken) = self.pair.ends[me].write(&more, now) else { return };
        self.written[me] += taken as u64;
        if self.written[me] == self.wanted[me] && !self.stays_open {
            self.pair.ends[me].finish(now).unwrap();
        }
    }

    fn read(&mut self, me: usize) {
        let mut out = [0; 5_000];
        loop {
            match self.pair.ends[me].read(&mut out, self.pair.now()) {
                Ok(Read::Bytes(count)) => {
                    for byte_read in &out[..count] {
                        assert_eq!(*byte_read, byte(self.read[me]), "byte {} of end {me}", self.read[me]);
                        self.read[me] += 1;
                    }
                }
                Ok(Read::End) => return self.ended[me] = true,
                Ok(Read::Nothing) | Err(_) => return,
            }
        }
    }

    /// Until both ends have read everything and its end.
    fn finish(&mut self) {
        let patience = self.pair.passed() + Duration::from_secs(3_600);
        while self.ended != [true; 2] {
            self.pair.step().expect("it rests before the end");
            self.use_both();
            assert!(self.pair.passed() < patience, "{:?} of {:?}", self.read, self.wanted);
        }
        assert_eq!([self.read[1], self.read[0]], self.wanted, "all of it");
    }

    fn until(&mut self, span: Duration) {
        let end = epoch() + span;
        while self.pair.next().is_some_and(|next| next <= end) {
            self.pair.step();
            self.use_both();
        }
        self.pair.run_until(end);
    }
}

fn calm(latency: u64) -> LinkConfig {
    LinkConfig { rate: Some(5_000_000), ..LinkConfig::with_latency(ms(latency)) }
}

fn bad(latency: u64, loss: f64) -> LinkConfig {
    LinkConfig {
        loss,
        reorder: 0.05,
        duplicate: 0.03,
        rate: Some(20_000_000),
        ..LinkConfig::with_latency(ms(latency))
    }
}

#[test]
fn bytes_arrive_in_order_whatever_is_lost() {
    for (seed, (latency, loss)) in
        [(5, 0.0), (150, 0.01), (20, 0.05), (50, 0.2), (5, 0.5)].into_iter().enumerate()
    {
        let mut story = Story::new(bad(latency, loss), seed as u64, [300_000, 40_000]);
        story.finish();
        story.pair.run_for(Duration::from_secs(60));
        for me in 0..2 {
            assert_eq!(story.pair.events[me].last(), Some(&Event::Ended(None)), "end {me} at {loss}");
            assert!(story.pair.ends[me].is_delivered());
        }
        assert_eq!(story.pair.next(), None, "both rest");
    }
}

#[test]
fn a_clean_link_repeats_nothing_and_is_filled() {
    let link = LinkConfig { rate: Some(20_000_000), ..LinkConfig::with_latency(ms(20)) };
    let mut story = Story::new(link, 1, [5_000_000, 0]);
    story.finish();
    let counters = story.pair.ends[0].counters();
    assert_eq!((counters.lost, counters.timeouts), (0, 0), "{counters:?}");
    // The link takes 2 s for the bytes; headers and the start are within a fifth.
    assert!(story.pair.passed() < ms(2_400), "{:?}", story.pair.passed());
}

#[test]
fn a_path_that_reorders_is_learned() {
    let link = LinkConfig { reorder: 0.05, rate: Some(20_000_000), ..LinkConfig::with_latency(ms(20)) };
    let mut story = Story::new(link, 1, [5_000_000, 0]);
    story.finish();
    let counters = story.pair.ends[0].counters();
    assert!(counters.spurious * 50 < counters.sent, "{counters:?}");
    assert_eq!(counters.lost, counters.spurious, "nothing is ever lost here");
}

#[test]
fn half_of_it_can_be_over_for_long() {
    let mut story = Story::new(calm(10), 1, [0, u64::MAX]);
    story.until(ms(500));
    assert!(story.ended[1] && story.read[0] > 10_000);
    let now = story.pair.now();
    assert_eq!(story.pair.ends[0].write(b"more", now), Err(TransportError::Finished));
    story.wanted[1] = story.written[1];
    story.finish();
}

#[test]
fn a_change_of_path_loses_nothing_and_repeats_nothing() {
    for seed in 0..5 {
        let mut story = Story::new(bad(30, 0.02), seed, [2_000_000, 500_000]);
        story.until(ms(400));
        story.pair.is_cut = true;
        story.until(ms(6_000));
        assert!(story.pair.events[0].contains(&Event::PathDead), "{:?}", story.pair.events);
        story.pair.is_cut = false;
        let before = story.read;
        story.pair.set_link(bad(80, 0.0), &mut Seed::from_u64(seed)).unwrap();
        for me in 0..2 {
            let now = story.pair.now();
            story.pair.ends[me].handle_path_changed(now);
            story.pair.drain(me);
        }
        story.until(ms(6_300));
        assert!(story.read[1] > before[1], "at once, not at the next timeout");
        story.finish();
    }
}

#[test]
fn an_end_that_hears_nothing_says_so_and_gives_up() {
    let mut story = Story::new(calm(10), 1, [u64::MAX, 0]);
    story.until(ms(1_000));
    story.pair.is_cut = true;
    story.until(Duration::from_secs(20));
    let silent = TransportError::Silent;
    let of: Vec<Event> =
        story.pair.events[0].iter().copied().filter(|event| *event != Event::Writable).collect();
    assert_eq!(of, [Event::Readable, Event::PathDead, Event::Ended(Some(silent))]);
    let now = story.pair.now();
    assert_eq!(story.pair.ends[0].write(b"x", now), Err(silent));
    // The other one only waits: soon after the last byte it asks for a sign of life, and notices as well.
    assert_eq!(story.pair.events[1].last(), Some(&Event::Ended(Some(silent))));
    assert_eq!(story.pair.next(), None);
}

#[test]
fn a_day_of_silence_costs_a_few_datagrams_and_little_memory() {
    let mut story = Story::open(calm(50), 1, [1_000_000, 100_000]);
    story.until(ms(5_000));
    assert_eq!(story.read, [100_000, 1_000_000]);
    let sent = |story: &Story| story.pair.ends.iter().map(|end| end.counters().sent).sum::<u64>();
    let before = sent(&story);
    story.pair.run_for(Duration::from_secs(86_400));
    let a_day = sent(&story) - before;
    // A question and an answer every ten to twelve seconds, whoever asks.
    assert!((2 * 7_000..2 * 8_700).contains(&a_day), "{a_day}");
    assert_eq!(story.pair.events.iter().flatten().filter(|event| **event == Event::PathDead).count(), 0);
    for end in &story.pair.ends {
        assert!(end.memory() < 8 * 1024, "{}", end.memory());
    }
    (story.wanted, story.stays_open) = ([1_000_001, 100_001], false);
    story.use_both();
    story.finish();
}

#[test]
fn a_reader_who_does_not_read_stops_the_writer_and_costs_a_window() {
    let link = LinkConfig { loss: 0.05, ..LinkConfig::with_latency(ms(10)) };
    let mut pair = Pair::<Stream>::new(link, Seed::from_u64(1), |_| ()).unwrap();
    let mut written = 0;
    for _ in 0..600 {
        let now = pair.now();
        written += pair.ends[0].write(&[7; 50_000], now).unwrap();
        pair.drain(0);
        pair.run_for(ms(100));
    }
    assert!(written < 1_000_000, "{written}");
    assert!(pair.ends[1].memory() < 600_000, "{}", pair.ends[1].memory());
    assert_eq!(pair.events.iter().flatten().filter(|event| **event == Event::PathDead).count(), 0);
    let before = pair.ends[0].counters().sent;
    pair.run_for(Duration::from_secs(100));
    let asked = pair.ends[0].counters().sent - before;
    assert!((8..40).contains(&asked), "it asks for room now and then: {asked}");
    // And goes on when there is some, even if the word of it is lost at first.
    let (mut read, mut out) = (0, [0; 50_000]);
    while read < written {
        let now = pair.now();
        if let Read::Bytes(count) = pair.ends[1].read(&mut out, now).unwrap() {
            read += count;
        }
        pair.drain(1);
        pair.run_for(ms(10));
        assert!(pair.passed() < Duration::from_secs(300), "{read} of {written}");
    }
}

#[test]
fn an_end_that_is_said_while_the_peer_takes_no_more_waits_for_its_turn() {
    let mut pair = Pair::<Stream>::new(LinkConfig::with_latency(ms(10)), Seed::from_u64(1), |_| ()).unwrap();
    let mut written = 0;
    while written < 300_000 {
        let now = pair.now();
        written += pair.ends[0].write(&vec![7; 300_000 - written], now).unwrap();
        pair.drain(0);
        pair.run_for(ms(100));
        assert!(pair.passed() < Duration::from_secs(60), "{written}");
    }
    let now = pair.now();
    pair.ends[0].finish(now).unwrap();
    let before = pair.ends[0].counters().sent;
    pair.drain(0);
    assert_eq!(pair.ends[0].counters().sent, before, "256 KiB are all that it takes");
    let mut out = vec![0; 300_000];
    assert_eq!(pair.ends[1].read(&mut out, now), Ok(Read::Bytes(256 * 1024)));
    pair.drain(1);
    pair.run_for(ms(100));
    let now = pair.now();
    assert_eq!(pair.ends[1].read(&mut out, now), Ok(Read::Bytes(300_000 - 256 * 1024)));
    assert_eq!(pair.ends[1].read(&mut out, now), Ok(Read::End));
    assert!(pair.ends[0].is_delivered());
}

/// Found by chance: one ack for each question, lost as often as the question, and after fifteen seconds the end that only
/// reads had given up a peer it heard all the time.
#[test]
fn an_end_that_says_little_is_not_given_up_while_it_is_heard() {
    for seed in 0..10 {
        let mut story = Story::open(bad(130, 0.4), seed, [4_000_000, 0]);
        story.until(Duration::from_secs(60));
        assert!(!story.pair.events[1].iter().any(|event| matches!(event, Event::Ended(_))), "seed {seed}");
    }
}

/// Found by chance: three timeouts were too few for a last ack to come through.
#[test]
fn both_ends_learn_that_it_is_over() {
    for seed in 0..40 {
        let mut story = Story::new(bad(60, 0.3), seed, [20_000, 20_000]);
        story.finish();
        story.pair.run_for(Duration::from_secs(60));
        for events in &story.pair.events {
            assert_eq!(events.last(), Some(&Event::Ended(None)), "seed {seed}");
        }
    }
}

#[test]
fn a_reset_is_told_with_its_reason_and_only_once() {
    let mut story = Story::new(calm(10), 1, [u64::MAX, u64::MAX]);
    story.until(ms(300));
    let now = story.pair.now();
    story.pair.ends[0].reset(ResetReason::Refused, now);
    story.pair.drain(0);
    story.pair.run_for(ms(500));
    let error = TransportError::Reset(ResetReason::Refused);
    assert_eq!(story.pair.events[1].last(), Some(&Event::Ended(Some(error))));
    assert_eq!(story.pair.next(), None, "acknowledged, so both rest");
    story.read(1);
    let now = story.pair.now();
    assert_eq!(story.pair.ends[1].read(&mut [0; 9], now), Err(error), "what had come was read first");
    assert_eq!(story.pair.ends[0].read(&mut [0; 9], now), Err(TransportError::Closed));
    assert!(story.pair.ends[0].memory() < 8_192);
}

#[test]
fn what_no_peer_would_say_is_counted_and_changes_nothing() {
    let now = epoch();
    let mut stream = Stream::new(config(), Seed::from_u64(1), now);
    stream.write(b"hello", now).unwrap();
    drain(&mut stream);
    let before = stream.memory();
    let mut say = |datagram: &[u8]| {
        stream.handle_datagram(datagram, now);
        assert!(stream.memory() <= before + 4_096, "{}", stream.memory());
        stream.counters()
    };
    assert_eq!(say(b"\x16\xfe\xfd DTLS").garbage, 1);
    let mut stranger = forged(0, 0, |writer| writer.ping());
    stranger[5] ^= 1;
    assert_eq!(say(&stranger).foreign, 1);
    assert_eq!(say(&forged(0, 0, |writer| writer.ack(std::iter::once(1..5), 0, 0))).never_sent, 1);
    let far = |writer: &mut Writer<'_>| writer.data(1 << 30, 4, false).fill(0);
    assert_eq!(say(&forged(0, 0, far)).outside, 1);
    assert_eq!(say(&forged(0, 0, |writer| writer.data(0, 4, true).fill(9))).received, 1);
    assert_eq!(say(&forged(0, 0, |writer| writer.ping())).duplicate, 1);
    let mut out = [0; 9];
    assert_eq!(stream.read(&mut out, now), Ok(Read::Bytes(4)));
    assert_eq!(stream.read(&mut out, now), Ok(Read::End));
    stream.close(now);
    drain(&mut stream);
    stream.handle_datagram(&forged(3, 0, |writer| writer.data(0, 4, true).fill(9)), now);
    assert_eq!(stream.counters().late, 1);
}

/// Found by the fuzzer: what contradicted an end that had been forged was repeated for ever.
#[test]
fn a_peer_that_contradicts_itself_is_left() {
    fn refused(second: impl Fn(&mut Writer<'_>), why: &str) {
        let now = epoch();
        let mut stream = Stream::new(config(), Seed::from_u64(1), now);
        stream.handle_datagram(&forged(0, 0, |writer| writer.data(0, 4, true).fill(9)), now);
        assert_eq!(drain(&mut stream).events, [Event::Readable]);
        stream.handle_datagram(&forged(1, 0, second), now);
        assert_eq!(stream.counters().contradiction, 1, "{why}");
        let told = drain(&mut stream);
        assert_eq!(told.events, [Event::Ended(Some(TransportError::Contradiction))], "{why}");
        assert_eq!(told.acts.len(), 1, "the peer is told");
        let mut out = [0; 9];
        assert_eq!(stream.read(&mut out, now), Ok(Read::Bytes(4)), "what was good is read");
    }
    refused(|writer| writer.data(2, 4, false).fill(0), "beyond the end");
    refused(|writer| writer.data(0, 3, true).fill(0), "another end");
    refused(|writer| writer.message(0, 1, 0, 1).fill(0), "of messages");
}

#[test]
fn a_thousand_holes_are_kept_and_no_more_than_that_many() {
    let now = epoch();
    let mut stream = Stream::new(config(), Seed::from_u64(1), now);
    for number in 0..20_000u64 {
        stream
            .handle_datagram(&forged(number, 0, |writer| writer.data(1 + number * 2, 1, false).fill(0)), now);
    }
    assert!(stream.counters().outside > 10_000, "{:?}", stream.counters());
    assert!(stream.memory() < 200_000, "{}", stream.memory());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_exact_through_any_link(
        seed in any::<u64>(),
        loss in 0.0..0.3f64,
        reorder in 0.0..0.5f64,
        reorder_by in 1u64..200,
        duplicate in 0.0..0.5f64,
        latency in 0u64..200,
        jitter in 0u64..100,
        rate in prop_oneof![Just(None), (200_000u64..50_000_000).prop_map(Some)],
        wanted in (0u64..200_000, 0u64..60_000),
        moves in proptest::collection::vec(1u64..3_000, 0..3),
    ) {
        let link = LinkConfig {
            loss,
            reorder,
            reorder_by: ms(reorder_by),
            duplicate,
            jitter: ms(jitter),
            rate,
            queue: 20_000,
            ..LinkConfig::with_latency(ms(latency))
        };
        let mut story = Story::new(link, seed, [wanted.0, wanted.1]);
        for (number, at) in moves.into_iter().enumerate() {
            story.until(ms(at).max(story.pair.passed()));
            let now = story.pair.now();
            story.pair.ends[number % 2].handle_path_changed(now);
            story.use_both();
        }
        story.finish();
    }
}

#[test]
fn a_peer_that_asks_for_room_and_acknowledges_nothing_costs_so_much_and_no_more() {
    let start = epoch();
    let mut stream = Stream::new(config(), Seed::from_u64(1), start);
    let (mut out, mut most) = ([0; 1_200], 0);
    for number in 0..100_000_u64 {
        let now = start + Duration::from_micros(number * 500);
        stream.handle_datagram(&forged(number, number, |writer| writer.blocked(5)), now);
        stream.handle_timeout(now);
        while stream.poll_transmit(&mut out).is_some() {}
        most = most.max(stream.memory());
    }
    assert!(most < 5 << 20, "{most} bytes");
    // Whoever acknowledges after all is spoken to again.
    let now = start + Duration::from_secs(60);
    let sent = stream.counters().sent;
    let ack = forged(100_000, 100_000, |writer| writer.ack(std::iter::once(0..sent), 0, 0));
    stream.handle_datagram(&ack, now);
    stream.write(&[1; 10_000], now).unwrap();
    assert!(stream.poll_transmit(&mut out).is_some_and(|length| length > 1_000));
}

#[test]
fn three_closes_while_it_is_being_reset_say_no_more_than_is_said_at_all() {
    let mut story = Story::open(calm(10), 1, [1_000, 0]);
    story.until(ms(100));
    let stream = &mut story.pair.ends[0];
    let mut resets = 0;
    for _ in 0..9 {
        stream.close(epoch() + ms(100));
        while stream.poll_transmit(&mut [0; 1_200]).is_some() {
            resets += 1;
        }
    }
    assert_eq!(resets, 3);
}

/// Whoever lets go when everything was delivered must have heard the peer's end, too: it may come after the last bytes.
#[test]
fn an_end_whose_peer_has_not_said_its_own_end_is_not_done() {
    let mut story = Story::open(calm(10), 1, [1_000, 0]);
    story.pair.ends[0].finish(epoch()).unwrap();
    story.pair.drain(0);
    story.pair.ends[1].write(b"the last bytes", epoch()).unwrap();
    story.pair.drain(1);
    story.pair.run_until(epoch() + ms(500));
    let [end, peer] = &mut story.pair.ends;
    assert!(end.is_delivered() && !end.is_done());
    peer.finish(epoch() + ms(500)).unwrap();
    story.pair.drain(1);
    story.pair.run_until(epoch() + ms(600));
    assert!(story.pair.ends.iter().all(Stream::is_done));
    story.pair.ends[0].close(epoch() + ms(600));
    story.pair.drain(0);
    story.pair.run_until(epoch() + ms(60_000));
    let is_cut = |event: &Event| matches!(event, Event::Ended(Some(_)));
    assert!(!story.pair.events.iter().flatten().any(is_cut), "{:?}", story.pair.events);
}

#[test]
fn a_path_that_carries_small_packets_only_carries_all_of_it() {
    // The stream's largest datagram is 1,228 bytes long with its headers here.
    for (seed, mtu) in [1_200, 1_124, 800, 576].into_iter().enumerate() {
        let link = LinkConfig { mtu: Some(mtu), ..calm(40) };
        for wanted in [[1_000, 0], [1_150, 3_000], [2_000_000, 500_000]] {
            let mut story = Story::new(link, seed as u64, wanted);
            story.finish();
            assert!(
                story.pair.passed() < Duration::from_secs(30),
                "{mtu}, {wanted:?}: {:?}",
                story.pair.passed()
            );
        }
    }
}

#[test]
fn a_path_that_becomes_narrow_goes_on_and_a_wide_one_is_used() {
    let mut story = Story::open(calm(20), 1, [u64::MAX, 0]);
    story.until(ms(2_000));
    let most = |story: &mut Story| {
        let (mut most, mut out) = (0, [0; 2_048]);
        while let Some(length) = story.pair.ends[0].poll_transmit(&mut out) {
            most = most.max(length);
        }
        most
    };
    let now = story.pair.now();
    story.pair.ends[0].write(&[0; 60_000], now).unwrap_or_default();
    story.pair.step();
    assert!(story.pair.ends[0].counters().sent > 100);
    let _ = most(&mut story);
    let before = story.read[1];
    let narrow = LinkConfig { mtu: Some(1_124), ..calm(20) };
    story.pair.set_link(narrow, &mut Seed::from_u64(3)).unwrap();
    story.until(Duration::from_secs(12));
    assert!(story.read[1] > before + 1_000_000, "{} bytes after {before}", story.read[1]);
    assert!(story.pair.events[0].iter().all(|event| !matches!(event, Event::Ended(_))));
}

#[test]
fn data_that_nobody_acknowledges_ends_it_though_the_peer_is_heard() {
    let link = LinkConfig { mtu: Some(200), ..calm(20) };
    let mut story = Story::open(link, 1, [100_000, 0]);
    story.until(Duration::from_secs(25));
    assert!(!story.pair.events[0].contains(&Event::Ended(Some(TransportError::Stuck))));
    // The peer asks for signs of life all the time, and gets them.
    story.until(Duration::from_secs(60));
    assert_eq!(
        story.pair.events[0].last(),
        Some(&Event::Ended(Some(TransportError::Stuck))),
        "{:?}",
        story.pair.events
    );
}
