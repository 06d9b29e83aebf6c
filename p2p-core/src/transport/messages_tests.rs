//! Stories of messages, in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sim::epoch;
use crate::sim::link::LinkConfig;
use crate::sim::pair::Pair;
use crate::transport::{Token, Tokens};

const OURS: Token = Token([1; 8]);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config() -> TransportConfig {
    TransportConfig::new(Tokens { ours: OURS, theirs: Token([2; 8]) })
}

fn forged(number: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![0; 1_200];
    let mut writer = Writer::new(&mut out, OURS, number, 0);
    fill(&mut writer);
    let written = writer.written();
    out.truncate(written);
    out
}

/// A message that says who it is, by its length and its bytes.
fn message(number: u64, length: usize) -> Bytes {
    let mut bytes = vec![number as u8; length.max(8)];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

/// Sends messages of these lengths over a link; answers in which order they came.
fn exchange(link: LinkConfig, seed: u64, lengths: &[usize]) -> Vec<u64> {
    let mut pair = Pair::<Messages>::new(link, Seed::from_u64(seed), |_| ()).unwrap();
    let now = pair.now();
    pair.ends[1].finish(now).unwrap();
    pair.drain(1);
    let (mut sent, mut came) = (0, Vec::new());
    loop {
        let now = pair.now();
        while let Some(length) = lengths.get(sent) {
            match pair.ends[0].send(message(sent as u64, *length), now) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        if sent == lengths.len() {
            pair.ends[0].finish(now).unwrap();
        }
        while let Some(one) = pair.ends[1].receive(now).unwrap() {
            let number = u64::from_be_bytes(one[..8].try_into().unwrap());
            assert_eq!(one, message(number, lengths[number as usize]), "whole");
            came.push(number);
        }
        if pair.ends[1].is_ended() {
            break;
        }
        pair.drain(0);
        pair.drain(1);
        pair.step().expect("it rests before the end");
        assert!(pair.passed() < Duration::from_secs(3_600), "{} of {}", came.len(), lengths.len());
    }
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pair.next(), None, "both rest");
    assert!(pair.events.iter().all(|events| events.last() == Some(&Event::Ended(None))), "{:?}", pair.events);
    came
}

#[test]
fn a_lost_message_holds_no_other_up() {
    let link =
        LinkConfig { loss: 0.1, duplicate: 0.1, rate: Some(10_000_000), ..LinkConfig::with_latency(ms(30)) };
    let mut came = exchange(link, 1, &[500; 500]);
    assert!(!came.is_sorted());
    came.sort_unstable();
    assert!(came.into_iter().eq(0..500), "each once");
}

#[test]
fn empty_and_longest_messages_are_messages() {
    let mut pair =
        Pair::<Messages>::new(LinkConfig::with_latency(ms(10)), Seed::from_u64(1), |_| ()).unwrap();
    let now = pair.now();
    assert_eq!(
        pair.ends[0].send(vec![0; MOST_MESSAGE + 1].into(), now),
        Err(SendError::TooLong(MOST_MESSAGE + 1))
    );
    for length in [0, MOST_MESSAGE, 0] {
        pair.ends[0].send(vec![5; length].into(), now).unwrap();
    }
    pair.drain(0);
    pair.run_for(ms(500));
    let now = pair.now();
    let mut lengths = Vec::new();
    while let Some(one) = pair.ends[1].receive(now).unwrap() {
        lengths.push(one.len());
    }
    lengths.sort_unstable();
    assert_eq!(lengths, [0, 0, MOST_MESSAGE]);
    assert!(pair.ends[0].is_delivered());
}

#[test]
fn who_does_not_receive_stops_the_sender_and_costs_a_window() {
    let mut pair =
        Pair::<Messages>::new(LinkConfig::with_latency(ms(10)), Seed::from_u64(1), |_| ()).unwrap();
    let mut sent = 0u64;
    for _ in 0..2_000 {
        let now = pair.now();
        while pair.ends[0].send(message(sent, 100), now).is_ok() {
            sent += 1;
        }
        pair.drain(0);
        pair.run_for(ms(10));
    }
    assert!(sent < 10_000, "{sent}");
    assert!(pair.ends[1].memory() < 600_000, "{}", pair.ends[1].memory());
    let mut came = 0;
    while came < sent {
        let now = pair.now();
        while pair.ends[1].receive(now).unwrap().is_some() {
            came += 1;
        }
        pair.drain(1);
        pair.run_for(ms(10));
        assert!(pair.passed() < Duration::from_secs(60));
    }
    assert!(pair.events[0].contains(&Event::Writable));
}

#[test]
fn a_peer_that_contradicts_itself_is_left() {
    fn part(id: u64, total: u64) -> impl Fn(&mut Writer<'_>) {
        move |writer| writer.message(id, total, 0, 9).fill(0)
    }
    fn refused(second: impl Fn(&mut Writer<'_>), why: &str) {
        let now = epoch();
        let mut messages = Messages::new(config(), Seed::from_u64(1), now);
        messages.handle_datagram(&forged(0, part(3, 20)), now);
        messages.handle_datagram(&forged(1, |writer| writer.end(4)), now);
        assert_eq!(messages.counters().received, 2);
        messages.handle_datagram(&forged(2, second), now);
        assert_eq!(messages.counters().contradiction, 1, "{why}");
        assert_eq!(messages.receive(now), Err(TransportError::Contradiction), "{why}");
    }
    refused(part(2, 1 << 20), "too long");
    refused(|writer| writer.data(0, 9, false).fill(0), "of a stream");
    refused(part(3, 21), "another length");
    refused(|writer| writer.end(3), "fewer than there were");
    refused(|writer| writer.end(5), "another end");
    refused(part(4, 9), "after the end");
}

#[test]
fn begun_messages_cost_no_more_than_a_window() {
    let now = epoch();
    let mut messages = Messages::new(config(), Seed::from_u64(1), now);
    for id in 0..1_000 {
        messages.handle_datagram(&forged(id, |writer| writer.message(id, 60_000, 7, 9).fill(0)), now);
    }
    assert_eq!(messages.counters().outside, 996, "four of them are a window");
    assert!(messages.memory() < 400_000, "{}", messages.memory());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn each_message_comes_once_through_any_link(
        seed in any::<u64>(),
        loss in 0.0..0.3f64,
        reorder in 0.0..0.5f64,
        duplicate in 0.0..0.5f64,
        latency in 0u64..200,
        lengths in proptest::collection::vec(prop_oneof![8usize..200, 8usize..5_000, 60_000..=MOST_MESSAGE], 0..60),
    ) {
        let link = LinkConfig {
            loss,
            reorder,
            duplicate,
            rate: Some(20_000_000),
            queue: 20_000,
            ..LinkConfig::with_latency(ms(latency))
        };
        let mut came = exchange(link, seed, &lengths);
        came.sort_unstable();
        prop_assert!(came.into_iter().eq(0..lengths.len() as u64));
    }
}
