//! Stories of circuits on several runtimes.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use p2p_core::attempt::{AttemptId, Role, Trust};
use p2p_core::relay::circuit::Connections;
use p2p_core::transport::Token;
use p2p_core::turn::{Carrier, Credentials, Server};
use tokio::io::AsyncReadExt;

use super::*;

/// Offers of circuits here go nowhere: the node is closed.
struct ClosedNode;

impl Actor for ClosedNode {
    type Context = Context<Self>;
}

impl Handler<FromCircuit> for ClosedNode {
    type Result = ();

    fn handle(&mut self, _: FromCircuit, _: &mut Context<Self>) {}
}

fn offers() -> OfferSender {
    let node = Context::<ClosedNode>::new().address().downgrade();
    OfferSender::new(AttemptId([0; 16]), node.recipient())
}

/// A runtime that works on a thread of its own until the process ends.
fn on_a_thread() -> tokio::runtime::Handle {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tell.send(runtime.handle().clone()).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    told.recv().unwrap()
}

fn begun(on: &tokio::runtime::Handle, config: CircuitConfig) -> (Handle, mpsc::UnboundedReceiver<Told>) {
    let _there = on.enter();
    Handle::begin(config, CaFiles::default(), offers(), Seed::from_u64(1))
}

/// Whether the way for connections ends when datagrams are kept.
async fn ends(is_at_rest: bool) -> bool {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let credentials = Credentials::new("u", "p").unwrap();
    let server = Server::new(listener.local_addr().unwrap(), Carrier::Tcp, credentials);
    let mut config = CircuitConfig::new(Role::Caller, Trust::Known, vec![server]);
    config.connections = Connections::Always;
    let (mut handle, _told) = Handle::begin(config, CaFiles::default(), offers(), Seed::from_u64(1));
    let mut of_connections = None;
    let mut other = Vec::new();
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
        stream.read_exact(&mut body).await.unwrap();
        // REQUESTED-TRANSPORT is TCP.
        if body.windows(5).any(|part| part == [0, 0x19, 0, 4, 6]) {
            of_connections = Some(stream);
        } else {
            other.push(stream);
        }
    }
    // As Attempt::kept does it.
    if is_at_rest {
        handle.shared.core().rest();
    }
    handle.keep(RelayKind::Datagrams);
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    if handle.shared.core().wake().unwrap() {
        handle.shared.spawn();
    }
    let mut stream = of_connections.expect("one for connections");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut rest)).await;
    end.is_ok()
}

#[tokio::test]
async fn what_is_wanted_on_the_way_to_rest_is_done_later() {
    assert!(ends(false).await);
    assert!(ends(true).await, "a way to the server that nobody needs");
}

fn offer(lent: SocketAddr) -> RelayOffer {
    RelayOffer {
        serial: 1,
        token: Token([7; 8]),
        datagrams: vec![lent],
        connections: vec![],
        has_more: false,
        refusal: None,
    }
}

/// The node has a runtime of its own, or none at all, and brings an offer to a circuit on another.
#[test]
fn a_socket_belongs_to_the_runtime_of_its_circuit_whoever_brings_the_offer() {
    for from_runtime in [true, false] {
        let peer_socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        peer_socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let users = on_a_thread();
        let mut config = CircuitConfig::new(Role::Caller, Trust::Known, vec![]);
        config.same_machine = true;
        let (handle, _told) = begun(&users, config);
        let ear = handle.ear();
        let lent = peer_socket.local_addr().unwrap();
        if from_runtime {
            let nodes = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            nodes.block_on(async { ear.hear(&offer(lent), &[]) });
        } else {
            ear.hear(&offer(lent), &[]);
        }
        // The first may be lost; the node's runtime is gone.
        for _ in 0..4 {
            peer_socket.recv_from(&mut [0; 100]).expect("a knock");
        }
    }
}
