//! The time of a call, and the least time that it could take.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_actors::signal::Broker as Signalling;
use p2p_node::{ConnectOptions, Node, PeerAddr, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::mosquitto::Mosquitto;
use crate::stories::{Party, endpoint, tell};
use crate::table::{Samples, at_most, process_time};
use crate::world::{Rendezvous, apart, config, echo};

const WARM_UP: usize = 20;
const CALLS: usize = 200;
/// The pause between two calls. A node hears ten signals a second from one sender, and useless ones come from the
/// peer.
const PAUSE: Duration = Duration::from_millis(120);
/// The goals for the time of proof and actors beyond the network, in milliseconds.
const DIRECT_GOAL: f64 = 2.0;
const REVERSE_GOAL: f64 = 1.0;

pub(crate) fn print() {
    println!("connect: from the call to the proven pipe, on loopback; floors taken in turn with it");
    let rendezvous = Rendezvous::start();
    measure("embedded broker", rendezvous.broker_port());
    rendezvous.stop();
    match Mosquitto::start(true) {
        Some(mosquitto) => measure("mosquitto", mosquitto.port),
        None => println!("  mosquitto: not on this machine"),
    }
}

#[derive(Default)]
struct Times {
    bare: Samples,
    direct: Samples,
    bare_cpu: Samples,
    direct_cpu: Samples,
    direct_over: Samples,
    publish: Samples,
    reverse: Samples,
    reverse_over: Samples,
}

fn measure(name: &str, broker: u16) {
    let far = apart();
    let echo = echo(&far);
    let times = tell(async move {
        let signalling = Signalling::Mqtt(endpoint(broker));
        let (mut alice, mut bob) = (Party::new("alice", signalling.clone()), Party::new("bob", signalling));
        alice.up().await;
        bob.up().await;
        let anna = Node::bind(config(&[broker], None)).await.expect("a node");
        let bert = Node::bind(config(&[broker], None)).await.expect("a node");
        let addr = bert.addr().expect("an address");
        let taken = tokio::spawn({
            let bert = bert.clone();
            async move { while bert.accept().await.is_some() {} }
        });
        let mut times = Times::default();
        for call in 0..WARM_UP + CALLS {
            if call == WARM_UP {
                times = Times::default();
            }
            let cpu = process_time();
            let bare = bare(echo).await;
            times.bare.push(bare);
            times.bare_cpu.push(process_time() - cpu);
            let cpu = process_time();
            let direct = connect(&anna, &addr, Way::Direct).await;
            times.direct.push(direct);
            times.direct_cpu.push(process_time() - cpu);
            times.direct_over.push(direct - bare);
            let start = Instant::now();
            let ticket =
                alice.publish("bob", "a signal of the usual length is about four hundred bytes, sealed");
            bob.received().await;
            let publish = start.elapsed().as_secs_f64() * 1e3;
            alice.ended(ticket).await.expect("acknowledged");
            times.publish.push(publish);
            let reverse = connect(&anna, &addr, Way::Reverse).await;
            times.reverse.push(reverse);
            times.reverse_over.push(reverse - publish - direct);
            tokio::time::sleep(PAUSE).await;
        }
        anna.close().await;
        bert.close().await;
        taken.await.expect("accepts until the end");
        times
    });
    far.shutdown_background();
    println!("  {name}");
    times.bare.print_ms("floor: bare TCP connect + 1 RTT");
    times.direct.print_ms("direct");
    times.bare_cpu.print_ms("floor: processor time, both ends");
    times.direct_cpu.print_ms("direct: processor time, both ends");
    times.publish.print_ms("floor: MQTT publish to deliver, QoS 1");
    times.reverse.print_ms("reverse");
    times.direct_over.print_ms("direct - bare");
    times.reverse_over.print_ms("reverse - publish - direct");
    at_most("direct - bare, medians", times.direct.median() - times.bare.median(), DIRECT_GOAL, "ms");
    let least = times.publish.median() + times.direct.median();
    at_most("reverse - publish - direct, medians", times.reverse.median() - least, REVERSE_GOAL, "ms");
}

/// Returns the least time of a TCP connection until the far end can have sent something, in milliseconds.
async fn bare(echo: SocketAddr) -> f64 {
    let start = Instant::now();
    let mut stream = TcpStream::connect(echo).await.expect("the echo listens");
    stream.set_nodelay(true).expect("an option");
    stream.write_all(&[1]).await.expect("sent");
    stream.read_exact(&mut [0]).await.expect("echoed");
    start.elapsed().as_secs_f64() * 1e3
}

async fn connect(node: &Node, addr: &PeerAddr, way: Way) -> f64 {
    let options = ConnectOptions::new().with_ways([way]);
    let start = Instant::now();
    let pipe = node.connect_with(addr, options).await.expect("connected");
    let took = start.elapsed().as_secs_f64() * 1e3;
    drop(pipe);
    took
}
