//! Stories of clients, told to the tables.

use std::net::SocketAddr;
use std::time::Duration;

use crate::stun::wire::{Algorithm, Ending, Parsed};
use crate::stun::{Attribute, Method, PasswordAlgorithm, Transport};
use crate::{Family, Seed};
use hmac::{Hmac, Mac};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::allocation::{CHANNEL, PERMISSION};
use super::auth::Refusal;
use super::core::{At, Client, Reaction};
use super::nonce::Nonces;
use super::story::{Asker, BEGIN, END, Server, TCP, UDP, at, goes_out, lifetime, peer, relayed};

#[test]
fn whoever_asks_unsigned_is_told_how_to_sign() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    let unsigned = anna.request(Method::ALLOCATE, &[UDP]).encode(Transport::Udp).unwrap();
    let Reaction::Reply(bytes) = server.ask(anna.client, &unsigned) else { panic!() };
    let told = Parsed::decode(&bytes, Transport::Udp).unwrap();
    assert_eq!(told.message.error_code(), Some((401, "Unauthorized")));
    assert!(told.algorithm().is_none());
    assert!(told.message.attributes.contains(&Attribute::Realm("realm".into())));
    anna.learn(&told.message);
    let answer = anna.says(&mut server, Method::ALLOCATE, &[UDP]);
    assert_eq!(
        (relayed(&answer), answer.mapped()),
        (Some(at("203.0.113.1:50001")), Some(anna.client.remote))
    );
    assert_eq!(lifetime(&answer), Some(600));
    let mut bert = Asker { sha256: true, ..Asker::new("bert", "192.0.2.2:1", Transport::Udp) };
    assert_eq!(bert.allocate(&mut server), at("203.0.113.1:50002"));
}

#[test]
fn whoever_signs_badly_gets_nothing() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    anna.password.push('x');
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[UDP]), 401);
    anna = Asker { username: "nobody".into(), ..Asker::anna() };
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[UDP]), 401);
    // A nonce is good at the address it was given to.
    let mut bert = Asker::new("anna", "192.0.2.1:4001", Transport::Udp);
    bert.nonce = anna.nonce.clone();
    let message = bert.request(Method::ALLOCATE, &[UDP]);
    let Reaction::Reply(bytes) = server.ask(bert.client, &bert.sign(message)) else { panic!() };
    let told = Parsed::decode(&bytes, Transport::Udp).unwrap().message;
    assert_eq!(told.error_code(), Some((438, "Stale Nonce")));
    // Signed, but without saying by whom or for which realm.
    let message = bert.request(Method::ALLOCATE, &[UDP]);
    let ending = Ending { signature: Some((Algorithm::Sha1, &bert.key())), fingerprint: false };
    let bytes = message.encode_with(Transport::Udp, ending).unwrap();
    let Reaction::Reply(bytes) = server.ask(bert.client, &bytes) else { panic!() };
    let told = Parsed::decode(&bytes, Transport::Udp).unwrap().message;
    assert_eq!(told.error_code().map(|(code, _)| code), Some(400));
    // Somebody in between struck the better algorithm out.
    let weak = [1].map(|number| PasswordAlgorithm { number, parameters: vec![] });
    let struck =
        [Attribute::PasswordAlgorithms(weak.to_vec()), Attribute::PasswordAlgorithm(weak[0].clone())];
    assert_eq!(Asker::anna().code(&mut server, Method::ALLOCATE, &struck), 400);
    assert_eq!((server.core.held(), server.core.sessions.len()), (0, 0));
}

#[test]
fn an_old_nonce_is_replaced_whatever_is_asked() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    anna.allocate(&mut server);
    let methods: [(Method, &[Attribute]); 3] = [
        (Method::REFRESH, &[Attribute::Lifetime(3_600)]),
        (Method::CREATE_PERMISSION, &[peer("198.51.100.1:9")]),
        (Method::CHANNEL_BIND, &[peer("198.51.100.1:9"), Attribute::ChannelNumber(0x4000)]),
    ];
    for (method, attributes) in methods {
        let before = anna.nonce.clone();
        let mut now = Asker { nonce: "old".into(), dice: Seed::from_u64(9), ..Asker::anna() };
        let message = now.request(method, attributes);
        let Reaction::Reply(bytes) = server.ask(now.client, &now.sign(message)) else { panic!() };
        let told = Parsed::decode(&bytes, Transport::Udp).unwrap().message;
        assert_eq!(told.error_code().map(|(code, _)| code), Some(438));
        assert_eq!(anna.code(&mut server, method, attributes), 0);
        assert_eq!(anna.nonce, before, "it was still good");
    }
    server.pass(3_000);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[Attribute::Lifetime(3_600)]), 0);
    let before = anna.nonce.clone();
    server.pass(601);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
    assert_ne!(anna.nonce, before, "an hour is enough");
}

