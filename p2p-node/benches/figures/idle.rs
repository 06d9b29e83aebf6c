//! The memory of a node that waits.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use p2p_node::Node;

use crate::table::{Samples, at_most};
use crate::world::{Rendezvous, config};

/// The first argument of a child process.
pub(crate) const CHILD: &str = "idle-child";
const CHILDREN: usize = 5;
/// The rest before the measurement. It is long enough for the start to be over, and for the next look at the
/// interfaces.
const REST: Duration = Duration::from_secs(20);
/// The goal, in MB.
const GOAL: f64 = 12.0;

pub(crate) fn print() {
    println!("idle: resident memory of a process, {CHILDREN} of each, {} s after its start", REST.as_secs());
    let rendezvous = Rendezvous::start();
    let servers = [rendezvous.broker_port().to_string(), rendezvous.stun_port().to_string()];
    let empty = measure("an empty tokio program", &[]);
    let idle = measure("a node with one broker and one STUN server", &servers);
    println!("  {:44} p50 {:8.2} MB", "the node itself", idle - empty);
    at_most("a program with an idle node", idle, GOAL, "MB");
    rendezvous.stop();
}

/// Returns the median memory, in MB.
fn measure(name: &str, servers: &[String]) -> f64 {
    let (mut all, mut own) = (Samples::default(), Samples::default());
    let mut threads = String::new();
    let start = |_| {
        Command::new(std::env::current_exe().expect("a path"))
            .arg(CHILD)
            .args(servers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child")
    };
    let children: Vec<Child> = (0..CHILDREN).map(start).collect();
    for mut child in children {
        let mut said = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut said).expect("a line");
        // The child ends when its input does.
        drop(child.stdin.take());
        child.wait().expect("it ends");
        let mut words = said.split_whitespace();
        let mut mb = || words.next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1.024e-3;
        all.push(mb());
        own.push(mb());
        threads = words.next().unwrap_or("?").to_owned();
    }
    println!(
        "  {name:44} p50 {:8.2} MB   p90 {:8.2} MB   of it not backed by files {:.2} MB; threads {threads}",
        all.median(),
        all.at(0.9),
        own.median()
    );
    all.median()
}

/// Runs the child, which prints its memory and then waits for the end of its input. With two ports it is a node with
/// these servers.
pub(crate) fn be(servers: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let node = match servers {
            [broker, stun] => {
                let (broker, stun) = (broker.parse().expect("a port"), stun.parse().expect("a port"));
                let node = Node::bind(config(&[broker], Some(stun))).await.expect("a node");
                assert_eq!(node.brokers_up().len(), 1);
                Some(node)
            }
            _ => None,
        };
        tokio::time::sleep(REST).await;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
            line.trim().trim_end_matches(" kB").to_owned()
        };
        let mut out = std::io::stdout();
        writeln!(out, "{} {} {}", of("VmRSS:"), of("RssAnon:"), of("Threads:")).expect("written");
        std::io::stdin().read_line(&mut String::new()).expect("the end");
        if let Some(node) = node {
            node.close().await;
        }
    });
}
