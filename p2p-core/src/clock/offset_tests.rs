//! Properties of offsets: honest clocks are never misjudged, and dishonest ones do bounded harm.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::sim::epoch;

const MILLI: u64 = 1_000_000;
/// The time that both clocks show when a story begins, in nanoseconds.
const NOON: i128 = 1_800_000_000_000_000_000;

/// Two clocks, by true nanoseconds since the story began. Ours is the measure; theirs is ahead and drifts.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// The nanoseconds by which their clock is ahead at the start.
    ahead: i64,
    /// The nanoseconds by which it gains every millisecond, which is its drift in ppm.
    drift: i64,
}

impl Pair {
    fn truth(self, at: u64) -> i64 {
        self.ahead + (i128::from(at) * i128::from(self.drift) / 1_000_000) as i64
    }

    fn ours(self, at: u64) -> UnixTime {
        UnixTime(((NOON + i128::from(at)) / 1_000) as u64)
    }

    fn theirs(self, at: u64) -> UnixTime {
        UnixTime(((NOON + i128::from(at) + i128::from(self.truth(at))) / 1_000) as u64)
    }

    fn exchange(self, way: Way) -> Exchange {
        let (received, replied) = (way.sent + way.there, way.sent + way.there + way.held);
        Exchange::new(
            self.ours(way.sent),
            self.theirs(received),
            self.theirs(replied),
            self.ours(way.heard()),
        )
    }
}

/// One question and answer, in true nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Way {
    sent: u64,
    there: u64,
    held: u64,
    back: u64,
}

impl Way {
    fn heard(self) -> u64 {
        self.sent + self.there + self.held + self.back
    }
}

fn instant(at: u64) -> Instant {
    epoch() + Duration::from_nanos(at)
}

fn pair() -> impl Strategy<Value = Pair> {
    (-400 * 86_400_000_000_000_i64..400 * 86_400_000_000_000, -100_i64..=100)
        .prop_map(|(ahead, drift)| Pair { ahead, drift })
}

fn way() -> impl Strategy<Value = (u64, u64, u64, u64)> {
    // The pauses are up to a minute, each direction takes up to a second, and the answer is held up to two seconds.
    (0..60_000 * MILLI, 0..1_000 * MILLI, 0..2_000 * MILLI, 0..1_000 * MILLI)
}

