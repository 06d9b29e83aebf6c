//! The TURN server of a rendezvous: over real sockets, with a client of our own and with coturn's.

mod turn;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::rate::Rate;
use p2p_core::stun::{Attribute, Class, Message, Method, Transport};
use p2p_node::rendezvous::ServerTls;
use p2p_node::rendezvous::turn::{
    Login, Secret, TurnServer, TurnServerConfig, TurnServerCounters, TurnServerError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use turn::{Client, PATIENCE, Stream, TCP, UDP, channel_data, connection_id, credential, socket};

fn on_loopback() -> TurnServerConfig {
    TurnServerConfig::loopback(Secret::generate().unwrap())
}

async fn start(config: TurnServerConfig) -> TurnServer {
    TurnServer::start(config).await.unwrap()
}

fn with(change: impl FnOnce(&mut TurnServerConfig)) -> TurnServerConfig {
    let mut config = on_loopback();
    change(&mut config);
    config
}

/// Waits until the counters are as wanted.
async fn until(server: &TurnServer, wanted: impl Fn(TurnServerCounters) -> bool) {
    let reached = timeout(PATIENCE, async {
        while !wanted(server.counters()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(reached.await.is_ok(), "{:?}", server.counters());
}

/// Waits until so many relayed addresses are left.
async fn until_held(server: &TurnServer, wanted: usize) {
    let reached = timeout(PATIENCE, async {
        while server.held() != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(reached.await.is_ok(), "{} held", server.held());
}

async fn peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("data").unwrap();
    (buffer[..length].to_vec(), from)
}

async fn tcp(server: &TurnServer, name: &str) -> Client<Stream<TcpStream>> {
    let stream = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    Client::new(Stream(stream), credential(server, name))
}

/// Whether the other side ends the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64];
    match timeout(PATIENCE, stream.read(&mut buffer)).await {
        Ok(Ok(length)) => length == 0,
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionReset,
        Err(_) => false,
    }
}

#[tokio::test]
async fn datagrams_over_udp_in_both_directions() {
    let server = start(on_loopback()).await;
    let mut anna = Client::new(socket(&server).await, credential(&server, "anna"));
    let relayed = anna.allocate(&[UDP]).await;
    assert_eq!(server.held(), 1);
    let (far, at) = peer().await;
    assert_eq!(anna.code(Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(at)]).await, 0);
    far.send_to(b"by indication", relayed).await.unwrap();
    let heard = anna.hear().await;
    assert_eq!((heard.class, heard.method), (Class::Indication, Method::DATA));
    assert!(heard.attributes.contains(&Attribute::XorPeerAddress(at)));
    assert!(heard.attributes.contains(&Attribute::Data(b"by indication"[..].into())));
    let mut seed = Seed::from_u64(1);
    let sent = Message::new(Class::Indication, Method::SEND, p2p_core::stun::TransactionId::new(&mut seed))
        .with(Attribute::XorPeerAddress(at))
        .with(Attribute::Data(b"and back"[..].into()));
    anna.line.send(&sent.encode(Transport::Udp).unwrap()).await.unwrap();
    assert_eq!(receive(&far).await, (b"and back".to_vec(), relayed));

    anna.bind(0x4abc, at).await;
    // Of any length, none too; what follows in a datagram is filling.
    for length in [0, 1, 2, 3, 4, 1_200, 9_000, 60_000] {
        let data: Vec<u8> = (0..length).map(|at| at as u8).collect();
        anna.line.send(&channel_data(0x4abc, &data)).await.unwrap();
        assert_eq!(receive(&far).await, (data.clone(), relayed));
        far.send_to(&data, relayed).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let came = timeout(PATIENCE, anna.line.recv(&mut buffer)).await.expect("data").unwrap();
        assert_eq!(buffer[..came], channel_data(0x4abc, &data)[..4 + length]);
    }
    // Somebody who was not let in is not heard.
    let (stranger, _) = peer().await;
    let elsewhere = UdpSocket::bind("127.0.0.9:0").await.unwrap();
    elsewhere.send_to(b"psst", relayed).await.unwrap();
    until(&server, |counters| counters.decided.unpermitted == 1).await;
    stranger.send_to(b"the same address", relayed).await.unwrap();
    assert_eq!(anna.hear().await.method, Method::DATA);
    server.shutdown().await;
}

#[tokio::test]
async fn datagrams_over_tcp_in_pieces_and_heaps() {
    let server = start(on_loopback()).await;
    let mut anna = tcp(&server, "anna").await;
    let relayed = anna.allocate(&[UDP]).await;
    let (far, at) = peer().await;
    anna.bind(0x4000, at).await;
    let texts: Vec<Vec<u8>> = (0..40).map(|length| vec![b'x'; length]).collect();
    let stream: Vec<u8> = texts.iter().flat_map(|text| channel_data(0x4000, text)).collect();
    for pieces in [1, 7, stream.len()] {
        for piece in stream.chunks(pieces) {
            anna.line.0.write_all(piece).await.unwrap();
        }
        for text in &texts {
            assert_eq!(receive(&far).await, (text.clone(), relayed));
            far.send_to(text, relayed).await.unwrap();
        }
        let mut came = vec![0; stream.len()];
        timeout(PATIENCE, anna.line.0.read_exact(&mut came)).await.expect("data").unwrap();
        assert_eq!(came, stream, "filled up to a multiple of four each");
    }
    // With the connection goes the allocation.
    drop(anna);
    until_held(&server, 0).await;
    server.shutdown().await;
}

#[tokio::test]
async fn with_tls_and_over_ipv6_and_binding() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["turn.example".to_owned()]).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = start(with(|config| {
        config.listen.push("[::1]:0".parse().unwrap());
        config.allow_peers.push("::1".parse().unwrap());
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.tls = Some(ServerTls { listen, certificate, key });
    }))
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.tls_addrs()[0]).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect("turn.example".try_into().unwrap(), stream).await.unwrap();
    let mut anna = Client::new(Stream(stream), credential(&server, "anna"));
    let relayed = anna.allocate(&[UDP, Attribute::RequestedAddressFamily(p2p_core::Family::V6)]).await;
    let far = UdpSocket::bind("[::1]:0").await.unwrap();
    anna.bind(0x4000, far.local_addr().unwrap()).await;
    anna.line.0.write_all(&channel_data(0x4000, b"hello")).await.unwrap();
    assert_eq!(receive(&far).await, (b"hello".to_vec(), relayed));
    far.send_to(b"hello yourself", relayed).await.unwrap();
    let mut came = vec![0; 20];
    timeout(PATIENCE, anna.line.0.read_exact(&mut came)).await.expect("data").unwrap();
    assert_eq!(came, channel_data(0x4000, b"hello yourself"));

    // Both families at once, for a client over IPv6.
    let mut line = UdpSocket::bind("[::1]:0").await.unwrap();
    line.connect(server.local_addrs()[1]).await.unwrap();
    let question = Message::binding(&mut Seed::from_u64(1)).encode(Transport::Udp).unwrap();
    turn::Line::put(&mut line, &question).await;
    let mut bert = Client::new(line, credential(&server, "bert"));
    let seen = bert.hear().await;
    assert_eq!(seen.mapped(), Some(bert.line.local_addr().unwrap()));
    bert.allocate(&[UDP, Attribute::AdditionalAddressFamily(p2p_core::Family::V6)]).await;
    assert_eq!(server.held(), 3);
    let (other, at) = peer().await;
    bert.bind(0x4000, at).await;
    bert.bind(0x4001, far.local_addr().unwrap()).await;
    bert.line.send(&channel_data(0x4000, b"four")).await.unwrap();
    bert.line.send(&channel_data(0x4001, b"six")).await.unwrap();
    assert_eq!((receive(&other).await.0, receive(&far).await.0), (b"four".to_vec(), b"six".to_vec()));
    server.shutdown().await;
}

