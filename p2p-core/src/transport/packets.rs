//! Datagrams: numbers, acks, losses, timeouts, signs of life. What they carry is somebody else's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{debug, trace};

use super::config::{ACK_DELAY, TransportConfig};
use super::congestion::{Acked, Congestion, Snapshot};
use super::counters::Counters;
use super::frame::{Ack, MOST_RANGES, Packet, Writer};
use super::ranges::Ranges;
use super::rtt::{GRANULARITY, Rtt};
use super::size::PathSize;
use crate::{Deadline, Seed};

/// Datagrams whose fate is waited for at most. With 1,200 bytes each that is 19 MB on the way.
const MOST_FLYING: usize = 16 * 1024;
/// What is no data may be on its way besides.
const MOST_BESIDES: usize = 1_024;
/// Datagrams remembered at most, lost ones included: those may still turn out to be late.
const MOST_TRACKED: usize = 2 * MOST_FLYING;
/// A datagram is lost when so many later ones have arrived (RFC 9002, section 6.1.1), until the path turns out to
/// reorder by more.
const PACKET_THRESHOLD: u64 = 3;
/// Reordering by more datagrams than this is told by time alone.
const MOST_THRESHOLD: u64 = 2_048;
/// How long the path is remembered to reorder.
const REORDER_AGE: Duration = Duration::from_secs(30);
/// The longest pause between two timeouts, unless the round trip itself is longer: a path that comes back is used
/// soon. RFC 9002, section 6.2.1, doubles without bound; a relayed connection is given up long before that matters.
pub(super) const MOST_TIMEOUT: Duration = Duration::from_secs(1);
/// After so many timeouts in a row the path may have become another one.
const STALE_TIMEOUTS: u32 = 3;
/// Datagrams sent at a timeout (RFC 9002, section 6.2.4).
const PROBES: u8 = 2;
/// Datagrams after which an ack is due (RFC 9000, section 13.2.2).
const ACK_EVERY: u8 = 2;
/// In so many more datagrams that go anyway the ack is said again: who sends little and hears a lot would otherwise wait for
/// one ack that may be lost.
const ACK_REPEATS: u8 = 3;

/// Who was sent something and hears no more asks for a sign of life after this, once: nothing else tells a pause from a
/// dead path, and the next question would come much later.
const FIRST_QUESTION: Duration = Duration::from_millis(500);

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrived,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Track {
    Flying,
    Lost(Instant),
    Done,
}

#[derive(Debug)]
struct Sent<R> {
    number: u64,
    size: u16,
    sent_at: Instant,
    snapshot: Snapshot,
    track: Track,
    /// It carried something of its user's.
    has_content: bool,
    carried: R,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum AckDue {
    Not,
    Later(Instant),
    Now,
}

/// What a timeout has brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// Nothing to worry about.
    None,
    /// Nobody answers.
    Dead,
    /// Nobody answers, and it has lasted long enough.
    Over,
    /// The peer is there, and nothing with content arrives.
    Stuck,
}

/// How much the path reorders.
#[derive(Clone, Copy, Debug)]
struct Reorder {
    packets: u64,
    extra: Duration,
    seen_at: Instant,
}

/// One end of an exchange of datagrams. `R` is what its owner wants to know again when a datagram has
/// arrived or is lost.
#[derive(Debug)]
pub(super) struct Packets<R> {
    config: TransportConfig,
    now: Instant,
    // Sending.
    next: u64,
    sent: VecDeque<Sent<R>>,
    flying: usize,
    in_flight: usize,
    /// No datagram below this is flying.
    undecided: u64,
    largest_acked: Option<u64>,
    /// What the last ack said: only what a new one says besides is looked at.
    seen: Ranges,
    rtt: Rtt,
    congestion: Congestion,
    reorder: Reorder,
    loss_at: Option<Instant>,
    timeouts: u32,
    timer_from: Instant,
    probes: u8,
    size: PathSize,
    /// Since when nothing with content was acknowledged, though some was sent.
    stuck_since: Option<Instant>,
    // Receiving.
    received: Ranges,
    received_floor: u64,
    largest_at: Instant,
    ack: AckDue,
    unacked: u8,
    repeats: u8,
    // Signs of life.
    heard_at: Instant,
    keep_alive: Duration,
    wants_ping: bool,
    /// Something was sent to us since we asked last.
    is_fresh: bool,
    silent_since: Option<Instant>,
    is_dead: bool,
    pub(super) counters: Counters,
}