fn ways(most: usize) -> impl Strategy<Value = Vec<Way>> {
    vec(way(), 1..most).prop_map(|drawn| {
        let mut sent = 0;
        drawn
            .into_iter()
            .map(|(pause, there, held, back)| {
                let way = Way { sent: sent + pause, there, held, back };
                sent = way.heard();
                way
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn the_truth_is_always_within_the_bound(pair in pair(), ways in ways(20), later in 0..600_000 * MILLI) {
        let mut filter = OffsetFilter::default();
        for way in &ways {
            prop_assert_eq!(filter.add(pair.exchange(*way), instant(way.heard())), Ok(()));
            for now in [way.heard(), way.heard() + later] {
                let offset = filter.offset(instant(now)).unwrap();
                prop_assert!(offset.contains(pair.truth(now)), "{offset} is not {}", pair.truth(now));
            }
        }
        prop_assert_eq!(filter.steps(), 0);
        prop_assert!(filter.len() <= MOST_EXCHANGES);
    }

    #[test]
    fn more_exchanges_make_it_surer(pair in pair(), ways in ways(MOST_EXCHANGES)) {
        let mut filter = OffsetFilter::default();
        for way in &ways {
            let (now, exchange) = (instant(way.heard()), pair.exchange(*way));
            let before = filter.offset(now);
            filter.add(exchange, now).unwrap();
            let after = filter.offset(now).unwrap();
            prop_assert!(before.is_none_or(|before| after.error <= before.error));
            let alone = exchange.rtt() / 2 + DRIFT.of(Duration::from_secs(4)) + Duration::from_micros(2);
            prop_assert!(after.error <= alone, "{after} after a round trip of {:?}", exchange.rtt());
        }
    }

    #[test]
    fn it_only_grows_older_by_the_drift(pair in pair(), ways in ways(9), by in 0..10_000_000 * MILLI) {
        let mut filter = OffsetFilter::default();
        for way in &ways {
            filter.add(pair.exchange(*way), instant(way.heard())).unwrap();
        }
        let now = ways.last().unwrap().heard();
        let (fresh, by) = (filter.offset(instant(now)).unwrap(), Duration::from_nanos(by));
        let old = filter.offset(instant(now) + by).unwrap();
        let allowed = DRIFT.of(by) + Duration::from_nanos(2);
        prop_assert!(old.error >= fresh.error && old.error <= fresh.error + allowed);
        let earlier = instant(now).checked_sub(by).unwrap_or(instant(now));
        prop_assert_eq!(filter.offset(earlier), Some(fresh), "no surer in the past");
    }

    #[test]
    fn any_stamps_are_judged(stamps in vec((any::<[u64; 4]>(), any::<u64>(), 0..MILLI), 0..30)) {
        let mut filter = OffsetFilter::default();
        for ([sent, received, replied, heard], unsure, at) in stamps {
            let [sent, received, replied, heard] = [sent, received, replied, heard].map(UnixTime);
            let unsure = Duration::from_secs(unsure);
            let _ = filter.add(Exchange { sent, received, replied, heard, unsure }, instant(at));
            let _ = filter.offset(instant(at));
        }
        prop_assert!(filter.len() <= MOST_EXCHANGES);
    }

    #[test]
    fn impossible_exchanges_change_nothing(pair in pair(), way in way(), which in 0..4) {
        let (_, there, held, back) = way;
        let way = Way { sent: 0, there, held, back };
        let honest = pair.exchange(way);
        let now = instant(way.heard());
        let mut filter = OffsetFilter::default();
        filter.add(honest, now).unwrap();
        let known = filter.offset(now);
        let second = Duration::from_secs(1);
        let hostile = match which {
            0 => Exchange { replied: honest.received.before(Duration::from_micros(1)), ..honest },
            1 => Exchange { heard: honest.sent.before(Duration::from_micros(1)), ..honest },
            2 => Exchange { replied: honest.received.after(honest.heard.since(honest.sent) + second), ..honest },
            _ => Exchange { heard: honest.heard.after(second * 11), ..honest },
        };
        prop_assert!(filter.add(hostile, now).is_err());
        prop_assert_eq!(filter.offset(now), known);
    }

    #[test]
    fn a_clock_that_was_set_is_believed_anew(pair in pair(), ways in ways(9), step in 5_000..90_000i64) {
        let mut filter = OffsetFilter::default();
        for way in &ways {
            filter.add(pair.exchange(*way), instant(way.heard())).unwrap();
        }
        let set = Pair { ahead: pair.ahead + step * MILLI as i64, ..pair };
        let last = ways.last().unwrap();
        let way = Way { sent: last.heard(), ..*last };
        filter.add(set.exchange(way), instant(way.heard())).unwrap();
        prop_assert_eq!((filter.steps(), filter.len()), (1, 1));
        prop_assert!(filter.offset(instant(way.heard())).unwrap().contains(set.truth(way.heard())));
    }

    #[test]
    fn a_majority_of_honest_sources_holds_the_truth(
        truth in any::<i32>(),
        honest in vec((-1_000_000..1_000_000i64, 0..1_000_000u64), 1..6),
        liars in vec((any::<i64>(), any::<u64>()), 0..5),
        at in any::<prop::sample::Index>(),
    ) {
        let truth = i64::from(truth);
        let told: Vec<Offset> = honest
            .iter()
            .map(|(off, more)| Offset::new(truth + off, Duration::from_nanos(off.unsigned_abs() + more)))
            .collect();
        let lies = liars.iter().take(honest.len() - 1);
        let lies = lies.map(|(nanos, error)| Offset::new(*nanos, Duration::from_nanos(*error)));
        let mut all = told.clone();
        for lie in lies {
            all.insert(at.index(all.len() + 1), lie);
        }
        let combined = combine(&all);
        prop_assert!(combined.is_some_and(|combined| combined.contains(truth)), "{combined:?} of {all:?}");
        let narrowest = combine(&told).unwrap().error;
        let widest = told.iter().map(|told| told.error).max().unwrap();
        prop_assert!(narrowest <= widest + Duration::from_nanos(1));
    }

    #[test]
    fn offsets_add_up(a in any::<i32>(), b in any::<i32>(), off in any::<[i16; 2]>()) {
        let (a, b) = (i64::from(a), i64::from(b));
        let measured = |truth: i64, off: i16| {
            Offset::new(truth + i64::from(off), Duration::from_nanos(off.unsigned_abs().into()))
        };
        let (to_b, to_c) = (measured(a, off[0]), measured(b, off[1]));
        prop_assert!(to_b.reversed().contains(-a));
        prop_assert!(to_b.then(to_c).contains(a + b));
        prop_assert_eq!(to_b.then(to_c).error, to_b.error + to_c.error);
        // Both know the offset of the third clock; that of the other one is the difference.
        prop_assert!(Offset::between(to_b, to_c).contains(a - b));
    }

    #[test]
    fn any_offset_can_be_worked_with(nanos: i64, error: Duration, other: i64, span: Duration, ppm: u32, at: u64) {
        let (one, two) = (Offset::new(nanos, error), Offset::new(other, span));
        let all = [one.then(two), one.reversed(), Offset::between(two, one), one.aged(span, Ppm(ppm))];
        prop_assert!(one.contains(nanos) && one.agrees(one) && all[3].contains(nanos));
        for offset in all {
            let _ = (offset.to_string(), offset.theirs(UnixTime(at)), offset.ours(UnixTime(at)));
            let _ = offset.instant(&Clock::new(epoch(), UnixTime(at)), UnixTime(0));
        }
        let _ = combine(&all);
    }
}

#[test]
fn the_fastest_way_there_and_the_fastest_way_back_need_not_be_of_one_exchange() {
    let pair = Pair { ahead: 5_000 * MILLI as i64, drift: 0 };
    let mut filter = OffsetFilter::new(Ppm(0), Duration::from_secs(10));
    for (sent, there, back) in [(0, 20, 300), (400, 300, 20), (900, 300, 300)] {
        let way = Way { sent: sent * MILLI, there: there * MILLI, held: 0, back: back * MILLI };
        filter.add(pair.exchange(way), instant(way.heard())).unwrap();
    }
    let offset = filter.offset(instant(1_600 * MILLI)).unwrap();
    assert_eq!(offset, Offset::new(5_000 * MILLI as i64, Duration::from_micros(20_001)));
    assert_eq!(filter.rtt(), Some(Duration::from_millis(320)));
    assert_eq!(offset.to_string(), "+5000.000 ms ± 20.001 ms");
}

/// A question that arrives at once and an answer that is long on its way, while the clocks drift apart.
#[test]
fn clocks_drift_while_an_answer_is_on_its_way() {
    for drift in [-100, 100] {
        let pair = Pair { ahead: 0, drift };
        for (there, back) in [(0, 3_000), (3_000, 0)] {
            let way = Way { sent: 0, there: there * MILLI, held: 0, back: back * MILLI };
            let (mut filter, heard) = (OffsetFilter::default(), instant(way.heard()));
            filter.add(pair.exchange(way), heard).unwrap();
            let offset = filter.offset(heard).unwrap();
            assert!(offset.contains(pair.truth(way.heard())), "{offset}, drifting by {drift} ppm");
        }
    }
}

#[test]
fn a_meeting_is_kept_by_both_clocks() {
    let clock = Clock::new(epoch(), UnixTime::from_secs(1_800_000_000));
    let offset = Offset::new(-1_500_000_000, Duration::from_millis(3));
    let meeting = UnixTime::from_secs(1_800_000_010);
    assert_eq!(offset.instant(&clock, meeting), Some(epoch() + Duration::from_millis(11_500)));
    assert_eq!(offset.theirs(offset.ours(meeting)), meeting);
    assert_eq!(offset.ours(meeting), UnixTime(1_800_000_011_500_000));
}

#[test]
fn a_tie_is_no_majority() {
    let at = |milli: i64| Offset::new(milli * MILLI as i64, Duration::from_millis(2));
    assert_eq!(combine(&[]), None);
    assert_eq!(combine(&[at(7)]), Some(at(7)));
    assert_eq!(combine(&[at(0), at(7)]), None);
    assert_eq!(combine(&[at(0), at(3)]).unwrap(), Offset::new(1_500_000, Duration::from_micros(500)));
    assert_eq!(combine(&[at(0), at(1), at(70)]).unwrap(), Offset::new(500_000, Duration::from_micros(1_500)));
    assert_eq!(combine(&[at(0), at(0), at(70), at(70)]), None);
}

/// Two honest servers and a liar whose range overlaps their common part: what all three allow misses the truth.
#[test]
fn a_liar_cannot_push_the_truth_out() {
    let honest = Offset::new(0, Duration::from_millis(10));
    let liar = Offset::new(12 * MILLI as i64, Duration::from_millis(3));
    assert_eq!(combine(&[honest, honest, liar]), Some(honest));
}
