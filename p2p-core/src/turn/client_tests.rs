//! Tests of clients, servers and peers in a simulated world.

use super::*;
use crate::sim::epoch;
use crate::sim::host::HostEvent;
use crate::sim::tcp::{TcpEvent, TcpOptions, TcpState};
use crate::sim::turn::{FaultyServerConfig, TurnHost, TurnRunner};
use crate::sim::world::{HostId, World};
use crate::stun::Method;
use crate::stun::transaction::Fault;
use crate::turn::Carrier;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::new(ip(last), 3_478)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn server(last: u8, carrier: Carrier) -> Server {
    Server::new(at(last), carrier, Credentials::new("user", "secret").unwrap())
}

/// A host with a client, a peer, and servers 1, 2, 3 … with their configurations. Each is 20 ms from each other.
struct Scene {
    world: World,
    me: HostId,
    peer: HostId,
    servers: Vec<HostId>,
}

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 5_000);

fn scene(servers: u8, adjust: impl Fn(u8, &mut FaultyServerConfig)) -> Scene {
    let leg = Duration::from_millis(10);
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let mut add = |name: &str, ip: IpAddr| {
        let host = world.add_host(name);
        world.attach(host, internet, &[ip], leg).unwrap();
        host
    };
    let (me, peer) = (add("me", "198.51.100.7".parse().unwrap()), add("peer", PEER.ip()));
    let hosts: Vec<_> = (1..=servers).map(|last| add("server", ip(last))).collect();
    for (host, last) in hosts.iter().zip(1..) {
        let mut config = FaultyServerConfig::new(at(last), "user", "secret");
        adjust(last, &mut config);
        let program = world
            .with(*host, |context| TurnHost::bind(context.host, config, Seed::from_u64(9), context.now))
            .unwrap();
        world.run(*host, program);
    }
    Scene { world, me, peer, servers: hosts }
}

impl Scene {
    fn start(&mut self, servers: Vec<Server>, adjust: impl FnOnce(&mut ClientConfig)) {
        let mut config = ClientConfig::new(servers);
        adjust(&mut config);
        let runner = TurnRunner::new(Client::new(config, Seed::from_u64(5), self.world.now()));
        self.world.run(self.me, runner);
        self.client(|_, _| ());
    }

    /// Lets the client do something.
    fn client<T>(&mut self, act: impl FnOnce(&mut Client, Instant) -> T) -> T {
        self.world
            .with_program(self.me, |runner: &mut TurnRunner, context| runner.with(context, act))
            .expect("a client runs there")
    }

    fn server<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut TurnHost, &mut crate::sim::world::Context<'_>) -> T,
    ) -> T {
        self.world.with_program(self.servers[index], act).expect("a server runs there")
    }

    fn runner(&self) -> &TurnRunner {
        self.world.program(self.me).unwrap()
    }

    fn allocations(&mut self) -> Vec<usize> {
        (0..self.servers.len())
            .map(|index| self.server(index, |server, _| server.server().allocations()))
            .collect()
    }

    /// Returns the names of events without their contents, each with its time in milliseconds.
    fn words(&self) -> Vec<(u128, &'static str)> {
        let word = |event: &Event| match event {
            Event::Ready { .. } => "ready",
            Event::Moved { .. } => "moved",
            Event::Permitted(_) => "permitted",
            Event::Refused(..) => "refused",
            Event::Bound(_) => "bound",
            Event::Data { .. } => "data",
            Event::Stream { .. } => "stream",
            Event::NotConnected { .. } => "not connected",
            Event::Trouble(_) => "trouble",
            Event::Recovered => "recovered",
            Event::Failed(_) => "failed",
            Event::Closed => "closed",
        };
        self.runner().events().iter().map(|(at, event)| ((*at - epoch()).as_millis(), word(event))).collect()
    }

    fn place(&self) -> Place {
        self.runner().client().lease().expect("an allocation").0.clone()
    }

    fn relayed(&self) -> SocketAddr {
        self.runner().client().lease().expect("an allocation").2.relayed[0].0
    }

    fn report(&self) -> Report {
        match self.runner().events().last() {
            Some((_, Event::Failed(report))) => report.clone(),
            other => panic!("not failed: {other:?}"),
        }
    }

    /// Checks that data flows from the client to the peer and back.
    fn assert_flows(&mut self) {
        let socket = self.world.with(self.peer, |context| context.host.udp_bind(PEER)).unwrap();
        self.client(|client, now| client.send(PEER, Bytes::from_static(b"there"), now)).unwrap();
        self.world.run_for(secs(1));
        let relayed = self.relayed();
        self.world.with(self.peer, |context| {
            let Some(HostEvent::Datagram { from, payload, .. }) = context.host.poll_event() else {
                panic!("nothing came")
            };
            assert_eq!((from, &payload[..]), (relayed, &b"there"[..]));
            context.host.udp_send(socket, from, Bytes::from_static(b"back")).unwrap();
        });
        self.world.run_for(secs(1));
        self.world.with(self.peer, |context| context.host.udp_close(socket));
        let data = Event::Data { peer: PEER, data: Bytes::from_static(b"back") };
        assert!(self.runner().events().iter().any(|(_, event)| *event == data));
    }
}

