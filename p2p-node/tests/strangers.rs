//! A rendezvous before strangers who take what they can: seats, descriptors, time and memory.
#![cfg(all(feature = "rendezvous", target_os = "linux"))]

#[path = "../../p2p-actors/tests/stories/mod.rs"]
mod stories;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use p2p_actors::signal::{Broker as Signalling, Endpoint, Tls};
use p2p_core::Seed;
use p2p_core::rate::Rate;
use p2p_core::stun::wire::Parsed;
use p2p_core::stun::{Message, Transport};
use p2p_node::rendezvous::broker::{Broker, BrokerConnections, Options, ServerTls};
use p2p_node::rendezvous::stun::{StunServer, StunServerConfig};
use p2p_node::rendezvous::turn::{Secret, TurnServer, TurnServerConfig};
use stories::{endpoint, tell};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Far longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

async fn until(mut is_reached: impl FnMut() -> bool) {
    in_time(async {
        while !is_reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Connects from another address of this machine.
async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    in_time(socket.connect(to)).await.unwrap()
}

/// Connections of one /24: every other is silent, and the rest say how something begins.
async fn crowd(to: SocketAddr, number: usize, begun: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for index in 0..number {
        let mut stream = from([127, 0, 9, 1 + (index % 250) as u8], to).await;
        // It may have been thrown out already.
        let _ = stream.write_all(if index % 2 == 0 { begun } else { b"" }).await;
        crowd.push(stream);
    }
    crowd
}

/// Waits until a connection is closed.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    in_time(stream.read_to_end(&mut rest)).await.is_err() || rest.len() < 64
}

/// A certificate for this machine, and its key.
fn certificate() -> (TempDir, PathBuf, PathBuf) {
    let folder = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (folder, certificate, key)
}

async fn broker(options: Options) -> (Broker, Endpoint, Endpoint, TempDir) {
    let (folder, certificate, key) = certificate();
    let tls = Some(ServerTls { listen: vec![ANY], certificate: certificate.clone(), key });
    let broker = Broker::start(&[ANY], Options { tls, ..options }).await.unwrap();
    let plain = endpoint(broker.local_addrs()[0].port());
    let port = broker.tls_addrs()[0].port();
    let secure = Endpoint { port, tls: Some(Tls { ca_file: Some(certificate) }), ..plain.clone() };
    (broker, plain, secure, folder)
}

#[test]
fn one_silent_connection_to_the_tls_port_keeps_nobody_out() {
    tell(async {
        let (broker, _, secure, _folder) = broker(Options::default()).await;
        let silent = from([127, 0, 0, 1], broker.tls_addrs()[0]).await;
        stories::two_talk(Signalling::Mqtt(secure)).await;
        drop(silent);
        broker.shutdown().await;
    });
}

#[test]
fn five_hundred_silent_connections_keep_nobody_out_of_the_broker() {
    tell(async {
        // Eight times as many as there are seats, on either port.
        let options = Options { max_clients: 64, ..Options::default() };
        let (broker, plain, secure, _folder) = broker(options).await;
        let mut strangers = crowd(broker.local_addrs()[0], 250, b"\x10").await;
        strangers.extend(crowd(broker.tls_addrs()[0], 250, b"\x16\x03\x01\x02\x00\x01").await);
        until(|| broker.connections().accepted == 500).await;
        stories::two_talk(Signalling::Mqtt(plain.clone())).await;
        stories::two_talk(Signalling::Mqtt(secure)).await;
        assert!(broker.connections().crowded >= 500 - 64, "{:?}", broker.connections());
        // Those who are left have five seconds.
        for mut stranger in strangers {
            assert!(is_closed(&mut stranger).await);
        }
        until(|| {
            let BrokerConnections { crowded, stalled, .. } = broker.connections();
            crowded + stalled >= 500
        })
        .await;
        stories::two_talk(Signalling::Mqtt(plain)).await;
        broker.shutdown().await;
    });
}

#[test]
fn silent_connections_keep_nobody_out_of_stun_and_turn() {
    tell(async {
        let stun = StunServerConfig { most_connections: 32, ..StunServerConfig::new([ANY]) };
        let stun = StunServer::start(stun).await.unwrap();
        let mut config = TurnServerConfig::loopback(Secret::new("a secret of some length").unwrap());
        config.most_connections = 32;
        let turn = TurnServer::start(config).await.unwrap();
        for server in [stun.local_addrs()[0], turn.local_addrs()[0]] {
            let _strangers = crowd(server, 300, b"\x00\x01").await;
            let mut client = from([127, 0, 0, 1], server).await;
            let question = Message::binding(&mut Seed::from_u64(1)).encode(Transport::Tcp).unwrap();
            client.write_all(&question).await.unwrap();
            let mut answer = [0; 20];
            in_time(client.read_exact(&mut answer)).await.unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([answer[2], answer[3]]))];
            in_time(client.read_exact(&mut rest)).await.unwrap();
            let whole = [&answer[..], &rest].concat();
            let told = Parsed::decode(&whole, Transport::Tcp).unwrap().message.mapped();
            assert_eq!(told, Some(client.local_addr().unwrap()));
        }
        assert!(stun.counters().crowded >= 200 && turn.counters().sockets.crowded >= 200);
        stun.shutdown().await;
        turn.shutdown().await;
    });
}

