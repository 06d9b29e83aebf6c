//! Somebody who asks a TURN server, over real sockets, one question after the other.
#![allow(dead_code, reason = "not every test does everything")]

use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::Seed;
use p2p_core::stun::frame::Framer;
use p2p_core::stun::wire::{Algorithm, Ending, Key, Parsed};
use p2p_core::stun::{Attribute, Class, Message, Method, TransactionId, Transport};
use p2p_node::rendezvous::turn::{Credential, TurnServer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Long enough for the slowest machine; never waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const UDP: Attribute = Attribute::RequestedTransport(17);
pub(crate) const TCP: Attribute = Attribute::RequestedTransport(6);

/// What carries the messages of a client.
pub(crate) trait Line {
    const TRANSPORT: Transport;
    async fn put(&mut self, bytes: &[u8]);
    /// The next STUN message.
    async fn message(&mut self) -> Vec<u8>;
}

impl Line for UdpSocket {
    const TRANSPORT: Transport = Transport::Udp;

    async fn put(&mut self, bytes: &[u8]) {
        self.send(bytes).await.unwrap();
    }

    async fn message(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let length = timeout(PATIENCE, self.recv(&mut buffer)).await.expect("an answer").unwrap();
        buffer.truncate(length);
        buffer
    }
}

/// A connection, with or without TLS.
pub(crate) struct Stream<T>(pub(crate) T);

impl<T: AsyncRead + AsyncWrite + Unpin> Line for Stream<T> {
    const TRANSPORT: Transport = Transport::Tcp;

    async fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn message(&mut self) -> Vec<u8> {
        let mut framer = Framer::default();
        loop {
            // One byte at a time: what follows the message may be something else.
            let byte = timeout(PATIENCE, self.0.read_u8()).await.expect("an answer").unwrap();
            if let Some(message) = framer.feed(&mut &[byte][..]).unwrap() {
                return message;
            }
        }
    }
}

/// Somebody with a credential.
pub(crate) struct Client<L> {
    pub(crate) line: L,
    credential: Credential,
    nonce: String,
    dice: Seed,
}

/// A socket towards the first address of `server`.
pub(crate) async fn socket(server: &TurnServer) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.local_addrs()[0]).await.unwrap();
    socket
}

pub(crate) fn credential(server: &TurnServer, name: &str) -> Credential {
    server.credential(name, Duration::from_secs(600)).unwrap()
}

impl<L: Line> Client<L> {
    pub(crate) fn new(line: L, credential: Credential) -> Self {
        // Each asks in words of his own.
        let dice = Seed::from_u64(
            credential.password.bytes().fold(0, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte)),
        );
        Self { line, credential, nonce: "unknown".into(), dice }
    }

    /// The same client on one more line: with the same credential, or it would be somebody else, and the same nonce.
    pub(crate) fn beside(&self, line: L) -> Self {
        let beside = Self::new(line, self.credential.clone());
        Self { nonce: self.nonce.clone(), ..beside }
    }

    pub(crate) fn request(&mut self, method: Method, attributes: &[Attribute]) -> Vec<u8> {
        let mut message = Message::new(Class::Request, method, TransactionId::new(&mut self.dice));
        message.attributes = attributes.to_vec();
        let Credential { username, password, .. } = &self.credential;
        let message = message
            .with(Attribute::Username(username.clone()))
            .with(Attribute::Realm("p2p".into()))
            .with(Attribute::Nonce(self.nonce.clone()));
        let key = Key::long_term(username, "p2p", password);
        let ending = Ending { signature: Some((Algorithm::Sha1, &key)), fingerprint: false };
        message.encode_with(L::TRANSPORT, ending).unwrap()
    }

    /// Asks, again if the nonce is not the right one.
    pub(crate) async fn ask(&mut self, method: Method, attributes: &[Attribute]) -> Message {
        loop {
            let request = self.request(method, attributes);
            self.line.put(&request).await;
            let answer = self.hear().await;
            if answer.error_code().is_none_or(|(code, _)| code != 438) {
                return answer;
            }
            self.nonce = answer
                .find(|attribute| match attribute {
                    Attribute::Nonce(nonce) => Some(nonce.clone()),
                    _ => None,
                })
                .expect("a nonce");
        }
    }

    pub(crate) async fn hear(&mut self) -> Message {
        let bytes = self.line.message().await;
        Parsed::decode(&bytes, L::TRANSPORT).unwrap().message
    }

    /// The error code, or 0 for a success.
    pub(crate) async fn code(&mut self, method: Method, attributes: &[Attribute]) -> u16 {
        self.ask(method, attributes).await.error_code().map_or(0, |(code, _)| code)
    }

    /// Allocates, and returns the relayed address.
    pub(crate) async fn allocate(&mut self, attributes: &[Attribute]) -> SocketAddr {
        let answer = self.ask(Method::ALLOCATE, attributes).await;
        let relayed = answer.find(|attribute| match attribute {
            Attribute::XorRelayedAddress(relayed) => Some(*relayed),
            _ => None,
        });
        relayed.unwrap_or_else(|| panic!("{answer:?}"))
    }

    /// Calls a peer by a number.
    pub(crate) async fn bind(&mut self, number: u16, peer: SocketAddr) {
        let attributes = [Attribute::ChannelNumber(number), Attribute::XorPeerAddress(peer)];
        assert_eq!(self.code(Method::CHANNEL_BIND, &attributes).await, 0);
    }
}

/// ChannelData, filled up as on a stream.
pub(crate) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn connection_id(message: &Message) -> u32 {
    let id = message.find(|attribute| match attribute {
        Attribute::ConnectionId(id) => Some(*id),
        _ => None,
    });
    id.unwrap_or_else(|| panic!("{message:?}"))
}
