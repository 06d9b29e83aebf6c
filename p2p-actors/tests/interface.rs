//! Interfaces over the loopback of this machine, with a STUN server of a few lines.
//!
//! No test here may start a program: between fork and exec a child has copies of all our sockets, and a port that
//! was closed would still be in use.

mod nodes;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use nodes::{alone, status, tell, until};
use p2p_actors::{Handle, spawn_local};
use p2p_core::nat::NatType;
use p2p_core::nat::report::ServerReport;
use p2p_core::node::{Limits, NetworkView, NodeConfig, PortEvidence, PortOutcome, StunServer};
use p2p_core::stun::frame::Framer;
use p2p_core::stun::transaction::Fault;
use p2p_core::stun::{Failure, Responder, Transport};
use p2p_core::{Family, Mapped, Reach};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_local as spawn_task;

fn named(address: SocketAddr) -> StunServer {
    StunServer::from(address)
}

/// Who asked a server over TCP, and over which connection of it.
type Seen = Rc<RefCell<Vec<(SocketAddr, usize)>>>;

/// A STUN server on loopback, over UDP and TCP, for as long as the `LocalSet` lives.
async fn serve(ip: &str) -> (SocketAddr, Seen) {
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind((ip, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, udp);
        }
    };
    let here = tcp.local_addr().unwrap();
    let responder = Responder::new(here);
    spawn_task(async move {
        let mut buffer = [0; 1_500];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let reply = responder.respond(&buffer[..length], from, here, Transport::Udp).unwrap();
            udp.send_to(&reply.bytes, reply.to).await.unwrap();
        }
    });
    let seen = Seen::default();
    let record = Rc::clone(&seen);
    spawn_task(async move {
        for number in 1.. {
            let (mut stream, from) = tcp.accept().await.unwrap();
            let record = Rc::clone(&record);
            spawn_task(async move {
                let (mut framer, mut buffer) = (Framer::default(), [0; 1_500]);
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    if let Ok(Some(message)) = framer.feed(&mut &buffer[..length]) {
                        let reply = responder.respond(&message, from, here, Transport::Tcp).unwrap();
                        record.borrow_mut().push((from, number));
                        stream.write_all(&reply.bytes).await.unwrap();
                    }
                }
            });
        }
    });
    (here, seen)
}

/// A server that says something else than STUN, and counts how often it was dialled.
async fn serve_garbage() -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    let dialled = Rc::new(Cell::new(0));
    let count = Rc::clone(&dialled);
    spawn_task(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            // Who has hung up already does not hear it.
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    (here, dialled)
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    gone.local_addr().unwrap()
}

fn config(stun: Vec<StunServer>) -> NodeConfig {
    alone(1).with_stun(stun)
}

fn begin(config: NodeConfig) -> Handle {
    spawn_local(config, None).unwrap()
}

/// What a node knows of its loopback addresses, as soon as that is as wanted. Some machines have more on that interface.
async fn views(node: &Handle, wanted: impl Fn(&[NetworkView]) -> bool) -> Vec<NetworkView> {
    let mut found = Vec::new();
    status(node, |status| {
        let all = status.networks.iter().flat_map(|(_, views)| views);
        found = all.filter(|view| Reach::of(view.local) == Reach::Loopback).cloned().collect();
        status.listening && wanted(&found)
    })
    .await;
    found
}

fn here(view: &NetworkView) -> SocketAddr {
    SocketAddr::new(view.local, view.listen)
}

fn all_mapped(views: &[NetworkView]) -> bool {
    views.iter().all(|view| view.external.is_some() && view.external_udp.is_some())
}

fn all_surveyed(views: &[NetworkView]) -> bool {
    views.iter().all(|view| view.is_surveyed)
}

