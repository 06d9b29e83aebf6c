//! The STUN server over real sockets of the loopback interface, and asked by coturn's clients.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::nat::SynAnswer;
use p2p_core::rate::Rate;
use p2p_core::stun::dial_back::SynOutcome;
use p2p_core::stun::wire::Parsed;
use p2p_core::stun::{Attribute, Message, Transport};
use p2p_node::rendezvous::stun::{StunServer, StunServerConfig, StunServerCounters, StunServerError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::timeout;

/// Far longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn start(config: StunServerConfig) -> StunServer {
    StunServer::start(config).await.unwrap()
}

fn on_loopback() -> StunServerConfig {
    StunServerConfig::new(addresses(&["127.0.0.1:0"]))
}

fn request(number: u64) -> Message {
    Message::binding(&mut Seed::from_u64(number))
}

async fn ask_udp(server: SocketAddr, message: &Message) -> (Message, SocketAddr, SocketAddr) {
    let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).await.unwrap();
    let bytes = message.encode(Transport::Udp).unwrap();
    socket.send_to(&bytes, server).await.unwrap();
    let mut buffer = [0; 1_500];
    let received = timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
    let (length, from) = received.expect("an answer").unwrap();
    let parsed = Parsed::decode(&buffer[..length], Transport::Udp).unwrap();
    assert_eq!(parsed.message.transaction, message.transaction);
    (parsed.message, from, socket.local_addr().unwrap())
}

async fn read_message(stream: &mut TcpStream) -> Message {
    let mut bytes = vec![0; 20];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("an answer").unwrap();
    bytes.resize(20 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 0);
    timeout(PATIENCE, stream.read_exact(&mut bytes[20..])).await.expect("the rest").unwrap();
    Parsed::decode(&bytes, Transport::Tcp).unwrap().message
}

/// Waits until the server closes the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64];
    match timeout(PATIENCE, stream.read(&mut buffer)).await {
        Ok(Ok(length)) => length == 0,
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionReset,
        Err(_) => false,
    }
}