impl<R: Copy> Packets<R> {
    pub(super) fn new(config: TransportConfig, seed: &mut Seed, now: Instant) -> Self {
        Self {
            config,
            now,
            next: 0,
            sent: VecDeque::new(),
            flying: 0,
            in_flight: 0,
            undecided: 0,
            largest_acked: None,
            seen: Ranges::default(),
            rtt: Rtt::new(config.initial_rtt),
            congestion: Congestion::new(config.datagram, now),
            reorder: Reorder { packets: PACKET_THRESHOLD, extra: Duration::ZERO, seen_at: now },
            loss_at: None,
            timeouts: 0,
            timer_from: now,
            probes: 0,
            size: PathSize::new(config.datagram, now),
            stuck_since: None,
            received: Ranges::default(),
            received_floor: 0,
            largest_at: now,
            ack: AckDue::Not,
            unacked: 0,
            repeats: 0,
            heard_at: now,
            // Both ends would ask at once otherwise, and one answer is enough for both.
            keep_alive: config.keep_alive + seed.up_to(config.keep_alive / 5),
            wants_ping: false,
            is_fresh: false,
            silent_since: None,
            is_dead: false,
            counters: Counters::default(),
        }
    }

    pub(super) fn config(&self) -> &TransportConfig {
        &self.config
    }

    /// Lets time pass; a clock that steps back stands still instead.
    pub(super) fn pass(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.is_measured().then(|| self.rtt.smoothed())
    }

    /// The time after which a datagram of the peer's that needed an answer has been repeated.
    pub(super) fn timeout(&self) -> Duration {
        self.rtt.timeout(ACK_DELAY)
    }

    pub(super) fn window(&self) -> usize {
        self.congestion.window()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flying == 0
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.sent.capacity() * size_of::<Sent<R>>() + self.seen.heap() + self.received.heap()
    }

    /// Gives unused room back.
    pub(super) fn shrink(&mut self) {
        self.sent.shrink_to_fit();
        self.seen.shrink();
        self.received.shrink();
    }

    // ---- receiving

    /// Whether the peer can know of `ack`.
    pub(super) fn is_sent(&self, ack: &Ack<'_>) -> bool {
        ack.largest < self.next
    }

    /// Whether a datagram of this number was here before, or is of no interest any more.
    pub(super) fn is_old(&self, number: u64) -> bool {
        number < self.received_floor || self.received.contains(number)
    }

    /// A good datagram has arrived.
    pub(super) fn on_packet(&mut self, packet: &Packet<'_>, is_eliciting: bool) {
        self.heard_at = self.now;
        self.counters.received += 1;
        let largest = self.received.last().map(|last| last.end);
        let is_in_order = largest.is_none_or(|end| packet.number == end);
        if largest.is_none_or(|end| packet.number >= end) {
            self.largest_at = self.now;
        }
        self.received.insert(packet.number..packet.number + 1);
        self.received_floor = self.received_floor.max(packet.floor);
        self.received.remove_below(self.received_floor);
        while self.received.len() > 2 * MOST_RANGES {
            self.received.pop_first();
        }
        if is_eliciting {
            self.unacked = self.unacked.saturating_add(1);
            self.repeats = ACK_REPEATS;
            if self.unacked >= ACK_EVERY || !is_in_order {
                self.ack = AckDue::Now;
            } else if self.ack == AckDue::Not {
                self.ack = AckDue::Later(self.now + ACK_DELAY);
            }
        }
    }

    /// It carried something of the peer's.
    pub(super) fn on_content(&mut self) {
        self.is_fresh = true;
    }

    /// Somebody waits for the ack.
    pub(super) fn hurry_ack(&mut self) {
        self.ack = AckDue::Now;
    }

