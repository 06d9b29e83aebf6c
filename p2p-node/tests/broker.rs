//! Channels over the embedded broker: the stories every broker is told, and what this one refuses.

#[path = "../../p2p-actors/tests/stories/mod.rs"]
mod stories;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use p2p_actors::signal::{Broker as Signalling, ChannelEvent, Endpoint, Tls};
use p2p_core::signal::link::{LinkError, MqttVersion, Subscribers};
use p2p_node::rendezvous::broker::{Broker, BrokerError, Options, ServerTls};
use stories::{Party, endpoint, login, pinned, tell};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn start(options: Options) -> (Broker, Endpoint) {
    let broker = Broker::start(&[ANY], options).await.unwrap();
    let endpoint = endpoint(broker.local_addrs()[0].port());
    (broker, endpoint)
}

#[test]
fn two_talk_in_either_version_on_one_port() {
    tell(async {
        let (broker, endpoint) = start(Options::default()).await;
        stories::two_talk(Signalling::Mqtt(endpoint.clone())).await;
        for protocol in [MqttVersion::V3, MqttVersion::V5] {
            stories::two_talk(Signalling::Mqtt(pinned(&endpoint, protocol))).await;
        }
        broker.shutdown().await;
    });
}

#[test]
fn it_says_that_nobody_is_there_in_the_version_that_has_a_word_for_it() {
    tell(async {
        let (_broker, endpoint) = start(Options::default()).await;
        for (version, told) in
            [(MqttVersion::V3, Subscribers::Unknown), (MqttVersion::V5, Subscribers::Nobody)]
        {
            stories::nobody_is_there(Signalling::Mqtt(pinned(&endpoint, version)), told).await;
        }
    });
}

#[test]
fn only_the_right_password_opens() {
    tell(async {
        let options = Options { login: login("right"), ..Options::default() };
        let (_broker, endpoint) = start(options).await;
        for protocol in [MqttVersion::V3, MqttVersion::V5] {
            stories::only_the_right_password_opens(pinned(&endpoint, protocol)).await;
        }
    });
}

#[test]
fn a_channel_ends_when_it_is_closed() {
    tell(async {
        let (_broker, endpoint) = start(Options::default()).await;
        stories::it_closes(&endpoint).await;
    });
}

#[test]
fn tls_on_a_port_of_its_own() {
    let folder = tempfile::TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let [certificate, key] =
        ["certificate", "key"].map(|name| folder.path().join(name).with_extension("pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    tell(async {
        let options = Options {
            tls: Some(ServerTls { listen: vec![ANY], certificate: certificate.clone(), key }),
            ..Options::default()
        };
        let (broker, plain) = start(options).await;
        let secure = Endpoint {
            port: broker.tls_addrs()[0].port(),
            tls: Some(Tls { ca_file: Some(certificate) }),
            ..plain.clone()
        };
        stories::two_talk(Signalling::Mqtt(secure)).await;
        stories::two_talk(Signalling::Mqtt(plain)).await;
    });
}

#[test]
fn shut_down_and_started_again_in_mid_run() {
    tell(async {
        let (broker, endpoint) = start(Options::default()).await;
        let address = broker.local_addrs()[0];
        let mut alice = Party::on("alice", &endpoint);
        alice.up().await;
        broker.shutdown().await;
        alice.down().await;
        let waiting = alice.publish("alice", "said while it was away");
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Unreachable(_)), "{error}");
        let _again = Broker::start(&[address], Options::default()).await.unwrap();
        let mut both = (false, false);
        while both != (true, true) {
            match alice.next().await {
                ChannelEvent::Received { payload } => both.0 = payload == "said while it was away",
                ChannelEvent::Delivered { ticket, .. } => both.1 = ticket == waiting,
                ChannelEvent::Failed { reason, .. } => panic!("{reason}"),
                ChannelEvent::Up | ChannelEvent::Down { .. } => {}
            }
        }
    });
}

#[test]
fn every_address_is_listened_on_or_none() {
    tell(async {
        let broker = Broker::start(&[ANY, ANY], Options::default()).await.unwrap();
        let [one, other] = broker.local_addrs() else {
            panic!("{broker:?}");
        };
        assert_ne!(one, other);
        let mut alice = Party::on("alice", &endpoint(one.port()));
        let mut bob = Party::on("bob", &endpoint(other.port()));
        alice.up().await;
        bob.up().await;
        alice.publish("bob", "from port to port");
        assert_eq!(bob.received().await, "from port to port");
        let taken = Broker::start(&[ANY, *other], Options::default()).await;
        let Err(BrokerError::Listen { address, .. }) = taken else {
            panic!("{taken:?}");
        };
        assert_eq!(address, *other);
        let nowhere = Broker::start(&[], Options::default()).await;
        assert!(matches!(nowhere, Err(BrokerError::Options(_))));
    });
}

