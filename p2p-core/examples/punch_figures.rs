//! The success rates and times of punching, by counts.
//!
//! `cargo run --release -p p2p-core --features sim --example punch_figures -- [trials] [filter]`
//!
//! `trials` (default 200) is the number for each cell. Pairs of presets get a twenty-fifth of it each, stories of bad
//! luck fifty times as many, and sockets five hundred times. `filter` keeps the parts whose name contains it: silent,
//! answers, birthday, blocks, counters, near, signals, pairs, stuck, sockets. Both ends are the real punch machines.
//! Between them are simulated NATs, kernels and a broker. Times count from when both ends have the plan. "open" ends
//! when TCP is up at both ends. "kept" ends when both have proven and keep it; the proof takes one and a half round
//! trips.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::nat::meets::{self, Way};
use p2p_core::nat::{Delta, DeltaKind, NatType, SynAnswer};
use p2p_core::punch::Mode;
use p2p_core::sim::link::LinkConfig;
use p2p_core::sim::meeting::{Home, Meeting, Outcome};
use p2p_core::sim::nat::Ending;

type Error = Box<dyn std::error::Error>;

/// Returns the Wilson interval of 95 %, in percent.
fn wilson(good: usize, all: usize) -> (f64, f64) {
    let (n, z) = (all.max(1) as f64, 1.959_964);
    let p = good as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let margin = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + z * z / n;
    (100.0 * (middle - margin) / whole, 100.0 * (middle + margin) / whole)
}

#[derive(Default)]
struct Cell {
    all: usize,
    met: usize,
    open: Vec<(f64, f64)>,
    kept: Vec<(f64, f64)>,
    syns: Vec<usize>,
    rounds: BTreeMap<u8, usize>,
    why: BTreeMap<String, usize>,
}

/// Returns the median and the largest time, as text.
fn span(times: &mut [(f64, f64)]) -> String {
    times.sort_by(|one, two| one.0.total_cmp(&two.0));
    let (Some(middle), Some(last)) = (times.get(times.len() / 2), times.last()) else { return String::new() };
    let slowest = times.iter().map(|(_, millis)| *millis).fold(0.0, f64::max);
    format!("{:.2} / {:.2} RTT, {slowest:.0} ms", middle.0, last.0)
}

impl Cell {
    fn note(&mut self, outcome: &Outcome, rtt: Duration) {
        self.all += 1;
        if outcome.syns > 0 {
            self.syns.push(outcome.syns);
        }
        let rounds = outcome.reports[0].as_ref().map_or(0, |report| report.rounds);
        *self.rounds.entry(rounds).or_default() += 1;
        let both = |took: Duration| (took.as_secs_f64() / rtt.as_secs_f64(), took.as_secs_f64() * 1e3);
        if let (Some(open), Some(kept)) = (outcome.opened, outcome.took) {
            self.met += 1;
            self.open.push(both(open));
            self.kept.push(both(kept));
        } else {
            *self.why.entry(format!("{:?} {:?}", outcome.tactic, outcome.failed)).or_default() += 1;
        }
    }

    fn print(&mut self, name: &str) {
        let (low, high) = wilson(self.met, self.all);
        let share = 100.0 * self.met as f64 / self.all.max(1) as f64;
        print!("  {name:<50} {share:6.2} % of {:>6} ({low:.2} … {high:.2})", self.all);
        print!("; open {}; kept {}", span(&mut self.open), span(&mut self.kept));
        self.syns.sort_unstable();
        if let (Some(middle), Some(most)) = (self.syns.get(self.syns.len() / 2), self.syns.last()) {
            print!("; SYNs {middle} / {most}");
        }
        if self.rounds.len() > 1 {
            print!("; rounds {:?}", self.rounds);
        }
        if !self.why.is_empty() {
            print!("; {:?}", self.why);
        }
        println!();
    }
}

fn equal() -> Delta {
    Delta { kind: DeltaKind::Equal, value: 0 }
}

fn of(kind: DeltaKind) -> Delta {
    Delta { kind, value: i16::from(!matches!(kind, DeltaKind::Equal | DeltaKind::Random)) }
}

