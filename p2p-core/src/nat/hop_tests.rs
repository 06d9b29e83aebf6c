//! The search for a silent hop, on paths of routers that report a dead SYN or do not.

use super::*;
use crate::Seed;
use crate::nat::{Delta, DeltaKind, NatType, PortRange};
use crate::sim::epoch;
use crate::sim::host::HostEvent;
use crate::sim::laws::drain;
use crate::sim::nat::NatConfig;
use crate::sim::packet::IcmpKind;
use crate::sim::router::RouterConfig;
use crate::sim::tcp::{Failure, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::world::{Context, HostId, Program, World};

const OUTSIDE: &str = "198.51.100.1";
const SERVER: &str = "192.0.2.1:3478";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A program that turns a [`Hop`] with the sockets of its host.
struct Seeker {
    hop: Hop,
    wait: Option<Instant>,
    sockets: BTreeMap<u8, TcpSocket>,
    dialled: u8,
    done: Option<(Option<u8>, Instant)>,
}

impl Seeker {
    fn new(rtt: Duration) -> Self {
        let config = HopConfig { server: SERVER.parse().unwrap(), external: ip(OUTSIDE), rtt };
        let hop = Hop::new(config, epoch());
        Self { hop, wait: None, sockets: BTreeMap::new(), dialled: 0, done: None }
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        loop {
            match self.hop.poll_output() {
                Output::Act(Act::Dial { syn, to, ttl }) => {
                    let options = TcpOptions { ttl, ..TcpOptions::default() };
                    let from = Some(SocketAddr::new(ip("192.168.1.2"), 0));
                    let socket = context.host.tcp_dial(from, options, to, context.now).unwrap();
                    self.sockets.insert(syn, socket);
                    self.dialled += 1;
                }
                Output::Act(Act::Drop { syn }) => {
                    context.host.tcp_mut().abort(self.sockets.remove(&syn).unwrap());
                }
                Output::Event(Event::Done(found)) => self.done = Some((found, context.now)),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return;
                }
            }
        }
    }
}

impl Program for Seeker {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        let now = context.now;
        let HostEvent::Tcp(TcpEvent::Connected(socket) | TcpEvent::Failed(socket, _)) = event else { return };
        let syn = self.sockets.iter().find(|(_, known)| **known == socket).map(|(syn, _)| *syn);
        let Some(syn) = syn else { return };
        let expired = matches!(
            event,
            HostEvent::Tcp(TcpEvent::Failed(_, Failure::Unreachable(IcmpKind::TimeExceeded)))
        );
        match context.host.tcp().accused_by(socket).filter(|_| expired) {
            Some(by) => self.hop.handle_expired(syn, by, now),
            None => self.hop.handle_answered(syn, now),
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.hop.handle_timeout(context.now);
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.wait
    }
}