/// A client of bare bytes, in MQTT 5, greeted, with a client identifier of one letter.
async fn bare(endpoint: &Endpoint, id: u8) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", endpoint.port)).await.unwrap();
    let mut connect = *b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x01?";
    connect[15] = id;
    stream.write_all(&connect).await.unwrap();
    let (kind, answer) = read_packet(&mut stream).await;
    assert_eq!((kind, answer[1]), (0x20, 0));
    stream
}

/// Subscribes at QoS 1; gives the reason code.
async fn subscribe(stream: &mut TcpStream, filter: &str) -> u8 {
    let length = filter.len() as u8;
    stream.write_all(&[0x82, 6 + length, 0, 1, 0, 0, length]).await.unwrap();
    stream.write_all(filter.as_bytes()).await.unwrap();
    stream.write_all(&[1]).await.unwrap();
    let (kind, answer) = read_packet(stream).await;
    assert_eq!(kind, 0x90);
    *answer.last().unwrap()
}

async fn read_packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
    assert!(length < 128, "a short packet");
    let mut body = vec![0; length.into()];
    stream.read_exact(&mut body).await.unwrap();
    (first, body)
}

#[test]
fn nobody_listens_to_what_is_for_others() {
    tell(async {
        let (_broker, endpoint) = start(Options::default()).await;
        let mut spy = bare(&endpoint, b'z').await;
        for filter in ["#", "p2p/+", "p2p/#", "$share/g/p2p/a", "$SYS/x"] {
            let code = subscribe(&mut spy, filter).await;
            assert!(code >= 0x80, "{filter} was granted: {code:#x}");
        }
        assert_eq!(subscribe(&mut spy, "p2p/a").await, 1);
    });
}

#[test]
fn nothing_of_the_publisher_is_passed_on_and_nothing_is_retained() {
    tell(async {
        let (_broker, endpoint) = start(Options::default()).await;
        let mut reader = bare(&endpoint, b'r').await;
        assert_eq!(subscribe(&mut reader, "t").await, 1);
        let mut writer = bare(&endpoint, b'w').await;
        writer.write_all(b"\x32\x08\x00\x01t\x00\x07\x00hi").await.unwrap();
        let (kind, body) = read_packet(&mut reader).await;
        assert_eq!(kind, 0x32);
        assert_eq!((&body[..3], &body[5..]), (&b"\x00\x01t"[..], &b"\x00hi"[..]), "no properties");
        // A retained message reaches who is there, and nobody who comes later.
        writer.write_all(b"\x31\x05\x00\x01t\x00!").await.unwrap();
        let (kind, body) = read_packet(&mut reader).await;
        assert_eq!((kind, &body[..]), (0x30, &b"\x00\x01t\x00!"[..]));
        let mut late = bare(&endpoint, b'l').await;
        assert_eq!(subscribe(&mut late, "t").await, 1);
        late.write_all(b"\xc0\x00").await.unwrap();
        assert_eq!(read_packet(&mut late).await.0, 0xd0, "the answer to the ping comes next");
    });
}

#[test]
fn a_packet_beyond_the_limit_ends_the_connection_and_nothing_else() {
    tell(async {
        let (_broker, endpoint) = start(Options::default()).await;
        let mut large = bare(&endpoint, b'x').await;
        // Says 1 MiB is coming.
        large.write_all(&[0x30, 0x80, 0x80, 0x40]).await.unwrap();
        let mut rest = Vec::new();
        // It ends the connection, with a farewell or by force.
        let _ = large.read_to_end(&mut rest).await;
        assert!(rest.len() < 128);
        stories::two_talk(Signalling::Mqtt(endpoint)).await;
    });
}

#[test]
fn nothing_is_written_to_disk() {
    let folder = std::env::current_dir().unwrap();
    let before = fs::read_dir(&folder).unwrap().count();
    tell(async {
        let (broker, endpoint) = start(Options::default()).await;
        stories::two_talk(Signalling::Mqtt(endpoint)).await;
        broker.shutdown().await;
    });
    assert_eq!(fs::read_dir(&folder).unwrap().count(), before);
}
