//! The memory of a relayed pipe that nobody uses.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use p2p_node::{Node, PeerAddr, Pipe, TurnServer};
use tokio::time::sleep;

use super::{PASSWORD, USER, call, coturn};
use crate::table::at_most;
use crate::world::{Rendezvous, config};

/// The first argument of a child process.
pub(crate) const CHILD: &str = "relay-idle-child";
/// The pairs of nodes, as one node hears ten signals a second from one sender.
const PAIRS: usize = 8;
const PIPES: usize = 38;
const PAUSE: Duration = Duration::from_millis(600);
/// The rest before the measurement, which is long enough for freed memory to be given back.
const REST: Duration = Duration::from_secs(8);
/// The goal, in KiB.
const GOAL: f64 = 32.0;

pub(crate) fn print() {
    println!(
        "relay-idle: resident memory of a process with {} pipes over UDP relaying at coturn, less that with {PAIRS}",
        PAIRS * (PIPES + 1)
    );
    let rendezvous = Rendezvous::start();
    let runtime = crate::world::apart();
    let Some(coturn) = coturn(&runtime, &[]) else { return };
    for plain in [true, false] {
        let kind = if plain { "plain" } else { "encrypted" };
        let words =
            [rendezvous.broker_port().to_string(), coturn.address.port().to_string(), kind.to_owned()];
        let (mut called, mut caller) = (Kid::start("called", &words), Kid::start("caller", &words));
        let addresses = called.line();
        caller.say(&addresses);
        let mut kib = [0.0; 2];
        for (pipes, sign) in [(1, -1.0), (PIPES, 1.0)] {
            caller.say(&format!("call {pipes}"));
            assert_eq!(caller.line(), "done");
            runtime.block_on(async { sleep(REST).await });
            for (kib, kid) in kib.iter_mut().zip([&mut caller, &mut called]) {
                kid.say("tell");
                *kib += sign * kid.line().parse::<f64>().unwrap_or(f64::NAN);
            }
        }
        let [lender, other] = kib.map(|kib| kib / (PAIRS * PIPES) as f64);
        at_most(&format!("{kind}: the end with the relay"), lender, GOAL, "KiB");
        at_most(&format!("{kind}: the other end"), other, GOAL, "KiB");
        println!("  {:44}     {:8.3} KiB", format!("{kind}: both"), lender + other);
        for kid in [caller, called] {
            kid.end();
        }
    }
    rendezvous.stop();
}

struct Kid {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Kid {
    fn start(role: &str, words: &[String]) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("a path"))
            .args([CHILD, role])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let to = process.stdin.take().expect("it is piped");
        let from = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, to, from }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("the child lives");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Ends the child, which ends when its input does.
    fn end(mut self) {
        drop(self.to);
        self.process.wait().expect("it ends");
    }
}

/// Runs the child.
pub(crate) fn be(words: &[String]) {
    let [role, broker, turn, kind] = words else { panic!("{words:?}") };
    let (broker, turn): (u16, u16) = (broker.parse().expect("a port"), turn.parse().expect("a port"));
    let (is_caller, plain) = (role == "caller", kind == "plain");
    let server = TurnServer::new("127.0.0.1", turn).with_login(USER, PASSWORD);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut nodes = Vec::new();
        for _ in 0..PAIRS {
            let mut config = config(&[broker], None);
            config.plain = plain;
            (config.limits.pipes_per_peer, config.limits.pipes) = (usize::MAX, usize::MAX);
            config.turn = if is_caller { vec![server.clone()] } else { Vec::new() };
            nodes.push(Node::bind(config).await.expect("a node"));
        }
        match is_caller {
            true => be_caller(&nodes, plain).await,
            false => be_called(&nodes).await,
        }
        for node in nodes {
            node.close().await;
        }
    });
}

/// Returns the next line, while the runtime goes on.
async fn heard() -> Option<String> {
    let read = || {
        let mut line = String::new();
        let length = std::io::stdin().read_line(&mut line).expect("the parent's words");
        (length > 0).then(|| line.trim_end().to_owned())
    };
    tokio::task::spawn_blocking(read).await.expect("it does not panic")
}

fn tell(what: &str) {
    writeln!(std::io::stdout(), "{what}").expect("written");
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("?");
    line.trim().trim_end_matches(" kB").to_owned()
}

async fn be_called(nodes: &[Node]) {
    let mut all = Vec::new();
    let mut kept = Vec::new();
    for node in nodes {
        all.push(node.addr().expect("an address").to_string());
        let node = node.clone();
        kept.push(tokio::spawn(async move {
            let mut pipes: Vec<Pipe> = Vec::new();
            while let Some(pipe) = node.accept().await {
                pipes.push(pipe);
            }
        }));
    }
    tell(&all.join(" "));
    while heard().await.is_some() {
        tell(&resident());
    }
    for task in kept {
        task.abort();
    }
}

async fn be_caller(nodes: &[Node], plain: bool) {
    let line = heard().await.expect("addresses");
    let addresses: Vec<PeerAddr> = line.split(' ').map(|addr| addr.parse().expect("an address")).collect();
    let mut kept = Vec::new();
    while let Some(line) = heard().await {
        if let Some(pipes) = line.strip_prefix("call ") {
            let pipes: usize = pipes.parse().expect("a number");
            let calls = nodes.iter().zip(&addresses).map(|(node, addr)| async move {
                let mut all: Vec<Pipe> = Vec::with_capacity(pipes);
                for _ in 0..pipes {
                    all.push(call(node, addr, plain).await);
                    sleep(PAUSE).await;
                }
                all
            });
            kept.push(futures_util::future::join_all(calls).await);
            tell("done");
        } else {
            tell(&resident());
        }
    }
}
