//! Stories of two circuits, their servers and a broker.

mod runner;
mod strangers;

use std::net::IpAddr;

use runner::CircuitRunner;

use super::*;
use crate::attempt::Trust;
use crate::relay::End;
use crate::relay::route::PathChallenge;
use crate::sim::epoch;
use crate::sim::link::LinkConfig;
use crate::sim::nat::NatConfig;
use crate::sim::router::RouterConfig;
use crate::sim::turn::{FaultyServerConfig, TurnHost};
use crate::sim::world::{Context, HostId, World};
use crate::stun::Method;
use crate::turn::{Carrier, Credentials, Server};

const CALLER: u8 = 0;
const CALLED: u8 = 1;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn turn_ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn server(last: u8, carrier: Carrier) -> Server {
    let address = SocketAddr::new(turn_ip(last), 3_478);
    Server::new(address, carrier, Credentials::new("user", "secret").unwrap())
}

/// Outside address of a home.
fn home(which: u8) -> IpAddr {
    IpAddr::from([[198, 51, 100, 7], [203, 0, 113, 7]][usize::from(which)])
}

/// Two homes behind the worst of NATs, and TURN servers 1 and 2; everything is 20 ms from everything, signals take 30.
struct Scene {
    world: World,
    ends: [HostId; 2],
    turns: [HostId; 2],
}

const SERVER_RTT: Duration = Duration::from_millis(20);
const SIGNAL_RTT: Duration = Duration::from_millis(60);

fn scene(
    servers: [Vec<Server>; 2],
    adjust: impl Fn(u8, &mut CircuitConfig),
    adjust_turn: impl Fn(u8, &mut FaultyServerConfig),
) -> Scene {
    let mut seed = Seed::from_u64(3);
    let mut world = World::new(seed.fork("world"));
    // A broker is in the middle: to it and on.
    world.set_broker(LinkConfig::with_latency(SIGNAL_RTT / 4)).unwrap();
    let internet = world.internet();
    let ends = [CALLER, CALLED].map(|which| {
        let nat = NatConfig::linux_fully_random(home(which));
        let router = world.add_router(RouterConfig::new("nat").with_v4(nat), internet, ms(4)).unwrap();
        let host = world.add_host(if which == CALLER { "caller" } else { "called" });
        world.attach(host, router, &[IpAddr::from([192, 168, 1, 2])], ms(1)).unwrap();
        host
    });
    let turns = [1, 2].map(|last| {
        let host = world.add_host("turn");
        world.attach(host, internet, &[turn_ip(last)], ms(5)).unwrap();
        let mut config = FaultyServerConfig::new(SocketAddr::new(turn_ip(last), 3_478), "user", "secret");
        adjust_turn(last, &mut config);
        let program = world
            .with(host, |context| TurnHost::bind(context.host, config, Seed::from_u64(9), context.now))
            .unwrap();
        world.run(host, program);
        host
    });
    for (which, (host, servers)) in [CALLER, CALLED].into_iter().zip(ends.into_iter().zip(servers)) {
        let (role, trust) = match which {
            CALLER => (Role::Caller, Trust::Known),
            _ => (Role::Answerer, Trust::Stranger),
        };
        let mut config =
            CircuitConfig { peer: vec![home(1 - which)], ..CircuitConfig::new(role, trust, servers) };
        adjust(which, &mut config);
        let topics = if which == CALLER { ["caller", "called"] } else { ["called", "caller"] };
        world.run(host, CircuitRunner::new(config, topics, seed.fork("runner")));
    }
    Scene { world, ends, turns }
}

fn without_connections(_: u8, config: &mut CircuitConfig) {
    config.connections = Connections::Never;
}

fn as_it_is(_: u8, _: &mut FaultyServerConfig) {}

impl Scene {
    fn start(&mut self) {
        for which in [CALLED, CALLER] {
            self.runner(which, CircuitRunner::start);
        }
    }

    fn runner<T>(&mut self, which: u8, act: impl FnOnce(&mut CircuitRunner, &mut Context<'_>) -> T) -> T {
        self.world.with_program(self.ends[usize::from(which)], act).expect("a runner is there")
    }

    fn end(&self, which: u8) -> &CircuitRunner {
        self.world.program(self.ends[usize::from(which)]).unwrap()
    }

    fn route(&self, which: u8) -> Route {
        self.end(which).circuit().and_then(Circuit::route).expect("a route")
    }

    fn up_at(&self, which: u8) -> Option<Duration> {
        let up = self.end(which).events.iter().find(|(_, event)| *event == Event::Up);
        up.map(|(at, _)| *at - epoch())
    }

    fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..span.as_millis() / 5 {
            if done(self) {
                return true;
            }
            self.world.run_for(ms(5));
        }
        false
    }

