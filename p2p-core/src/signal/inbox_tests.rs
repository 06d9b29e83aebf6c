//! Stories of the signals that an inbox lets through, and the laws of machines.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::seal::seal_bytes;
use super::senders::WINDOW;
use super::*;
use crate::attempt::AttemptId;
use crate::peer::{Contents, Identity, PeerAddr, PeerId};
use crate::rate::Rate;
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::{Clock, Seed, UnixTime};

const RECEIVER: u64 = 1_000;
const TTL: Duration = Duration::from_secs(30);

fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

fn id(number: u64) -> PeerId {
    identity(number).id()
}

fn address(number: u64) -> PeerAddr {
    let contents = Contents {
        brokers: Vec::new(),
        machine: None,
        interfaces: Vec::new(),
        issued: UnixTime::from_secs(1),
    };
    PeerAddr::sign(&identity(number), contents).unwrap()
}

/// Returns the moment at which stories begin.
fn start() -> Instant {
    epoch() + Duration::from_secs(3_600)
}

fn clock() -> Clock {
    clock_off(0)
}

/// Returns a clock that is this many seconds ahead or, when negative, behind.
fn clock_off(secs: i64) -> Clock {
    Clock::new(start(), UnixTime::from_secs(1_800_000_000u64.checked_add_signed(secs).unwrap()))
}

fn after(secs: f64) -> Instant {
    start() + Duration::from_secs_f64(secs)
}

fn scribe_with(number: u64, clock: Clock) -> Scribe {
    let mut scribe = Scribe::new(identity(number), clock, Seed::from_u64(number));
    scribe.set_address(address(number)).unwrap();
    scribe
}

/// Returns a scribe whose clock is right.
fn scribe(number: u64) -> Scribe {
    scribe_with(number, clock())
}

fn write(scribe: &mut Scribe, now: Instant) -> Bytes {
    scribe.write(id(RECEIVER), AttemptId([7; 16]), Body::AskAddr, TTL, now).unwrap()
}

/// Returns a signal as somebody who keeps no rules would make it.
fn forge(number: u64, seq: u64, issued: UnixTime, ttl: Duration) -> Bytes {
    let signal = Signal {
        from: id(number),
        to: id(RECEIVER),
        attempt: AttemptId([7; 16]),
        seq,
        issued,
        expires: issued.after(ttl),
        sender: address(number),
        body: Body::Bye,
    };
    seal(&identity(number), &id(RECEIVER), &signal, &mut Seed::from_u64(seq)).unwrap()
}

fn inbox_with(limits: InboxLimits) -> Inbox {
    let config = InboxConfig { identity: identity(RECEIVER), clock: clock(), limits };
    Inbox::new(config, Seed::from_u64(1), start())
}

fn inbox() -> Inbox {
    inbox_with(InboxLimits::default())
}

/// Gives bytes to an inbox, and returns the signal that it delivers.
fn hear(inbox: &mut Inbox, channel: u32, bytes: &[u8], now: Instant) -> Option<Signal> {
    inbox.handle_sealed(channel, bytes, now);
    let mut drained = drain(inbox);
    assert_eq!(drained.wait, None);
    assert!(drained.events.len() <= 1);
    drained.events.pop().map(|InboxEvent::Signal { signal, channel: from }| {
        assert_eq!(from, channel);
        *signal
    })
}

/// Returns the number of all signals that were counted, dropped or not.
fn total(counters: &InboxCounters) -> u64 {
    let shown = format!("{counters:?}");
    let digits = |field: &str| field.trim().trim_end_matches([' ', '}']).parse::<u64>().ok();
    shown.split([':', ',']).filter_map(digits).sum()
}

