//! Interfaces over the loopback of this machine, with a STUN server of a few lines.
//!
//! No test here may start a program: between fork and exec a child has copies of all our sockets, and a port that
//! was closed would still be in use.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use actix::{Context, Handler};
use p2p_core::stun::frame::Framer;
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
    let mut nic = nics().into_iter().find(|nic| nic.is_loopback).unwrap();
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

        let facts = told.facts(|facts| all_mapped(facts) && facts[0].evidence.len() >= 3).await;
        for fact in &facts {
            let listening = Mapped(SocketAddr::new(fact.local, fact.listen));
            assert_eq!(fact.external, Some(listening), "asked from the port listened on");
            assert_eq!(fact.external_udp.map(|mapped| mapped.0.ip()), Some(fact.local));
            assert!(fact.evidence.iter().all(|evidence| evidence.asked.is_some()));
            let own_family =
                |evidence: &Evidence| evidence.asked.unwrap().0.is_ipv4() == fact.local.is_ipv4();
            assert!(fact.evidence.iter().all(own_family));
        }
        // Who refused over TCP is named; over UDP it is merely silent for a long time.
        let refused = facts[0].evidence.iter().find(|evidence| {
            matches!(&evidence.outcome, Outcome::Failed(failure) if !matches!(failure, Failure::Spared))
        });
        let (_, transport) = refused.expect("the reason of the dead server").asked.unwrap();
        assert_eq!(transport, Transport::Tcp);
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

#[test]
fn asked_again_it_goes_out_from_the_same_port() {
    run(async {
        let (server, seen) = serve("127.0.0.1").await;
        let mut config = config(vec![named(server)]);
        config.families = vec![Family::V4];
        let (handle, mut told) = begin(config);
        let facts = told.facts(all_mapped).await;
        let here = SocketAddr::new(facts[0].local, facts[0].listen);
        let until = async |times: usize| {
            while seen.borrow().len() < times {
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
        assert_eq!(*seen.borrow(), [(here, 1), (here, 1), (here, 1), (here, 2)]);
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
