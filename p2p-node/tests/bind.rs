//! When a node is ready.

use std::net::{SocketAddr, TcpListener};

use p2p_node::rendezvous::broker::{Broker, Options};
use p2p_node::{BrokerConfig, BrokerState, Config, Node};

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn url(port: u16) -> String {
    format!("mqtt://127.0.0.1:{port}")
}

fn config(ports: &[u16]) -> Config {
    let mut config = Config::loopback();
    config.brokers = ports.iter().map(|port| BrokerConfig::new(url(*port).parse().unwrap())).collect();
    config
}

#[tokio::test]
async fn a_bound_node_has_a_broker_whatever_becomes_of_the_others() {
    let broker = Broker::start(&[any()], Options::default()).await.unwrap();
    let good = broker.local_addrs()[0].port();
    // Accepts, by its backlog, and says nothing.
    let silent = TcpListener::bind(any()).unwrap();
    let mute = silent.local_addr().unwrap().port();
    let gone = TcpListener::bind(any()).unwrap();
    let closed = gone.local_addr().unwrap().port();
    drop(gone);
    for ports in [&[good][..], &[mute, good], &[closed, good], &[good, closed, mute]] {
        let node = Node::bind(config(ports)).await.unwrap();
        assert_eq!(node.brokers_up(), [url(good)]);
        assert_eq!(node.status().borrow().brokers.len(), ports.len(), "each is listed from the start");
        node.close().await;
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn a_node_whose_brokers_all_refuse_does_not_wait() {
    let gone = TcpListener::bind(any()).unwrap();
    let closed = gone.local_addr().unwrap().port();
    drop(gone);
    let mut config = config(&[closed]);
    // Longer than any test may take.
    config.ready_within = std::time::Duration::from_secs(3_600);
    let node = Node::bind(config).await.unwrap();
    let status = node.status().borrow().clone();
    assert!(matches!(status.brokers[&url(closed)], BrokerState::Down(_)), "{status:?}");
}
