//! What tests do with nodes.
#![allow(dead_code, reason = "not every test does everything")]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use p2p_node::rendezvous::turn::{Secret, TurnServerConfig};
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig};
use p2p_node::{AttemptReport, TurnCarrier, TurnServer, WayFailure, WayOutcome};
use p2p_node::{BrokerConfig, Config, ConnectError, ConnectOptions, MemoryBroker, Node, Pipe, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No story takes this long; a test that hangs should fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// On loopback, to be found through this broker in memory, with a TURN server that all tests of a process share.
pub(crate) fn in_memory(broker: &MemoryBroker) -> Config {
    let mut config = Config::loopback();
    config.brokers = vec![BrokerConfig::new("memory://here".parse().unwrap())];
    config.memory = Some(broker.clone());
    config.turn = relay().to_vec();
    config
}

/// A TURN server on loopback over UDP and TCP, which runs until the process ends.
pub(crate) fn relay() -> &'static [TurnServer] {
    static RELAY: OnceLock<Vec<TurnServer>> = OnceLock::new();
    RELAY.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut config = RendezvousConfig::default();
                config.turn = Some(TurnServerConfig::loopback(Secret::generate().unwrap()));
                let rendezvous = Rendezvous::start(config).await.unwrap();
                tell.send([TurnCarrier::Udp, TurnCarrier::Tcp].map(|carrier| lent_by(&rendezvous, carrier)))
                    .unwrap();
                std::future::pending::<()>().await
            })
        });
        told.recv().unwrap().to_vec()
    })
}

/// The TURN server of a rendezvous, and a login there.
pub(crate) fn lent_by(rendezvous: &Rendezvous, carrier: TurnCarrier) -> TurnServer {
    let credential = rendezvous.turn_credential("anna", Duration::from_secs(3_600)).unwrap();
    turn_server(rendezvous.turn_addrs()[0], carrier, &credential.username, &credential.password)
}

/// As it is configured.
pub(crate) fn turn_server(
    address: SocketAddr,
    carrier: TurnCarrier,
    user: &str,
    password: &str,
) -> TurnServer {
    TurnServer::from(address).with_carrier(carrier).with_login(user, password)
}

/// This way and no other.
pub(crate) fn only(way: Way) -> ConnectOptions {
    ConnectOptions::new().with_ways([way])
}

/// Sends something each way.
pub(crate) async fn talk(a: &mut Pipe, b: &mut Pipe) {
    a.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    b.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    b.write_all(b"pong").await.unwrap();
    a.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");
}

/// One calls the other, both get a pipe, and it carries.
pub(crate) async fn meet(caller: &Node, called: &Node, options: ConnectOptions) -> (Pipe, Pipe) {
    let addr = called.addr().expect("an address");
    let calling =
        async { caller.connect_with(&addr, options).await.unwrap_or_else(|error| panic!("{error}")) };
    let accepting = async { called.accept().await.expect("an open node") };
    let (mut calling, mut accepted) = in_time(async { tokio::join!(calling, accepting) }).await;
    assert_eq!((calling.peer(), accepted.peer()), (called.id(), caller.id()));
    assert_eq!(calling.how().way, accepted.how().way);
    in_time(talk(&mut calling, &mut accepted)).await;
    (calling, accepted)
}

/// # Panics
/// When it takes for ever.
pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it ends")
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The story of a failed call.
pub(crate) fn story(error: &ConnectError) -> &AttemptReport {
    error.report().unwrap_or_else(|| panic!("no story: {error}"))
}

/// Why this way failed.
pub(crate) fn failure(report: &AttemptReport, way: Way) -> &WayFailure {
    let told = report.ways.iter().find(|told| told.way == way).expect("this way was allowed");
    match &told.outcome {
        WayOutcome::Failed(failure) => failure,
        outcome => panic!("{way}: {outcome:?}\n{report}"),
    }
}
