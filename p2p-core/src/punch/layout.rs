//! Laying out the dials of a plan, tactic by tactic.

use std::collections::BTreeSet;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::message::Timing;
use super::schedule::{Dial, Plan, Schedule, Tactic};
use crate::Seed;
use crate::attempt::Role;
use crate::nat::forecast::PortForecast;
use crate::nat::meets::{self, COUNTED, LOST, NextPort};
use crate::nat::{Filtering, PortRange};

/// Pairs of ports in one plan at most.
pub(super) const MOST_RUNGS: usize = 36;
/// When each further pair of ports is dialled where no NAT answers, in milliseconds: for what was lost. Wider each
/// time; the whole is over before two seconds are.
const CALM: [u64; 10] = [0, 120, 250, 400, 570, 760, 970, 1_200, 1_450, 1_700];
/// Between two pairs of a ladder, in milliseconds.
const RUNG: u64 = 4;
/// The same where nobody knows whether it takes a ladder at all.
const UNSURE_RUNG: u64 = 15;
/// Between the end of a ladder and its next time, in milliseconds.
const AGAIN: u64 = 180;
/// The longest step of a sliding ladder, in milliseconds: that of the slowest path there is a ladder for.
const MOST_SLIDING_STEP: u64 = 200;
/// After its last dial a plan waits so long. A SYN that was lost is repeated by the kernel after a second.
pub(super) const TAIL: Duration = Duration::from_millis(1_250);
/// The same where so many were dialled that a lost one does not matter, or where nothing is left waiting that could
/// succeed: one and a half round trips of a slow path. Longer, and the kernel would repeat SYNs by the hundred.
pub(super) const SHORT_TAIL: Duration = Duration::from_millis(300);
/// A birthday gives its dials up before the kernel repeats them.
const GUESS_LIVES: Duration = Duration::from_millis(900);