/// The hops after our own NAT, the nearest first: the address from which each reports, or `None` when it is silent.
type Way<'a> = &'a [Option<&'a str>];

fn network(way: Way<'_>) -> (World, HostId) {
    let mut world = World::new(Seed::from_u64(1));
    let mut above = world.internet();
    for speaks in way.iter().rev() {
        let hop = RouterConfig::new("hop");
        let hop = match speaks {
            Some(address) => hop.with_address(ip(address)),
            None => hop.with_silent_hops(),
        };
        above = world.add_router(hop, above, ms(2)).unwrap();
    }
    let delta = Delta { kind: DeltaKind::Equal, value: 0 };
    let range = PortRange { first: 1_024, last: u16::MAX };
    let nat = NatConfig::of_type(NatType::PortRestricted, delta, range, ip(OUTSIDE));
    let home = world.add_router(RouterConfig::new("nat").with_v4(nat), above, ms(5)).unwrap();
    let host = world.add_host("home");
    world.attach(host, home, &[ip("192.168.1.2")], Duration::ZERO).unwrap();
    (world, host)
}

/// Returns the hop found on the path, the number of SYNs that took, and the time.
fn sought(way: Way<'_>) -> (Option<u8>, u8, Duration) {
    let (mut world, home) = network(way);
    let (server, internet) = (world.add_host("server"), world.internet());
    world.attach(server, internet, &[ip("192.0.2.1")], ms(10)).unwrap();
    world
        .with(server, |context| context.host.tcp_listen(SERVER.parse().unwrap(), TcpOptions::default()))
        .unwrap();
    let mut seeker = Seeker::new(ms(40));
    world.with(home, |context| seeker.turn(context));
    world.run(home, seeker);
    world.run_for(Duration::from_secs(3));
    let seeker = world.program::<Seeker>(home).unwrap();
    let (found, at) = seeker.done.expect("it ends");
    assert!(seeker.sockets.is_empty(), "all are closed");
    (found, seeker.dialled, at - epoch())
}

const ISP: Option<&str> = Some("203.0.113.1");
const CARRIER: Option<&str> = Some("100.64.0.1");

#[test]
fn the_first_silent_hop_beyond_our_nat_is_found() {
    for (way, expected) in [
        (&[ISP, None, ISP][..], Some(3)),
        (&[ISP, ISP, None], Some(4)),
        // Of several silent hops the nearest is found.
        (&[ISP, None, None, ISP], Some(3)),
        // A carrier's network is still inside, so its silence is of no use.
        (&[CARRIER, None, ISP, None, ISP], Some(5)),
    ] {
        let (found, syns, took) = sought(way);
        assert_eq!(found, expected, "{way:?}");
        assert_eq!(syns, MOST_SYNS, "{way:?}");
        assert!(took <= ms(1_500), "{took:?}");
    }
}

#[test]
fn nothing_is_found_where_nothing_is() {
    for way in [
        &[][..],
        &[ISP],
        &[ISP, ISP, ISP, ISP, ISP, ISP, ISP, ISP],
        // The path is silent from the first hop on. So nobody knows whether a SYN passes our NAT before it dies.
        &[None, ISP],
        &[CARRIER, None],
        // The same holds where the only report is from our own NAT.
        &[Some(OUTSIDE), None, ISP],
    ] {
        let (found, syns, took) = sought(way);
        assert_eq!(found, None, "{way:?}");
        assert!(syns <= MOST_SYNS && took <= ms(600), "{way:?}: {syns}, {took:?}");
    }
}

/// Returns the machine alone, after these fates of its first SYNs.
fn looked(fates: &[(u8, Option<&str>)]) -> Hop {
    let mut hop = Seeker::new(ms(40)).hop;
    for (syn, by) in fates {
        match by {
            Some(by) => hop.handle_expired(*syn, ip(by), epoch()),
            None => hop.handle_answered(*syn, epoch()),
        }
    }
    drain(&mut hop);
    hop
}

#[test]
fn what_was_lost_is_not_taken_for_silence() {
    let told = [(0, ISP), (2, ISP), (3, None)];
    let ends = |act: &dyn Fn(&mut Hop)| {
        let mut hop = looked(&told);
        let mut found = None;
        for _ in 0..10 {
            let drained = drain(&mut hop);
            found = drained.events.first().copied().or(found);
            let Some(deadline) = drained.wait else { break };
            act(&mut hop);
            hop.handle_timeout(deadline.at);
        }
        found
    };
    assert_eq!(ends(&|_| ()), Some(Event::Done(Some(3))));
    for syn in [1, 6, 7] {
        let late = |hop: &mut Hop| hop.handle_expired(syn, ip("203.0.113.9"), epoch());
        assert_eq!(ends(&late), Some(Event::Done(None)), "SYN {syn}");
    }
}

#[test]
fn no_socket_no_hop() {
    let mut hop = Seeker::new(ms(40)).hop;
    drain(&mut hop);
    (0..MOST_SYNS).for_each(|syn| hop.handle_unsent(syn, epoch()));
    let drained = drain(&mut hop);
    assert_eq!((drained.events, drained.wait), (vec![Event::Done(None)], None));
}
