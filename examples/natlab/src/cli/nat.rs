//! The command `natlab nat`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use natlab::survey::{Kind, Seen, Surveyed, survey_kind, survey_simulated};
use p2p_core::sim::span;
use serde::Serialize;

/// Have a real node behind each NAT of a matrix find out its properties, over real sockets, from coturn with two
/// addresses. The matrix has 3 mappings × 3 filterings × 5 deltas, and the NATs that do not translate. Compare the
/// findings with those of the same probe in virtual time, and with the truth.
#[derive(Debug, Args)]
pub(super) struct Nat {
    /// The round trip to the server.
    #[arg(long, default_value = "40ms")]
    rtt: String,
    /// Only the NATs whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Name so many more servers that do not exist, besides coturn's two addresses.
    #[arg(long, default_value_t = 0)]
    dead: u8,
    /// The seed of the labs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Labs at a time. One at a time keeps time best.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print each NAT as a line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    kind: Kind,
    lab: Seen,
    simulated: Seen,
    is_same: bool,
    is_true: bool,
    udp_rtts: Option<f64>,
    tcp_rtts: Option<f64>,
    all_rtts: f64,
    all_ms: f64,
    packets: Option<u32>,
}

impl Nat {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        natlab::enter_user_namespace()?;
        let rtt = span::parse(&self.rtt).map_err(anyhow::Error::msg)?;
        let kinds: Vec<Kind> =
            Kind::all().into_iter().filter(|kind| kind.to_string().contains(&self.only)).collect();
        let next = AtomicUsize::new(0);
        let rows: Vec<Mutex<Option<anyhow::Result<Row>>>> = kinds.iter().map(|_| Mutex::new(None)).collect();
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some((kind, row)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        kinds.get(index).zip(rows.get(index))
                    } {
                        let made = self.row(*kind, rtt);
                        *row.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                    }
                });
            }
        });
        let mut done = Vec::new();
        for (row, kind) in rows.into_iter().zip(&kinds) {
            let row =
                row.into_inner().unwrap_or_else(PoisonError::into_inner).context("a worker ended early")?;
            done.push(row.with_context(|| kind.to_string())?);
        }
        self.print(&done)?;
        Ok(ExitCode::from(u8::from(done.iter().any(|row| !row.is_same))))
    }

    fn row(&self, kind: Kind, rtt: Duration) -> anyhow::Result<Row> {
        let simulated = Seen::from(&survey_simulated(&kind.scenario(&self.rtt, self.seed)?)?);
        let Surveyed { report, udp_after, tcp_after, after, packets } =
            survey_kind(kind, &self.rtt, self.seed, self.dead)?;
        let lab = Seen::from(&*report);
        let rtts = |after: Duration| after.as_secs_f64() / rtt.as_secs_f64();
        Ok(Row {
            kind,
            lab,
            simulated,
            is_same: lab == simulated,
            is_true: [lab.tcp, lab.udp].iter().all(|found| *found == kind.truth()),
            udp_rtts: udp_after.map(rtts),
            tcp_rtts: tcp_after.map(rtts),
            all_rtts: rtts(after),
            all_ms: after.as_secs_f64() * 1e3,
            packets,
        })
    }

    fn print(&self, rows: &[Row]) -> anyhow::Result<()> {
        if self.json {
            for row in rows {
                println!("{}", serde_json::to_string(row)?);
            }
            return Ok(());
        }
        let width = rows.iter().map(|row| row.kind.to_string().len()).max().unwrap_or(0);
        println!("{:width$}  lab=sim  true  UDP   TCP   all RTTs     ms  packets", "NAT");
        let tell = |rtts: Option<f64>| rtts.map_or_else(|| "-".to_owned(), |rtts| format!("{rtts:.1}"));
        for row in rows {
            let yes = |is_so| if is_so { "yes" } else { "NO" };
            println!(
                "{:width$}  {:7}  {:4}  {:4}  {:4}  {:8.1}  {:5.0}  {:7}",
                row.kind.to_string(),
                yes(row.is_same),
                yes(row.is_true),
                tell(row.udp_rtts),
                tell(row.tcp_rtts),
                row.all_rtts,
                row.all_ms,
                row.packets.map_or_else(|| "-".to_owned(), |packets| packets.to_string()),
            );
            let truth = row.kind.truth();
            for (transport, lab, simulated) in
                [("TCP", row.lab.tcp, row.simulated.tcp), ("UDP", row.lab.udp, row.simulated.udp)]
            {
                if lab != simulated || lab != truth {
                    println!("    {transport} lab: {lab}\n        sim: {simulated}\n      truth: {truth}");
                }
            }
        }
        let count = |is_so: fn(&&Row) -> bool| rows.iter().filter(is_so).count();
        let most = |of: fn(&Row) -> Option<f64>| rows.iter().filter_map(of).fold(0.0, f64::max);
        println!(
            "{} NATs, RTT {}: {} as in virtual time, {} as they are; address after at most {:.1} RTT over UDP and \
             {:.1} over TCP, all after at most {:.1} RTT ({:.0} ms) where servers answer; at most {:.0} packets to a \
             server",
            rows.len(),
            self.rtt,
            count(|row| row.is_same),
            count(|row| row.is_true),
            most(|row| row.udp_rtts),
            most(|row| row.tcp_rtts),
            most(|row| row.tcp_rtts.map(|_| row.all_rtts)),
            most(|row| row.tcp_rtts.map(|_| row.all_ms)),
            most(|row| row.packets.map(f64::from)),
        );
        Ok(())
    }
}