/// A part of the table: its name, and the function that prints it.
type Part = (&'static str, fn(u64) -> Result<(), Error>);

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let trials: u64 = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let filter = arguments.next().unwrap_or_default();
    let parts: [Part; 10] = [
        ("silent", silent),
        ("answers", answers),
        ("birthday", birthdays),
        ("blocks", blocks),
        ("counters", counters),
        ("near", near),
        ("signals", signals),
        ("pairs", pairs),
        ("stuck", stuck),
        ("sockets", sockets),
    ];
    println!("Share of attempts that meet (95 % Wilson); median / most in round trips, the slowest in ms");
    for (name, part) in parts.into_iter().filter(|(name, _)| name.contains(&filter)) {
        println!("{name}");
        part(trials)?;
    }
    Ok(())
}

/// Returns a random round trip of 40 to 200 ms, which is the same each time.
fn any_rtt(number: u64) -> Duration {
    Duration::from_millis(Seed::from_u64(number).fork("rtt").within(40..201))
}

/// Prints the cells in which the caller hears of the plan this much later than the answerer. Ports must be asked for,
/// so that the caller cannot dial before it hears.
fn silent(trials: u64) -> Result<(), Error> {
    for delay in [0, 20, 60, 150, 300, 600, 1_000] {
        let mut cell = Cell::default();
        for number in 0..trials {
            let home = || Home::of_type(NatType::PortRestricted, of(DeltaKind::Random), SynAnswer::Silence);
            let mut meeting = Meeting::new([home(), home()], number);
            meeting.rtt = any_rtt(number);
            meeting.signals = LinkConfig::with_latency(Duration::from_millis(delay));
            let rtt = meeting.rtt;
            cell.note(&meeting.run()?, rtt);
        }
        cell.print(&format!("silent × silent, {delay} ms apart"));
    }
    Ok(())
}

/// Prints the cells in which both ends compare their clocks by the messages themselves. The delays there and back
/// differ by up to 600 ms, so clocks are taken wrong by up to 300 ms.
fn answers(trials: u64) -> Result<(), Error> {
    use SynAnswer::{Icmp, Reset, Silence};
    let cells =
        [(Reset, Silence), (Silence, Reset), (Reset, Reset), (Icmp, Reset), (Reset, Icmp), (Icmp, Icmp)];
    for (one, two) in cells {
        for (jitter, ending) in
            [(0, Ending::Keep), (80, Ending::Delete), (600, Ending::Keep), (600, Ending::Delete)]
        {
            let mut cell = Cell::default();
            for number in 0..trials {
                let home = |syn| {
                    let mut home = Home::of_type(NatType::PortRestricted, equal(), syn);
                    home.nat.tcp.on_rst = ending;
                    home.nat.tcp.icmp_deletes = ending == Ending::Delete;
                    home
                };
                let mut meeting = Meeting::new([home(one), home(two)], number);
                meeting.rtt = any_rtt(number);
                let jitter = Duration::from_millis(jitter);
                meeting.signals =
                    LinkConfig { jitter, ..LinkConfig::with_latency(Duration::from_millis(20)) };
                let rtt = meeting.rtt;
                cell.note(&meeting.run()?, rtt);
            }
            cell.print(&format!("{one:?} × {two:?}, signals 20-{} ms, answers {ending:?}", 20 + jitter));
        }
    }
    Ok(())
}

fn port_restricted() -> Home {
    Home::of_type(NatType::PortRestricted, equal(), SynAnswer::Silence)
}

/// Prints one round of one tactic.
fn round(name: &str, homes: [Home; 2], rounds: u8, trials: u64) -> Result<(), Error> {
    let mut cell = Cell::default();
    for number in 0..trials {
        let mut meeting = Meeting::new(homes.clone(), number);
        meeting.counts = true;
        meeting.limits.rounds = rounds;
        let rtt = meeting.rtt;
        cell.note(&meeting.run()?, rtt);
    }
    cell.print(name);
    Ok(())
}

