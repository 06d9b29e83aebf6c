//! How well punching works: counts, not claims.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::nat::{Delta, DeltaKind, NatType, SynAnswer};
use p2p_core::sim::meeting::{Home, Meeting, Outcome};

type Error = Box<dyn std::error::Error>;

/// The Wilson interval of 95 %, in percent.
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
    rtts: Vec<f64>,
    millis: Vec<f64>,
    syns: usize,
    waves: BTreeMap<u8, usize>,
    why: BTreeMap<String, usize>,
}

impl Cell {
    fn note(&mut self, outcome: &Outcome, rtt: Duration) {
        self.all += 1;
        self.syns = self.syns.max(outcome.syns);
        let waves = outcome.reports[0].as_ref().map_or(0, |report| report.waves);
        *self.waves.entry(waves).or_default() += 1;
        if let Some(took) = outcome.took {
            self.met += 1;
            self.rtts.push(took.as_secs_f64() / rtt.as_secs_f64());
            self.millis.push(took.as_secs_f64() * 1e3);
        } else {
            *self.why.entry(format!("{:?} {:?}", outcome.tactic, outcome.failed)).or_default() += 1;
        }
    }

    fn print(&mut self, name: &str) {
        self.rtts.sort_by(f64::total_cmp);
        self.millis.sort_by(f64::total_cmp);
        let (low, high) = wilson(self.met, self.all);
        let share = 100.0 * self.met as f64 / self.all.max(1) as f64;
        print!("  {name:<52} {share:6.2} % of {:>6} ({low:.2} … {high:.2})", self.all);
        if let (Some(middle), Some(last)) = (self.rtts.get(self.rtts.len() / 2), self.rtts.last()) {
            print!("; median {middle:.2}, most {last:.2} RTT; ");
            print!(
                "{:.0} / {:.0} ms",
                self.millis[self.millis.len() / 2],
                self.millis[self.millis.len() - 1]
            );
        }
        if self.syns > 0 {
            print!("; {} SYNs at most", self.syns);
        }
        if self.waves.len() > 1 {
            print!("; waves {:?}", self.waves);
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

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let trials: u64 = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let filter = arguments.next().unwrap_or_default();
    if "silent".contains(&filter) {
        silent(trials)?;
    }
    if "answers".contains(&filter) {
        answers(trials)?;
    }
    if "birthday".contains(&filter) {
        birthdays(trials)?;
    }
    if "counters".contains(&filter) {
        counters(trials)?;
    }
    Ok(())
}

fn silent(trials: u64) -> Result<(), Error> {
    for skew in [0, 20, 60, 150, 300, 600, 1_000] {
        let mut cell = Cell::default();
        for number in 0..trials {
            let home = || Home::of_type(NatType::PortRestricted, equal(), SynAnswer::Silence);
            let mut meeting = Meeting::new([home(), home()], number);
            meeting.rtt = Duration::from_millis(Seed::from_u64(number).within(40..201));
            meeting.skew = Some((skew, 1_000));
            let rtt = meeting.rtt;
            cell.note(&meeting.run()?, rtt);
        }
        cell.print(&format!("silent × silent, skew {skew} ms"));
    }
    Ok(())
}

fn answers(trials: u64) -> Result<(), Error> {
    use SynAnswer::{Icmp, Reset, Silence};
    for (one, two) in [
        (Reset, Silence),
        (Silence, Reset),
        (Reset, Reset),
        (Icmp, Reset),
        (Reset, Icmp),
        (Icmp, Icmp),
        (Icmp, Silence),
        (Silence, Icmp),
    ] {
        let mut cell = Cell::default();
        for number in 0..trials {
            let home = |syn| Home::of_type(NatType::PortRestricted, equal(), syn);
            let mut meeting = Meeting::new([home(one), home(two)], number);
            let mut dice = Seed::from_u64(number);
            meeting.rtt = Duration::from_millis(dice.within(40..201));
            meeting.skew = Some((dice.below(601) as i64 - 300, 300));
            let rtt = meeting.rtt;
            cell.note(&meeting.run()?, rtt);
        }
        cell.print(&format!("{one:?} × {two:?}, skew 0-300 ms"));
    }
    Ok(())
}

fn birthdays(trials: u64) -> Result<(), Error> {
    let port_restricted = || Home::of_type(NatType::PortRestricted, equal(), SynAnswer::Silence);
    let random = || Home::of_type(NatType::Symmetric, of(DeltaKind::Random), SynAnswer::Silence);
    let cells: [(&str, [Home; 2]); 6] = [
        ("random × endpoint-independent", [random(), port_restricted()]),
        ("endpoint-independent × random", [port_restricted(), random()]),
        ("random in a block of 512 × endpoint-independent", [Home::in_block(512), port_restricted()]),
        ("endpoint-independent × random in a block of 512", [port_restricted(), Home::in_block(512)]),
        ("both random in blocks of 512", [Home::in_block(512), Home::in_block(512)]),
        (
            "random in a block × symmetric equal",
            [Home::in_block(512), Home::of_type(NatType::Symmetric, equal(), SynAnswer::Silence)],
        ),
    ];
    for (name, homes) in cells {
        let mut cell = Cell::default();
        for number in 0..trials {
            let mut meeting = Meeting::new(homes.clone(), number);
            meeting.counts = true;
            meeting.limits.waves = if name.starts_with("both") { 4 } else { 1 };
            let rtt = meeting.rtt;
            cell.note(&meeting.run()?, rtt);
        }
        cell.print(name);
    }
    Ok(())
}

fn counters(trials: u64) -> Result<(), Error> {
    for rate in [0_u16, 10, 35] {
        for waves in [1, 4] {
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
                meeting.limits.waves = waves;
                let rtt = meeting.rtt;
                cell.note(&meeting.run()?, rtt);
            }
            cell.print(&format!("both sequential, {rate} others a second, {waves} waves"));
        }
    }
    Ok(())
}
