//! The offset between two clocks, with a bound of its error.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Clock, UnixTime};

/// The exchanges an [`OffsetFilter`] remembers: as many as the clock filter of NTP (RFC 5905, section 7.2, NSTAGE).
pub const MOST_EXCHANGES: usize = 8;

/// The most that two clocks drift apart unless something else is known. The quartz of an ordinary computer is off by
/// up to 50 ppm, and there are two of them.
pub const DRIFT: Ppm = Ppm(100);

/// The nanoseconds by which one of our time stamps may be off, as each is cut to a microsecond.
const RESOLUTION: i128 = 1_000;

/// A relative speed in millionths: 1 ppm is a microsecond a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ppm(pub u32);

impl Ppm {
    /// Returns the drift over `span`, rounded up to a nanosecond.
    pub fn of(self, span: Duration) -> Duration {
        let nanos = span.as_nanos().saturating_mul(u128::from(self.0)).div_ceil(1_000_000);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The time by which another clock is ahead of ours, with a bound of the error.
///
/// The truth lies within `nanos ± error` as long as the assumptions of the measurement hold (see [`OffsetFilter`]).
/// Both ends are exact: arithmetic rounds the error up, never down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// The nanoseconds by which the other clock is ahead; negative when it is behind.
    pub nanos: i64,
    /// The greatest distance of the truth from `nanos`.
    pub error: Duration,
}

impl Offset {
    /// Returns the offset of a clock that is `nanos` ahead, ± `error`.
    pub const fn new(nanos: i64, error: Duration) -> Self {
        Self { nanos, error }
    }

    /// Returns the offset of one clock to another from the offset of a third, such as true time, to each. Of two
    /// peers that asked NTP servers, `ours` is what our clock is behind true time, and `theirs` what theirs is.
    pub fn between(ours: Self, theirs: Self) -> Self {
        ours.then(theirs.reversed())
    }

    /// Returns the offset as the other side sees it: the time by which our clock is ahead of theirs.
    pub fn reversed(self) -> Self {
        Self::enclosing(-self.high(), -self.low())
    }

    /// Returns the offset of a third clock to ours, when it is `next` ahead of the other one. The errors add up.
    pub fn then(self, next: Self) -> Self {
        Self::enclosing(self.low().saturating_add(next.low()), self.high().saturating_add(next.high()))
    }

    /// Returns the same offset `by` later, after the clocks may have drifted apart.
    pub fn aged(self, by: Duration, drift: Ppm) -> Self {
        Self { error: self.error.saturating_add(drift.of(by)), ..self }
    }

    /// Tells whether the truth can be `nanos`.
    pub fn contains(self, nanos: i64) -> bool {
        (self.low()..=self.high()).contains(&i128::from(nanos))
    }

    /// Tells whether both offsets can be true of the same two clocks.
    pub fn agrees(self, other: Self) -> bool {
        self.low() <= other.high() && other.low() <= self.high()
    }

    /// Returns the time that their clock shows when ours shows `ours`, ± the error and a microsecond.
    pub fn theirs(self, ours: UnixTime) -> UnixTime {
        shifted(ours, i128::from(self.nanos))
    }

    /// Returns the time that our clock shows when theirs shows `theirs`, ± the error and a microsecond.
    pub fn ours(self, theirs: UnixTime) -> UnixTime {
        shifted(theirs, -i128::from(self.nanos))
    }

    /// Returns the instant at which their clock shows `theirs`, or `None` when this platform cannot name it. `clock`
    /// must be ours, the one to which this is the offset.
    pub fn instant(self, clock: &Clock, theirs: UnixTime) -> Option<Instant> {
        clock.instant(self.ours(theirs))
    }

    fn low(self) -> i128 {
        i128::from(self.nanos) - nanos(self.error)
    }

    fn high(self) -> i128 {
        i128::from(self.nanos) + nanos(self.error)
    }

    /// Returns the smallest offset that holds everything from `low` to `high`.
    fn enclosing(low: i128, high: i128) -> Self {
        let middle = low.saturating_add(high) / 2;
        let middle = middle.clamp(i64::MIN.into(), i64::MAX.into());
        let error = (high.saturating_sub(middle)).max(middle.saturating_sub(low)).max(0);
        Self { nanos: middle as i64, error: span(error) }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.3} ms ± {:.3} ms", self.nanos as f64 / 1e6, self.error.as_secs_f64() * 1e3)
    }
}

