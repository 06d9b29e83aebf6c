//! Two simulated peers cross SYNs through two NATs.
//!
//! ```text
//! cargo run --bin world -- punch.pcap
//! ```
//!
//! It prints the story of every packet at every node. It writes the packets on the simulated Internet to
//! `punch.pcap`, for Wireshark. The second peer starts 20 ms late, which is less than the one-way time, so the SYNs
//! cross.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::sim::epoch;
use p2p_core::sim::host::HostEvent;
use p2p_core::sim::nat::{NatConfig, Unsolicited};
use p2p_core::sim::router::RouterConfig;
use p2p_core::sim::tcp::{TcpEvent, TcpOptions};
use p2p_core::sim::world::{HostId, World};

const PORT: u16 = 5_000;
const ONE_WAY: Duration = Duration::from_millis(25);
const LATE: Duration = Duration::from_millis(20);

/// Adds a host behind a NAT that answers strangers with a RST, which is the hard case.
fn add_home(
    world: &mut World,
    name: &str,
    inside: IpAddr,
    outside: IpAddr,
) -> Result<HostId, Box<dyn Error>> {
    let nat = NatConfig::home(outside).with_unsolicited(Unsolicited::Reset);
    let router = RouterConfig::new(&format!("nat-{name}")).with_v4(nat);
    let router = world.add_router(router, world.internet(), ONE_WAY)?;
    let host = world.add_host(name);
    world.attach(host, router, &[inside], Duration::ZERO)?;
    Ok(host)
}

fn run(pcap: Option<&str>, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut world = World::new(Seed::from_u64(1));
    world.set_recording(10_000);
    let [alice_at, bob_at]: [IpAddr; 2] = ["192.168.1.2".parse()?, "192.168.2.2".parse()?];
    let [alice_seen, bob_seen]: [IpAddr; 2] = ["198.51.100.1".parse()?, "203.0.113.1".parse()?];
    let alice = add_home(&mut world, "alice", alice_at, alice_seen)?;
    let bob = add_home(&mut world, "bob", bob_at, bob_seen)?;

    for (host, late, local, remote) in
        [(alice, Duration::ZERO, alice_at, bob_seen), (bob, LATE, bob_at, alice_seen)]
    {
        world.run_until(epoch() + late);
        world.with(host, |context| {
            let local = Some(SocketAddr::new(local, PORT));
            let remote = SocketAddr::new(remote, PORT);
            context.host.tcp_dial(local, TcpOptions::shared(), remote, context.now)
        })?;
    }
    world.run_for(Duration::from_secs(1));
    write!(out, "{}", world.story())?;

    for host in [alice, bob] {
        let event = world.with(host, |context| context.host.poll_event());
        let Some(HostEvent::Tcp(TcpEvent::Connected(socket))) = event else {
            return Err(format!("{} has no connection: {event:?}", world.name(host)).into());
        };
        let how =
            if world.host(host).tcp().is_crossed(socket) { "by SYNs that crossed" } else { "as a client" };
        writeln!(out, "{} is connected {how}", world.name(host))?;
    }
    if let Some(path) = pcap {
        let mut file = BufWriter::new(File::create(path).map_err(|error| format!("{path}: {error}"))?);
        world.write_pcap(world.internet(), &mut file)?;
        file.flush()?;
        writeln!(out, "what passed over the Internet is in {path}")?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (pcap, more) = (args.next(), args.next());
    if more.is_some() || pcap.as_deref().is_some_and(|path| path.starts_with('-')) {
        eprintln!("usage: world [FILE.pcap]");
        return ExitCode::from(2);
    }
    match run(pcap.as_deref(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("world: {error}");
            ExitCode::FAILURE
        }
    }
}
