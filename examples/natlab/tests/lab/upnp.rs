//! Tests with a real miniupnpd on a real Linux router.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::support::{can_run, lab};

/// The most questions until an answer. A datagram may be lost, and a daemon on a busy machine may not listen yet.
/// Both protocols say to ask again (RFC 6886, section 3.1; UPnP Device Architecture 1.1, section 1.3.2).
const TRIES: usize = 20;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Asks until there is an answer.
fn ask(socket: &UdpSocket, question: &[u8], whom: &str, answer: &mut [u8]) -> (usize, SocketAddr) {
    socket.set_read_timeout(Some(AGAIN_AFTER)).unwrap();
    let mut tries = (0..TRIES).map(|_| {
        socket.send_to(question, whom).unwrap();
        socket.recv_from(answer)
    });
    tries.find_map(Result::ok).expect("an answer")
}

#[test]
fn a_mapped_port_can_be_dialled_from_outside() {
    if !can_run() {
        return;
    }
    let lab = lab("upnp?rtt=4ms");
    let (a, s) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let listener = a.enter(|| TcpListener::bind("0.0.0.0:5000")).unwrap().unwrap();
    let mapped: SocketAddr = "45.2.0.1:5000".parse().unwrap();
    let dial = || TcpStream::connect_timeout(&mapped, Duration::from_millis(500));
    assert!(s.enter(dial).unwrap().is_err(), "not open yet");

    // This is NAT-PMP (RFC 6886, section 3.3), and maps TCP 5000 to 5000 for an hour.
    let socket = a.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let mut answer = [0; 32];
    let map = [0, 2, 0, 0, 0x13, 0x88, 0x13, 0x88, 0, 0, 0x0e, 0x10];
    let (length, _) = ask(&socket, &map, "192.168.1.1:5351", &mut answer);
    assert_eq!(
        (length, &answer[..4], &answer[8..12]),
        (16, &[0, 130, 0, 0][..], &[0x13, 0x88, 0x13, 0x88][..])
    );

    let stream = s.enter(dial).unwrap().unwrap();
    let (_, from) = listener.accept().unwrap();
    assert_eq!(from, stream.local_addr().unwrap(), "nobody translates the server");
}

#[test]
fn the_router_answers_a_search_by_multicast() {
    if !can_run() {
        return;
    }
    let lab = lab("upnp?rtt=4ms");
    let a = lab.host("a").unwrap();
    let socket = a.enter(|| UdpSocket::bind((Ipv4Addr::new(192, 168, 1, 2), 0))).unwrap().unwrap();
    let search = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
                  ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
    let mut answer = [0; 1_500];
    let (length, from) = ask(&socket, search.as_bytes(), "239.255.255.250:1900", &mut answer);
    assert_eq!(from.ip(), Ipv4Addr::new(192, 168, 1, 1));
    assert!(String::from_utf8_lossy(&answer[..length]).starts_with("HTTP/1.1 200 OK"));
}