#[test]
fn the_same_over_three_brokers_is_heard_once() {
    let (mut inbox, mut alice) = (inbox(), scribe(1));
    let bytes = write(&mut alice, start());
    let heard = hear(&mut inbox, 2, &bytes, after(0.1)).unwrap();
    assert_eq!((heard.from, heard.to, heard.body), (id(1), id(RECEIVER), Body::AskAddr));
    assert_eq!(heard.sender, address(1));
    assert_eq!(hear(&mut inbox, 1, &bytes, after(0.1)), None);
    assert_eq!(hear(&mut inbox, 3, &bytes, after(0.3)), None);
    let counters = inbox.counters();
    assert_eq!((counters.delivered, counters.duplicate, total(counters)), (1, 2, 3));
}

#[test]
fn sealed_anew_it_is_still_a_replay() {
    let mut inbox = inbox();
    let issued = clock().unix(start());
    let signal = open(&identity(RECEIVER), &forge(1, 5, issued, TTL)).unwrap();
    for seed in 0..3 {
        let bytes = seal(&identity(1), &id(RECEIVER), &signal, &mut Seed::from_u64(seed)).unwrap();
        assert_eq!(hear(&mut inbox, 0, &bytes, start()).is_some(), seed == 0);
    }
    assert_eq!(inbox.counters().replay, 2);
}

#[test]
fn a_replay_after_eviction_is_stale() {
    let mut inbox = inbox_with(InboxLimits { most_senders: 2, most_seen: 1, ..InboxLimits::default() });
    let mut alice = scribe(1);
    let old = write(&mut alice, after(1.0));
    assert!(hear(&mut inbox, 0, &old, after(1.0)).is_some());
    for number in 2..4 {
        let now = after(number as f64);
        assert!(hear(&mut inbox, 0, &write(&mut scribe(number), now), now).is_some());
    }
    assert_eq!(hear(&mut inbox, 0, &old, after(5.0)), None, "Alice is forgotten, her words are not");
    assert_eq!(inbox.counters().stale, 1);
    // A stranger who wrote before Alice's last signal might be a forgotten sender too.
    assert_eq!(hear(&mut inbox, 0, &write(&mut scribe(9), after(0.5)), after(5.0)), None);
    assert_eq!(inbox.counters().stale, 2);
    assert!(hear(&mut inbox, 0, &write(&mut alice, after(5.0)), after(5.0)).is_some());
}

#[test]
fn who_has_nothing_alive_is_forgotten_without_a_trace() {
    let mut inbox = inbox_with(InboxLimits { most_senders: 2, most_seen: 1, ..InboxLimits::default() });
    let old = write(&mut scribe(1), start());
    assert!(hear(&mut inbox, 0, &old, start()).is_some());
    assert!(hear(&mut inbox, 0, &write(&mut scribe(2), start()), start()).is_some());
    // Both have expired, even by a clock that is 60 s slow. The clock of the third sender is 59 s slow.
    let now = after(91.0);
    let slow = write(&mut scribe_with(3, clock_off(-59)), now);
    assert!(hear(&mut inbox, 0, &slow, now).is_some());
    assert_eq!(hear(&mut inbox, 0, &old, now), None);
    assert_eq!(inbox.counters().expired, 1);

    inbox.handle_clock(clock_off(-90), now);
    hear(&mut inbox, 0, &slow, now);
    assert_eq!(hear(&mut inbox, 0, &old, now), None, "time that steps back revives nothing");
    assert_eq!(inbox.counters().stale, 1);
}