#[test]
fn where_udp_works_nothing_else_is_tried() {
    let mut scene = scene(1, |_, _| ());
    let all = [Carrier::Tls, Carrier::Tcp, Carrier::Udp].map(|carrier| server(1, carrier));
    scene.start(all.to_vec(), |_| ());
    scene.client(|client, now| client.bind(PEER, now)).unwrap();
    scene.world.run_for(secs(5));
    let words = scene.words();
    assert_eq!(words, [(80, "ready"), (120, "permitted"), (120, "bound")]);
    assert_eq!(scene.place().carrier, Carrier::Udp);
    assert_eq!((scene.allocations(), scene.runner().open()), (vec![1], 1));
    scene.assert_flows();
    scene.client(|client, now| client.close(now));
    scene.world.run_for(secs(5));
    assert_eq!(scene.words().last().unwrap().1, "closed");
    assert_eq!((scene.allocations(), scene.runner().open()), (vec![0], 0));
}

#[test]
fn a_silent_server_costs_a_head_start_and_the_slow_one_is_given_back() {
    // The first server answers nothing for a while, and then both want to be kept.
    let mut scene = scene(2, |last, config| {
        if last == 1 {
            config.faults.lost.insert(Method::ALLOCATE, 1);
        }
    });
    scene.start(vec![server(1, Carrier::Udp), server(2, Carrier::Udp)], |_| ());
    scene.world.run_for(secs(10));
    assert_eq!(scene.words(), [(380, "ready")]);
    assert_eq!(scene.place().address, at(2));
    assert_eq!((scene.allocations(), scene.runner().open()), (vec![0, 1], 1));
}

#[test]
fn udp_is_blocked_and_tcp_gets_through() {
    let mut scene = scene(1, |_, _| ());
    // No host is at this address.
    let servers = vec![server(77, Carrier::Udp), server(1, Carrier::Tcp), server(1, Carrier::Tls)];
    scene.start(servers, |_| ());
    scene.client(|client, now| client.bind(PEER, now)).unwrap();
    scene.world.run_for(secs(5));
    assert_eq!(scene.place().carrier, Carrier::Tcp);
    scene.assert_flows();
}

#[test]
fn everybody_is_asked_and_the_report_says_who_said_what() {
    let mut scene = scene(3, |last, config| match last {
        1 => config.relayer.quota.per_user = 0,
        2 => config.set_password("another"),
        _ => config.faults.lie = Some("127.0.0.1:7".parse().unwrap()),
    });
    let servers = (1..=3).map(|last| server(last, Carrier::Udp)).chain([server(77, Carrier::Tcp)]).collect();
    scene.start(servers, |_| ());
    scene.world.run_for(secs(20));
    let report = scene.report();
    let said = |last| &report.refusals.iter().find(|(place, _)| place.address == at(last)).unwrap().1;
    assert_eq!(said(1).code(), Some(486));
    assert_eq!(*said(2), Failure::WrongCredentials);
    assert!(matches!(said(3), Failure::Absurd { .. }));
    assert!(matches!(said(77), Failure::Closed(_) | Failure::NoConnection(_)));
    assert_eq!(report.refusals.len(), 4);
    assert_eq!(scene.runner().open(), 0);
}

#[test]
fn nobody_to_ask_is_said_at_once() {
    let mut scene = scene(0, |_, _| ());
    scene.start(vec![], |_| ());
    assert_eq!(scene.words(), [(0, "failed")]);
    assert_eq!(scene.report().to_string(), "no TURN server to ask");
}