#[test]
fn a_credential_ends_but_what_was_allocated_in_time_goes_on() {
    let mut server = Server::new();
    server.pass(3_599);
    let mut late = Asker::anna().until("anna", 3_600);
    late.allocate(&mut server);
    server.pass(1);
    let mut later = Asker::new("anna", "192.0.2.1:4002", Transport::Udp).until("anna", 3_600);
    let refusal = later.says(&mut server, Method::ALLOCATE, &[UDP]);
    assert_eq!(refusal.error_code(), Some((401, Refusal::EXPIRED.reason)));
    assert!(refusal.attributes.contains(&Attribute::Realm("realm".into())));
    assert_eq!(late.code(&mut server, Method::REFRESH, &[]), 0);
    assert_eq!(late.code(&mut server, Method::CREATE_PERMISSION, &[peer("198.51.100.1:9")]), 0);
    assert_eq!(server.core.counters.expired, 1);
}

#[test]
fn an_allocation_lasts_as_long_as_it_is_refreshed() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    let long = anna.says(&mut server, Method::ALLOCATE, &[UDP, Attribute::Lifetime(1)]);
    assert_eq!(lifetime(&long), Some(600), "not less than the usual");
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[UDP]), 437, "one is enough");
    let longest = anna.says(&mut server, Method::REFRESH, &[Attribute::Lifetime(u32::MAX)]);
    assert_eq!(lifetime(&longest), Some(3_600));
    server.pass(3_599);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
    assert_eq!(server.core.sweep(server.now), Some(server.now + Duration::from_secs(600)));
    server.pass(600);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 437, "whether or not somebody swept");
    assert_eq!((server.core.held(), server.core.relayed.len()), (0, 0));
    for (method, attributes) in [
        (Method::CREATE_PERMISSION, vec![peer("198.51.100.1:9")]),
        (Method::CHANNEL_BIND, vec![peer("198.51.100.1:9"), Attribute::ChannelNumber(0x4000)]),
        (Method::CONNECT, vec![peer("198.51.100.1:9")]),
    ] {
        assert_eq!(anna.code(&mut server, method, &attributes), 437);
    }
    let mut bert = Asker::new("bert", "192.0.2.2:1", Transport::Udp);
    bert.allocate(&mut server);
    assert_eq!(lifetime(&bert.says(&mut server, Method::REFRESH, &[END])), Some(0));
    assert_eq!(bert.code(&mut server, Method::REFRESH, &[END]), 437);
    bert.allocate(&mut server);
    server.pass(600);
    assert_eq!(server.core.sweep(server.now), None);
    assert_eq!((server.core.held(), server.core.sessions.len()), (0, 0));
}

#[test]
fn a_lost_answer_is_given_again() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    anna.code(&mut server, Method::REFRESH, &[]);
    let message = anna.request(Method::ALLOCATE, &[UDP]);
    let bytes = anna.sign(message);
    let Reaction::Reply(first) = server.ask(anna.client, &bytes) else { panic!() };
    let Reaction::Reply(again) = server.ask(anna.client, &bytes) else { panic!() };
    assert_eq!(first, again);
    assert_eq!(server.core.held(), 1);
}

#[test]
fn an_allocation_is_his_who_made_it() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    anna.allocate(&mut server);
    let mut thief = Asker::new("bert", "192.0.2.1:4000", Transport::Udp);
    assert_eq!(thief.code(&mut server, Method::REFRESH, &[END]), 441);
    assert_eq!(thief.code(&mut server, Method::CREATE_PERMISSION, &[peer("198.51.100.1:9")]), 441);
    assert_eq!(thief.code(&mut server, Method::ALLOCATE, &[UDP]), 437);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
}

