//! Interfaces over the loopback of this machine, with a STUN server of a few lines.
//!
//! No test here may start a program: between fork and exec a child has copies of all our sockets, and a port that
//! was closed would still be in use.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use actix::{Context, Handler};
use p2p_core::nat::NatType;
use p2p_core::stun::frame::Framer;
use p2p_core::stun::transaction::Fault;
use p2p_core::stun::{Failure, Responder, Transport};
use p2p_core::{Mapped, Reach};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::*;

/// Far longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Owner(UnboundedSender<FromInterface>);

impl Actor for Owner {
    type Context = Context<Self>;
}

impl Handler<FromInterface> for Owner {
    type Result = ();

    fn handle(&mut self, told: FromInterface, _: &mut Context<Self>) {
        let _ = self.0.send(told);
    }
}

/// Runs a story as the node does: one thread, a `LocalSet`, no `System`.
fn run(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        timeout(PATIENCE, story).await.expect("the story to end");
    });
}

fn loopback() -> Nic {
    let mut nic = nics().unwrap().into_iter().find(|nic| nic.is_loopback).unwrap();
    // Some machines have more on it.
    nic.addresses.retain(|address| Reach::of(address.ip) == Reach::Loopback);
    nic
}

fn config(stun: Vec<StunServer>) -> InterfaceConfig {
    InterfaceConfig {
        nic: loopback(),
        nic_number: 3,
        families: vec![Family::V4, Family::V6],
        listen_port: 0,
        last_port: 0,
        stun,
        seats: Arc::new(Semaphore::new(8)),
        refresh: REFRESH,
        seed: Seed::from_u64(1),
    }
}

struct Told(UnboundedReceiver<FromInterface>);

impl Told {
    async fn next(&mut self) -> FromInterface {
        self.0.recv().await.expect("the owner lives")
    }

    /// Waits for facts that are as wanted, past others.
    async fn facts(&mut self, wanted: impl Fn(&[InterfaceFacts]) -> bool) -> Vec<InterfaceFacts> {
        loop {
            match self.next().await {
                FromInterface::Changed { addresses, .. } if wanted(&addresses) => return addresses,
                FromInterface::Failed { local, error, .. } => panic!("{local}: {error}"),
                _ => {}
            }
        }
    }
}

fn begin(config: InterfaceConfig) -> (InterfaceHandle, Told) {
    let (told, receiver) = unbounded_channel();
    let handle = start(config, Owner(told).start().recipient());
    (handle, Told(receiver))
}