#[test]
fn redirections_are_followed_but_not_in_circles_or_inwards() {
    let mut straight = scene(2, |last, config| config.faults.alternate = (last == 1).then(|| at(2)));
    straight.start(vec![server(1, Carrier::Udp)], |_| ());
    straight.world.run_for(secs(5));
    assert_eq!(straight.place().address, at(2));

    let mut circle = scene(3, |last, config| config.faults.alternate = Some(at(last % 3 + 1)));
    circle.start(vec![server(1, Carrier::Udp)], |_| ());
    circle.world.run_for(secs(5));
    assert_eq!(circle.report().refusals, [(server(3, Carrier::Udp).place, Failure::Circle(at(1)))]);

    let mut far = scene(7, |last, config| config.faults.alternate = Some(at(last + 1)));
    far.start(vec![server(1, Carrier::Udp)], |_| ());
    far.world.run_for(secs(5));
    assert_eq!(far.report().refusals[0].1, Failure::Circle(at(MOST_HOPS + 2)));

    for inward in ["192.168.1.1:3478", "127.0.0.1:3478", "224.0.0.1:3478", "203.0.113.9:0"] {
        let mut scene = scene(1, |_, config| config.faults.alternate = Some(inward.parse().unwrap()));
        scene.start(vec![server(1, Carrier::Udp)], |_| ());
        scene.world.run_for(secs(5));
        assert!(matches!(scene.report().refusals[0].1, Failure::Absurd { .. }), "{inward}");
    }
}

#[test]
fn a_port_that_was_somebody_elses_is_left_for_another() {
    let mut scene = scene(1, |_, config| {
        config.faults.refusals.insert(Method::ALLOCATE, (437, true));
    });
    scene.start(vec![server(1, Carrier::Udp)], |_| ());
    scene.world.run_for(secs(5));
    assert_eq!(scene.report().refusals.len(), 1);
    let requests = scene.server(0, |server, _| server.server().counters().requests);
    assert_eq!(requests, 2 * u64::from(MOST_PORTS), "three ports, each challenged once");
}

#[test]
fn a_server_restarts_and_the_peer_is_reached_again() {
    for carrier in [Carrier::Udp, Carrier::Tcp] {
        let mut scene = scene(1, |_, _| ());
        scene.start(vec![server(1, carrier)], |_| ());
        scene.client(|client, now| client.bind(PEER, now)).unwrap();
        scene.world.run_for(secs(100));
        let old = scene.relayed();
        scene.server(0, |server, context| server.restart(context));
        scene.world.run_for(secs(1));
        // Over TCP the connection has told. Over UDP the one that waits for answers tells.
        scene.client(|client, now| client.handle_doubt(now));
        scene.world.run_for(secs(1));
        assert!(scene.words().iter().any(|(_, word)| *word == "moved"), "{carrier}: {:?}", scene.words());
        assert_ne!(scene.relayed(), old);
        scene.assert_flows();
    }
}

#[test]
fn a_server_dies_and_another_takes_over() {
    let mut scene = scene(2, |_, _| ());
    scene.start(vec![server(1, Carrier::Udp), server(2, Carrier::Udp)], |_| ());
    scene.client(|client, now| client.bind(PEER, now)).unwrap();
    scene.world.run_for(secs(100));
    assert_eq!(scene.place().address, at(1));
    let dead = scene.servers[0];
    scene.world.detach(dead);
    scene.client(|client, now| client.handle_doubt(now));
    scene.world.run_for(secs(15));
    assert_eq!(scene.place().address, at(2), "{:?}", scene.words());
    scene.assert_flows();
    scene.world.run_for(secs(60));
    assert_eq!(scene.runner().open(), 1);
}

#[test]
fn all_servers_die_and_the_end_is_told() {
    let mut scene = scene(1, |_, _| ());
    scene.start(vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)], |_| ());
    scene.world.run_for(secs(10));
    let dead = scene.servers[0];
    scene.world.detach(dead);
    scene.world.run_for(secs(1_000));
    let words: Vec<_> = scene.words().into_iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["ready", "trouble", "failed"]);
    let silent = scene
        .report()
        .refusals
        .iter()
        .any(|(_, why)| matches!(why, Failure::Fault(Fault::Silent | Fault::Unreachable(_))));
    assert!(silent, "{}", scene.report());
}

