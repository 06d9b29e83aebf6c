//! Stories of connections with peers (RFC 6062).

use std::net::SocketAddr;

use super::asker::{Served, TCP, TestClient, at, dialled, peer, reply};
use crate::Machine;
use crate::sim::laws::drain;
use crate::stun::wire::Parsed;
use crate::stun::{Attribute, Class, Method, Transport};
use crate::turn::allocation::ConnectionId;
use crate::turn::server::{Act, CONNECTION_LIFETIME};

/// A TCP allocation of anna's, and its relayed address.
fn tcp_allocation(server: &mut Served) -> (TestClient, SocketAddr) {
    let mut anna = TestClient::new("anna", "192.0.2.1:1", Transport::Tcp);
    let answer = anna.says(server, Method::ALLOCATE, &[TCP]);
    (anna, super::relayed(&answer).unwrap())
}

/// A second connection of the same user, and what became of its ConnectionBind.
fn bind_connection(server: &mut Served, name: &str, id: ConnectionId) -> Vec<Act> {
    let mut data = TestClient::new(name, "192.0.2.1:2", Transport::Tcp);
    data.react(server, Method::CONNECTION_BIND, &[Attribute::ConnectionId(id.0)])
}

fn refused(acts: &[Act]) -> u16 {
    Parsed::decode(reply(acts), Transport::Tcp).unwrap().message.error_code().expect("an error").0
}

fn is_joined(acts: &[Act], id: ConnectionId) -> bool {
    matches!(acts, [Act::Send { .. }, Act::Join { connection, .. }] if *connection == id)
}

#[test]
fn a_peer_is_dialled_and_handed_over_once() {
    let mut server = Served::new();
    let (mut anna, relayed) = tcp_allocation(&mut server);
    let near = [peer("8.8.8.1:9")];
    let acts = anna.react(&mut server, Method::CONNECT, &near);
    let id = dialled(&acts);
    assert!(matches!(acts[..], [Act::Dial { relayed: from, .. }] if from == relayed));
    assert_eq!(anna.code(&mut server, Method::CONNECT, &near), 446);
    assert_eq!(refused(&bind_connection(&mut server, "anna", id)), 400, "nobody has answered yet");
    server.relayer.handle_dialled(id, true, server.now);
    let acts = server.perform();
    let parsed = Parsed::decode(reply(&acts), Transport::Tcp).unwrap();
    assert!(parsed.verify(&anna.key()).is_ok());
    assert!(parsed.message.attributes.contains(&Attribute::ConnectionId(id.0)));
    assert_eq!(refused(&bind_connection(&mut server, "bert", id)), 400, "it is hers");
    assert_eq!(refused(&bind_connection(&mut server, "anna", ConnectionId(id.0 ^ 1))), 400);
    // The nonce of her first connection is good for the second, not for anything else there.
    let mut data = TestClient::new("anna", "192.0.2.1:2", Transport::Tcp);
    data.nonce = anna.nonce.clone();
    let refresh = data.request(Method::REFRESH, &[]);
    assert_eq!(refused(&server.ask(data.client, &data.sign(refresh))), 438);
    let bind = data.request(Method::CONNECTION_BIND, &[Attribute::ConnectionId(id.0)]);
    let joined = server.ask(data.client, &data.sign(bind));
    assert!(is_joined(&joined, id), "{joined:?}");
    assert_eq!(refused(&bind_connection(&mut server, "anna", id)), 400, "once");
    assert_eq!(server.relayer.account_of(id).as_deref(), Some("anna"));
    server.relayer.handle_parted(id);
    assert_eq!((server.relayer.account_of(id), server.relayer.connections.len()), (None, 0));
    dialled(&anna.react(&mut server, Method::CONNECT, &near));
}