    /// Both say something, hear it and end.
    fn assert_talks(&mut self) {
        self.runner(CALLER, |runner, context| runner.say(b"question", context));
        assert!(self.run_until(secs(5), |scene| scene.end(CALLED).heard == b"question"), "{}", self.story());
        self.runner(CALLED, |runner, context| {
            runner.say(b"answer", context);
            runner.finish(context);
        });
        assert!(self.run_until(secs(5), |scene| scene.end(CALLER).is_ended), "{}", self.story());
        assert_eq!(self.end(CALLER).heard, b"answer");
    }

    fn failure(&self, which: u8) -> Option<CircuitFailure> {
        self.end(which).events.iter().find_map(|(_, event)| match event {
            Event::Failed(failure) => Some(failure.clone()),
            _ => None,
        })
    }

    fn story(&self) -> String {
        format!("caller {:?}, called {:?}", self.end(CALLER).events, self.end(CALLED).events)
    }
}

#[test]
fn one_server_at_either_end_is_enough() {
    for lender in [CALLER, CALLED] {
        let mut servers = [Vec::new(), Vec::new()];
        servers[usize::from(lender)].push(server(1, Carrier::Udp));
        let mut scene = scene(servers, without_connections, as_it_is);
        scene.start();
        let are_up = |scene: &Scene| [CALLER, CALLED].iter().all(|which| scene.end(*which).is_up());
        assert!(scene.run_until(secs(2), are_up), "{}", scene.story());
        assert_eq!(scene.route(lender).from, End::Relayed);
        scene.assert_talks();
        assert_eq!(scene.route(1 - lender).from, End::Bare);
    }
}

#[test]
fn from_the_first_question_to_the_first_byte_it_takes_five_round_trips_and_one_of_signals() {
    let both = [vec![server(1, Carrier::Udp)], vec![server(2, Carrier::Udp)]];
    let one = [vec![server(1, Carrier::Udp)], Vec::new()];
    for servers in [both, one] {
        let mut scene = scene(servers, without_connections, as_it_is);
        scene.runner(CALLER, |runner, context| runner.say(b"hello", context));
        scene.start();
        scene.runner(CALLED, |runner, context| runner.say(b"welcome", context));
        assert!(scene.run_until(secs(2), |scene| scene.end(CALLER).heard == b"welcome"), "{}", scene.story());
        let took = scene.world.now() - epoch();
        assert!(took <= SERVER_RTT * 5 + SIGNAL_RTT, "{took:?}");
    }
}

#[test]
fn where_connections_are_relayed_datagrams_wait_for_one() {
    let servers = vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)];
    let mut scene = scene([servers, Vec::new()], |_, _| (), as_it_is);
    scene.start();
    let both = |scene: &Scene| [CALLER, CALLED].iter().all(|end| scene.end(*end).connections.len() == 1);
    assert!(scene.run_until(secs(2), both), "{}", scene.story());
    assert!(!scene.end(CALLER).is_up());
    for which in [CALLER, CALLED] {
        let host = scene.ends[usize::from(which)];
        let tcp = scene.end(which).connections[0];
        scene.world.with(host, |context| context.host.tcp_mut().send(tcp, b"plain", context.now)).unwrap();
    }
    scene.world.run_for(secs(1));
    for which in [CALLER, CALLED] {
        let tcp = scene.end(which).connections[0];
        let host = scene.ends[usize::from(which)];
        let came = scene.world.with(host, |context| context.host.tcp_mut().read(tcp)).unwrap();
        assert_eq!(&came[..], b"plain");
        scene.runner(which, |runner, context| {
            runner.with(context, |circuit, now| circuit.keep(RelayKind::Connection, now))
        });
    }
    // It is kept for as long as its owner wants, and what was asked for besides goes back.
    scene.world.run_for(secs(4_000));
    let host = scene.turns[0];
    let count = |scene: &mut Scene| {
        scene.world.with_program(host, |turn: &mut TurnHost, _| turn.server().allocations()).unwrap()
    };
    assert_eq!(count(&mut scene), 1);
    assert!(scene.end(CALLED).circuit().unwrap().is_over(), "the called one has lent nothing");
    scene.runner(CALLER, |runner, context| runner.with(context, |circuit, now| circuit.close(now)));
    scene.world.run_for(secs(5));
    assert_eq!(count(&mut scene), 0);
    assert!(scene.end(CALLER).circuit().unwrap().is_over());
}

