//! How much may be on its way, and how fast.
//!
//! The controller keeps a model of the path instead of taking every loss for a full queue: the highest rate at which
//! data was delivered lately, and the shortest round trip (BBR: Cardwell et al., ACM Queue 14-5, 2016, and
//! draft-ietf-ccwg-bbr). It sends at that rate, paced, with at most two round trips' worth on its way. A relayed path
//! often loses for reasons that have nothing to do with queues (radio, and servers that police), and the windows of
//! NewReno and CUBIC shrink with 1/√loss there: what that means is measured by `natlab relay-figures`.
//!
//! Loss is not ignored: more than [`HEAVY_LOSS`] of a round trip ends the search for a higher rate and makes the model
//! believe the last round only; a silence of several timeouts throws the model away.

use std::time::{Duration, Instant};

/// Datagrams that may go before anything is known (RFC 6928).
const INITIAL_WINDOW: usize = 10;
/// Datagrams that may always be on their way: two for the peer's ack, two on the way.
const LEAST_WINDOW: usize = 4;
/// Round trips for which a delivery rate is remembered.
const ROUNDS: usize = 10;
/// 2/ln 2: the least gain that doubles the rate in each round trip.
const STARTUP_GAIN: f64 = 2.885;
/// The other way round: what the start has put into a queue leaves it in one round trip.
const DRAIN_GAIN: f64 = 0.35;
/// One round trip faster, one slower, six as they are.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// On its way at most, in round trips' worth.
const WINDOW_GAIN: f64 = 2.0;
/// The start is over when three round trips have not brought a quarter more.
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u8 = 3;
/// How long the shortest round trip is believed, and how long it takes to measure it anew.
const LEAST_RTT_AGE: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// The share of one round trip's datagrams whose loss means that the path is overloaded, and how many they must be
/// for it to be no accident: at 20 % of random loss, that many of a round happen to be lost once in some hundreds.
const HEAVY_LOSS: f64 = 0.3;
const HEAVY_COUNT: u32 = 16;
/// How much of a second's bytes may go at once, so that a timer of 1 ms and one system call for many
/// datagrams are enough; within the bounds, in datagrams.
const BURST: f64 = 0.002;
const LEAST_BURST: usize = 4;
const MOST_BURST: usize = 128;

/// What was known when a datagram was sent; it goes with the datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    is_limited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Startup,
    Drain,
    Cruise { step: usize, since: Instant },
    ProbeRtt { until: Option<Instant> },
}

/// The controller.
#[derive(Debug)]
pub(super) struct Congestion {
    datagram: usize,
    phase: Phase,
    window: usize,
    /// The best of each of the last rounds, in bytes a second.
    rates: [f64; ROUNDS],
    slot: usize,
    best: f64,
    least_rtt: Option<(Duration, Instant)>,
    /// Bytes delivered so far, and when the last of them were.
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// Until so much is delivered, the sender had too little to send for its rate to mean anything.
    limited_until: Option<u64>,
    /// A round trip is over when this much is delivered.
    round_end: u64,
    round_best: f64,
    is_round_full: bool,
    round_acked: u32,
    round_lost: u32,
    full_rate: f64,
    full_rounds: u8,
    is_filled: bool,
    /// When all that was sent would have gone at the pace.
    paced_to: Instant,
    /// The burst is used up; go on then.
    resume_at: Option<Instant>,
}

/// What acks of one datagram of the peer's said together.
#[derive(Debug, Default)]
pub(super) struct Acked {
    newest: Option<(Instant, Snapshot)>,
    bytes: usize,
    count: u32,
}

impl Acked {
    pub(super) fn add(&mut self, size: usize, sent_at: Instant, snapshot: Snapshot) {
        self.bytes += size;
        self.count += 1;
        if self.newest.is_none_or(|(_, newest)| newest.delivered <= snapshot.delivered) {
            self.newest = Some((sent_at, snapshot));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_none()
    }
}

impl Congestion {
    pub(super) fn new(datagram: usize, now: Instant) -> Self {
        Self {
            datagram,
            phase: Phase::Startup,
            window: INITIAL_WINDOW * datagram,
            rates: [0.0; ROUNDS],
            slot: 0,
            best: 0.0,
            least_rtt: None,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            limited_until: None,
            round_end: 0,
            round_best: 0.0,
            is_round_full: false,
            round_acked: 0,
            round_lost: 0,
            full_rate: 0.0,
            full_rounds: 0,
            is_filled: false,
            paced_to: now,
            resume_at: None,
        }
    }