#[test]
fn it_listens_first_and_then_learns_its_external_addresses() {
    tell(async {
        let servers = [serve("127.0.0.1").await.0, serve("::1").await.0];
        let node = begin(config(servers.iter().copied().chain([nobody()]).map(named).collect()));
        let first = views(&node, |_| true).await;
        assert!(first.iter().all(|view| view.external.is_none() && view.evidence.is_empty()));
        assert_eq!(first.len(), 2, "IPv4 and IPv6: {first:?}");
        assert_eq!(first[0].listen, first[1].listen, "one port for both");

        let all = views(&node, |views| all_mapped(views) && views[0].evidence.len() >= 2).await;
        for view in &all {
            assert_eq!(view.external, Some(Mapped(here(view))), "asked from the port listened on");
            assert_eq!(view.external_udp.map(|mapped| mapped.0.ip()), Some(view.local));
            let own_family =
                |evidence: &PortEvidence| evidence.asked.unwrap().is_ipv4() == view.local.is_ipv4();
            assert!(view.evidence.iter().all(own_family));
        }
        // Who refused is named.
        let refused = all[0].evidence.iter().find(|evidence| {
            matches!(&evidence.outcome, PortOutcome::Failed(failure) if !matches!(failure, Failure::Spared))
        });
        assert!(refused.is_some(), "{all:?}");
    });
}

#[test]
fn a_dead_name_delays_nothing_and_is_named() {
    tell(async {
        let (server, _) = serve("127.0.0.1").await;
        let dead = StunServer::new("x".repeat(300), 3478);
        let stun = vec![dead.clone(), named(server)];
        let node = begin(config(stun).with_families([Family::V4]));
        let unresolved = |views: &[NetworkView]| {
            let mut evidence = views.iter().flat_map(|view| &view.evidence);
            evidence.any(|evidence| {
                evidence.server == dead && matches!(evidence.outcome, PortOutcome::Unresolved(_))
            })
        };
        let all = views(&node, |views| all_mapped(views) && unresolved(views)).await;
        assert_eq!(all.len(), 1);
    });
}

#[test]
fn it_probes_the_network_of_each_family_on_start_and_when_told() {
    tell(async {
        let servers = [serve("127.0.0.1").await.0, serve("::1").await.0];
        let node = begin(config(servers.map(named).to_vec()));
        let mut before = Vec::new();
        for _ in 0..3 {
            let ended = |view: &NetworkView| view.probed.as_ref().map(|probed| probed.at);
            let all = views(&node, |views| {
                all_surveyed(views) && views.iter().map(ended).collect::<Vec<_>>() != before
            })
            .await;
            before = all.iter().map(ended).collect();
            for view in &all {
                let probed = view.probed.as_ref().expect("a report");
                assert_eq!(probed.report.local, view.local);
                assert_eq!(probed.report.external.unwrap().value, view.local);
                for verdicts in [&probed.report.tcp, &probed.report.udp] {
                    assert!(!verdicts.translates.unwrap().value);
                    let nat = verdicts.nat.unwrap().value;
                    assert_eq!(nat, NatType::SymmetricFirewall, "as far as one server shows");
                }
                // The port listened on is none of those the probe used.
                let mut used = probed.report.evidence.observations().iter().map(|seen| seen.local.0.port());
                assert!(used.all(|port| port != view.listen));
                assert_eq!(view.servers.len(), 1);
                assert!(probed.report.newest(Transport::Tcp).is_some());
            }
            node.refresh().await;
        }
    });
}