/// Returns a scene with a client for connections that lets the peer through.
fn for_connections() -> Scene {
    let mut scene = scene(1, |_, _| ());
    let servers = vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)];
    scene.start(servers, |config| config.relaying = Relaying::Tcp);
    scene.client(|client, now| client.permit(PEER.ip(), now)).unwrap();
    scene.world.run_for(secs(1));
    let words: Vec<_> = scene.words().into_iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["ready", "permitted"], "over TCP at once: UDP cannot carry this");
    scene
}

#[test]
fn a_peer_dials_the_relayed_address_as_if_it_were_us() {
    let mut scene = for_connections();
    let relayed = scene.relayed();
    let socket = scene.world.with(scene.peer, |context| {
        context.host.tcp_dial(Some(PEER), TcpOptions::default(), relayed, context.now).unwrap()
    });
    scene.world.run_for(Duration::from_millis(45));
    // The peer speaks before anybody has taken its connection.
    let hello = vec![0x40; 30_000];
    scene.world.with(scene.peer, |context| {
        assert_eq!(context.host.tcp().state(socket), TcpState::Established);
        context.host.tcp_mut().send(socket, &hello, context.now).unwrap();
    });
    scene.world.run_for(secs(2));
    assert_eq!(scene.words().last().unwrap().1, "stream");
    let (ours, got) = scene.runner().streams().first_key_value().unwrap();
    let (ours, got) = (*ours, got.clone());
    assert!(got == hello, "every byte, {} of {}", got.len(), hello.len());
    scene.world.with(scene.me, |context| {
        context.host.tcp_mut().send(ours, b"\0\x01\0\0 raw bytes", context.now).unwrap();
    });
    scene.world.run_for(secs(1));
    let read = scene.world.with(scene.peer, |context| context.host.tcp_mut().read(socket).unwrap());
    assert_eq!(&read[..], b"\0\x01\0\0 raw bytes");
    // Giving the allocation back leaves the connection to its new owner.
    assert_eq!(scene.runner().open(), 1);
}

#[test]
fn we_dial_a_peer_through_the_server() {
    let mut scene = for_connections();
    scene.world.with(scene.peer, |context| context.host.tcp_listen(PEER, TcpOptions::default())).unwrap();
    scene.client(|client, now| client.connect(PEER, now)).unwrap();
    scene.world.run_for(secs(1));
    assert_eq!(scene.words().last().unwrap().1, "stream");
    let accepted = scene.world.with(scene.peer, |context| context.host.poll_event());
    assert!(matches!(accepted, Some(HostEvent::Tcp(TcpEvent::Accepted { .. }))));
    // No program listens at another port, which gives 447.
    let nobody = SocketAddr::new(PEER.ip(), 5_001);
    scene.client(|client, now| client.connect(nobody, now)).unwrap();
    scene.world.run_for(secs(1));
    let Some((_, Event::NotConnected { peer, failure })) = scene.runner().events().last() else {
        panic!("{:?}", scene.words())
    };
    assert_eq!((*peer, failure.code()), (nobody, Some(447)));
}

#[test]
fn a_day_idle_behind_a_forgetful_nat_and_never_deaf() {
    use crate::sim::nat::NatConfig;
    use crate::sim::router::RouterConfig;
    let mut scene = scene(1, |_, config| config.relayer.nonce_lifetime = secs(60));
    let nat = NatConfig::home("192.0.2.1".parse().unwrap());
    let internet = scene.world.internet();
    let leg = Duration::from_millis(10);
    let router = scene.world.add_router(RouterConfig::new("nat").with_v4(nat), internet, leg).unwrap();
    let home = scene.world.add_host("home");
    scene.world.attach(home, router, &["192.168.1.2".parse().unwrap()], leg).unwrap();
    scene.me = home;
    scene.start(vec![server(1, Carrier::Udp)], |_| ());
    scene.client(|client, now| client.bind(PEER, now)).unwrap();
    scene.world.run_for(secs(5));
    let relayed = scene.relayed();
    scene.world.run_for(secs(24 * 3_600));
    // The first packet in a day comes from the peer.
    scene.world.with(scene.peer, |context| {
        let socket = context.host.udp_bind(PEER).unwrap();
        context.host.udp_send(socket, relayed, Bytes::from_static(b"good morning")).unwrap();
        context.host.udp_close(socket);
    });
    scene.world.run_for(secs(1));
    assert_eq!(scene.words().last().unwrap().1, "data");
    scene.assert_flows();
    assert_eq!(scene.server(0, |server, _| server.server().counters().allocated), 1);
}