#[test]
fn when_no_connection_comes_datagrams_go() {
    let servers = vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)];
    // The server lends an address for connections, and the peer does not dial.
    let mut one = scene(
        [servers.clone(), Vec::new()],
        |which, config| {
            if which == CALLED {
                config.connections = Connections::Never;
            }
        },
        as_it_is,
    );
    one.start();
    assert!(one.run_until(secs(3), |scene| scene.end(CALLER).is_up()), "{}", one.story());
    let took = one.up_at(CALLER).unwrap();
    assert!(took > ms(200) && took < ms(600), "{took:?}");
    one.assert_talks();
    // One that comes and is not the peer's.
    let mut other = scene([servers, Vec::new()], |_, _| (), as_it_is);
    other.start();
    assert!(other.run_until(secs(2), |scene| !scene.end(CALLER).connections.is_empty()));
    other.runner(CALLER, |runner, context| {
        runner.with(context, |circuit, now| circuit.handle_connection_failed(now))
    });
    assert!(other.run_until(secs(3), |scene| scene.end(CALLER).is_up()), "{}", other.story());
}

#[test]
fn a_server_that_is_known_to_hang_is_not_trusted_with_connections() {
    for (connections, is_trusted) in [(Connections::Careful, false), (Connections::Always, true)] {
        let servers = vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)];
        let mut scene = scene(
            [servers, Vec::new()],
            |_, config| config.connections = connections,
            |_, config| config.faults.software = Some("Coturn-4.6.1 'Gorst'".into()),
        );
        scene.start();
        let is_there = |scene: &Scene| scene.end(CALLER).is_up() || !scene.end(CALLER).connections.is_empty();
        assert!(scene.run_until(secs(3), is_there), "{}", scene.story());
        assert_eq!(scene.end(CALLER).is_up(), !is_trusted, "{connections:?}");
    }
}

#[test]
fn the_one_who_is_called_lends_connections_when_the_caller_cannot() {
    let servers = vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)];
    let mut scene = scene([Vec::new(), servers], |_, _| (), as_it_is);
    scene.start();
    let both = |scene: &Scene| [CALLER, CALLED].iter().all(|end| scene.end(*end).connections.len() == 1);
    assert!(scene.run_until(secs(2), both), "{}", scene.story());
}

#[test]
fn a_connection_that_ends_before_its_proof_is_dialled_again_and_a_notice_that_is_repeated_is_not() {
    let mut now = epoch();
    let config = CircuitConfig::new(Role::Answerer, Trust::Known, Vec::new());
    let mut circuit = Circuit::new(config, Seed::from_u64(1), now);
    let lent = SocketAddr::new(turn_ip(1), 50_000);
    let mut serial = 0;
    let mut say = |circuit: &mut Circuit, now| {
        serial += 1;
        let (token, datagrams, connections) = (Token([1; 8]), Vec::new(), vec![lent]);
        let offer = RelayOffer { serial, token, datagrams, connections, has_more: true, refusal: None };
        circuit.handle_offer(&offer, &[], now);
    };
    let dials = |circuit: &mut Circuit| {
        let mut dials = 0;
        loop {
            match circuit.poll_output() {
                Output::Act(Act::Dial(to)) if to == lent => dials += 1,
                Output::Wait(_) => return dials,
                _ => {}
            }
        }
    };
    say(&mut circuit, now);
    assert_eq!(dials(&mut circuit), 1);
    circuit.handle_dialled(lent, true, now);
    say(&mut circuit, now);
    assert_eq!(dials(&mut circuit), 0, "it is up already");
    let began = now;
    for pause in [50, 100, 200] {
        circuit.handle_connection_failed(now);
        say(&mut circuit, now);
        assert_eq!(dials(&mut circuit), 0, "not at once");
        now += ms(pause);
        circuit.handle_timeout(now);
        assert_eq!(dials(&mut circuit), 1, "after {:?}", now - began);
        circuit.handle_dialled(lent, true, now);
    }
    circuit.handle_connection_failed(now);
    circuit.handle_timeout(now + secs(10));
    assert_eq!(dials(&mut circuit), 0, "it does not let us through");
}