#[tokio::test]
async fn a_peer_is_dialled_and_bytes_go_through() {
    let server = start(on_loopback()).await;
    let mut anna = tcp(&server, "anna").await;
    let relayed = anna.allocate(&[TCP]).await;
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answer = anna.ask(Method::CONNECT, &[Attribute::XorPeerAddress(far.local_addr().unwrap())]).await;
    let (mut peer, from) = timeout(PATIENCE, far.accept()).await.expect("a connection").unwrap();
    assert_eq!(from, relayed, "from the relayed address itself");
    // The peer may speak first.
    peer.write_all(b"welcome").await.unwrap();
    let data = fetch(&server, &anna, connection_id(&answer)).await;
    through(data, peer, b"welcome").await;
    // Nobody is there.
    let nobody = far.local_addr().unwrap();
    drop(far);
    assert_eq!(anna.code(Method::CONNECT, &[Attribute::XorPeerAddress(nobody)]).await, 447);
    server.shutdown().await;
}

/// One more connection of the same client.
async fn beside(server: &TurnServer, client: &Client<Stream<TcpStream>>) -> Client<Stream<TcpStream>> {
    client.beside(Stream(TcpStream::connect(server.local_addrs()[0]).await.unwrap()))
}

/// A connection of `client` that is a connection of a peer from now on.
async fn fetch(server: &TurnServer, client: &Client<Stream<TcpStream>>, id: u32) -> TcpStream {
    let mut data = beside(server, client).await;
    assert_eq!(data.code(Method::CONNECTION_BIND, &[Attribute::ConnectionId(id)]).await, 0);
    data.line.0
}