/// Connects in MQTT 5 with bare bytes, with this keep-alive.
async fn greet(stream: &mut TcpStream, id: &str, keep_alive: u8) {
    let body =
        [&b"\x00\x04MQTT\x05\x02\x00"[..], &[keep_alive, 0, 0, id.len() as u8], id.as_bytes()].concat();
    stream.write_all(&[&[0x10, body.len() as u8], &body[..]].concat()).await.unwrap();
    let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
    let mut answer = vec![0; length.into()];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!((first, answer[1]), (0x20, 0));
}

#[test]
fn those_who_connect_and_stay_share_with_those_who_come() {
    tell(async {
        let options = Options { max_clients: 16, most_per_source: 8, ..Options::default() };
        let (broker, plain, ..) = broker(options).await;
        let mut stayers = Vec::new();
        for number in 0..16u8 {
            let mut stream = from([127, 0, 9, 1 + number % 2], broker.local_addrs()[0]).await;
            greet(&mut stream, &format!("stays-{number}"), 0).await;
            stayers.push(stream);
        }
        // A ninth of one address finds no seat, and another party does.
        let mut ninth = from([127, 0, 9, 1], broker.local_addrs()[0]).await;
        assert!(is_closed(&mut ninth).await);
        stories::two_talk(Signalling::Mqtt(plain)).await;
        broker.shutdown().await;
    });
}

#[test]
fn who_wants_no_keep_alive_has_one() {
    tell(async {
        let options = Options { keep_alive: Duration::from_secs(1), ..Options::default() };
        let (broker, ..) = broker(options).await;
        let mut stream = from([127, 0, 0, 1], broker.local_addrs()[0]).await;
        greet(&mut stream, "silent", 0).await;
        let mut farewell = Vec::new();
        in_time(stream.read_to_end(&mut farewell)).await.unwrap();
        assert_eq!(farewell, b"\xe0\x01\x8d");
        assert_eq!(broker.counters().silent, 1);
        broker.shutdown().await;
    });
}

#[test]
fn a_subscriber_that_does_not_read_is_left_and_costs_little() {
    tell(async {
        let any = Rate { per_second: 1_000_000, burst: 1_000_000 };
        let stall = Duration::from_millis(100);
        let options = Options { publishes: any, source_publishes: any, stall, ..Options::default() };
        let (broker, ..) = broker(options).await;
        let at = broker.local_addrs()[0];
        let mut deaf = from([127, 0, 0, 1], at).await;
        greet(&mut deaf, "deaf", 30).await;
        deaf.write_all(b"\x82\x08\x00\x01\x00\x00\x02me\x01").await.unwrap();
        assert_eq!(in_time(deaf.read_u8()).await.unwrap(), 0x90);
        let mut mallory = from([127, 0, 0, 1], at).await;
        greet(&mut mallory, "mallory", 30).await;
        // Until nobody is there to take it: what waits is more than the system and the broker hold.
        let packet = [&b"\x32\x86\x7d\x00\x02me\x00\x07\x00"[..], &[7; 15_999]].concat();
        let mut full = 0;
        in_time(async {
            loop {
                mallory.write_all(&packet).await.unwrap();
                let mut ack = [0; 4];
                mallory.read_exact(&mut ack).await.unwrap();
                if ack[1] == 3 {
                    match mallory.read_u8().await.unwrap() {
                        0x10 => break,
                        code => assert_eq!(code, 0x97),
                    }
                    full += 1;
                }
            }
        })
        .await;
        assert!(full > 0);
        until(|| broker.connections().stalled == 1).await;
        broker.shutdown().await;
    });
}