    /// The peer says what has arrived; `tell` hears of everything whose fate is decided now.
    pub(super) fn on_ack(&mut self, ack: Ack<'_>, mut tell: impl FnMut(Fate, R)) {
        let now = self.now;
        let mut acked = Acked::default();
        let mut sample = None;
        let mut any = false;
        for (lowest, highest) in ack.ranges() {
            for news in self.seen.missing(lowest..highest + 1) {
                let from = match self.sent.front() {
                    Some(front) if front.number < news.start => {
                        self.sent.partition_point(|sent| sent.number < news.start)
                    }
                    _ => 0,
                };
                for sent in self.sent.range_mut(from..).take_while(|sent| sent.number < news.end) {
                    let size = usize::from(sent.size);
                    match sent.track {
                        Track::Done => continue,
                        Track::Flying => {
                            self.flying -= 1;
                            self.in_flight -= size;
                            acked.add(size, sent.sent_at, sent.snapshot);
                        }
                        Track::Lost(_) => {
                            self.counters.spurious += 1;
                            let late = now.saturating_duration_since(sent.sent_at + self.rtt.smoothed());
                            let behind = self.largest_acked.unwrap_or(0).saturating_sub(sent.number);
                            self.reorder.packets = self.reorder.packets.max(behind + 1).min(MOST_THRESHOLD);
                            self.reorder.extra = self.reorder.extra.max(late).min(self.rtt.smoothed());
                            self.reorder.seen_at = now;
                        }
                    }
                    any = true;
                    sent.track = Track::Done;
                    if sent.has_content {
                        self.stuck_since = None;
                        self.size.on_arrived(sent.number, now);
                    }
                    if sent.number == ack.largest {
                        sample = Some(now.saturating_duration_since(sent.sent_at));
                    }
                    tell(Fate::Arrived, sent.carried);
                }
            }
        }
        self.seen.clear();
        for (lowest, highest) in ack.ranges() {
            self.seen.insert(lowest..highest + 1);
        }
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        if !any {
            return;
        }
        if let Some(sample) = sample {
            let held = Duration::from_micros(ack.delay).min(ACK_DELAY);
            self.rtt.update(sample.max(Duration::from_micros(1)), held);
        }
        (self.timeouts, self.probes) = (0, 0);
        self.timer_from = now;
        self.silent_since = (self.flying > 0).then_some(now);
        self.is_dead = false;
        if now.saturating_duration_since(self.reorder.seen_at) > REORDER_AGE {
            (self.reorder.packets, self.reorder.extra) = (PACKET_THRESHOLD, Duration::ZERO);
        }
        self.detect_losses(tell);
        if !acked.is_empty() {
            self.congestion.on_acked(&acked, self.in_flight, sample, now);
        }
        self.forget();
    }

    // ---- losses

    /// Calls lost what is too far behind, or too late (RFC 9002, section 6.1).
    fn detect_losses(&mut self, mut tell: impl FnMut(Fate, R)) {
        self.loss_at = None;
        let Some(largest) = self.largest_acked else { return };
        let late = (self.rtt.longest() * 9 / 8).max(GRANULARITY) + self.reorder.extra;
        let from = self.sent.partition_point(|sent| sent.number < self.undecided);
        self.undecided = self.next;
        let mut lost = 0;
        for sent in self.sent.range_mut(from..) {
            if sent.track != Track::Flying {
                continue;
            }
            let due = sent.sent_at + late;
            let is_behind = sent.number + self.reorder.packets <= largest;
            if sent.number > largest || !(is_behind || due <= self.now) {
                self.undecided = sent.number;
                self.loss_at = (sent.number < largest).then_some(due);
                break;
            }
            sent.track = Track::Lost(self.now);
            self.flying -= 1;
            self.in_flight -= usize::from(sent.size);
            if sent.has_content {
                self.size.on_lost(sent.number, self.now);
            }
            lost += 1;
            tell(Fate::Lost, sent.carried);
        }
        if lost > 0 {
            trace!(lost, largest, "datagrams lost");
            self.counters.lost += u64::from(lost);
            self.congestion.on_lost(lost);
        }
    }

    /// Forgets what nothing more can be learned of.
    fn forget(&mut self) {
        let patience = self.rtt.smoothed() * 2 + ACK_DELAY;
        let is_crowded = self.sent.len() >= MOST_TRACKED;
        while let Some(front) = self.sent.front() {
            match front.track {
                Track::Done => {}
                Track::Lost(at) if is_crowded || self.now.saturating_duration_since(at) > patience => {}
                Track::Flying | Track::Lost(_) => break,
            }
            self.sent.pop_front();
        }
    }

    // ---- sending

    /// Whether new data may go now.
    pub(super) fn may_send(&self) -> bool {
        self.probes > 0 || (self.is_window_open() && self.congestion.resume_at(self.now).is_none())
    }

    /// Whether one more datagram can be remembered until the peer acknowledges it. Data asks for less anyway; this is
    /// for what answers the peer, who may never acknowledge anything.
    pub(super) fn has_place(&self) -> bool {
        self.flying < MOST_FLYING + MOST_BESIDES
    }