    /// Forgets the path: it is another one, or has become one.
    pub(super) fn reset(&mut self, now: Instant) {
        let delivered = self.delivered;
        // What is still on its way belongs to the old path: its snapshots are of no use.
        *self = Self { delivered, round_end: delivered, ..Self::new(self.datagram, now) };
    }

    /// Bytes that may be on their way.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The rate at which it sends now, in bytes a second; `None` before anything is known.
    pub(super) fn pace(&self) -> Option<f64> {
        let gain = match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => DRAIN_GAIN,
            Phase::Cruise { step, .. } => CYCLE[step],
            Phase::ProbeRtt { .. } => 1.0,
        };
        (self.best > 0.0).then_some(self.best * gain)
    }

    fn burst(&self, pace: f64) -> f64 {
        (pace * BURST).clamp((LEAST_BURST * self.datagram) as f64, (MOST_BURST * self.datagram) as f64)
    }

    /// Until when nothing may go, because of the pace.
    pub(super) fn resume_at(&self, now: Instant) -> Option<Instant> {
        self.resume_at.filter(|resume| *resume > now)
    }

    /// A datagram goes, `in_flight` bytes are on their way before it.
    pub(super) fn on_sent(&mut self, size: usize, in_flight: usize, now: Instant) -> Snapshot {
        if in_flight == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        self.resume_at = self.resume_at.filter(|resume| *resume > now);
        if let Some(pace) = self.pace() {
            self.paced_to = self.paced_to.max(now) + Duration::from_secs_f64((size as f64 / pace).min(1.0));
            let burst = Duration::from_secs_f64((self.burst(pace) / pace).min(1.0));
            if self.paced_to > now + burst {
                // Half a burst is worth waking up for.
                self.resume_at = Some(self.paced_to - burst / 2);
            }
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            is_limited: self.limited_until.is_some(),
        }
    }

    /// There is nothing to send, though it would be allowed: the rates measured now are not the path's.
    pub(super) fn on_limited(&mut self, in_flight: usize) {
        self.limited_until = Some(self.delivered + (in_flight as u64).max(1));
    }

    /// Datagrams were lost.
    pub(super) fn on_lost(&mut self, count: u32) {
        self.round_lost = self.round_lost.saturating_add(count);
    }

    /// Datagrams have arrived. `in_flight` bytes are on their way after that, `rtt` is the newest sample.
    pub(super) fn on_acked(&mut self, acked: &Acked, in_flight: usize, rtt: Option<Duration>, now: Instant) {
        let Some((sent_at, snapshot)) = acked.newest else { return };
        self.delivered += acked.bytes as u64;
        self.delivered_at = now;
        self.round_acked = self.round_acked.saturating_add(acked.count);
        self.first_sent_at = sent_at;
        if self.limited_until.is_some_and(|until| self.delivered > until) {
            self.limited_until = None;
        }
        let is_round_over = snapshot.delivered >= self.round_end;
        if is_round_over {
            self.end_round();
        }
        self.sample(sent_at, snapshot, now);
        if is_round_over {
            self.check_full();
        }
        self.measure(rtt, in_flight, now);
        self.advance(in_flight, now);
        self.resize(acked.bytes);
    }

    fn end_round(&mut self) {
        let sum = f64::from(self.round_lost) + f64::from(self.round_acked);
        if self.round_lost >= HEAVY_COUNT && f64::from(self.round_lost) > HEAVY_LOSS * sum {
            self.is_filled = true;
            self.rates = [0.0; ROUNDS];
            self.rates[self.slot] = self.round_best;
            self.best = if self.round_best > 0.0 { self.round_best } else { self.best / 2.0 };
        }
        self.round_end = self.delivered;
        (self.round_lost, self.round_acked, self.round_best) = (0, 0, 0.0);
        if std::mem::take(&mut self.is_round_full) {
            self.slot = (self.slot + 1) % ROUNDS;
            self.rates[self.slot] = 0.0;
            let best = self.rates.iter().copied().fold(0.0, f64::max);
            if best > 0.0 {
                self.best = best;
            }
        }
    }