#[test]
fn bad_servers_are_named_with_the_reason_and_the_good_one_is_heard() {
    tell(async {
        let (good, _) = serve("127.0.0.1").await;
        let (garbage, dialled) = serve_garbage().await;
        let dead = StunServer::new("x".repeat(300), 3478);
        // Each has its own address, as each has one vote.
        let refusing = SocketAddr::new("127.0.0.3".parse().unwrap(), nobody().port());
        let stun = vec![dead.clone(), named(refusing), named(garbage), named(good)];
        let node = begin(config(stun).with_families([Family::V4]));
        let all = views(&node, |views| all_surveyed(views) && all_mapped(views)).await;
        let report = &all[0].probed.as_ref().unwrap().report;
        assert_eq!(report.external.unwrap().value, all[0].local);
        let failure = |server: SocketAddr| {
            let of = |report: &&ServerReport| report.server == server && report.transport == Transport::Tcp;
            report.servers.iter().find(of).unwrap_or_else(|| panic!("{server}: {report}")).failure.clone()
        };
        assert_eq!(failure(good), None);
        assert!(matches!(failure(refusing), Some(Failure::Fault(Fault::Unreachable(_)))), "{report}");
        assert!(matches!(failure(garbage), Some(Failure::Garbage(_))), "{report}");
        assert_eq!(
            dialled.get(),
            2,
            "once for the port listened on, once by the probe: it has shown what it is"
        );
        assert_eq!(report.unresolved.len(), 1);
        assert_eq!(report.unresolved[0].name, dead.to_string());
        let text = report.to_string();
        assert!(text.contains("does not speak STUN over TCP") && text.contains("No use: xxx"), "{text}");
    });
}

#[test]
fn without_servers_nothing_is_probed_and_nothing_waited_for() {
    tell(async {
        let node = begin(config(Vec::new()));
        let all = views(&node, all_surveyed).await;
        assert!(all.iter().all(|view| view.probed.is_none() && view.external.is_none()));
    });
}

#[test]
fn asked_again_it_goes_out_from_the_same_port_over_the_same_connection() {
    tell(async {
        let (server, seen) = serve("127.0.0.1").await;
        let node = begin(config(vec![named(server)]).with_families([Family::V4]));
        let here = here(&views(&node, all_mapped).await[0]);
        // The probe asks the same server from other ports.
        let asked = || {
            let seen = seen.borrow();
            let numbers = seen.iter().filter(|(from, _)| *from == here).map(|(_, number)| *number);
            numbers.collect::<Vec<_>>()
        };
        for times in [2, 3] {
            node.refresh().await;
            until("the server is asked again", || asked().len() >= times).await;
        }
        let [first, second, third] = asked()[..] else { panic!("asked three times") };
        assert!(first == second && second == third, "{:?}", asked());
    });
}

#[test]
fn connections_wait_for_seats() {
    tell(async {
        let limits = Limits::new().with_unproven(1);
        let node = begin(config(Vec::new()).with_limits(limits));
        // More than the node has room for: each newer one pushes the one before out.
        let all = views(&node, |_| true).await;
        let mut dialled = Vec::new();
        for number in 0..200 {
            dialled.push(TcpStream::connect(here(&all[number % all.len()])).await.unwrap());
        }
        until("all but one had to go", || node.counters().evicted == 199).await;
        assert_eq!(node.counters().arrived, 200);
        for mut stream in dialled.drain(..199) {
            assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "it was closed");
        }
    });
}

#[test]
fn a_port_in_use_is_told_and_the_other_address_stands() {
    tell(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let node = begin(config(Vec::new()).with_listen_port(at.port()));
        let all = views(&node, |_| true).await;
        assert_eq!(node.status().borrow().refused.as_ref().map(|(at, _)| *at), Some(at));
        assert_eq!(all.len(), 1);
        assert!(all[0].local.is_ipv6() && all[0].listen == at.port());
    });
}

#[test]
fn closed_or_dropped_it_lets_go_of_its_ports() {
    tell(async {
        for is_closed in [true, false] {
            let (server, _) = serve("127.0.0.1").await;
            let node = begin(config(vec![named(server)]));
            let all = views(&node, |views| views[0].external.is_some()).await;
            if is_closed {
                node.close().await;
            }
            drop(node);
            for view in &all {
                let at = here(view);
                until("the port is free", || std::net::TcpListener::bind(at).is_ok()).await;
            }
        }
    });
}
