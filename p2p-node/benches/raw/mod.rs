//! A TURN server used without any of our own client, by plain sockets.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use p2p_core::stun::{Attribute, Method};
use p2p_node::rendezvous::turn::Credential;

use crate::turn::{Client, Stream, TCP, UDP, connection_id};

/// The number of the client's channel to its peer.
pub(crate) const CHANNEL: u16 = 0x4000;

/// Returns a client's socket with a channel to a peer's socket, and the address that the peer sends to.
pub(crate) async fn channel(server: SocketAddr, credential: &Credential) -> ([UdpSocket; 2], SocketAddr) {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(server).await.expect("a socket");
    let mut client = Client::new(socket, credential.clone());
    let relayed = client.allocate(&[UDP]).await;
    client.bind(CHANNEL, peer.local_addr().expect("an address")).await;
    ([client.line.into_std().expect("a socket"), peer], relayed)
}

/// Returns a connection by way of a TCP allocation, with the client that keeps it.
pub(crate) async fn connection(
    server: SocketAddr,
    credential: &Credential,
) -> ([TcpStream; 2], Client<Stream<tokio::net::TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let peer = Attribute::XorPeerAddress(listener.local_addr().expect("an address"));
    let line = async || Stream(tokio::net::TcpStream::connect(server).await.expect("a connection"));
    let mut control = Client::new(line().await, credential.clone());
    control.allocate(&[TCP]).await;
    let permitted = control.code(Method::CREATE_PERMISSION, std::slice::from_ref(&peer)).await;
    assert_eq!(permitted, 0, "a permission");
    let answer = control.ask(Method::CONNECT, &[peer]).await;
    let mut data = control.beside(line().await);
    let id = Attribute::ConnectionId(connection_id(&answer));
    assert_eq!(data.code(Method::CONNECTION_BIND, &[id]).await, 0, "a connection");
    let client = data.line.0.into_std().expect("a connection");
    client.set_nonblocking(false).expect("a connection");
    ([client, listener.accept().expect("a connection").0], control)
}