fn named(address: SocketAddr) -> StunServer {
    StunServer { host: address.ip().to_string(), port: address.port() }
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
    spawn_local(async move {
        let mut buffer = [0; 1_500];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let reply = responder.respond(&buffer[..length], from, here, Transport::Udp).unwrap();
            udp.send_to(&reply.bytes, reply.to).await.unwrap();
        }
    });
    let seen = Seen::default();
    let record = Rc::clone(&seen);
    spawn_local(async move {
        for number in 1.. {
            let (mut stream, from) = tcp.accept().await.unwrap();
            let record = Rc::clone(&record);
            spawn_local(async move {
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
    spawn_local(async move {
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

fn all_mapped(facts: &[InterfaceFacts]) -> bool {
    facts.iter().all(|fact| fact.external.is_some() && fact.external_udp.is_some())
}

#[test]
fn it_listens_first_and_then_learns_its_external_addresses() {
    run(async {
        let servers = [serve("127.0.0.1").await.0, serve("::1").await.0];
        let stun = servers.iter().copied().chain([nobody()]).map(named).collect();
        let (handle, mut told) = begin(config(stun));
        assert_eq!(handle.nic_number(), 3);
        assert!(matches!(told.next().await, FromInterface::Ready { nic_number: 3 }));
        let FromInterface::Changed { addresses, .. } = told.next().await else {
            panic!("after Ready come the first facts");
        };
        assert!(addresses.iter().all(|fact| fact.external.is_none() && fact.evidence.is_empty()));
        assert_eq!(addresses.len(), 2, "IPv4 and IPv6: {addresses:?}");
        assert_eq!(addresses[0].listen, addresses[1].listen, "one port for both");

        let facts = told.facts(|facts| all_mapped(facts) && facts[0].evidence.len() >= 2).await;
        for fact in &facts {
            let listening = Mapped(SocketAddr::new(fact.local, fact.listen));
            assert_eq!(fact.external, Some(listening), "asked from the port listened on");
            assert_eq!(fact.external_udp.map(|mapped| mapped.0.ip()), Some(fact.local));
            assert!(fact.evidence.iter().all(|evidence| evidence.asked.is_some()));
            let own_family = |evidence: &Evidence| evidence.asked.unwrap().is_ipv4() == fact.local.is_ipv4();
            assert!(fact.evidence.iter().all(own_family));
        }
        // Who refused is named.
        let refused = facts[0].evidence.iter().find(|evidence| {
            matches!(&evidence.outcome, Outcome::Failed(failure) if !matches!(failure, Failure::Spared))
        });
        assert!(refused.is_some(), "{facts:?}");
    });
}

#[test]
fn a_dead_name_delays_nothing_and_is_named() {
    run(async {
        let (server, _) = serve("127.0.0.1").await;
        let dead = StunServer { host: "x".repeat(300), port: 3478 };
        let mut config = config(vec![dead.clone(), named(server)]);
        config.families = vec![Family::V4];
        let (_handle, mut told) = begin(config);
        let unresolved = |facts: &[InterfaceFacts]| {
            let mut evidence = facts.iter().flat_map(|fact| &fact.evidence);
            evidence
                .any(|evidence| evidence.server == dead && matches!(evidence.outcome, Outcome::Unresolved(_)))
        };
        let facts = told.facts(|facts| all_mapped(facts) && unresolved(facts)).await;
        assert_eq!(facts.len(), 1);
    });
}

fn all_surveyed(facts: &[InterfaceFacts]) -> bool {
    !facts.is_empty() && facts.iter().all(|fact| fact.is_surveyed)
}

#[test]
fn it_probes_the_network_of_each_family_on_start_on_change_and_when_told() {
    run(async {
        let servers = [serve("127.0.0.1").await.0, serve("::1").await.0];
        let (handle, mut told) = begin(config(servers.map(named).to_vec()));
        let mut before = None;
        for change in [None, Some(true), Some(false)] {
            match change {
                None => {}
                Some(true) => handle.refresh(),
                Some(false) => handle.update(loopback()),
            }
            if change.is_some() {
                told.facts(|facts| facts.iter().all(|fact| !fact.is_surveyed)).await;
            }
            let facts = told.facts(all_surveyed).await;
            for fact in &facts {
                let probed = fact.probed.as_ref().expect("a report");
                assert_eq!(probed.report.local, fact.local);
                assert_eq!(probed.report.external.unwrap().value, fact.local);
                for verdicts in [&probed.report.tcp, &probed.report.udp] {
                    assert!(!verdicts.translates.unwrap().value);
                    assert_eq!(
                        verdicts.nat.unwrap().value,
                        NatType::SymmetricFirewall,
                        "as far as one server shows"
                    );
                }
                // The port listened on is none of those the probe used.
                let mut used = probed.report.evidence.observations().iter().map(|seen| seen.local.0.port());
                assert!(used.all(|port| port != fact.listen));
                assert_eq!(fact.servers.len(), 1);
                assert!(probed.report.newest(Transport::Tcp).is_some());
            }
            let ended: Vec<_> =
                facts.iter().map(|fact| fact.probed.as_ref().map(|probed| probed.at)).collect();
            assert_ne!(before.replace(ended.clone()), Some(ended));
        }
    });
}

#[test]
fn bad_servers_are_named_with_the_reason_and_the_good_one_is_heard() {
    run(async {
        let (good, _) = serve("127.0.0.1").await;
        let (garbage, dialled) = serve_garbage().await;
        let dead = StunServer { host: "x".repeat(300), port: 3478 };
        // Each has its own address, as each has one vote.
        let refusing = SocketAddr::new("127.0.0.3".parse().unwrap(), nobody().port());
        let mut config = config(vec![dead.clone(), named(refusing), named(garbage), named(good)]);
        config.families = vec![Family::V4];
        let (_handle, mut told) = begin(config);
        let facts = told.facts(|facts| all_surveyed(facts) && all_mapped(facts)).await;
        let report = &facts[0].probed.as_ref().unwrap().report;
        assert_eq!(report.external.unwrap().value, facts[0].local);
        let failure = |server: SocketAddr| {
            let of = |report: &&p2p_core::nat::report::ServerReport| {
                report.server == server && report.transport == Transport::Tcp
            };
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
    run(async {
        let (_handle, mut told) = begin(config(Vec::new()));
        let facts = told.facts(all_surveyed).await;
        assert!(facts.iter().all(|fact| fact.probed.is_none() && fact.external.is_none()));
    });
}

#[test]
fn a_port_is_observed_and_its_connection_held() {
    run(async {
        let (server, seen) = serve("127.0.0.1").await;
        let here = nobody();
        let observed = observe(here, &[nobody(), server], Seed::from_u64(1)).await.unwrap();
        assert_eq!((observed.seen.server, observed.seen.mapped), (server, Mapped(here)));
        assert!(observed.seen.sent <= observed.seen.at);
        assert_eq!(*seen.borrow(), [(here, 1)]);
        // From a port that is held towards one server another one can be dialled, but not the same one.
        let (other, _) = serve("127.0.0.1").await;
        let again = observe(here, &[other], Seed::from_u64(2)).await.unwrap();
        assert_eq!(again.seen.mapped, Mapped(here));
        let error = observe(here, &[server], Seed::from_u64(3)).await.unwrap_err();
        assert!(matches!(error.failures[..], [(at, Failure::Fault(Fault::Unreachable(_)))] if at == server));
        drop(observed);
        while observe(here, &[server], Seed::from_u64(4)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let nobody = observe(here, &[], Seed::from_u64(5)).await.unwrap_err();
        assert!(nobody.failures.is_empty());
    });
}

#[test]
fn asked_again_it_goes_out_from_the_same_port() {
    run(async {
        let (server, seen) = serve("127.0.0.1").await;
        let mut config = config(vec![named(server)]);
        config.families = vec![Family::V4];
        let (handle, mut told) = begin(config);
        let facts = told.facts(all_mapped).await;
        let here = SocketAddr::new(facts[0].local, facts[0].listen);
        // The probe asks the same server from other ports.
        let asked = || {
            let seen = seen.borrow();
            let numbers = seen.iter().filter(|(from, _)| *from == here).map(|(_, number)| *number);
            numbers.collect::<Vec<_>>()
        };
        let until = async |times: usize| {
            while asked().len() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        handle.refresh();
        until(2).await;
        handle.refresh();
        until(3).await;
        // The network changed: what is held may lead nowhere now.
        handle.update(loopback());
        until(4).await;
        let [first, second, third, fourth] = asked()[..] else { panic!("asked four times") };
        assert!(first == second && second == third && third != fourth, "{:?}", asked());
    });
}

#[test]
fn connections_come_with_seats_and_wait_for_them() {
    run(async {
        let seats = Arc::new(Semaphore::new(1));
        let mut config = config(Vec::new());
        config.seats = Arc::clone(&seats);
        let (_handle, mut told) = begin(config);
        let facts = told.facts(|facts| !facts.is_empty()).await;
        let mut before = None;
        for fact in &facts {
            let here = SocketAddr::new(fact.local, fact.listen);
            let dialled = TcpStream::connect(here).await.unwrap();
            // The seat of the one before is free only now.
            drop(before.take());
            let FromInterface::Inbound { nic_number: 3, stream, local, remote, seat } = told.next().await
            else {
                panic!("an inbound connection");
            };
            assert_eq!((local, remote), (here, dialled.local_addr().unwrap()));
            assert_eq!(seats.available_permits(), 0);
            before = Some((stream, seat));
        }
        drop(before);
        assert_eq!(seats.available_permits(), 1);
    });
}

#[test]
fn a_port_in_use_is_told_and_the_other_address_stands() {
    run(async {
        let taken = bind::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut config = config(Vec::new());
        config.listen_port = port;
        let (_handle, mut told) = begin(config);
        let FromInterface::Failed { nic_number: 3, local, error } = told.next().await else {
            panic!("the port is in use");
        };
        assert_eq!((local, error.kind()), (taken.local_addr().unwrap(), io::ErrorKind::AddrInUse));
        assert!(matches!(told.next().await, FromInterface::Ready { .. }));
        let facts = told.facts(|facts| !facts.is_empty()).await;
        assert_eq!(facts.len(), 1);
        assert!(facts[0].local.is_ipv6() && facts[0].listen == port);
    });
}

#[test]
fn an_address_that_goes_is_left_and_one_that_comes_is_taken() {
    run(async {
        let (server, _) = serve("127.0.0.1").await;
        let (handle, mut told) = begin(config(vec![named(server)]));
        let facts = told.facts(|facts| facts[0].external.is_some()).await;
        let v4 = SocketAddr::new(facts[0].local, facts[0].listen);
        assert!(v4.is_ipv4());
        let mut only_v6 = loopback();
        only_v6.addresses.retain(|address| address.family() == Family::V6);
        handle.update(only_v6);
        told.facts(|facts| facts.len() == 1 && facts[0].local.is_ipv6()).await;
        while TcpStream::connect(v4).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        handle.update(loopback());
        let facts = told.facts(|facts| facts.len() == 2 && facts[0].external.is_some()).await;
        assert_eq!(facts[0].listen, v4.port(), "the port stays");
        let down = Nic { is_up: false, ..loopback() };
        handle.update(down);
        told.facts(<[InterfaceFacts]>::is_empty).await;
    });
}

#[test]
fn dropped_it_lets_go_of_its_port() {
    run(async {
        let (handle, mut told) = begin(config(Vec::new()));
        let facts = told.facts(|facts| !facts.is_empty()).await;
        let here = SocketAddr::new(facts[0].local, facts[0].listen);
        drop(handle);
        while bind::listen(here).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn an_interface_that_comes_back_is_found_at_the_same_port_if_it_is_free() {
    run(async {
        let everywhere = |facts: &[InterfaceFacts]| facts.iter().all(|facts| facts.listen != 0);
        let (handle, mut told) = begin(config(Vec::new()));
        let port = told.facts(everywhere).await[0].listen;
        drop(handle);
        // The end of the actor is the end of its listeners.
        while told.0.recv().await.is_some() {}
        let (handle, mut told) = begin(InterfaceConfig { last_port: port, ..config(Vec::new()) });
        assert!(told.facts(everywhere).await.iter().all(|facts| facts.listen == port));
        drop(handle);
        while told.0.recv().await.is_some() {}
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (_handle, mut told) = begin(InterfaceConfig { last_port: port, ..config(Vec::new()) });
        let other = told.facts(everywhere).await[0].listen;
        assert!(other != port && other != 0);
    });
}
