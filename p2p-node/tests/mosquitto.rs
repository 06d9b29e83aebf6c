//! Two nodes and a real mosquitto, on loopback.
//!
//! Without mosquitto on this machine the tests say so and pass; with `P2P_LAB=require` they fail.

#[path = "../../p2p-actors/tests/lab/mod.rs"]
mod lab;
mod nodes;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use lab::mosquitto::Mosquitto;
use nodes::{failure, in_time, meet, only, story, until};
use p2p_node::{BrokerConfig, BrokerState, BrokerTrouble, Config, ConnectError, Node, Way, WayFailure};

fn at(port: u16, version: &str) -> BrokerConfig {
    BrokerConfig::new(format!("mqtt://127.0.0.1:{port}{version}").parse().unwrap())
}

fn secure_at(mosquitto: &Mosquitto, authority: &str) -> BrokerConfig {
    let url = format!("mqtts://127.0.0.1:{}", mosquitto.port).parse().unwrap();
    let ca_file = mosquitto.folder.path().join(authority);
    BrokerConfig::new(url).with_ca_file(ca_file)
}

fn with_login(broker: BrokerConfig, password: &str) -> BrokerConfig {
    broker.with_login("alice", password)
}

/// A port nobody listens on.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn node(brokers: Vec<BrokerConfig>) -> Node {
    let mut config = Config::loopback();
    config.brokers = brokers;
    Node::bind(config).await.unwrap()
}

async fn pair(broker: &BrokerConfig) -> (Node, Node) {
    (node(vec![broker.clone()]).await, node(vec![broker.clone()]).await)
}

async fn reverse_connects(broker: &BrokerConfig) {
    let (anna, bert) = pair(broker).await;
    let up = [broker.url.to_string()];
    assert_eq!((anna.brokers_up(), bert.brokers_up()), (up.to_vec(), up.to_vec()), "bind waits for a broker");
    meet(&anna, &bert, only(Way::Reverse)).await;
    meet(&bert, &anna, only(Way::Reverse)).await;
}

#[tokio::test]
async fn reverse_connects_in_either_version() {
    let Some(mosquitto) = Mosquitto::plain() else { return };
    for version in ["", "?v=3", "?v=5"] {
        reverse_connects(&at(mosquitto.port, version)).await;
    }
}

#[tokio::test]
async fn reverse_connects_over_tls() {
    let Some(mosquitto) = Mosquitto::secure() else { return };
    reverse_connects(&secure_at(&mosquitto, "right.pem")).await;
}

#[tokio::test]
async fn reverse_connects_with_a_password() {
    let Some(mosquitto) = Mosquitto::with_password("alice", "right") else { return };
    for version in ["?v=3", "?v=5"] {
        reverse_connects(&with_login(at(mosquitto.port, version), "right")).await;
    }
}

/// Whether the only broker of a node is up.
fn is_up(node: &Node) -> bool {
    node.status().borrow().brokers.values().all(|state| *state == BrokerState::Up)
}

async fn killed_and_restarted(mut mosquitto: Mosquitto, broker: BrokerConfig) {
    let (anna, bert) = pair(&broker).await;
    let pipes = meet(&anna, &bert, only(Way::Reverse)).await;
    mosquitto.kill();
    until("both notice that the broker is gone", || !is_up(&anna) && !is_up(&bert)).await;
    mosquitto.restart();
    // At once, while neither is back: the broker has three seconds to come back before it counts as dead.
    let addr = bert.addr().unwrap();
    let early = in_time(anna.connect_with(&addr, only(Way::Reverse)));
    let (early, ()) = tokio::join!(early, until("both come back", || is_up(&anna) && is_up(&bert)));
    match early {
        Ok(mut early) => nodes::talk(&mut early, &mut bert.accept().await.unwrap()).await,
        // The caller was back before the called one, and the broker said so.
        Err(error) => assert!(matches!(error, ConnectError::Offline(_)), "{error}"),
    }
    meet(&anna, &bert, only(Way::Reverse)).await;
    let (mut calling, mut accepted) = pipes;
    nodes::talk(&mut calling, &mut accepted).await;
}

#[tokio::test]
async fn killed_and_restarted_in_mid_run() {
    let Some(mosquitto) = Mosquitto::plain() else { return };
    let broker = at(mosquitto.port, "");
    killed_and_restarted(mosquitto, broker).await;
}