#[test]
fn a_peer_that_does_not_answer_or_is_not_fetched() {
    let mut server = Served::new();
    let (mut anna, _) = tcp_allocation(&mut server);
    let near = [peer("8.8.8.1:9")];
    let id = dialled(&anna.react(&mut server, Method::CONNECT, &near));
    server.relayer.handle_dialled(id, false, server.now);
    assert_eq!(refused(&server.perform()), 447);
    assert_eq!(server.relayer.connections.len(), 0);
    // Nobody tells what became of it.
    let id = dialled(&anna.react(&mut server, Method::CONNECT, &near));
    server.pass(CONNECTION_LIFETIME.as_secs());
    server.relayer.handle_timeout(server.now);
    let acts = server.perform();
    assert!(matches!(acts[0], Act::Hang { connection } if connection == id), "{acts:?}");
    assert_eq!(refused(&acts[1..]), 447);
    server.relayer.handle_dialled(id, true, server.now);
    assert_eq!(server.perform(), [Act::Hang { connection: id }], "too late");
    let id = dialled(&anna.react(&mut server, Method::CONNECT, &near));
    server.relayer.handle_dialled(id, true, server.now);
    server.perform();
    assert_eq!(server.sweep(), Some(server.now + CONNECTION_LIFETIME));
    server.pass(CONNECTION_LIFETIME.as_secs());
    assert_eq!(
        refused(&bind_connection(&mut server, "anna", id)),
        400,
        "too late, whether or not somebody swept"
    );
    server.sweep();
    assert_eq!(server.relayer.connections.len(), 0);
    // The allocation ends while a peer is dialled.
    let id = dialled(&anna.react(&mut server, Method::CONNECT, &near));
    server.relayer.handle_gone(anna.client, server.now);
    assert!(server.perform().contains(&Act::Hang { connection: id }));
    assert_eq!((server.relayer.connections.len(), server.relayer.held()), (0, 0));
}

#[test]
fn a_peer_that_dials_is_announced_if_it_is_permitted() {
    let mut server = Served::new();
    let (mut anna, relayed) = tcp_allocation(&mut server);
    let near = at("8.8.8.1:9");
    assert_eq!(server.relayer.handle_accepted(relayed, near, server.now), None);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(near)]), 0);
    let id = server.relayer.handle_accepted(relayed, near, server.now).unwrap();
    let acts = server.perform();
    let told = Parsed::decode(reply(&acts), Transport::Tcp).unwrap().message;
    assert_eq!((told.class, told.method), (Class::Indication, Method::CONNECTION_ATTEMPT));
    assert!(told.attributes.contains(&Attribute::XorPeerAddress(near)));
    assert!(told.attributes.contains(&Attribute::ConnectionId(id.0)));
    let acts = bind_connection(&mut server, "anna", id);
    assert!(is_joined(&acts, id), "{acts:?}");
    // No channels, no datagrams here; and nothing of this where datagrams are relayed.
    let channel = [Attribute::ChannelNumber(0x4000), Attribute::XorPeerAddress(near)];
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &channel), 400);
    assert!(!server.goes_out(anna.client, "8.8.8.1:9"));
    let mut bert = TestClient::new("bert", "192.0.2.2:1", Transport::Udp);
    bert.allocate(&mut server);
    assert_eq!(bert.code(&mut server, Method::CONNECT, &[Attribute::XorPeerAddress(near)]), 437);
    let mut carl = TestClient::new("anna", "192.0.2.3:1", Transport::Udp);
    assert_eq!(carl.code(&mut server, Method::CONNECTION_BIND, &[Attribute::ConnectionId(1)]), 400);
    // There is an end to what may wait.
    let waiting = (0..100).filter(|port| {
        let from = SocketAddr::new(near.ip(), 100 + port);
        server.relayer.handle_accepted(relayed, from, server.now).is_some()
    });
    assert_eq!(waiting.count(), 31);
    // The allocation ends, and with it every connection.
    drain(&mut server.relayer);
    server.relayer.handle_gone(anna.client, server.now);
    let hung = server.perform().into_iter().filter(|act| matches!(act, Act::Hang { .. }));
    assert_eq!(hung.count(), 32);
}