/// A plan in the making.
pub(super) struct Layout<'a> {
    pub(super) caller: &'a Endpoint,
    pub(super) answerer: &'a Endpoint,
    pub(super) timing: Timing,
    pub(super) seed: &'a mut Seed,
    pub(super) dials: [Vec<Dial>; 2],
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Layout<'_> {
    fn side(&self, role: Role) -> &Endpoint {
        match role {
            Role::Caller => self.caller,
            Role::Answerer => self.answerer,
        }
    }

    fn dial(&mut self, role: Role, after: Duration, from: u16, to: Option<u16>) {
        if let Some(to) = to.filter(|to| *to != 0) {
            self.dials[role as usize].push(Dial { after, from, to });
        }
    }

    pub(super) fn finish(
        self,
        tactic: Tactic,
        probability: f64,
        lives: [Option<Duration>; 2],
        tail: Duration,
    ) -> Plan {
        let [caller, answerer] = self.dials;
        let sockets = [self.caller.sockets, self.answerer.sockets];
        let low_ttl = |role| tactic == Tactic::LowTtl(role);
        let mut schedule = [(caller, Role::Caller), (answerer, Role::Answerer)]
            .map(|(dials, role)| Schedule { dials, lives: None, low_ttl: low_ttl(role) });
        let mut last = Duration::ZERO;
        for ((schedule, lives), sockets) in schedule.iter_mut().zip(lives).zip(sockets) {
            schedule.dials.sort_by_key(|dial| dial.after);
            // Who cannot afford more dials makes fewer; the rest of the plan stays as good as it was.
            let most = if lives.is_some() { brief(sockets) } else { sockets };
            schedule.dials.truncate(usize::from(most));
            schedule.lives = lives;
            // At two milliseconds each, all take so long.
            let burst = ms(2 * schedule.dials.len() as u64);
            last = last.max(schedule.dials.last().map_or(Duration::ZERO, |dial| dial.after.max(burst)));
        }
        let [caller, answerer] = schedule;
        Plan { tactic, caller, answerer, within: last + tail, probability }
    }

    /// Nothing is between: who hears of the other's listener dials it. The other one dials too, for where a firewall
    /// on one machine lets only answers in. Several pairs, closer than any round trip is short, as chance alone
    /// decides whether SYNs cross on a short path.
    pub(super) fn local(mut self) -> Plan {
        for (index, rung) in self.rungs().into_iter().enumerate() {
            let at = ms(match index {
                0 => 0,
                n => 8 << n.min(6),
            });
            let jitter = self.seed.up_to(at / 4);
            for role in [Role::Answerer, Role::Caller] {
                self.dial_rung(role, rung, at + jitter);
            }
        }
        self.finish(Tactic::Now, 1.0, [None; 2], TAIL)
    }

    /// Pairs of ports, one of each side, no 4-tuple twice: numbers of local ports.
    fn rungs(&self) -> Vec<[u16; 2]> {
        let count = |side: &Endpoint| match &side.ports {
            PortForecast::Fixed(ports) => ports.len() as u16,
            PortForecast::Run { count, .. } => *count,
            PortForecast::Counter { .. } | PortForecast::Random { .. } => MOST_RUNGS as u16,
        };
        let (a, b) = (count(self.caller), count(self.answerer));
        let is_fixed = |side: &Endpoint| matches!(side.ports, PortForecast::Fixed(_));
        let mut rungs: Vec<[u16; 2]> = match (is_fixed(self.caller), is_fixed(self.answerer)) {
            (true, true) => {
                (0..b).flat_map(|shift| (0..a).map(move |one| [one, (one + shift) % b])).collect()
            }
            (true, false) => (0..b).map(|two| [two % a, two]).collect(),
            (false, true) => (0..a).map(|one| [one, one % b]).collect(),
            (false, false) => (0..a.min(b)).map(|both| [both, both]).collect(),
        };
        // A short list of ports comes round: the same pair must not.
        let mut seen = BTreeSet::new();
        rungs.retain(|rung| seen.insert(*rung));
        rungs.truncate(MOST_RUNGS);
        rungs
    }

    fn dial_rung(&mut self, role: Role, rung: [u16; 2], after: Duration) {
        let (from, to) = (rung[role as usize], rung[role.other() as usize]);
        let to = self.side(role.other()).ports.port(i32::from(to));
        self.dial(role, after, from, to);
    }

    /// How far the answerer is behind where the caller must dial first: it starts sooner, and can only guess when
    /// the caller hears of the plan. Each time two fifths later than the last.
    fn lag(&self, index: usize) -> Duration {
        let lead = ms(u64::from(self.timing.lead.max(20)));
        lead.mul_f64(1.4_f64.powi(index.min(10) as i32)).min(ms(2_500))
    }

    /// The side whose NAT counts, if others move its counter too and the other side's ports are known.
    pub(super) fn sliding(&self) -> Option<Role> {
        let is_known =
            |side: &Endpoint| matches!(side.ports, PortForecast::Fixed(_) | PortForecast::Run { .. });
        [Role::Caller, Role::Answerer]
            .into_iter()
            .find(|role| self.side(*role).ports.others() > 0 && is_known(self.side(role.other())))
    }

    pub(super) fn pairs(&mut self, tactic: Tactic) {
        if let (Tactic::Ladder, Some(counter)) = (tactic, self.sliding()) {
            return self.sliding_ladder(counter);
        }
        let rungs = self.rungs();
        let Some((eager, others)) = rungs.split_first() else { return };
        let lead = ms(u64::from(self.timing.lead));
        // A side of which it is not known may answer too; a ladder is right for all then, but slower where one pair
        // of dials would do.
        let is_unsure = |role| self.side(role).may_answer() && !self.side(role).answers();
        match tactic {
            Tactic::Ladder => self.ladder(&rungs, lead, RUNG),
            Tactic::First(first) if is_unsure(first.other()) => {
                let wait = if first == Role::Caller { self.lag(1) } else { Duration::ZERO };
                self.dial_rung(first, *eager, Duration::ZERO);
                self.dial_rung(first.other(), *eager, wait);
                self.ladder(others, lead, UNSURE_RUNG);
            }
            Tactic::First(Role::Caller) | Tactic::LowTtl(Role::Caller) => {
                for (index, rung) in rungs.iter().take(CALM.len() + 2).enumerate() {
                    self.dial_rung(Role::Caller, *rung, Duration::ZERO);
                    self.dial_rung(Role::Answerer, *rung, self.lag(index));
                }
            }
            Tactic::First(Role::Answerer) | Tactic::LowTtl(Role::Answerer) => {
                for (rung, at) in rungs.iter().zip(CALM) {
                    self.dial_rung(Role::Answerer, *rung, Duration::ZERO);
                    self.dial_rung(Role::Caller, *rung, ms(at));
                }
            }
            _ if is_unsure(Role::Caller) || is_unsure(Role::Answerer) => {
                for role in [Role::Caller, Role::Answerer] {
                    self.dial_rung(role, *eager, Duration::ZERO);
                }
                self.ladder(others, lead, UNSURE_RUNG);
            }
            _ => {
                for (rung, at) in rungs.iter().zip(CALM) {
                    let jitter = self.seed.up_to(ms(at / 8));
                    for role in [Role::Caller, Role::Answerer] {
                        self.dial_rung(role, *rung, ms(at) + jitter);
                    }
                }
            }
        }
    }

    /// Each pair of ports with another difference between the two sides' times, the smallest first, up to what the
    /// clocks can be wrong; then all again. A pair connects when the difference makes up for the clocks' error, to
    /// less than the delay of the path.
    fn ladder(&mut self, rungs: &[[u16; 2]], start: Duration, pause: u64) {
        let step = u64::from(self.timing.step.max(1));
        let reach = u64::from(self.timing.spread).div_ceil(step).min(MOST_RUNGS as u64 / 2);
        let cycle = 2 * reach + 1;
        let mut times = Vec::with_capacity(rungs.len());
        for index in 0..rungs.len() as u64 {
            let (round, place) = (index / cycle, index % cycle);
            let late = ms(place.div_ceil(2) * step);
            let jitter = self.seed.up_to(ms(pause));
            let base = start + ms(index * pause + round * AGAIN) + jitter;
            times.push(if place % 2 == 1 { [base, base + late] } else { [base + late, base] });
        }
        let numbers = [Role::Caller, Role::Answerer].map(|role| self.numbers(role, rungs, &times));
        for (index, at) in times.into_iter().enumerate() {
            for role in [Role::Caller, Role::Answerer] {
                let (ours, theirs) = (numbers[role as usize][index], numbers[role.other() as usize][index]);
                let to = self.side(role.other()).ports.port(i32::from(theirs));
                self.dial(role, at[role as usize], ours, to);
            }
        }
    }

    /// A ladder for a counter that others move too. Its dials follow each other fast, all towards one port; that one
    /// dials the counter's ports more slowly, one step of time apart. So each next pair has another difference between
    /// the two sides' times, and one that came between shifts all of them by one step.
    fn sliding_ladder(&mut self, counter: Role) {
        let known = counter.other();
        let others = u64::from(self.side(counter).ports.others());
        // What a peer says of its clock and its path must not make a round of half a minute.
        let step = u64::from(self.timing.step).clamp(1, MOST_SLIDING_STEP);
        let spread = u64::from(self.timing.spread);
        let slow = step + RUNG;
        let lead = u64::from(self.timing.lead);
        let early = spread + others * slow;
        let dials = ((early + spread).div_ceil(step) + 1).min(MOST_RUNGS as u64);
        let to = self.side(known).ports.port(0);
        for index in 0..dials {
            self.dial(counter, ms(lead + early + index * RUNG), index as u16, to);
        }
        for index in 0..dials + others {
            let to = self.side(counter).ports.port(index as i32);
            self.dial(known, ms(lead + index * slow), 0, to);
        }
    }

    /// The number of the port that a side uses for each rung. A counting NAT numbers dials in the order they are
    /// made.
    fn numbers(&self, role: Role, rungs: &[[u16; 2]], times: &[[Duration; 2]]) -> Vec<u16> {
        if !matches!(self.side(role).ports, PortForecast::Counter { .. }) {
            return rungs.iter().map(|rung| rung[role as usize]).collect();
        }
        let key = |index: usize| (times[index][role as usize], index);
        let rank = |index| (0..rungs.len()).filter(|other| key(*other) < key(index)).count() as u16;
        (0..rungs.len()).map(rank).collect()
    }

    /// `opener` sends a few SYNs anywhere at the other's address, and is then dialled. Also where it lets anybody in:
    /// then they only make the mapping.
    pub(super) fn open(&mut self, opener: Role) {
        let dialler = opener.other();
        let count = ports(self.side(opener)).min(2);
        // Each of its ports at once, and again later: what was lost, or was answered and forgotten.
        for (index, at) in [0, 0, 120, 120, 400, 400, 760, 760].into_iter().enumerate() {
            let pool = self.side(dialler).ports.pool();
            let to = pool.first + self.seed.below(u64::from(pool.size())) as u16;
            self.dial(opener, ms(at), index as u16 % count, Some(to));
        }
        for (index, at) in CALM.into_iter().enumerate() {
            let late = match opener {
                Role::Caller => self.lag(index),
                Role::Answerer => ms(at),
            };
            let to = self.side(opener).ports.port(i32::from(index as u16 % count));
            self.dial(dialler, late, index as u16, to);
        }
    }

    /// How long each side waits for the other one's whole burst, where the other one must go first.
    fn waits(&self, dials: [u32; 2]) -> [Duration; 2] {
        let burst = |dials: u32| ms(2 * u64::from(dials));
        match (self.caller.answers(), self.answerer.answers()) {
            (true, false) => [Duration::ZERO, self.lag(2) + burst(dials[0])],
            (false, true) => [burst(dials[1]), Duration::ZERO],
            _ => [Duration::ZERO; 2],
        }
    }

    /// The side whose NAT lets the other in from any port of its address, where neither port is known for sure.
    pub(super) fn lax_opener(&self) -> Option<Role> {
        [Role::Caller, Role::Answerer].into_iter().find(|role| {
            let (side, other) = (self.side(*role), self.side(role.other()));
            side.filtering == Filtering::AddressDependent
                && matches!(side.ports, PortForecast::Counter { .. } | PortForecast::Random { .. })
                && !matches!(other.ports, PortForecast::Fixed(_))
        })
    }

    /// Makes `count` mappings at the NAT of one side that let the other in: with SYNs to any of its ports.
    fn open_many(&mut self, opener: Role, count: u32) {
        let pool = self.side(opener.other()).ports.pool();
        for from in 0..count as u16 {
            let to = pool.first + self.seed.below(u64::from(pool.size())) as u16;
            self.dial(opener, Duration::ZERO, from, Some(to));
        }
    }

    /// The opener counts: the other one dials all the ports that its next mappings may get.
    fn guess_opened(&mut self, opener: Role) {
        self.open_many(opener, COUNTED);
        let guesses = u32::from(self.side(opener).ports.others()) + COUNTED + LOST;
        let wait = if opener == Role::Caller { self.lag(1) } else { Duration::ZERO };
        for guess in 0..guesses as i32 {
            let to = self.side(opener).ports.port(guess - LOST as i32);
            self.dial(opener.other(), wait, 0, to);
        }
    }

    pub(super) fn window(&mut self) {
        if let Some(opener) = self.lax_opener() {
            return self.guess_opened(opener);
        }
        match (&self.caller.ports, &self.answerer.ports) {
            (PortForecast::Fixed(_), _) => self.guess_counter(Role::Caller),
            (_, PortForecast::Fixed(_)) => self.guess_counter(Role::Answerer),
            _ => self.stairs(),
        }
    }

    /// One port is known; the other side counts.
    fn guess_counter(&mut self, known: Role) {
        let counter = known.other();
        let others = self.side(counter).ports.others();
        let guesses = u32::from(others) + COUNTED + LOST;
        let mut dials = [COUNTED; 2];
        dials[known as usize] = guesses;
        let waits = self.waits(dials);
        for guess in 0..guesses as i32 {
            let to = self.side(counter).ports.port(guess - LOST as i32);
            self.dial(known, waits[known as usize], 0, to);
        }
        let to = self.side(known).ports.port(0);
        for from in 0..COUNTED as u16 {
            // Most at once, the last ones later, for what was lost.
            let late = ms(u64::from(from.saturating_sub(3)) * 150);
            self.dial(counter, waits[counter as usize] + late, from, to);
        }
    }

    /// Both must guess. The first side's dials go to every second port of the other, the second side's to every
    /// port. The first's dial number i comes from its port i + u, where u others came between, and goes to the
    /// second's port 2 i - LOST; the second's number j comes from j + v and goes to j - LOST. They meet where
    /// j = i + u + LOST and 2 i - LOST = j + v, that is for i = u + v + 2 LOST. SYNs of ours that were lost count
    /// against u and v, LOST on each side at most, so that both numbers exist. While both dial, u and v may grow, but
    /// more slowly than i: so i - u - v - 2 LOST, which does not begin above zero and never rises by more than one, is
    /// zero once. Where the first has a run of ports, u is zero, and the second's go to j.
    fn stairs(&mut self) {
        let (a, b) = (self.caller.ports.others(), self.answerer.ports.others());
        let is_run = |side: &Endpoint| matches!(side.ports, PortForecast::Run { .. });
        // Who has a run of ports cannot have been overtaken, and has fewer to spend: it goes first.
        let first = match (is_run(self.caller), is_run(self.answerer)) {
            (true, _) => Role::Caller,
            (_, true) => Role::Answerer,
            _ if a <= b => Role::Caller,
            _ => Role::Answerer,
        };
        let (one, two) = (a.min(b), a.max(b));
        let (firsts, seconds) = meets::stairs(u32::from(one), u32::from(two));
        let mut dials = [seconds; 2];
        dials[first as usize] = firsts;
        let waits = self.waits(dials);
        // PortForecast of a run are known one by one: what is lost of its SYNs moves none.
        let back = if is_run(self.side(first)) { 0 } else { LOST as i32 };
        for index in 0..firsts as i32 {
            let to = self.side(first.other()).ports.port(2 * index - LOST as i32);
            self.dial(first, waits[first as usize], index as u16, to);
        }
        for index in 0..seconds as i32 {
            let to = self.side(first).ports.port(index - back);
            self.dial(first.other(), waits[first.other() as usize], index as u16, to);
        }
    }

    /// How long dials live on each side.
    pub(super) fn birthday(&mut self) -> [Option<Duration>; 2] {
        if let Some(opener) = self.lax_opener() {
            // A guess that comes before its mapping is repeated by the kernel, so it must live.
            let pool = self.side(opener).ports.pool();
            let (opened, guessed) = meets::birthday_sizes(pool.size());
            self.open_many(opener, opened);
            for to in sample(pool, guessed, self.seed) {
                self.dial(opener.other(), Duration::ZERO, 0, Some(to));
            }
            return [None; 2];
        }
        match (&self.caller.ports, &self.answerer.ports) {
            (PortForecast::Fixed(_), PortForecast::Random { pool }) => {
                self.birthday_one_known(Role::Caller, *pool)
            }
            (PortForecast::Random { pool }, PortForecast::Fixed(_)) => {
                self.birthday_one_known(Role::Answerer, *pool)
            }
            _ => {
                self.sweep();
                [None; 2]
            }
        }
    }

    /// One port is known, the other side's are random: it dials that port from many, and the known side dials as
    /// many of the pool.
    fn birthday_one_known(&mut self, known: Role, pool: PortRange) -> [Option<Duration>; 2] {
        let (theirs, ours) = meets::birthday_sizes(pool.size());
        let random = known.other();
        let mut dials = [theirs; 2];
        dials[known as usize] = ours;
        let waits = self.waits(dials);
        for to in sample(pool, ours, self.seed) {
            self.dial(known, waits[known as usize], 0, Some(to));
        }
        let to = self.side(known).ports.port(0);
        for from in 0..theirs as u16 {
            self.dial(random, waits[random as usize], from, to);
        }
        let mut lives = [Some(GUESS_LIVES); 2];
        // Who must go first waits for the other's whole burst. Else one dial in twenty is given up before a guess that
        // would have met it, which is less than what more dials win: none is repeated by the kernel.
        if waits[known as usize] > Duration::ZERO {
            lives[random as usize] = None;
        }
        lives
    }

    /// Neither port is known: all dials of a side go to one port of the other's, which one of the other's dials
    /// comes from.
    fn sweep(&mut self) {
        let mut dials = [0; 2];
        let mut targets = [None; 2];
        for role in [Role::Caller, Role::Answerer] {
            let side = self.side(role);
            let target = match &side.ports {
                PortForecast::Fixed(_) | PortForecast::Run { .. } => side.ports.port(0),
                PortForecast::Counter { others, .. } => side.ports.port((u32::from(*others) + LOST) as i32),
                PortForecast::Random { pool } => {
                    let pool = *pool;
                    Some(pool.first + self.seed.below(u64::from(pool.size())) as u16)
                }
            };
            dials[role as usize] = meets::sweep(NextPort::announced(&self.side(role).ports)).0;
            targets[role as usize] = target;
        }
        let waits = self.waits(dials);
        for role in [Role::Caller, Role::Answerer] {
            for from in 0..dials[role as usize] as u16 {
                self.dial(role, waits[role as usize], from, targets[role.other() as usize]);
            }
        }
    }
}

/// How many dials a side with so many sockets can make that live for less than the burst.
pub(super) fn brief(sockets: u16) -> u16 {
    (u32::from(sockets) * 9 / 8).min(u32::from(u16::MAX)) as u16
}

/// How many local ports a side can tell apart.
fn ports(side: &Endpoint) -> u16 {
    match &side.ports {
        PortForecast::Fixed(ports) => ports.len() as u16,
        _ => 1,
    }
    .max(1)
}

/// `count` different ports of `pool`, in random order; all of them if there are fewer.
fn sample(pool: PortRange, count: u32, seed: &mut Seed) -> Vec<u16> {
    if count >= pool.size() {
        let mut all: Vec<u16> = (pool.first..=pool.last).collect();
        seed.shuffle(&mut all);
        return all;
    }
    // Floyd's way: each turn adds exactly one.
    let mut chosen = BTreeSet::new();
    let mut sample = Vec::with_capacity(count as usize);
    for last in pool.size() - count..pool.size() {
        let drawn = seed.below(u64::from(last) + 1) as u32;
        let port = if chosen.insert(drawn) { drawn } else { last };
        chosen.insert(port);
        sample.push(pool.first + port as u16);
    }
    seed.shuffle(&mut sample);
    sample
}