#[test]
fn a_flood_costs_little_and_stops_nobody_else() {
    let mut inbox = inbox();
    let mut dice = Seed::from_u64(4);
    let good = write(&mut scribe(1), start());
    let elsewhere = seal_bytes(&identity(3), &id(4), vec![0; 99], &mut dice).unwrap();
    let megabyte = vec![1; 1 << 20];
    for round in 0..2_500u64 {
        let now = start() + Duration::from_micros(400 * round);
        let mut random = vec![0; 512];
        dice.fill(&mut random);
        random[0] = 1;
        let mut forged = good.to_vec();
        forged[1 + dice.below(511) as usize] ^= 1 << dice.below(8);
        let cut = &good[..dice.below(512) as usize];
        for bytes in [&megabyte[..], cut, &random, &forged, &elsewhere] {
            assert_eq!(hear(&mut inbox, 1, bytes, now), None);
        }
    }
    let counters = *inbox.counters();
    assert_eq!(counters.size, 5_000);
    assert!(counters.broken <= 151, "opened {} in a second", counters.broken);
    assert!(counters.channel_rate + counters.duplicate >= 7_349, "{counters:?}");
    assert_eq!(total(&counters), 12_500);

    // A signal from the flooded channel is not opened, and so is not spoilt for the other channel.
    let flooded = after(0.9997);
    assert_eq!(hear(&mut inbox, 1, &good, flooded), None);
    assert_eq!(inbox.counters().channel_rate, counters.channel_rate + 1);
    assert!(hear(&mut inbox, 2, &good, flooded).is_some());
    // A second later the flooded channel is heard again too.
    let again = write(&mut scribe(2), after(1.0));
    assert!(hear(&mut inbox, 1, &again, after(2.0)).is_some());
}

#[test]
fn ever_new_channels_have_no_budget_of_their_own() {
    let mut inbox = inbox();
    let mut dice = Seed::from_u64(4);
    let mut bytes = vec![1; 512];
    for channel in 0..500 {
        dice.fill(&mut bytes[1..]);
        hear(&mut inbox, channel, &bytes, start());
    }
    assert_eq!((inbox.counters().broken, inbox.counters().channel_rate), (64, 436));
    assert!(hear(&mut inbox, 9_999, &write(&mut scribe(1), start()), after(1.0)).is_some(), "rested");
}

#[test]
fn clocks_may_differ_by_a_minute_and_no_more() {
    for (secs, heard) in [(-61 - 30, false), (-59 - 30, true), (0, true), (59, true), (61, false)] {
        let mut inbox = inbox_with(InboxLimits::default());
        // The time is so late that no signal is from before the inbox was made.
        let now = after(1_000.0);
        let bytes = write(&mut scribe_with(1, clock_off(secs)), now);
        assert_eq!(hear(&mut inbox, 0, &bytes, now).is_some(), heard, "{secs} s");
        let counters = inbox.counters();
        assert_eq!(counters.early, u64::from(secs == 61));
        assert_eq!(counters.expired, u64::from(secs == -91));
    }
}

#[test]
fn after_a_suspend_the_clock_is_put_right() {
    let mut inbox = inbox();
    let mut alice = scribe_with(1, clock_off(7_200));
    assert_eq!(hear(&mut inbox, 0, &write(&mut alice, after(1.0)), after(1.0)), None);
    assert_eq!(inbox.counters().early, 1);
    inbox.handle_clock(clock_off(7_200), after(2.0));
    assert!(hear(&mut inbox, 0, &write(&mut alice, after(2.0)), after(2.0)).is_some());
}

#[test]
fn no_signal_lives_long_or_backwards() {
    let mut inbox = inbox();
    let issued = clock().unix(start());
    assert!(hear(&mut inbox, 0, &forge(1, 1, issued, MOST_TTL), start()).is_some());
    assert_eq!(hear(&mut inbox, 0, &forge(1, 2, issued, MOST_TTL + Duration::from_micros(1)), start()), None);
    let mut backwards = open(&identity(RECEIVER), &forge(1, 3, issued, TTL)).unwrap();
    backwards.expires = issued.before(Duration::from_micros(1));
    let bytes = seal(&identity(1), &id(RECEIVER), &backwards, &mut Seed::from_u64(3)).unwrap();
    assert_eq!(hear(&mut inbox, 0, &bytes, start()), None);
    assert_eq!(inbox.counters().lifetime, 2);
}