fn birthdays(trials: u64) -> Result<(), Error> {
    let random = || Home::of_type(NatType::Symmetric, of(DeltaKind::Random), SynAnswer::Silence);
    round("random × endpoint-independent, one round", [random(), port_restricted()], 1, trials)?;
    round("endpoint-independent × random, one round", [port_restricted(), random()], 1, trials)
}

fn blocks(trials: u64) -> Result<(), Error> {
    let block = || Home::in_block(512);
    let exact = Home::of_type(NatType::Symmetric, equal(), SynAnswer::Silence);
    round("random in a block of 512 × endpoint-independent", [block(), port_restricted()], 1, trials)?;
    round("endpoint-independent × random in a block of 512", [port_restricted(), block()], 1, trials)?;
    round("both random in blocks of 512, one round", [block(), block()], 1, trials)?;
    round("both random in blocks of 512, up to 4 rounds", [block(), block()], 4, trials)?;
    round("random in a block of 512 × symmetric equal", [block(), exact], 1, trials)?;
    // Each SYN may be lost, and with it the one that would have met.
    let mut cell = Cell::default();
    for number in 0..trials {
        let mut meeting = Meeting::new([block(), block()], number);
        meeting.loss = 0.01;
        let rtt = meeting.rtt;
        cell.note(&meeting.run()?, rtt);
    }
    cell.print("both random in blocks of 512, 1 % lost");
    Ok(())
}

fn counters(trials: u64) -> Result<(), Error> {
    for rate in [0_u16, 10, 35] {
        for rounds in [1, 4] {
            let mut cell = Cell::default();
            for number in 0..trials {
                let home = || {
                    let mut home =
                        Home::of_type(NatType::Symmetric, of(DeltaKind::Independent), SynAnswer::Silence);
                    home.nat = home.nat.with_flow(|flow| flow.background = f64::from(rate));
                    home.facts.rate = Some(rate);
                    home
                };
                let mut meeting = Meeting::new([home(), home()], number);
                meeting.limits.rounds = rounds;
                let rtt = meeting.rtt;
                cell.note(&meeting.run()?, rtt);
            }
            cell.print(&format!("both sequential, {rate} others a second, {rounds} rounds"));
        }
    }
    Ok(())
}

fn near(trials: u64) -> Result<(), Error> {
    let rtt = Duration::from_millis(1);
    for mode in [Mode::Lan, Mode::Machine, Mode::Interface] {
        let (mut met, mut slowest) = (0, Duration::ZERO);
        for number in 0..trials {
            let outcome = Meeting::nearby(mode, rtt, number).run()?;
            met += usize::from(outcome.is_met());
            slowest = slowest.max(outcome.answered.unwrap_or_default());
        }
        let (low, high) = wilson(met, trials as usize);
        println!(
            "  {mode}: {met} of {trials} ({low:.2} … {high:.2}), kept {slowest:.2?} after the answerer's first SYN at most"
        );
    }
    Ok(())
}

/// Prints the signals before each side's first SYN, with signals of 30 ms.
fn signals(_: u64) -> Result<(), Error> {
    let asked = || Home::of_type(NatType::PortRestricted, of(DeltaKind::Random), SynAnswer::Silence);
    let unknown = || {
        let mut home = port_restricted();
        home.facts.syn = None;
        home
    };
    for (name, home) in [
        ("ports that can be foreseen, silent", port_restricted()),
        ("ports that can be computed", unknown()),
        ("ports that are asked for (two STUN round trips)", asked()),
    ] {
        let outcome = Meeting::new([home.clone(), home], 1).run()?;
        println!(
            "  {name}: caller {:?}, answerer {:?} after the start",
            outcome.first_syn[0].unwrap_or_default(),
            outcome.first_syn[1].unwrap_or_default()
        );
    }
    Ok(())
}