#[test]
fn each_failure_has_its_reason() {
    let mut nobody = scene([Vec::new(), Vec::new()], |_, _| (), as_it_is);
    nobody.start();
    nobody.world.run_for(secs(1));
    assert_eq!(nobody.failure(CALLER), Some(CircuitFailure::NoServer));
    assert_eq!(nobody.failure(CALLED), Some(CircuitFailure::NoServer));

    let wrong = Credentials::new("user", "wrong").unwrap();
    let wrong = Server::new(SocketAddr::new(turn_ip(1), 3_478), Carrier::Udp, wrong);
    let mut stranger = scene([vec![wrong], Vec::new()], |_, _| (), as_it_is);
    stranger.start();
    stranger.world.run_for(secs(2));
    let failure = stranger.failure(CALLER);
    assert!(
        matches!(&failure, Some(CircuitFailure::NoAddress(why)) if why.contains("user name and password")),
        "{failure:?}"
    );

    let mut silent = scene([vec![server(1, Carrier::Udp)], Vec::new()], |_, _| (), as_it_is);
    silent.runner(CALLER, CircuitRunner::start);
    silent.world.run_for(secs(20));
    assert_eq!(silent.failure(CALLER), Some(CircuitFailure::Silent));
    assert_eq!(silent.end(CALLER).said, 4, "two offers, and the last of them twice more");

    let forbid = |_: u8, config: &mut FaultyServerConfig| {
        config.relayer.deny_peers = vec![home(CALLED).to_string().parse().unwrap()];
    };
    let mut forbidden = scene([vec![server(1, Carrier::Udp)], Vec::new()], |_, _| (), forbid);
    forbidden.start();
    forbidden.world.run_for(secs(20));
    let failure = forbidden.failure(CALLER);
    assert!(
        matches!(&failure, Some(CircuitFailure::Blocked(why)) if why.contains("203.0.113.7")),
        "{failure:?}"
    );
}

#[test]
fn a_server_that_forgets_everything_interrupts_and_loses_nothing() {
    for (servers, restarted) in [
        ([vec![server(1, Carrier::Udp)], Vec::new()], 0),
        ([Vec::new(), vec![server(2, Carrier::Udp)]], 1),
        ([vec![server(1, Carrier::Udp)], vec![server(1, Carrier::Udp)]], 0),
        ([vec![server(1, Carrier::Tcp)], vec![server(1, Carrier::Tcp)]], 0),
    ] {
        let mut scene = scene(servers, without_connections, as_it_is);
        scene.start();
        assert!(scene.run_until(secs(2), |scene| scene.end(CALLER).is_up()), "{}", scene.story());
        let bytes: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
        scene.runner(CALLER, |runner, context| runner.say(&bytes, context));
        let half = |scene: &Scene| scene.end(CALLED).heard.len() > 500_000;
        assert!(scene.run_until(secs(60), half), "{} bytes", scene.end(CALLED).heard.len());
        let host = scene.turns[restarted];
        scene.world.with_program(host, |turn: &mut TurnHost, context| turn.restart(context)).unwrap();
        let heard = scene.end(CALLED).heard.len();
        let goes_on = |scene: &Scene| scene.end(CALLED).heard.len() > heard + 100_000;
        assert!(scene.run_until(secs(15), goes_on), "{}", scene.story());
        assert!(scene.run_until(secs(60), |scene| scene.end(CALLED).heard.len() == bytes.len()));
        let differs = scene.end(CALLED).heard.iter().zip(&bytes).position(|(heard, said)| heard != said);
        assert_eq!(differs, None, "in order, once each");
    }
}

#[test]
fn a_server_that_is_gone_for_good_ends_it_in_time() {
    let mut scene = scene([vec![server(1, Carrier::Udp)], Vec::new()], without_connections, as_it_is);
    scene.start();
    assert!(scene.run_until(secs(2), |scene| scene.end(CALLER).is_up()), "{}", scene.story());
    scene.assert_talks();
    let host = scene.turns[0];
    scene.world.detach(host);
    let since = scene.world.now();
    scene.runner(CALLER, |runner, context| runner.say(b"anybody?", context));
    let ended = |scene: &Scene| {
        scene.end(CALLER).events.iter().any(|(_, event)| matches!(event, Event::Ended(Some(_))))
    };
    assert!(scene.run_until(secs(15), ended), "{}", scene.story());
    assert!(scene.world.now() - since <= secs(15));
    assert!(scene.end(CALLER).circuit().unwrap().trouble().is_some());
}