#[test]
fn a_new_life_does_not_repeat_the_old_one() {
    let (mut inbox, mut alice) = (inbox(), scribe(1));
    let before =
        alice.write(id(RECEIVER), AttemptId([1; 16]), Body::Bye, MOST_TTL, start() - Duration::from_secs(61));
    assert_eq!(hear(&mut inbox, 0, &before.unwrap(), start()), None);
    assert_eq!(inbox.counters().stale, 1);
    // A sender whose clock is slow, or who just missed us, is heard.
    let missed = write(&mut alice, start() - Duration::from_secs(29));
    assert!(hear(&mut inbox, 0, &missed, start()).is_some());
}

#[test]
fn overtaken_is_not_lost_but_far_behind_is() {
    let mut inbox = inbox();
    let mut alice = scribe(1);
    let all: Vec<Bytes> = (0..WINDOW + 2).map(|nth| write(&mut alice, after(nth as f64 * 0.2))).collect();
    let now = |nth: usize| after(20.0 + nth as f64 * 0.1);
    for (nth, bytes) in all.iter().enumerate().skip(2) {
        assert!(hear(&mut inbox, 0, bytes, now(nth)).is_some());
    }
    // As many signals as are remembered came before these two. The newer one takes the place of one not yet taken.
    assert!(hear(&mut inbox, 1, &all[1], now(99)).is_some());
    assert_eq!(hear(&mut inbox, 1, &all[0], now(99)), None);
    assert_eq!(inbox.counters().stale, 1);
}

#[test]
fn who_speaks_too_much_is_cut_short_alone() {
    let mut inbox = inbox();
    let mut alice = scribe(1);
    let heard = (0..90).filter(|_| hear(&mut inbox, 0, &write(&mut alice, start()), start()).is_some());
    assert_eq!(heard.count(), 40);
    assert_eq!(inbox.counters().sender_rate, 50);
    assert!(hear(&mut inbox, 0, &write(&mut scribe(2), start()), start()).is_some());
    assert!(hear(&mut inbox, 0, &write(&mut alice, after(1.0)), after(1.0)).is_some());
}

#[test]
fn strangers_and_echoes_are_dropped() {
    let mut inbox = inbox();
    inbox.set_allowed(Some(BTreeSet::from([id(1)])));
    assert!(hear(&mut inbox, 0, &write(&mut scribe(1), start()), start()).is_some());
    assert_eq!(hear(&mut inbox, 0, &write(&mut scribe(2), start()), start()), None);
    assert_eq!(inbox.counters().not_allowed, 1);
    inbox.set_allowed(None);
    assert!(hear(&mut inbox, 0, &write(&mut scribe(2), after(1.0)), after(1.0)).is_some());
    assert_eq!(hear(&mut inbox, 0, &forge(RECEIVER, 1, clock().unix(start()), TTL), start()), None);
    assert_eq!(inbox.counters().own, 1);
}

#[test]
fn sealed_lies_and_later_versions_have_their_counters() {
    let mut inbox = inbox();
    let mut seed = Seed::from_u64(4);
    let mut seal = |plain: Vec<u8>| seal_bytes(&identity(9), &id(RECEIVER), plain, &mut seed).unwrap();
    let alices = open(&identity(RECEIVER), &write(&mut scribe(1), start())).unwrap().to_bytes();
    let mut later = alices.clone();
    later[4] = 2;
    let mut unknown = alices.clone();
    unknown[5] = 1;
    for bytes in [seal(alices), seal(later), seal(unknown), seal(b"hello, this is Bob".to_vec())] {
        assert_eq!(hear(&mut inbox, 0, &bytes, start()), None);
    }
    let mut envelope = write(&mut scribe(1), start()).to_vec();
    envelope[0] = 2;
    assert_eq!(hear(&mut inbox, 0, &envelope, start()), None);
    let counters = inbox.counters();
    assert_eq!((counters.forged, counters.version, counters.malformed, total(counters)), (1, 3, 1, 5));
}

