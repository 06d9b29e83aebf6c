//! The connection attempts a second that the simulated world makes on one core.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use p2p_core::Seed;
use p2p_core::sim::nat::{NatConfig, Unsolicited};
use p2p_core::sim::router::RouterConfig;
use p2p_core::sim::tcp::{TcpOptions, TcpState};
use p2p_core::sim::world::{HostId, World};

fn main() {
    divan::main();
}

const ATTEMPTS: u16 = 100;

struct Homes {
    world: World,
    hosts: [HostId; 2],
}

const INSIDE: [&str; 2] = ["192.168.1.2", "192.168.2.2"];
const OUTSIDE: [&str; 2] = ["198.51.100.1", "203.0.113.1"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn homes(nat: fn(IpAddr) -> NatConfig) -> Homes {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let hosts = [0, 1].map(|side| {
        let router = RouterConfig::new("nat").with_v4(nat(ip(OUTSIDE[side])));
        let router = world.add_router(router, internet, Duration::from_millis(25)).expect("a router");
        let host = world.add_host("host");
        world.attach(host, router, &[ip(INSIDE[side])], Duration::from_millis(1)).expect("an interface");
        host
    });
    Homes { world, hosts }
}

/// Makes one attempt, in which both dial the other's mapped port, B 30 ms later. Returns true when it connected.
fn punch(homes: &mut Homes, port: u16) -> bool {
    let Homes { world, hosts } = homes;
    let sockets = [0, 1].map(|side| {
        let socket = world.with(hosts[side], |context| {
            let local = SocketAddr::new(ip(INSIDE[side]), port);
            let remote = SocketAddr::new(ip(OUTSIDE[1 - side]), port);
            let now = context.now;
            context.host.tcp_dial(Some(local), TcpOptions::shared(), remote, now).expect("a new 4-tuple")
        });
        world.run_for(Duration::from_millis(30));
        socket
    });
    world.run_for(Duration::from_millis(250));
    let up = [0, 1].map(|side| world.host(hosts[side]).tcp().state(sockets[side]) == TcpState::Established);
    for side in [0, 1] {
        world.with(hosts[side], |context| {
            context.host.tcp_mut().abort(sockets[side]);
            while context.host.poll_event().is_some() {}
        });
    }
    up == [true; 2]
}

fn punches(bencher: Bencher<'_, '_>, nat: fn(IpAddr) -> NatConfig, succeeds: bool) {
    bencher.counter(ItemsCount::new(ATTEMPTS)).with_inputs(|| homes(nat)).bench_local_values(|mut homes| {
        let up = (0..ATTEMPTS).filter(|index| punch(&mut homes, 5_000 + index)).count();
        assert_eq!(up == usize::from(ATTEMPTS), succeeds);
        homes
    });
}

/// Makes the attempts in one world, whose NATs and hosts fill up as they would.
#[divan::bench]
fn punch_home_nats(bencher: Bencher<'_, '_>) {
    punches(bencher, NatConfig::home, true);
}

#[divan::bench]
fn punch_linux_nats(bencher: Bencher<'_, '_>) {
    punches(bencher, NatConfig::linux_masquerade, true);
}

#[divan::bench]
fn fail_against_resetting_random_nats(bencher: Bencher<'_, '_>) {
    let nat = |ip| NatConfig::linux_fully_random(ip).with_unsolicited(Unsolicited::Reset);
    punches(bencher, nat, false);
}

/// Makes a new world for each attempt, as statistics over seeds do.
#[divan::bench]
fn punch_in_a_new_world(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(1_u16))
        .bench_local(|| assert!(punch(&mut homes(NatConfig::home), 5_000)));
}