/// Waits until the counters are as wanted.
async fn until(server: &StunServer, wanted: impl Fn(StunServerCounters) -> bool) {
    let reached = timeout(PATIENCE, async {
        while !wanted(server.counters()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(reached.await.is_ok(), "{:?}", server.counters());
}

#[tokio::test]
async fn it_answers_over_udp_and_tcp_in_both_families() {
    let server = start(StunServerConfig::new(addresses(&["127.0.0.1:0", "[::1]:0"]))).await;
    let listening = server.local_addrs();
    assert_eq!(listening.len(), 2);
    for address in &listening {
        assert_ne!(address.port(), 0);
        let (answer, from, local) = ask_udp(*address, &request(1)).await;
        assert_eq!((answer.mapped(), from), (Some(local), *address));

        let mut stream = TcpStream::connect(address).await.unwrap();
        let local = stream.local_addr().unwrap();
        // Three questions in pieces of seven bytes: three answers, in order.
        let questions: Vec<_> = (1..4).map(request).collect();
        let bytes = questions.iter().flat_map(|question| question.encode(Transport::Tcp).unwrap());
        for piece in bytes.collect::<Vec<_>>().chunks(7) {
            stream.write_all(piece).await.unwrap();
        }
        for question in questions {
            let answer = read_message(&mut stream).await;
            assert_eq!((answer.transaction, answer.mapped()), (question.transaction, Some(local)));
        }
    }
    assert_eq!(server.counters().answered, 8);
    server.shutdown().await;
    // Every socket is gone: the same ports can be had again. Other tests here start programs, and between fork and
    // exec a child has copies of all our sockets; so it may take a moment.
    let again = timeout(PATIENCE, async {
        loop {
            match StunServer::start(StunServerConfig::new(listening.clone())).await {
                Ok(server) => return server,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    });
    let again = again.await.expect("the ports again");
    assert_eq!(again.local_addrs(), listening);
    again.shutdown().await;
}

/// Only Linux has all of 127.0.0.0/8 on its loopback without being told.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_an_alternate_it_answers_from_where_it_is_asked_to() {
    let config = StunServerConfig { alternate: addresses(&["127.0.0.2:0"]), ..on_loopback() };
    let server = start(config).await;
    let primary = server.local_addrs()[0];
    let other = ask_udp(primary, &request(1)).await.0.other_address().unwrap();
    assert_eq!(other.ip().to_string(), "127.0.0.2");
    assert_ne!(other.port(), primary.port());
    for (ip, port) in [(true, true), (true, false), (false, true)] {
        let change = request(2).with(Attribute::ChangeRequest { ip, port });
        let (answer, from, local) = ask_udp(primary, &change).await;
        let expected = SocketAddr::new(
            if ip { other.ip() } else { primary.ip() },
            if port { other.port() } else { primary.port() },
        );
        assert_eq!((from, answer.mapped()), (expected, Some(local)));
        assert!(answer.attributes.contains(&Attribute::ResponseOrigin(expected)));
    }
    // The second address serves TCP as well.
    let mut stream = TcpStream::connect(other).await.unwrap();
    let question = request(3).encode(Transport::Tcp).unwrap();
    stream.write_all(&question).await.unwrap();
    assert!(read_message(&mut stream).await.mapped().is_some());
    server.shutdown().await;
}

#[tokio::test]
async fn who_asks_too_often_is_not_answered() {
    let config = StunServerConfig { rate: Rate { per_second: 1, burst: 5 }, ..on_loopback() };
    let server = start(config).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for number in 0..20 {
        let bytes = request(number).encode(Transport::Udp).unwrap();
        socket.send_to(&bytes, server.local_addrs()[0]).await.unwrap();
    }
    until(&server, |counters| counters.answered + counters.limited == 20).await;
    let counters = server.counters();
    // One or two more tokens may have come while they were sent, on a slow machine.
    assert!((5..10).contains(&counters.answered), "{counters:?}");
    server.shutdown().await;
}

/// All nodes of a home come from one address, and each probes its network with 40 packets.
#[tokio::test]
async fn a_home_of_twenty_nodes_is_answered_beside_one_that_floods() {
    let server = start(on_loopback()).await;
    let at = server.local_addrs()[0];
    let flooder = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let question = request(0).encode(Transport::Udp).unwrap();
    for round in 1..=20 {
        for _ in 0..50 {
            flooder.send_to(&question, at).await.unwrap();
        }
        // The socket of the server has room for so many.
        until(&server, |counters| counters.answered + counters.limited == 50 * round).await;
    }
    assert!(server.counters().limited >= 500, "{:?}", server.counters());
    for node in 0..20 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for number in 0..40 {
            let question = request(node * 40 + number).encode(Transport::Udp).unwrap();
            socket.send_to(&question, at).await.unwrap();
        }
        for _ in 0..40 {
            timeout(PATIENCE, socket.recv(&mut [0; 256])).await.expect("an answer").unwrap();
        }
    }
    server.shutdown().await;
}

/// Over a connection a question is never dropped: it waits.
#[tokio::test]
async fn who_asks_too_often_over_a_connection_waits() {
    let config = StunServerConfig { rate: Rate { per_second: 50, burst: 5 }, ..on_loopback() };
    let server = start(config).await;
    let mut stream = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let questions: Vec<_> = (0..20).map(request).collect();
    let all: Vec<u8> = questions.iter().flat_map(|asked| asked.encode(Transport::Tcp).unwrap()).collect();
    stream.write_all(&all).await.unwrap();
    for question in questions {
        assert_eq!(read_message(&mut stream).await.transaction, question.transaction);
    }
    assert_eq!((server.counters().answered, server.counters().limited), (20, 0));
    server.shutdown().await;
}

#[tokio::test]
async fn garbage_and_crowds_and_silence_end_tcp_connections() {
    let config = StunServerConfig {
        most_per_source: 2,
        idle: Duration::from_secs(3_600),
        stall: Duration::from_millis(50),
        ..on_loopback()
    };
    let server = start(config).await;
    let address = server.local_addrs()[0];
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    until(&server, |counters| counters.connections == 2).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    assert!(is_closed(&mut first).await, "two from one source are enough");
    until(&server, |counters| (counters.connections, counters.crowded) == (3, 1)).await;

    third.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut third).await, "it does not speak HTTP");
    until(&server, |counters| counters.garbage == 1).await;

    // Half a message and then nothing.
    let bytes = request(1).encode(Transport::Tcp).unwrap();
    second.write_all(&bytes[..10]).await.unwrap();
    assert!(is_closed(&mut second).await, "a message must come in time");
    until(&server, |counters| counters.stalled == 1).await;

    // And there is room again.
    let mut fourth = TcpStream::connect(address).await.unwrap();
    fourth.write_all(&bytes).await.unwrap();
    assert!(read_message(&mut fourth).await.mapped().is_some());
    server.shutdown().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let config = StunServerConfig { idle: Duration::from_millis(50), ..on_loopback() };
    let server = start(config).await;
    let mut stream = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    assert!(is_closed(&mut stream).await);
    until(&server, |counters| counters.stalled == 1).await;
    server.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_named() {
    let server = start(on_loopback()).await;
    let taken = server.local_addrs()[0];
    let error = StunServer::start(StunServerConfig::new([taken])).await.unwrap_err();
    assert!(
        matches!(&error, StunServerError::Listen { address, reason }
            if *address == taken && reason.kind() == ErrorKind::AddrInUse),
        "{error}"
    );
    for alternate in ["127.0.0.1:9", "[::1]:9"] {
        let config = StunServerConfig { alternate: addresses(&[alternate]), ..on_loopback() };
        let error = StunServer::start(config).await.unwrap_err();
        assert!(matches!(error, StunServerError::Alternate(_)), "{error}");
    }
    let error = StunServer::start(StunServerConfig::new([])).await.unwrap_err();
    assert!(matches!(error, StunServerError::Nowhere));
    server.shutdown().await;
}

/// Runs a client of coturn, or `None` when it is not installed and nobody requires it.
async fn coturn(program: &str, arguments: &[&str], server: SocketAddr) -> Option<String> {
    let child = Command::new(program)
        .args(arguments)
        .args(["-p", &server.port().to_string(), &server.ip().to_string()])
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, child).await.expect("an end") {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) if std::env::var("P2P_LAB").as_deref() == Ok("require") => {
            panic!("{program} is required and cannot be run: {error}")
        }
        Err(error) => {
            eprintln!("skipped: {program} cannot be run ({error}); it comes with coturn");
            None
        }
    }
}

