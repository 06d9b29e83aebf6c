//! Stories of connections with peers (RFC 6062).

use std::net::SocketAddr;

use crate::stun::wire::Parsed;
use crate::stun::{Attribute, Class, Method, Transport};

use super::allocation::CONNECTION;
use super::core::Reaction;
use super::story::{Asker, Server, TCP, at, goes_out, peer};

/// A TCP allocation of anna's.
fn tcp_allocation(server: &mut Server) -> Asker {
    let mut anna = Asker::new("anna", "192.0.2.1:1", Transport::Tcp);
    assert_eq!(anna.code(server, Method::ALLOCATE, &[TCP]), 0);
    anna
}

/// A second connection of the same user, and what became of its ConnectionBind.
fn bind_connection(server: &mut Server, name: &str, id: u32) -> Reaction<u16, &'static str> {
    let mut data = Asker::new(name, "192.0.2.1:2", Transport::Tcp);
    data.react(server, Method::CONNECTION_BIND, &[Attribute::ConnectionId(id)])
}

fn refused(reaction: Reaction<u16, &'static str>) -> u16 {
    let Reaction::Reply(bytes) = reaction else { panic!("{reaction:?}") };
    Parsed::decode(&bytes, Transport::Tcp).unwrap().message.error_code().expect("an error").0
}

#[test]
fn a_peer_is_dialled_and_handed_over_once() {
    let mut server = Server::new();
    let mut anna = tcp_allocation(&mut server);
    let near = [peer("198.51.100.1:9")];
    let Reaction::Dial { relay: 50_001, id, .. } = anna.react(&mut server, Method::CONNECT, &near) else {
        panic!()
    };
    assert_eq!(anna.code(&mut server, Method::CONNECT, &near), 446);
    assert_eq!(refused(bind_connection(&mut server, "anna", id)), 400, "nobody has answered yet");
    let bytes = server.core.handle_dialled(id, Some("the peer"), server.now).unwrap();
    let parsed = Parsed::decode(&bytes, Transport::Tcp).unwrap();
    assert!(parsed.verify(&anna.key()).is_ok());
    assert!(parsed.message.attributes.contains(&Attribute::ConnectionId(id)));
    assert_eq!(refused(bind_connection(&mut server, "bert", id)), 400, "it is hers");
    assert_eq!(refused(bind_connection(&mut server, "anna", id ^ 1)), 400);
    // The nonce of her first connection is good for the second, not for anything else there.
    let mut data = Asker::new("anna", "192.0.2.1:2", Transport::Tcp);
    data.nonce = anna.nonce.clone();
    let refresh = data.request(Method::REFRESH, &[]);
    assert_eq!(refused(server.ask(data.client, &data.sign(refresh))), 438);
    let bind = data.request(Method::CONNECTION_BIND, &[Attribute::ConnectionId(id)]);
    let joined = server.ask(data.client, &data.sign(bind));
    assert!(matches!(joined, Reaction::Join { stream: "the peer", relay: 50_001, .. }), "{joined:?}");
    assert_eq!(refused(bind_connection(&mut server, "anna", id)), 400, "once");
    assert_eq!(server.core.account_of(id).as_deref(), Some("anna"));
    server.core.handle_parted(id);
    assert_eq!((server.core.account_of(id), server.core.owners.len()), (None, 0));
    assert!(matches!(anna.react(&mut server, Method::CONNECT, &near), Reaction::Dial { .. }), "and again");
}

#[test]
fn a_peer_that_does_not_answer_or_is_not_fetched() {
    let mut server = Server::new();
    let mut anna = tcp_allocation(&mut server);
    let near = [peer("198.51.100.1:9")];
    let Reaction::Dial { id, .. } = anna.react(&mut server, Method::CONNECT, &near) else { panic!() };
    let bytes = server.core.handle_dialled(id, None, server.now).unwrap();
    let answer = Parsed::decode(&bytes, Transport::Tcp).unwrap().message;
    assert_eq!(answer.error_code().map(|(code, _)| code), Some(447));
    assert_eq!(server.core.owners.len(), 0);
    let Reaction::Dial { id, .. } = anna.react(&mut server, Method::CONNECT, &near) else { panic!() };
    server.core.handle_dialled(id, Some("the peer"), server.now).unwrap();
    assert_eq!(server.core.sweep(server.now), Some(server.now + CONNECTION));
    server.pass(CONNECTION.as_secs());
    assert_eq!(
        refused(bind_connection(&mut server, "anna", id)),
        400,
        "too late, whether or not somebody swept"
    );
    server.core.sweep(server.now);
    assert_eq!(server.core.owners.len(), 0);
    // The allocation ends while a peer is dialled.
    let Reaction::Dial { id, .. } = anna.react(&mut server, Method::CONNECT, &near) else { panic!() };
    server.core.handle_gone(anna.client, server.now);
    assert_eq!(server.core.handle_dialled(id, Some("the peer"), server.now), None);
    assert_eq!((server.core.owners.len(), server.core.held()), (0, 0));
}

#[test]
fn a_peer_that_dials_is_announced_if_it_is_permitted() {
    let mut server = Server::new();
    let mut anna = tcp_allocation(&mut server);
    let near = at("198.51.100.1:9");
    assert_eq!(server.core.handle_accepted(anna.client, near, "early", server.now), None);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(near)]), 0);
    let bytes = server.core.handle_accepted(anna.client, near, "the peer", server.now).unwrap();
    let told = Parsed::decode(&bytes, Transport::Tcp).unwrap().message;
    assert_eq!((told.class, told.method), (Class::Indication, Method::CONNECTION_ATTEMPT));
    assert!(told.attributes.contains(&Attribute::XorPeerAddress(near)));
    let id = told.find(|attribute| match attribute {
        Attribute::ConnectionId(id) => Some(*id),
        _ => None,
    });
    let reaction = bind_connection(&mut server, "anna", id.unwrap());
    assert!(matches!(reaction, Reaction::Join { stream: "the peer", .. }), "{reaction:?}");
    // No channels, no datagrams here; and nothing of this where datagrams are relayed.
    let channel = [Attribute::ChannelNumber(0x4000), Attribute::XorPeerAddress(near)];
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &channel), 400);
    assert!(!goes_out(&mut server, anna.client, "198.51.100.1:9"));
    let mut bert = Asker::new("bert", "192.0.2.2:1", Transport::Udp);
    bert.allocate(&mut server);
    assert_eq!(bert.code(&mut server, Method::CONNECT, &[Attribute::XorPeerAddress(near)]), 437);
    let mut carl = Asker::new("anna", "192.0.2.3:1", Transport::Udp);
    assert_eq!(carl.code(&mut server, Method::CONNECTION_BIND, &[Attribute::ConnectionId(1)]), 400);
    // There is an end to what may wait.
    let waiting = (0..100).filter(|port| {
        server
            .core
            .handle_accepted(anna.client, SocketAddr::new(near.ip(), 100 + port), "more", server.now)
            .is_some()
    });
    assert_eq!(waiting.count(), 31);
}