/// Prints the pairs that `meets` calls meetable without a relay, of 35 × 35.
fn pairs(trials: u64) -> Result<(), Error> {
    let each = trials.div_ceil(25);
    let presets = || NatType::ALL.into_iter().flat_map(|nat| DeltaKind::ALL.map(|kind| (nat, kind)));
    let mut cell = Cell::default();
    let mut worst: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0;
    for (row, one) in presets().enumerate() {
        for (column, two) in presets().enumerate() {
            let homes = [one, two].map(|(nat, kind)| Home::of_type(nat, of(kind), SynAnswer::Silence));
            let meeting = meets::meets(&homes[0].facts, &homes[1].facts);
            if !meeting.ways.iter().any(|way| *way != Way::Relay) {
                continue;
            }
            count += 1;
            for number in 0..each {
                let number = number * 10_000 + row as u64 * 100 + column as u64;
                let mut meeting = Meeting::new(homes.clone(), number);
                meeting.rtt = any_rtt(number);
                meeting.loss = 0.01;
                let rtt = meeting.rtt;
                let outcome = meeting.run()?;
                cell.note(&outcome, rtt);
                if !outcome.is_met() {
                    *worst.entry(format!("{one:?} × {two:?}")).or_default() += 1;
                }
            }
        }
    }
    cell.print(&format!("{count} pairs, {each} attempts each, 1 % lost"));
    println!("  failures by pair: {worst:?}");
    Ok(())
}

/// Returns a meeting with known or guessed ports, and everything else by chance.
fn unlucky(number: u64, loss: f64) -> Meeting {
    let mut dice = Seed::from_u64(number).fork("unlucky");
    let mut home = || {
        let nat = *dice
            .pick(&[NatType::SymmetricFirewall, NatType::Restricted, NatType::PortRestricted])
            .unwrap_or(&NatType::PortRestricted);
        let kind = *dice.pick(&DeltaKind::ALL).unwrap_or(&DeltaKind::Equal);
        let syn = *dice
            .pick(&[SynAnswer::Silence, SynAnswer::Reset, SynAnswer::Icmp])
            .unwrap_or(&SynAnswer::Silence);
        let mut home = Home::of_type(nat, of(kind), syn);
        home.nat.tcp.on_rst =
            *dice.pick(&[Ending::Keep, Ending::Close, Ending::Delete]).unwrap_or(&Ending::Keep);
        home.nat.tcp.icmp_deletes = dice.chance(0.5);
        if dice.chance(0.5) {
            home.facts.syn = None;
        }
        home
    };
    let mut meeting = Meeting::new([home(), home()], number);
    meeting.rtt = any_rtt(number);
    meeting.loss = dice.unit() * loss;
    let jitter = Duration::from_millis(dice.below(100));
    meeting.signals =
        LinkConfig { jitter, ..LinkConfig::with_latency(Duration::from_millis(dice.within(10..100))) };
    meeting
}

fn stuck(trials: u64) -> Result<(), Error> {
    for loss in [0.01, 0.03] {
        let mut cell = Cell::default();
        let mut stuck = 0;
        for number in 0..trials * 50 {
            let meeting = unlucky(number, loss);
            let rtt = meeting.rtt;
            let outcome = meeting.run()?;
            stuck += usize::from(outcome.took.is_none_or(|took| took > Duration::from_secs(2)));
            cell.note(&outcome, rtt);
        }
        cell.print(&format!("up to {} % lost on each access link, each way", loss * 100.0));
        println!("  stuck for more than 2 s: {stuck} of {}", cell.all);
    }
    Ok(())
}

/// Counts the meetings in which both ends keep different connections, or one end two.
fn sockets(trials: u64) -> Result<(), Error> {
    let (mut met, mut different, mut alone) = (0, 0, 0);
    let all = trials * 500;
    for number in 0..all {
        let outcome = unlucky(1_000_000 + number, 0.03).run()?;
        let [one, two] = &outcome.kept;
        let is_same = match (&one[..], &two[..]) {
            ([one], [two]) => {
                met += 1;
                one.is_with(two)
            }
            ([], []) => true,
            ([_], []) | ([], [_]) => {
                alone += 1;
                true
            }
            _ => false,
        };
        different += usize::from(!is_same);
    }
    println!(
        "  {met} of {all} met; different sockets kept: {different}; one end alone, its last word lost: {alone}"
    );
    Ok(())
}