#[test]
fn an_owner_who_does_not_poll_loses_signals_not_memory() {
    let limits = InboxLimits::default();
    let plenty = Rate { per_second: 1_000, burst: 1_000 };
    let mut inbox = inbox_with(InboxLimits { channel: plenty, sender: plenty, ..limits });
    let mut alice = scribe(1);
    for _ in 0..300 {
        inbox.handle_sealed(0, &write(&mut alice, start()), start());
    }
    assert_eq!(drain(&mut inbox).events.len(), 256);
    assert_eq!(inbox.counters().unread, 44);
    inbox.close(start());
    inbox.handle_sealed(0, &write(&mut alice, start()), start());
    assert!(drain(&mut inbox).is_quiet());
}

#[test]
fn numbers_rise_through_pauses_and_restarts() {
    let seq = |bytes: Bytes| open(&identity(RECEIVER), &bytes).unwrap().seq;
    let mut alice = scribe(1);
    let mut seqs: Vec<u64> = (0..3).map(|_| seq(write(&mut alice, start()))).collect();
    seqs.push(seq(write(&mut alice, after(0.5))));
    seqs.push(seq(write(&mut alice, after(0.1))));
    seqs.push(seq(write(&mut scribe(1), after(1.0))));
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
}

#[test]
fn a_scribe_refuses_what_nobody_would_take() {
    let mut alice = Scribe::new(identity(1), clock(), Seed::from_u64(1));
    let write = |alice: &mut Scribe, to: u64, ttl: Duration| {
        alice.write(id(to), AttemptId::new(&mut Seed::from_u64(1)), Body::Bye, ttl, start())
    };
    assert_eq!(write(&mut alice, 2, TTL), Err(WriteError::NoAddress));
    assert_eq!(alice.set_address(address(2)), Err(WriteError::NotOurs));
    alice.set_address(address(1)).unwrap();
    assert_eq!(write(&mut alice, 1, TTL), Err(WriteError::ToSelf));
    let ttl = MOST_TTL * 2;
    assert_eq!(write(&mut alice, 2, ttl), Err(WriteError::Ttl { ttl }));
    assert!(write(&mut alice, 2, MOST_TTL).is_ok());
}

/// The sealed signals of four senders, good and odd, for the two tests below.
static CORPUS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let base = clock().unix(start());
    let mut all = Vec::new();
    for number in 1..5u64 {
        for nth in 0..6u64 {
            let issued = base.after(Duration::from_secs(nth * 20 + number));
            all.push(forge(number, nth * 7, issued, Duration::from_secs(10 + 40 * nth)));
        }
    }
    all.push(forge(RECEIVER, 1, base, TTL));
    all.push(seal_bytes(&identity(1), &id(RECEIVER), vec![3; 50], &mut Seed::from_u64(1)).unwrap());
    all
});

fn cramped() -> InboxLimits {
    InboxLimits { most_senders: 2, most_seen: 2, ..InboxLimits::default() }
}

proptest! {
    // Each case opens some 70 signals. The fuzz target `signal` tests many more.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Holds for any repetition, reordering and forgetting, and for any jumps of the clock.
    #[test]
    fn nothing_is_ever_delivered_twice(
        steps in prop::collection::vec((0usize..26, 0u64..20, -300i64..300), 1..150),
    ) {
        let mut inbox = inbox_with(cramped());
        let mut delivered = BTreeSet::new();
        let mut now = start();
        for (which, pause, off) in steps {
            now += Duration::from_secs(pause / 2);
            if pause == 19 {
                inbox.handle_clock(clock_off(off), now);
            }
            if let Some(signal) = hear(&mut inbox, 0, &CORPUS[which], now) {
                prop_assert!(delivered.insert((signal.from, signal.seq)), "{signal:?} came twice");
            }
        }
    }
}