fn nanos(span: Duration) -> i128 {
    i128::try_from(span.as_nanos()).unwrap_or(i128::MAX)
}

fn span(nanos: i128) -> Duration {
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// Returns `time` plus `by` nanoseconds, rounded to the nearest microsecond.
fn shifted(time: UnixTime, by: i128) -> UnixTime {
    let micros = i128::from(time.0) + (by + by.signum() * 500) / 1_000;
    UnixTime(u64::try_from(micros.max(0)).unwrap_or(u64::MAX))
}

/// Combines several estimates of one offset, and returns `None` when most of them do not agree.
///
/// The result holds every value that more than half of `sources` allow. So it holds the truth as long as more than
/// half of them are honest: liars can widen it and cannot move it. Two sources must agree, and the result is then
/// what they have in common. This is the fault-tolerant interval of Marzullo. The intersection of RFC 5905, section
/// 11.2.1, is narrower, and may miss the truth when a liar overlaps it.
///
/// Two peers may know each other's clocks by exchanges of messages, `exchanged`, and by NTP servers both asked,
/// `served`. For them the answer is `combine(&[exchanged, served]).unwrap_or(exchanged)`, because servers are not
/// authenticated.
pub fn combine(sources: &[Offset]) -> Option<Offset> {
    let most = sources.len() / 2 + 1;
    let allowed_by = |value: i128| {
        sources.iter().filter(|source| source.low() <= value && value <= source.high()).count() >= most
    };
    // The number of sources that allow a value rises only at a low end, and falls only after a high end.
    let low = sources.iter().map(|source| source.low()).filter(|low| allowed_by(*low)).min()?;
    let high = sources.iter().map(|source| source.high()).filter(|high| allowed_by(*high)).max()?;
    Some(Offset::enclosing(low, high))
}

/// The four time stamps of one question and its answer, each by the clock of the side that took it (RFC 5905, section
/// 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The time at which we sent the question, by our clock. Earlier than that is safe.
    pub sent: UnixTime,
    /// The time at which they received it, by their clock. Later is safe.
    pub received: UnixTime,
    /// The time at which they sent the answer, by their clock. Earlier is safe.
    pub replied: UnixTime,
    /// The time at which we heard it, by our clock. Later is safe.
    pub heard: UnixTime,
    /// The most by which their clock may be off from what is to be measured. It is zero when that is their clock
    /// itself. It is the root distance (RFC 5905, section 10) when that is the true time an NTP server tells of.
    pub unsure: Duration,
}

impl Exchange {
    /// Returns an exchange that measures their clock itself.
    pub const fn new(sent: UnixTime, received: UnixTime, replied: UnixTime, heard: UnixTime) -> Self {
        Self { sent, received, replied, heard, unsure: Duration::ZERO }
    }

    /// Returns the time that the messages were on their way, there and back.
    pub fn rtt(&self) -> Duration {
        self.heard.since(self.sent).saturating_sub(self.replied.since(self.received))
    }
}

/// A reason why an exchange is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImpossibleExchange {
    /// A clock went back between receiving and sending, or between asking and hearing.
    #[error("time went backwards between two of its stamps")]
    Backwards,
    /// The answer was held there for longer than the whole exchange took.
    #[error("the answer came before it could have")]
    TooFast,
    /// The exchange took longer than the limit, namely this, and such an answer tells next to nothing.
    #[error("it was on its way for {0:?}")]
    TooSlow(Duration),
    /// The clocks are more than 292 years apart.
    #[error("the clocks are centuries apart")]
    TooFar,
}

/// The bounds of one exchange: at `at` the offset was between the two.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    low: i128,
    high: i128,
    rtt: Duration,
}

impl Sample {
    fn aged(&self, now: Instant, drift: Ppm) -> (i128, i128) {
        let more = nanos(drift.of(now.saturating_duration_since(self.at)));
        (self.low - more, self.high + more)
    }
}