#[tokio::test]
async fn killed_and_restarted_in_mid_run_over_tls() {
    let Some(mosquitto) = Mosquitto::secure() else { return };
    let broker = secure_at(&mosquitto, "right.pem");
    killed_and_restarted(mosquitto, broker).await;
}

#[tokio::test]
async fn a_peer_that_is_offline_is_reported_as_such() {
    let Some(mosquitto) = Mosquitto::plain() else { return };
    let (anna, bert) = pair(&at(mosquitto.port, "")).await;
    let addr = bert.addr().unwrap();
    bert.close().await;
    for options in [only(Way::Reverse), Default::default()] {
        let error = in_time(anna.connect_with(&addr, options)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Offline(_)), "{error}");
    }
}

#[tokio::test]
async fn a_second_broker_that_is_dead_changes_nothing() {
    let Some(mosquitto) = Mosquitto::plain() else { return };
    let brokers = vec![at(dead_port(), ""), at(mosquitto.port, "")];
    let (anna, bert) = (node(brokers.clone()).await, node(brokers).await);
    assert_eq!(anna.brokers_up().len(), 1);
    meet(&anna, &bert, only(Way::Reverse)).await;
    let addr = bert.addr().unwrap();
    bert.close().await;
    let error = in_time(anna.connect(&addr)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Offline(_)), "{error}");
}

/// Brokers of no use, each for a reason of its own, and the words for it.
struct Useless {
    brokers: Vec<(BrokerConfig, &'static str)>,
    _running: [Mosquitto; 2],
    silent: TcpListener,
}

impl Useless {
    fn new() -> Option<Self> {
        let locked = Mosquitto::with_password("alice", "right")?;
        let secure = Mosquitto::secure()?;
        // The kernel accepts for it, and nobody ever speaks.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let no_pem = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let localhost = format!("mqtts://localhost:{}", secure.port).parse().unwrap();
        let brokers = vec![
            (with_login(at(locked.port, "?v=3"), "wrong"), "authorise"),
            (with_login(at(locked.port, "?v=5"), "wrong"), "authorise"),
            (secure_at(&secure, "wrong.pem"), "certificate is refused"),
            (BrokerConfig::new(localhost).with_ca_file(no_pem), "misconfigured"),
            (at(secure.port, ""), "lost"),
            (at(dead_port(), ""), "cannot be reached"),
        ];
        Some(Self { brokers, _running: [locked, secure], silent })
    }
}

/// Calls by the reverse way in vain: what is told of each broker, in the order of the address.
async fn in_vain(brokers: &[(BrokerConfig, &'static str)]) -> (Vec<BrokerTrouble>, Duration) {
    let brokers: Vec<BrokerConfig> = brokers.iter().map(|(broker, _)| broker.clone()).collect();
    let (anna, bert) = (node(brokers.clone()).await, node(brokers).await);
    assert!(anna.brokers_up().is_empty());
    let error = in_time(anna.connect_with(&bert.addr().unwrap(), only(Way::Reverse))).await.unwrap_err();
    let report = story(&error);
    let WayFailure::NoBroker(troubles) = failure(report, Way::Reverse) else { panic!("{report}") };
    (troubles.clone(), report.took)
}

fn each_is_named(troubles: &[BrokerTrouble], brokers: &[(BrokerConfig, &str)]) {
    assert_eq!(troubles.len(), brokers.len());
    for (trouble, (broker, words)) in troubles.iter().zip(brokers) {
        assert_eq!(trouble.broker, broker.url.to_string());
        assert!(trouble.reason.contains(words), "{words}: {trouble:?}");
    }
}

#[tokio::test]
async fn a_useless_broker_is_named_with_its_reason() {
    let Some(mut useless) = Useless::new() else { return };
    let (troubles, took) = in_vain(&useless.brokers).await;
    each_is_named(&troubles, &useless.brokers);
    // Three seconds for a broker that is just restarting.
    assert!(took < Duration::from_secs(6), "{took:?}");
    // One that accepts and says nothing gets as long as a signal may wait for a broker: ten seconds.
    let silent = useless.silent.local_addr().unwrap().port();
    useless.brokers.push((at(silent, ""), "says nothing"));
    let (troubles, took) = in_vain(&useless.brokers).await;
    each_is_named(&troubles, &useless.brokers);
    assert!(took < Duration::from_secs(13), "{took:?}");
}