/// How many offers a day without a word costs, where addresses are lent for so long and all else is short.
fn idle_day(lifetime: u64) -> u32 {
    let hurry = move |_: u8, config: &mut FaultyServerConfig| {
        config.relayer.nonce_lifetime = secs(60);
        config.relayer.lifetime = secs(lifetime);
        config.relayer.permission_lifetime = secs(90);
        config.relayer.channel_lifetime = secs(100);
    };
    let both = [vec![server(1, Carrier::Udp)], vec![server(2, Carrier::Udp)]];
    let mut scene = scene(both, without_connections, hurry);
    scene.start();
    assert!(scene.run_until(secs(2), |scene| scene.end(CALLER).is_up()), "{}", scene.story());
    for which in [CALLER, CALLED] {
        scene.runner(which, |runner, context| {
            runner.with(context, |circuit, now| circuit.keep(RelayKind::Datagrams, now))
        });
    }
    let said = scene.end(CALLER).said;
    scene.world.run_for(secs(24 * 3_600));
    scene.assert_talks();
    scene.end(CALLER).said - said
}

#[test]
fn an_idle_day_with_short_lives_costs_nothing() {
    assert_eq!(idle_day(120), 0);
    // Nothing hints that these servers keep less than RFC 8656 says: that is learned from one pause, in which the peer is
    // told once more.
    assert!(idle_day(600) <= 3);
}

#[test]
fn what_was_written_before_letting_go_arrives() {
    let mut scene = scene([vec![server(1, Carrier::Udp)], Vec::new()], without_connections, as_it_is);
    scene.start();
    assert!(scene.run_until(secs(2), |scene| scene.end(CALLER).is_up()), "{}", scene.story());
    scene.runner(CALLER, |runner, context| {
        runner.say(&[7; 20_000], context);
        runner.with(context, |circuit, now| {
            circuit.keep(RelayKind::Datagrams, now);
            circuit.release(now);
        });
    });
    scene.world.run_for(secs(8));
    assert_eq!(scene.end(CALLED).heard.len(), 20_000);
    assert!(scene.end(CALLED).is_ended);
    assert!(scene.end(CALLER).circuit().unwrap().is_over());
}

#[test]
fn a_request_that_is_refused_does_not_end_the_other() {
    // The server relays no connections (442 is for a transport it does not know).
    let refuse = |_: u8, config: &mut FaultyServerConfig| {
        config.faults.refusals.insert(Method::CONNECT, (446, true));
    };
    let servers = vec![server(1, Carrier::Udp), server(1, Carrier::Tcp)];
    let mut scene = scene([servers, Vec::new()], |_, _| (), refuse);
    scene.start();
    let is_there = |scene: &Scene| scene.end(CALLER).is_up() || !scene.end(CALLER).connections.is_empty();
    assert!(scene.run_until(secs(3), is_there), "{}", scene.story());
}

#[test]
fn a_knock_that_overtakes_the_notice_is_answered_when_that_comes() {
    for both in [false, true] {
        let theirs = if both { vec![server(2, Carrier::Udp)] } else { Vec::new() };
        let mut scene = scene([vec![server(1, Carrier::Udp)], theirs], without_connections, as_it_is);
        // What is signalled takes longer than to ask a server, tell the peer and be challenged.
        scene.world.set_broker(LinkConfig::with_latency(ms(200))).unwrap();
        scene.start();
        let are_up = |scene: &Scene| [CALLER, CALLED].iter().all(|which| scene.end(*which).is_up());
        assert!(scene.run_until(secs(3), are_up), "{}", scene.story());
        scene.assert_talks();
    }
}

/// Where a stranger's circuit sends, given these datagrams for sockets of our own or offers.
fn strangers(act: impl Fn(&mut Circuit, u32, Instant)) -> std::collections::BTreeMap<SocketAddr, u32> {
    let now = epoch();
    let config = CircuitConfig::new(Role::Answerer, Trust::Stranger, Vec::new());
    let mut circuit = Circuit::new(config, Seed::from_u64(1), now);
    let mut sent = std::collections::BTreeMap::new();
    for round in 1..1_000 {
        act(&mut circuit, round, now);
        loop {
            match circuit.poll_output() {
                Output::Act(Act::Datagram { via: Via::Bare(to), .. }) => *sent.entry(to).or_default() += 1,
                Output::Wait(_) => break,
                _ => {}
            }
        }
    }
    sent
}

fn said(serial: u32, datagrams: Vec<SocketAddr>, has_more: bool) -> RelayOffer {
    RelayOffer { serial, token: Token([3; 8]), datagrams, connections: Vec::new(), has_more, refusal: None }
}