/// Much in both directions at once; then one side ends, and the other still speaks.
async fn through(mut client: TcpStream, mut peer: TcpStream, first: &[u8]) {
    const MUCH: usize = 3_000_000;
    let mut came = vec![0; first.len()];
    timeout(PATIENCE, client.read_exact(&mut came)).await.expect("bytes").unwrap();
    assert_eq!(came, first);
    let sent: Vec<u8> = (0..MUCH).map(|at| (at / 251) as u8).collect();
    let back: Vec<u8> = sent.iter().map(|byte| !byte).collect();
    let (mut there, mut here) = (Vec::new(), vec![0; MUCH]);
    let exchange = async {
        let (mut client_from, mut client_to) = client.split();
        let (mut peer_from, mut peer_to) = peer.split();
        let client_says = async {
            client_to.write_all(&sent).await?;
            client_to.shutdown().await
        };
        tokio::try_join!(
            client_says,
            peer_from.read_to_end(&mut there),
            peer_to.write_all(&back),
            client_from.read_exact(&mut here),
        )
    };
    timeout(PATIENCE, exchange).await.expect("an end").unwrap();
    assert!(there == sent && here == back);
    peer.write_all(b"good-bye").await.unwrap();
    drop(peer);
    let mut last = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut last)).await.expect("an end").unwrap();
    assert_eq!(last, b"good-bye");
}