    /// One measurement of the delivery rate (draft-cheng-iccrg-delivery-rate-estimation).
    fn sample(&mut self, sent_at: Instant, snapshot: Snapshot, now: Instant) {
        let sending = sent_at.saturating_duration_since(snapshot.first_sent_at);
        let acking = now.saturating_duration_since(snapshot.delivered_at);
        let interval = sending.max(acking);
        let is_short = self.least_rtt.is_some_and(|(least, _)| interval < least);
        if interval.is_zero() || is_short {
            return;
        }
        let rate = (self.delivered - snapshot.delivered) as f64 / interval.as_secs_f64();
        if snapshot.is_limited && rate < self.best {
            return;
        }
        self.is_round_full |= !snapshot.is_limited;
        self.round_best = self.round_best.max(rate);
        self.rates[self.slot] = self.rates[self.slot].max(rate);
        self.best = self.best.max(rate);
    }

    fn check_full(&mut self) {
        if self.is_filled || self.limited_until.is_some() {
            return;
        }
        if self.best >= self.full_rate * FULL_GROWTH {
            (self.full_rate, self.full_rounds) = (self.best, 0);
        } else {
            self.full_rounds += 1;
            self.is_filled = self.full_rounds >= FULL_ROUNDS;
        }
    }

    fn measure(&mut self, rtt: Option<Duration>, in_flight: usize, now: Instant) {
        let Some(rtt) = rtt else { return };
        let is_old = self.least_rtt.is_some_and(|(_, at)| now.saturating_duration_since(at) > LEAST_RTT_AGE);
        let is_probing = matches!(self.phase, Phase::ProbeRtt { .. });
        if self.least_rtt.is_none_or(|(least, _)| rtt <= least) {
            self.least_rtt = Some((rtt, now));
        } else if is_old && !is_probing {
            // Only what meets no queue tells the shortest round trip; when little is on its way, all of it does.
            if in_flight > self.target(0.5) {
                self.phase = Phase::ProbeRtt { until: None };
            }
            self.least_rtt = Some((rtt, now));
        }
    }

    fn advance(&mut self, in_flight: usize, now: Instant) {
        match self.phase {
            Phase::Startup if self.is_filled => self.phase = Phase::Drain,
            Phase::Drain if in_flight <= self.target(1.0) => self.cruise(2, now),
            Phase::Cruise { step, since } => {
                let least = self.least_rtt.map_or(Duration::ZERO, |(least, _)| least);
                let is_over = now.saturating_duration_since(since) > least;
                // What the faster round trip has put into a queue may be gone early.
                let is_drained = CYCLE[step] < 1.0 && in_flight <= self.target(1.0);
                if is_over || is_drained {
                    self.cruise((step + 1) % CYCLE.len(), now);
                }
            }
            Phase::ProbeRtt { until: None } if in_flight <= self.target(0.5) => {
                self.phase = Phase::ProbeRtt { until: Some(now + PROBE_RTT) };
            }
            Phase::ProbeRtt { until: Some(until) } if now >= until => match self.is_filled {
                true => self.cruise(2, now),
                false => self.phase = Phase::Startup,
            },
            Phase::Startup | Phase::Drain | Phase::ProbeRtt { .. } => {}
        }
    }

    fn cruise(&mut self, step: usize, now: Instant) {
        self.phase = Phase::Cruise { step, since: now };
    }

    /// So many round trips' worth, in bytes.
    fn target(&self, gain: f64) -> usize {
        let least = self.least_rtt.map_or(0.0, |(least, _)| least.as_secs_f64());
        // An upper bound keeps the sum in range whatever was measured.
        let product = (self.best * least * gain).min(1e12) as usize;
        product.max(LEAST_WINDOW * self.datagram)
    }

    fn resize(&mut self, acked: usize) {
        let gain = if self.is_filled { WINDOW_GAIN } else { STARTUP_GAIN };
        // Acks come in bunches: a burst is on its way besides.
        let bunch = self.pace().map_or(0.0, |pace| 1.5 * self.burst(pace)) as usize;
        let target = self.target(gain) + bunch;
        self.window = match self.phase {
            Phase::ProbeRtt { .. } => self.window.min(self.target(0.5)),
            _ if self.is_filled => (self.window + acked).min(target),
            _ if self.window < target || self.best == 0.0 => self.window + acked,
            _ => self.window,
        }
        .max(LEAST_WINDOW * self.datagram);
    }
}