#[test]
fn a_stranger_gains_nothing_by_the_order_of_its_addresses_nor_by_forged_knocks() {
    let [one, two]: [SocketAddr; 2] = ["8.8.8.8:53", "8.8.4.4:53"].map(|text| text.parse().unwrap());
    let sent = strangers(|circuit, serial, now| {
        let all = if serial % 2 == 0 { vec![one, two] } else { vec![two, one] };
        circuit.handle_offer(&said(serial, all, true), &[], now);
    });
    assert_eq!(sent, [(one, 1), (two, 1)].into());
    let sent = strangers(|circuit, round, now| {
        if round == 1 {
            circuit.handle_offer(&said(1, Vec::new(), true), &[], now);
        }
        circuit.handle_bare(one, &PathChallenge::Question.to_bytes(circuit.token, [7; 8]), now);
        circuit.settle(now);
    });
    assert_eq!(sent, [(one, 1)].into());
}

#[test]
fn a_lender_of_connections_that_failed_or_is_not_needed_is_not_asked_for_again() {
    let now = epoch();
    for is_kept in [false, true] {
        let config = CircuitConfig::new(Role::Answerer, Trust::Stranger, vec![server(1, Carrier::Tcp)]);
        let mut circuit = Circuit::new(config, Seed::from_u64(1), now);
        let mut opened = Vec::new();
        for serial in 1..5 {
            circuit.handle_offer(&said(serial, Vec::new(), false), &[], now);
            loop {
                match circuit.poll_output() {
                    Output::Act(Act::Open { way, .. }) if way.relaying == Relaying::Tcp => opened.push(way),
                    Output::Wait(_) => break,
                    _ => {}
                }
            }
            match is_kept {
                true => circuit.keep(RelayKind::Datagrams, now),
                false => opened.iter().for_each(|way| circuit.handle_closed(*way, None, now)),
            }
        }
        assert_eq!(opened.len(), 1, "kept: {is_kept}");
    }
}

#[test]
fn a_peer_that_is_elsewhere_each_hour_is_let_through_there() {
    let mut scene = scene([Vec::new(), vec![server(2, Carrier::Udp)]], without_connections, as_it_is);
    scene.start();
    assert!(scene.run_until(secs(2), |scene| scene.end(CALLED).is_up()), "{}", scene.story());
    let theirs = scene.runner(CALLER, |runner, context| runner.with(context, |circuit, _| circuit.token));
    for hour in 1..20_u8 {
        let sources: Vec<IpAddr> = (0..6).map(|last| IpAddr::from([8, 8, hour, last])).collect();
        let offer = RelayOffer { token: theirs.unwrap(), ..said(100 + u32::from(hour), Vec::new(), false) };
        scene.runner(CALLED, |runner, context| {
            runner.with(context, |circuit, now| circuit.handle_offer(&offer, &sources, now))
        });
        scene.world.run_for(secs(1));
        let sent = scene.runner(CALLED, |runner, context| {
            runner.with(context, |circuit, now| {
                let client = circuit.clients[0].client.as_mut().unwrap();
                client.send(SocketAddr::new(sources[0], 5_000), bytes::Bytes::from_static(b"x"), now)
            })
        });
        assert_eq!(sent, Some(Ok(())), "after {hour} hours");
    }
    // Where it really is, is not forgotten.
    scene.assert_talks();
}

#[test]
fn a_peer_that_is_elsewhere_with_each_datagram_does_not_get_a_first_window_for_each() {
    let now = epoch();
    let config = CircuitConfig::new(Role::Answerer, Trust::Known, Vec::new());
    let mut circuit = Circuit::new(config, Seed::from_u64(1), now);
    circuit.handle_offer(&said(1, Vec::new(), true), &[], now);
    let (mut bytes, mut buffer) = (0, [0; 2_000]);
    for round in 0..1_000_u16 {
        let now = now + Duration::from_micros(u64::from(round) * 100);
        let from = SocketAddr::from(([198, 51, 100, (round % 2) as u8], 9));
        let ping = [&[0xd1][..], &circuit.token.0, &(0x4000 | round).to_be_bytes(), &[0, 6]].concat();
        circuit.handle_bare(from, &ping, now);
        circuit.settle(now);
        circuit.write(&[1; 50_000], now).unwrap();
        while let Some(transmit) = circuit.poll_transmit(&mut buffer) {
            bytes += transmit.length;
        }
    }
    assert!((10_000..100_000).contains(&bytes), "{bytes}");
}
