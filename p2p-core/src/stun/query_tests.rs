use std::collections::BTreeMap;

use super::*;
use crate::sim::epoch;
use crate::sim::laws::{Drained, drain};

const RTT: Duration = Duration::from_millis(40);

fn client() -> SocketAddr {
    "198.51.100.7:4242".parse().unwrap()
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, last], 3_478))
}

fn udp(last: u8) -> Server {
    Server { address: at(last), transport: Transport::Udp }
}

fn tcp(last: u8) -> Server {
    Server { address: at(last), transport: Transport::Tcp }
}

fn config(servers: &[Server]) -> QueryConfig {
    QueryConfig { servers: servers.to_vec(), ..QueryConfig::default() }
}

/// The behaviour of a server that is asked.
#[derive(Clone, Copy)]
enum Manner {
    Answers,
    Dead,
    RefusesTcp,
    Garbage,
    HangsUp,
    Drips,
    Lies(&'static str),
}

enum Arrival {
    Datagram(SocketAddr, Vec<u8>),
    Open(SocketAddr),
    Data(SocketAddr, Vec<u8>),
    Closed(SocketAddr, Option<io::ErrorKind>),
}

/// Runs a query against servers of given manners, each 40 ms away. Returns events with their times.
fn run(config: QueryConfig, manners: &[(u8, Manner)]) -> (Vec<(u128, Event)>, Vec<Act>, Query) {
    let manner = |server: SocketAddr| manners.iter().find(|(last, _)| at(*last) == server).unwrap().1;
    let mut query = Query::new(config, Seed::from_u64(1), epoch()).unwrap();
    let (mut now, mut events, mut acts) = (epoch(), Vec::new(), Vec::new());
    let mut wire: BTreeMap<(Instant, usize), Arrival> = BTreeMap::new();
    for count in 0.. {
        let drained = drain(&mut query);
        for (index, act) in drained.acts.iter().enumerate() {
            let mut later = |arrival| {
                let sequence = count * 100 + wire.len() + index;
                wire.insert((now + RTT, sequence), arrival);
            };
            match act {
                Act::SendUdp { server, bytes } => match manner(*server) {
                    Manner::Answers => later(Arrival::Datagram(*server, answer(bytes, *server, client()))),
                    Manner::Lies(claim) => {
                        later(Arrival::Datagram(*server, answer(bytes, *server, claim.parse().unwrap())));
                    }
                    Manner::Garbage => later(Arrival::Datagram(*server, b"garbage".to_vec())),
                    _ => {}
                },
                Act::OpenTcp { server } => match manner(*server) {
                    Manner::Dead => {}
                    Manner::RefusesTcp => {
                        later(Arrival::Closed(*server, Some(io::ErrorKind::ConnectionRefused)))
                    }
                    _ => later(Arrival::Open(*server)),
                },
                Act::SendTcp { server, bytes } => match manner(*server) {
                    Manner::Answers => later(Arrival::Data(*server, answer(bytes, *server, client()))),
                    Manner::Garbage => later(Arrival::Data(*server, b"SSH-2.0-OpenSSH\r\n".to_vec())),
                    Manner::HangsUp => later(Arrival::Closed(*server, None)),
                    Manner::Drips => later(Arrival::Data(*server, vec![1])),
                    _ => {}
                },
                Act::CloseTcp { .. } => {}
            }
        }
        acts.extend(drained.acts);
        events.extend(drained.events.into_iter().map(|event| ((now - epoch()).as_millis(), event)));
        let next = wire.keys().next().map(|(at, _)| *at);
        let Some(soonest) = [next, drained.wait.map(|wait| wait.at)].into_iter().flatten().min() else {
            return (events, acts, query);
        };
        now = soonest;
        if next == Some(now) {
            match wire.pop_first().unwrap().1 {
                Arrival::Datagram(from, bytes) => query.handle_datagram(from, &bytes, now),
                Arrival::Open(server) => query.handle_tcp_open(server, now),
                Arrival::Data(server, bytes) => query.handle_tcp_data(server, &bytes, now),
                Arrival::Closed(server, why) => query.handle_tcp_closed(server, why, now),
            }
        } else {
            query.handle_timeout(now);
        }
    }
    unreachable!()
}

fn answer(request: &[u8], server: SocketAddr, seen: SocketAddr) -> Vec<u8> {
    use crate::stun::message::{Attribute, Class, Method};
    let header = Header::decode(request).unwrap();
    Message::new(Class::Success, Method::BINDING, header.transaction)
        .with(Attribute::XorMappedAddress(seen))
        .with(Attribute::ResponseOrigin(server))
        .encode(Transport::Udp)
        .unwrap()
}

fn report(events: &[(u128, Event)]) -> (u128, &Report) {
    match events.last() {
        Some((when, Event::Done(report))) => (*when, report),
        other => panic!("the last word must be the report, not {other:?}"),
    }
}

#[test]
fn udp_takes_one_round_trip_and_tcp_two() {
    let (events, _, _) = run(config(&[udp(1), tcp(1)]), &[(1, Manner::Answers)]);
    let [(40, Event::Answer(first)), (80, Event::Answer(second)), (80, Event::Done(report))] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((first.server, first.mapped.0, first.rtt), (udp(1), client(), RTT));
    assert_eq!((second.server, second.mapped.0, second.rtt), (tcp(1), client(), RTT));
    assert_eq!(report.answers, [*first, *second]);
    assert!(report.failures.is_empty());
}

#[test]
fn a_dead_server_costs_nothing() {
    let servers = [udp(1), udp(2), tcp(1), tcp(2)];
    let mut config = config(&servers);
    config.at_once = 1;
    config.enough = 1;
    let (events, _, _) = run(config, &[(1, Manner::Dead), (2, Manner::Answers)]);
    // The second server is asked 100 ms later. Half a second after its answer, the first is no longer waited for.
    assert!(matches!(&events[0], (140, Event::Answer(Answer { server, .. })) if *server == udp(2)));
    assert!(matches!(&events[1], (180, Event::Answer(Answer { server, .. })) if *server == tcp(2)));
    let (when, report) = report(&events);
    assert_eq!(when, 680);
    assert_eq!(report.failures, [(udp(1), Failure::Spared), (tcp(1), Failure::Spared)]);
}

#[test]
fn a_failure_brings_in_the_next_at_once() {
    let mut config = config(&[tcp(1), tcp(2)]);
    config.at_once = 1;
    let (events, _, _) = run(config, &[(1, Manner::RefusesTcp), (2, Manner::Answers)]);
    assert!(matches!(&events[0], (40, Event::Failure(server, _)) if *server == tcp(1)));
    assert!(matches!(events[1], (120, Event::Answer(_))), "{events:?}");
    assert_eq!(
        report(&events).1.failures,
        [(tcp(1), Fault::Unreachable(io::ErrorKind::ConnectionRefused).into())]
    );
}

#[test]
fn every_failure_is_named() {
    let servers: Vec<Server> = (1..=6).map(tcp).chain([udp(7), udp(8)]).collect();
    let manners = [
        (1, Manner::Dead),
        (2, Manner::RefusesTcp),
        (3, Manner::Garbage),
        (4, Manner::HangsUp),
        (5, Manner::Drips),
        (6, Manner::Answers),
        (7, Manner::Garbage),
        (8, Manner::Lies("203.0.113.9:0")),
    ];
    let (events, _, _) = run(config(&servers), &manners);
    let report = report(&events).1;
    assert_eq!(report.answers.len(), 1);
    let why = |server: Server| {
        let found = report.failures.iter().find(|(failed, _)| *failed == server);
        &found.unwrap_or_else(|| panic!("{server:?} is not in {report:?}")).1
    };
    assert_eq!(*why(tcp(1)), Failure::NoConnection);
    assert_eq!(*why(tcp(2)), Fault::Unreachable(io::ErrorKind::ConnectionRefused).into());
    assert!(matches!(why(tcp(3)), Failure::Garbage(_)));
    assert_eq!(*why(tcp(4)), Failure::Closed);
    assert_eq!(*why(tcp(5)), Fault::Silent.into());
    assert_eq!(*why(udp(7)), Fault::Silent.into());
    assert!(matches!(why(udp(8)), Failure::Absurd(_)));
    assert!(report.counters.garbage >= 7, "{:?}", report.counters);
}

#[test]
fn no_server_is_a_report_too() {
    let (events, acts, _) = run(config(&[]), &[]);
    assert!(acts.is_empty());
    assert_eq!(events, [(0, Event::Done(Report::default()))]);
    let many = vec![udp(1); MOST_SERVERS + 1];
    assert!(Query::new(config(&many), Seed::from_u64(1), epoch()).is_err());
}

#[test]
fn connections_that_answered_are_held_until_the_end() {
    let servers = [tcp(1), tcp(2)];
    let (_, acts, mut query) = run(config(&servers), &[(1, Manner::Answers), (2, Manner::Garbage)]);
    let closed = |acts: &[Act], last| acts.contains(&Act::CloseTcp { server: at(last) });
    assert!(!closed(&acts, 1) && closed(&acts, 2));
    query.close(epoch() + Duration::from_secs(60));
    let Drained { acts, events, wait } = drain(&mut query);
    assert_eq!(acts, [Act::CloseTcp { server: at(1) }]);
    assert!(events.is_empty() && wait.is_none());
}

#[test]
fn few_packets_go_to_a_dead_server() {
    let (events, acts, _) = run(config(&[udp(1)]), &[(1, Manner::Dead)]);
    assert_eq!(acts.len(), 7);
    assert_eq!(report(&events).0, 39_500);
}

#[test]
fn a_server_of_the_other_family_cannot_have_seen_us() {
    let (events, _, _) = run(config(&[udp(1)]), &[(1, Manner::Lies("[2001:db8::1]:5"))]);
    assert!(matches!(report(&events).1.failures[..], [(_, Failure::Absurd(_))]));
}

#[test]
fn a_server_known_later_is_asked_later() {
    let now = epoch();
    let mut query = Query::new(config(&[]), Seed::from_u64(1), now).unwrap();
    assert_eq!(drain(&mut query).events, [Event::Done(Report::default())]);
    query.handle_server(udp(1), now).unwrap();
    query.handle_server(udp(1), now).unwrap();
    let asked = drain(&mut query);
    assert!(matches!(asked.acts[..], [Act::SendUdp { .. }]), "{asked:?}");
    query.handle_unreachable(at(1), io::ErrorKind::HostUnreachable, now);
    let Drained { events, wait, .. } = drain(&mut query);
    assert!(matches!(&events[..], [Event::Failure(..), Event::Done(report)] if report.failures.len() == 1));
    assert_eq!(wait, None);
    for last in 2..=MOST_SERVERS as u8 {
        query.handle_server(udp(last), now).unwrap();
    }
    assert!(query.handle_server(udp(255), now).is_err());
    // Four in all are asked at once, the one that failed among them.
    let asked = drain(&mut query);
    assert_eq!(asked.acts.len(), 3, "{asked:?}");
    assert_eq!(asked.wait.unwrap().at, now + Duration::from_millis(100));
    query.close(now);
    query.handle_server(tcp(1), now).unwrap_err();
}

#[test]
fn asked_again_a_held_connection_is_used_and_a_dead_one_replaced() {
    let (_, _, mut query) = run(config(&[tcp(1), udp(1)]), &[(1, Manner::Answers)]);
    let now = epoch() + Duration::from_secs(60);
    query.handle_again(now);
    let again = drain(&mut query);
    let [Act::SendTcp { server, bytes }] = &again.acts[..] else {
        panic!("only what is held is asked at once: {again:?}");
    };
    query.handle_tcp_data(at(1), &answer(bytes, *server, client()), now);
    let Drained { events, .. } = drain(&mut query);
    assert!(matches!(events[..], [Event::Answer(_), Event::Done(_)]), "{events:?}");

    // The second time the connection breaks. That is no failure, but a reason to make a new one.
    query.handle_again(now);
    drain(&mut query);
    query.handle_tcp_closed(at(1), Some(io::ErrorKind::ConnectionReset), now);
    let Drained { acts, events, .. } = drain(&mut query);
    assert_eq!(acts, [Act::OpenTcp { server: at(1) }]);
    assert_eq!(events, []);
    query.handle_tcp_closed(at(1), Some(io::ErrorKind::ConnectionRefused), now);
    let Drained { events, wait, .. } = drain(&mut query);
    assert!(matches!(&events[..], [Event::Failure(..), Event::Done(_)]), "{events:?}");
    assert_eq!(wait, None);
}