#[tokio::test]
async fn a_peer_that_dials_is_let_in_if_it_may() {
    let server = start(on_loopback()).await;
    let mut anna = tcp(&server, "anna").await;
    let relayed = anna.allocate(&[TCP]).await;
    let mut early = TcpStream::connect(relayed).await.unwrap();
    assert!(is_closed(&mut early).await);
    let here = Attribute::XorPeerAddress(early.local_addr().unwrap());
    assert_eq!(anna.code(Method::CREATE_PERMISSION, &[here]).await, 0);
    let mut peer = TcpStream::connect(relayed).await.unwrap();
    let told = anna.hear().await;
    assert_eq!((told.class, told.method), (Class::Indication, Method::CONNECTION_ATTEMPT));
    assert!(told.attributes.contains(&Attribute::XorPeerAddress(peer.local_addr().unwrap())));
    // What a client sends right behind its request belongs to the peer.
    let mut data = beside(&server, &anna).await;
    let id = Attribute::ConnectionId(connection_id(&told));
    let mut heap = data.request(Method::CONNECTION_BIND, &[id]);
    heap.extend_from_slice(b"at once");
    data.line.0.write_all(&heap).await.unwrap();
    assert_eq!(data.hear().await.class, Class::Success);
    let mut came = [0; 7];
    timeout(PATIENCE, peer.read_exact(&mut came)).await.expect("bytes").unwrap();
    assert_eq!(&came, b"at once");
    through(data.line.0, peer, b"").await;

    // When the client goes, so does what it relayed.
    let mut peer = TcpStream::connect(relayed).await.unwrap();
    let id = connection_id(&anna.hear().await);
    let mut data = fetch(&server, &anna, id).await;
    let mut waiting = TcpStream::connect(relayed).await.unwrap();
    anna.hear().await;
    drop(anna);
    assert!(is_closed(&mut peer).await && is_closed(&mut data).await && is_closed(&mut waiting).await);
    until_held(&server, 0).await;
    assert_eq!(TcpStream::connect(relayed).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    server.shutdown().await;
}

#[tokio::test]
async fn private_networks_and_this_machine_are_out_of_reach() {
    let server = start(with(|config| config.allow_peers.clear())).await;
    let mut anna = tcp(&server, "anna").await;
    let relayed = anna.allocate(&[UDP]).await;
    for address in ["127.0.0.2:9", "10.0.0.1:9", "169.254.169.254:80", "224.0.0.1:9"] {
        let address = Attribute::XorPeerAddress(address.parse().unwrap());
        assert_eq!(anna.code(Method::CREATE_PERMISSION, std::slice::from_ref(&address)).await, 403);
        let channel = [Attribute::ChannelNumber(0x4000), address];
        assert_eq!(anna.code(Method::CHANNEL_BIND, &channel).await, 403);
    }
    // The relayed address of somebody else is no private business; the port of a service is.
    let mut bert = Client::new(socket(&server).await, credential(&server, "bert"));
    let other = bert.allocate(&[UDP]).await;
    bert.bind(0x4000, relayed).await;
    anna.bind(0x4000, other).await;
    anna.line.0.write_all(&channel_data(0x4000, b"hello")).await.unwrap();
    let mut came = vec![0; 9];
    timeout(PATIENCE, bert.line.recv(&mut came)).await.expect("data").unwrap();
    assert_eq!(came, channel_data(0x4000, b"hello")[..9]);
    let service = Attribute::XorPeerAddress(server.local_addrs()[0]);
    assert_eq!(bert.code(Method::CHANNEL_BIND, &[Attribute::ChannelNumber(0x4001), service]).await, 403);
    server.shutdown().await;
}

#[tokio::test]
async fn users_are_told_apart_and_held_to_their_share() {
    let login = Login { user: "carl".into(), password: "a word that is long".into() };
    let server = start(with(|config| {
        config.users.push(login.clone());
        config.most_per_user = 1;
        config.most_allocations = 2;
    }))
    .await;
    let mut clients = Vec::new();
    for name in ["anna", "anna", "bert", "dora"] {
        clients.push(Client::new(socket(&server).await, credential(&server, name)));
    }
    let mut codes = Vec::new();
    for client in &mut clients {
        codes.push(client.code(Method::ALLOCATE, &[UDP]).await);
    }
    assert_eq!(codes, [0, 486, 0, 508]);
    assert_eq!(clients[0].code(Method::REFRESH, &[Attribute::Lifetime(0)]).await, 0);
    let mut fixed = credential(&server, "carl");
    (fixed.username, fixed.password) = (login.user, login.password);
    let mut carl = Client::new(socket(&server).await, fixed);
    assert_eq!(carl.code(Method::ALLOCATE, &[UDP]).await, 0);
    let late = server.credential("late", Duration::ZERO).unwrap();
    let mut late = Client::new(socket(&server).await, late);
    let refusal = late.ask(Method::ALLOCATE, &[UDP]).await;
    assert_eq!(refusal.error_code(), Some((401, "Credential Expired")));
    let mut wrong = credential(&server, "eve");
    wrong.password.replace_range(0..1, "_");
    assert_eq!(Client::new(socket(&server).await, wrong).code(Method::ALLOCATE, &[UDP]).await, 401);
    assert_eq!((server.held(), server.counters().decided.expired), (2, 1));
    server.shutdown().await;
}

#[tokio::test]
async fn a_user_gets_no_more_bytes_than_there_are_for_him() {
    let server = start(with(|config| config.user_rate = Some(100_000))).await;
    let mut anna = tcp(&server, "anna").await;
    anna.allocate(&[UDP]).await;
    let (_far, at) = peer().await;
    anna.bind(0x4000, at).await;
    let data = channel_data(0x4000, &[0; 1_000]);
    let heap: Vec<u8> = std::iter::repeat_n(data, 300).flatten().collect();
    anna.line.0.write_all(&heap).await.unwrap();
    until(&server, |counters| counters.decided.relayed + counters.decided.throttled == 300).await;
    // A hundred at once, and a few more for each hundredth of a second it took.
    assert!(server.counters().decided.throttled >= 1, "{:?}", server.counters());
    assert!(server.counters().decided.relayed >= 100, "{:?}", server.counters());
    server.shutdown().await;
}

#[tokio::test]
async fn hostile_bytes_end_connections_and_are_counted() {
    let server = start(with(|config| {
        config.most_connections_per_source = 2;
        config.stall = Duration::from_millis(50);
        config.idle = Duration::from_millis(50);
    }))
    .await;
    let address = server.local_addrs()[0];
    let (mut one, mut two) =
        (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    let mut three = TcpStream::connect(address).await.unwrap();
    assert!(is_closed(&mut one).await, "two from one source are enough");
    assert!(is_closed(&mut two).await && is_closed(&mut three).await, "who says nothing is in the way");
    until(&server, |counters| (counters.sockets.crowded, counters.sockets.stalled) == (1, 2)).await;
    let huge = [b"\0\x03\xff\xf0\x21\x12\xa4\x42".as_slice(), &[0; 100]].concat();
    let nonsense: [&[u8]; 3] = [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100], &huge];
    for (count, bytes) in (1..).zip(nonsense) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(is_closed(&mut stream).await, "{bytes:?}");
        until(&server, |counters| counters.sockets.garbage == count || counters.sockets.stalled > 2).await;
    }
    // ChannelData that never comes to an end.
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(&[0x40, 0, 0xff, 0xff, 1, 2, 3]).await.unwrap();
    assert!(is_closed(&mut slow).await);
    // Whatever comes as datagrams, the next who asks is answered.
    let mut anna = Client::new(socket(&server).await, credential(&server, "anna"));
    anna.allocate(&[UDP]).await;
    let mut seed = Seed::from_u64(5);
    let refresh = anna.request(Method::REFRESH, &[]);
    for round in 0..2_000u32 {
        let mut bytes = refresh.clone();
        let at = seed.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << (round % 8);
        bytes.truncate(seed.below(bytes.len() as u64 + 1) as usize);
        anna.line.send(&bytes).await.unwrap();
        if round % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut bert = tcp(&server, "bert").await;
    bert.allocate(&[UDP]).await;
    assert_eq!(server.held(), 2, "an allocation survives what others say");
    server.shutdown().await;
}

#[tokio::test]
async fn who_asks_too_often_unsigned_is_not_answered() {
    let server = start(with(|config| config.rate = Rate { per_second: 1, burst: 5 })).await;
    let socket = socket(&server).await;
    let mut seed = Seed::from_u64(1);
    for _ in 0..20 {
        let transaction = p2p_core::stun::TransactionId::new(&mut seed);
        let message = Message::new(Class::Request, Method::ALLOCATE, transaction).with(UDP);
        socket.send(&message.encode(Transport::Udp).unwrap()).await.unwrap();
    }
    until(&server, |counters| counters.decided.challenged + counters.decided.limited == 20).await;
    // One or two more tokens may have come while they were sent, on a slow machine.
    assert!((5..10).contains(&server.counters().decided.challenged), "{:?}", server.counters());
    server.shutdown().await;
}

#[tokio::test]
async fn nothing_is_left_after_the_end() {
    let server = start(on_loopback()).await;
    let listening = server.local_addrs().to_vec();
    let mut control = tcp(&server, "anna").await;
    let relayed = control.allocate(&[TCP]).await;
    let here = Attribute::XorPeerAddress("127.0.0.1:1".parse().unwrap());
    assert_eq!(control.code(Method::CREATE_PERMISSION, &[here]).await, 0);
    let mut peer = TcpStream::connect(relayed).await.unwrap();
    let id = connection_id(&control.hear().await);
    let mut data = fetch(&server, &control, id).await;
    let mut bert = Client::new(socket(&server).await, credential(&server, "bert"));
    let datagrams = bert.allocate(&[UDP]).await;
    timeout(PATIENCE, server.shutdown()).await.expect("an end");
    assert!(is_closed(&mut peer).await && is_closed(&mut data).await && is_closed(&mut control.line.0).await);
    // Every socket is gone: the same ports can be had again. Other tests here start programs, and between fork and
    // exec a child has copies of all our sockets; so it may take a moment.
    let again = timeout(PATIENCE, async {
        while UdpSocket::bind(datagrams).await.is_err() || TcpListener::bind(relayed).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        loop {
            match TurnServer::start(with(|config| config.listen = listening.clone())).await {
                Ok(server) => return server,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    });
    let again = again.await.expect("the ports again");
    // Dropped, it ends as well.
    let mut anna = tcp(&again, "anna").await;
    anna.allocate(&[UDP]).await;
    drop(again);
    assert!(is_closed(&mut anna.line.0).await);
}

#[tokio::test]
async fn what_cannot_be_is_named() {
    let server = start(on_loopback()).await;
    let taken = server.local_addrs()[0];
    let wrong =
        |change: fn(&mut TurnServerConfig)| async move { TurnServer::start(with(change)).await.unwrap_err() };
    let error = TurnServer::start(with(|config| config.listen = vec![taken])).await.unwrap_err();
    assert!(
        matches!(&error, TurnServerError::Listen { address, reason }
            if *address == taken && reason.kind() == ErrorKind::AddrInUse),
        "{error}"
    );
    assert!(matches!(wrong(|config| config.listen.clear()).await, TurnServerError::Nowhere));
    assert!(matches!(wrong(|config| config.secret = None).await, TurnServerError::Nobody));
    assert!(matches!(wrong(|config| config.realm.clear()).await, TurnServerError::Realm));
    assert!(matches!(wrong(|config| config.ports = 0..=9).await, TurnServerError::Ports(_)));
    #[allow(clippy::reversed_empty_ranges, reason = "that is the mistake")]
    let backwards = wrong(|config| config.ports = 9..=8).await;
    assert!(matches!(backwards, TurnServerError::Ports(_)));
    let unspecified = wrong(|config| config.listen = vec!["0.0.0.0:0".parse().unwrap()]).await;
    assert!(matches!(unspecified, TurnServerError::Relay(_)), "{unspecified}");
    for relay in [&["0.0.0.0"][..], &["192.0.2.1"], &["127.0.0.1", "127.0.0.2"]] {
        let relay = relay.iter().map(|ip| ip.parse().unwrap()).collect();
        let error = TurnServer::start(with(|config| config.relay = relay)).await.unwrap_err();
        assert!(matches!(error, TurnServerError::RelayAddress { .. }), "{error}");
    }
    let error = wrong(|config| {
        let file = || "/nonexistent.pem".into();
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.tls = Some(ServerTls { listen, certificate: file(), key: file() });
    })
    .await;
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
    // A range of one port is one allocation.
    let (socket, at) = peer().await;
    drop(socket);
    let small = start(with(|config| config.ports = at.port()..=at.port())).await;
    let mut anna = tcp(&small, "anna").await;
    let mut bert = tcp(&small, "bert").await;
    assert_eq!(anna.allocate(&[UDP]).await, at);
    assert_eq!(bert.code(Method::ALLOCATE, &[UDP]).await, 508);
    small.shutdown().await;
    server.shutdown().await;
}

/// Runs coturn's client against `server` and returns what it said last, or `None` when it is not installed and nobody
/// requires it.
async fn uclient(server: &TurnServer, arguments: &[&str]) -> Option<String> {
    let address = server.local_addrs()[0];
    let made = credential(server, "anna");
    let child = Command::new("turnutils_uclient")
        .args(arguments)
        .args(["-y", "-c", "-n", "30", "-z", "2", "-u", &made.username, "-w", &made.password])
        .args(["-p", &address.port().to_string(), &address.ip().to_string()])
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, child).await.expect("an end") {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) if std::env::var("P2P_LAB").as_deref() == Ok("require") => {
            panic!("turnutils_uclient is required and cannot be run: {error}")
        }
        Err(error) => {
            eprintln!("skipped: turnutils_uclient cannot be run ({error}); it comes with coturn");
            None
        }
    }
}

/// Two of coturn's clients speak to each other, by way of two allocations each.
async fn coturn_relays(arguments: &[&str]) {
    let server = start(on_loopback()).await;
    if let Some(said) = uclient(&server, arguments).await {
        assert!(said.contains("tot_send_msgs=60, tot_recv_msgs=60"), "{said}");
        assert!(said.contains("Total lost packets 0"), "{said}");
        assert!(server.counters().decided.allocations >= 2, "{:?}", server.counters());
    }
    server.shutdown().await;
}

#[tokio::test]
async fn the_client_of_coturn_on_channels_over_udp() {
    coturn_relays(&["-m", "2", "-l", "1000"]).await;
}

#[tokio::test]
async fn the_client_of_coturn_with_indications_over_udp() {
    coturn_relays(&["-m", "2", "-s"]).await;
}

#[tokio::test]
async fn the_client_of_coturn_on_channels_over_tcp() {
    coturn_relays(&["-m", "2", "-t", "-l", "333"]).await;
}

#[tokio::test]
async fn the_client_of_coturn_with_indications_over_tcp() {
    coturn_relays(&["-m", "2", "-t", "-s"]).await;
}

#[tokio::test]
async fn the_client_of_coturn_with_connections() {
    coturn_relays(&["-m", "2", "-T"]).await;
}