#[test]
fn what_cannot_be_allocated() {
    let mut server = Server::new();
    let v6 = Attribute::RequestedAddressFamily(Family::V6);
    let also_v6 = Attribute::AdditionalAddressFamily(Family::V6);
    let even = |reserve| Attribute::EvenPort { reserve };
    for (attributes, code) in [
        (vec![], 400),
        (vec![Attribute::RequestedTransport(132)], 442),
        (vec![TCP], 400),
        (vec![UDP, v6.clone()], 440),
        (vec![UDP, v6.clone(), also_v6.clone()], 400),
        (vec![UDP, Attribute::AdditionalAddressFamily(Family::V4)], 400),
        (vec![UDP, even(true)], 508),
        (vec![UDP, even(false), also_v6.clone()], 400),
    ] {
        assert_eq!(Asker::anna().code(&mut server, Method::ALLOCATE, &attributes), code, "{attributes:?}");
    }
    assert_eq!(Asker::anna().code(&mut server, Method::new(0x0ff).unwrap(), &[]), 400);
    let mut anna = Asker::anna();
    let both = anna.says(&mut server, Method::ALLOCATE, &[UDP, also_v6.clone()]);
    assert_eq!(relayed(&both), Some(at("203.0.113.1:50001")));
    let lacks = |attribute: &Attribute| {
        matches!(attribute, Attribute::AddressErrorCode { family: Family::V6, code: 440, .. })
    };
    assert!(both.attributes.iter().any(lacks));
    assert_eq!(server.core.held(), 1);
    let mut bert = Asker::new("bert", "192.0.2.2:1", Transport::Udp);
    let answer = bert.says(&mut server, Method::ALLOCATE, &[UDP, even(false)]);
    assert_eq!(relayed(&answer), Some(at("203.0.113.1:50002")));
    server.ports.0 = u16::MAX;
    let mut carl = Asker::new("carl", "192.0.2.3:1", Transport::Udp);
    assert_eq!(carl.code(&mut server, Method::ALLOCATE, &[UDP]), 508);
    assert_eq!(carl.code(&mut server, Method::ALLOCATE, &[UDP, also_v6]), 508);
}

#[test]
fn nobody_gets_more_than_his_share() {
    let mut server = Server::new();
    let mut clients: Vec<_> =
        (1..7).map(|port| Asker::new("anna", &format!("192.0.2.1:{port}"), Transport::Udp)).collect();
    clients[..3].iter_mut().for_each(|anna| {
        anna.allocate(&mut server);
    });
    // A newer credential is no new share.
    let fourth = clients.remove(3).until("anna", 2_000_000);
    clients.insert(3, fourth);
    assert_eq!(clients[3].code(&mut server, Method::ALLOCATE, &[UDP]), 486);
    assert_eq!(clients[0].code(&mut server, Method::REFRESH, &[END]), 0);
    clients[3].allocate(&mut server);
    let mut others: Vec<_> =
        (1..4).map(|port| Asker::new("bert", &format!("192.0.2.2:{port}"), Transport::Udp)).collect();
    others[..2].iter_mut().for_each(|bert| {
        bert.allocate(&mut server);
    });
    assert_eq!(others[2].code(&mut server, Method::ALLOCATE, &[UDP]), 508, "the server is full");
    // A connection that ends gives all of it back.
    server.core.handle_gone(others[0].client, server.now);
    others[2].allocate(&mut server);
}

#[test]
fn only_the_internet_is_relayed_to() {
    let mut server = Server::new();
    let mut anna = Asker::new("anna", "192.0.2.1:1", Transport::Tcp);
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[TCP]), 0);
    let mut bert = Asker::new("bert", "192.0.2.2:1", Transport::Udp);
    bert.allocate(&mut server);
    let forbidden = [
        "127.0.0.1:22",
        "10.0.0.1:22",
        "192.168.1.1:80",
        "169.254.169.254:80",
        "224.0.0.1:5353",
        "198.51.100.99:22",
    ];
    for address in forbidden {
        let number = Attribute::ChannelNumber(0x4000);
        assert_eq!(bert.code(&mut server, Method::CREATE_PERMISSION, &[peer(address)]), 403, "{address}");
        assert_eq!(bert.code(&mut server, Method::CHANNEL_BIND, &[peer(address), number]), 403, "{address}");
        assert_eq!(anna.code(&mut server, Method::CONNECT, &[peer(address)]), 403, "{address}");
        assert!(!goes_out(&mut server, bert.client, address));
    }
    // One bad peer among good ones: none is let in.
    let mixed = [peer("198.51.100.1:9"), peer("10.0.0.1:9")];
    assert_eq!(bert.code(&mut server, Method::CREATE_PERMISSION, &mixed), 403);
    assert!(!goes_out(&mut server, bert.client, "198.51.100.1:9"));
    assert_eq!(server.core.counters.forbidden, 19);
}

