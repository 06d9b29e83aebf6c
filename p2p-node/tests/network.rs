//! `Node::network`: what a node knows of the networks it is in, and publishes.

mod nodes;

use std::net::TcpListener;

use nodes::{in_memory, in_time, meet, only};
use p2p_node::rendezvous::stun::{StunServer, StunServerConfig};
use p2p_node::{Config, MemoryBroker, NetworkState, Node, Way};

#[tokio::test]
async fn a_node_without_a_good_server_starts_and_meets_by_local_paths() {
    let broker = MemoryBroker::new();
    let node = |servers: Vec<p2p_node::StunServer>| {
        let mut config: Config = in_memory(&broker);
        config.stun = servers;
        Node::bind(config)
    };
    // Nobody listens there any more.
    let dead = TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    let dead = p2p_node::StunServer::from(dead);
    let (anna, bert) = (node(Vec::new()).await.unwrap(), node(vec![dead]).await.unwrap());
    assert_eq!(in_time(anna.survey()).await.state, NetworkState::NoServer);
    assert_eq!(in_time(bert.survey()).await.state, NetworkState::Offline);
    meet(&anna, &bert, only(Way::Direct)).await;
    meet(&bert, &anna, only(Way::Reverse)).await;
    anna.close().await;
    bert.close().await;
}

#[tokio::test]
async fn what_is_learned_is_published_and_learned_anew_when_told() {
    let listen = ["127.0.0.1:0", "127.0.0.4:0"].map(|addr| addr.parse().unwrap());
    let server = StunServer::start(StunServerConfig::new(listen)).await.unwrap();
    let mut config = Config::loopback();
    config.stun = server.local_addrs().into_iter().map(p2p_node::StunServer::from).collect();
    let node = Node::bind(config).await.unwrap();
    let network = in_time(node.survey()).await;
    assert_eq!(network.state, NetworkState::Known);
    let report = network.networks.iter().find_map(|network| network.report.clone()).unwrap();
    let published = node.addr().unwrap();
    let ours = published.interfaces().iter().find(|interface| interface.local == report.local).unwrap();
    assert_eq!(ours.nat, report.facts());
    assert!(ours.nat.tcp.delta.is_some() && ours.nat.udp.mapping.is_some(), "{ours:?}");
    assert_eq!(ours.external, Some(report.local));
    let asked = server.counters().answered;
    node.refresh().await;
    let mut status = node.status();
    let anew = |status: &p2p_node::Status| {
        let mut facts = status.networks.iter().flat_map(|(_, facts)| facts);
        facts.any(|facts| {
            let anew = facts.probed.as_ref().is_some_and(|probed| probed.report != report);
            facts.local == report.local && anew
        })
    };
    in_time(status.wait_for(anew)).await.unwrap();
    assert!(server.counters().answered > asked);
    node.close().await;
    server.shutdown().await;
}
