//! Whole worlds, and what happens in them.

mod chaos;
mod punching;
mod sockets;
mod stun;
mod worlds;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::epoch;
use super::host::HostEvent;
use super::nat::NatConfig;
use super::router::RouterConfig;
use super::tcp::{Failure, TcpEvent, TcpOptions, TcpSocket};
use super::world::{Context, HostId, Program, RouterId, World};
use crate::Seed;

const A: &str = "192.168.1.2";
const B: &str = "192.168.2.2";
const NAT_A: &str = "198.51.100.1";
const NAT_B: &str = "203.0.113.1";
const SERVER: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a host has seen, and when, in milliseconds since the world began.
type Log = Rc<RefCell<Vec<(u64, TcpEvent)>>>;

/// Notes TCP events.
struct Note(Log);

impl Program for Note {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        if let HostEvent::Tcp(event) = event {
            let millis = (context.now - epoch()).as_millis() as u64;
            self.0.borrow_mut().push((millis, event));
        }
    }
}

/// Two homes, each a host behind a NAT, and a server on the Internet. 50 ms from home to home, 25 to the
/// server.
struct Homes {
    world: World,
    a: HostId,
    b: HostId,
    nat_a: RouterId,
    nat_b: RouterId,
    server: HostId,
    logs: BTreeMap<HostId, Log>,
}

impl Homes {
    fn new(nat_a: NatConfig, nat_b: NatConfig) -> Self {
        Self::with_delays(nat_a, nat_b, ms(25), ms(25))
    }

    /// With so much delay from each NAT to the Internet.
    fn with_delays(nat_a: NatConfig, nat_b: NatConfig, delay_a: Duration, delay_b: Duration) -> Self {
        Self::with_routers(
            RouterConfig::new("nat-a").with_v4(nat_a),
            RouterConfig::new("nat-b").with_v4(nat_b),
            delay_a,
            delay_b,
        )
    }

    fn with_routers(a: RouterConfig, b: RouterConfig, delay_a: Duration, delay_b: Duration) -> Self {
        let mut world = World::new(Seed::from_u64(1));
        let internet = world.internet();
        let nat_a = world.add_router(a, internet, delay_a).unwrap();
        let nat_b = world.add_router(b, internet, delay_b).unwrap();
        let mut logs = BTreeMap::new();
        let mut host = |world: &mut World, name, address, above| {
            let host = world.add_host(name);
            world.attach(host, above, &[ip(address)], Duration::ZERO).unwrap();
            let log = Log::default();
            world.run(host, Note(log.clone()));
            logs.insert(host, log);
            host
        };
        let a = host(&mut world, "a", A, nat_a);
        let b = host(&mut world, "b", B, nat_b);
        let server = host(&mut world, "server", SERVER, internet);
        world.set_recording(100_000);
        Self { world, a, b, nat_a, nat_b, server, logs }
    }

    fn log(&self, host: HostId) -> Vec<(u64, TcpEvent)> {
        self.logs[&host].borrow().clone()
    }

    /// Dials at a time, in milliseconds since the world began.
    fn dial_at(&mut self, millis: u64, host: HostId, local: SocketAddr, remote: SocketAddr) {
        self.world.at(epoch() + ms(millis), host, move |context| {
            let now = context.now;
            context.host.tcp_dial(Some(local), TcpOptions::shared(), remote, now).unwrap();
        });
    }

    fn listen(&mut self, host: HostId, local: SocketAddr) {
        self.world.with(host, |context| context.host.tcp_listen(local, TcpOptions::shared())).unwrap();
    }

    /// A and B dial each other's port 5000, A at once and B after `skew` milliseconds (before A when it is
    /// negative). When each got a connection, in milliseconds since the later dial; `None` if never.
    fn punch(&mut self, skew: i64) -> [Option<u64>; 2] {
        let (a_at, b_at) = (u64::try_from(-skew).unwrap_or(0), u64::try_from(skew).unwrap_or(0));
        self.dial_at(a_at, self.a, at(A, 5_000), at(NAT_B, 5_000));
        self.dial_at(b_at, self.b, at(B, 5_000), at(NAT_A, 5_000));
        self.world.run_for(Duration::from_secs(20));
        [self.a, self.b].map(|host| {
            let up = self.log(host).into_iter().find_map(|(millis, event)| match event {
                TcpEvent::Connected(_) | TcpEvent::Accepted { .. } => Some(millis),
                _ => None,
            });
            up.map(|millis| millis - a_at.max(b_at))
        })
    }

    fn failure(&self, host: HostId) -> Option<(u64, Failure)> {
        self.log(host).into_iter().find_map(|(millis, event)| match event {
            TcpEvent::Failed(_, why) => Some((millis, why)),
            _ => None,
        })
    }

    /// RSTs and ICMP errors that a NAT has sent.
    fn answered(&self, router: RouterId) -> u64 {
        let nat = self.world.router(router).nat(crate::Family::V4).unwrap();
        nat.counters().answered
    }
}

fn home(external: &str) -> NatConfig {
    NatConfig::home(ip(external))
}