/// Estimates an offset from exchanges of time stamps.
///
/// A message cannot arrive before it was sent. So each exchange bounds the offset from both sides, by no more than
/// its round trip, however unlike the delays of the two directions are. The estimate is what all of the last
/// [`MOST_EXCHANGES`] allow. So the fastest way there and the fastest way back count, even when they belong to
/// different exchanges. The error is at most half the shortest round trip, plus drift.
///
/// That holds while no clock is set and the two drift apart by no more than the allowance. A clock that was set shows
/// as an exchange that contradicts earlier ones. Then those are forgotten and the newest is believed. A step smaller
/// than the error does not show until [`MOST_EXCHANGES`] later exchanges have come.
#[derive(Clone, Debug)]
pub struct OffsetFilter {
    drift: Ppm,
    most_rtt: Duration,
    samples: VecDeque<Sample>,
    steps: u32,
}

impl Default for OffsetFilter {
    /// Returns a filter with [`DRIFT`] and 10 s for a round trip, which is longer than a signal lives on its way
    /// through brokers.
    fn default() -> Self {
        Self::new(DRIFT, Duration::from_secs(10))
    }
}

impl OffsetFilter {
    /// Returns a filter for clocks that drift apart by `drift` at most. It does not believe exchanges that took more
    /// than `most_rtt`.
    pub fn new(drift: Ppm, most_rtt: Duration) -> Self {
        Self { drift, most_rtt, samples: VecDeque::new(), steps: 0 }
    }

    /// Takes in one exchange, heard at `now`.
    ///
    /// # Errors
    /// [`ImpossibleExchange`] when the stamps cannot be honest, or tell nothing. The estimate stays as it was.
    pub fn add(&mut self, exchange: Exchange, now: Instant) -> Result<(), ImpossibleExchange> {
        let Exchange { sent, received, replied, heard, unsure } = exchange;
        if replied < received || heard < sent {
            return Err(ImpossibleExchange::Backwards);
        }
        if exchange.rtt() > self.most_rtt {
            return Err(ImpossibleExchange::TooSlow(exchange.rtt()));
        }
        let apart = |theirs: UnixTime, ours: UnixTime| (i128::from(theirs.0) - i128::from(ours.0)) * 1_000;
        // The upper bound dates from the moment of the question, and the clocks have drifted since.
        let high = apart(received, sent) + RESOLUTION + nanos(self.drift.of(heard.since(sent)));
        let low = apart(replied, heard) - RESOLUTION;
        if low > high {
            return Err(ImpossibleExchange::TooFast);
        }
        if i64::try_from(low).is_err() || i64::try_from(high).is_err() {
            return Err(ImpossibleExchange::TooFar);
        }
        let (low, high) = (low - nanos(unsure), high + nanos(unsure));
        let (now, drift) = (self.not_before_the_last(now), self.drift);
        let before = self.samples.len();
        self.samples.retain(|sample| {
            let (earlier_low, earlier_high) = sample.aged(now, drift);
            earlier_low <= high && low <= earlier_high
        });
        if self.samples.len() < before {
            tracing::debug!(forgotten = before - self.samples.len(), "a clock was set");
            self.steps = self.steps.saturating_add(1);
        }
        if self.samples.len() == MOST_EXCHANGES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, low, high, rtt: exchange.rtt() });
        Ok(())
    }

    /// Returns the offset at `now`, and `None` before the first exchange.
    pub fn offset(&self, now: Instant) -> Option<Offset> {
        // Any two samples overlapped when the later one came in, and age only widens them. So all of them overlap.
        let now = self.not_before_the_last(now);
        let aged = || self.samples.iter().map(|sample| sample.aged(now, self.drift));
        let low = aged().map(|(low, _)| low).max()?;
        let high = aged().map(|(_, high)| high).min()?;
        Some(Offset::enclosing(low, high))
    }

    /// Returns `now`, or the time of the last exchange if that is later: an older `now` must not make the estimate
    /// surer.
    fn not_before_the_last(&self, now: Instant) -> Instant {
        self.samples.back().map_or(now, |last| now.max(last.at))
    }

    /// Returns the shortest round trip of the exchanges remembered.
    pub fn rtt(&self) -> Option<Duration> {
        self.samples.iter().map(|sample| sample.rtt).min()
    }

    /// Returns the number of exchanges remembered, [`MOST_EXCHANGES`] at most.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Tells whether no exchange is remembered yet.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Returns the number of times that one of the clocks was seen to have been set.
    pub fn steps(&self) -> u32 {
        self.steps
    }
}