#[tokio::test]
async fn the_client_of_coturn_understands_it() {
    // Without an alternate: with one it goes on to RESPONSE-PORT, is refused, and waits on the other port for ever.
    let server = start(StunServerConfig::new(addresses(&["127.0.0.1:0", "[::1]:0"]))).await;
    for (address, expected) in
        server.local_addrs().into_iter().zip(["reflexive addr: 127.0.0.1:", "reflexive addr: ::1:"])
    {
        if let Some(said) = coturn("turnutils_stunclient", &[], address).await {
            assert!(said.contains(expected), "{said}");
        }
    }
    server.shutdown().await;
}

/// Only Linux has all of 127.0.0.0/8 on its loopback without being told.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_nat_discovery_of_coturn_comes_to_the_right_end() {
    let config = StunServerConfig { alternate: addresses(&["127.0.0.2:0"]), ..on_loopback() };
    let server = start(config).await;
    let primary = server.local_addrs()[0];
    if let Some(said) = coturn("turnutils_natdiscovery", &["-m", "-f"], primary).await {
        assert!(said.contains("NAT with Endpoint Independent Mapping!"), "{said}");
        assert!(said.contains("NAT with Endpoint Independent Filtering!"), "{said}");
        assert!(said.contains("Response origin: : 127.0.0.2:"), "{said}");
    }
    server.shutdown().await;
}

/// Asks over TCP from `stream` to be dialled back.
async fn dialled_back(stream: &mut TcpStream, number: u64) -> Message {
    let request = request(number).with(Attribute::DialBack(500)).encode(Transport::Tcp).unwrap();
    stream.write_all(&request).await.unwrap();
    read_message(stream).await
}

#[tokio::test]
async fn it_dials_the_address_a_connection_comes_from_and_no_other_and_not_often() {
    let mut config = on_loopback();
    config.alternate = addresses(&["127.0.0.2:0"]);
    let server = start(config).await;
    let at = server.local_addrs()[0];
    let socket = || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket
    };
    // Nobody listens where it comes from.
    let first = socket();
    first.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut stream = first.connect(at).await.unwrap();
    let here = stream.local_addr().unwrap();
    let refused = SynOutcome::Kept(SynAnswer::Reset);
    let told = dialled_back(&mut stream, 1).await;
    assert_eq!((told.dialled_back(), told.mapped()), (Some((refused, refused)), Some(here)));
    assert!(told.dial_back().is_some(), "it offers to do so");
    drop(stream);
    // Somebody does: both of the server's addresses come, each from a port of its own.
    let listening = socket();
    listening.set_reuseport(true).unwrap();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let here = listening.local_addr().unwrap();
    let listener = listening.listen(8).unwrap();
    let second = socket();
    second.set_reuseport(true).unwrap();
    second.bind(here).unwrap();
    let mut stream = second.connect(at).await.unwrap();
    let told = dialled_back(&mut stream, 2).await;
    assert_eq!(told.dialled_back(), Some((SynOutcome::Connected, SynOutcome::Connected)));
    let mut came = Vec::new();
    for _ in 0..2 {
        let (_, from) = timeout(PATIENCE, listener.accept()).await.expect("somebody came").unwrap();
        assert_ne!(from.port(), at.port());
        came.push(from.ip().to_string());
    }
    came.sort();
    assert_eq!(came, ["127.0.0.1", "127.0.0.2"]);
    // It does not go on for ever.
    let mut unavailable = false;
    for number in 3..20 {
        let told = dialled_back(&mut stream, number).await.dialled_back();
        unavailable |= told == Some((SynOutcome::Unavailable, SynOutcome::Unavailable));
    }
    assert!(unavailable);
    assert_eq!(server.counters().dialled, 19);
    server.shutdown().await;
}