#[test]
fn where_we_relay_from_only_relayed_addresses_are_reached() {
    let mut server = Server::new();
    let (mut anna, mut bert) = (Asker::anna(), Asker::new("bert", "192.0.2.2:1", Transport::Udp));
    let (one, other) = (anna.allocate(&mut server), bert.allocate(&mut server));
    let number = Attribute::ChannelNumber(0x4000);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(other)]), 0);
    assert!(goes_out(&mut server, anna.client, &other.to_string()));
    assert!(!goes_out(&mut server, anna.client, "203.0.113.1:22"));
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &[peer("203.0.113.1:22"), number.clone()]), 403);
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &[Attribute::XorPeerAddress(other), number]), 0);
    assert_eq!(server.core.handle_channel(anna.client, 0x4000, 3, server.now), Some((50_001, other)));
    assert_eq!(server.core.handle_peer(bert.client, one, 3, server.now), None, "bert has not let her in");
    assert_eq!(bert.code(&mut server, Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(one)]), 0);
    assert_eq!(server.core.handle_peer(bert.client, one, 3, server.now), Some(None));
    // The relayed address is gone, and somebody else has the port.
    assert_eq!(bert.code(&mut server, Method::REFRESH, &[END]), 0);
    assert_eq!(server.core.handle_channel(anna.client, 0x4000, 3, server.now), None);
}

#[test]
fn datagrams_go_where_and_while_they_are_permitted() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    anna.allocate(&mut server);
    let (near, far) = (at("198.51.100.1:9"), at("198.51.100.2:9"));
    assert_eq!(server.core.handle_peer(anna.client, near, 3, server.now), None);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[]), 400);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("[2001:db8::1]:9")]), 443);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("198.51.100.1:9")]), 0);
    assert_eq!(server.core.handle_peer(anna.client, near, 3, server.now), Some(None));
    assert!(goes_out(&mut server, anna.client, "198.51.100.1:10"), "whatever the port");
    assert!(!goes_out(&mut server, anna.client, "198.51.100.2:9"));
    let bind = |number, to: SocketAddr| [Attribute::ChannelNumber(number), Attribute::XorPeerAddress(to)];
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(0x4000, far)), 0);
    for (number, to) in
        [(0x4000, near), (0x4001, far), (0x3fff, near), (0x8000, near), (0x4002, at("198.51.100.1:0"))]
    {
        assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(number, to)), 400, "{number:x}");
    }
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(0x4000, far)[..1]), 400);
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(0x4000, at("[2001:db8::1]:9"))), 443);
    assert_eq!(server.core.handle_channel(anna.client, 0x4000, 3, server.now), Some((50_001, far)));
    assert_eq!(server.core.handle_channel(anna.client, 0x4001, 3, server.now), None);
    assert_eq!(server.core.handle_peer(anna.client, far, 3, server.now), Some(Some(0x4000)));
    let stranger = Client { remote: at("192.0.2.9:9"), ..anna.client };
    assert_eq!(server.core.handle_channel(stranger, 0x4000, 3, server.now), None);
    server.pass(PERMISSION.as_secs());
    assert!(!goes_out(&mut server, anna.client, "198.51.100.1:9"));
    assert_eq!(server.core.handle_channel(anna.client, 0x4000, 3, server.now), None, "permissions end first");
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[Attribute::Lifetime(3_600)]), 0);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("198.51.100.2:9")]), 0);
    assert_eq!(server.core.handle_channel(anna.client, 0x4000, 3, server.now), Some((50_001, far)));
    server.pass((CHANNEL - PERMISSION).as_secs() - 1);
    assert_eq!(server.core.handle_peer(anna.client, far, 3, server.now), Some(Some(0x4000)));
    server.pass(2);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("198.51.100.2:9")]), 0);
    assert_eq!(server.core.handle_peer(anna.client, far, 3, server.now), Some(None), "the channel is over");
}

#[test]
fn whoever_sends_too_much_loses_what_is_too_much() {
    let mut server = Server::new();
    let mut anna = Asker::anna();
    anna.allocate(&mut server);
    anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("198.51.100.1:9")]);
    let near = at("198.51.100.1:9");
    let mut passed = 0;
    for _ in 0..100 {
        passed += usize::from(server.core.handle_peer(anna.client, near, 1_000, server.now).is_some());
    }
    assert_eq!(passed, 10, "a second's worth at once");
    assert_eq!(server.core.counters.throttled, 90);
    server.pass(1);
    assert!(server.core.handle_peer(anna.client, near, 1_000, server.now).is_some());
}

