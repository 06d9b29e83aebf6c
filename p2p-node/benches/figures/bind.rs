//! The time until a node can connect, and the parts of it that are the servers' and the system's.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use p2p_actors::signal::Broker as Signalling;
use p2p_core::Seed;
use p2p_core::stun::{Message, Transport};
use p2p_node::{ConnectOptions, Node, Way};
use tokio::net::UdpSocket;

use crate::stories::{Party, endpoint, tell};
use crate::table::{Samples, at_most};
use crate::world::{ANY, Rendezvous, config};

const WARM_UP: usize = 5;
const BINDS: usize = 50;
/// The goal, in milliseconds.
const GOAL: f64 = 20.0;

pub(crate) fn print() {
    println!("bind: until a node can connect, with one broker and one STUN server on loopback");
    let rendezvous = Rendezvous::start();
    let (broker, stun) = (rendezvous.broker_port(), rendezvous.stun_port());
    // This listener accepts by its backlog, and says nothing.
    let silent = TcpListener::bind(ANY).expect("a listener");
    let mute = silent.local_addr().expect("an address").port();
    let closed = {
        let gone = TcpListener::bind(ANY).expect("a listener");
        gone.local_addr().expect("an address").port()
    };
    tell(async move {
        floors(broker, stun).await;
        let peer = Node::bind(config(&[broker], None)).await.expect("a node");
        let taken = tokio::spawn({
            let peer = peer.clone();
            async move { while peer.accept().await.is_some() {} }
        });
        measure("one broker", &[broker], stun, &peer).await;
        measure("and one that says nothing", &[mute, broker], stun, &peer).await;
        measure("and one whose port is closed", &[closed, broker], stun, &peer).await;
        peer.close().await;
        taken.await.expect("accepts until the end");
    });
    drop(silent);
    rendezvous.stop();
}

/// Measures the parts that no node can do without.
async fn floors(broker: u16, stun: u16) {
    let (mut look, mut session, mut ask) = (Samples::default(), Samples::default(), Samples::default());
    let socket = UdpSocket::bind(ANY).await.expect("a socket");
    socket.connect(("127.0.0.1", stun)).await.expect("an address");
    for number in 0..BINDS {
        let start = Instant::now();
        let found = p2p_actors::interface::nics().unwrap();
        look.since(start);
        assert!(!found.is_empty());
        let start = Instant::now();
        let mut party = Party::new("carol", Signalling::Mqtt(endpoint(broker)));
        party.up().await;
        session.since(start);
        let request = Message::binding(&mut Seed::from_u64(number as u64));
        let bytes = request.encode(Transport::Udp).expect("a request");
        let start = Instant::now();
        socket.send(&bytes).await.expect("sent");
        socket.recv(&mut [0; 1_500]).await.expect("answered");
        ask.since(start);
    }
    look.print_ms("floor: what interfaces there are");
    session.print_ms("floor: MQTT session and subscription");
    ask.print_ms("floor: STUN over UDP");
}

async fn measure(name: &str, brokers: &[u16], stun: u16, peer: &Node) {
    let addr = peer.addr().expect("an address");
    let (mut bound, mut called, mut closed) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..WARM_UP + BINDS {
        let start = Instant::now();
        let node = Node::bind(config(brokers, Some(stun))).await.expect("a node");
        let bind = start.elapsed();
        // The node can be found and can answer at once: the peer is asked through the broker, and dials.
        assert_eq!(node.brokers_up().len(), 1, "{:?}", node.status().borrow().brokers);
        let options = ConnectOptions::new().with_ways([Way::Reverse]);
        let pipe = node.connect_with(&addr, options).await.expect("connected");
        let call = start.elapsed();
        let start = Instant::now();
        drop(pipe);
        node.close().await;
        if round >= WARM_UP {
            bound.took(bind);
            called.took(call);
            closed.since(start);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    println!("  {name}");
    bound.print_ms("bind");
    called.print_ms("bind and a connection by way of the broker");
    closed.print_ms("close");
    at_most("bind, median", bound.median(), GOAL, "ms");
}