    /// Whether something has to go even if there is nothing to say.
    pub(super) fn must_send(&self) -> bool {
        self.ack == AckDue::Now || self.wants_ping || self.probes > 0
    }

    /// Whether an ack may ride along.
    pub(super) fn may_ack(&self) -> bool {
        (self.ack != AckDue::Not || self.repeats > 0) && !self.received.is_empty()
    }

    /// Whether an ack has to go.
    pub(super) fn must_ack(&self) -> bool {
        self.ack == AckDue::Now && !self.received.is_empty()
    }

    /// Begins a datagram.
    pub(super) fn begin<'a>(&mut self, out: &'a mut [u8]) -> Writer<'a> {
        if self.sent.len() >= MOST_TRACKED {
            self.forget();
        }
        let room = out.len().min(self.size.room(self.now));
        let floor = self.sent.front().map_or(self.next, |front| front.number);
        Writer::new(&mut out[..room], self.config.tokens.theirs, self.next, floor)
    }

    /// Writes the ack that is owed, leaving `keep_free` bytes.
    pub(super) fn write_ack(&mut self, writer: &mut Writer<'_>, keep_free: usize) {
        let held = self.now.saturating_duration_since(self.largest_at).as_micros();
        let held = u64::try_from(held).unwrap_or(u64::MAX);
        writer.ack(self.received.iter().rev().cloned(), held, keep_free);
        if self.ack == AckDue::Not {
            self.repeats = self.repeats.saturating_sub(1);
        }
        self.ack = AckDue::Not;
        self.unacked = 0;
    }

    /// Asks for a sign of life, if one is wanted or the datagram would carry nothing else; answers whether.
    pub(super) fn write_ping(&mut self, writer: &mut Writer<'_>, has_content: bool) -> bool {
        let ping = std::mem::take(&mut self.wants_ping) || self.probes > 0;
        if ping && !has_content {
            writer.ping();
        }
        ping
    }

    /// A datagram of `size` bytes goes. `carried` is there when its sender wants to know its fate; `has_content` says that
    /// something of the user's is in it.
    pub(super) fn end(&mut self, size: usize, carried: Option<R>, has_content: bool) {
        let (number, now) = (self.next, self.now);
        self.next += 1;
        self.counters.sent += 1;
        let Some(carried) = carried else { return };
        self.probes = self.probes.saturating_sub(1);
        let snapshot = self.congestion.on_sent(size, self.in_flight, now);
        if has_content {
            self.size.on_sent(number, size);
            self.stuck_since.get_or_insert(now);
        }
        // A datagram is at most 32 KiB.
        let size = size as u16;
        let track = Track::Flying;
        self.sent.push_back(Sent { number, size, sent_at: now, snapshot, track, has_content, carried });
        self.flying += 1;
        self.in_flight += usize::from(size);
        self.timer_from = now;
        self.silent_since = self.silent_since.or(Some(now));
    }

    /// All was said, and more would have been allowed.
    pub(super) fn on_nothing_to_send(&mut self) {
        if self.is_window_open() {
            self.congestion.on_limited(self.in_flight);
        }
    }

    /// What the oldest datagrams carry that nobody has answered, as many as will be repeated.
    pub(super) fn oldest(&self) -> impl Iterator<Item = R> + '_ {
        let from = self.sent.partition_point(|sent| sent.number < self.undecided);
        let flying = self.sent.range(from..).filter(|sent| sent.track == Track::Flying);
        flying.take(PROBES.into()).map(|sent| sent.carried)
    }

    // ---- time

    fn timeout_at(&self) -> Option<Instant> {
        if self.flying == 0 || self.loss_at.is_some() {
            return None;
        }
        let timeout = self.timeout();
        let doubled = timeout.saturating_mul(1 << self.timeouts.min(16));
        Some(self.timer_from + doubled.min(MOST_TIMEOUT.max(timeout)))
    }

    fn dead_at(&self) -> Option<Instant> {
        let since = self.silent_since.filter(|_| !self.is_dead)?;
        // Two timeouts are a matter of a few round trips; on a path where that takes longer, so does death.
        Some(since + self.config.dead_after.max(self.timeout() * 3))
    }

    /// A peer that is heard is there, whatever became of its acks; if it does not hear us, it will say so or go silent.
    fn over_at(&self) -> Option<Instant> {
        Some(self.silent_since?.max(self.heard_at) + self.config.give_up_after)
    }

    /// What the peer says does not help if nothing that it is told arrives: twice the time of silence is enough.
    fn stuck_at(&self) -> Option<Instant> {
        Some(self.stuck_since? + 2 * self.config.give_up_after)
    }

    fn keep_alive_at(&self) -> Option<Instant> {
        let pause = if self.is_fresh { FIRST_QUESTION } else { self.keep_alive };
        (self.flying == 0 && !self.wants_ping).then_some(self.heard_at.max(self.timer_from) + pause)
    }

    fn is_window_open(&self) -> bool {
        self.in_flight + self.config.datagram <= self.congestion.window()
            && self.flying < MOST_FLYING
            && self.sent.len() < MOST_TRACKED
    }

    /// The first of its deadlines. `has_more` says that there is something to send when it is allowed.
    pub(super) fn deadline(&self, has_more: bool) -> Option<Deadline> {
        let due = |at: Option<Instant>, why| at.map(|at| Deadline::new(at, why));
        let ack = match self.ack {
            AckDue::Later(at) => Some(at),
            AckDue::Not | AckDue::Now => None,
        };
        let pace = self.congestion.resume_at(self.now).filter(|_| has_more && self.is_window_open());
        Deadline::earliest([
            due(ack, "an ack is due"),
            due(pace, "the pace allows more"),
            due(self.loss_at, "a datagram is late"),
            due(self.timeout_at(), "no ack has come"),
            due(self.dead_at(), "the path may be dead"),
            due(self.over_at(), "giving up"),
            due(self.stuck_at(), "nothing arrives"),
            due(self.keep_alive_at(), "asking for a sign of life"),
        ])
    }

    /// Time has passed: see what is due.
    pub(super) fn on_time(&mut self, tell: impl FnMut(Fate, R)) -> Alarm {
        let now = self.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.over_at()) {
            return Alarm::Over;
        }
        if is_due(self.stuck_at()) {
            return Alarm::Stuck;
        }
        if matches!(self.ack, AckDue::Later(at) if at <= now) {
            self.ack = AckDue::Now;
        }
        if is_due(self.keep_alive_at()) {
            (self.wants_ping, self.is_fresh) = (true, false);
        }
        if is_due(self.loss_at) {
            self.detect_losses(tell);
            self.timer_from = now;
        } else if is_due(self.timeout_at()) {
            self.timeouts += 1;
            self.counters.timeouts += 1;
            self.probes = if self.has_place() { PROBES } else { 0 };
            self.timer_from = now;
            let from = self.sent.partition_point(|sent| sent.number < self.undecided);
            let is_waiting = |sent: &&Sent<R>| sent.track == Track::Flying && sent.has_content;
            if let Some(oldest) = self.sent.range(from..).find(is_waiting) {
                self.size.on_lost(oldest.number, now);
            }
            debug!(timeouts = self.timeouts, "no ack has come in time");
            if self.timeouts == STALE_TIMEOUTS {
                self.congestion.reset(now);
            }
        }
        if is_due(self.dead_at()) {
            self.is_dead = true;
            return Alarm::Dead;
        }
        Alarm::None
    }

    /// Whether a timeout has just asked for repetition.
    pub(super) fn is_probing(&self) -> bool {
        self.probes == PROBES
    }

    /// Nothing that is on its way is of interest any more.
    pub(super) fn abandon(&mut self) {
        self.sent.clear();
        self.stuck_since = None;
        (self.flying, self.in_flight, self.undecided) = (0, 0, self.next);
        self.loss_at = None;
        self.shrink();
    }

    /// The peer is somewhere else now: what was known of the way there is void, and what is on its way is
    /// taken for lost.
    pub(super) fn on_path_changed(&mut self, mut tell: impl FnMut(Fate, R)) {
        for sent in self.sent.iter_mut().filter(|sent| sent.track == Track::Flying) {
            sent.track = Track::Lost(self.now);
            tell(Fate::Lost, sent.carried);
        }
        (self.flying, self.in_flight, self.undecided) = (0, 0, self.next);
        self.loss_at = None;
        (self.timeouts, self.probes) = (0, 0);
        self.timer_from = self.now;
        self.silent_since = None;
        self.is_dead = false;
        self.size.reset(self.now);
        self.stuck_since = None;
        // Even if there is nothing to send, the peer is told, and we learn whether it hears us.
        self.wants_ping = true;
        self.rtt = Rtt::new(self.config.initial_rtt);
        self.reorder = Reorder { packets: PACKET_THRESHOLD, extra: Duration::ZERO, seen_at: self.now };
        self.congestion.reset(self.now);
    }
}