/// DONT-FRAGMENT, which is not done here: the only attribute of TURN that this wire does not know.
#[test]
fn an_attribute_that_is_not_understood_is_named() {
    let mut server = Server::new();
    let mut anna = Asker { sha256: true, ..Asker::anna() };
    anna.code(&mut server, Method::REFRESH, &[]);
    let message = anna.request(Method::ALLOCATE, &[Attribute::Padding(0), UDP]);
    let mut bytes = anna.sign(message);
    // PADDING comes first and is empty; it becomes the other, and the signature is made anew.
    bytes[20..22].copy_from_slice(&0x001a_u16.to_be_bytes());
    let end = bytes.len() - 8;
    let signed = end - 36;
    let length = ((end - 20) as u16).to_be_bytes();
    bytes.truncate(signed + 4);
    bytes[2..4].copy_from_slice(&length);
    let text = format!("{}:realm:{}", anna.username, anna.password);
    let mut mac = Hmac::<Sha256>::new_from_slice(&Sha256::digest(text)).unwrap();
    mac.update(&bytes[..signed]);
    bytes.extend_from_slice(&mac.finalize().into_bytes());
    let Reaction::Reply(bytes) = server.ask(anna.client, &bytes) else { panic!() };
    let answer = Parsed::decode(&bytes, Transport::Udp).unwrap();
    assert!(answer.verify(&anna.key()).is_ok());
    assert_eq!(answer.message.error_code().map(|(code, _)| code), Some(420));
    assert!(answer.message.attributes.contains(&Attribute::UnknownAttributes(vec![0x001a])));
    assert_eq!(server.core.held(), 0);
}

fn anything() -> impl Strategy<Value = Attribute> {
    let near = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    prop_oneof![
        any::<u8>().prop_map(Attribute::RequestedTransport),
        Just(UDP),
        Just(TCP),
        any::<u32>().prop_map(Attribute::Lifetime),
        Just(END),
        near.prop_map(Attribute::XorPeerAddress),
        any::<u16>().prop_map(Attribute::ChannelNumber),
        (0x4000u16..0x4004).prop_map(Attribute::ChannelNumber),
        any::<u32>().prop_map(Attribute::ConnectionId),
        Just(Attribute::RequestedAddressFamily(Family::V4)),
        Just(Attribute::AdditionalAddressFamily(Family::V6)),
        Just(Attribute::PasswordAlgorithms(vec![])),
        any::<bool>().prop_map(|reserve| Attribute::EvenPort { reserve }),
    ]
}

proptest! {
    /// Whatever a user asks for in whatever order, and however damaged it arrives, the books are right.
    #[test]
    fn no_request_breaks_the_tables(
        requests in prop::collection::vec(
            (0u16..16, prop::collection::vec(anything(), 0..6), 0u16..6, 0u64..400, any::<Option<(u16, u8)>>()),
            0..40,
        )
    ) {
        let mut server = Server::new();
        for (number, attributes, from, pause, damage) in requests {
            server.pass(pause);
            let transport = if from % 2 == 0 { Transport::Udp } else { Transport::Tcp };
            let mut asker = Asker::new(["anna", "bert"][usize::from(from / 3)], &format!("192.0.2.1:{}", 1 + from), transport);
            asker.nonce = Nonces::new([1; 32], Duration::ZERO).make(asker.client.remote, BEGIN);
            let message = asker.request(Method::new(number).unwrap(), &attributes);
            let mut bytes = asker.sign(message);
            if let Some((place, bits)) = damage {
                let place = usize::from(place) % bytes.len();
                bytes[place] ^= bits;
            }
            if let Ok(parsed) = Parsed::decode(&bytes, transport) {
                let at = At { now: server.now, unix: BEGIN };
                let reaction = server.core.handle_request(asker.client, &parsed, at, &mut server.ports);
                if let Reaction::Dial { id, .. } = reaction {
                    server.core.handle_dialled(id, Some("peer"), server.now);
                }
            }
            let _ = server.core.handle_channel(asker.client, 0x4000 + from, 10, server.now);
            let held: usize = server.core.sessions.values().map(|session| session.allocations.len()).sum();
            prop_assert_eq!(server.core.held(), held);
            prop_assert_eq!(server.core.relayed.len(), held);
            prop_assert!(held <= 5);
            let waiting: usize = server.core.sessions.values()
                .flat_map(|session| &session.allocations)
                .map(|allocation| allocation.connections.len())
                .sum();
            prop_assert_eq!(server.core.owners.len(), waiting);
        }
        server.pass(4_000);
        prop_assert_eq!(server.core.sweep(server.now), None);
        prop_assert_eq!((server.core.held(), server.core.relayed.len(), server.core.owners.len()), (0, 0, 0));
    }
}
